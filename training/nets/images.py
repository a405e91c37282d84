"""From a file or bytes to an upright RGB image, a square of pixels, a thumbnail.

Training, indexing and serving all read images through this one file, so that the same picture gives the
same pixels everywhere, and so that untrusted bytes meet one guard.
"""

import re
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torch.nn.functional import interpolate

MAX_PIXELS = 200_000_000
# Our own limit is checked first; this one also holds where Pillow opens an image inside an image.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# Formats whose readers decode pixels and nothing else. Left out on purpose: EPS starts Ghostscript; IPTC,
# ICNS, FPX, MIC and DCX hold other images, EPS among them; ICO decodes before its size is known.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF",
    "WEBP",
)  # fmt: skip
# What people send and we do not read, by what its first bytes match; HEIC may say that it is any HEIF.
OTHERS = {
    "HEIC": rb".{4}ftyp(?:he[iv][cmsx]|mif1|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml.*?|<!--.*?)?<svg[\s>]",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "ICO": rb"\0\0[\1\2]\0",
    "PSD": rb"8BPS",
}
OUT_OF_MEMORY = "decoding the image takes more memory than there is; send it smaller"
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


def open_image(source: bytes | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the first frame of an image in one of FORMATS as upright RGB.

    Raises NotAnImage, TooManyPixels (before decoding), TooMuchMemory or BrokenImage; OSError if a file cannot
    be read.
    """
    if isinstance(source, bytes):
        return _decode(BytesIO(source), max_pixels)
    if source.exists() and not source.is_file():  # a pipe or a device would never end
        raise NotAnImage("not a regular file")
    with source.open("rb") as stream:
        return _decode(stream, max_pixels)


def looks_like_an_image(path: Path) -> bool:
    """Whether the file begins like one of FORMATS; nothing is decoded."""
    with path.open("rb") as stream, suppress(ImageError):
        _identify(stream)
        return True
    return False


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any Pillow mode: 16 bits scaled to 8, transparency laid on white."""
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image.convert("RGB")


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


def thumbnail(image: Image.Image, size: int = 128) -> bytes:
    """A WebP of at most size × size pixels, without metadata; small images keep their exact pixels."""
    small = image.copy()
    small.thumbnail((size, size))
    out = BytesIO()
    small.save(out, "WEBP", quality=80, method=2, lossless=max(image.size) <= 64)
    return out.getvalue()


def _decode(stream: BinaryIO, max_pixels: int) -> Image.Image:
    image = _identify(stream, max_pixels)
    for width, height in (image.size, _tile_size(image)):
        if width * height > max_pixels:
            raise TooManyPixels(f"{width} × {height} pixels are more than the limit of {max_pixels:,}")
    if isinstance(image, JpegImageFile):
        _refuse_many_scans(stream)
    try:
        image.load()
        return to_rgb(_upright(image))
    except MemoryError:
        raise TooMuchMemory(OUT_OF_MEMORY) from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error …
        raise BrokenImage(f"the image is truncated or damaged ({_reason(error)})") from None


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
        for name, beginning in OTHERS.items():
            if re.match(beginning, header, re.DOTALL):
                raise NotAnImage(
                    f"{name} is not an image format that is read; save the picture as JPEG or PNG"
                ) from None
        if _begins_like_an_image(header[:16]):
            raise BrokenImage("the image is truncated or damaged (its header is not complete)") from None
        known = ", ".join(name for name in FORMATS if name not in {"DIB", "QOI", "SGI"})
        raise NotAnImage(f"not an image in a known format ({known})") from None
    except MemoryError:
        raise TooMuchMemory(OUT_OF_MEMORY) from None
    except Exception as error:  # a damaged header can raise anything from within a format's parser
        raise BrokenImage(f"the image's header is damaged ({_reason(error)})") from None


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
    if content.count(START_OF_SCAN) > MOST_SCANS and _scans(content) > MOST_SCANS:
        raise BrokenImage(f"the JPEG has more than {MOST_SCANS} scans; save the image anew as JPEG or PNG")


def _scans(jpeg: bytes) -> int:
    """How many scans a decoder comes to: what stands in a segment's data or after the end is none."""
    scans, at = 0, 0
    while (found := JPEG_MARKER.search(jpeg, at)) is not None:
        marker, at = jpeg[found.end() - 1], found.end()
        if marker == 0xD9:  # the end
            break
        scans += marker == 0xDA
        if marker not in (0x01, 0xD8):  # these stand alone, the others begin with their length
            at += max(int.from_bytes(jpeg[at : at + 2]), 2)
    return scans


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # unreadable EXIF says nothing of the orientation; the pixels are good
        return image


# Of a camera or scanner; files of 16 bits hold all of them, few say which.
DEPTHS = (8, 10, 12, 14, 16)


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values (H, W) of at most 16 bits, or floating point 0 … 1; any other range is stretched."""
    if values.dtype.kind in "ui" and values.min() >= 0 and values.max() <= 65535:
        depth = next(bits for bits in DEPTHS if values.max() < 1 << bits)
        return (values >> (depth - 8)).astype(np.uint8)
    scaled = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    if values.dtype.kind != "f" or scaled.min() < 0 or scaled.max() > 1:
        scaled -= scaled.min()
        scaled /= max(float(scaled.max()), 1e-30)  # a constant image is black
    scaled *= 255
    return scaled.round(out=scaled).astype(np.uint8)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
