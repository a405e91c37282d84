"""The encoder: its normalisation, its codes, its file."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from index.codes import unpack
from training.nets.encoder import Description, Encoder, Normalise, from_tiles, to_tiles
from training.nets.images import AS_SHOWN, BEFORE, Reading


def pixels(count=8, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def test_fit_gives_zero_mean_and_unit_variance():
    data = pixels(40)
    normalise = Normalise(whiten=False)
    normalise.fit(data.split(7))
    out = normalise(data)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_constant_channel_stays_finite():
    normalise = Normalise(whiten=False)
    normalise.fit([torch.full((4, 3, 8, 8), 7, dtype=torch.uint8)])
    assert torch.isfinite(normalise(torch.full((1, 3, 8, 8), 7, dtype=torch.uint8))).all()


def test_whitening_matches_numpy_zca(monkeypatch):
    monkeypatch.setattr("training.nets.encoder.TILE", 8)  # of 32 pixels a side the matrix takes half a minute
    data = pixels(300, size=8)
    normalise = Normalise(whiten=True)
    normalise.fit([data])
    normalise.fit_whitening(data.split(64), smoothing=1e-2)
    x = normalise.standardise(data).flatten(1).double().numpy()
    covariance = np.cov(x.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    expected = (x - x.mean(0)) @ (vectors / np.sqrt(values.clip(0) + 1e-2)) @ vectors.T
    np.testing.assert_allclose(normalise(data).flatten(1).numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_tiles_fold_back(size):
    x = torch.randn(2, 3, size, size)
    tiles, grid = to_tiles(x)
    assert tiles.shape == (2 * grid**2, 3072)
    assert torch.equal(tiles[0], x[0, :, :32, :32].flatten())
    assert torch.equal(from_tiles(tiles, grid, size), x)


def test_sizes_between_are_resized_and_back():
    tiles, grid = to_tiles(torch.ones(2, 3, 50, 50))
    assert grid == 2
    torch.testing.assert_close(from_tiles(tiles, grid, 50), torch.ones(2, 3, 50, 50))


def test_codes_are_the_signs_of_the_units():
    encoder = Encoder.initial()
    with torch.no_grad():
        maps = encoder.features(encoder.normalise(pixels())).flatten(1)
        expected = encoder.head.units(maps) > 0
    codes = encoder.encode(pixels())
    assert codes.shape == (8, 32)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(unpack(codes), expected.numpy())
    assert 0.2 < unpack(codes).mean() < 0.8


def test_prepare_gives_what_encode_takes():
    encoder = Encoder.initial()
    assert encoder.encode(encoder.prepare(Image.new("RGB", (50, 20)))[None]).shape == (1, 32)


@pytest.mark.parametrize(
    "chosen", [{"whiten": False}, {"whiten": True}, {"whiten": False, "norm_rescale": True}]
)
def test_saved_encoder_gives_the_same_codes_and_the_same_bytes(tmp_path, chosen):
    torch.manual_seed(0)
    encoder = Encoder(Description("conv6", 32, **chosen, bits=64, classes=5)).eval()
    for module in encoder.features.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.1, 3)
    encoder.save(tmp_path / "a.safetensors")
    loaded = Encoder.load(tmp_path / "a.safetensors")
    loaded.save(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(loaded.encode(pixels()), encoder.encode(pixels()))
    assert loaded.description == encoder.description
    assert not loaded.training
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_rescaling_is_part_of_the_code_and_absent_from_files_without_it(tmp_path):
    plain = Encoder.initial()
    for module in plain.features.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.1, 3)
    rescaled = Encoder(dataclasses.replace(plain.description, norm_rescale=True)).eval()
    rescaled.load_state_dict(plain.state_dict())
    assert not torch.equal(rescaled.projections(pixels()), plain.projections(pixels()))
    rescaled.save(tmp_path / "rescaled.safetensors")
    plain.save(tmp_path / "plain.safetensors")
    assert Encoder.load(tmp_path / "rescaled.safetensors").description.norm_rescale
    assert b"norm_rescale" not in (tmp_path / "plain.safetensors").read_bytes()
    assert not Encoder.load(tmp_path / "plain.safetensors").description.norm_rescale


def test_an_encoder_of_before_reads_images_as_before_and_keeps_its_bytes(tmp_path):
    encoder = Encoder.initial()
    assert encoder.description.reading == AS_SHOWN
    encoder.description = dataclasses.replace(encoder.description, reading=BEFORE)
    encoder.save(tmp_path / "before.safetensors")
    assert b"reading" not in (tmp_path / "before.safetensors").read_bytes()
    loaded = Encoder.load(tmp_path / "before.safetensors")
    assert loaded.description.reading == BEFORE
    assert "without the colour profile" in loaded.preprocessing()["colour"]
    assert loaded.preprocessing()["deep_grey"] == "by the brightest pixel"


def test_the_rule_of_reading_is_kept(tmp_path):
    encoder = Encoder.initial()
    encoder.description = dataclasses.replace(encoder.description, reading=Reading(grey_bits=12))
    encoder.save(tmp_path / "encoder.safetensors")
    loaded = Encoder.load(tmp_path / "encoder.safetensors")
    assert loaded.description == encoder.description
    assert loaded.preprocessing()["deep_grey"] == "as stated, else 12 bits"


def test_another_file_is_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        Encoder.load(tmp_path / "other.safetensors")


def test_damaged_file_is_refused_by_name(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        Encoder.load(tmp_path / "cut.safetensors")
