"""TIFF as it is shown, of every kind of sample: values of ImageMagick 6.9, where nothing else is said."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from training.nets import images
from training.nets.images import BrokenImage, TooManyPixels, open_image

SHORT, LONG, FLOAT = 3, 4, 11
GREY = np.array([[0, 64, 128, 255], [10, 20, 200, 250]])
COLOUR = np.random.default_rng(0).integers(0, 256, (2, 4, 3))
FOURTH = np.array([[0, 64, 128, 255], [255, 255, 200, 0]])
WHITE_IS_0, BLACK_IS_0, RGB, CMYK = 0, 1, 2, 5


def written(samples, photometric, *, bits=None, order="<", apart=False, compression=1, tile=None, **more):
    """A TIFF of samples (H, W, bands). `more` are tags by number: t338=[2]."""
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width, bands = samples.shape
    planes = [samples[..., [band]] for band in range(bands)] if apart else [samples]
    pieces = [packed(part, bits, order) for plane in planes for part in tiles(plane, tile)]
    size = bits or samples.dtype.itemsize * 8
    tags = {256: [width], 257: [height], 258: [size] * bands, 259: [compression], 262: [photometric]}
    tags |= {277: [bands], 284: [1 + apart], 339: [{"u": 1, "i": 2, "f": 3}[samples.dtype.kind]] * bands}
    tags |= {int(name[1:]): values for name, values in more.items()}
    places = (324, 325) if tile else (273, 279)
    tags |= {322: [tile], 323: [tile]} if tile else {278: [height]}
    return assembled([(tags, pieces, places)], order)


def assembled(pages, order="<"):
    """Of pages, each of its tags, its pieces, and the tags of where these are and how long."""
    file, at_pointer = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4)), 4
    for tags, pieces, (offsets, counts) in pages:
        starts = []
        for piece in pieces:
            starts.append(len(file))
            file += piece + bytes(len(piece) % 2)
        tags = tags | {offsets: starts, counts: [len(piece) for piece in pieces]}
        at = len(file)
        file[at_pointer : at_pointer + 4] = struct.pack(order + "I", at)
        entries, behind, tail = b"", b"", at + 6 + 12 * len(tags)
        for tag, values in sorted(tags.items()):
            kind = FLOAT if isinstance(values[0], float) else LONG if tag in (offsets, counts) else SHORT
            content = struct.pack(
                order + str(len(values)) + {SHORT: "H", LONG: "I", FLOAT: "f"}[kind], *values
            )
            if len(content) > 4:
                content, behind = struct.pack(order + "I", tail + len(behind)), behind + content
            entries += struct.pack(order + "HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
        file += struct.pack(order + "H", len(tags)) + entries
        at_pointer = len(file)
        file += bytes(4) + behind
    return bytes(file)


def tiles(plane, tile):
    if tile is None:
        return [plane]
    height, width = -(-plane.shape[0] // tile) * tile, -(-plane.shape[1] // tile) * tile
    padded = np.zeros((height, width, plane.shape[2]), plane.dtype)
    padded[: plane.shape[0], : plane.shape[1]] = plane
    return [padded[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]


def packed(part, bits, order):
    if bits is None or (bits % 8 == 0 and bits == part.dtype.itemsize * 8):
        return part.astype(part.dtype.newbyteorder(order)).tobytes()
    every = (part.reshape(len(part), -1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(every.astype(np.uint8).reshape(len(part), -1), axis=1).tobytes()


def shown(data, **asked):
    try:
        open_image(data, **asked)
    except BrokenImage as error:
        raise AssertionError("refused") from error
    return np.asarray(open_image(data, **asked)).astype(int)


def deep(values, kind):
    """8-bit values in all of the range of another kind of number."""
    if kind[0] == "f":
        return (values / 255).astype(kind)
    bits = np.dtype(kind).itemsize * 8
    full = values * ((1 << bits) - 1) // 255
    return (full - (1 << (bits - 1)) if kind[0] == "i" else full).astype(kind)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("photometric", [WHITE_IS_0, BLACK_IS_0])
@pytest.mark.parametrize("apart", [False, True])
def test_grey(order, kind, photometric, apart):
    """ImageMagick forgets that white is 0 in 32 bits and floats; TIFF 6.0 does not, page 37."""
    data = written(deep(GREY, kind), photometric, order=order, apart=apart)
    expected = GREY if photometric else 255 - GREY
    np.testing.assert_allclose(shown(data)[..., 0], expected, atol=1)


def test_files_of_more_than_four_gigabytes_are_read_too():
    """BigTIFF, whose header is longer."""
    out = io.BytesIO()
    Image.fromarray(deep(GREY, "u2")).save(out, "TIFF", big_tiff=True)
    assert out.getvalue()[2] == 43
    np.testing.assert_allclose(shown(out.getvalue())[..., 0], GREY, atol=1)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f4"])
@pytest.mark.parametrize("apart", [False, True])
def test_colours(order, kind, apart):
    data = written(deep(COLOUR, kind), RGB, order=order, apart=apart)
    np.testing.assert_allclose(shown(data), COLOUR, atol=1)


@pytest.mark.parametrize("bits", [2, 4, 10, 12, 14, 24])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("photometric", [WHITE_IS_0, BLACK_IS_0])
def test_grey_of_other_depths_is_scaled_from_them(bits, order, photometric):
    white = (1 << bits) - 1
    values = np.array([[0, white // 3, white]])
    if bits == 24:
        byte_order = "little" if order == "<" else "big"
        pixels = b"".join(int(value).to_bytes(3, byte_order) for value in values[0])
        tags = {256: [3], 257: [1], 258: [24], 259: [1], 262: [photometric], 277: [1], 278: [1]}
        data = assembled([(tags, [pixels], (273, 279))], order)
    else:
        data = written(values.astype(np.uint16), photometric, bits=bits, order=order)
    expected = np.array([0, 85, 255])
    np.testing.assert_allclose(shown(data)[0, :, 0], expected if photometric else 255 - expected, atol=1)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("declared", [None, 0])
@pytest.mark.parametrize("apart", [False, True])
def test_a_sample_that_is_not_declared_to_be_alpha_is_none(kind, declared, apart):
    more = {} if declared is None else {"t338": [declared]}
    for colours, photometric in ((COLOUR, RGB), (GREY[..., None], BLACK_IS_0)):
        for alpha in (FOURTH, 0 * FOURTH):
            data = written(deep(np.dstack([colours, alpha]), kind), photometric, apart=apart, **more)
            expected = np.broadcast_to(colours, COLOUR.shape)
            np.testing.assert_allclose(shown(data), expected, atol=1)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("declared", [1, 2])
@pytest.mark.parametrize("apart", [False, True])
def test_declared_alpha_lies_on_white(kind, declared, apart):
    """1: the colours are multiplied by it already."""
    alpha = FOURTH[..., None] / 255
    for colours, photometric in ((COLOUR, RGB), (GREY[..., None], BLACK_IS_0)):
        stored = (colours * alpha).round().astype(int) if declared == 1 else colours
        data = written(deep(np.dstack([stored, FOURTH]), kind), photometric, apart=apart, t338=[declared])
        expected = np.broadcast_to(colours * alpha + 255 * (1 - alpha), COLOUR.shape)
        np.testing.assert_allclose(shown(data), expected, atol=2)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("apart", [False, True])
def test_inks(kind, apart):
    inks = np.dstack([COLOUR, FOURTH])
    expected = (255 - COLOUR) * (255 - FOURTH[..., None]) / 255
    data = written(deep(inks, kind), CMYK, apart=apart)
    np.testing.assert_allclose(shown(data), expected, atol=2)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("order", "<>")
def test_compressed_planes(compression, order):
    """libtiff compresses each plane as an image of its own; the file is made of such images."""
    numbers = {"tiff_lzw": 5, "tiff_adobe_deflate": 8, "packbits": 32773, "lzma": 34925, "zstd": 50000}
    planes = []
    for band in range(3):
        out = io.BytesIO()
        rows = deep(COLOUR[..., band], "u2").astype(order + "u2").view(np.uint8)
        Image.fromarray(rows).save(out, "TIFF", compression=compression)
        with Image.open(out) as plane:
            start, count = plane.tag_v2[273][0], plane.tag_v2[279][0]
        planes.append(out.getvalue()[start : start + count])
    tags = {256: [4], 257: [2], 258: [16] * 3, 259: [numbers[compression]], 262: [RGB], 277: [3], 278: [2]}
    data = assembled([(tags | {284: [2]}, planes, (273, 279))], order)
    np.testing.assert_allclose(shown(data), COLOUR, atol=1)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("tile", [None, 16])
def test_predicted_from_the_left_neighbour(kind, order, tile):
    """Predictor 2, within each tile."""
    colours = np.random.default_rng(1).integers(0, 256, (20, 24, 3))
    values = deep(colours, kind)
    pieces = []
    for part in tiles(values, tile):
        differences = part.copy()
        differences[:, 1:] -= part[:, :-1]
        pieces.append(zlib.compress(packed(differences, None, order)))
    tags = {256: [24], 257: [20], 258: [values.itemsize * 8] * 3, 259: [8], 262: [RGB], 277: [3], 317: [2]}
    tags |= {322: [tile], 323: [tile]} if tile else {278: [20]}
    data = assembled([(tags, pieces, (324, 325) if tile else (273, 279))], order)
    np.testing.assert_allclose(shown(data), colours, atol=1)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_floats_whose_bytes_are_predicted(bands, kind):
    """Predictor 3: of a row all first bytes, then all second ones, and of these the differences."""
    colours = np.random.default_rng(1).integers(0, 256, (5, 7, bands))
    values = (colours / 255).astype(">" + kind)
    apart = values.view(np.uint8).reshape(5, 7 * bands, -1).transpose(0, 2, 1).reshape(5, -1, bands)
    differences = apart.copy()
    differences[:, 1:] -= apart[:, :-1]
    tags = {256: [7], 257: [5], 258: [values.itemsize * 8] * bands, 259: [8], 277: [bands], 278: [5]}
    tags |= {262: [RGB if bands == 3 else BLACK_IS_0], 317: [3], 339: [3] * bands}
    data = assembled([(tags, [zlib.compress(differences.tobytes())], (273, 279))])
    np.testing.assert_allclose(shown(data), np.broadcast_to(colours, (5, 7, 3)), atol=1)


@pytest.mark.parametrize("photometric", [WHITE_IS_0, BLACK_IS_0])
def test_tiles_of_packed_numbers(photometric):
    values = np.random.default_rng(1).integers(0, 4096, (20, 24)).astype(np.uint16)
    grey = shown(written(values, photometric, bits=12, tile=16))[..., 0]
    expected = values / 4095 * 255
    np.testing.assert_allclose(grey, expected if photometric else 255 - expected, atol=1)


# --- what is white ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_the_stated_white_counts(bits):
    white = (1 << bits) - 1
    values = np.array([[0, white // 2, white]], np.uint16)
    np.testing.assert_allclose(shown(written(values, 1, t341=[white]))[0, :, 0], [0, 127, 255], atol=1)
    np.testing.assert_allclose(shown(written(values, 0, t341=[white]))[0, :, 0], [255, 128, 0], atol=1)
    floats = written(values.astype(np.float32), 1, t341=[float(white)])
    np.testing.assert_allclose(shown(floats)[0, :, 0], [0, 127, 255], atol=1)


def test_one_hot_pixel_changes_no_other():
    """The numbers of one camera mean the same in each of its frames."""
    frame = np.random.default_rng(0).integers(0, 900, (6, 6)).astype(np.uint16)
    hot = frame.copy()
    hot[0, 0] = 60_000
    calm, other = (shown(written(values, 1))[..., 0].flat[1:] for values in (frame, hot))
    np.testing.assert_array_equal(calm, other)
    reading = images.Reading(grey_bits=12)
    calm, other = (shown(written(values, 1), reading=reading)[..., 0] for values in (frame, hot))
    np.testing.assert_array_equal(calm.flat[1:], other.flat[1:])
    np.testing.assert_allclose(calm, frame / 4095 * 255, atol=1)
    assert other[0, 0] == 255


def test_encoders_of_before_read_by_the_brightest_pixel():
    values = np.array([[0, 512, 1023]], np.uint16)
    assert shown(written(values, 1), reading=images.BEFORE)[0, :, 0].tolist() == [0, 128, 255]
    assert shown(written(values, 1, t341=[4095]), reading=images.BEFORE)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("stated", [{"bits": 12}, {"t341": [4095]}])
def test_what_the_file_states_comes_before_the_setting(stated):
    values = np.array([[0, 2048, 4095]], np.uint16)
    grey = shown(written(values, 1, **stated), reading=images.Reading(grey_bits=16))
    np.testing.assert_allclose(grey[0, :, 0], [0, 128, 255], atol=1)


# --- pages, turning, profiles ----------------------------------------------------------------------


def page(values, **more):
    height, width = values.shape
    tags = {256: [width], 257: [height], 258: [8], 259: [1], 262: [1], 277: [1], 278: [height]}
    tags |= {int(name[1:]): value for name, value in more.items()}
    return tags, [values.astype(np.uint8).tobytes()], (273, 279)


@pytest.mark.parametrize("flag", [{"t254": [1]}, {"t255": [2]}])
@pytest.mark.parametrize("order", "<>")
def test_a_smaller_version_before_the_picture_is_not_the_picture(flag, order):
    large = np.arange(96).reshape(8, 12)
    data = assembled([page(large[::4, ::4], **flag), page(large[::2, ::2], **flag), page(large)], order)
    np.testing.assert_array_equal(shown(data)[..., 0], large)
    np.testing.assert_array_equal(shown(data, reading=images.BEFORE)[..., 0], large[::4, ::4])


def test_where_all_are_smaller_the_first_is_shown():
    small = np.arange(6).reshape(2, 3)
    data = assembled([page(small, t254=[1]), page(small.T, t254=[1])])
    np.testing.assert_array_equal(shown(data)[..., 0], small)


def test_pages_that_follow_each_other_in_a_ring_end():
    data = bytearray(assembled([page(np.arange(6).reshape(2, 3), t254=[1])]))
    directory = struct.unpack("<I", data[4:8])[0]
    following = directory + 2 + 12 * struct.unpack("<H", data[directory : directory + 2])[0]
    data[following : following + 4] = data[4:8]
    assert shown(bytes(data)).shape == (2, 3, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pictures_are_turned_as_flat_ones_are(orientation):
    flat, deeper = (written(deep(COLOUR, kind), RGB, t274=[orientation]) for kind in ("u1", "u4"))
    np.testing.assert_allclose(shown(deeper), shown(flat), atol=1)


# --- what is not read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"t259": [34712]}, "compression 34712"),
        ({"t259": [60_000]}, "compression 60000"),
        ({"t262": [32803]}, "camera's sensor"),
        ({"t262": [32845]}, "photometric interpretation 32845"),
        ({"t339": [6]}, "sample format 6"),
        ({"t258": [64]}, "1 × 64 bits"),
    ],
)
def test_kinds_that_are_not_read_are_named(tags, named):
    values = GREY.astype(np.uint64 if "t258" in tags else np.uint16)
    with pytest.raises(BrokenImage, match=named) as refused:
        open_image(written(values, 1, **tags))
    assert "damaged" not in str(refused.value)
    assert "save the picture" in str(refused.value)


def test_the_limit_counts_before_deep_pixels_are_decoded():
    data = written(deep(COLOUR, "u4"), RGB, t256=[60_000], t257=[60_000])
    with pytest.raises(TooManyPixels, match="60000 × 60000"):
        open_image(data)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_deep_pictures_that_break_off_are_refused(share):
    values = np.random.default_rng(0).integers(0, 2**32, (32, 32, 3), np.uint32)
    tags_first = written(values, RGB)
    directory = struct.unpack("<I", tags_first[4:8])[0]
    pixels = tags_first[8:directory]
    cut = bytearray(tags_first)
    del cut[8 + int(len(pixels) * share) : directory]  # the directory goes on to be found
    cut[4:8] = struct.pack("<I", directory - (len(tags_first) - len(cut)))
    with pytest.raises(BrokenImage):
        open_image(bytes(cut))


def test_what_can_be_read_can_be_given_out(tmp_path):
    """Also what Pillow alone would not know."""
    path = tmp_path / "deep.tif"
    path.write_bytes(written(deep(GREY, "f8"), WHITE_IS_0))
    assert images.looks_like_an_image(path)
    path.write_bytes(b"II*\0" + bytes(100))
    assert not images.looks_like_an_image(path)
