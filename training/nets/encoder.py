"""The encoder: an image in, a binary code out. Saved as one safetensors file, weights and description."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from index.codes import Codes, pack
from training.nets import backbones
from training.nets.head import Embedding, Head, JoinedEmbedding, PosteriorHead
from training.nets.images import AS_SHOWN, BEFORE, Reading, square_pixels

Embeddings = NDArray[np.float16]  # (n, E), each of length 1

TILE = 32  # whitening works on TILE × TILE × 3 pixels: a 3,072² matrix


@dataclass(frozen=True)
class Coding:
    """What makes a code of features by way of an embedding, which is kept to learn from again."""

    embedding: int  # its length
    hidden: int  # units of the student
    mirror: bool = True  # features are the mean of an image's and its mirror image's
    # Of each embedding that it joins, of networks beside each other: its length, and how much of it is kept.
    parts: tuple[tuple[int, int], ...] = ()


class Encoded(NamedTuple):
    """What is kept of images: codes (n, bits / 8), and embeddings, of an encoder that makes any."""

    codes: Codes
    embeddings: Embeddings | None


@dataclass(frozen=True)
class Description:
    """What, beside the weights, makes an encoder."""

    backbone: str
    image_size: int
    whiten: bool
    bits: int
    classes: int
    norm_rescale: bool = False
    reading: Reading = AS_SHOWN
    coding: Coding | None = None

    def as_json(self) -> str:
        """Without what is as it always was, so that such encoders have the same bytes as ever."""
        values = asdict(self)
        if not self.norm_rescale:
            del values["norm_rescale"]
        if self.reading == BEFORE:
            del values["reading"]
        if self.coding is None:
            del values["coding"]
        else:
            if self.coding.mirror:
                del values["coding"]["mirror"]
            if not self.coding.parts:
                del values["coding"]["parts"]
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse. Raises KeyError, TypeError or ValueError for another text."""
        values = json.loads(text)
        reading = Reading(**values["reading"]) if "reading" in values else BEFORE
        coding = Coding(**values["coding"]) if "coding" in values else None
        if coding is not None:
            coding = replace(coding, parts=tuple((size, kept) for size, kept in coding.parts))
        return cls(**values | {"reading": reading, "coding": coding})


