"""Colours as the image's profile means them, in sRGB."""

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from itertools import chain, product

import numpy as np
from PIL import Image, ImageCms

# As browsers do it. Between profiles that are a matrix and curves it is the same as the colorimetric intents.
INTENT = ImageCms.Intent.PERCEPTUAL
# Profiles of sRGB differ by rounding, and converting between them would cost time and change nothing.
SAME = 2  # of 255
KINDS = {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}  # a profile's colour space, by Pillow's mode
KEPT = 8  # conversions that are ready: a folder's images have few profiles


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB of an image of mode L, RGB or CMYK, by this ICC profile: into sRGB, perceptual intent.

    A profile that is broken or of another kind of image says nothing, as none; neither does one of sRGB.
    """
    conversion = _conversion(profile, image.mode) if profile else None
    if conversion is None:
        return image.convert("RGB")
    return conversion.apply(image)


@lru_cache(KEPT)
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None where the profile changes nothing, or cannot be used."""
    try:
        read = ImageCms.ImageCmsProfile(BytesIO(profile))
        if read.profile.xcolor_space.strip() != KINDS[mode]:
            return None
        srgb = ImageCms.createProfile("sRGB")
        conversion = ImageCms.buildTransform(read, srgb, mode, "RGB", renderingIntent=INTENT)
        probe = _probe(mode)
        change = np.asarray(conversion.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return None if np.abs(change).max() <= SAME else conversion


def _probe(mode: str) -> Image.Image:
    """Colours from all over the space, in one row."""
    bands = Image.getmodebands(mode)
    colours = bytes(chain.from_iterable(product(range(0, 256, 15), repeat=bands)))
    return Image.frombytes(mode, (len(colours) // bands, 1), colours)


def profile_of_jpeg2000(file: bytes) -> bytes | None:
    """The ICC profile in a JP2's box `colr` (ISO/IEC 15444-1, I.5.3.3), which Pillow passes over."""
    for kind, header in _boxes(file):
        if kind == b"jp2h":
            colours = (data for inner, data in _boxes(header) if inner == b"colr")
            return next((data[3:] for data in colours if data[:1] in (b"\2", b"\3")), None)
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content, as far as they go on."""
    at = 0
    while at + 8 <= len(data):
        length, kind, start = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if length == 1:  # a longer length follows
            length, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + length if length else len(data)
        if end < start:
            return
        yield kind, data[start:end]
        at = end
