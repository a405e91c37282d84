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
HUB_FILE = "model.safetensors"  # what each network's page of the hub has
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
    hub: str | None  # name of the page on the hub that has its weights
    url: str | None  # of a file elsewhere

    @property
    def source(self) -> str | None:
        """Where its weights lie."""
        return f"https://huggingface.co/{self.hub}" if self.hub else self.url


@dataclass(frozen=True)
class Origin:
    """Where the weights of a network came from. Of a file that somebody names only they know source and
    licence."""

    file: str | None
    sha256: str | None
    source: str | None = None
    licence: str | None = None


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
        hub=known.hf_hub_id or None,
        url=known.url or None,
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
    about(backbone)  # refuses what timm does not know
    name = backbone.removeprefix(PREFIX)
    sizes = {"dynamic_img_size": True} if _takes_any_size(name) else {}
    made: nn.Module = _timm().create_model(name, pretrained=False, num_classes=0, **sizes)
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
        return Origin(None, None)
    path = _fetched(backbone, known) if weights == PRETRAINED else Path(weights)
    _fill(target, _read(path), backbone, known, path)
    with path.open("rb") as content:
        sha256 = file_digest(content, "sha256").hexdigest()
    if weights == PRETRAINED:
        return Origin(path.name, sha256, known.source, known.licence)
    return Origin(path.name, sha256)


def _fetched(backbone: str, known: About) -> Path:
    """The file with timm's weights: what was fetched before, which needs no network, else fetched now."""
    import huggingface_hub  # timm needs it

    huggingface_hub.utils.logging.set_verbosity_error()  # it tells of each attempt
    try:
        if known.hub is None:
            return _downloaded(known.url)
        repo, _, revision = known.hub.partition("@")
        cached = huggingface_hub.try_to_load_from_cache(repo, HUB_FILE, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
        return Path(huggingface_hub.hf_hub_download(repo, HUB_FILE, revision=revision or None))
    except Exception as error:  # the network and the hub's library raise what they like
        reason = (str(error) or type(error).__name__).splitlines()[0]
        file = HUB_FILE if known.hub else "the file"
        raise PretrainedError(
            f"backbone {backbone}: its weights are not here and cannot be fetched ({reason:.120}); get "
            f"{file} from {known.source or 'its authors'} and name it: --weights FILE"
        ) from None


def _downloaded(url: str | None) -> Path:
    """A file from the place that torch keeps such files in."""
    if url is None:
        raise ValueError("timm knows of none")
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    return path


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


def _fill(target: nn.Module, state: Mapping[str, Tensor], backbone: str, known: About, path: Path) -> None:
    """Load `state`, as it is, or as timm turns the layout of others, or its own of before, into today's."""
    wanted = target.state_dict()
    given = _without_classifier(state, wanted, backbone, known)
    if (fault := _misfit(given, wanted)) is not None:
        turned = _turned(state, backbone)
        if turned is None:
            raise PretrainedError(f"weights {path}: of another network than {backbone}{fault}")
        given = {name: turned[name] for name in wanted}
    target.load_state_dict(given)


def _without_classifier(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], backbone: str, known: About
) -> dict[str, Tensor]:
    with torch.device("meta"):
        whole = _timm().create_model(backbone.removeprefix(PREFIX), pretrained=False).state_dict()
    head = {*whole} - {*wanted}  # more than the last layer, which alone `classifier` names
    last = tuple(f"{layer}." for layer in known.classifier)
    return {name: tensor for name, tensor in state.items() if name not in head and not name.startswith(last)}


def _misfit(given: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """How the first tensor that does not fit differs."""
    for name, tensor in wanted.items():
        if name.endswith("num_batches_tracked"):  # older files have none, and nothing depends on it
            given.setdefault(name, tensor)
        elif name not in given or given[name].shape != tensor.shape:
            found = f"{tuple(given[name].shape)}" if name in given else "nothing"
            return f": for {name} it has {found}, wanted {tuple(tensor.shape)}"
    extra = sorted(given.keys() - wanted.keys())
    return f", which has no {extra[0]}" if extra else None


def _turned(state: Mapping[str, Tensor], backbone: str) -> Mapping[str, Tensor] | None:
    """All tensors by today's names, if timm knows the layout of `state`. It must have the classifier too:
    without one, timm does not say which tensors are missing."""
    try:
        model = _timm().create_model(
            backbone.removeprefix(PREFIX),
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": dict(state)},
            pretrained_strict=True,
        )
    except Exception:  # whatever its conversion meets in tensors of another network
        return None
    turned: Mapping[str, Tensor] = model.state_dict()
    return turned
