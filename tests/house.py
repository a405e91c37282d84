"""The house in numbers: `python -m tests.house`, or `make house`, prints a Markdown table of the tree.

`--at REV` adds a column for a commit, so that before and after stand side by side. The sources are
read, never imported. How things are counted:

- **Lines of code**: lines that hold a token other than a comment or a line break. Docstrings count, blank
  lines within them do not. A file's length, in contrast, is all of its lines.
- **Functions** (methods and nested ones too) and **classes**: from the line of `def` or `class` to the last
  one, without decorators.
- **Rooms** of a folder: the modules and packages directly in it, without `__init__`. A package is a folder
  that holds Python files somewhere below.
- **Floors** of a folder: the longest chain of rooms of which each imports the next. What lies within a
  sub-package counts as that room, on both sides. All imports count, also those in functions and for types.
- **Typed signatures**: functions whose parameters, but for `self` and `cls`, and whose result are annotated.
- **Words**: what white space separates, as `wc -w` has it.
"""

import argparse
import ast
import io
import subprocess
import tarfile
import tempfile
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
PACKAGES = ("index", "training", "service")
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
LAYOUT |= {tokenize.ENCODING, tokenize.ENDMARKER}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Piece = tuple[int, str]  # how many lines, and of what


def sources(root: Path, *folders: str) -> list[Path]:
    """The Python files below these folders of a tree."""
    return [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]


def code_lines(text: str) -> int:
    """How many lines hold code."""
    lines = text.splitlines()
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            held.update(range(token.start[0], token.end[0] + 1))
    return sum(1 for number in held if lines[number - 1].strip())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every statement of a file, also those within others."""
    found: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    for node in found:  # which grows meanwhile
        for field in ("body", "orelse", "handlers", "finalbody", "cases"):
            found += getattr(node, field, ())
    return tuple(found)


def functions(path: Path) -> list[Function]:
    """Every function of a file."""
    return [node for node in nodes(path) if isinstance(node, Function)]


def classes(path: Path) -> list[ast.ClassDef]:
    """Every class of a file."""
    return [node for node in nodes(path) if isinstance(node, ast.ClassDef)]


def length(node: Function | ast.ClassDef) -> int:
    """Its lines without decorators."""
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def is_typed(function: Function) -> bool:
    """Whether all that goes in and what comes out is annotated."""
    a = function.args
    taken = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    wanted = [each for each in taken if each.arg not in ("self", "cls")]
    return function.returns is not None and all(each.annotation is not None for each in wanted)


def files(root: Path, *folders: str) -> list[Piece]:
    """Every Python file with its lines."""
    return [
        (len(path.read_text(encoding="utf-8").splitlines()), str(path.relative_to(root)))
        for path in sources(root, *folders)
    ]


def function_lengths(root: Path, *folders: str) -> list[Piece]:
    """Every function with its lines."""
    return _lengths(root, folders, functions)


def class_lengths(root: Path, *folders: str) -> list[Piece]:
    """Every class with its lines."""
    return _lengths(root, folders, classes)


def _lengths(
    root: Path, folders: Iterable[str], defined: Callable[[Path], Iterable[Function | ast.ClassDef]]
) -> list[Piece]:
    return [
        (length(node), f"{path.relative_to(root)}: {node.name}")
        for path in sources(root, *folders)
        for node in defined(path)
    ]


def rooms(folder: Path) -> set[str]:
    """The names of the modules and packages directly in a folder."""
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    packages = {path.name for path in folder.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    return modules | packages


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports: of `from a import b` it is `a.b`."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(root: Path, folder: str) -> dict[str, set[str]]:
    """The rooms of a folder, each with the other rooms of it that it imports."""
    where, prefix = root / folder, folder.replace("/", ".") + "."
    names = rooms(where)
    graph: dict[str, set[str]] = {name: set() for name in names}
    for path in sources(root, folder):
        room = path.relative_to(where).with_suffix("").parts[0]
        if room in names:
            found = {
                name.removeprefix(prefix).split(".")[0] for name in imported(path) if name.startswith(prefix)
            }
            graph[room] |= (found & names) - {room}
    return graph


def floors(graph: Mapping[str, set[str]]) -> int:
    """The rooms of the longest chain of imports. CycleError where some import one another."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        height[room] = 1 + max((height[other] for other in graph[room]), default=0)
    return max(height.values(), default=0)


def folders_with_rooms(root: Path) -> list[str]:
    """The folders whose rooms are counted: the packages, and what lies within service/."""
    within = sorted(
        path.name for path in (root / "service").iterdir() if path.is_dir() and any(path.glob("*.py"))
    )
    return ["index", "training", "service", *(f"service/{name}" for name in within)]


def rooms_and_floors(root: Path, folder: str) -> str:
    """Both in words."""
    graph = imports(root, folder)
    try:
        return f"{len(graph)} on {floors(graph)}"
    except CycleError as error:
        return f"{len(graph)} in a circle: {' → '.join(error.args[1])}"


def largest(pieces: list[Piece]) -> str:
    """The longest piece in words."""
    if not pieces:
        return "–"
    lines, name = max(pieces)
    return f"{lines:,} (`{name}`)"


def report(root: Path) -> dict[str, str]:
    """All figures of a tree by what they are."""
    rows: dict[str, str] = {}
    for package in (*PACKAGES, "tests"):
        count = sum(code_lines(path.read_text(encoding="utf-8")) for path in sources(root, package))
        rows[f"lines of code, `{package}`"] = f"{count:,}"
    rows["lines of code, the three packages"] = f"{package_lines(root):,}"
    for name, measure in (("file", files), ("function", function_lengths), ("class", class_lengths)):
        rows[f"longest {name}, packages"] = largest(measure(root, *PACKAGES))
        rows[f"longest {name}, tests"] = largest(measure(root, "tests"))
    for folder in folders_with_rooms(root):
        rows[f"rooms on floors, `{folder}/`"] = rooms_and_floors(root, folder)
    every = [each for path in sources(root, *PACKAGES) for each in functions(path)]
    rows["median function"] = f"{median(map(length, every)):g} lines"
    rows["typed signatures"] = f"{sum(map(is_typed, every)) / len(every):.1%} of {len(every):,}"
    rows["README.md"] = f"{words((root / 'README.md').read_text(encoding='utf-8')):,} words"
    return rows


def package_lines(root: Path) -> int:
    """Lines of code of the three packages together."""
    return sum(code_lines(path.read_text(encoding="utf-8")) for path in sources(root, *PACKAGES))


def words(text: str) -> int:
    """What white space separates."""
    return len(text.split())


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown: a row for each figure, a column for each tree. A dash where a tree has no such thing."""
    figures = list(columns.values())
    rows = dict.fromkeys(name for column in reversed(figures) for name in column)  # the last says the order
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(column.get(row, '–') for column in figures)} |" for row in rows]
    return "\n".join(lines)


def at(revision: str) -> dict[str, str]:
    """The figures of a commit, from a copy of it in a temporary folder."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 brought it
        tar.extractall(folder)
        return report(Path(folder))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The house in numbers, as a Markdown table.")
    parser.add_argument("--at", action="append", default=[], metavar="REV", help="also at this commit")
    revisions: list[str] = parser.parse_args(arguments).at
    print(table({revision: at(revision) for revision in revisions} | {"now": report(ROOT)}))


if __name__ == "__main__":
    main()
