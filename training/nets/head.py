"""The hashing heads: features -> 256 tanh units -> classes; embedding -> a code of class and neighbours."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.nets.backbones import Linear


class Head(nn.Module):
    """`bits` tanh units whose signs are the code, and a classifier on them that teaches them.

    With no classes (codes without labels) there is no classifier.
    """

    def __init__(self, features: int, bits: int, classes: int) -> None:
        super().__init__()
        self.hash = Linear(features, bits)
        self.classifier = Linear(bits, classes) if classes else None

    def units(self, x: Tensor) -> Tensor:
        """Features (B, F) -> units in −1 … 1 (B, bits)."""
        return torch.tanh(self.hash(x))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, F) -> class logits (B, classes)."""
        if self.classifier is None:
            raise ValueError("this head was made without labels: it has no classifier")
        return self.classifier(self.units(x))


class Embedding(nn.Module):
    """Features -> a short unit vector, a linear map away: what is kept of each image to learn from again."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, size)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, F) -> embeddings (B, E) of length 1, in 64 bits: so that rounded to 16 they are the
        same for an image alone and in a batch, whose products are summed in another order."""
        projected = nn.functional.linear(x.double(), self.project.weight.double(), self.project.bias.double())
        return nn.functional.normalize(projected)


class JoinedEmbedding(nn.ModuleList):
    """Embeddings of several networks' features joined: of each its length, and how much of it is kept."""

    def __init__(self, features: Sequence[int], sizes: Sequence[tuple[int, int]]) -> None:
        each = zip(features, sizes, strict=True)
        super().__init__(Embedding(length, size) for length, (size, _) in each)
        self.lengths, self.kept = list(features), [kept for _, kept in sizes]

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, F) of all networks -> embeddings (B, E) of length 1, in 64 bits. Each network's own is
        rounded to 16 bits first: so those that were kept can be joined without any image."""
        given = zip(self, x.split(self.lengths, dim=1), strict=True)
        return joined([part(features).to(torch.float16) for part, features in given], self.kept)


def joined(embeddings: Sequence[Tensor], kept: Sequence[int]) -> Tensor:
    """Embeddings (B, Eᵢ) of several networks, whose components come by their variance -> the first `kept` of
    each (B, sum of kept), all networks alike, of length 1, in 64 bits."""
    first = [each[:, :count].double() for each, count in zip(embeddings, kept, strict=True)]
    return torch.cat([nn.functional.normalize(each) for each in first], dim=1) / math.sqrt(len(first))


class Student(nn.Module):
    """Says of an embedding alone what a graph of many images and their labels taught: the class, and where
    the image lies once those that look alike have been drawn together."""

    def __init__(self, size: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, hidden)
        self.place = nn.Linear(size + hidden, size)
        self.classifier = nn.Linear(size + hidden, classes) if classes else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, E) -> class logits (B, classes) and places of length 1 (B, E)."""
        known = torch.cat([x, torch.relu(self.hidden(x))], dim=1)
        logits = x.new_empty(len(x), 0) if self.classifier is None else self.classifier(known)
        return logits, nn.functional.normalize(self.place(known))


class PosteriorHead(nn.Module):
    """Codes of class posterior and place together: signs of a linear map of [λ(p − 1/C); place].

    The larger the `emphasis` λ, the more a code says of the class and the less of what else an image is
    like.
    """

    emphasis: Tensor

    def __init__(self, size: int, bits: int, classes: int, hidden: int, emphasis: float = 1.0) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("emphasis", torch.tensor(emphasis))
        self.student = Student(size, classes, hidden)
        self.hash = nn.Linear(classes + size, bits)

    def joint(self, x: Tensor) -> Tensor:
        """Embeddings (B, E) -> (B, classes + E)."""
        logits, place = self.student(x)
        if not self.classes:
            return place
        return torch.cat([self.emphasis * (logits.softmax(1) - 1 / self.classes), place], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, E) -> units whose signs are the code (B, bits)."""
        return self.hash(self.joint(x))
