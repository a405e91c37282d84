"""PDQ against loops that follow the published description, and against what the library pdqhash says."""

import math

import numpy as np
import pytest

from training.nets.pdq import BITS, PLAIN, SAME, hashes_of, pdq, sampled, turned

# What pdqhash 0.2.8 says of `drawn(height, width)`: `compute`, the bits packed by `np.packbits`, the quality,
# and the hashes of `compute_dihedral`. Recorded once, of the grey picture in three equal channels:
#   vector, quality = pdqhash.compute(np.repeat(drawn(height, width)[:, :, None], 3, axis=2))
LIBRARY = {
    (5, 900): (100, """
        56f8fcf2a107030d7e88034c5eb8fc3ba147fcf256f8fcf2a907030d5e9803cc
        61d8348d69d8348d4b52348d9e27cb72ca733b0ec3703c8d9e27cb7261d8ce73
        03ad5658f452a9a72bdda9e60bed5691f412565803ad5658fc52a9a70bcda966
        348d9e273c8d9e273e0f9e27cb7261d89f2691a496259627cb7261d8348d64d9
        56f8030da907fcf27e88fcb35eb803cca147030d56f8030da907fcf25e98fc33
        03ada9a7f45256582bdd56190beda966f412a9a703ada9a7f45256580bcd5699
        61d8cb7269d8cb724b5acb729e27348dca73c4f1c370c3729f27348d61d8318c
        348d61d83c8d61d81e0f61d8cb729e279f266e5b962569d8ca729e27348d9b26"""),
    (32, 32): (100, """
        b6afd86daaee0268574538307fe20668379236f851ad340721fd2b577e023b63
        e000b5dda6df310c2606742dbbc7f552a2e884b2f769fb33f06817c3a29537c2
        e3fa72c7ffbfa8c20211928a2ab7acca62c79c5204f89ead74a881fd2b5781c8
        b555e088f38a645833522178ee92a007f7bdd1e7a23caa66a53d6296f7c26a96
        b6a92792aae8fd975740c74f2ee239871792c90751ad8bf821fdd4a87e00c49c
        e3fa8538ffbb573d02106d652ab7533562c763ad04f8615274a87e022b556636
        e0004a22a6dfcef366078bd2bbc70aada2e87b4df76904ccf168e83ca297c83d
        b4551c67f30a99a63352de87ee925df8f3bd2e18a23c5099a43d156957c09568"""),
    (63, 100): (100, """
        a3da1448aafa004057d3fd80f3fbeda87dd26df8e9adac0603ddae04f42c0aa6
        a736f018a7f6b13d25b5b229aa0d7016afc9053723615537236abfc0a291f5d6
        f68fbee6ffafaaea0286572aa6ae47022a87d752bcf806ac568804aea179e00c
        f263a549f2a3e46870a0e77cffd82542fabc506276360062b63fea95ffc4a082
        a1d2e903aadaffbf55d0027fe37b02576d528207a92d53f903dd01fbf40c8418
        f6874111ffaf55150284a8d5a6aeb8fd288720adbc78f9535688bb51a1591ef2
        a7360fe2a7f64e8225f54dd6aa0d8fe8afe9fac82363aac8e36a003faa910a28
        f2635a92f2a2181270a018833758dabcb81caf9c1634bf9d363f156af7c4577c"""),
    (700, 500): (100, """
        0280bfc802805541ffd15540ffd2ffe8fb52e8f8eb8d6146ab5dfe02f40c7606
        4beee0084bffa038cbeca0b8ebada047eb60a0270160f537416affc42a95e7d7
        56c5156257d5ffeaaa84ffe2aa865542aa074252bed8cbecfe0854a8a159c4ac
        1ebbb55d1eaaf52c1eb8f52dbef87512be35f57254152062103faa9157c0a082
        0a8040370282aaaeffd1aabfffd20017fb520207ebad8eb9ab5d01fdf40c89f9
        5fd5ea9d57d70014aa860015aa87aabdae07a9adbef83413fe08ab57a1592353
        4bee1ff74bff5f874bec5f07ebad5fb8eb605fd801400ac8416a003b02951828
        1ebb4aa21eaa0a829eb90a12bef80aadbe350a8d54354f9d143f556e77c04d7d"""),
}  # fmt: skip


