"""One training run: its data, its model, and the stages one after the other, each of them resumable."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from index.items import UNLABELLED
from training import protocol
from training.checkpoint import (
    CHECKPOINT,
    STAGES,
    CheckpointError,
    before,
    first_changed,
    rates,
    read_checkpoint,
    readable,
    write_checkpoint,
)
from training.coding.learning import (
    Batches,
    Learned,
    learn_embedding,
    learn_head,
    propagated,
    unit,
)
from training.coding.mirror import SAMPLE, USUAL, small, unusual
from training.config import Config
from training.data import DataError, ImageSet, Positions, changed_since
from training.device import activation_type, choose_device, choose_precision, round_products
from training.learning.by_rule import LEARNERS, Learner
from training.learning.finetune import JointHead, Supervised, accuracy, head_without_labels
from training.learning.student import BATCH, FEWEST, LEAST_STEPS, Lesson, PixelStudent, rounds_end
from training.learning.together import ALONE, Alone
from training.model import Model, joined_encoder, kept_of, student_of, take_pretrained, xavier
from training.nets.backbones import BACKBONES
from training.nets.encoder import Encoder
from training.nets.head import joined
from training.nets.pretrained import Origin, is_pretrained
from training.pixels import Loaded, batches, check_same, each_batch, load, stream

log = logging.getLogger("hebbsearch")

Saved = dict[str, Any] | None  # a checkpoint, if there is one
Embedded = tuple[Encoder, NDArray[np.float32]]  # an encoder whose head is yet to learn, embeddings (n, E)
Inputs = Callable[[Iterable[Tensor]], Iterator[tuple[Tensor, Tensor]]]  # groups of positions -> with values

REMEMBERED_BYTES = 2 << 30
SPOILT = ", or, if the fine-tuning has spoilt the features, finetune_lr={:g}"
METHODS = {"frozen": "supervised tanh head", "joint": "supervised head, fine-tuned with its features"}
EMBEDDINGS = "embeddings.pt"  # beside the checkpoint: those that a student's teachers know
IMAGES = "images.json"  # beside the checkpoint: what the run was started with
ITQ_IMAGES = 4096  # enough to learn a rotation from; more costs time that grows with the cube


class Coded(NamedTuple):
    """An encoder that another recipe than the paper's made, and how."""

    encoder: Encoder
    learned: Learned
    vectors: NDArray[np.float32]  # (n, E) embeddings of the images that were learned from


