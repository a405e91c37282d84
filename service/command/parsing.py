"""What the subcommands' options have in common."""

import argparse
import os
from collections.abc import Callable
from typing import Any, Protocol

from service.client import URL
from service.settings import PREFIX

CATALOGUE_HELP = f"postgresql+psycopg://user@host/database?schema=name ({PREFIX}CATALOGUE)"


class Adding(Protocol):
    """What makes a subcommand `name` of a function, whose docstring begins with the line that explains it."""

    def __call__(
        self, name: str, run: Callable[..., int], *, remote: bool = True, json: bool = True
    ) -> argparse.ArgumentParser:
        """`remote`: it asks a service, and takes a Client after the options. `json`: it has --json."""


def adding_to(subcommands: "argparse._SubParsersAction[Any]") -> Adding:
    """What adds to these."""

    def command(
        name: str, run: Callable[..., int], *, remote: bool = True, json: bool = True
    ) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").strip().splitlines()[0]
        one: argparse.ArgumentParser = subcommands.add_parser(
            name, help=text[:1].lower() + text[1:].rstrip("."), description=text
        )
        one.set_defaults(run=run, remote=remote)
        if remote:
            url = os.environ.get(PREFIX + "URL", URL)
            one.add_argument("--url", default=url, help=f"of the service ({PREFIX}URL; {URL})")
            one.epilog = f"A key is taken from {PREFIX}KEY."
        if json:
            one.add_argument("--json", action="store_true", help="one JSON document, for scripts")
        return one

    return command


def catalogue_url() -> str | None:
    """Where the catalogue lies, as the environment has it; None: in the artifact's folder."""
    return os.environ.get(f"{PREFIX}CATALOGUE") or None
