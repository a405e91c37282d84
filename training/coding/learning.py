"""From embeddings and a few labels to a head that makes codes: graph, smoothing, posteriors, student, ITQ.

The graph joins all images that will be found: what it teaches is transductive for them. The head then knows
of an embedding alone what the graph would say, and so encodes images that come later, and queries, alike.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from index.items import UNLABELLED
from training.coding.confidence import FEWEST, Calibration, of_labels
from training.coding.embedding import components, embedding
from training.coding.graph import Vectors, affinity, neighbours
from training.coding.posterior import best_decay, logistic, loss, without_each
from training.coding.propagation import smoothed
from training.coding.quantisation import iterative_quantisation
from training.data import Positions
from training.nets.encoder import Encoder
from training.nets.head import PosteriorHead

log = logging.getLogger("hebbsearch")

SIZE = 512  # of an embedding: numbers of 16 bits, a kilobyte an image
SAMPLE = 10_000  # images from whose features the embedding is learned
TOGETHER = 1_000  # of them turned into embeddings at a time
SMOOTHING = 0.9  # α: 0.8 to 0.95 differ by a point, 0.5 gains half
SHARES = (1.0, 0.5, 0.0)  # of the places in the posteriors; of equals, and of too few labels, the first
# How far class and place each spread in what a code is made of. A third more ranks classes with labels half a
# point better, a third less those without five.
EMPHASIS, MOST = 1.3, 5.0
HIDDEN = 512
BATCH, EPOCHS, LEAST_STEPS = 512, 8, 300
LEARNING_RATE = 2e-3
PLACE_WEIGHT = 5.0  # of 1 − cosine beside the cross-entropy
ROTATED = 50  # images a bit from which ITQ learns at most: more make it no better


@dataclass(frozen=True)
class Learned:
    """A head, and what is known of how it came to be."""

    head: PosteriorHead
    posteriors: NDArray[np.float32]  # (n, classes) of all images it learned from, by the teachers
    method: str
    calibration: Calibration
    seconds: dict[str, float] = field(default_factory=dict)


Batches = Callable[[str, Positions], Iterable[Tensor]]  # what for, positions -> uint8 pixels (b, 3, S, S)


def learn_embedding(
    encoder: Encoder,
    pixels: Batches,
    positions: Positions,
    power: float,
    seed: int,
    seconds: dict[str, float],
) -> Vectors:
    """The embedding of an encoder whose features are learned; returns those (n, E) of the images at
    `positions`, and notes the `seconds` it took."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(positions))[:SAMPLE])
    rest = np.setdiff1d(np.arange(len(positions)), drawn)
    vectors = np.empty((len(positions), encoder.embedding_size), np.float32)
    with timed(seconds, "features"):
        sample = torch.cat([encoder.seen(batch).cpu() for batch in pixels("features", positions[drawn])])
    with timed(seconds, "components"):
        found = components(sample.numpy(), encoder.embedding_size, seed)
        encoder.embedding.load_state_dict(embedding(found, power).state_dict())
        device = next(encoder.parameters()).device
        parts = [encoder.embedded(part.to(device)) for part in sample.split(TOGETHER)]
        vectors[drawn] = np.concatenate(parts)
    if len(rest):
        del sample
        with timed(seconds, "embeddings"):
            start = 0
            for batch in pixels("embeddings", positions[rest]):
                vectors[rest[start : start + len(batch)]] = encoder.embed(batch)
                start += len(batch)
    return vectors


def learn_head(
    encoder: Encoder,
    vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    seed: int,
    grouped: NDArray[np.bool_] | None = None,
) -> Learned:
    """The head of an encoder, from the embeddings (n, E) of images and the labels (n,) of some of them, those
    of `grouped` ones as of `learn_codes`."""
    classes, bits = encoder.description.classes, encoder.bits
    learned = learn_codes(vectors, labels, classes, bits=bits, seed=seed, grouped=grouped)
    encoder.head.load_state_dict(learned.head.state_dict())
    return learned


def learn_codes(
    vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    *,
    bits: int,
    seed: int,
    grouped: NDArray[np.bool_] | None = None,
) -> Learned:
    """A head from the unit vectors (n, E) of all images and the labels (n,) of some, UNLABELLED for the rest.

    `classes` is how many there are, of which some may have no label; none: codes of the images alone. Labels
    of `grouped` images (n,) were predicted and accepted in groups: they teach, but do not tell how sure a
    predicted label is, or what was predicted would prove itself.
    """
    seconds: dict[str, float] = {}
    places = places_of(vectors, seconds)
    posteriors, calibration = np.zeros((len(vectors), 0), np.float32), Calibration()
    if classes:
        with timed(seconds, "posteriors"):
            posteriors, calibration = taught((vectors, places), labels, classes, seed, grouped)
    head = PosteriorHead(vectors.shape[1], bits, classes, HIDDEN, emphasis(posteriors, places))
    with timed(seconds, "head"):
        teach(head, vectors, places, posteriors, seed)
    with timed(seconds, "code"):
        method = rotate(head, vectors, seed)
    return Learned(head.eval(), posteriors, method, calibration, seconds)


