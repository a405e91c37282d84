"""Learning from labels: the whole network end to end, then the hashing head; and codes without labels.

The hashing head is 256 tanh units on features that stay as they are, as the text of Lagani et al.,
Neurocomputing 2024 (doi 10.1016/j.neucom.2024.127867) has it, or `JointHead`, as their code has it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.coding.quantisation import iterative_quantisation
from training.config import HALVINGS, Config
from training.learning.together import ALONE, Alone
from training.nets.backbones import Linear, Network
from training.nets.head import Head

Batch = tuple[Tensor, Tensor]  # inputs (B, …), class indices (B,)


class Classifier(nn.Module):
    """A pre-trained network with dropout and a linear classifier on its hidden layer."""

    def __init__(self, network: Network, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.network = network
        self.dropout = nn.Dropout(dropout)
        self.linear = Linear(hidden, classes) if classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) -> logits (B, classes)."""
        return self.linear(self.dropout(self.network(x)))


class JointHead(nn.Module):
    """Convolutional features and a hashing head that are fine-tuned together: `bits` rectified units, batch
    norm, dropout, a linear classifier. A bit is set where batch norm puts out no less than zero."""

    def __init__(self, features: nn.Sequential, count: int, bits: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.features = features
        self.hash = Linear(count, bits)
        self.norm = nn.BatchNorm1d(bits)
        self.dropout = nn.Dropout(dropout)
        self.classifier = Linear(bits, classes)

    def units(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) -> batch norm's output (B, bits)."""
        return self.norm(self.hash(self.features(x).flatten(1)).relu())

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) -> logits (B, classes)."""
        return self.classifier(self.dropout(self.units(x)))

    def plain(self) -> Head:
        """The head that gives the same bits from the features alone; it has no classifier, since this one's
        reads batch norm's output, which a tanh unit does not give."""
        head = Head(self.hash.in_features, self.hash.out_features, 0)
        weight, bias = folded(self.hash, self.norm)
        with torch.no_grad():
            head.hash.weight.copy_(weight)
            head.hash.bias.copy_(bias)
        return head.eval()


