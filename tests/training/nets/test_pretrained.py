"""Networks that others trained, with random weights of small ones, through the code that loads real ones."""

import re
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

timm = pytest.importorskip("timm")
huggingface_hub = pytest.importorskip("huggingface_hub")

from training.config import ConfigError, configure  # noqa: E402
from training.nets import pretrained  # noqa: E402
from training.nets.encoder import Coding, Description, Encoder  # noqa: E402
from training.nets.pretrained import (  # noqa: E402
    MissingPackage,
    PretrainedError,
    about,
    feature_count,
    load_weights,
    network,
)

NAME = "timm/test_resnet"
VIT = "timm/test_vit"


def trained(name: str = "test_resnet", **changes: Any) -> dict[str, Tensor]:
    """The state of a whole network, classifier included, as files have it."""
    torch.manual_seed(1)
    return dict(timm.create_model(name, pretrained=False, **changes).state_dict())


@pytest.mark.parametrize(("name", "features"), [(NAME, 96), (VIT, 64), ("timm/test_efficientnet", 256)])
def test_features_are_what_timm_pools(name: str, features: int) -> None:
    assert feature_count(name, about(name).image_size) == features
    torch.manual_seed(0)
    ours = network(name)
    torch.manual_seed(0)
    theirs = timm.create_model(name.removeprefix("timm/"), pretrained=False, num_classes=0).eval()
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", [NAME, VIT])
def test_smaller_images_are_taken_where_the_network_can(name: str) -> None:
    assert feature_count(name, 96) == feature_count(name, 160)


def test_a_network_of_one_size_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_takes_any_size", lambda name: False)
    about.cache_clear()
    feature_count.cache_clear()
    with pytest.raises(PretrainedError, match="takes images of 160 pixels alone"):
        feature_count(VIT, 96)
    about.cache_clear()


SAVERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "plain.safetensors": lambda state, path: save_file(state, path),
    "plain.pth": lambda state, path: torch.save(state, path),
    "wrapped.pth": lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
    "parallel.pt": lambda state, path: torch.save(
        {"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path
    ),
}


@pytest.mark.parametrize("name", SAVERS)
def test_weights_of_a_file_are_those_of_the_features(tmp_path: Path, name: str) -> None:
    state = trained()
    SAVERS[name](state, tmp_path / name)
    made = network(NAME)
    origin = load_weights(made, NAME, str(tmp_path / name))
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())
    assert origin.file == name
    assert origin.sha256 == sha256((tmp_path / name).read_bytes()).hexdigest()
    assert (origin.source, origin.licence) == (None, None)  # whoever made the file knows


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-run"),))


def spoilt(path: Path, how: str) -> Path:
    state = trained()
    file = path / f"weights.{'safetensors' if how == 'text' else 'pth'}"
    if how == "code":
        torch.save({"state_dict": state, "hook": Malicious()}, file)
    elif how == "text":
        file.write_text("hello")
    elif how == "other network":
        torch.save(trained("test_efficientnet"), file)
    elif how == "other width":
        torch.save(state | {"conv1.0.weight": torch.zeros(7, 3, 3, 3)}, file)
    elif how == "more layers":
        torch.save(state | {"layer9.weight": torch.zeros(7)}, file)
    elif how == "a list":
        torch.save([1, 2], file)
    elif how == "half":
        torch.save(state, file)
        file.write_bytes(file.read_bytes()[:1000])
    return file


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("code", "holds more than tensors, or is damaged"),
        ("text", "no safetensors file"),
        ("other network", "of another network than timm/test_resnet: for "),
        ("other width", "it has (7, 3, 3, 3), wanted ("),
        ("more layers", "which has no layer9.weight"),
        ("a list", "holds no tensors by name"),
        ("half", "damaged"),
        ("missing", "No such file"),
    ],
)
def test_other_files_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = spoilt(tmp_path, how)
    with pytest.raises(PretrainedError) as caught:
        load_weights(network(NAME), NAME, str(file))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "was-run").exists()


