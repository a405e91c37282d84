"""Who may import whom. The walls of the house, held by a test."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("index", "training", "service")
ALLOWED = {
    "index": ("index",),
    "training.nets": ("index.codes", "training.nets"),
    "training": ("index", "training"),
    "service.core": ("index", "training.nets", "service.core", "service.settings"),
    "service.schemas": (
        "index.conventions",
        "index.labels",
        "index.names",
        "index.sorting",
        "index.sources",
        "service.schemas",
    ),
    "service": ("index", "training.nets", "service"),
}
HTTP = ("fastapi", "starlette", "httpx", "uvicorn", "pydantic")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_to_its_room(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    room = next(room for room in sorted(ALLOWED, reverse=True) if f"{name}.".startswith(f"{room}."))
    for module in imported(path):
        if module.split(".")[0] in ROOMS:
            within = any(f"{module}.".startswith(f"{allowed}.") for allowed in ALLOWED[room])
            assert within, f"{name} imports {module}"


def test_what_makes_an_artifact_needs_nothing_of_the_papers_tables():
    paper, reproduce = ROOT / "training" / "paper", ROOT / "training" / "reproduce.py"
    users = {
        path
        for path in MODULES
        if any(f"{module}.".startswith("training.paper.") for module in imported(path))
    }
    assert reproduce in users
    assert {path for path in users if paper not in path.parents} == {reproduce}


@pytest.mark.parametrize("path", sorted((ROOT / "service" / "core").glob("*.py")), ids=lambda path: path.stem)
def test_what_the_service_can_do_knows_no_http(path):
    assert not [module for module in imported(path) if module.split(".")[0] in HTTP]


def test_networks_of_others_come_through_one_module():
    theirs = {"timm", "huggingface_hub"}
    users = {path for path in MODULES if theirs & {module.split(".")[0] for module in imported(path)}}
    assert users == {ROOT / "training" / "nets" / "pretrained.py"}


def test_packages_are_empty():
    """But that of the command, whose `main` is what pip makes a program of."""
    packages = [path for path in MODULES if path.name == "__init__.py"]
    assert [path for path in packages if path.read_text()] == [ROOT / "service" / "command" / "__init__.py"]


def test_no_module_of_training_shadows_another():
    """`python training/build_index.py` puts training/ first on sys.path."""
    folders = (ROOT / "training", ROOT / "training" / "paper")
    names = {path.stem for folder in folders for path in folder.glob("*.py")} - {"__init__"}
    names |= {path.parent.name for path in (ROOT / "training").glob("*/__init__.py")}
    assert {"nets", "paper", "build_index", "tables"} <= names
    taken = set(sys.stdlib_module_names) | set(ROOMS) | {"datasets", "torch", "faiss", "numpy", "PIL", "tqdm"}
    taken |= {"matplotlib", "scipy", "sklearn", "pydantic", "sqlalchemy", "safetensors", "torchvision"}
    assert not names & taken


def loaded_after(statement):
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.process
def test_service_loads_no_training_but_the_networks():
    loaded = loaded_after("import service.app")
    modules = [name for name in loaded if name.startswith("training.")]
    assert modules
    assert all(f"{name}.".startswith("training.nets.") for name in modules)
    assert not {"sklearn", "torchvision", "timm", "huggingface_hub"} & set(loaded)


@pytest.mark.process
def test_a_server_that_keeps_catalogues_is_an_extra():
    assert "psycopg" not in loaded_after("import service.app, service.command, training.build_index")


@pytest.mark.process
def test_index_loads_no_torch():
    modules = loaded_after(
        "import index.codes, index.catalogue, index.hamming, index.distances, index.vectors, index.artifact, "
        "index.shards, index.stores"
    )
    assert not [name for name in modules if name.split(".")[0] in {"torch", "training", "service"}]
