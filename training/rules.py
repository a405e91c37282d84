"""Hebbian learning rules: pure functions of a layer's input, activations and weights.

Every rule has the form rule(x, y, w, *, stride, padding, **hyper) -> dw with
    x   (B, C, H, W)     layer input
    y   (B, Q, H', W')   the activations that the rule learns from
    w   (Q, C, kh, kw)   weights
    dw  like w           the update for learning rate 1, aggregated over all P = B·H'·W' patches.
x and y may be bfloat16 beside 32-bit weights: products of patches are then taken in bfloat16, summed in
32 bits by the hardware and rounded once to bfloat16; what follows is in the weights' own precision.
A rule that is fast comes to its update by way of sums over patches. It hands them to `add` before it makes
anything of them: so several workers, each with its part of the images, learn what one does from all.

In the formulas C (P, M) are the patches with M = C·kh·kw, B (Q, M) the weights, A (P, Q) the activations.
Source, where a rule names no other: Lagani et al., Neurocomputing 2024, doi 10.1016/j.neucom.2024.127867
(FastHebb).
`swta` and `hpca` form each patch's own update and then aggregate: the fast rules are compared with them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, unfold
from torch.nn.grad import conv2d_weight

from training.nets.backbones import IntPair, convolve

# On a CPU what is held at a time should fit into its cache (8 MB of scores); a GPU wants few, long kernels.
SCORES_AT_ONCE = (1 << 21, 1 << 25)  # of SWTA, on a CPU and on a GPU
NEURONS_AT_ONCE = (64, 256)  # of HPCA


# From what one worker has summed up to what all have together: tensors of the same shapes, and where it has
# counted, a number or a tensor (), for which a GPU need not wait.
Add = Callable[..., tuple[Any, ...]]


def alone(*sums: Tensor | int) -> tuple[Any, ...]:
    """The sums as they are: there are no other workers."""
    return sums


def swta_fh(
    x: Tensor,
    y: Tensor,
    w: Tensor,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    temperature: float = 0.02,
    add: Add = alone,
) -> Tensor:
    """Soft winner-takes-all: ΔB = (D∘S)ᵀC − E∘B, S = softmax over neurons of A/T, D_pq = S_pq / Σ_p S_pq,
    E_q = Σ_p (D∘S)_pq. A neuron that no patch excites (Σ_p S_pq = 0) stays where it is.

    D's divisor is the same for all patches: it leaves both sums and divides what is like w. So images can
    come in groups whose scores stay in the cache, and S as a whole never exists."""
    total, pull = torch.zeros_like(w[:, 0, 0, 0]), torch.zeros_like(w[:, 0, 0, 0])
    dw = torch.zeros_like(w)
    images = max(1, SCORES_AT_ONCE[w.is_cuda] // y.shape[1:].numel())
    for some_x, some_y in zip(x.split(images), y.split(images), strict=True):
        # With channels last the softmax runs along memory, three times faster than across it.
        s = torch.softmax(some_y.movedim(1, -1).to(w.dtype) / temperature, dim=-1).movedim(-1, 1)
        total += s.sum((0, 2, 3))
        squares = s.square_()
        pull += squares.sum((0, 2, 3))
        dw += _patch_product(squares.to(x.dtype), some_x, w, stride, padding)
    dw, pull, total = add(dw, pull, total)
    total.clamp_min_(torch.finfo(w.dtype).tiny)
    return dw.sub_(pull.view(-1, 1, 1, 1) * w).div_(total.view(-1, 1, 1, 1))


def hpca_fh(
    x: Tensor, y: Tensor, w: Tensor, *, stride: IntPair = 1, padding: IntPair = 0, add: Add = alone
) -> Tensor:
    """Hebbian PCA: ΔB = (AᵀC − tril(AᵀA) B) / P."""
    a = y.movedim(1, -1).reshape(-1, len(w))  # (P, Q), a view if channels lie last
    if _fully_connected(x, w, padding):
        dw = _hpca_in_blocks(x.flatten(1).to(w.dtype), a.to(w.dtype), w.flatten(1)).view_as(w)
    else:
        dw = _patch_product(y, x, w, stride, padding)
        dw.sub_(_reconstruction(a, w.flatten(1)).view_as(w))
    dw, patches = add(dw, len(a))
    return dw.div_(patches)


def _reconstruction(a: Tensor, b: Tensor) -> Tensor:
    """tril(AᵀA) B, neurons in blocks that look only at those before them: no block above the diagonal."""
    block, out = NEURONS_AT_ONCE[b.is_cuda], torch.empty_like(b)
    for start in range(0, len(b), block):
        stop = start + block
        gram = (a[:, start:stop].T @ a[:, :stop]).to(b.dtype).tril_(start)
        torch.mm(gram, b[:stop], out=out[start:stop])
    return out


def _patch_product(a: Tensor, x: Tensor, w: Tensor, stride: IntPair, padding: IntPair) -> Tensor:
    """AᵀC like w: the weight gradient of a convolution, so that no patch matrix is ever made."""
    if _fully_connected(x, w, padding):
        return (a.flatten(1).T @ x.flatten(1)).view_as(w).to(w.dtype)
    gradient: Tensor = conv2d_weight(x, w.shape, a, stride, padding)
    return gradient.to(w.dtype)


def _fully_connected(x: Tensor, w: Tensor, padding: IntPair) -> bool:
    """True where the kernel is the whole map: each image is one patch."""
    return x.shape[2:] == w.shape[2:] and padding in (0, (0, 0))


def _hpca_in_blocks(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """P times the same update where Q² M would cost more than P Q M: neurons in blocks, each learning from
    the residual R = C − Σ A_b B_b that the earlier blocks leave: P ΔB_b = A_bᵀR − tril(A_bᵀA_b) B_b."""
    block = NEURONS_AT_ONCE[b.is_cuda]
    residual, delta = c.clone(), torch.empty_like(b)
    for start in range(0, len(b), block):
        a_b, b_b = a[:, start : start + block], b[start : start + block]
        delta_b = delta[start : start + block]
        torch.mm(a_b.T, residual, out=delta_b)
        delta_b.addmm_((a_b.T @ a_b).tril(), b_b, alpha=-1)
        residual.addmm_(a_b, b_b, alpha=-1)
    return delta


def swta(
    x: Tensor, y: Tensor, w: Tensor, *, stride: IntPair = 1, padding: IntPair = 0, temperature: float = 0.02
) -> Tensor:
    """Two-phase soft winner-takes-all: Δb_pq = s_pq (c_p − b_q) for each patch, then their mean weighted
    with s_pq / Σ_p s_pq."""
    patches = unfold(x, w.shape[2:], padding=padding, stride=stride).transpose(1, 2).flatten(0, 1)
    scores = torch.softmax(y.flatten(2).transpose(1, 2).flatten(0, 1) / temperature, dim=1)
    weights = torch.nan_to_num(scores / scores.sum(0))  # 0 / 0: nobody voted for this neuron
    dw = torch.zeros(len(w), patches.shape[1], dtype=w.dtype, device=w.device)
    for chunk in _chunks(len(patches), dw.numel()):
        deltas = scores[chunk, :, None] * (patches[chunk, None, :] - w.flatten(1))  # (chunk, Q, M)
        dw += (weights[chunk, :, None] * deltas).sum(0)
    return dw.reshape(w.shape)


def hpca(x: Tensor, y: Tensor, w: Tensor, *, stride: IntPair = 1, padding: IntPair = 0) -> Tensor:
    """Two-phase Hebbian PCA: Δb_pq = a_pq (c_p − Σ_{k≤q} a_pk b_k) for each patch, then their mean."""
    patches = unfold(x, w.shape[2:], padding=padding, stride=stride).transpose(1, 2).flatten(0, 1)
    responses = y.flatten(2).transpose(1, 2).flatten(0, 1)
    dw = torch.zeros(len(w), patches.shape[1], dtype=w.dtype, device=w.device)
    for chunk in _chunks(len(patches), dw.numel()):
        reconstructions = (responses[chunk, :, None] * w.flatten(1)).cumsum(1)  # (chunk, Q, M)
        dw += (responses[chunk, :, None] * (patches[chunk, None, :] - reconstructions)).sum(0)
    return (dw / len(patches)).reshape(w.shape)


def hebbgrad(
    x: Tensor, y: Tensor, w: Tensor, *, stride: IntPair = 1, padding: IntPair = 0, add: Add = alone
) -> Tensor:
    """Hard winner-takes-all with Grossberg's instar rule: Δb_q = a_q (c − b_q), a = 1 for a patch's most
    active neuron if it is active at all, else 0. Aggregation is the mean: ΔB = (AᵀC − diag(Σ_p a_p) B) / P.

    Source: Miconi, arXiv 2107.01729, who takes it as minus the gradient of a surrogate loss. He scales
    filters to length 1 after each step; here neurons compete by b/‖b‖. His adaptive thresholds, a state
    beside the weights, are left out."""
    best = y.movedim(1, -1).max(-1, keepdim=True)
    a = torch.zeros_like(y)
    a.movedim(1, -1).scatter_(-1, best.indices, (best.values > 0).to(y.dtype))
    dw = _patch_product(a, x, w, stride, padding)
    won = a.sum((0, 2, 3), dtype=w.dtype)
    dw, won, patches = add(dw, won, a.numel() // len(w))
    return dw.sub_(won.view(-1, 1, 1, 1) * w).div_(patches)


def krotov(
    x: Tensor,
    y: Tensor,
    w: Tensor,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    p: float = 2.0,
    k: int = 2,
    delta: float = 0.1,
    add: Add = alone,
) -> Tensor:
    """Competing hidden units: Δb_q = g_q (c − I_q b_q), currents I_q = Σ_j sign(b_qj) |b_qj|^(p−1) c_j, g = 1
    for the neuron with the largest current, −Δ for the k-th, else 0. Lebesgue norms ‖b‖_p tend to 1.

    For p = 2 the currents are y, what the layer projects; for another p they are computed here. Aggregation
    is the authors': the sum over patches, divided by its largest entry, so that the learning rate is the
    most that a weight moves; the mean diverges where currents are large. p, k, Δ as in their CIFAR-10 code.
    Source: Krotov and Hopfield, doi 10.1073/pnas.1820458116."""
    b = w if p == 2 else w.sign() * w.abs() ** (p - 1)
    rest = (y if p == 2 else convolve(x, b.to(x.dtype), stride, padding)).movedim(1, -1).clone()
    first = ranked = rest.max(-1, keepdim=True).indices
    for _ in range(k - 1):  # one maximum at a time: for few ranks several times faster than topk
        ranked = rest.scatter_(-1, ranked, -math.inf).max(-1, keepdim=True).indices
    g = rest.zero_().scatter_(-1, ranked, -delta).scatter_(-1, first, 1.0).movedim(-1, 1)
    (dw,) = add(_patch_product(g, x, w, stride, padding))
    return _bounded_oja(dw, w, b)


def softhebb(
    x: Tensor,
    y: Tensor,
    w: Tensor,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    temperature: float = 1.0,
    add: Add = alone,
) -> Tensor:
    """Soft competition that repels losers: Δb_q = |‖b_q‖ − 1|^½ a_q (c − u_q b_q), u_q = b_q·c, a = softmax
    over neurons of u/T, negated for all but the most active one. y may be u less what is the same for all
    neurons of a patch. Aggregation is the authors': the sum over patches, divided by its largest entry
    before the rates |‖b_q‖ − 1|^½; the mean diverges.

    Source: Journé et al., arXiv 2209.11883, whose layers put out triangle(u) = ReLU(u_q − mean_k u_k) to a
    power of 0.7 to 1.4, here 1 everywhere: that is a plain convolution with centred filters and ReLU."""
    a = torch.softmax(y.movedim(1, -1).to(w.dtype) / temperature, dim=-1)
    best = a.max(-1, keepdim=True)
    a = a.neg_().scatter_(-1, best.indices, best.values).movedim(-1, 1)
    rates = (w.flatten(1).norm(dim=1) - 1).abs_().sqrt_()
    (dw,) = add(_patch_product(a.to(x.dtype), x, w, stride, padding))
    return _bounded_oja(dw, w, w).mul_(rates.view(-1, 1, 1, 1))


def _bounded_oja(dw: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """AᵀC − diag(Σ_p a_pq I_pq) W over its largest entry, of AᵀC, for the currents I = C Bᵀ. Since
    Σ_p a_pq I_pq is (AᵀC)_q · b_q, the currents are not needed for it."""
    dw = dw.sub_((dw * b).sum((1, 2, 3), keepdim=True) * w)
    return dw.div_(dw.abs().max().clamp_min_(torch.finfo(w.dtype).tiny))


def _chunks(patches: int, values_each: int, limit: int = 1 << 25) -> list[slice]:
    """Slices of patches whose deltas stay below `limit` values."""
    size = max(1, limit // values_each)
    return [slice(start, start + size) for start in range(0, patches, size)]


def raised_cosine(x: Tensor, projection: Tensor, w: Tensor, *, stride: IntPair, padding: IntPair) -> Tensor:
    """What SWTA's softmax sees: ((cos(c, b) + 1) / 2)², `projection` being c·b / ‖b‖; like w in precision,
    since the temperature magnifies its differences. An empty patch has cosine 0."""
    squares = x.to(w.dtype).square().sum(1, keepdim=True)
    norms = avg_pool2d(squares, w.shape[2:], stride, padding, divisor_override=1).sqrt_()
    norms.clamp_min_(torch.finfo(w.dtype).eps)
    return (projection.to(w.dtype) * (0.5 / norms)).add_(0.5).square_()


def currents(x: Tensor, projection: Tensor, w: Tensor, *, stride: IntPair, padding: IntPair) -> Tensor:
    """The projections c·b before ReLU, in the same memory."""
    return projection


def directions(w: Tensor) -> Tensor:
    """b / ‖b‖."""
    norms = w.flatten(1).norm(dim=1).clamp_min(torch.finfo(w.dtype).eps)
    return w / norms.view(-1, 1, 1, 1)


def centred(w: Tensor) -> Tensor:
    """b_q − mean_k b_k: their projections are u_q − mean_k u_k, rectified SoftHebb's triangle of power 1."""
    return w - w.mean(0)


