"""An artifact is made, and served."""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from service.command.parsing import Adding
from service.settings import PREFIX, Settings

# Their parsers are of the package that this one does not import.
TRAINING = {"build": "training.build_index", "label": "training.label"}
SECRET = ("read_keys", "write_keys", "admin_keys")  # in the environment only: others can read a command line


def add_to(command: Adding) -> None:
    """The subcommand and its options."""
    _add_settings(command("serve", serve, remote=False, json=False))


def train(module: str, arguments: list[str]) -> NoReturn:
    """In place of this process, so that Ctrl-C reaches it and its checkpoint is written. With -P no module is
    taken from the folder in which it is started, as `-m` would."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


def serve(options: argparse.Namespace) -> int:
    """Serve an artifact over HTTP until it is stopped."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # threads that wait sleep soon
    if options.artifact_folder:
        os.environ[PREFIX + "ARTIFACT"] = str(options.artifact_folder)
    for name in Settings.model_fields:
        if (value := getattr(options, f"setting_{name}", None)) is not None:
            os.environ[PREFIX + name.upper()] = value
    import uvicorn

    config = uvicorn.Config(
        "service.app:create_app",
        factory=True,
        http="service.web.wire:Wire",
        host=options.host,
        port=options.port,
        log_level="info",
        timeout_graceful_shutdown=options.timeout_graceful_shutdown,
    )
    # Of its own a server listens at :: for IPv6 alone; a socket takes both, unless the system says otherwise.
    sockets = [config.bind_socket()] if options.host == "::" else None
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    return 0 if server.started else 3  # uvicorn has said why


def _add_settings(serving: argparse.ArgumentParser) -> None:
    """The options of `serve`: most of them are the settings."""
    serving.add_argument(
        "artifact_folder", nargs="?", type=Path, metavar="ARTIFACT", help=f"{PREFIX}ARTIFACT"
    )
    serving.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in, :: by IPv6 too (127.0.0.1)"
    )
    serving.add_argument("--port", type=int, default=8000, help="(8000)")
    serving.add_argument(
        "--timeout-graceful-shutdown",
        type=int,
        metavar="SECONDS",
        help="for requests under way when it is stopped (no limit)",
    )
    for name, setting in Settings.model_fields.items():
        if name != "artifact" and name not in SECRET:
            flag, default = f"--{name.replace('_', '-')}", str(setting.get_default(call_default_factory=True))
            told = f"{setting.description} ({PREFIX}{name.upper()}; {default.lower() or 'none'})"
            serving.add_argument(flag, dest=f"setting_{name}", metavar="VALUE", help=told.replace("%", "%%"))
    serving.epilog = f"Only from the environment: {', '.join(PREFIX + name.upper() for name in SECRET)}."
