"""Files that a viewer shows though something in them is wrong, and those that go on being refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.service.hostile import KIT, chunk, noise, png, saved, with_chunks
from tests.training.nets.profiles import rgb_profile
from training.nets import images
from training.nets.images import BrokenImage, ImageError, open_image

PNG = saved(noise())
JPEG = saved(noise(64, 48), "JPEG")
SPOILT = 1  # a checksum that nothing has


def refusal(data):
    try:
        open_image(data)
    except ImageError as error:
        return str(error)
    return None


def same(data, good):
    assert refusal(data) is None
    np.testing.assert_array_equal(np.asarray(open_image(data)), np.asarray(open_image(good)))


# --- PNG -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("megabytes", [2, 8])
@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "packed iTXt", "iCCP"])
def test_large_texts_and_profiles(kind, megabytes):
    """A workflow, an editing history, the profile of a press."""
    size = megabytes << 20
    text = np.random.default_rng(0).choice(np.frombuffer(b" abcdefgh", np.uint8), size).tobytes()
    if kind == "iCCP":
        profile = rgb_profile("sRGB")
        text = struct.pack(">I", size) + profile[4:] + bytes(size - len(profile))
    packed = zlib.compress(text, 1)
    made = {
        "tEXt": chunk(b"tEXt", b"Comment\0" + text),
        "zTXt": chunk(b"zTXt", b"Comment\0\0" + packed),
        "iTXt": chunk(b"iTXt", b"Comment\0\0\0\0\0" + text),
        "packed iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + packed),
        "iCCP": chunk(b"iCCP", b"profile\0\0" + packed),
    }
    same(with_chunks(made[kind]), PNG)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tEXt", b"Comment\0hello", crc=SPOILT),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"hello"), crc=SPOILT),
        chunk(b"tIME", bytes(7), crc=SPOILT),
        chunk(b"pHYs", bytes(9), crc=SPOILT),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(rgb_profile("ProPhoto")), crc=SPOILT),
        chunk(b"eXIf", b"II*\0" + bytes(20), crc=SPOILT),
        chunk(b"prVt", b"private", crc=SPOILT),
        chunk(b"zTXt", b"Comment\0\7hello"),  # an unknown method of compression
        chunk(b"iCCP", b"profile\0\7hello"),
        chunk(b"iCCP", b"\0\0"),
        chunk(b"pHYs", b"short"),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", bytes(5)),
        chunk(b"sRGB", b""),
        chunk(b"acTL", b"\0"),
        chunk(b"tRNS", bytes(6), crc=SPOILT),
    ],
)
def test_a_damaged_chunk_that_does_not_matter(extra):
    same(with_chunks(extra), PNG)
    same(with_chunks(chunk(b"tEXt", b"a\0b"), extra, extra), PNG)


def test_what_is_not_damaged_counts_beside_what_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    good = saved(noise(), exif=exif, icc_profile=rgb_profile("ProPhoto"))
    same(good[:33] + chunk(b"tIME", bytes(7), crc=SPOILT) + good[33:], good)


def test_a_png_whose_end_is_missing():
    same(PNG[:-12], PNG)
    same(PNG[:-12] + chunk(b"tEXt", b"Comment\0hello", crc=SPOILT), PNG)


@pytest.mark.parametrize(
    "name",
    [
        "text that unpacks to 40 MB",
        "Unicode text that unpacks to 40 MB",
        "100 texts that unpack to 1 MB each",
        "colour profile that unpacks to 40 MB",
        "PNG with another checksum",
        "PNG with damaged pixels",
        "PNG without an end",
    ],
)
def test_nothing_else_is_mended(name):
    """Beside a damaged chunk neither."""
    data = KIT[name].make()
    for content in (data, data[:33] + chunk(b"tIME", bytes(7), crc=SPOILT) + data[33:]):
        with pytest.raises(BrokenImage, match="damaged"):
            open_image(content)


# --- the depth that a PNG states -------------------------------------------------------------------


def deep_png(values, *extra):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], rows, *extra, bits=16, colour=0)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_significant_bits_of_numbers_as_they_came(bits):
    values = np.random.default_rng(0).integers(0, 1 << bits, (6, 8))
    shown = np.asarray(open_image(deep_png(values, chunk(b"sBIT", bytes([bits])))))[..., 0]
    np.testing.assert_allclose(shown, values / ((1 << bits) - 1) * 255, atol=1)
    one, other = (values // 8).copy(), (values // 8).copy()
    one[0, 0], other[0, 0] = 1, (1 << bits) - 1  # a hot pixel
    one, other = (
        np.asarray(open_image(deep_png(each, chunk(b"sBIT", bytes([bits]))))) for each in (one, other)
    )
    np.testing.assert_array_equal(one[1:], other[1:])


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("dark", [False, True])
def test_significant_bits_of_numbers_that_fill_the_range(bits, dark):
    """As the specification has it, 12.4: what is significant was scaled up."""
    significant = np.random.default_rng(0).integers(0, 1 << (bits - 6 * dark), (6, 8))
    values = significant << (16 - bits) | significant >> (2 * bits - 16)
    for asked in ({}, {"reading": images.Reading(grey_bits=bits)}):
        shown = np.asarray(open_image(deep_png(values, chunk(b"sBIT", bytes([bits]))), **asked))[..., 0]
        np.testing.assert_allclose(shown, values / 65535 * 255, atol=1)


def test_transparent_grey_of_16_bits_lies_on_white():
    data = deep_png(np.array([[0, 1000, 30_000]]), chunk(b"tRNS", struct.pack(">H", 1000)))
    np.testing.assert_allclose(np.asarray(open_image(data))[0, :, 0], [0, 255, 117], atol=1)
    assert np.asarray(open_image(data, reading=images.BEFORE))[0, 1, 0] < 20


# --- JPEG ------------------------------------------------------------------------------------------


def segment(kind, data):
    return bytes([0xFF, kind]) + struct.pack(">H", 2 + len(data)) + data


def with_segments(*extra):
    return JPEG[:2] + b"".join(extra) + JPEG[2:]


GREY_JPEG = saved(noise(64, 48, 1), "JPEG")
PROGRESSIVE = saved(noise(64, 48), "JPEG", progressive=True, quality=90)
CMYK_JPEG = saved(noise(64, 48).convert("CMYK"), "JPEG")
RESTARTING = saved(noise(64, 48), "JPEG", restart_marker_blocks=3)


@pytest.mark.parametrize("good", [JPEG, GREY_JPEG, PROGRESSIVE, CMYK_JPEG, RESTARTING])
def test_a_jpeg_without_its_end_marker(good):
    assert good.endswith(b"\xff\xd9")
    same(good[:-2], good)
    same(good[:-1], good)


@pytest.mark.parametrize("good", [JPEG, GREY_JPEG, PROGRESSIVE, CMYK_JPEG, RESTARTING])
@pytest.mark.parametrize("lost", [3, 4, 6, 10, 50, 300])
def test_a_jpeg_that_breaks_off_earlier_is_refused(good, lost):
    """From the last byte on that holds more than the padding of the last block."""
    with pytest.raises(BrokenImage, match="truncated"):
        open_image(good[: -lost - 1])


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xED, b"Photoshop 3.0\x008BIM"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\x00\x00\xff\xff\xff\xffshort"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\x00\x00\x00\x00\x00\x02\x00\x48"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\x05abc"),
        segment(0xEE, b"Adobe"),
        segment(0xEE, b"Adobe\0"),
        segment(0xEE, b"Adobe\0\x64\0\0"),
        segment(0xE0, b"JFIF"),
        segment(0xE0, b"JFIF\0"),
        segment(0xE2, b"MPF\0"),
        segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"ICC_PROFILE\0\7\1short"),
        segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(0xE1, b"Exif\0\0"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<"),
        segment(0xFE, b"comment") + b"\0\0rubbish",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_odd_segment_that_does_not_matter(extra):
    same(with_segments(extra), JPEG)
    same(with_segments(extra)[:-2], JPEG)


def test_what_is_not_odd_counts_beside_what_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    good = saved(noise(64, 48), "JPEG", exif=exif, icc_profile=rgb_profile("ProPhoto"))
    same(good[:2] + segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04") + good[2:], good)


def test_the_limit_of_scans_counts_without_an_end_too():
    data = KIT["JPEG of 100,000 scans"].make()
    with pytest.raises(BrokenImage, match="more than 100 scans"):
        open_image(data[:-2])


# --- what programs leave out -----------------------------------------------------------------------


def tga(pixels, *, kind=2, bits=32, alpha_bits=8):
    height, width = pixels.shape[:2]
    head = bytes([0, 0, kind]) + bytes(9) + struct.pack("<HHBB", width, height, bits, 0x20 | alpha_bits)
    return head + pixels.tobytes()


def bmp(pixels, *, size=108):
    """With masks of colours and alpha."""
    height, width = pixels.shape[:2]
    info = struct.pack("<IiiHHIIiiII", size, width, -height, 1, 32, 3, pixels.nbytes, 2835, 2835, 0, 0)
    info += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs"
    info = info.ljust(size, b"\0")[:size]
    return b"BM" + struct.pack("<IHHI", 14 + size + pixels.nbytes, 0, 0, 14 + size) + info + pixels.tobytes()


COLOURS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    "written", [tga, bmp, lambda pixels: bmp(pixels, size=124), lambda p: bmp(p, size=56)]
)
def test_alpha_that_is_0_everywhere_is_none(written):
    """Programs leave it so; the picture was white."""
    unset = np.dstack([COLOURS[..., ::-1], np.zeros((4, 6), np.uint8)])
    np.testing.assert_array_equal(np.asarray(open_image(written(unset))), COLOURS)
    np.testing.assert_array_equal(np.asarray(open_image(written(unset), reading=images.BEFORE)), 255)
    partly = unset.copy()
    partly[0, 0, 3] = 255
    shown = np.asarray(open_image(written(partly)))
    assert shown[0, 0].tolist() == COLOURS[0, 0].tolist()
    assert (shown.reshape(-1, 3)[1:] == 255).all()


def test_a_tga_of_16_bits_without_alpha():
    pixels = np.array([[0x001F, 0x801F], [0x7C00, 0xFC00]], "<u2")
    shown = np.asarray(open_image(tga(pixels, bits=16, alpha_bits=0)))
    assert shown.tolist() == [[[0, 0, 255]] * 2, [[255, 0, 0]] * 2]


def test_a_transparent_png_stays_white():
    clear = Image.fromarray(np.dstack([COLOURS, np.zeros((4, 6), np.uint8)]))
    assert (np.asarray(open_image(saved(clear))) == 255).all()


def test_associated_alpha_of_grey():
    """What Pillow calls La it converts to nothing but LA."""
    out = io.BytesIO()
    Image.fromarray(np.array([[[100, 200], [0, 0]]], np.uint8)).save(out, "TIFF")
    data = out.getvalue().replace(struct.pack("<HHII", 338, 3, 1, 2), struct.pack("<HHII", 338, 3, 1, 1))
    assert data != out.getvalue()
    for reading in (images.Reading(), images.BEFORE):
        shown = np.asarray(open_image(data, reading=reading))[0, :, 0]
        np.testing.assert_allclose(shown, [100 + 55, 255], atol=2)


def test_pillows_limit_of_texts_is_raised_and_no_more():
    assert PngImagePlugin.MAX_TEXT_CHUNK == 32 << 20
    assert PngImagePlugin.MAX_TEXT_MEMORY == 64 << 20
    with pytest.raises(ImageError):
        open_image(KIT["text that unpacks to 40 MB"].make())
