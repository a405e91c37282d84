"""The command `hebbsearch`: build an index, serve it, and ask a service that runs.

All but `build`, `label`, `serve`, `demo`, `verify`, `upgrade`, `move`, `sync`, `reencode`, `encode` and
`load` speak HTTP with it. Exit codes: 0 well, 1 refused or failed, 2 wrong usage, 3 some files were left out.

Each module but those that all share is a family of subcommands: what they do, and in `add_to` their options.
"""

import argparse
import os
import sys
from contextlib import closing
from importlib.metadata import version

from index.names import take_any_letter
from index.walking import DataError
from service.client import Client, ServiceError
from service.command import artifacts, asking, changing, encoding, sending, serving
from service.command.parsing import adding_to
from service.command.saying import Failed, say
from service.settings import PREFIX

FAMILIES = (serving, sending, asking, changing, artifacts, encoding)  # as --help lists them
CUT_OFF = 141  # what a shell says of a program that SIGPIPE ended


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    take_any_letter()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in serving.TRAINING:
        serving.train(arguments[0], arguments[1:])
    options = parser().parse_args(arguments)
    try:
        code = run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read it has gone, as `| head` does
        nowhere = os.open(os.devnull, os.O_WRONLY)  # for what Python still writes at its end
        os.dup2(nowhere, sys.stdout.fileno())
        return CUT_OFF
    except (ServiceError, Failed, DataError) as error:
        say(f"hebbsearch: {error}", file=sys.stderr)
    except OSError as error:
        say(f"hebbsearch: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        say("hebbsearch: stopped", file=sys.stderr)
        return 130
    return 1


def parser() -> argparse.ArgumentParser:
    """Of every subcommand but those of training, which have parsers of their own."""
    made = argparse.ArgumentParser(prog="hebbsearch", description="Image search that measures itself.")
    made.add_argument("--version", action="version", version=f"hebbsearch {version('hebbsearch')}")
    subcommands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subcommands.add_parser("build", help="learn from images and index them: see hebbsearch build --help")
    subcommands.add_parser("label", help="learn again from labels that grew: see hebbsearch label --help")
    for family in FAMILIES:
        family.add_to(adding_to(subcommands))
    return made


def run(options: argparse.Namespace) -> int:
    """The command that was chosen; its exit code."""
    if not options.remote:
        return int(options.run(options))
    with closing(Client(options.url, os.environ.get(PREFIX + "KEY"))) as client:
        return int(options.run(options, client))
