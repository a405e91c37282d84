"""Colour profiles: what a picture looks like, whatever space its numbers are of."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from index.codes import unpack
from tests.training.nets.profiles import (
    PRIMARIES,
    cmyk_profile,
    converted,
    curved,
    grey_profile,
    lab_to_srgb,
    rgb_profile,
)
from training.nets import images
from training.nets.encoder import Encoder
from training.nets.images import open_image, square_pixels, thumbnail

WIDE = [space for space in PRIMARIES if space != "sRGB"]
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def encoded(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def patches(height=8, width=12):
    """Colours, none too dark for the steps of 8 bits, each 8 × 8 pixels."""
    values = np.random.default_rng(0).integers(60, 226, (height, width, 3), np.uint8)
    return values.repeat(8, 0).repeat(8, 1)


def pixels_of(data, **asked):
    return np.asarray(open_image(data, **asked)).astype(int)


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("space", WIDE)
def test_a_wide_space_looks_as_srgb_does(space, format):
    numbers = Image.fromarray(converted(patches(), "sRGB", space))
    data = encoded(numbers, format, icc_profile=rgb_profile(space), **LOSSLESS[format])
    np.testing.assert_allclose(pixels_of(data), patches(), atol=4)
    np.testing.assert_array_equal(pixels_of(data, reading=images.BEFORE), numbers)


@pytest.mark.parametrize("format", ["JPEG", "AVIF"])
def test_so_it_does_where_pixels_are_rounded(format):
    numbers = Image.fromarray(converted(patches(), "sRGB", "Adobe RGB"))
    data = encoded(numbers, format, icc_profile=rgb_profile("Adobe RGB"), quality=95, subsampling="4:4:4")
    assert np.abs(pixels_of(data) - patches()).mean() < 3
    assert np.abs(pixels_of(data, reading=images.BEFORE) - patches()).mean() > 6


@pytest.mark.parametrize("method", [2, 3])
def test_a_jpeg_2000_has_its_profile_in_a_box(method):
    numbers = Image.fromarray(converted(patches(), "sRGB", "Adobe RGB"))
    plain = encoded(numbers, "JPEG2000", irreversible=False)
    np.testing.assert_array_equal(pixels_of(plain), numbers)
    old = struct.pack(">I4sBBBI", 15, b"colr", 1, 0, 0, 16)
    profile = rgb_profile("Adobe RGB")
    new = struct.pack(">I4sBBB", 11 + len(profile), b"colr", method, 0, 0) + profile
    header = plain.index(b"jp2h") - 4
    longer = struct.pack(">I", int.from_bytes(plain[header : header + 4], "big") + len(new) - len(old))
    assert plain.count(old) == 1
    data = plain[:header] + longer + plain[header + 4 :].replace(old, new)
    np.testing.assert_allclose(pixels_of(data), patches(), atol=4)
    np.testing.assert_array_equal(pixels_of(data, reading=images.BEFORE), numbers)


def test_what_srgb_cannot_show_is_as_near_as_it_gets():
    data = encoded(Image.new("RGB", (4, 4), (0, 255, 0)), icc_profile=rgb_profile("Display P3"))
    np.testing.assert_allclose(pixels_of(data)[0, 0], (0, 255, 0), atol=1)


def test_thumbnail_and_square_have_the_same_colours():
    data = encoded(
        Image.fromarray(converted(patches(1, 1), "sRGB", "ProPhoto")), icc_profile=rgb_profile("ProPhoto")
    )
    image = open_image(data)
    small = Image.open(io.BytesIO(thumbnail(image)))
    np.testing.assert_allclose(np.asarray(small.convert("RGB")).astype(int), patches(1, 1), atol=4)
    np.testing.assert_allclose(square_pixels(image, 8)[:, 0, 0].tolist(), patches(1, 1)[0, 0], atol=4)
    assert "icc_profile" not in small.info


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_and_palettes_have_profiles_too(mode):
    numbers = converted(np.array([[[200, 60, 40], [40, 90, 200]]], np.uint8), "sRGB", "Display P3")
    image = Image.fromarray(numbers).convert(mode, **({"palette": 1} if mode == "P" else {}))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.array([[255, 0]], np.uint8)))
    shown = pixels_of(encoded(image, icc_profile=rgb_profile("Display P3")))
    expected = [[[200, 60, 40], [255, 255, 255] if mode == "RGBA" else [40, 90, 200]]]
    np.testing.assert_allclose(shown, expected, atol=4)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey(mode):
    values = np.array([[0, 64, 128, 255]], np.uint8)
    image = Image.fromarray(values if mode != "I;16" else values.astype(np.uint16) * 257)
    shown = pixels_of(encoded(image.convert(mode), icc_profile=grey_profile(1.0)))
    expected = curved(values / 255, "sRGB") * 255  # 1.0: the numbers are light itself
    np.testing.assert_allclose(shown[..., 0], expected, atol=2)


INKS = {(1, 0, 0, 0): (55, -37, -50), (0, 1, 0, 0): (48, 74, -3), (0, 0, 1, 0): (89, -5, 93)}


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
@pytest.mark.parametrize("ink", INKS)
def test_cmyk(ink, format):
    """The inks of ISO 12647-2 on coated paper, which are no pure colours of a screen."""

    def corner(*inks):
        return INKS.get(inks, (95 * (1 - inks[3]) / (1 + sum(inks[:3])), 0, 0))

    image = Image.new("CMYK", (8, 8), tuple(255 * part for part in ink))
    data = encoded(image, format, icc_profile=cmyk_profile(corner))
    lightness, a, b = INKS[ink]
    np.testing.assert_allclose(pixels_of(data)[4, 4], lab_to_srgb(lightness, a, b), atol=16)


@pytest.mark.parametrize(
    "profile",
    [
        b"x" * 999,
        rgb_profile("Adobe RGB")[:200],
        rgb_profile("Adobe RGB")[:128] + b"\xff" * 400,
        grey_profile(1.0),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
    ids=["none", "cut", "damaged", "of grey", "of Lab"],
)
def test_a_profile_that_says_nothing_of_the_image_costs_nothing(profile):
    data = encoded(Image.fromarray(patches()), icc_profile=profile)
    np.testing.assert_array_equal(pixels_of(data), patches())


def test_srgb_is_passed_over():
    """In each of its shapes, which differ by rounding."""
    for profile in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile("sRGB"),
    ):
        data = encoded(Image.fromarray(patches()), icc_profile=profile)
        np.testing.assert_array_equal(pixels_of(data), patches())


def test_a_profile_is_read_once(monkeypatch):
    made, build = [], ImageCms.buildTransform

    def counted(*given, **named):
        made.append(given)
        return build(*given, **named)

    monkeypatch.setattr(ImageCms, "buildTransform", counted)
    profile = rgb_profile("Display P3") + b"\0"  # which no other test has
    for _ in range(3):
        open_image(encoded(Image.fromarray(patches()), icc_profile=profile))
    assert len(made) == 1


@pytest.mark.parametrize("space", WIDE)
def test_codes_of_the_same_picture_lie_together(space):
    encoder, generator = Encoder.initial(), np.random.default_rng(0)
    distances = []
    for _ in range(12):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
        picture = np.asarray(coarse.resize((48, 48), Image.Resampling.BICUBIC))
        wide = encoded(Image.fromarray(converted(picture, "sRGB", space)), icc_profile=rgb_profile(space))
        both = torch.stack(
            [encoder.prepare(open_image(data)) for data in (encoded(Image.fromarray(picture)), wide)]
        )
        one, other = unpack(encoder.encode(both))
        distances.append((one != other).sum())
    assert np.median(distances) <= 1