def of_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ConvNeXt as facebookresearch/ConvNeXt names its layers, its products as matrices."""
    changes = [
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        (r"\.blocks\.", "."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    ]
    found = {}
    for name, tensor in state.items():
        for pattern, replacement in changes:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    return found


@pytest.mark.long
def test_the_layout_of_a_networks_authors_is_known(tmp_path: Path) -> None:
    name = "timm/test_convnext"
    state = trained("test_convnext")
    theirs = of_authors(state)
    assert not theirs.keys() & state.keys()
    torch.save({"model": theirs}, tmp_path / "authors.pth")
    made = network(name)
    load_weights(made, name, str(tmp_path / "authors.pth"))
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())
    del theirs["norm.weight"]  # nothing is left random
    torch.save({"model": theirs}, tmp_path / "less.pth")
    with pytest.raises(PretrainedError, match="of another network than timm/test_convnext"):
        load_weights(made, name, str(tmp_path / "less.pth"))


@pytest.mark.parametrize("classes", [1000, 7])
def test_a_classifier_of_several_layers_is_left_out(tmp_path: Path, classes: int) -> None:
    name = "timm/efficientvit_m0"  # a batch norm before the last layer belongs to its classifier
    state = trained("efficientvit_m0", num_classes=classes)
    assert "head.bn.weight" in state
    save_file(state, tmp_path / "weights.safetensors")
    made = network(name)
    load_weights(made, name, str(tmp_path / "weights.safetensors"))
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())


def test_fetched_weights_are_a_file_with_source_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, asked = trained(), list[tuple[Any, ...]]()
    file = tmp_path / "model.safetensors"
    save_file(state, file)

    def fetch(*what: Any, revision: str | None = None) -> str:
        asked.append(what)
        return str(file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, revision=None: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    made = network(NAME)
    origin = load_weights(made, NAME, "pretrained")
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    assert origin.sha256 == sha256(file.read_bytes()).hexdigest()
    assert origin.source == "https://huggingface.co/timm/test_resnet.r160_in1k"
    assert (origin.file, origin.licence) == ("model.safetensors", "apache-2.0")


def no_network(*_: Any, **__: Any) -> str:
    raise OSError("no network\nand more of it")


def test_weights_that_were_fetched_before_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "models--timm--test_resnet.r160_in1k"  # as the hub's library lays its cache out
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    file = repo / "snapshots" / ("0" * 40) / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(trained(), file)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    origin = load_weights(network(NAME), NAME, "pretrained")
    assert origin.sha256 == sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "file", "source"),
    [
        (NAME, "model.safetensors", "https://huggingface.co/timm/test_resnet.r160_in1k"),
        ("timm/legacy_seresnet18", "the file", "seresnet18-4bb0ce65.pth"),
    ],
)
def test_weights_that_cannot_be_fetched_say_which_file_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str, source: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, revision=None: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(PretrainedError) as caught:
        load_weights(network(NAME), name, "pretrained")
    assert f"(no network); get {file} from " in str(caught.value)
    assert source in str(caught.value)
    assert str(caught.value).endswith("--weights FILE")


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"backbone": "timm/resnet5O"}, "timm does not know it, perhaps timm/resnet50"),
        ({"backbone": "timm/"}, "timm does not know it"),
        ({"backbone": "conv8"}, "use one of conv6"),
        ({"backbone": NAME, "recipe": "paper"}, "recipe paper: is for the paper's networks"),
        ({"backbone": NAME, "rule": "hpca_fh"}, "rule hpca_fh: timm/test_resnet learned elsewhere"),
        ({"backbone": "conv6", "weights": "a.pth"}, "weights a.pth: only for a backbone timm/NAME"),
        ({"backbone": NAME, "finetune_backbone": True, "student_epochs": 0}, "needs student_epochs"),
        ({"backbone": VIT, "image_size": 1}, "image size 1: timm/test_vit does not take it"),
    ],
)
def test_settings_that_do_not_go_together(chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(chosen)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defaults_are_those_of_the_network() -> None:
    config = configure({"backbone": NAME, "data": "x"})
    assert (config.student_epochs, config.finetune_backbone) == (0, False)
    assert configure({"backbone": NAME, "data": "x", "finetune_backbone": True}).student_epochs == 10
    assert (config.recipe, config.rule, config.weights) == ("best", "none", "pretrained")
    assert config.image_size == 160
    assert config.component_power == 0


def test_without_timm_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoder = Encoder(Description(NAME, 64, whiten=False, bits=32, classes=0, coding=Coding(20, 8))).eval()
    encoder.save(tmp_path / "encoder.safetensors")
    monkeypatch.setitem(sys.modules, "timm", None)
    about.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'hebbsearch\[pretrained\]'"):
        configure({"backbone": NAME})
    with pytest.raises(MissingPackage, match="pretrained"):
        Encoder.load(tmp_path / "encoder.safetensors")


@pytest.mark.parametrize("name", [NAME, VIT])
def test_a_saved_encoder_needs_no_weights_of_timm(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(Description(name, 64, whiten=False, bits=32, classes=3, coding=Coding(20, 8))).eval()
    pixels = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    encoder.save(tmp_path / "a.safetensors")
    loaded = Encoder.load(tmp_path / "a.safetensors")
    loaded.save(tmp_path / "b.safetensors")
    assert np.array_equal(loaded.encode(pixels), encoder.encode(pixels))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
