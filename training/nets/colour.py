"""Colours as the image's profile means them, in sRGB."""

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
