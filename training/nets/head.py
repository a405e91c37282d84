"""The hashing head: features -> 256 tanh units -> classes."""

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
