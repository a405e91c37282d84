"""Slow, plain oracles that the fast code is compared with. They share no code with it."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations, groupby, product

import numpy as np

# --- learning rules --------------------------------------------------------------------------------


def _patches(x, y, kernel, stride, padding):
    """Each patch (C·kh·kw,) of x (B, C, H, W) with its activations (Q,), in float64."""
    (rows, columns) = (stride, stride) if isinstance(stride, int) else stride
    (top, left) = (padding, padding) if isinstance(padding, int) else padding
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, top), (left, left)))
    for image, activations in zip(x, y.astype(np.float64), strict=True):
        for i in range(activations.shape[1]):
            for j in range(activations.shape[2]):
                r, c = i * rows, j * columns
                patch = image[:, r : r + kernel[0], c : c + kernel[1]]
                yield patch.ravel(), activations[:, i, j]


def swta_patch_by_patch(x, y, w, *, stride=1, padding=0, temperature=0.02):
    """Each patch votes with its softmax; a neuron's update is the mean weighted with its votes."""
    b = w.reshape(len(w), -1).astype(np.float64)
    votes, deltas = [], []
    for patch, activations in _patches(x, y, w.shape[2:], stride, padding):
        exponentials = np.exp((activations - activations.max()) / temperature)
        s = exponentials / exponentials.sum()
        votes.append(s)
        deltas.append(np.stack([s[q] * (patch - b[q]) for q in range(len(b))]))
    votes, deltas = np.array(votes), np.array(deltas)
    update = np.zeros_like(b)
    for q in range(len(b)):
        if votes[:, q].sum() > 0:
            update[q] = np.average(deltas[:, q], axis=0, weights=votes[:, q])
    return update.reshape(w.shape)


def hpca_patch_by_patch(x, y, w, *, stride=1, padding=0):
    """Neuron q learns what neurons 1 … q leave of the patch; updates are averaged over patches."""
    b = w.reshape(len(w), -1).astype(np.float64)
    deltas = []
    for patch, a in _patches(x, y, w.shape[2:], stride, padding):
        rest, delta = patch.copy(), np.zeros_like(b)
        for q in range(len(b)):
            rest -= a[q] * b[q]
            delta[q] = a[q] * rest
        deltas.append(delta)
    return np.mean(deltas, axis=0).reshape(w.shape)


def hebbgrad_patch_by_patch(x, y, w, *, stride=1, padding=0):
    """The most active neuron, if it is active at all, moves to the patch; the mean over patches."""
    b = w.reshape(len(w), -1).astype(np.float64)
    deltas = []
    for patch, a in _patches(x, y, w.shape[2:], stride, padding):
        delta, winner = np.zeros_like(b), int(np.argmax(a))
        if a[winner] > 0:
            delta[winner] = patch - b[winner]
        deltas.append(delta)
    return np.mean(deltas, axis=0).reshape(w.shape)


def krotov_patch_by_patch(x, y, w, *, stride=1, padding=0, p=2, k=2, delta=0.1):
    """Currents Σ_j sign(b_j)|b_j|^(p−1) c_j; the first learns by 1, the k-th by −Δ. Largest entry 1."""
    b = w.reshape(len(w), -1).astype(np.float64)
    total = np.zeros_like(b)
    for patch, activations in _patches(x, y, w.shape[2:], stride, padding):
        currents = (np.sign(b) * abs(b) ** (p - 1)) @ patch
        order = sorted(range(len(b)), key=lambda q: -(activations if p == 2 else currents)[q])
        for q, g in ((order[0], 1.0), (order[k - 1], -delta)):
            total[q] += g * (patch - currents[q] * b[q])
    return (total / abs(total).max()).reshape(w.shape)


def softhebb_patch_by_patch(x, y, w, *, stride=1, padding=0, temperature=1.0):
    """The winner of the softmax is Hebbian, all others the opposite. Largest entry 1, then the rates."""
    b = w.reshape(len(w), -1).astype(np.float64)
    total = np.zeros_like(b)
    for patch, activations in _patches(x, y, w.shape[2:], stride, padding):
        exponentials = np.exp((activations - activations.max()) / temperature)
        for q in range(len(b)):
            sign = 1 if activations[q] == activations.max() else -1
            s = sign * exponentials[q] / exponentials.sum()
            total[q] += s * (patch - (b[q] @ patch) * b[q])
    rates = [abs(np.linalg.norm(b_q) - 1) ** 0.5 for b_q in b]
    return (np.array(rates)[:, None] * total / abs(total).max()).reshape(w.shape)


