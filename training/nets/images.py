"""From a file or bytes to an upright RGB image, a square of pixels, a thumbnail.

Training, indexing and serving all read images through this one file, so that the same picture gives the
same pixels everywhere.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

# Our own limit is checked before anything is decoded; Pillow's would only warn at another number.
Image.MAX_IMAGE_PIXELS = None
MAX_PIXELS = 200_000_000

# EPS starts Ghostscript, the others only name a format without decoding it: none may see untrusted bytes.
_REFUSED_FORMATS = {"EPS", "BUFR", "GRIB", "HDF5", "WMF"}


class ImageError(ValueError):
    """The bytes are not a usable image; the message says why."""


class NotAnImage(ImageError):
    """No known image format."""


class BrokenImage(ImageError):
    """A known format, but truncated or undecodable."""


class TooManyPixels(ImageError):
    """More pixels than the limit, found before decoding."""


def open_image(source: bytes | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the first frame of any format Pillow reads as upright RGB.

    Raises NotAnImage, TooManyPixels (before decoding) or BrokenImage; OSError if a file cannot be read.
    """
    stream = BytesIO(source if isinstance(source, bytes) else source.read_bytes())
    Image.init()
    formats = sorted(set(Image.ID) - _REFUSED_FORMATS)
    try:
        image = Image.open(stream, formats=formats)
    except UnidentifiedImageError:
        if _begins_like(stream.getvalue()[:16], formats):
            raise BrokenImage("the image is truncated or damaged (its header is not complete)") from None
        raise NotAnImage("not an image in a known format (PNG, JPEG, WebP, GIF, TIFF, …)") from None
    except Exception as error:  # a damaged header can raise anything from within a format's parser
        raise BrokenImage(f"the image's header is damaged ({_reason(error)})") from None
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixels(f"{width} × {height} pixels are more than the limit of {max_pixels:,}")
    try:
        image.load()
        return to_rgb(_upright(image))
    except Exception as error:  # as above: decoders raise OSError, SyntaxError, struct.error, zlib.error …
        raise BrokenImage(f"the image is truncated or damaged ({_reason(error)})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any Pillow mode: 16 bits scaled to 8, transparency laid on white."""
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        image = _eight_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def square_pixels(image: Image.Image, size: int) -> torch.Tensor:
    """The centre square of an RGB image, resized: uint8 (3, size, size)."""
    # Cropping before resizing keeps a 1 × 10,000 strip from becoming a huge intermediate image.
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def thumbnail(image: Image.Image, size: int = 128) -> bytes:
    """A WebP of at most size × size pixels, without metadata; small images keep their exact pixels."""
    small = image.copy()
    small.thumbnail((size, size))
    out = BytesIO()
    small.save(out, "WEBP", quality=80, method=2, lossless=max(image.size) <= 64)
    return out.getvalue()


def _begins_like(prefix: bytes, formats: list[str]) -> bool:
    """Whether the first bytes are those of one of the formats."""
    accepts = (Image.OPEN[name][1] for name in formats if name in Image.OPEN)
    return len(prefix) == 16 and any(accept is not None and accept(prefix) is True for accept in accepts)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF says nothing of the orientation; the pixels are good
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    low, high = (0.0, 65535.0) if image.mode.startswith("I") else (0.0, 1.0)
    if values.min() < low or values.max() > high:  # no convention fits: use the image's own range
        low, high = values.min(), values.max()
    return Image.fromarray(((values - low) * (255 / (high - low))).round().astype(np.uint8))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
