"""The bounds of the house, and that they are measured rightly: counters against counts made by hand."""

import subprocess
from collections.abc import Mapping
from graphlib import CycleError
from pathlib import Path
from textwrap import dedent

import pytest

from tests import house
from tests.house import PACKAGES, ROOT

pytestmark = pytest.mark.long  # it reads every file of ours

LARGEST_FILE, LONGEST_FUNCTION, LONGEST_CLASS = 600, 60, 250
MOST_ROOMS = {"service": 10, "training": 18}
MOST_FLOORS = 5  # in service/ and in each folder of it
README_WORDS, README_LINES = 1_200, 150
OURS = (*PACKAGES, "tests")
WITHIN_SERVICE = [folder for folder in house.folders_with_rooms(ROOT) if folder.startswith("service")]


def above(pieces: list[house.Piece], bound: int) -> list[house.Piece]:
    """Those that are longer than they may be."""
    assert len(pieces) > 50  # something was measured
    return [piece for piece in pieces if piece[0] > bound]


def test_no_file_is_too_long() -> None:
    assert above(house.files(ROOT, *OURS), LARGEST_FILE) == []


def test_no_function_is_too_long() -> None:
    assert above(house.function_lengths(ROOT, *OURS), LONGEST_FUNCTION) == []


def test_no_class_is_too_long() -> None:
    assert above(house.class_lengths(ROOT, *OURS), LONGEST_CLASS) == []


@pytest.mark.parametrize("folder", WITHIN_SERVICE)
def test_the_service_has_few_rooms_on_few_floors(folder: str) -> None:
    graph = house.imports(ROOT, folder)
    assert len(graph) <= MOST_ROOMS["service"], sorted(graph)
    assert house.floors(graph) <= MOST_FLOORS, graph


def test_training_has_few_rooms() -> None:
    found = house.rooms(ROOT / "training")
    assert {"nets", "rules", "build_index"} <= found
    assert len(found) <= MOST_ROOMS["training"], sorted(found)


@pytest.mark.parametrize("folder", house.folders_with_rooms(ROOT))
def test_no_imports_go_round_in_a_circle(folder: str) -> None:
    assert house.floors(house.imports(ROOT, folder)) > 0


def test_the_readme_is_one_screen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert house.words(text) <= README_WORDS
    assert len(text.splitlines()) <= README_LINES


# --- the counters themselves ---

COUNTED = '''\
"""A docstring

of three lines, one of them blank."""

# a comment
import os  # with a comment


def one(
    a: int,
) -> int:
    # nothing
    text = """first

    third"""

    return a + len(text) + \\
        len(os.name)


@staticmethod
async def two(self, b, *, c: int = 0, **d: int) -> None:
    class Inner:
        x = 1

        def three(self): ...


class Empty: ...
'''


def tree(root: Path, contents: Mapping[str, str]) -> Path:
    """A folder with these files."""
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    return root


def test_lines_of_code_by_hand() -> None:
    # the docstring, the import, `one` (its signature, text and result), `two`, `Empty`
    assert house.code_lines(COUNTED) == 2 + 1 + (3 + 2 + 2) + 5 + 1
    assert house.code_lines("") == house.code_lines("# only this\n\n") == 0


def test_lengths_by_hand(tmp_path: Path) -> None:
    root = tree(tmp_path, {"index/a.py": COUNTED, "tests/b.py": "def far(): ...\n"})
    assert house.files(root, "index") == [(29, "index/a.py")]
    assert sorted(house.function_lengths(root, "index")) == [
        (1, "index/a.py: three"),
        (5, "index/a.py: two"),  # without its decorator
        (10, "index/a.py: one"),
    ]
    assert sorted(house.class_lengths(root, "index")) == [(1, "index/a.py: Empty"), (4, "index/a.py: Inner")]


