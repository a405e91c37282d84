"""From embeddings and a few labels to a head that makes codes: graph, smoothing, posteriors, student, ITQ.

The graph joins all images that will be found: what it teaches is transductive for them. The head then knows
of an embedding alone what the graph would say, and so encodes images that come later, and queries, alike.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from index.items import UNLABELLED
from training.coding.confidence import Calibration, rough
from training.coding.embedding import components, embedding
from training.coding.graph import Vectors, affinity, neighbours
from training.coding.posterior import logistic
from training.coding.propagation import smoothed
from training.coding.quantisation import iterative_quantisation
from training.data import Positions
from training.nets.encoder import Encoder
from training.nets.head import PosteriorHead

log = logging.getLogger("hebbsearch")

SIZE = 512  # of an embedding: numbers of 16 bits, a kilobyte an image
SAMPLE = 10_000  # images from whose features the embedding is learned
SMOOTHING = 0.9  # α: 0.8 to 0.95 differ by a point, 0.5 gains half
# λ of PosteriorHead. 2 ranks the classes that have labels a point better; 1 those that have none nine better.
EMPHASIS = 1.5
HIDDEN = 512
BATCH, EPOCHS, LEAST_STEPS = 512, 12, 300
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


def learn_encoder(
    encoder: Encoder,
    pixels: Batches,
    positions: Positions,
    labels: NDArray[np.int64],
    *,
    power: float,
    seed: int,
) -> Learned:
    """The embedding and the head of an encoder whose features are learned, from the images at `positions`
    and the labels (n,) of some of them. `power` is that of `embedding`."""
    seconds: dict[str, float] = {}
    vectors = learn_embedding(encoder, pixels, positions, power, seed, seconds)
    learned = learn_codes(vectors, labels, encoder.description.classes, bits=encoder.bits, seed=seed)
    encoder.head.load_state_dict(learned.head.state_dict())
    return replace(learned, seconds=seconds | learned.seconds)


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
    sample = np.sort(np.random.default_rng(seed).permutation(positions)[:SAMPLE])
    with timed(seconds, "components"):
        features = torch.cat([encoder.mirrored(batch).cpu() for batch in pixels("components", sample)])
        found = components(features.numpy(), encoder.embedding_size, seed)
        encoder.embedding.load_state_dict(embedding(found, power).state_dict())
    with timed(seconds, "embeddings"):
        kept = [encoder.embed(batch) for batch in pixels("embeddings", positions)]
    return np.concatenate(kept).astype(np.float32)


def learn_codes(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], classes: int, *, bits: int, seed: int
) -> Learned:
    """A head from the unit vectors (n, E) of all images and the labels (n,) of some, UNLABELLED for the rest.

    `classes` is how many there are, of which some may have no label; none: codes of the images alone.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "graph"):
        graph = affinity(neighbours(vectors))
    with timed(seconds, "smoothing"):
        places = unit(smoothed(graph, vectors, SMOOTHING))
    head = PosteriorHead(vectors.shape[1], bits, classes, HIDDEN, EMPHASIS)
    posteriors, calibration = np.zeros((len(vectors), 0), np.float32), Calibration()
    if classes:
        with timed(seconds, "posteriors"):
            posteriors = taught(vectors, places, labels, classes, seed)
            calibration = rough((vectors, places), labels, classes, seed)
    with timed(seconds, "student"):
        teach(head, vectors, places, posteriors, seed)
    with timed(seconds, "code"):
        method = rotate(head, vectors, seed)
    return Learned(head.eval(), posteriors, method, calibration, seconds)


def taught(
    vectors: NDArray[np.float32],
    places: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    seed: int,
) -> NDArray[np.float32]:
    """Posteriors (n, classes) of all images: the mean of what the labels say by embeddings, which is best of
    many labels, and by smoothed ones, which is best of few."""
    by_vector = logistic(vectors, labels, classes, seed)(vectors)
    by_place = logistic(places, labels, classes, seed)(places)
    mean: NDArray[np.float32] = (by_vector + by_place) / np.float32(2)
    given = np.flatnonzero(labels != UNLABELLED)
    mean[given] = 0
    mean[given, labels[given]] = 1
    return mean


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