@torch.no_grad()
def folded(linear: nn.Linear, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weights (Q, F) and biases (Q,) of units whose signs are those of `norm` after ReLU after `linear`.

    In evaluation n(r) = γ(r − μ)/σ + β, and the bit is n(ReLU(h)) ≥ 0 with h = w·x + b. ReLU(h) lies on the
    same side of the threshold t = μ − βσ/γ as h where t is in ReLU's range; n(h) = (γ/σ) w·x + n(b) then has
    the bit's sign, and batch norm's value for h ≥ 0. Where t is below the range (γ > 0: t ≤ 0, γ < 0: t < 0),
    and for γ = 0, all units are on the side of n(0): such a unit gets no weights and the bias 1 or −1.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    at_zero = norm.bias.double() - slope * norm.running_mean.double()  # n(0)
    constant = torch.where(slope > 0, at_zero >= 0, (slope == 0) | (at_zero < 0))
    weight = torch.where(constant[:, None], 0, slope[:, None] * linear.weight.double())
    bias = torch.where(constant, torch.where(at_zero >= 0, 1, -1), slope * linear.bias.double() + at_zero)
    return weight.to(linear.weight.dtype), bias.to(linear.bias.dtype)


class Descent:
    """SGD on a loss of `model`, with Nesterov momentum if the configuration has any; the learning rate falls
    as `halvings` has it. Who inherits says what the loss is."""

    what: str  # diverged, where it does
    rate: str  # the setting that has the learning rate
    otherwise: str = ""  # what else may help

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        *,
        lr: float,
        epochs: int,
        weight_decay: float = 0.0,
        workers: Alone = ALONE,
    ) -> None:
        self.model, self.schedule, self.lr, self.epochs = model, config.schedule, lr, epochs
        self.workers = workers
        workers.join(model)
        momentum = config.momentum
        # fused: one pass over the weights instead of five, 8 × faster for a wide layer on a CPU.
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr, momentum, weight_decay=weight_decay, nesterov=momentum > 0, fused=True
        )

    def epoch(self, number: int, batches: Iterable[Any]) -> None:
        """One pass over `batches`; epochs count from 0. Raises FloatingPointError for a non-finite loss."""
        lr = self.lr * halvings(number, self.epochs, self.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.workers.begin_equal(self.model)
        self.model.train()
        total = torch.zeros(())
        for batch in batches:
            loss = self.gradients(batch)
            self.optimizer.step()
            total = total.to(loss.device) + loss
        self.model.eval()
        (total,) = self.workers.add(total)
        # Here the host waits for the device.
        if not is_finite(self.model, total):
            raise FloatingPointError(
                f"{self.what} diverged in epoch {number + 1} with learning rate {lr:g}: use a smaller one "
                f"(--set {self.rate}={self.lr / 10:g}{self.otherwise})"
            )

    def gradients(self, batch: Any) -> Tensor:
        """Leave the gradient in every parameter; returns the loss."""
        raise NotImplementedError

    def add_gradients(self) -> None:
        """Make of each worker's gradient that of the batch of all."""
        found = [each.grad for each in self.model.parameters() if each.grad is not None]
        for own, joined in zip(found, self.workers.add(*found), strict=True):
            own.copy_(joined)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run needs to go on, the model included."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class Supervised(Descent):
    """Descent on the cross-entropy of `model`; keeps the best validation epoch."""

    what, rate = "fine-tuning", "finetune_lr"
    best_accuracy = -1.0
    best_weights: dict[str, Tensor] | None = None

    def __init__(self, model: nn.Module, config: Config, **given: Any) -> None:
        super().__init__(model, config, **given)
        self.called = self.workers.spread(model)

    def gradients(self, batch: Batch) -> Tensor:
        """Leave the gradient in every parameter; returns this worker's part of the cross-entropy."""
        inputs, labels = batch
        logits = self.called(inputs).float()
        own = len(labels) / self.workers.part(len(labels)).total
        loss = own * (cross_entropy(logits, labels) if len(labels) else logits.sum())
        self.optimizer.zero_grad(set_to_none=True)
        (self.workers.world * loss).backward()  # of which the mean is taken
        return loss.detach()

    def consider(self, accuracy: float) -> None:
        """Keep the present weights if `accuracy` is the best so far."""
        if accuracy >= self.best_accuracy:  # of equals the later, which has seen more
            self.best_accuracy = accuracy
            self.best_weights = copied_state(self.model)

    def finish(self) -> None:
        """Return to the best weights, if any were considered."""
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model that a later run needs to go on."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "best_accuracy": self.best_accuracy,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_accuracy, self.best_weights = state["best_accuracy"], state["best_weights"]


def is_finite(model: nn.Module, loss: Tensor) -> bool:
    """Whether a loss and all that a model has learned are finite; of that the statistics overflow first."""
    learned = (loss, *model.parameters(), *model.buffers())
    return all(bool(torch.isfinite(each).all()) for each in learned)


def halvings(epoch: int, epochs: int, schedule: str = "text") -> float:
    """The learning rate's factor in epoch `epoch` (from 0) of `epochs`: 1 in their first half, then halved
    HALVINGS[schedule] times in equal steps."""
    late = epoch + 1 - epochs / 2
    return 0.5 ** max(0, int(np.ceil(late / (epochs / (2 * HALVINGS[schedule])) - 1e-9)))


def copied_state(module: nn.Module) -> dict[str, Tensor]:
    """What the module has learned, in memory of its own."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def accuracy(model: Callable[[Tensor], Tensor], batches: Iterable[Batch], workers: Alone = ALONE) -> float:
    """Share of inputs, of all workers', whose highest logit is their class."""
    return top_accuracies(model, batches, (1,), workers)[0]


@torch.inference_mode()
def top_accuracies(
    model: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    ranks: tuple[int, ...],
    workers: Alone = ALONE,
) -> list[float]:
    """For each k of `ranks` the share of inputs whose class is among their k highest logits."""
    correct, count = torch.zeros(len(ranks)), 0
    for inputs, labels in batches:
        logits = model(inputs)
        best = logits.topk(min(max(ranks), logits.shape[1])).indices  # highest first
        found = best == labels[:, None]
        correct = correct.to(labels.device) + torch.stack([found[:, :k].sum() for k in ranks])
        count += len(labels)
    correct, count = workers.add(correct, count)
    return (correct / count).tolist()


def head_without_labels(features: NDArray[np.float32], bits: int, seed: int) -> tuple[Head, str]:
    """A head from features (n, F) alone, and how it was made."""
    weight, mean, method = iterative_quantisation(features, bits, seed)
    head = Head(features.shape[1], bits, 0)
    with torch.no_grad():
        head.hash.weight.copy_(torch.from_numpy(weight))
        head.hash.bias.copy_(torch.from_numpy(-weight @ mean))
    return head.eval(), method
