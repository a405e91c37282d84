"""An artifact is made, and served."""

import argparse
import errno
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from index.names import shown
from service.command.parsing import Adding
from service.command.saying import Failed, say
from service.settings import PREFIX, Settings

# Their parsers are of the package that this one does not import.
TRAINING = {"build": "training.build_index", "label": "training.label"}
# In the environment only: others can read a command line.
SECRET = ("catalogue", "read_keys", "write_keys", "admin_keys")
HOST, PORT = "127.0.0.1", 8000
DEMO = Path("hebbsearch-demo")
# Of the digits that scikit-learn brings along; by this recipe it can learn from what is labelled in it.
DEMO_FLAGS = ("--backbone", "conv6", "--rule", "hpca_fh", "--recipe", "best")
STOPPED = 130  # by Ctrl-C


def add_to(command: Adding) -> None:
    """The subcommands and their options."""
    _add_settings(command("serve", serve, remote=False, json=False))
    one = command("demo", demo, remote=False, json=False)
    one.add_argument(
        "folder", nargs="?", type=Path, default=DEMO, help=f"of its artifact, which is made once ({DEMO})"
    )
    _add_address(one)


def train(name: str, arguments: list[str]) -> NoReturn:
    """In place of this process, so that Ctrl-C reaches it and its checkpoint is written."""
    os.execv(sys.executable, training(name, arguments))


def training(name: str, arguments: list[str]) -> list[str]:
    """The command line of one of TRAINING. With -P no module is taken from the folder in which it is started,
    as `-m` would."""
    return [sys.executable, "-P", "-m", TRAINING[name], *arguments]


def serve(options: argparse.Namespace) -> int:
    """Serve an artifact over HTTP until it is stopped."""
    refuse_taken(options.host, options.port)
    if options.artifact_folder:
        os.environ[PREFIX + "ARTIFACT"] = str(options.artifact_folder)
    for name in Settings.model_fields:
        if (value := getattr(options, f"setting_{name}", None)) is not None:
            os.environ[PREFIX + name.upper()] = value
    return answer(options.host, options.port, options.timeout_graceful_shutdown)


def demo(options: argparse.Namespace) -> int:
    """Learn from small pictures that come along, and serve them: a first look."""
    from index.artifact import MANIFEST

    folder, address = options.folder, address_of(options.host, options.port)
    refuse_taken(options.host, options.port)
    if not folder.exists():
        if code := build_demo(folder):
            return code
    elif not (folder / MANIFEST).exists():
        raise Failed(
            f"{folder}: is no artifact; name a folder that is not there yet, or index your own images with "
            f"hebbsearch build {shlex.quote(str(folder))}"
        )
    else:
        say(f"{folder}: made before, and served as it is", file=sys.stderr)
    say(f'Once it says "running on", open {address} in a browser. Ctrl+C stops it.', file=sys.stderr)
    os.environ[PREFIX + "ARTIFACT"] = str(folder)
    os.environ.setdefault(PREFIX + "LOG", "text")
    return answer(options.host, options.port)


def build_demo(folder: Path) -> int:
    """Make the artifact of the demo, or go on where that was stopped; the exit code of what makes it."""
    begun = folder.with_name(f"{folder.name}.partial")
    if begun.is_dir():
        flags = ["--resume", str(begun)]
        say(f"{folder}: goes on where it was stopped", file=sys.stderr)
    else:
        flags = [*DEMO_FLAGS, "--out", str(folder)]
        say(
            f"{folder}: learns from 1,797 handwritten digits that come along; on two free cores this takes a "
            "minute, and it needs no network",
            file=sys.stderr,
        )
    with subprocess.Popen(training("build", flags)) as building:
        before = signal.signal(signal.SIGTERM, lambda *_: building.terminate())
        while (code := waited(building)) is None:
            pass  # Ctrl-C reaches it too: it ends by itself, with what it can go on from
        signal.signal(signal.SIGTERM, before)
    if code in (STOPPED, -signal.SIGINT):
        say("hebbsearch: stopped; the same command goes on", file=sys.stderr)
    return 128 - code if code < 0 else code  # as a shell says it


def waited(process: "subprocess.Popen[bytes]") -> int | None:
    """Its exit code; None where Ctrl-C came first."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        return None


def refuse_taken(host: str, port: int) -> None:
    """Failed where nobody can listen, before anything is loaded or learned."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
            tried.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise Failed(f"port {port} of {host} is taken; choose another with --port") from None
        raise Failed(f"{shown(host)}, port {port}: {getattr(error, 'strerror', None) or error}") from None


def address_of(host: str, port: int) -> str:
    """What a browser on this machine opens."""
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def answer(host: str, port: int, seconds_to_end: int | None = None) -> int:
    """Answer over HTTP as the environment says, until Ctrl-C; the exit code."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # threads that wait sleep soon
    import uvicorn

    config = uvicorn.Config(
        "service.app:create_app",
        factory=True,
        http="service.web.wire:Wire",
        host=host,
        port=port,
        log_level="info",
        timeout_graceful_shutdown=seconds_to_end,
    )
    # Of its own a server listens at :: for IPv6 alone; a socket takes both, unless the system says otherwise.
    sockets = [config.bind_socket()] if host == "::" else None
    server = uvicorn.Server(config)
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        if not server.started:
            raise
    return 0 if server.started else 3  # uvicorn has said why


def _add_settings(serving: argparse.ArgumentParser) -> None:
    """The options of `serve`: most of them are the settings."""
    serving.add_argument(
        "artifact_folder", nargs="?", type=Path, metavar="ARTIFACT", help=f"{PREFIX}ARTIFACT"
    )
    _add_address(serving)
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


def _add_address(serving: argparse.ArgumentParser) -> None:
    """Where it listens."""
    serving.add_argument(
        "--host", default=HOST, help=f"0.0.0.0 lets other machines in, :: by IPv6 too ({HOST})"
    )
    serving.add_argument("--port", type=int, default=PORT, help=f"({PORT})")
