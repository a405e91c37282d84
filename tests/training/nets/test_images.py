"""Every kind of file people have, read into upright RGB."""

import io
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from training.nets import images
from training.nets.images import (
    HASHED,
    BrokenImage,
    NotAnImage,
    TooManyPixels,
    open_image,
    picture_hashes,
    square_pixels,
    thumbnail,
)
from training.nets.pdq import pdq


def encoded(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def colour(width=6, height=4):
    """Red left half, blue right half."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_colours_survive_every_colour_mode(mode):
    format = "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG"
    image = open_image(encoded(colour().convert(mode), format))
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image), np.asarray(colour()), atol=3)


@pytest.mark.parametrize(
    "format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "PCX"]
)
def test_common_formats(format):
    image = open_image(encoded(colour(48, 32), format))
    assert image.mode == "RGB"
    left = image.getpixel((image.width // 8, image.height // 2))
    assert left[0] > 200
    assert max(left[1:]) < 60


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(mode):
    image = open_image(encoded(Image.new("L", (4, 4), 255).convert(mode)))
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 128 * 257, 65535]], np.uint16)
    image = open_image(encoded(Image.fromarray(values)))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_of_a_depth_that_nobody_states_is_of_the_depth_that_is_set(bits, format):
    values = np.array([[0, 1 << (bits - 1), (1 << bits) - 1]], np.uint16)
    data = encoded(Image.fromarray(values), format)
    image = open_image(data, reading=images.Reading(grey_bits=bits))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    whole = open_image(data)
    np.testing.assert_allclose([whole.getpixel((x, 0))[0] for x in range(3)], values[0] / 257, atol=1)
    before = open_image(data, reading=images.BEFORE)
    assert [before.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_floating_point():
    image = open_image(encoded(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF"))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    wide = open_image(encoded(Image.fromarray(np.array([[-5.0, 5.0]], np.float32)), "TIFF"))
    assert [wide.getpixel((x, 0))[0] for x in range(2)] == [0, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode):
    if mode == "P":
        image = Image.new("P", (2, 2), 0)
        image.putpalette([0, 0, 0, 255, 0, 0])
        data = encoded(image, transparency=0)
    else:
        data = encoded(Image.new(mode, (2, 2), (0, 0, 0, 0) if mode == "RGBA" else (0, 0)))
    assert open_image(data).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° to show
    image = open_image(encoded(colour(60, 40), "JPEG", exif=exif, quality=95))
    assert image.size == (40, 60)
    assert image.getpixel((20, 5))[0] > 200
    assert image.getpixel((20, 55))[2] > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image():
    data = encoded(colour(60, 40), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 20)
    assert open_image(data).size == (60, 40)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), name) for name in ("red", "blue")]
    image = open_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.4 ...", b"\0" * 1000])
def test_not_an_image(data):
    with pytest.raises(NotAnImage, match="not an image"):
        open_image(data)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def iptc(payload):
    """An IPTC envelope around another image, which Pillow's reader would open with any format."""

    def field(record, dataset, data):
        return bytes([0x1C, record, dataset]) + len(data).to_bytes(2, "big") + data

    size = (
        field(3, 20, b"\0\x0a") + field(3, 30, b"\0\x0a") + field(3, 60, b"\x01\0") + field(3, 120, b"\x01")
    )
    return size + field(8, 10, payload)


@pytest.mark.parametrize("data", [POSTSCRIPT, iptc(POSTSCRIPT)])
def test_nothing_starts_ghostscript(data, tmp_path, monkeypatch):
    trace = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {trace}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(NotAnImage):
        open_image(data)
    assert not trace.exists()


def test_image_inside_an_icon_is_not_decoded_unseen():
    with pytest.raises(NotAnImage):
        open_image(encoded(colour(32, 32), "ICO"))


def test_tiles_larger_than_the_image_count():
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: 2000, 323: 2000, 324: 146, 325: 1000}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(1004)
    with pytest.raises(TooManyPixels, match="2000 × 2000"):
        open_image(tiff, max_pixels=1000)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(NotAnImage, match="not a regular file"):
        open_image(tmp_path / "pipe.png")


def test_floating_point_without_numbers():
    values = np.array([[np.nan, np.inf, 0.0, 1.0]], np.float32)
    image = open_image(encoded(Image.fromarray(values), "TIFF"))
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 0, 0, 255]
    constant = open_image(encoded(Image.fromarray(np.full((2, 2), 7.0, np.float32)), "TIFF"))
    assert constant.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_truncated(format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, format)
    with pytest.raises(BrokenImage, match=r"truncated|damaged"):
        open_image(data[: len(data) // 2])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("length", [16, 24, 36])
def test_cut_in_the_header(format, length):
    with pytest.raises(BrokenImage):
        open_image(encoded(colour(64, 48), format)[:length])


def test_pixel_limit_counts_before_decoding():
    header_only = encoded(Image.new("1", (5000, 5000)))[:60]
    with pytest.raises(TooManyPixels, match=r"5000 × 5000 .* 1,000,000"):
        open_image(header_only, max_pixels=1_000_000)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "gone.png")


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5), (200, 100)])
def test_square_of_any_shape(size):
    pixels = square_pixels(Image.new("RGB", size, (10, 20, 30)), 32)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.uint8
    assert pixels[:, 16, 16].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("of", "to"), [((375, 375), 224), ((900, 700), 32), ((8, 8), 32), ((50, 60), 224), ((32, 32), 32)]
)
def test_square_is_resized_as_pillow_does(of, to):
    noise = np.random.default_rng(0).integers(0, 256, (of[1], of[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    side = min(of)
    square = image.crop(((of[0] - side) // 2, (of[1] - side) // 2, (of[0] + side) // 2, (of[1] + side) // 2))
    expected = np.array(square.resize((to, to), Image.Resampling.BICUBIC)).astype(int)
    got = square_pixels(image, to).permute(1, 2, 0).numpy().astype(int)
    difference = np.abs(got - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.02


def test_square_is_the_centre():
    image = Image.new("RGB", (90, 30), "black")
    image.paste("white", (30, 0, 60, 30))
    assert square_pixels(image, 30).min() == 255


def test_thumbnail_is_small_without_metadata_and_exact_for_tiny_images():
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    large = colour(600, 300)
    large.info["exif"] = exif.tobytes()
    shown = Image.open(io.BytesIO(thumbnail(large)))
    assert shown.format == "WEBP"
    assert shown.size == (128, 64)
    assert not shown.getexif()
    tiny = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(thumbnail(tiny))).convert("RGB")), tiny)


@pytest.mark.parametrize("size", [(40, 9), (HASHED, 2 * HASHED - 1), (900, 700), (2000, 60)])
def test_a_large_picture_is_hashed_smaller_and_nearly_as_it_is(size):
    drawing = Image.fromarray(np.random.default_rng(3).integers(0, 256, (7, 9, 3), np.uint8))
    picture = drawing.resize(size, Image.Resampling.BICUBIC)
    whole = pdq(np.asarray(picture.convert("L"), np.float32))
    made = picture_hashes(picture)
    apart = int(np.bitwise_count(made.upright ^ whole.upright).sum())
    assert apart <= (0 if max(size) < 2 * HASHED else 14)
    assert made.hashes.shape == (8, 32)
