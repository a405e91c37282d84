"""Embeddings of several networks joined."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.nets.backbones import feature_count, features, names, parts, together
from training.nets.encoder import Coding, Description, Encoder
from training.nets.head import joined


def slowly(embeddings: list[NDArray[np.float64]], kept: list[int]) -> NDArray[np.float64]:
    """The same, image by image."""
    rows = []
    for images in zip(*embeddings, strict=True):
        first = [each[:count] for each, count in zip(images, kept, strict=True)]
        lengths = [np.sqrt(sum(value * value for value in each)) for each in first]
        whole = [value / (length or 1) for each, length in zip(first, lengths, strict=True) for value in each]
        rows.append([value / np.sqrt(len(embeddings)) for value in whole])
    return np.array(rows)


@pytest.mark.parametrize("lengths", [(9, 9), (9, 3), (2, 3), (9, 9, 9), (9,)])
def test_against_loops(lengths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((5, length)) for length in lengths]
    given[0][2] = 0  # an image of which one network says nothing
    kept = [min(length, 4) for length in lengths]
    found = joined([torch.from_numpy(each) for each in given], kept).numpy()
    assert found.shape == (5, sum(kept))
    assert np.allclose(found, slowly(given, kept))
    assert np.allclose(np.linalg.norm(np.delete(found, 2, 0), axis=1), 1)


def test_networks_beside_each_other_say_what_each_says_alone() -> None:
    torch.manual_seed(0)
    name = together("conv6", "conv7")
    assert parts(name) == ["conv6", "conv7"]
    assert not names(name)  # nobody can ask to learn it
    both = features(name).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        alone = [network(images).flatten(1) for network in both[0]]
        assert torch.equal(both(images), torch.cat(alone, 1))
    assert feature_count(name, 32) == sum(feature_count(part, 32) for part in parts(name))


def test_an_encoder_says_which_embeddings_it_joins_and_others_are_as_ever() -> None:
    about = Description("conv6", 32, whiten=False, bits=64, classes=2, coding=Coding(40, 16))
    assert '"coding": {"embedding": 40, "hidden": 16}' in about.as_json()
    both = Description(
        "conv6+conv7",
        32,
        whiten=False,
        bits=64,
        classes=2,
        coding=Coding(40, 16, False, ((30, 20), (20, 20))),
    )
    for each in (about, both):
        assert Description.from_json(each.as_json()) == each
    torch.manual_seed(0)
    first = Encoder(both)
    other = Encoder(Description(**vars(both) | {"coding": Coding(40, 16, True, ((30, 20), (20, 20)))}))
    other.load_state_dict(first.state_dict())
    assert first.embedding_id != other.embedding_id  # one of them sees mirror images