# --- Hamming ranking -----------------------------------------------------------------------------


def hamming_distance(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def ranking(
    query: bytes, database: Mapping[int, bytes], allowed: Collection[int] | None = None
) -> list[tuple[int, int]]:
    """(distance, id) of all items, or of those allowed, nearest first, ties by id."""
    return sorted(
        (hamming_distance(query, code), item)
        for item, code in database.items()
        if allowed is None or item in allowed
    )


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """0 where a vector has no direction."""
    lengths = math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


# --- Evaluation: every order inside the groups of equal distance ---------------------------------


def relevance_orders(distances: Sequence[int], relevant: Sequence[bool]) -> Iterator[list[bool]]:
    """Relevance along the ranking, for all orders of ties; each is equally likely."""
    ranked = sorted(zip(distances, relevant, strict=True), key=lambda pair: pair[0])
    groups = [[flag for _, flag in group] for _, group in groupby(ranked, key=lambda pair: pair[0])]
    places = [combinations(range(len(group)), sum(group)) for group in groups]
    for chosen in product(*places):
        yield [place in at for at, group in zip(chosen, groups, strict=True) for place in range(len(group))]


def average_precision(
    distances: Sequence[int], relevant: Sequence[bool], k: int, *, ties: str, denominator: str
) -> float:
    """AP of one query; NaN where nothing is relevant."""
    if not any(relevant):
        return math.nan
    values = [_average_precision(order, k, denominator) for order in _orders(distances, relevant, ties)]
    return float(sum(values, Fraction(0)) / len(values))


def precision(distances: Sequence[int], relevant: Sequence[bool], k: int, *, ties: str) -> float:
    """Precision at k of one query."""
    k = min(k, len(distances))
    values = [Fraction(sum(order[:k]), k) for order in _orders(distances, relevant, ties)]
    return float(sum(values, Fraction(0)) / len(values))


def _orders(distances: Sequence[int], relevant: Sequence[bool], ties: str) -> list[list[bool]]:
    if ties == "expected":
        return list(relevance_orders(distances, relevant))
    stable = sorted(range(len(distances)), key=lambda position: distances[position])
    return [[relevant[position] for position in stable]]


def _average_precision(order: Sequence[bool], k: int, denominator: str) -> Fraction:
    hits, total = 0, Fraction(0)
    for rank, flag in enumerate(order[:k], start=1):
        if flag:
            hits += 1
            total += Fraction(hits, rank)
    divisor = min(sum(order), k) if denominator == "min" else hits
    return total / divisor if divisor else Fraction(0)


# --- hah ---


def hebbian_anti_hebbian_cost_by_location(activations, share, anti):
    """At each location anti · mean of the weaker neurons − mean of the strongest ⌈share · Q⌉; their mean."""
    costs = []
    for image in activations:
        for row, column in np.ndindex(*image.shape[1:]):
            ranked = sorted(image[:, row, column].tolist(), reverse=True)
            strongest = math.ceil(share * len(ranked))
            others = ranked[strongest:]
            mean_others = sum(others) / len(others) if others else 0.0
            costs.append(anti * mean_others - sum(ranked[:strongest]) / strongest)
    return sum(costs) / len(costs)


def divisive_normalisation_by_location(x, sigma):
    """Each value over σ · (largest M of its image) + (1 − σ) · (its location's M)."""
    out = np.empty_like(x)
    for image, normalised in zip(x, out, strict=True):
        rows, columns = image.shape[1:]
        field = np.empty((rows, columns))
        for i, j in np.ndindex(rows, columns):
            around = image[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
            field[i, j] = np.mean([np.max(channel) for channel in around])
        for i, j in np.ndindex(rows, columns):
            normalised[:, i, j] = image[:, i, j] / (sigma * field.max() + (1 - sigma) * field[i, j] + 1e-7)
    return out