def drawn(height, width):
    """The same grey picture in any size, by whole numbers alone."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    y, x = y * 840 // height, x * 840 // width
    waves = [(3, 1, 0), (1, -2, 70), (5, 4, 200), (-7, 3, 90), (2, 9, 11)]
    total = sum(abs((along * x + down * y + start) * 2 % 1020 - 510) for along, down, start in waves)
    total = total + (x * x // 97 + y * y // 61) % 256 * 3
    return (total * 255 // total.max()).astype(np.uint8)


def box_filtered(row):
    """One pass over a row: a window that grows, slides and shrinks, as the paper's appendix has it."""
    length = len(row)
    full = (length + 2 * 64 - 1) // (2 * 64)
    half = (full + 2) // 2
    means, total, count, right, left = [], 0.0, 0, 0, 0
    for step in range(half - 1 + length):
        if right < length:
            total, count, right = total + row[right], count + 1, right + 1
        if step >= full and left < length:
            total, count, left = total - row[left], count - 1, left + 1
        if step >= half - 1:
            means.append(total / count)
    return means


def reference(grey):
    """The frequencies (16 x 16) row by row, in float64, and the quality."""
    rows = [[float(value) for value in row] for row in grey]
    for _ in range(2):
        rows = [box_filtered(row) for row in rows]
        columns = [box_filtered(column) for column in zip(*rows, strict=True)]
        rows = [list(row) for row in zip(*columns, strict=True)]
    height, width = len(rows), len(rows[0])
    small = [
        [rows[int((i + 0.5) * height / 64)][int((j + 0.5) * width / 64)] for j in range(64)]
        for i in range(64)
    ]
    wave = [
        [math.sqrt(2 / 64) * math.cos(math.pi / 128 * k * (2 * n + 1)) for n in range(64)]
        for k in range(1, 17)
    ]
    half = [[sum(wave[k][i] * small[i][j] for i in range(64)) for j in range(64)] for k in range(16)]
    frequencies = [sum(half[k][j] * wave[m][j] for j in range(64)) for k in range(16) for m in range(16)]
    steps = [small[i + 1][j] - small[i][j] for i in range(63) for j in range(64)]
    steps += [small[i][j + 1] - small[i][j] for i in range(64) for j in range(63)]
    return frequencies, min(sum(abs(int(step * 100 / 255)) for step in steps) // 90, 100)


def apart(one, other):
    return int(np.bitwise_count(one ^ other).sum())


@pytest.mark.parametrize("size", [(5, 900), (32, 32), (63, 100), (300, 260)])
@pytest.mark.parametrize("kind", ["drawn", "noise"])
def test_as_published(size, kind):
    grey = drawn(*size) if kind == "drawn" else np.random.default_rng(size[0]).integers(0, 256, size)
    frequencies, quality = reference(grey)
    made = pdq(grey.astype(np.float32))
    bits = np.unpackbits(made.upright)[::-1]
    middle = sorted(frequencies)[127]  # of 256 the lower one of the two in the middle
    sure = abs(np.array(frequencies) - middle) > 1e-3  # 32-bit floats may take the others for either
    assert sure.sum() > 250
    assert (bits == (np.array(frequencies) > middle))[sure].all()
    assert made.quality == quality


@pytest.mark.parametrize("size", LIBRARY)
def test_the_library_says_the_same_bit_for_bit(size):
    quality, hashes = LIBRARY[size]
    made = pdq(drawn(*size).astype(np.float32))
    assert made.upright.tobytes().hex() == hashes.split()[0]
    assert {each.tobytes().hex() for each in made.hashes} == set(hashes.split())
    assert made.quality == quality


def test_one_pixel_has_no_detail():
    """The library gives up on pictures below five pixels. These have a hash and no quality."""
    made = pdq(np.full((1, 1), 128, np.float32))
    assert (made.hashes.shape, made.quality) == ((8, 32), 0)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (5,), (5, 5, 3)])