@pytest.mark.parametrize(
    ("signature", "typed"),
    [
        ("def f() -> None: ...", True),
        ("def f(): ...", False),
        ("def f(a: int, /, b: str, *c: int, d: int = 0, **e: int) -> int: ...", True),
        ("def f(self, a: int) -> int: ...", True),
        ("def f(cls) -> int: ...", True),
        ("def f(a) -> int: ...", False),
        ("def f(a, /) -> int: ...", False),
        ("def f(*a) -> int: ...", False),
        ("def f(*, a) -> int: ...", False),
        ("def f(**a) -> int: ...", False),
        ("async def f(a: int): ...", False),
    ],
)
def test_typed_signatures_by_hand(tmp_path: Path, signature: str, typed: bool) -> None:
    (function,) = house.functions(tree(tmp_path, {"a.py": signature + "\n"}) / "a.py")
    assert house.is_typed(function) == typed


HOUSE = {
    "service/__init__.py": "",
    "service/app.py": "import service.core.deep.cellar\nfrom service import settings\nimport os\n",
    "service/settings.py": "from index import codes\n",
    "service/unused.py": "class Nothing: ...\n",
    "service/static/page.js": "",
    "service/core/__init__.py": "",
    "service/core/searcher.py": "from service.core.deep import cellar\n",
    "service/core/deep/__init__.py": "",
    "service/core/deep/cellar.py": """\
        def late() -> None:
            from service.web.limits import LIMIT
        """,
    "service/web/limits.py": "from service.settings import LIMIT\nfrom service.web.limits import own\n",
    "index/codes.py": "",
    "training/run.py": "",
    "tests/test_app.py": "def test(): ...\n",
    "README.md": "one two\n\nthree\n",
}


def test_rooms_and_floors_by_hand(tmp_path: Path) -> None:
    root = tree(tmp_path, HOUSE)
    graph = house.imports(root, "service")
    assert graph == {
        "app": {"core", "settings"},
        "core": {"web"},
        "web": {"settings"},
        "settings": set(),
        "unused": set(),
    }
    assert house.floors(graph) == 4  # app, core, web, settings
    assert house.imports(root, "service/core") == {"searcher": {"deep"}, "deep": set()}
    assert house.floors(house.imports(root, "service/core")) == 2
    assert house.folders_with_rooms(root) == ["index", "training", "service", "service/core", "service/web"]


def test_a_module_that_begins_like_another_is_not_it(tmp_path: Path) -> None:
    files = {"service/live.py": "import service.liver\nimport services.live\n", "service/liver.py": ""}
    assert house.imports(tree(tmp_path, files), "service") == {"live": {"liver"}, "liver": set()}


def test_a_circle_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, {"service/a.py": "import service.b.c\n", "service/b/c.py": "import service.a\n"})
    with pytest.raises(CycleError):
        house.floors(house.imports(root, "service"))
    assert house.rooms_and_floors(root, "service") in ("2 in a circle: a → b → a", "2 in a circle: b → a → b")


def test_a_report_by_hand(tmp_path: Path) -> None:
    rows = house.report(tree(tmp_path, HOUSE))
    assert rows["lines of code, the three packages"] == "10"
    assert rows["lines of code, `service`"] == "10"
    assert rows["lines of code, `tests`"] == "1"
    assert rows["longest file, packages"] == "3 (`service/app.py`)"
    assert rows["longest function, packages"] == "2 (`service/core/deep/cellar.py: late`)"
    assert rows["longest class, packages"] == "1 (`service/unused.py: Nothing`)"
    assert rows["longest class, tests"] == "–"
    assert rows["rooms on floors, `service/`"] == "5 on 4"
    assert rows["typed signatures"] == "100.0% of 1"
    assert rows["README.md"] == "3 words"


def test_a_table_has_the_rows_of_both_trees() -> None:
    text = house.table({"before": {"a": "1", "old": "2"}, "now": {"a": "3", "new": "4"}})
    assert text.splitlines() == [
        "| | before | now |",
        "|---|---|---|",
        "| a | 1 | 3 |",
        "| new | – | 4 |",
        "| old | 2 | – |",
    ]


@pytest.mark.process
def test_a_commit_is_measured_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path, HOUSE)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)
    before = house.report(root)
    (root / "README.md").write_text("one\n")
    monkeypatch.setattr(house, "ROOT", root)
    assert house.at("HEAD") == before
    assert house.report(root)["README.md"] == "1 words"


def test_the_command_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(house, "ROOT", tree(tmp_path, HOUSE))
    house.main([])
    assert capsys.readouterr().out.startswith("| | now |\n|---|---|\n| lines of code, `index` | 0 |\n")
