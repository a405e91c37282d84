"""Pictures of patches, and parts of them."""

from io import BytesIO

import numpy as np
from PIL import Image

from service.core.pictures.copies import Query
from training.nets.images import picture_hashes, thumbnail


def picture(seed: int, width: int = 128, height: int = 96) -> Image.Image:
    """Patches of every size, as a photograph has them."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for cells in (3, 6, 12, 24):
        patches = Image.fromarray(random.standard_normal((cells, cells)).astype(np.float32))
        total += np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC)) / cells**0.5
    return Image.fromarray(np.uint8(np.clip(128 + 70 * total, 0, 255)))


def cropped(whole: Image.Image, left: float, top: float, share: float) -> Image.Image:
    """A part of the same shape, from a place in shares of what is free, back in the size of the whole."""
    width, height = round(whole.width * share), round(whole.height * share)
    x, y = round(left * (whole.width - width)), round(top * (whole.height - height))
    return whole.crop((x, y, x + width, y + height))


def asked(image: Image.Image) -> Query:
    """What the service makes of an image that is sent."""
    return Query(picture_hashes(image.convert("RGB")), thumbnail(image.convert("RGB")))


def saved(image: Image.Image, **how: object) -> Image.Image:
    """As a JPEG, and read again."""
    file = BytesIO()
    image.save(file, "JPEG", **how)
    return Image.open(file)
