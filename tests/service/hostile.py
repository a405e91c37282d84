"""Images that people have by accident and attackers on purpose, and what the service says to each.

All are made here, most in milliseconds. `KIT` names for each the status of a search with it; adding it to the
index is answered alike, with 201 in place of 200.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any
from zipfile import ZipFile

import numpy as np
from PIL import Image, ImageCms

from training.nets.images import HEIF

LIMIT = 50_000_000  # pixels, the default
# Where it is read, it is found to be broken.
BROKEN_HEIC = (422, "damaged") if HEIF else (415, "HEIC is not")
BEYOND = 7072  # a square of this side has a few more


@dataclass(frozen=True)
class Hostile:
    """A file, the status of the answer, words of its refusal, and the file of KIT that has the same code."""

    status: int
    make: Callable[[], bytes]
    says: str = ""
    same_as: str | None = None


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def noise(width: int = 40, height: int = 24, channels: int = 3) -> Image.Image:
    values = np.random.default_rng([width, height]).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(values.squeeze())


def blocks(width: int = 48, height: int = 32) -> Image.Image:
    """Squares of 8 × 8 pixels of one colour each: JPEG turns and mirrors them without a rounding error."""
    return noise(width // 8, height // 8).resize((width, height), Image.Resampling.NEAREST)


# --- containers ------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes, *, crc: int | None = None) -> bytes:
    """Of a PNG; with a checksum of its own, or another."""
    checksum = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width: int, height: int, pixels: bytes = b"", *extra: bytes, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG of these rows, each with its filter byte; `extra` are chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(pixels, 9)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def black_png(width: int, height: int) -> bytes:
    """Of one bit a pixel: some kilobytes, whatever its size."""
    return png(width, height, bytes((1 + (width + 7) // 8) * height), bits=1, colour=0)


def with_chunks(*extra: bytes) -> bytes:
    """A good PNG with more chunks after its header."""
    good = saved(noise())
    return good[:33] + b"".join(extra) + good[33:]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp_canvas(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff((b"VP8X", bytes(4) + sizes), (b"VP8L", lossless_header(16, 16) + bytes(40)))


def lossless_header(width: int, height: int) -> bytes:
    return b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14)


def gif(screen: tuple[int, int], at: tuple[int, int], frame: tuple[int, int]) -> bytes:
    """A GIF of two colours whose frame lies somewhere; its pixels break off."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"," + struct.pack("<HHHHB", *at, *frame, 0) + b"\x02\x02\x4c\x01\0;"


Entry = tuple[int, int, int, int]  # tag, type, count, value or where it lies
SHORT, LONG = 3, 4


def tiff(*entries: Entry, following: int = 0, data: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory, at 8; `data` lies behind it, where `data_at` says."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", following) + data


def data_at(entries: int) -> int:
    return 8 + 2 + 12 * entries + 4


def grey_tiff(
    width: int, height: int, *more: Entry, following: int = 0, data: bytes = b"", extra: bytes = b""
) -> bytes:
    """Eight bits a pixel in one strip, then `extra`; `more` entries have higher tags."""
    at = data_at(8 + len(more))
    entries: list[Entry] = [
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, 1, 8),
        (259, SHORT, 1, 1),
        (262, SHORT, 1, 1),
        (273, LONG, 1, at),
        (278, LONG, 1, height),
        (279, LONG, 1, len(data)),
    ]
    return tiff(*entries, *more, following=following, data=data + extra)


def box(kind: bytes, data: bytes) -> bytes:
    """Of the format that HEIC, AVIF and MP4 share."""
    return struct.pack(">I", 8 + len(data)) + kind + data


def heic(major: bytes) -> bytes:
    return box(b"ftyp", major + bytes(4) + b"mif1heic") + box(b"meta", bytes(400)) + box(b"mdat", bytes(400))


