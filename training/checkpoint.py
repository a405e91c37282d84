"""The checkpoint of a run: written whole or not at all, read only as it was written."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from training.config import ABOUT, Config
from training.learning.by_rule import LEARNERS

STAGES = ("pre-training", "fine-tuning", "hashing head", "pixel student")
CHECKPOINT = "checkpoint.pt"
END_OF_ZIP = b"PK\5\6"  # begins the last 22 bytes of what torch writes


class CheckpointError(ValueError):
    """An interrupted run cannot go on; the message says why and what to do."""


def before(checkpoint: Path, stage: str) -> Path:
    """Where the checkpoint from before this stage lies."""
    return checkpoint.with_name(f"before-{stage.replace(' ', '-')}.pt")


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a whole checkpoint and its SHA-256; the old one stays until the new one is complete."""
    temporary = path.with_suffix(".tmp")
    # Through memory: where torch writes the file itself, a full disk raises an error that hides why.
    buffer = BytesIO()
    torch.save(state, buffer)
    try:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """What `write_checkpoint` wrote. CheckpointError for any other byte: torch reads past flipped ones."""
    with readable(path):
        content = path.read_bytes()
        if content[-22:-18] != END_OF_ZIP:  # else an earlier version wrote it, without a hash
            content, wanted = content[:-32], content[-32:]
            if hashlib.sha256(content).digest() != wanted:
                raise ValueError("it is not what was written: its SHA-256 differs")
        saved: dict[str, Any] = torch.load(BytesIO(content), map_location=device, weights_only=True)
        return saved


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """All that reading a damaged checkpoint raises, as CheckpointError with the way out."""
    try:
        yield
    except Exception as error:  # a damaged file can raise anything from within torch's reader
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path}: the checkpoint cannot be read ({reason}); remove {path.with_name(CHECKPOINT)} and the "
            f"same command begins anew{another(path)}"
        ) from error


def another(path: Path) -> str:
    """What there is to go on from without the checkpoint at `path`."""
    if path.name != CHECKPOINT:
        return ""
    kept = [before(path, stage) for stage in reversed(STAGES) if before(path, stage).exists()]
    return f", or put {kept[0].name} in its place to go on from there" if kept else ""


def rates(config: Config) -> dict[str, dict[str, float]]:
    """The learning rates that each stage goes by."""
    own = LEARNERS[config.rule].searched if config.rule in LEARNERS else ()
    names = {
        STAGES[0]: [name for name in own if ABOUT[name].changeable],
        STAGES[1]: ["finetune_lr"],
        STAGES[2]: ["finetune_lr" if config.head == "joint" else "head_lr"],
        STAGES[3]: ["student_lr"],
    }
    return {stage: {name: getattr(config, name) for name in each} for stage, each in names.items()}


def first_changed(saved: dict[str, Any], config: Config) -> str | None:
    """The first stage, up to that of the checkpoint, that began with other learning rates than it is to
    have: what they have spoilt is not to be learned on from."""
    now = rates(config)
    known = saved.get("rates", now)  # an earlier version did not keep them
    begun = STAGES[: STAGES.index(saved["stage"]) + 1]
    return next((stage for stage in begun if known[stage] != now[stage]), None)
