"""What the commands share: one line for what is wrong, and which errors are the user's."""

import argparse
import errno
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from index.artifact import ArtifactError
from index.database import CatalogueError
from index.names import on_a_line, take_any_letter
from training.checkpoint import CheckpointError
from training.config import ConfigError
from training.data import DataError
from training.nets.images import ImageError
from training.nets.pretrained import MissingPackage, PretrainedError


class OutputError(ValueError):
    """The place to write to cannot be used; the message says why and what to do."""


USER_ERRORS = (
    ArithmeticError,  # divergence
    ArtifactError,
    CatalogueError,
    CheckpointError,
    ConfigError,
    DataError,
    MissingPackage,
    ImageError,  # a file that changed while the run was reading it
    OutputError,
    PretrainedError,
)
RESUME = "start again, with --resume if a .partial is left"
RELEARNING = "label.json"  # in the folder of an unfinished run of label --full


def beside(target: Path) -> Path:
    """The folder in which a run works until `target` is whole."""
    return target.with_name(f"{target.name}.partial")


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows all flags)\n")


def hebbsearch() -> str:
    """How the command `hebbsearch` is called here: by its path where its folder is in no PATH, and as a
    module where it is not beside Python either."""
    if shutil.which("hebbsearch"):
        return "hebbsearch"
    beside = Path(sys.executable).with_name("hebbsearch")
    return shlex.join([str(beside)] if beside.is_file() else [sys.executable, "-P", "-m", "service.command"])


def explain(error: OSError, again: str) -> str:
    """One line for what the operating system refused, and how to go on."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return f"{error.strerror}; make room on the disk and {again}"
    return str(error)


def run_or_fail(
    command: Callable[[], None], name: str, stopped: str, again: str = RESUME, *more: type[Exception]
) -> None:
    """Run a command; errors of the user's making, `more` among them, end in one line and exit code 2."""
    errors: tuple[type[Exception], ...] = (*USER_ERRORS, *more)
    take_any_letter()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command()
    except KeyboardInterrupt as stop:
        fail(str(stop) or stopped, name, code=130)
    except errors as error:
        fail(str(error), name)
    except OSError as error:
        fail(explain(error, again), name)


def fail(message: str, command: str, code: int = 2) -> NoReturn:
    """End with one line and an exit code."""
    print(on_a_line(f"{command}: {message}"), file=sys.stderr)
    sys.exit(code)
