"""From a file or bytes to an upright RGB image, a square of pixels, a thumbnail.

Training, indexing and serving all read images through this one file, so that the same picture gives the
same pixels everywhere, and so that untrusted bytes meet one guard.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torch.nn.functional import interpolate

from training.nets import grey, pdq
from training.nets.colour import KINDS, profile_of_jpeg2000, to_srgb
from training.nets.mending import (
    JPEG,
    PNG,
    depth_of_png,
    jpeg_without_oddities,
    png_without_damage,
    two_ends,
)
from training.nets.tiff import Page

MAX_PIXELS = 200_000_000
# Our own limit is checked first; this one also holds where Pillow opens an image inside an image.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Of a text or profile in a PNG, unpacked; for all texts together Pillow has a limit of 64 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = 32 << 20


def with_heif() -> bool:
    """Have Pillow read HEIF, where what does is installed: only the picture, none of what lies beside it."""
    try:
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    except ImportError:  # an extra; or its library does not load here
        return False
    return True


HEIF = ("HEIF",) if with_heif() else ()
# Formats whose readers decode pixels and nothing else. Left out on purpose: EPS starts Ghostscript; IPTC,
# ICNS, FPX, MIC and DCX hold other images, EPS among them; ICO decodes before its size is known.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF",
    "WEBP", *HEIF,
)  # fmt: skip
# What people send and we do not read, by what its first bytes match; HEIC, which may say that it is any HEIF,
# without what reads it.
OTHERS = {
    "HEIC": rb".{4}ftyp(?:he[iv][cmsx]|mif1|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.*?|<!--.*?)?<svg[\s>]",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "ICO": rb"\0\0[\1\2]\0",
    "PSD": rb"8BPS",
}
NOT_READ = "is not an image format that is read;"
WITHOUT_HEIF = 'is not read without pillow-heif; install it (pip install "hebbsearch[heif]"), or'
THUMBNAIL = 128  # pixels of its longer side
HASHED = 256  # pixels of each side that are enough to hash a picture, at least
OUT_OF_MEMORY = "decoding the image takes more memory than there is; send it smaller"
TGA_DEPTH = 16  # where it stands, and what the bits are behind it
OFTEN_WITHOUT_ALPHA = {"TGA", "BMP", "DIB"}  # programs leave it 0 everywhere, and mean nothing by it
DEPTH = "hebbsearch_depth"  # in an image's info: the bits of its grey
HEADER = 1024  # bytes in which they are looked for
TILE_WIDTH, TILE_LENGTH = 322, 323  # TIFF tags

# A JPEG that appears gradually has some ten scans. Each goes over all pixels again and may take a few bytes.
MOST_SCANS = 100
START_OF_SCAN = b"\xff\xda"
JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # others stand within the data of a scan


class ImageError(ValueError):
    """The bytes are not a usable image; the message says why."""


class NotAnImage(ImageError):
    """No known image format."""


class BrokenImage(ImageError):
    """A known format, but truncated, undecodable, or made to take long."""


class TooManyPixels(ImageError):
    """More pixels than the limit, found before decoding."""


class TooMuchMemory(ImageError):
    """Decoding took more memory than there is."""


@dataclass(frozen=True)
class Reading:
    """By which rule a file becomes pixels. An encoder keeps it: the codes of one index are made by one rule.

    `as_shown`: as a viewer shows it, by its colour profile and the depth that it states. False: as all was
    read before there was a choice, without the profile, 16-bit grey by its brightest pixel.
    `grey_bits`: the depth of grey files of more than 8 bits that state none, such as a camera's; 0: all that
    their numbers can hold.
    """

    as_shown: bool = True
    grey_bits: int = 0


AS_SHOWN = Reading()
BEFORE = Reading(as_shown=False)


def open_image(
    source: bytes | Path, *, max_pixels: int = MAX_PIXELS, reading: Reading = AS_SHOWN
) -> Image.Image:
    """Decode the first frame of an image in one of FORMATS as upright RGB.

    Raises NotAnImage, TooManyPixels (before decoding), TooMuchMemory or BrokenImage; OSError if a file cannot
    be read.
    """
    if isinstance(source, bytes):
        return _decode(BytesIO(source), max_pixels, reading)
    with opened_file(source) as stream:
        return _decode(stream, max_pixels, reading)


def opened_file(path: Path) -> BinaryIO:
    """The file, to be read. Raises NotAnImage for a pipe or a device, which would never end, and OSError."""
    if path.exists() and not path.is_file():
        raise NotAnImage("not a regular file")
    return path.open("rb")


def looks_like_an_image(path: Path) -> bool:
    """Whether the file begins like one of FORMATS; nothing is decoded."""
    with path.open("rb") as stream, suppress(ImageError):
        if stream.read(len(PNG)).startswith((PNG, JPEG)) or Page.of(stream) is not None:
            return True  # also where Pillow takes it only mended
        stream.seek(0)
        _identify(stream)
        return True
    return False


def to_rgb(image: Image.Image, reading: Reading = AS_SHOWN) -> Image.Image:
    """sRGB of any Pillow mode: more than 8 bits scaled to 8, transparency laid on white."""
    profile = image.info.get("icc_profile") if reading.as_shown else None
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return to_srgb(_eight_bits(image, reading), profile)
    if image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(to_srgb(_without_alpha(image, rgba), profile), mask=rgba.getchannel("A"))
        return white
    return to_srgb(image if image.mode in KINDS else image.convert("RGB"), profile)


def _without_alpha(image: Image.Image, rgba: Image.Image) -> Image.Image:
    """Grey stays grey: its profile is one of grey."""
    return rgba.getchannel("R") if image.mode in {"1", "L", "LA", "La"} else rgba.convert("RGB")


def _eight_bits(image: Image.Image, reading: Reading) -> Image.Image:
    values = np.asarray(image)
    if not reading.as_shown:
        return Image.fromarray(grey.by_the_brightest(values))
    if image.mode == "F":
        return Image.fromarray(grey.fractions(values))
    shown = Image.fromarray(grey.scaled(values, image.info.get(DEPTH, 16)))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        shown.paste(255, mask=Image.fromarray(values == transparent))
    return shown


def square_pixels(image: Image.Image, size: int) -> Tensor:
    """The centre square of an RGB image, resized: uint8 (3, size, size)."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropping before resizing keeps a 1 × 10,000 strip from becoming a huge intermediate image.
    square = image.crop((left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    if side != size:  # Pillow's own bicubic filter, within one grey level, in a quarter of its time
        pixels = interpolate(pixels[None], size=(size, size), mode="bicubic", antialias=True)[0]
    return pixels.contiguous()


def thumbnail(image: Image.Image, size: int = THUMBNAIL) -> bytes:
    """A WebP of at most size × size pixels, without metadata; small images keep their exact pixels."""
    small = image.copy()
    small.thumbnail((size, size))
    out = BytesIO()
    small.save(out, "WEBP", quality=80, method=2, lossless=max(image.size) <= 64)
    return out.getvalue()


def picture_hashes(image: Image.Image) -> pdq.Hashes:
    """What an image is recognised by, whatever it shows: all of it, unlike `square_pixels`. A large one is
    made smaller first, which changed 2 to 18 bits of 256 of twelve photographs."""
    if min(image.size) >= 4 * HASHED:  # every other pixel will do, and costs half of the time
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST)
    factors = tuple(max(1, side // HASHED) for side in image.size)
    grey = image.convert("L").reduce(factors)  # type: ignore[arg-type]  # two factors, one for each side
    return pdq.pdq(np.asarray(grey, np.float32))


def _decode(stream: BinaryIO, max_pixels: int, reading: Reading) -> Image.Image:
    page = Page.of(stream) if reading.as_shown else None
    try:
        if page is not None:
            _check_sizes(page.sizes, max_pixels)
            stream.seek(0)
            content = page.alone(stream.read())
            if not page.is_pillows:
                if page.unknown:
                    raise BrokenImage(page.unknown)
                return to_rgb(page.image(content, reading.grey_bits), reading)
            stream = BytesIO(content)
        return to_rgb(_loaded_or_mended(stream, max_pixels, reading), reading)
    except ImageError:
        raise
    except MemoryError:
        raise TooMuchMemory(OUT_OF_MEMORY) from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error …
        raise BrokenImage(f"the image is truncated or damaged ({_reason(error)})") from None


def _loaded(stream: BinaryIO, max_pixels: int, reading: Reading) -> Image.Image:
    """Decoded by Pillow, upright."""
    image = _identify(stream, max_pixels)
    _check_sizes((image.size, _tile_size(image)), max_pixels)
    if isinstance(image, JpegImageFile):
        _refuse_many_scans(stream)
    image.load()
    _check_sizes([image.size], max_pixels)  # a HEIF may say another size than it has
    if image.format == "PNG" and image.mode.startswith("I"):
        stream.seek(0)
        image.info[DEPTH] = depth_of_png(stream.read(), np.asarray(image)) or reading.grey_bits or 16
    if image.format == "JPEG2000":
        stream.seek(0)
        image.info["icc_profile"] = profile_of_jpeg2000(stream.read())
    if reading.as_shown and image.format in OFTEN_WITHOUT_ALPHA and image.has_transparency_data:
        rgba = image.convert("RGBA")
        if not rgba.getchannel("A").getbbox() or _is_tga_without_alpha(image, stream):
            image = rgba.convert("RGB")
    return _upright(image)


def _is_tga_without_alpha(image: Image.Image, stream: BinaryIO) -> bool:
    """Whether it is a TGA of 16 bits a pixel whose header says that none of them is alpha."""
    stream.seek(TGA_DEPTH)
    depth, described = stream.read(2)
    return image.format == "TGA" and depth == 16 and not described & 0x0F


def _loaded_or_mended(stream: BinaryIO, max_pixels: int, reading: Reading) -> Image.Image:
    try:
        return _loaded(stream, max_pixels, reading)
    except (MemoryError, NotAnImage, TooManyPixels, TooMuchMemory):
        raise
    except Exception:
        mended = _mended(stream, max_pixels, reading)
        if mended is None:
            raise
        return mended


def _mended(stream: BinaryIO, max_pixels: int, reading: Reading) -> Image.Image | None:
    """What `_loaded` gives for the file without what it does not take; None where there is no such thing."""
    stream.seek(0)
    content = stream.read()
    load = partial(_loaded, max_pixels=max_pixels, reading=reading)
    with suppress(Exception):
        if content.startswith(PNG):
            return load(BytesIO(png_without_damage(content)))
        if content.startswith(JPEG):
            plain = jpeg_without_oddities(content)
            if 0xD9 in _markers(plain):
                return load(BytesIO(plain))
            one, other = (load(BytesIO(each)) for each in two_ends(plain))
            return one if one == other else None
    return None


def _check_sizes(sizes: Iterable[tuple[int, int]], max_pixels: int) -> None:
    for width, height in sizes:
        if width * height > max_pixels:
            raise TooManyPixels(f"{width} × {height} pixels are more than the limit of {max_pixels:,}")


def _identify(stream: BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image as Pillow knows it from its header."""
    Image.init()
    try:
        return Image.open(stream, formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooManyPixels(f"the image has far more pixels than the limit of {max_pixels:,}") from None
    except UnidentifiedImageError:
        stream.seek(0)
        header = stream.read(HEADER)
        if name := _other(header):
            why = WITHOUT_HEIF if name == "HEIC" else NOT_READ
            raise NotAnImage(f"{name} {why} save the picture as JPEG or PNG") from None
        if (page := Page.of(stream)) is not None and (unknown := page.unknown):
            raise BrokenImage(unknown) from None
        if _begins_like_an_image(header[:16]):
            raise BrokenImage("the image is truncated or damaged (its header is not complete)") from None
        known = ", ".join(name for name in FORMATS if name not in {"DIB", "QOI", "SGI"})
        raise NotAnImage(f"not an image in a known format ({known})") from None
    except MemoryError:
        raise TooMuchMemory(OUT_OF_MEMORY) from None
    except Exception as error:  # a damaged header can raise anything from within a format's parser
        raise BrokenImage(f"the image's header is damaged ({_reason(error)})") from None


def _other(header: bytes) -> str | None:
    """The format that is not read and begins so."""
    found = (name for name, beginning in OTHERS.items() if re.match(beginning, header, re.DOTALL))
    return next((name for name in found if name != "HEIC" or "HEIF" not in FORMATS), None)


def _begins_like_an_image(prefix: bytes) -> bool:
    accepts = (Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN)
    return len(prefix) == 16 and any(accept is not None and accept(prefix) is True for accept in accepts)


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of a TIFF's tiles, which may be larger than the image and are decoded whole."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(TILE_WIDTH, 0)), int(tags.get(TILE_LENGTH, 0))


def _refuse_many_scans(stream: BinaryIO) -> None:
    """Raises BrokenImage for a JPEG of more scans than any that is made to be seen."""
    stream.seek(0)
    content = stream.read()
    if (
        content.count(START_OF_SCAN) > MOST_SCANS
        and sum(each == 0xDA for each in _markers(content)) > MOST_SCANS
    ):
        raise BrokenImage(f"the JPEG has more than {MOST_SCANS} scans; save the image anew as JPEG or PNG")


def _markers(jpeg: bytes) -> Iterator[int]:
    """Those that a decoder comes to, up to the end: not what stands in a segment's data or after the end."""
    at = 0
    while (found := JPEG_MARKER.search(jpeg, at)) is not None:
        marker, at = jpeg[found.end() - 1], found.end()
        yield marker
        if marker == 0xD9:  # the end
            break
        if marker not in (0x01, 0xD8):  # these stand alone, the others begin with their length
            at += max(int.from_bytes(jpeg[at : at + 2]), 2)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # unreadable EXIF says nothing of the orientation; the pixels are good
        return image


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