class Run:
    """Reads the images, divides them, and trains.

    `work` is the folder for checkpoints, None for none of them; `loaded` the images, where several runs
    share them; `workers` are those that learn together.
    """

    def __init__(
        self, config: Config, work: Path | None, loaded: Loaded | None = None, workers: Alone = ALONE
    ) -> None:
        self.config, self.workers = config, workers
        self.checkpoint = None if work is None else work / CHECKPOINT
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        self.dtype = activation_type(self.precision)
        self.images, self.pixels, self.skipped, split = load(config, workers) if loaded is None else loaded
        fraction = config.fraction() if self.images.classes else 0.0
        # Pixels, labels and positions lie together: on the device, or none of them, so that nothing waits.
        self.home = self.pixels.device if isinstance(self.pixels, Tensor) else torch.device("cpu")
        self.fingerprint = self.images.fingerprint()
        self.split = protocol.split(self.images, fraction, config.seed) if split is None else split
        if len(self.split.pretraining) < 2:
            raise DataError(f"{self.images.where}: one image is not enough to learn from; add some")
        self.labels = torch.from_numpy(self.images.labels).to(self.home)
        self.classes = self.images.classes if len(self.split.training) else ()
        self.seconds: dict[str, float] = {}
        self.validation: dict[str, list[float]] = {}  # accuracy after each epoch, by stage
        torch.manual_seed(protocol.derived_seed(config.seed))
        taught = len(self.classes) if config.recipe == "paper" else 0
        self.model = Model(config, taught).to(self.device)
        self.model.mirrors = mirrors(self)
        self.coded: Coded | None = None  # what another recipe made
        self.origin: Origin | None = None  # of weights that were learned elsewhere

    # --- the stages ---

    def train(self) -> str:
        """Run what is not done yet; returns how the codes were learned. Workers help with what is learned
        image by image, and leave the rest to the first."""
        saved = self.restore()
        begin_together(self)
        taught = learn_together(self, self.learn_features(saved))
        self.workers.leave()
        return "" if self.workers.rank else learn_alone(self, taught)

    def learn_features(self, saved: Saved = None) -> Saved:
        """Preprocessing and pre-training; returns the checkpoint if it belongs to a later stage."""
        if is_pretrained(self.config.backbone):
            self.origin = take_pretrained(self.model, self.config)
            return saved
        if saved is None:
            self.fit_preprocessing()
        if self.config.rule == "none":
            if saved is None:
                xavier(self.model.network)
        elif saved is None or saved["stage"] == STAGES[0]:
            self.pretrain(saved)
            return None
        return saved

    def fit_preprocessing(self) -> None:
        """Mean, deviation and, if asked for, whitening of the pre-training images."""
        normalise = self.model.normalise
        normalise.fit(self.all_pixels("mean and deviation"))
        if self.config.whiten:
            round_products("fp32")  # the encoder keeps the filter: it is never learned in TF32
            normalise.fit_whitening(self.all_pixels("whitening"), smoothing=self.config.smoothing)
            round_products(self.precision)

    def pretrain(self, saved: Saved, after_each: Callable[[], None] | None = None) -> None:
        """Learning as the rule has it, then the plain network with what was learned; also after each epoch,
        before its checkpoint, if there is something to do with it."""
        torch.manual_seed(protocol.derived_seed(self.config.seed, 1))
        learning = self.pretraining()
        if saved is not None:
            learning.load_state_dict(saved["training"])
        positions = positions_of(self, learning)
        epochs = self.epochs(STAGES[0], self.config.epochs, positions, saved, learning.state_dict)
        for epoch, groups in epochs:
            learn(self, learning, epoch, map(self.workers.share, groups))
            if after_each is not None:
                self.model.take(learning.weights())
                after_each()
        self.model.take(learning.weights())

    def pretraining(self) -> Learner:
        """What learns, with a network of its own."""
        return LEARNERS[self.config.rule].configured(
            self.config, len(self.classes), self.device, self.workers
        )

    def finetune(self, saved: Saved) -> Supervised:
        """The whole network, end to end, on the labelled images; a joint head takes the features that it
        will begin with, pre-trained and not yet fine-tuned."""
        head = self.model.head
        if saved is None and isinstance(head, JointHead):
            head.features.load_state_dict(self.model.network.features.state_dict())
        learning = self.end_to_end(self.model.classifier)
        return self.supervise(STAGES[1], learning, self.remembered_inputs(), saved)

    def train_head(self, saved: Saved) -> Supervised:
        """The hashing head: on the network's features, which stay as they are, or together with its own."""
        config, head = self.config, self.model.head
        if isinstance(head, JointHead):
            learning = self.end_to_end(head)
            learning.what = STAGES[2]
            return self.supervise(STAGES[2], learning, self.remembered_inputs(), saved)
        self.model.network.eval()
        lr, epochs = config.head_lr, config.head_epochs
        learning = Supervised(
            head, config, lr=lr, epochs=epochs, weight_decay=config.head_weight_decay, workers=self.workers
        )
        learning.what, learning.rate = STAGES[2], "head_lr"
        learning.otherwise = SPOILT.format(config.finetune_lr / 10)
        return self.supervise(STAGES[2], learning, self.remembered_features(), saved)

    def end_to_end(self, model: nn.Module) -> Supervised:
        """Fine-tuning of `model` from images on."""
        config = self.config
        lr, epochs = config.finetune_lr, config.finetune_epochs
        decay = config.weight_decay
        return Supervised(model, config, lr=lr, epochs=epochs, weight_decay=decay, workers=self.workers)

    def supervise(self, stage: str, learning: Supervised, inputs: Inputs, saved: Saved) -> Supervised:
        """Learn from the `inputs` of the labelled images, remembering the best validation epoch."""
        training, validation, share = self.split.training, self.split.validation, self.workers.share
        if saved is not None:
            learning.load_state_dict(saved["training"])
        for epoch, groups in self.epochs(stage, learning.epochs, training, saved, learning.state_dict):
            learning.epoch(epoch, self.labelled(inputs(map(share, groups))))
            if len(validation):
                asked = self.labelled(inputs(map(share, self.groups(validation))))
                score = accuracy(learning.model, asked, self.workers)
                learning.consider(score)
                self.validation.setdefault(stage, []).append(score)
        return learning

    # --- what they are made of ---

    def groups(self, positions: Positions) -> Iterator[Tensor]:
        """Positions in their order, in groups for a forward pass."""
        return batches(positions, 256, device=self.home)

    def all_pixels(self, what: str) -> Iterator[Tensor]:
        """One pass over the uint8 pixels of the pre-training images."""
        groups = each_batch(what, self.split.pretraining, 512, self.home)
        return (pixels for _, pixels in stream(self.pixels, groups, self.device))

    def normalised(self, groups: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions and their images (b, 3, S, S) in 32 bits on the device."""
        streamed = stream(self.pixels, groups, self.device)
        return ((at, self.model.normalise(pixels)) for at, pixels in streamed)

    def inputs(self, groups: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same in the run's precision."""
        return ((at, images.to(self.dtype)) for at, images in self.normalised(groups))

    def labelled(self, inputs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs with the labels of their positions."""
        return ((x, self.labels[at].to(self.device, non_blocking=True)) for at, x in inputs)

    def features(self, groups: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions and their flattened convolutional features (b, F) on the device."""
        for at, images in self.inputs(groups):
            with torch.no_grad():
                features = self.model.network.features(images).flatten(1)
            yield at, features

    def remembered_inputs(self) -> Inputs:
        """`inputs` of the labelled images: whitening them takes as long as half of an epoch."""
        return self.remembered("preprocessing", self.inputs, 3 * self.config.image_size**2)

    def remembered_features(self) -> Inputs:
        """`features` of the labelled images."""
        return self.remembered("features", self.features, self.model.head.hash.in_features)

    def remembered(self, what: str, inputs: Inputs, length: int) -> Inputs:
        """`inputs` of the labelled images, each of `length` values, computed once if they fit into memory."""
        labelled = np.concatenate([self.split.training, self.split.validation])
        if self.dtype.itemsize * len(labelled) * length > REMEMBERED_BYTES:
            return inputs
        groups = each_batch(what, labelled, 256, self.home)
        known = torch.cat([values for _, values in inputs(groups)])
        row_of = rows_of(self, labelled)
        return lambda groups: ((at, known[row_of[at].to(known.device)]) for at in groups)

    def epochs(
        self,
        stage: str,
        count: int,
        positions: Positions,
        saved: Saved,
        state: Callable[[], dict[str, Any]],
        batch_size: int = 0,
    ) -> Iterator[tuple[int, Iterator[Tensor]]]:
        """The epochs still to do, each with its batches; a checkpoint before the first and after each.

        Seed, stage and epoch alone decide the order of the images and torch's random numbers, so that
        an interrupted run ends as if nothing had happened.
        """
        first = 0 if saved is None else saved["epoch"]
        if saved is None:
            self.save(stage, 0, state())
        start = time.monotonic() - self.seconds.get(stage, 0.0)
        said = time.monotonic()
        batch_size = batch_size or self.config.batch_size
        batches_each = -(-len(positions) // batch_size)
        with tqdm(
            desc=stage, total=count * batches_each, initial=first * batches_each, delay=2, disable=None,
            unit="batch", leave=False,
        ) as bar:  # fmt: skip
            for epoch in range(first, count):
                seed = protocol.derived_seed(self.config.seed, 2 + STAGES.index(stage), epoch)
                torch.manual_seed(seed)
                yield epoch, counted(batches(positions, batch_size, seed, self.home), bar)
                self.seconds[stage] = time.monotonic() - start
                self.save(stage, epoch + 1, state())
                last = epoch + 1 == count
                if bar.disable and (last or time.monotonic() - said > 10):  # no terminal: say it in lines
                    said, seconds = time.monotonic(), self.seconds[stage]
                    left = seconds / (epoch + 1) * (count - epoch - 1) / 60
                    shown = f"{stage}: epoch {epoch + 1} of {count}, {seconds:.0f} s"
                    log.info("%s, about %.0f min left", shown, left)

    def save(self, stage: str, epoch: int, training: dict[str, Any]) -> None:
        """Write the checkpoint, if there is a place for one. Those from before the later stages stay, to go
        back to."""
        if self.checkpoint is not None and not self.workers.rank:
            state = {"stage": stage, "epoch": epoch, "model": self.model.state_dict(), "training": training}
            state |= {"seconds": self.seconds, "validation": self.validation, "images": self.fingerprint}
            state["rates"] = rates(self.config)
            write_checkpoint(self.checkpoint, state)
            if epoch == 0 and stage != STAGES[0]:
                write_checkpoint(before(self.checkpoint, stage), state)

    def restore(self) -> Saved:
        """Read the checkpoint to go on from, if there is one, into the model; returns the rest of it."""
        saved = checkpoint_of(self)
        if self.checkpoint is not None and saved is not None:
            with readable(self.checkpoint):
                self.model.load_state_dict(saved["model"])
                self.seconds, self.validation = saved["seconds"], saved["validation"]
        return saved

    def encoder(self) -> Encoder:
        """The encoder with what was learned, on the run's device."""
        if self.coded is not None:
            return self.coded.encoder
        return self.model.encoder(self.config).to(self.device)


def learn_together(run: Run, saved: Saved) -> Embedded | None:
    """What follows the features and workers help with, as far as it is not done yet; embeddings if the recipe
    makes codes of them."""
    if run.config.recipe == "best":
        return learn_encoder(run, saved)
    if run.classes:
        if saved is None or saved["stage"] == STAGES[1]:
            run.finetune(saved).finish()
            saved = None
        run.train_head(saved).finish()
    return None


def learn_alone(run: Run, taught: Embedded | None) -> str:
    """The codes, with all that was learned together; returns how they were learned."""
    if taught is not None:
        return learn_by_neighbours(run, *taught)
    return METHODS[run.config.head] if run.classes else hash_without_labels(run)


def begin_together(run: Run) -> None:
    """The workers of a run have the same images, preprocessed alike. Raises DataError."""
    check_same(run.images, run.workers)
    run.workers.begin_equal(run.model)


def checkpoint_of(run: Run) -> Saved:
    """The checkpoint to go on from: the last, or, where a stage has another learning rate since, that from
    before it. None for a run that begins; its images are noted."""
    path = run.checkpoint
    if path is None:
        return None
    listing = path.with_name(IMAGES)
    if not path.exists():
        if not run.workers.rank:
            listing.write_text(json.dumps(run.images.listed()))
        return None
    saved = read_checkpoint(path, run.device)
    found = changed_since(listing, run.images, run.skipped)
    if saved["images"] != run.fingerprint:
        raise CheckpointError(
            f"{run.images.where}: the images or labels are not those that the run was started with"
            f"{found and f' ({found})'}, so that queries could have been learned from; put them back or "
            "start a new run"
        )
    if found:
        log.warning("%s: changed since the run began: %s", run.images.where, found)
    if (changed := first_changed(saved, run.config)) is None:
        return saved
    log.info("%s begins anew, since its learning rate is another one", changed)
    return None if changed == STAGES[0] else read_checkpoint(before(path, changed), run.device)


def mirrors(run: Run) -> bool:
    """Whether mirror images are learned from: where the configuration leaves it open, if they look like
    images of the run."""
    if run.config.recipe != "best" or run.config.mirror != "auto":
        return run.config.mirror == "true"
    seen, rng = run.split.pretraining, np.random.default_rng(run.config.seed)
    drawn = np.sort(rng.permutation(seen)[:SAMPLE])
    share = unusual(torch.cat([small(pixels).cpu() for pixels in pixels_of(run)("mirror images", drawn)]))
    if share > USUAL:
        log.info("mirror images are not learned from: %.0f %% are unlike all images", 100 * share)
    return share <= USUAL


def positions_of(run: Run, learner: Learner) -> Positions:
    """The images that `learner` sees in an epoch of pre-training."""
    if learner.from_labels:
        return run.split.training
    seen, enough = run.split.pretraining, BACKBONES[run.config.backbone].enough
    if not enough or len(seen) <= enough:
        return seen
    drawn = np.random.default_rng(run.config.seed).permutation(len(seen))[:enough]
    return seen[np.sort(drawn)]


def learn(run: Run, learner: Learner, epoch: int, groups: Iterable[Tensor]) -> None:
    """Pre-training on the images of `groups`."""
    inputs = run.inputs(groups)
    learner.epoch(epoch, run.labelled(inputs) if learner.from_labels else (images for _, images in inputs))


def hash_without_labels(run: Run) -> str:
    """A head from the features of (a sample of) the images that were learned from."""
    run.model.network.eval()
    rng = np.random.default_rng(run.config.seed)
    count = min(ITQ_IMAGES, len(run.split.pretraining))
    sample = np.sort(rng.choice(run.split.pretraining, count, replace=False))
    features = torch.cat([features for _, features in run.features(run.groups(sample))])
    head, method = head_without_labels(features.float().cpu().numpy(), run.config.bits, run.config.seed)
    run.model.head = head.to(run.device)
    return method


def learn_by_neighbours(run: Run, encoder: Encoder, vectors: NDArray[np.float32]) -> str:
    """Recipe best: a head for embeddings (n, E) of the images that are learned from, which says what their
    neighbours and labels taught; returns the codes' method."""
    seen, images = run.split.pretraining, run.images
    grouped = None if images.grouped is None else images.grouped[seen]
    labels = labels_given(images, run.split)[seen]
    learned = learn_head(encoder, vectors, labels, run.config.seed, grouped)
    run.coded, run.seconds = Coded(encoder, learned, vectors), run.seconds | learned.seconds
    return learned.method


def learn_encoder(run: Run, saved: Saved) -> Embedded:
    """An encoder of features that are learned, or of a student's where there is one, whose head is yet to
    learn; and the embeddings (n, E) that it makes of the images that are learned from. Workers but the first
    only help the student learn, and come to nothing."""
    seen = run.split.pretraining
    labels = labels_given(run.images, run.split)[seen]
    encoder = run.model.embedder(run.config, len(run.classes), len(seen))
    taught, helps = with_student(run), run.workers.rank > 0
    vectors = None if saved is None or helps else remembered_embeddings(run, encoder)
    if helps:
        vectors = np.empty((0, 0), np.float32)
    elif vectors is None:
        vectors = embed_all(run, encoder, run.seconds)
        if taught:
            remember_embeddings(run, encoder, vectors)
    if not taught:
        return encoder, vectors
    student = learn_from_changed(run, vectors, labels, saved)
    if helps:
        return encoder, vectors
    timed: dict[str, float] = {}
    own = embed_all(run, student, timed)
    run.seconds |= {f"{STAGES[3]}'s {what}": seconds for what, seconds in timed.items()}
    return joined_encoder(encoder, student), joined_embeddings(vectors, own)


def embed_all(run: Run, encoder: Encoder, seconds: dict[str, float]) -> NDArray[np.float32]:
    """The encoder's embedding is learned, and makes those (n, E) of the images that are learned from, as the
    service would; the `seconds` are noted."""
    seen, config = run.split.pretraining, run.config
    round_products("fp32")
    vectors = learn_embedding(encoder, pixels_of(run), seen, config.component_power, config.seed, seconds)
    round_products(run.precision)
    return vectors


def joined_embeddings(*vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What an encoder makes whose networks lie beside each other, of what each makes alone (n, Eᵢ)."""
    kept = kept_of([each.shape[1] for each in vectors])
    return joined([torch.from_numpy(each) for each in vectors], kept).to(torch.float16).float().numpy()


def remember_embeddings(run: Run, encoder: Encoder, vectors: NDArray[np.float32]) -> None:
    """Keep embeddings (n, E), which have 16 bits, and how they are made, for a run that is stopped while its
    student learns."""
    if run.checkpoint is not None:
        kept = torch.from_numpy(vectors.astype(np.float16))
        made = {"vectors": kept, "embedding": encoder.embedding.state_dict()}
        write_checkpoint(run.checkpoint.with_name(EMBEDDINGS), made)


def remembered_embeddings(run: Run, encoder: Encoder) -> NDArray[np.float32] | None:
    """What was kept so, and the encoder makes the same again; None of an earlier version."""
    if run.checkpoint is None or not (path := run.checkpoint.with_name(EMBEDDINGS)).exists():
        return None
    kept = read_checkpoint(path, torch.device("cpu"))
    if "embedding" not in kept:
        return None
    encoder.embedding.load_state_dict(kept["embedding"])
    vectors: Tensor = kept["vectors"]
    return vectors.float().numpy()


def with_student(run: Run) -> bool:
    """Whether a student learns from changed images: not from few, of which it knows too little."""
    if not (run.config.student_epochs and run.classes):
        if run.config.finetune_backbone:
            log.info("the pre-trained network does not learn on: there are no labels")
        return False
    enough = run.config.finetune_backbone or len(run.split.pretraining) >= FEWEST
    if not enough:
        log.info("no student learns from changed images: there are fewer than %d", FEWEST)
    return enough


def learn_from_changed(
    run: Run, vectors: NDArray[np.float32], labels: NDArray[np.int64], saved: Saved
) -> Encoder:
    """The student: a network that learns from changed images what labels (n,) say by way of embeddings
    (n, E), and now and then anew by way of its own. Returns an encoder with its features."""
    seen, config, classes = run.split.pretraining, run.config, len(run.classes)
    count = max(config.student_epochs, math.ceil(LEAST_STEPS * BATCH / len(seen)))
    torch.manual_seed(protocol.derived_seed(config.seed, 1, 1))
    student = PixelStudent(
        student_of(config), config.image_size, classes,
        lr=config.student_lr, steps=count * math.ceil(len(seen) / BATCH), device=run.device,
        mirror=run.model.mirrors, dtype=run.dtype,
        start=run.model.network.features if config.finetune_backbone else None,
        workers=run.workers,
    )  # fmt: skip
    if saved is None:
        posteriors = told_posteriors(run, labels, vectors)
    else:
        student.load_state_dict(saved["training"]["student"])
        posteriors = saved["training"]["posteriors"].cpu().numpy()
    row_of, given = rows_of(run, seen), torch.from_numpy(labels != UNLABELLED).to(run.home)

    def state() -> dict[str, Any]:
        return {"student": student.state_dict(), "posteriors": torch.from_numpy(posteriors)}

    def lessons(groups: Iterable[Tensor]) -> Iterator[Lesson]:
        known = torch.from_numpy(posteriors).to(run.home)
        for at, images in stream(run.pixels, groups, run.device):
            rows = row_of[at]
            sure = torch.where(given[rows], 1.0, known[rows].amax(1))
            images = run.model.normalise(images)
            yield Lesson(images, known[rows].to(run.device), sure.to(run.device))

    def embedder() -> Encoder:
        return run.model.student_encoder(config, student.features(), classes, len(seen))

    for epoch, groups in run.epochs(STAGES[3], count, seen, saved, state, BATCH):
        student.epoch(epoch, lessons(map(run.workers.share, groups)))
        if rounds_end(epoch + 1, count) and not given.all():
            posteriors = told_posteriors(run, labels, vectors, embedder())
    return embedder()


def told_posteriors(
    run: Run, labels: NDArray[np.int64], vectors: NDArray[np.float32], own: Encoder | None = None
) -> NDArray[np.float32]:
    """Posteriors (n, classes) from labels (n,) by way of embeddings (n, E), and of those that the student's
    `own` encoder makes. The first worker tells them to the others."""
    if run.workers.rank:
        known = np.empty((len(labels), len(run.classes)), np.float32)
    else:
        if own is not None:
            vectors = unit(np.concatenate([vectors, embed_all(run, own, {})], axis=1))
        known = propagated(vectors, labels, len(run.classes), run.config.seed)
    return run.workers.told(torch.from_numpy(known)).numpy()


def rows_of(run: Run, positions: Positions) -> Tensor:
    """Of each image of a run its row among those at `positions`; 0 for the others."""
    row_of = torch.zeros(len(run.images), dtype=torch.int64, device=run.home)
    row_of[torch.from_numpy(positions).to(run.home)] = torch.arange(len(positions), device=run.home)
    return row_of


def labels_given(images: ImageSet, split: protocol.Split) -> NDArray[np.int64]:
    """The labels (n,) of a set's images that are learned from, UNLABELLED for the rest: of a user's own
    images every label that was given, those that the paper's recipe validates on too."""
    own = images.validation_share is None
    given = np.concatenate([split.training, split.validation]) if own else split.training
    labels = np.full(len(images), UNLABELLED)
    labels[given] = images.labels[given]
    return labels


def pixels_of(run: Run) -> Batches:
    """The run's images, on its device."""

    def pixels(what: str, positions: Positions) -> Iterator[Tensor]:
        return (x for _, x in stream(run.pixels, each_batch(what, positions, 256, run.home), run.device))

    return pixels


def counted(groups: Iterator[Tensor], bar: "tqdm[Any]") -> Iterator[Tensor]:
    """`groups`, each counted on `bar` when the next is asked for."""
    for group in groups:
        yield group
        bar.update()
