"""From a trained run to an artifact: what is encoded, and of which pixels."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.test_build_index import striped_folder
from training.config import configure
from training.export import export
from training.nets.encoder import Embeddings, Encoder
from training.nets.images import open_image
from training.pixels import PixelsOnDemand
from training.run import Run, learn_encoder, pixels_of

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("narrow", "few")]


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images were embedded each time."""
    counts, embed = list[int](), Encoder.embed

    def counted(self: Encoder, pixels: torch.Tensor) -> Embeddings:
        counts.append(len(pixels))
        return embed(self, pixels)

    monkeypatch.setattr(Encoder, "embed", counted)
    return counts


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("epochs", [0, 1])
def test_what_training_embedded_is_not_embedded_again_unless_it_changed(
    tmp_path: Path, embedded: list[int], monkeypatch: pytest.MonkeyPatch, in_memory: bool, epochs: int
) -> None:
    pictures = striped_folder(tmp_path / "pictures", 80)
    if not in_memory:
        monkeypatch.setattr("training.pixels.MEMORY_LIMIT", 0)
    values = {"data": str(pictures), "image_size": 28, "bits": 32, "labels": "50%", "student_epochs": epochs}
    run = Run(configure(values), None)
    assert isinstance(run.pixels, PixelsOnDemand) != in_memory
    run.train()
    one, other = run.split.database[3], run.split.database[4]
    shutil.copy(pictures / run.images.paths[other], pictures / run.images.paths[one])
    embedded.clear()
    made = export(run, "ITQ", tmp_path / "staging", tmp_path / "made")
    everything = len(run.split.database) + len(run.split.queries)
    assert sum(embedded) == (len(run.split.queries) + 1 if in_memory else everything)
    encoder = Encoder.load(made.encoder_path)
    with made.open_catalogue() as catalogue:
        paths = {item.id: item.path for item in catalogue.every_item()}
        (ids, vectors), table = catalogue.embeddings(), catalogue.codes()
    pixels = torch.stack([encoder.prepare(open_image(pictures / paths[id_])) for id_ in ids.tolist()])
    assert np.allclose(vectors.astype(float), encoder.embed(pixels), atol=2e-3)
    assert np.array_equal(table.codes, encoder.code(vectors))
    at = {path: row for row, path in enumerate(paths[id_] for id_ in ids.tolist())}
    same = [at[str(run.images.paths[position])] for position in (one, other)]
    assert np.array_equal(*table.codes[same])


@pytest.mark.parametrize("features", [{}, {"backbone": "conv6", "rule": "hpca_fh", "whiten": True}])
@pytest.mark.parametrize("mirror", ["true", "false"])
def test_what_is_learned_from_is_what_the_encoder_makes(
    tmp_path: Path, features: dict[str, Any], mirror: str
) -> None:
    pictures = striped_folder(tmp_path / "pictures", 120)
    values = {"data": str(pictures), "image_size": 28, "bits": 32, "labels": "50%", "student_epochs": 4}
    run = Run(configure(values | features | {"recipe": "best", "epochs": 1, "mirror": mirror}), None)
    encoder, vectors = learn_encoder(run, run.learn_features(None))
    seen = run.split.pretraining
    again = np.concatenate([encoder.embed(pixels) for pixels in pixels_of(run)("again", seen)])
    assert np.array_equal(again, vectors)
    encoder.save(tmp_path / "encoder.safetensors")
    loaded = Encoder.load(tmp_path / "encoder.safetensors")
    assert loaded.description == encoder.description
    one = [loaded.embed(pixels) for pixels in next(iter(pixels_of(run)("again", seen[:5]))).split(1)]
    assert np.allclose(np.concatenate(one), vectors[:5], atol=1e-3)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_pretrained_network_learns_on_beside_itself(tmp_path: Path, name: str, precision: str) -> None:
    timm = pytest.importorskip("timm")
    pictures = striped_folder(tmp_path / "pictures", 40)
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, num_classes=0)
    torch.save(theirs.state_dict(), weights := tmp_path / "weights.pth")
    values = {"data": str(pictures), "image_size": 32, "bits": 32, "labels": "50%", "precision": precision}
    values |= {"backbone": f"timm/{name}", "weights": str(weights), "finetune_backbone": True}
    run = Run(configure(values), None)
    encoder, vectors = learn_encoder(run, run.learn_features(None))
    assert encoder.description.backbone == f"timm/{name}+timm/{name}"
    (networks,) = encoder.features
    as_it_was, learned = (list(network.parameters()) for network in networks)  # type: ignore[union-attr]
    differ = 0
    for before, same, after in zip(theirs.parameters(), as_it_was, learned, strict=True):
        assert torch.equal(before, same)
        assert torch.isfinite(after).all()
        assert (after - before).norm() < before.norm() + 1  # it began there
        differ += not torch.equal(before, after)
    assert differ > len(learned) / 2
    encoder.save(tmp_path / "encoder.safetensors")
    loaded = Encoder.load(tmp_path / "encoder.safetensors")
    one = next(iter(pixels_of(run)("again", run.split.pretraining[:1])))
    assert np.allclose(loaded.embed(one), vectors[:1], atol=2e-3)