def jpeg_size(width: int, height: int) -> bytes:
    """A JPEG that says another size than it has."""
    good = bytearray(saved(noise(), "JPEG"))
    frame = good.index(b"\xff\xc0")
    good[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(good)


def jpeg_of_scans(side: int, scans: int, *, comments: int = 0) -> bytes:
    """A grey JPEG in so many scans: each but the first looks at all coefficients again and changes none, and
    takes some bytes. Beforehand come empty comments, of four bytes each, which take their time as well."""

    def segment(kind: int, data: bytes = b"") -> bytes:
        return bytes([0xFF, kind]) + struct.pack(">H", 2 + len(data)) + data

    codes = [
        segment(0xC4, table + b"\1" + bytes(15) + symbol)
        for table, symbol in ((b"\0", b"\0"), (b"\x10", b"\xe0"))
    ]
    quantisation = segment(0xDB, b"\0" + b"\1" * 64)
    frame = segment(0xC2, struct.pack(">BHHB3B", 8, side, side, 1, 1, 0x11, 0))
    # 15 bits that are zero: nothing comes in the next 2^14 blocks.
    nothing = bytes(2 * (-(-side // 8)) ** 2 // 2**14 + 2)
    first, more = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])), segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10]))
    head = segment(0xFE) * comments + quantisation + frame + b"".join(codes)
    return b"\xff\xd8" + head + first + (more + nothing) * (scans - 1) + b"\xff\xd9"


# --- families --------------------------------------------------------------------------------------

# Where the file is cut off, of 1: nowhere does what is left make an image.
CUTS = (0.1, 0.3, 0.5, 0.7, 0.9)
CUT_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "TGA", "PCX")


def cut(format: str, share: float) -> bytes:
    whole = saved(noise(64, 48), format)
    return whole[: int(len(whole) * share)]


def truncated() -> Iterator[tuple[str, Hostile]]:
    for format in CUT_FORMATS:
        for share in CUTS:
            yield f"{format} cut at {share:.0%}", Hostile(422, partial(cut, format, share))


ORIENTATION = 0x0112
# What to do to an upright image so that EXIF orientation n shows it upright again.
UNDONE_BY = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(format: str, orientation: int, **options: Any) -> bytes:
    image, how = blocks(), UNDONE_BY[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(image if how is None else image.transpose(how), format, exif=exif, **options)


EXACT = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 100, "subsampling": 0},
}


def oriented() -> Iterator[tuple[str, Hostile]]:
    for format, options in EXACT.items():
        upright = f"{format} upright"
        yield upright, Hostile(200, partial(saved, blocks(), format, **options))
        for orientation in UNDONE_BY:
            make = partial(turned, format, orientation, **options)
            yield f"{format} orientation {orientation}", Hostile(200, make, same_as=upright)


def animated(format: str, **options: Any) -> bytes:
    frames = [noise(40, 24), noise(24, 40).resize((40, 24)), Image.new("RGB", (40, 24))]
    return saved(frames[0], format, save_all=True, append_images=frames[1:], duration=10, **options)


def wide(mode: str) -> Image.Image:
    values = np.linspace(0, 1, 40 * 24, dtype=np.float32).reshape(24, 40)
    return Image.fromarray(values if mode == "F" else (values * 65535).astype(np.uint16))


def palette_with_transparency() -> bytes:
    image = noise().convert("P", palette=Image.Palette.ADAPTIVE)
    return saved(image, transparency=bytes(range(256)))


def zip_of(name: str, content: bytes) -> bytes:
    out = BytesIO()
    with ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def damaged(at: int, *, of: bytes | None = None) -> bytes:
    good = bytearray(saved(noise()) if of is None else of)
    good[at] ^= 0xFF
    return bytes(good)


def compressed_text(kind: bytes) -> bytes:
    """40 MB of blanks in some kilobytes."""
    text = zlib.compress(b" " * 40_000_000, 9)
    head = {b"zTXt": b"Comment\0\0", b"iTXt": b"Comment\0\1\0\0\0", b"iCCP": b"profile\0\0"}[kind]
    return with_chunks(chunk(kind, head + text))


