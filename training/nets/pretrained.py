"""Networks that others trained, by timm's names: timm/NAME. Nothing else imports timm, and only when asked.

timm (github.com/huggingface/pytorch-image-models) knows hundreds of networks, each with its input size, means
and deviations.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

PREFIX = "timm/"
NONE, PRETRAINED = "none", "pretrained"  # what --weights says beside a file


class PretrainedError(ValueError):
    """A network or its weights cannot be used; one line that names it and the way out."""


class MissingPackage(ImportError):
    """timm is not installed; the message says how it is."""


@dataclass(frozen=True)
class About:
    """What timm knows of a network."""

    image_size: int
    any_size: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classifier: tuple[str, ...]  # names of the layers that features do without
    licence: str | None
    source: str | None  # where its weights lie


@dataclass(frozen=True)
class Origin:
    """Where the weights of a network came from."""

    file: str | None
    sha256: str | None
    source: str | None
    licence: str | None


def is_pretrained(backbone: str) -> bool:
    """Whether it is one of timm's."""
    return backbone.startswith(PREFIX)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingPackage(
            f"timm is needed and not here ({error}); pip install 'hebbsearch[pretrained]'"
        ) from None
    return timm


@lru_cache
def about(backbone: str) -> About:
    """PretrainedError for a name that timm does not know, or without a known input size."""
    timm, name = _timm(), backbone.removeprefix(PREFIX)
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f", perhaps {' or '.join(PREFIX + each for each in close)}" if close else ""
        raise PretrainedError(f"backbone {backbone}: timm does not know it{hint}")
    known = timm.get_pretrained_cfg(name)
    if known is None or known.input_size is None or known.input_size[0] != 3:
        raise PretrainedError(f"backbone {backbone}: timm does not say which colour images it takes")
    classifier = known.classifier or ()
    return About(
        image_size=known.input_size[-1],
        any_size=not known.fixed_input_size or _takes_any_size(name),
        mean=tuple(known.mean),
        std=tuple(known.std),
        classifier=(classifier,) if isinstance(classifier, str) else tuple(classifier),
        licence=known.license,
        source=f"https://huggingface.co/{known.hf_hub_id}" if known.hf_hub_id else known.url or None,
    )


@lru_cache
def _takes_any_size(name: str) -> bool:
    """Vision transformers do if they are told to."""
    try:
        with torch.device("meta"):
            _timm().create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError:
        return False
    return True


def network(backbone: str) -> nn.Module:
    """Normalised images (B, 3, S, S) -> pooled features (B, F), with random weights."""
    known, name = about(backbone), backbone.removeprefix(PREFIX)
    sizes = {"dynamic_img_size": True} if _takes_any_size(name) else {}
    made: nn.Module = _timm().create_model(name, pretrained=False, num_classes=0, **sizes)
    assert known.image_size
    return made.eval()


@lru_cache
def feature_count(backbone: str, image_size: int) -> int:
    """F. PretrainedError for a size that the network does not take."""
    known = about(backbone)
    if image_size != known.image_size and not known.any_size:
        raise PretrainedError(
            f"image size {image_size}: {backbone} takes images of {known.image_size} pixels alone"
        )
    try:
        with torch.inference_mode():
            features: Tensor = network(backbone)(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError) as error:
        reason = (str(error) or "too small").splitlines()[0]
        raise PretrainedError(f"image size {image_size}: {backbone} does not take it ({reason})") from None
    return features.shape[1]


def load_weights(target: nn.Module, backbone: str, weights: str) -> Origin:
    """Give `target`, which `network` made, the weights of a file, of timm, or leave its own.

    PretrainedError for a file that cannot be read, holds code, or belongs to another network.
    """
    known = about(backbone)
    if weights == NONE:
        return Origin(None, None, None, None)
    if weights == PRETRAINED:
        state, file, sha256 = _fetched(backbone, known), None, None
    else:
        path = Path(weights)
        state, file = _read(path), path.name
        with path.open("rb") as content:
            sha256 = file_digest(content, "sha256").hexdigest()
    _fill(target, state, backbone, known, weights)
    return Origin(file, sha256, known.source, known.licence)


def _fetched(backbone: str, known: About) -> Mapping[str, Tensor]:
    name = backbone.removeprefix(PREFIX)
    try:
        state: Mapping[str, Tensor] = _timm().create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the network and the hub's library raise what they like
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PretrainedError(
            f"backbone {backbone}: its weights cannot be fetched ({reason:.120}); get the file from "
            f"{known.source or 'where its authors have it'} and name it: --weights FILE.safetensors"
        ) from None
    return state


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name, without what wrappers put around them."""
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise PretrainedError(f"weights {path}: {error.strerror or error}; name a file") from None
    except SafetensorError as error:
        raise PretrainedError(f"weights {path}: no safetensors file ({error})") from None
    except Exception as error:  # whatever a foreign file makes torch's reader raise; no code of it is run
        reason = type(error).__name__
        raise PretrainedError(
            f"weights {path}: holds more than tensors, or is damaged ({reason}); save the state_dict alone, "
            "best as .safetensors"
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise PretrainedError(f"weights {path}: holds no tensors by name; save the state_dict")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _fill(target: nn.Module, state: Mapping[str, Tensor], backbone: str, known: About, weights: str) -> None:
    wanted = target.state_dict()
    given = {
        name: tensor
        for name, tensor in state.items()
        if not any(name.startswith(f"{layer}.") for layer in known.classifier)
    }
    for name, tensor in wanted.items():
        if name.endswith("num_batches_tracked"):  # older files have none, and nothing depends on it
            given.setdefault(name, tensor)
        elif name not in given or given[name].shape != tensor.shape:
            found = f"{tuple(given[name].shape)}" if name in given else "nothing"
            raise PretrainedError(
                f"weights {weights}: of another network than {backbone}: for {name} it has {found}, wanted "
                f"{tuple(tensor.shape)}"
            )
    if extra := sorted(given.keys() - wanted.keys()):
        raise PretrainedError(
            f"weights {weights}: of another network than {backbone}, which has no {extra[0]}"
        )
    target.load_state_dict(given)