def test_what_is_no_grey_picture_is_refused(shape):
    with pytest.raises(ValueError, match=r"wanted \(H, W\)"):
        pdq(np.zeros(shape, np.float32))


@pytest.mark.parametrize("size", LIBRARY)
def test_the_eight_hashes_are_those_of_the_turned_and_mirrored_picture(size):
    """Not bit for bit: what is sampled lies a little beside the middle. 0 bits at 32 x 32 and 63 x 100, at
    most 6 at 5 x 900 and 24 at 700 x 500."""
    picture = drawn(*size).astype(np.float32)
    eight, found = pdq(picture).hashes, set()
    for quarters in range(4):
        for mirrored in (False, True):
            seen = np.rot90(picture, quarters)
            seen = seen[:, ::-1] if mirrored else seen
            hash_ = pdq(np.ascontiguousarray(seen)).upright
            distances = [apart(hash_, each) for each in eight]
            found.add(int(np.argmin(distances)))
            assert sorted(distances)[0] <= SAME < 60 < sorted(distances)[1]
    assert found == set(range(8))


def test_hashes_of_many_are_those_of_each():
    many = np.stack([sampled(drawn(*size).astype(np.float32)) for size in LIBRARY])
    alone = [pdq(drawn(*size).astype(np.float32)).upright for size in LIBRARY]
    assert np.array_equal(hashes_of(many), np.stack(alone))


def test_half_of_the_bits_are_set():
    """Those above the lower one of two medians: where no two frequencies are the same, 128."""
    for size in LIBRARY:
        assert all(
            np.bitwise_count(each).sum() == BITS // 2 for each in pdq(drawn(*size) * np.float32(1)).hashes
        )


def test_another_light_leaves_the_hash_and_another_picture_does_not():
    picture = drawn(120, 90).astype(np.float32)
    assert apart(pdq(picture).upright, pdq(picture * 0.5 + 40).upright) <= 2
    other = np.random.default_rng(1).integers(0, 256, (120, 90)).astype(np.float32)
    assert apart(pdq(picture).upright, pdq(other).upright) > 90


@pytest.mark.parametrize("kind", ["one grey", "ramp", "one dark corner"])
def test_a_plain_picture_has_a_low_quality(kind):
    picture = np.full((200, 300), 90, np.float32)
    if kind == "ramp":
        picture += np.linspace(0, 100, 300, dtype=np.float32)
    if kind == "one dark corner":
        picture[:40, :40] = 10
    assert pdq(picture).quality < PLAIN
    assert pdq(drawn(200, 300).astype(np.float32)).quality >= PLAIN


def test_the_eight_hashes_follow_from_one_nearly():
    """At most 28 bits are others in these, made of long waves; each is nearest to its own."""
    many = [pdq(drawn(*size).astype(np.float32)) for size in LIBRARY]
    many += [pdq(np.random.default_rng(n).integers(0, 256, (90, 70)).astype(np.float32)) for n in range(20)]
    made = turned(np.stack([each.upright for each in many])).reshape(len(many), 8, 32)
    for eight, each in zip(made, many, strict=True):
        distances = np.bitwise_count(eight[:, None] ^ each.hashes[None]).sum(axis=2)
        assert distances.argmin(axis=1).tolist() == list(range(8))
        assert distances.diagonal().max() <= SAME
        assert np.array_equal(eight[0], each.upright)


def test_whichever_of_two_is_turned_they_are_as_near():
    """The ways of a way are the same ways, and no way brings two hashes nearer to each other."""
    random = np.random.default_rng(0)
    one, other = random.integers(0, 256, (2, 1, 32), dtype=np.uint8)
    ways = turned(one)
    assert len(np.unique(ways, axis=0)) == 8
    for way in ways:
        assert np.array_equal(np.unique(turned(way[None]), axis=0), np.unique(ways, axis=0))
    there = np.bitwise_count(turned(one) ^ other).sum(axis=1)
    back = np.bitwise_count(turned(other) ^ one).sum(axis=1)
    assert sorted(there.tolist()) == sorted(back.tolist())


def test_of_no_hashes_none_are_turned():
    assert turned(np.empty((0, 32), np.uint8)).shape == (0, 32)
