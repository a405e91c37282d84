"""The paper's form of the fast rules: patches materialised, then matrix products. Only to compare with."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad, unfold

Size = Sequence[int]
Patches = Callable[[Tensor, Size, int], Tensor]  # (input, kernel, padding) -> (P, M)


def hpca_step(x: Tensor, w: Tensor, patches_of: Patches, padding: int = 0) -> tuple[Tensor, Tensor]:
    """Output (B, Q, H', W') and update like w of one HPCA layer."""
    patches, filters = patches_of(x, w.shape[2:], padding), w.flatten(1)
    a = (patches @ filters.T).relu_()
    dw = (a.T @ patches - (a.T @ a).tril() @ filters) / len(patches)
    return _map(a, x, w, padding), dw.view_as(w)


def swta_step(
    x: Tensor, w: Tensor, patches_of: Patches, padding: int = 0, temperature: float = 0.02
) -> tuple[Tensor, Tensor]:
    """Output (B, Q, H', W') and update like w of one SWTA layer."""
    patches, filters = patches_of(x, w.shape[2:], padding), w.flatten(1)
    tiny = torch.finfo(x.dtype).eps
    projection = patches @ (filters / filters.norm(dim=1, keepdim=True).clamp_min(tiny)).T
    cosine = projection / torch.linalg.vector_norm(patches, dim=1, keepdim=True).clamp_min(tiny)
    s = cosine.add_(1).div_(2).square_().div_(temperature).softmax(1)
    del cosine
    ds = s * (s / s.sum(0).clamp_min(torch.finfo(x.dtype).tiny))
    dw = ds.T @ patches - ds.sum(0)[:, None] * filters
    return _map(projection.relu_(), x, w, padding), dw.view_as(w)


def by_unfold(x: Tensor, kernel: Size, padding: int) -> Tensor:
    """(P, M) by way of torch's unfold, as in the paper: it gives (B, M, P/B), which a second copy turns."""
    return unfold(x, kernel, padding=padding).transpose(1, 2).flatten(0, 1)


def in_one_copy(x: Tensor, kernel: Size, padding: int) -> Tensor:
    """(P, M) with one copy only, less memory and sometimes less time."""
    windows = pad(x, (padding,) * 4).unfold(2, kernel[0], 1).unfold(3, kernel[1], 1)  # (B, C, H', W', kh, kw)
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * kernel[0] * kernel[1])


def _map(projection: Tensor, x: Tensor, w: Tensor, padding: int) -> Tensor:
    height, width = (
        side + 2 * padding - kernel + 1 for side, kernel in zip(x.shape[2:], w.shape[2:], strict=True)
    )
    return projection.view(len(x), height, width, len(w)).permute(0, 3, 1, 2)