class Normalise(nn.Module):
    """uint8 pixels -> network input: the training set's mean and deviation per channel, then ZCA if asked.

    Whitening: x ← U (Λ + ε)^−½ Uᵀ (x − m) with UΛUᵀ the covariance of the standardised pixels.
    Images above 32 px are resized to a multiple of 32, whitened in 32 × 32 tiles and resized back.
    """

    mean: Tensor
    std: Tensor
    tile_mean: Tensor
    tile_filter: Tensor

    def __init__(self, *, whiten: bool) -> None:
        super().__init__()
        self.whiten = whiten
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        if whiten:
            values = 3 * TILE * TILE
            self.register_buffer("tile_mean", torch.zeros(values))
            self.register_buffer("tile_filter", torch.eye(values))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> float32 (B, 3, S, S), channels last."""
        x = self.standardise(pixels)
        if self.whiten:
            tiles, grid = to_tiles(x)
            white = (tiles - self.tile_mean) @ self.tile_filter
            x = from_tiles(white, grid, x.shape[-1])
        return x.contiguous(memory_format=torch.channels_last)

    def standardise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> float32 of zero mean and unit variance over the training set."""
        return (pixels.float() / 255 - self.mean.view(3, 1, 1)) / self.std.view(3, 1, 1)

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn mean and deviation from one pass over uint8 batches (B, 3, S, S)."""
        count, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for pixels in batches:
            values = pixels.to(torch.float64) / 255
            count += values[:, 0].numel()
            total += values.sum((0, 2, 3)).cpu()
            squares += values.square().sum((0, 2, 3)).cpu()
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_((squares / count - mean.square()).clamp_min(1e-8).sqrt())

    def fit_whitening(self, batches: Iterable[Tensor], *, smoothing: float) -> None:
        """Learn the ZCA filter from one pass over uint8 batches; `fit` comes first."""
        values = 3 * TILE * TILE
        device = self.mean.device
        count, total = 0, torch.zeros(values, dtype=torch.float64, device=device)
        squares = torch.zeros(values, values, dtype=torch.float64, device=device)
        for pixels in batches:
            tiles, _ = to_tiles(self.standardise(pixels.to(device)))
            count += len(tiles)
            total += tiles.sum(0, dtype=torch.float64)
            squares += tiles.T @ tiles  # float32 products, float64 sum over the batches
        mean = total / count
        eigenvalues, vectors = torch.linalg.eigh(squares / count - torch.outer(mean, mean))
        scale = (eigenvalues.clamp_min(0) + smoothing).rsqrt()
        self.tile_mean.copy_(mean)
        self.tile_filter.copy_((vectors * scale) @ vectors.T)


def _depth(reading: Reading) -> str:
    """What is white in grey files of more than 8 bits."""
    if not reading.as_shown:
        return "by the brightest pixel"
    return f"as stated, else {reading.grey_bits or 'all'} bits"


def pack_signs(projections: Tensor) -> Codes:
    """Projections (n, bits) -> packed codes (n, bits / 8): a bit is set where its unit is positive."""
    return pack((projections > 0).cpu().numpy())


def to_tiles(x: Tensor) -> tuple[Tensor, int]:
    """Square images (B, 3, S, S) -> tiles (B·g², 3·32·32) and the grid's side g."""
    side = -(-x.shape[-1] // TILE) * TILE
    if side != x.shape[-1]:
        x = nn.functional.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
    grid = side // TILE
    tiles = x.reshape(-1, 3, grid, TILE, grid, TILE).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(-1, 3 * TILE * TILE), grid


def from_tiles(tiles: Tensor, grid: int, size: int) -> Tensor:
    """The inverse of `to_tiles`, resized to size × size."""
    x = tiles.reshape(-1, grid, grid, 3, TILE, TILE).permute(0, 3, 1, 4, 2, 5)
    x = x.reshape(-1, 3, grid * TILE, grid * TILE)
    if size != grid * TILE:
        x = nn.functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return x


class Encoder(nn.Module):
    """Preprocessing, convolutional features and hashing head, by way of an embedding or without."""

    head: Head | PosteriorHead
    embedding: Embedding | JoinedEmbedding

    def __init__(self, description: Description) -> None:
        super().__init__()
        self.description = description
        self.normalise = Normalise(whiten=description.whiten)
        self.features = backbones.features(description.backbone, rescale=description.norm_rescale)
        lengths = [
            backbones.feature_count(part, description.image_size)
            for part in backbones.parts(description.backbone)
        ]
        if (coding := description.coding) is None:
            self.head = Head(sum(lengths), description.bits, description.classes)
        else:
            self.embedding = (
                JoinedEmbedding(lengths, coding.parts)
                if coding.parts
                else Embedding(sum(lengths), coding.embedding)
            )
            shape = (coding.embedding, description.bits, description.classes)
            self.head = PosteriorHead(*shape, coding.hidden).double()
        self.features.to(memory_format=torch.channels_last)

    @classmethod
    def initial(cls, backbone: str = "conv6", *, seed: int = 0, bits: int = 256, classes: int = 0) -> Self:
        """An untrained encoder with seeded random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            size = backbones.native_size(backbone)
            return cls(Description(backbone, size, whiten=False, bits=bits, classes=classes)).eval()

    @property
    def bits(self) -> int:
        """Length of a code."""
        return self.description.bits

    @property
    def embedding_id(self) -> str | None:
        """What names all that an embedding depends on: encoders of one id differ in their heads alone."""
        if (coding := self.description.coding) is None:
            return None
        about = replace(self.description, classes=0, bits=0, coding=replace(coding, hidden=0))
        digest = sha256(about.as_json().encode())
        for name, tensor in sorted(self.state_dict().items()):
            if not name.startswith("head."):
                digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def prepare(self, image: Image.Image) -> Tensor:
        """An RGB image -> uint8 pixels (3, S, S)."""
        return square_pixels(image, self.description.image_size)

    @property
    def embedding_size(self) -> int:
        """Length of an embedding; 0 where codes are made without any."""
        coding = self.description.coding
        return 0 if coding is None else coding.embedding

    @torch.inference_mode()
    def projections(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (n, 3, S, S) -> the hash units before their tanh (n, bits)."""
        if self.embedding_size:
            return self._projected(self.embed(pixels))
        return self.head.hash(self.features(self.normalise(pixels)).flatten(1))

    @torch.inference_mode()
    def embed(self, pixels: Tensor) -> Embeddings:
        """uint8 pixels (n, 3, S, S) -> embeddings (n, E)."""
        return self.embedded(self.seen(pixels))

    @torch.inference_mode()
    def embedded(self, features: Tensor) -> Embeddings:
        """Features (n, F) as `seen` gives them -> embeddings (n, E)."""
        return self.embedding(features).to(torch.float16).cpu().numpy()

    @torch.inference_mode()
    def seen(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (n, 3, S, S) -> features (n, F), perhaps the mean of an image's and its mirror
        image's."""
        x = self.normalise(pixels)
        features: Tensor = self.features(x).flatten(1)
        coding = self.description.coding
        if coding is None or not coding.mirror:
            return features
        return (features + self.features(x.flip(3)).flatten(1)) / 2

    @torch.inference_mode()
    def _projected(self, embeddings: Embeddings) -> Tensor:
        """Of what is kept, not of what it was before: so a code can be made anew without the image. In 64
        bits, as products of a batch are summed in another order than those of one image."""
        return self.head(torch.from_numpy(embeddings).to(self.head.hash.weight.device).double())

    def code(self, embeddings: Embeddings) -> Codes:
        """Embeddings (n, E) -> packed codes (n, bits / 8)."""
        return pack_signs(self._projected(embeddings))

    @torch.inference_mode()
    def posterior(self, embeddings: Embeddings) -> NDArray[np.float32]:
        """Embeddings (n, E) -> probabilities (n, classes) of the classes that it learned, rows sum to 1."""
        assert isinstance(self.head, PosteriorHead)
        x = torch.from_numpy(embeddings).to(self.head.hash.weight.device).double()
        return self.head.student(x)[0].softmax(1).float().cpu().numpy()

    def encode_and_embed(self, pixels: Tensor) -> Encoded:
        """uint8 pixels (n, 3, S, S) -> all that is kept of them."""
        if not self.embedding_size:
            return Encoded(self.encode(pixels), None)
        embeddings = self.embed(pixels)
        return Encoded(self.code(embeddings), embeddings)

    def encode(self, pixels: Tensor) -> Codes:
        """uint8 pixels (n, 3, S, S) -> packed codes (n, bits / 8)."""
        return pack_signs(self.projections(pixels))

    def preprocessing(self) -> dict[str, Any]:
        """The preprocessing in plain values, for people to read."""
        reading = self.description.reading
        space = "sRGB by the colour profile" if reading.as_shown else "RGB without the colour profile"
        return {
            "colour": f"{space}, transparency on white, EXIF orientation applied, first frame",
            "deep_grey": _depth(reading),
            "image_size": self.description.image_size,
            "resize": "centre square, bicubic",
            "mean": self.normalise.mean.tolist(),
            "std": self.normalise.std.tolist(),
            "whitening": f"ZCA on {TILE} × {TILE} tiles" if self.description.whiten else None,
        }

    def save(self, path: Path) -> None:
        """Write weights and description; equal encoders give equal bytes."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        # One metadata key only: with several, safetensors writes them in an order that changes.
        path.write_bytes(save(weights, metadata={"hebbsearch": self.description.as_json()}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote, on the CPU, ready to encode. Raises ValueError naming the file."""
        try:
            with _in_utf_8(path) as name, safe_open(name, framework="pt") as file:
                description = Description.from_json((file.metadata() or {})["hebbsearch"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            encoder = cls(description)
            encoder.load_state_dict(weights)
        except (KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:
            raise ValueError(f"{path} is not an encoder of this version: {error}") from error
        return encoder.eval()


@contextmanager
def _in_utf_8(path: Path) -> Iterator[str]:
    """A name of the file for safetensors, which takes no other: its own, or that of its descriptor."""
    if not any("\ud800" <= letter <= "\udfff" for letter in str(path)):  # PEP 383
        yield str(path)
    else:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