class Traits(NamedTuple):
    """What a rule is like: how a layer runs it, and what it was found to need or its source used."""

    update: Callable[..., Tensor]
    lr: float
    adaptive: bool  # divide each layer's learning rate by √M, its inputs
    whiten: bool = False
    temperature: float | None = None  # T of its softmax, if it has one
    # What it learns from, where that is not the layer's output, ReLU of the projections.
    response: Callable[..., Tensor] | None = None
    # The filters with which a plain convolution gives a layer's projections, where they are not the weights.
    filters: Callable[[Tensor], Tensor] | None = None
    # Weights start uniform in ±1/√M times this. Krotov's and SoftHebb's start at lengths of about 2 and 5.2:
    # they bring winners' lengths to 1, from above, so that after long neurons have won and shrunk others
    # win. Their sources start from above too, but farther away and normally distributed: Krotov and Hopfield
    # at N(0, 1), lengths of √M (8.7 for 5×5×3), SoftHebb's demo at 25·N(0, 1)/√M, lengths of 25.
    start: float = 1.0
    adds: bool = True  # whether it takes `add`


SWTA = Traits(
    swta_fh, 1e-2, adaptive=False, whiten=True, temperature=0.02, response=raised_cosine, filters=directions
)
HPCA = Traits(hpca_fh, 0.06, adaptive=True)
TRAITS = {
    "swta": SWTA._replace(update=swta, adds=False),
    "swta_fh": SWTA,
    "hpca": HPCA._replace(update=hpca, adds=False),
    "hpca_fh": HPCA,
    "hebbgrad": Traits(hebbgrad, 1.0, adaptive=False, whiten=True, filters=directions),
    "krotov": Traits(krotov, 5e-2, adaptive=False, response=currents, start=3.5),
    "softhebb": Traits(
        softhebb, 8e-2, adaptive=False, temperature=1.0, response=currents, filters=centred, start=9.0
    ),
}
RULES = {name: traits.update for name, traits in TRAITS.items()}
