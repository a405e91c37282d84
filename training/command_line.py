"""What the commands share: one line for what is wrong, and which errors are the user's."""

import argparse
import errno
import sys
from typing import NoReturn

from index.artifact import ArtifactError
from index.sqlite import CatalogueError
from training.config import ConfigError
from training.data import DataError
from training.nets.images import ImageError
from training.run import CheckpointError


class OutputError(ValueError):
    """The place to write to cannot be used; the message says why and what to do."""


USER_ERRORS = (
    ArithmeticError,  # divergence
    ArtifactError,
    CatalogueError,
    CheckpointError,
    ConfigError,
    DataError,
    ImageError,  # a file that changed while the run was reading it
    OutputError,
)
RESUME = "start again, with --resume if a .partial is left"


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows all flags)\n")


def explain(error: OSError, again: str = RESUME) -> str:
    """One line for what the operating system refused, and how to go on."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return f"{error.strerror}; make room on the disk and {again}"
    return str(error)


def fail(message: str, code: int = 2, command: str = "build_index") -> NoReturn:
    """End with one line and an exit code."""
    print(f"{command}: {message}", file=sys.stderr)
    sys.exit(code)