def many_texts() -> bytes:
    """Each below Pillow's limit, 100 MB together."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b" " * 1_000_000, 9))
    return with_chunks(text * 100)


def own_profile() -> bytes:
    return saved(noise(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def loop_in_exif() -> bytes:
    """EXIF whose directories point at themselves."""
    pointers: list[Entry] = [(34665, LONG, 1, 8), (34853, LONG, 1, 8)]
    return saved(noise(), "JPEG", exif=b"Exif\0\0" + tiff(*pointers, following=8))


def many_frames() -> bytes:
    """2,000 frames of which the first is wanted."""
    still = saved(noise().convert("P"), "GIF")
    frame = still[still.index(b",", 781) : -1]
    return still[:-1] + frame * 2_000 + b";"


GREY = bytes(range(256)) * 4  # 32 × 32
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def interlaced() -> bytes:
    """The seven passes of a PNG that appears gradually."""
    values = np.asarray(noise())
    rows = [row for x, y, dx, dy in ADAM7 for row in values[y::dy, x::dx]]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 8, 2, 0, 0, 1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def samples_tiff(width: int, height: int, bits: int, bands: int) -> bytes:
    """Of zeros, compressed in one strip."""
    data = zlib.compress(bytes(-(-width * bits * bands // 8) * height), 9)
    entries: list[Entry] = [
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, 1, bits),
        (259, SHORT, 1, 8),
        (262, SHORT, 1, 2 if bands >= 3 else 1),
        (273, LONG, 1, data_at(9)),
        (277, SHORT, 1, bands),
        (278, LONG, 1, height),
        (279, LONG, 1, len(data)),
    ]
    return tiff(*entries, data=data)


def deep_tiff() -> bytes:
    """Within the limit of pixels, but each is 32 bytes, 256 MB together."""
    return samples_tiff(4_000, 2_000, 32, 8)


def packed_column() -> bytes:
    """A million rows of one number of 12 bits."""
    return samples_tiff(1, 1_000_000, 12, 1)


def odd_compression() -> bytes:
    entry = struct.pack("<HHII", 259, SHORT, 1, 1)
    return grey_tiff(32, 32, data=GREY).replace(entry, struct.pack("<HHII", 259, SHORT, 1, 60_000))


KIT: dict[str, Hostile] = {
    # shapes
    "1 × 1": Hostile(200, lambda: saved(noise(1, 1))),
    "1 × 20,000": Hostile(200, lambda: saved(noise(1, 20_000))),
    "20,000 × 1": Hostile(200, lambda: saved(noise(20_000, 1))),
    "0 × 0 PNG": Hostile(422, lambda: png(0, 0)),
    "0 × 5 GIF": Hostile(422, lambda: gif((0, 5), (0, 0), (0, 5))),
    "0 × 5 JPEG": Hostile(422, lambda: jpeg_size(0, 5)),
    # more pixels than the limit, said in the header
    "gigapixel PNG": Hostile(422, lambda: png(60_000, 60_000), "50,000,000"),
    "largest PNG": Hostile(422, lambda: png(2**31 - 1, 2**31 - 1), "50,000,000"),
    "PNG of one long row": Hostile(422, lambda: png(2**31 - 1, 1), "50,000,000"),
    "gigapixel GIF": Hostile(422, lambda: gif((65_535, 65_535), (0, 0), (1, 1)), "50,000,000"),
    "gigapixel GIF frame": Hostile(422, lambda: gif((8, 8), (0, 0), (65_535, 65_535)), "50,000,000"),
    "gigapixel TIFF": Hostile(422, lambda: grey_tiff(60_000, 60_000), "50,000,000"),
    "largest TIFF": Hostile(422, lambda: grey_tiff(2**32 - 1, 2**32 - 1)),
    "gigapixel WebP": Hostile(422, lambda: webp_canvas(2**14, 2**14)),
    "largest WebP": Hostile(422, lambda: webp_canvas(2**24, 2**8)),
    "gigapixel lossless WebP": Hostile(
        422, lambda: riff((b"VP8L", lossless_header(2**14, 2**14) + bytes(40)))
    ),
    "gigapixel JPEG": Hostile(422, lambda: jpeg_size(65_500, 65_500), "50,000,000"),
    "gigapixel BMP": Hostile(
        422,
        lambda: b"BM" + struct.pack("<IIIIiiHH", 99, 0, 54, 40, 60_000, 60_000, 1, 24) + bytes(99),
        "50,000,000",
    ),
    "gigapixel PPM": Hostile(422, lambda: b"P6 60000 60000 255\n" + bytes(99), "50,000,000"),
    "PPM of 10^18 pixels": Hostile(422, lambda: b"P6 1000000000 1000000000 255\n" + bytes(99)),
    "gigapixel PCX": Hostile(
        422,
        lambda: b"\x0a\x05\x01\x08" + struct.pack("<4H53xBH60x", 0, 0, 65_534, 65_534, 3, 65_535) + bytes(99),
        "50,000,000",
    ),
    "gigapixel TGA": Hostile(
        422, lambda: bytes([0, 0, 2, *bytes(9)]) + struct.pack("<HHBB", 60_000, 60_000, 24, 0) + bytes(99)
    ),
    "gigapixel QOI": Hostile(
        422, lambda: b"qoif" + struct.pack(">IIBB", 60_000, 60_000, 3, 0) + bytes(99), "50,000,000"
    ),
    # a few more pixels than the limit, in small files that are whole
    "PNG just beyond": Hostile(422, lambda: black_png(BEYOND, BEYOND), "50,000,000"),
    "PNG strip just beyond": Hostile(422, lambda: black_png(1, LIMIT + 1), "50,000,000"),
    "GIF just beyond": Hostile(422, lambda: saved(Image.new("1", (BEYOND, BEYOND)), "GIF"), "50,000,000"),
    "TIFF just beyond": Hostile(
        422,
        lambda: saved(Image.new("1", (BEYOND, BEYOND)), "TIFF", compression="group4"),
        "50,000,000",
    ),
    "WebP just beyond": Hostile(
        422,
        lambda: saved(Image.new("RGB", (16_000, 3_126)), "WEBP", lossless=True, method=0, quality=0),
        "50,000,000",
    ),
    # and one that is within it: large, but good
    "PNG just within": Hostile(200, lambda: black_png(BEYOND - 1, BEYOND - 1)),
    # no image, or none that is read
    "zero bytes": Hostile(422, lambda: b"", "empty"),
    "one byte": Hostile(415, lambda: b"\x89", "not an image"),
    "10,000 NULs": Hostile(415, lambda: bytes(10_000), "not an image"),
    "text": Hostile(415, lambda: b"hello, world\n" * 99, "not an image"),
    "HTML": Hostile(415, lambda: b"<!doctype html><img src=x onerror=alert(1)>", "not an image"),
    "ZIP": Hostile(415, lambda: zip_of("cat.png", saved(noise())), "not an image"),
    "SVG": Hostile(
        415, lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "SVG is not"
    ),
    "SVG in XML": Hostile(
        415, lambda: b"<?xml version='1.0'?>\n<!-- x -->\n<svg width='9' height='9'/>", "SVG is not"
    ),
    "EPS": Hostile(415, lambda: EPS, "PostScript is not"),
    "EPS with a preview": Hostile(
        415,
        lambda: struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(EPS), 0, 0, 0, 0, 0xFFFF) + EPS,
        "PostScript is not",
    ),
    "PDF": Hostile(415, lambda: saved(noise(), "PDF"), "PDF is not"),
    "HEIC": Hostile(BROKEN_HEIC[0], lambda: heic(b"heic"), BROKEN_HEIC[1]),
    "HEIC that says mif1": Hostile(BROKEN_HEIC[0], lambda: heic(b"mif1"), BROKEN_HEIC[1]),
    "JPEG XL": Hostile(415, lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "JPEG XL is not"),
    "ICO": Hostile(
        415,
        lambda: saved(noise(256, 256), "ICO", sizes=[(s, s) for s in (16, 24, 32, 48, 64, 256)]),
        "ICO is not",
    ),
    "MP4": Hostile(415, lambda: box(b"ftyp", b"isom" + bytes(4) + b"isommp42") + bytes(99), "not an image"),
    # every kind of pixel
    "AVIF": Hostile(200, lambda: saved(noise(), "AVIF")),
    "CMYK JPEG": Hostile(200, lambda: saved(noise().convert("CMYK"), "JPEG")),
    "CMYK TIFF": Hostile(200, lambda: saved(noise().convert("CMYK"), "TIFF")),
    "Lab TIFF": Hostile(200, lambda: saved(noise().convert("LAB"), "TIFF")),
    "progressive JPEG": Hostile(200, lambda: saved(noise(), "JPEG", progressive=True)),
    "grey PNG of 16 bits": Hostile(200, lambda: saved(wide("I;16"))),
    "TIFF of 32-bit floats": Hostile(200, lambda: saved(wide("F"), "TIFF")),
    "palette with transparency": Hostile(200, palette_with_transparency),
    "one bit": Hostile(200, lambda: saved(noise().convert("1"))),
    "grey with alpha": Hostile(200, lambda: saved(noise().convert("LA"))),
    "interlaced PNG": Hostile(200, interlaced, same_as="PNG, still"),
    "wrong extension": Hostile(200, lambda: saved(noise(), "GIF")),  # every file is sent as x.png
    # of many images the first
    "GIF, still": Hostile(200, lambda: saved(noise(), "GIF")),
    "GIF, animated": Hostile(200, lambda: animated("GIF"), same_as="GIF, still"),
    "GIF of 2,000 frames": Hostile(200, many_frames),
    "WebP, still": Hostile(200, lambda: saved(noise(), "WEBP", lossless=True)),
    "WebP, animated": Hostile(200, lambda: animated("WEBP", lossless=True), same_as="WebP, still"),
    "PNG, still": Hostile(200, lambda: saved(noise())),
    "PNG, animated": Hostile(200, lambda: animated("PNG"), same_as="PNG, still"),
    "TIFF, one page": Hostile(200, lambda: saved(noise(), "TIFF")),
    "TIFF of three pages": Hostile(200, lambda: animated("TIFF"), same_as="TIFF, one page"),
    "GIF frame beyond the screen": Hostile(422, lambda: gif((8, 8), (60_000, 60_000), (9, 9)), "50,000,000"),
    # two things in one
    "PNG and HTML": Hostile(200, lambda: saved(noise()) + b"<script>alert(1)</script>", same_as="PNG, still"),
    "PNG and ZIP": Hostile(200, lambda: saved(noise()) + zip_of("x", b"y"), same_as="PNG, still"),
    "PNG and PDF": Hostile(200, lambda: saved(noise()) + saved(noise(), "PDF"), same_as="PNG, still"),
    "GIF that is a script": Hostile(422, lambda: b"GIF89a/*" + bytes(9) + b"*/=1;alert(1)"),
    "HTML and PNG": Hostile(415, lambda: b"<html><script>alert(1)</script>" + saved(noise()), "not an image"),
    "PDF and PNG": Hostile(415, lambda: saved(noise(), "PDF") + saved(noise()), "PDF is not"),
    # damaged within
    "PNG with another checksum": Hostile(422, lambda: damaged(33 - 1), "damaged"),
    "PNG with damaged pixels": Hostile(422, lambda: damaged(100), "damaged"),
    "PNG without an end": Hostile(422, lambda: png(8, 8, bytes(10))),
    "PNG chunk without an end": Hostile(
        422, lambda: b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + b"\xff" * 40, "damaged"
    ),
    "PNG whose pixels are no zlib stream": Hostile(
        422,
        lambda: saved(noise())[:33] + chunk(b"IDAT", b"not compressed") + chunk(b"IEND", b""),
        "damaged",
    ),
    "TIFF with unknown compression": Hostile(422, odd_compression, "compression 60000 is not read"),
    "TIFF of deep samples that take much memory": Hostile(422, deep_tiff, "memory"),
    "TIFF of one column of packed numbers": Hostile(200, packed_column),
    "JPEG of 100 scans": Hostile(200, lambda: jpeg_of_scans(64, 100)),
    "JPEG of 101 scans": Hostile(422, lambda: jpeg_of_scans(64, 101), "more than 100 scans"),
    "JPEG of 100,000 scans": Hostile(422, lambda: jpeg_of_scans(512, 100_000), "more than 100 scans"),
    "JPEG before what looks like scans": Hostile(
        200, lambda: saved(noise(), "JPEG") + b"\xff\xda" * 1000, same_as="JPEG, once"
    ),
    "JPEG, once": Hostile(200, lambda: saved(noise(), "JPEG")),
    "JPEG whose comment looks like scans": Hostile(
        200, lambda: saved(noise(), "JPEG", comment=b"\xff\xda" * 1000), same_as="JPEG, once"
    ),
    "JPEG of unknown tables": Hostile(422, lambda: damaged(4, of=saved(noise(), "JPEG"))),
    # metadata
    "5 MB of text": Hostile(
        200, lambda: with_chunks(chunk(b"tEXt", b"Comment\0" + b"x" * 5_000_000)), same_as="PNG, still"
    ),
    "5 MB of EXIF": Hostile(
        200, lambda: with_chunks(chunk(b"eXIf", tiff() + bytes(5_000_000))), same_as="PNG, still"
    ),
    "5 MB of EXIF in a WebP": Hostile(
        200,
        lambda: saved(noise(), "WEBP", lossless=True, exif=tiff() + bytes(5_000_000)),
        same_as="WebP, still",
    ),
    "text that unpacks to 40 MB": Hostile(422, lambda: compressed_text(b"zTXt"), "damaged"),
    "Unicode text that unpacks to 40 MB": Hostile(422, lambda: compressed_text(b"iTXt"), "damaged"),
    "100 texts that unpack to 1 MB each": Hostile(422, many_texts, "damaged"),
    "colour profile that unpacks to 40 MB": Hostile(422, lambda: compressed_text(b"iCCP"), "damaged"),
    "colour profile": Hostile(200, own_profile, same_as="PNG, still"),
    "colour profile that is none": Hostile(
        200, lambda: saved(noise(), icc_profile=b"x" * 999), same_as="PNG, still"
    ),
    "colour profile of 5 MB that is none": Hostile(
        200, lambda: saved(noise(), icc_profile=b"x" * 5_000_000), same_as="PNG, still"
    ),
    "PNG with a damaged text": Hostile(
        200, lambda: with_chunks(chunk(b"tEXt", b"Comment\0x", crc=1)), same_as="PNG, still"
    ),
    "8 MB of packed text": Hostile(
        200,
        lambda: with_chunks(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b" " * 8_000_000))),
        same_as="PNG, still",
    ),
    "10,000 damaged texts": Hostile(
        200,
        lambda: with_chunks(*[chunk(b"tEXt", b"Comment\0x", crc=1)] * 10_000),
        same_as="PNG, still",
    ),
    "JPEG without an end": Hostile(200, lambda: saved(noise(), "JPEG")[:-2], same_as="JPEG, once"),
    "JPEG of 101 scans without an end": Hostile(
        422, lambda: jpeg_of_scans(64, 101)[:-2], "more than 100 scans"
    ),
    "JPEG with an odd segment": Hostile(
        200,
        lambda: saved(noise(), "JPEG").replace(b"\xff\xd8", b"\xff\xd8\xff\xee\0\x07Adobe", 1),
        same_as="JPEG, once",
    ),
    "PNG with unknown chunks": Hostile(
        200, lambda: with_chunks(*[chunk(b"eVIl", b"x")] * 10_000), same_as="PNG, still"
    ),
    "EXIF that points at itself": Hostile(200, loop_in_exif),
    "TIFF that points at itself": Hostile(
        200, lambda: grey_tiff(32, 32, (34665, LONG, 1, 8), following=8, data=GREY)
    ),
    "TIFF without a directory": Hostile(422, lambda: b"II*\0" + struct.pack("<I", 2**31) + bytes(99)),
    "TIFF tag that is larger than the file": Hostile(
        200, lambda: grey_tiff(32, 32, (37500, 1, 2**32 - 1, 8), data=GREY)
    ),
    **dict(oriented()),
    **dict(truncated()),
}
