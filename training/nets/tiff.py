"""TIFF of the kinds that Pillow reads wrongly or not at all: planes apart, deep samples, undeclared ones.

Pillow and libtiff undo the compression of any of them, as of a grey image of eight bits that has the bytes of
a row as its pixels; what the bytes mean is found out here. After TIFF 6.0; predictor 3 after Adobe Photoshop
TIFF Technical Note 3.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2

from training.nets import grey

# Tags.
SUBFILE, OLD_SUBFILE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = (
    254, 255, 256, 257, 258, 259, 262, 266,
)  # fmt: skip
STRIPS, ORIENTATION, SAMPLES, ROWS, COUNTS, PLANES, PREDICTOR = 273, 274, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_LENGTH, TILES, TILE_COUNTS, EXTRA, FORMAT, WHITE, PROFILE = (
    322, 323, 324, 325, 338, 339, 341, 34675,
)  # fmt: skip

# Those that keep every bit of a sample where it is, but for what is predicted from its neighbour.
PLAIN = {1, 5, 8, 32773, 32946, 34925, 50000}
PREDICTED = {5, 8, 32946, 34925, 50000}
COMPRESSIONS = PLAIN | {2, 3, 4, 6, 7, 32771, 32809, 34676, 34677, 50001}
BANDS = {0: 1, 1: 1, 2: 3, 5: 4}  # of a pixel, without what is extra, by photometric interpretation
KNOWN = {*BANDS, 3, 6, 8}
CAMERA = (32803, 34892)
ALPHA = ((1,), (2,))  # what is extra: colours are multiplied by it already, or not
FORMATS = {1: "u", 2: "i", 3: "f"}
BIG = (b"+\0", b"\0+")  # of more than 4 GiB
MOST_PAGES = 16  # among which the main one is looked for
MOST_BANDS = 8
MOST_BYTES = 200_000_000  # of samples, of one plane where they are apart
AT_ONCE = 1 << 20  # bytes that are unpacked into bits


@dataclass(frozen=True)
class Page:
    """The tags of the first page that is not flagged as a smaller version of another."""

    tags: ImageFileDirectory_v2
    offset: int  # of its directory; 0: it is the file's first page anyway
    little: bool

    @classmethod
    def of(cls, stream: BinaryIO) -> Self | None:
        """None for what is no TIFF, or damaged; the stream is left anywhere."""
        try:
            pages = list(_pages(stream))
        except Exception:  # a damaged directory can raise anything
            pages = []
        main = next((at for at, (_, tags) in enumerate(pages) if not _is_smaller(tags)), 0)
        if not pages or not {WIDTH, LENGTH} <= pages[main][1].keys():
            return None
        offset, tags = pages[main]
        return cls(tags, offset if main else 0, tags.prefix == b"II")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Of the image and of its tiles, which are decoded whole."""
        tile = self.tags.get(TILE_WIDTH, 0), self.tags.get(TILE_LENGTH, 0)
        return [(int(width), int(height)) for width, height in (self._size, tile)]

    @property
    def is_pillows(self) -> bool:
        """Whether Pillow reads it right, or this module does not know it either."""
        photometric, bits = self._photometric, self._bits
        if photometric not in BANDS or self._compression not in PLAIN:
            return True
        if self.tags.get(PLANES, 1) == 2 or (photometric != 1 and self._format != "u"):
            return False
        straight = self._bands == BANDS[photometric] and not self._extra
        if bits > 8:  # of deep colours Pillow takes the upper bytes
            return straight and bits == 16 and photometric in (2, 5) and WHITE not in self.tags
        return straight or (photometric == 2 and bits == 8 and self._extra in ALPHA)

    @property
    def unknown(self) -> str:
        """What is to be said of a kind that neither Pillow nor this module knows; of others nothing."""
        photometric, compression = self._photometric, self._compression
        if photometric in CAMERA:
            named = "the raw data of a camera's sensor"
        elif compression not in COMPRESSIONS:
            named = f"compression {compression}"
        elif photometric not in KNOWN or (photometric in BANDS and not self._is_known):
            named = (
                f"{self._bands} × {self._bits} bits a pixel (photometric interpretation {photometric}, "
                f"sample format {self.tags.get(FORMAT, (1,))[0]})"
            )
        else:
            return ""
        return f"TIFF with {named} is not read; save the picture as PNG or as plain TIFF"

    def alone(self, content: bytes) -> bytes:
        """The file with this page as its first."""
        if not self.offset:
            return content
        order, big = "<" if self.little else ">", content[2:4] in BIG
        pointer = struct.pack(order + "Q", self.offset) if big else struct.pack(order + "I", self.offset)
        at = 8 if big else 4
        return content[:at] + pointer + content[at + len(pointer) :]

    def image(self, content: bytes, grey_bits: int) -> Image.Image:
        """Upright, of mode L, LA, RGB, RGBA or CMYK; `grey_bits` is the depth of 16-bit grey where the file
        says nothing. Raises MemoryError, and whatever Pillow raises."""
        shown = self._eight_bits(self._samples(content), grey_bits)
        if self._photometric == 0:
            shown[..., 0] = 255 - shown[..., 0]
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[BANDS[self._photometric]]
        if self._has_alpha:
            mode += "a" if self._extra[:1] == (1,) else "A"
        image = Image.frombytes(mode, self._size, shown.tobytes())
        if mode.endswith("a"):
            image = image.convert(mode[:-1] + "A")
        if PROFILE in self.tags:
            image.info["icc_profile"] = self.tags[PROFILE]
        image.getexif()[ORIENTATION] = self.tags.get(ORIENTATION, 1)
        return ImageOps.exif_transpose(image)

    # --- what the tags say ---

    @property
    def _size(self) -> tuple[int, int]:
        return int(self.tags[WIDTH]), int(self.tags[LENGTH])

    @property
    def _bits(self) -> int:
        return int(max(self.tags.get(BITS, (1,))))

    @property
    def _format(self) -> str:
        return FORMATS.get(self.tags.get(FORMAT, (1,))[0], "")

    @property
    def _compression(self) -> int:
        return int(self.tags.get(COMPRESSION, 1))

    @property
    def _photometric(self) -> int:
        return int(self.tags.get(PHOTOMETRIC, 0))

    @property
    def _bands(self) -> int:
        return int(self.tags.get(SAMPLES, 1))

    @property
    def _planes_apart(self) -> bool:
        return self.tags.get(PLANES, 1) == 2 and self._bands > 1

    @property
    def _extra(self) -> tuple[int, ...]:
        return tuple(self.tags.get(EXTRA, ()))

    @property
    def _has_alpha(self) -> bool:
        """A sample that nobody declares to be one is none."""
        return self._photometric != 5 and self._extra[:1] in ALPHA

    @property
    def _is_known(self) -> bool:
        """Whether the samples have a shape that `_numbers` takes."""
        allowed = {"u": range(1, 33), "i": (8, 16, 32), "f": (16, 32, 64)}.get(self._format, ())
        same = len(set(self.tags.get(BITS, (1,)))) == 1
        return same and self._bits in allowed and BANDS[self._photometric] <= self._bands <= MOST_BANDS

    @property
    def _white(self) -> float:
        """What is white, 0 where nothing is said."""
        stated = self.tags.get(WHITE, 0)
        return float(max(stated) if isinstance(stated, tuple) else stated)

    # --- its samples ---

    def _samples(self, content: bytes) -> NDArray[Any]:
        """(H, W, colours and alpha): of planes that are apart only those that are shown are read."""
        wanted = BANDS[self._photometric] + self._has_alpha
        if not self._planes_apart:
            return self._numbers(self._bytes(content, 0, self._bands), self._bands)[..., :wanted]
        planes = [self._numbers(self._bytes(content, plane, 1), 1) for plane in range(wanted)]
        return np.concatenate(planes, axis=2)

    def _bytes(self, content: bytes, plane: int, bands: int) -> NDArray[np.uint8]:
        """(H, bytes of a row), uncompressed, through a grey image in the same file. Tiles are whole."""
        width, height = self._size
        row = -(-width * bands * self._bits // 8)
        grey8 = {BITS: 8, PHOTOMETRIC: 1, SAMPLES: 1, LENGTH: height}
        grey8 |= {tag: self.tags[tag] for tag in (COMPRESSION, FILL_ORDER, ROWS) if tag in self.tags}
        if TILES in self.tags:
            tile = -(-self._tile * bands * self._bits // 8)
            grey8 |= {TILE_WIDTH: tile, TILE_LENGTH: self.tags[TILE_LENGTH]}
            row = -(-width // self._tile) * tile
        for tag in {STRIPS, COUNTS, TILES, TILE_COUNTS} & self.tags.keys():
            each = len(self.tags[tag]) // (self._bands if self._planes_apart else 1)
            grey8[tag] = self.tags[tag][plane * each : (plane + 1) * each]
        if row * height > MOST_BYTES:
            raise MemoryError
        end = len(content)
        file = b"II*\0" + struct.pack("<I", end) + content[8:] + _directory(grey8 | {WIDTH: row}, end)
        with Image.open(BytesIO(file), formats=["TIFF"]) as image:
            return np.array(image)

    def _numbers(self, rows: NDArray[np.uint8], bands: int) -> NDArray[Any]:
        """Rows of bytes -> (H, W, bands), in the machine's byte order."""
        predictor = self.tags.get(PREDICTOR, 1) if self._compression in PREDICTED else 1
        size, order = self._bits // 8, "<" if self.little else ">"
        pieces = rows.reshape(-1, -(-self._tile * bands * self._bits // 8))  # rows, each of one tile or strip
        if self._bits % 8:
            values: NDArray[Any] = _unpacked(pieces, self._bits)[:, : self._tile * bands]
        else:
            if predictor == 3:
                pieces, order = _floats_in_order(pieces, size, bands), ">"
            if size == 3:
                pieces, size = _of_four_bytes(pieces, little=self.little), 4
            values = pieces.view(f"{order}{self._format}{size}")
            values = values.astype(values.dtype.newbyteorder("="))
        if predictor == 2:
            by_band = values.reshape(len(values), -1, bands)
            np.cumsum(by_band, axis=1, dtype=by_band.dtype, out=by_band)
        return values.reshape(len(rows), -1, bands)[:, : self._size[0]]

    @property
    def _tile(self) -> int:
        """Pixels of a row that lie together."""
        return int(self.tags[TILE_WIDTH]) if TILES in self.tags else self._size[0]

    def _eight_bits(self, values: NDArray[Any], grey_bits: int) -> NDArray[np.uint8]:
        if self._format == "f":
            return grey.fractions(values, self._white)
        if self._format == "i":  # from the least that it holds to the most
            return grey.scaled(values.astype(np.int64) + (1 << (self._bits - 1)), self._bits)
        depth = int(self._white).bit_length()
        if not depth and self._photometric < 2 and self._bits in (16, 32):
            depth = min(grey_bits, self._bits)
        return grey.scaled(values, depth or self._bits)


def _pages(stream: BinaryIO) -> Iterator[tuple[int, ImageFileDirectory_v2]]:
    """Offset and tags of each page."""
    stream.seek(0)
    header = stream.read(8)
    if not header.startswith(tuple(PREFIXES)):
        return
    if header[2:4] in BIG:
        header += stream.read(8)
    following, seen = ImageFileDirectory_v2(header).next, set[int]()
    while following and following not in seen and len(seen) < MOST_PAGES:
        seen.add(following)
        tags = ImageFileDirectory_v2(header)
        stream.seek(following)
        tags.load(stream)
        yield following, tags
        following = tags.next


def _is_smaller(tags: ImageFileDirectory_v2) -> bool:
    """Whether the page is flagged as a smaller version of another."""
    return bool(tags.get(SUBFILE, 0) & 1) or tags.get(OLD_SUBFILE) == 2


def _directory(tags: Mapping[int, int | Sequence[int]], at: int) -> bytes:
    """Little-endian, of numbers of four bytes, to lie at this place in a file."""
    entries, behind = b"", b""
    for tag, value in sorted(tags.items()):
        numbers = (value,) if isinstance(value, int) else value
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(packed) > 4:
            packed, behind = struct.pack("<I", at + 6 + 12 * len(tags) + len(behind)), behind + packed
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    return struct.pack("<H", len(tags)) + entries + bytes(4) + behind


def _unpacked(rows: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Rows of packed numbers, the upper bits first: (n, bytes) -> (n, bytes · 8 // bits)."""
    count = rows.shape[1] * 8 // bits
    values = np.zeros((len(rows), count), np.uint32)
    step = max(1, AT_ONCE // max(rows.shape[1], 1))  # a byte for each bit is much
    for start in range(0, len(rows), step):
        part = values[start : start + step]
        every = np.unpackbits(rows[start : start + step], axis=1)[:, : count * bits]
        for bit in every.reshape(len(part), count, bits).transpose(2, 0, 1):
            part <<= 1
            part |= bit
    return values


def _floats_in_order(rows: NDArray[np.uint8], size: int, bands: int) -> NDArray[np.uint8]:
    """Undo predictor 3: differences of bytes, of which all upper ones come first, then the next."""
    summed = np.cumsum(rows.reshape(len(rows), -1, bands), axis=1, dtype=np.uint8)
    apart = summed.reshape(len(rows), size, -1)
    return np.ascontiguousarray(apart.transpose(0, 2, 1)).reshape(len(rows), -1)


def _of_four_bytes(rows: NDArray[np.uint8], *, little: bool) -> NDArray[np.uint8]:
    """Numbers of three bytes with one more, of no value."""
    wide = np.zeros((len(rows), rows.shape[1] // 3, 4), np.uint8)
    at = 0 if little else 1
    wide[..., at : at + 3] = rows.reshape(len(rows), -1, 3)
    return wide.reshape(len(rows), -1)
