"""The paper's form of the fast rules: patches materialised, then matrix products. Only to compare with."""

import torch
from torch import Tensor
from torch.nn.functional import unfold


def hpca_step(x: Tensor, w: Tensor, padding: int = 0) -> tuple[Tensor, Tensor]:
    """Output (B, Q, H', W') and update like w of one HPCA layer."""
    patches, filters = _patches(x, w, padding), w.flatten(1)
    projection = patches @ filters.T
    a = projection.relu()
    dw = (a.T @ patches - (a.T @ a).tril() @ filters) / len(patches)
    return _map(projection, x, w, padding), dw.view_as(w)


def swta_step(x: Tensor, w: Tensor, padding: int = 0, temperature: float = 0.02) -> tuple[Tensor, Tensor]:
    """Output (B, Q, H', W') and update like w of one SWTA layer."""
    patches, filters = _patches(x, w, padding), w.flatten(1)
    tiny = torch.finfo(x.dtype).eps
    projection = patches @ filters.T / filters.norm(dim=1).clamp_min(tiny)
    cosine = projection / patches.norm(dim=1, keepdim=True).clamp_min(tiny)
    s = (((cosine + 1) / 2).square() / temperature).softmax(1)
    ds = s * (s / s.sum(0).clamp_min(torch.finfo(x.dtype).tiny))
    dw = ds.T @ patches - ds.sum(0)[:, None] * filters
    return _map(projection, x, w, padding), dw.view_as(w)


def _patches(x: Tensor, w: Tensor, padding: int) -> Tensor:
    return unfold(x, w.shape[2:], padding=padding).transpose(1, 2).reshape(-1, w[0].numel())


def _map(projection: Tensor, x: Tensor, w: Tensor, padding: int) -> Tensor:
    height, width = (
        side + 2 * padding - kernel + 1 for side, kernel in zip(x.shape[2:], w.shape[2:], strict=True)
    )
    return projection.view(len(x), height, width, len(w)).permute(0, 3, 1, 2)
