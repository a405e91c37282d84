"""Photographs of telephones, HEIC and HEIF: where what reads them is installed, and where it is not."""

import re
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from service.core.pictures.decoding import Pool
from tests.service.hostile import box, heic
from tests.training.nets.profiles import rgb_profile
from training.data import folder
from training.nets import images
from training.nets.images import (
    BrokenImage,
    NotAnImage,
    TooManyPixels,
    TooMuchMemory,
    looks_like_an_image,
    open_image,
)
from training.pixels import read


def encoded(image: Image.Image, **options: object) -> bytes:
    """As HEIC, with what a test changes."""
    pytest.importorskip("pillow_heif", exc_type=ImportError)
    out = BytesIO()
    image.save(out, "HEIF", **options)
    return out.getvalue()


def gradient(width: int = 96, height: int = 64) -> Image.Image:
    """Red grows to the right, green downwards: no turn of it looks like another."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, np.full_like(across, 90)], axis=-1).astype(np.uint8))


def close(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and np.abs(np.asarray(one, int) - np.asarray(other, int)).mean() < 4


def test_it_is_read_as_other_files_are() -> None:
    image = open_image(encoded(gradient()))
    assert image.mode == "RGB" and close(image, gradient())
    grey = gradient().convert("L")
    assert close(open_image(encoded(grey)), grey.convert("RGB"))


def test_transparent_parts_lie_on_white() -> None:
    clear = gradient().convert("RGBA")
    clear.putalpha(0)
    assert np.asarray(open_image(encoded(clear, quality=-1))).min() > 250


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = gradient()
    plain.getexif()[0x0112] = orientation
    assert close(open_image(encoded(gradient(), exif=exif.tobytes())), ImageOps.exif_transpose(plain))


def test_its_colour_profile_counts() -> None:
    shown = open_image(encoded(gradient(), icc_profile=rgb_profile("Display P3"), quality=-1))
    assert not close(shown, gradient()) and shown.size == gradient().size
    as_before = open_image(encoded(gradient(), icc_profile=rgb_profile("Display P3")), reading=images.BEFORE)
    assert close(as_before, gradient())


def test_the_picture_counts_that_is_called_the_first() -> None:
    small, large = Image.new("RGB", (64, 64), "red"), gradient()
    both = encoded(small, save_all=True, append_images=[large], primary_index=1)
    assert close(open_image(both), large)


def test_one_with_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(gradient())
    loaded = []
    monkeypatch.setattr(Image.OPEN["HEIF"][0], "load", lambda image: loaded.append(image))
    with pytest.raises(TooManyPixels, match=r"96 × 64 pixels are more than the limit of 1,000"):
        open_image(content, max_pixels=1000)
    assert loaded == []


def test_one_that_says_another_size_than_it_has_is_refused_too() -> None:
    """A kilobyte that says it has few pixels, and unpacks to 16 million."""
    bomb = Image.new("RGB", (4096, 4096), "red")
    content = encoded(bomb)
    sizes = [found.start() + 8 for found in re.finditer(b"ispe", content)]
    assert sizes and len(content) < 20_000
    for at in sizes:
        content = content[:at] + struct.pack(">II", 16, 16) + content[at + 8 :]
    with pytest.raises((TooManyPixels, BrokenImage)):
        open_image(content, max_pixels=1_000_000)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_one_that_is_cut_is_broken(share: float) -> None:
    content = encoded(gradient(400, 300))
    with pytest.raises(BrokenImage, match="truncated or damaged"):
        open_image(content[: int(share * len(content))])


def test_a_process_that_decodes_has_bounds_for_it_too() -> None:
    large = encoded(Image.new("RGB", (6000, 6000), "red"))
    small = encoded(gradient())
    pool = Pool(1, seconds=60, memory=60_000_000)
    try:
        with pytest.raises((TooMuchMemory, BrokenImage)):  # libde265 does not say what it lacks
            pool.decode(large, size=32, max_pixels=50_000_000)
        made = pool.decode(small, size=32, max_pixels=50_000_000)
        assert torch.equal(made.pixels, images.square_pixels(open_image(small), 32))
    finally:
        pool.close()


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "no ending"])
def test_a_folder_may_hold_it_by_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(encoded(gradient()))
    gradient().save(tmp_path / "other.png")
    assert looks_like_an_image(tmp_path / name)
    loaded = read(folder(tmp_path), 32)
    assert loaded.images.paths == tuple(sorted((name, "other.png"))) and loaded.skipped == []


# --- without ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("major", [b"heic", b"mif1"])
def test_without_it_the_way_out_is_named(
    major: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "FORMATS", tuple(name for name in images.FORMATS if name != "HEIF"))
    told = 'HEIC is not read without pillow-heif; install it (pip install "hebbsearch[heif]"), or save the'
    with pytest.raises(NotAnImage, match=re.escape(told)):
        open_image(heic(major))
    (tmp_path / "one.heic").write_bytes(heic(major))
    assert not looks_like_an_image(tmp_path / "one.heic")
    gradient().save(tmp_path / "other.png")
    (skipped,) = read(folder(tmp_path), 32).skipped
    assert skipped["path"] == "one.heic" and told in skipped["reason"]


def test_a_film_of_the_same_container_is_no_image() -> None:
    with pytest.raises(NotAnImage, match="not an image in a known format"):
        open_image(box(b"ftyp", b"isom" + bytes(4) + b"isommp42") + bytes(99))
