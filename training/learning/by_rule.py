"""What pre-trains a network: a Hebbian rule, the encoder of a β-VAE, or Hebbian and anti-Hebbian costs."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from training.config import Config
from training.learning.hah import HebbianAntiHebbian
from training.learning.hebbian import Pretraining
from training.learning.together import ALONE, Alone
from training.learning.vae import Autoencoding
from training.rules import RULES


class Learner(Protocol):
    """Learning of a network, epoch by epoch, all else that belongs to a run being the same for all."""

    # Whether it sees the labelled training images with their labels, or all pre-training images without.
    from_labels: ClassVar[bool]
    searched: ClassVar[tuple[str, ...]]  # the settings of its own that a search tunes, first to last

    @classmethod
    def configured(cls, config: Config, classes: int, device: torch.device, workers: Alone = ALONE) -> Self:
        """Learning of a new network, on the device, as the configuration has it, together with the other
        workers."""

    def epoch(self, number: int, batches: Iterable[Any]) -> None:
        """One pass over this worker's share of each batch: normalised images (B, 3, S, S), with their labels
        (B,) where it learns from them; epochs count from 0. Raises ArithmeticError where it diverges."""

    def weights(self) -> dict[str, Tensor]:
        """What was learned, as the state of a plain Network."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run needs to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""


# By what --rule calls them; "none" learns nothing.
LEARNERS: Mapping[str, type[Learner]] = {
    **dict.fromkeys(RULES, Pretraining),
    "vae": Autoencoding,
    "hah": HebbianAntiHebbian,
}


def learns_from_labels(rule: str) -> bool:
    """Whether pre-training by this rule sees labels."""
    return rule in LEARNERS and LEARNERS[rule].from_labels
