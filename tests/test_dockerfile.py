"""The Dockerfile's steps, without an engine: read, and run in a clean folder and environment."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from index.artifact import Artifact
from tests.samples import free_port, wait_until_ready

ROOT = Path(__file__).parents[1]


@dataclass
class Stage:
    """What one FROM begins."""

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, kind: str) -> list[str]:
        return [text for name, text in self.steps if name == kind]


def stages() -> list[Stage]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    made: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            kind, _, rest = line.partition(" ")
            if kind == "FROM":
                made.append(Stage(rest.partition(" AS ")[2]))
            made[-1].steps.append((kind, rest))
    return made


def test_what_serves_is_small_and_nobody() -> None:
    build, final = stages()
    assert build.name == "build"
    assert final.all("USER") == ["10001"]
    assert final.steps.index(("USER", "10001")) > max(
        at for at, (kind, _) in enumerate(final.steps) if kind in ("RUN", "COPY")
    )
    assert final.all("COPY") == ["--from=build /opt/hebbsearch /opt/hebbsearch"]
    assert all("pip" not in text for text in final.all("RUN"))
    assert "/health/ready" in final.all("HEALTHCHECK")[0]
    index, extras = build.all("ARG")
    assert index.startswith("TORCH_INDEX=") and index.endswith("/cpu")
    assert extras == "EXTRAS="


def test_sources_that_are_copied_are_there_and_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")]
    copied = [name for text in stages()[0].all("COPY") for name in shlex.split(text)[:-1]]
    for name in copied:
        assert (ROOT / name).exists() and name in allowed
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {"index.tables", "service.core"} <= set(packages)
    for package in packages:
        assert package.partition(".")[0] in copied


def test_compose_serves_read_only() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for line in ("read_only: true", "- ./artifacts:/artifacts", "- /tmp", "cap_drop: [ALL]"):
        assert line in text
    grace = re.search(r"stop_grace_period: (\d+)s", text)
    command = json.loads(stages()[1].all("CMD")[0])
    assert command[:2] == ["hebbsearch", "serve"]  # with the bounds of connections
    assert grace and int(grace[1]) > int(command[command.index("--timeout-graceful-shutdown") + 1])


@pytest.mark.process
def test_for_cpus_only_torch_is_without_hash_and_nothing_for_gpus_is_installed(tmp_path: Path) -> None:
    (step,) = [text for text in stages()[0].all("RUN") if "TORCH_INDEX" in text]
    (said := tmp_path / "said").touch()
    shutil.copyfile(ROOT / "requirements.lock", tmp_path / "requirements.lock")
    step = step.replace("/opt/hebbsearch/bin/pip", f"echo >> {said}")
    subprocess.run(step, shell=True, check=True, cwd=tmp_path, env=os.environ | {"TORCH_INDEX": "of-cpus"})
    assert said.read_text() == "install --no-deps --index-url of-cpus -r torch.lock\n"
    torch = re.findall(r"^(torch(?:vision)?)==[\d.]+$", (tmp_path / "torch.lock").read_text(), re.M)
    assert torch == ["torch", "torchvision"]
    locked, wanted = ((tmp_path / f"{name}.lock").read_text() for name in ("requirements", "wanted"))
    pin = re.compile(r"^([\w.-]+)==[^\\]*\\\n(?:    --hash=\S+(?: \\)?\n)+", re.M)
    left_out = {found[1] for found in pin.finditer(locked)} - {found[1] for found in pin.finditer(wanted)}
    assert {re.sub("-.*", "", name) for name in left_out - set(torch)} == {"cuda", "nvidia", "triton"}
    assert pin.sub("", wanted) == pin.sub("", locked)  # whole blocks
    subprocess.run(step, shell=True, check=True, cwd=tmp_path, env=os.environ | {"TORCH_INDEX": ""})
    assert (tmp_path / "wanted.lock").read_text() == locked


@pytest.mark.slow
def test_its_steps_build_a_service_that_answers(artifact: Artifact, tmp_path: Path) -> None:
    """Every RUN and COPY in a folder that stands for the root of the image, with torch of the usual index:
    that of the Dockerfile cannot be reached from everywhere."""
    image = tmp_path / "image"
    clean = {
        "PATH": os.pathsep.join([str(Path(sys.base_prefix) / "bin"), "/usr/bin", "/bin"]),
        "HOME": str(tmp_path),
    }
    clean |= {
        name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))
    }
    build, final = stages()
    given = {"TORCH_INDEX": "", "EXTRAS": "requirements-cluster.lock"}

    def here(text: str) -> str:
        return re.sub(r"(?<![\w.])/(opt|src|artifacts)\b", rf"{image}/\1", text)

    folder = image
    for kind, text in build.steps:
        if kind == "WORKDIR":
            folder = Path(here(text))
            folder.mkdir(parents=True)
        elif kind == "ENV":
            clean |= dict(pair.split("=", 1) for pair in shlex.split(text))
        elif kind == "COPY":
            *names, target = shlex.split(text)
            for name in names:
                to = folder / target / name if target == "./" else folder / target
                ignore = shutil.ignore_patterns("__pycache__")
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, to, ignore=ignore)
                else:
                    shutil.copyfile(ROOT / name, to)
        elif kind == "RUN":
            image.mkdir(exist_ok=True)
            subprocess.run(here(text), shell=True, check=True, cwd=folder, env=clean | given)

    port = free_port()
    variables = dict(pair.split("=", 1) for text in final.all("ENV") for pair in shlex.split(here(text)))
    variables["PATH"] = variables["PATH"].replace("$PATH", clean["PATH"])
    variables = {"HOME": str(tmp_path)} | variables | {"HEBBSEARCH_ARTIFACT": str(artifact.path)}
    command = json.loads(final.all("CMD")[0])
    command[command.index("8000")] = str(port)
    health = json.loads(re.search(r"CMD (\[.*\])", final.all("HEALTHCHECK")[0])[1])  # type: ignore[index]
    where = {"cwd": tmp_path, "env": variables}
    program = shutil.which(command[0], path=variables["PATH"])
    assert program is not None and program.startswith(str(image))
    process = subprocess.Popen([program, *command[1:]], **where)  # type: ignore[call-overload]
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        python = shutil.which("python", path=variables["PATH"])
        subprocess.run([python, "-c", "import psycopg, pymilvus"], check=True, **where)  # type: ignore[call-overload]
        checked = [python, *health[1:-1], health[-1].replace("8000", str(port))]
        subprocess.run(checked, check=True, **where)  # type: ignore[call-overload]
    finally:
        process.terminate()
        assert process.wait(30) in (0, -15)


def test_settings_of_the_image_are_known() -> None:
    from service.settings import PREFIX, Settings

    set_there = [pair.split("=")[0] for text in stages()[1].all("ENV") for pair in shlex.split(text)]
    text = "".join((ROOT / name).read_text() for name in ("compose.yaml", "compose.cluster.yaml"))
    named = {name for name in set_there if name.startswith(PREFIX)} | set(
        re.findall(rf"{PREFIX}[A-Z_]+", text)
    )
    named -= {f"{PREFIX}PASSWORD"}  # PostgreSQL's, which a setting of the service holds
    assert named and named <= {PREFIX + name.upper() for name in Settings.model_fields}