def propagated(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], classes: int, seed: int
) -> NDArray[np.float32]:
    """What the labels (n,) of some images say of all by way of their unit vectors (n, E): posteriors (n,
    classes), those that a label gives included. Where all have one, there is nothing to look for."""
    if (labels != UNLABELLED).all():
        return np.eye(classes, dtype=np.float32)[labels]
    return taught((vectors, places_of(vectors, {})), labels, classes, seed)[0]


def places_of(vectors: NDArray[np.float32], seconds: dict[str, float]) -> NDArray[np.float32]:
    """Unit vectors (n, E) of all images, those that look alike drawn together."""
    with timed(seconds, "graph"):
        graph = affinity(neighbours(vectors))
    with timed(seconds, "smoothing"):
        return unit(smoothed(graph, vectors, SMOOTHING))


def taught(
    spaces: tuple[NDArray[np.float32], NDArray[np.float32]],
    labels: NDArray[np.int64],
    classes: int,
    seed: int,
    grouped: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], Calibration]:
    """Posteriors (n, classes) of all images, and how sure they are: what the labels say by the embeddings,
    which is best of many labels, by the places, which is best of few, or both, as labels that were not
    learned from have it. Labels of `grouped` images (n,) do not tell how sure."""
    decays = [best_decay(x, labels, classes, seed) for x in spaces]
    said, rows = without_each(spaces, labels, classes, decays, seed)
    y = labels[rows]
    mixed = {share: share * said[1] + (1 - share) * said[0] for share in SHARES}
    share = min(SHARES, key=lambda share: loss(mixed[share], y)) if len(y) >= FEWEST else SHARES[0]
    by_vector, by_place = (
        logistic(x, labels, classes, decay)(x) for x, decay in zip(spaces, decays, strict=True)
    )
    posteriors = (share * by_place + (1 - share) * by_vector).astype(np.float32)
    log.info("labels are propagated %.0f %% by smoothed embeddings", 100 * share)
    given = np.flatnonzero(labels != UNLABELLED)
    posteriors[given] = 0
    posteriors[given, labels[given]] = 1
    judging = slice(None) if grouped is None else ~grouped[rows]
    return posteriors, of_labels(mixed[share][judging], y[judging])


def emphasis(posteriors: NDArray[np.float32], places: NDArray[np.float32]) -> float:
    """λ with which class and place have EMPHASIS to 1 parts in a code, however sure the posteriors are: of
    few labels they are nearly equal for all classes, and would not count."""
    if not posteriors.shape[1]:
        return 0.0
    sureness = float(np.square(posteriors - 1 / posteriors.shape[1]).sum(1).mean())
    spread = 1 - float(np.square(places.mean(0)).sum())
    return min(EMPHASIS * math.sqrt(spread / max(sureness, 1e-6)), MOST)


def teach(
    head: PosteriorHead,
    vectors: NDArray[np.float32],
    places: NDArray[np.float32],
    posteriors: NDArray[np.float32],
    seed: int,
) -> None:
    """The student learns places (n, E) and posteriors (n, classes) of vectors (n, E)."""
    x, s, q = (torch.from_numpy(np.ascontiguousarray(each)) for each in (vectors, places, posteriors))
    generator = torch.Generator().manual_seed(seed)
    student = head.student
    with torch.no_grad():
        for layer in filter(None, (student.hidden, student.place, student.classifier)):
            bound = 1 / math.sqrt(layer.weight.shape[1])
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()
        student.place.weight[:, : x.shape[1]] += torch.eye(x.shape[1])
    steps = max(LEAST_STEPS, EPOCHS * math.ceil(len(x) / BATCH))
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for rows in _batches(len(x), steps, generator):
        logits, place = student(x[rows])
        loss = PLACE_WEIGHT * (1 - (place * s[rows]).sum(1)).mean()
        if q.shape[1]:
            loss = loss + cross_entropy(logits, q[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def _batches(count: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches of rows; each pass over all of them in an order of its own."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < min(BATCH, count):
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:BATCH]
        order = order[BATCH:]


@torch.no_grad()
def rotate(head: PosteriorHead, vectors: NDArray[np.float32], seed: int) -> str:
    """Choose the head's bits by ITQ of its joint vectors; returns the method's name."""
    bits = head.hash.out_features
    rng = np.random.default_rng(seed)
    sample = rng.permutation(len(vectors))[: ROTATED * bits]
    joint = head.joint(torch.from_numpy(vectors[sample])).numpy()
    weight, mean, method = iterative_quantisation(joint, bits, seed)
    head.hash.weight.copy_(torch.from_numpy(weight))
    head.hash.bias.copy_(torch.from_numpy(-weight @ mean))
    return method


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; those of length 0 stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return np.divide(vectors, norms, dtype=np.float32)


@contextmanager
def timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Notes how long what is done within takes."""
    start = time.monotonic()
    yield
    seconds[what] = round(time.monotonic() - start, 1)
    log.info("%s: %.0f s", what, seconds[what])
