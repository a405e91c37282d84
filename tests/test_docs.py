"""The docs name every flag, route, setting, metric and file, and nothing that is not there; their links lead
somewhere, and their sentences are short."""

import argparse
import re
from collections import Counter
from pathlib import Path
from statistics import median

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import command
from service.app import create_app
from service.settings import PREFIX, Settings
from tests.samples import serve_here
from training import reproduce
from training.build_index import parser
from training.config import settings_help

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]  # by hand, for people
LINKING = [*WRITTEN, ROOT / "CHANGELOG.md", *(ROOT / "results").glob("*.md"), *(ROOT / "tests").rglob("*.md")]
LONGEST_MEDIAN = 14  # words of a sentence


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def relative(path):
    return str(path.relative_to(ROOT))


def flags(of):
    return {flag for action in of._actions for flag in action.option_strings if flag.startswith("--")}


# --- what there is, is named ---


@pytest.mark.parametrize(("name", "of"), [("images", parser()), ("paper", reproduce.parser())])
def test_every_flag_is_in_the_table_and_no_other(name, of):
    (table,) = tables(page(name), "flag", "meaning", "default")
    named = {flag for row in table for flag in re.findall(r"--[a-z-]+", row[0])}
    assert named == flags(of) - {"--help"}


def test_choices_of_a_flag_are_named():
    for action in parser()._actions:
        for choice in action.choices or ():
            assert f"`{choice}`" in page("images"), f"{action.option_strings} {choice}"


def test_every_value_for_set_is_in_the_table_and_no_other():
    (table,) = tables(page("images"), "name", "meaning")
    assert {name for row in table for name in names(row[0])} == set(settings_help())


def test_help_explains_every_setting():
    text = parser().format_help()
    for name in settings_help():
        assert re.search(rf"^  {name} +\S", text, re.M)


def test_every_subcommand_is_in_the_table_with_its_options_and_no_other():
    (table,) = tables(page("command"), "command", "what it does", "its own options")
    told = {names(row[0]).pop(): {flag for flag in names(row[2]) if flag.startswith("-")} for row in table}
    (group,) = (
        action for action in command.parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    assert told.keys() == group.choices.keys()
    everywhere = {"-h", "--help", "--url", "--json"}
    settings = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    for name, one in group.choices.items():
        options = {flag for action in one._actions for flag in action.option_strings}
        assert told[name] == options - everywhere - (settings if name == "serve" else set()), name


def test_every_route_is_in_the_table_and_no_other(artifact):
    app = create_app(Settings(artifact=artifact.path))
    routes = {
        f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods
    }
    app.state.opened.pop().close()
    (table,) = tables(page("service"), "route", "what it does")
    named = {name for row in table for name in names(row[0])}
    assert named == routes | {"GET /", "GET /docs", "GET /openapi.json"}


def test_each_line_of_uvicorn_bounds_its_connections():
    lines = [line for path in [*WRITTEN, ROOT / "Makefile"] for line in path.read_text().splitlines()]
    starting = [line for line in lines if "--factory service.app:create_app" in line]
    assert starting and all("uvicorn --http service.web.wire:Wire " in line for line in starting)


def test_every_environment_variable_is_in_the_table_with_its_meaning_and_default():
    (table,) = tables(page("service"), "environment variable", "meaning", "default")
    rows = {names(name).pop(): (meaning.replace("`", ""), default) for name, meaning, default in table}
    assert rows.keys() == {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        meaning, default = rows[f"{PREFIX}{name.upper()}"]
        assert meaning == field.description
        if isinstance(field.default, int | str):
            assert default == (str(field.default).lower() or "none")  # as true is written


@pytest.fixture(scope="module")
def metrics(artifact):
    """What a running service says of itself, once somebody has asked it."""
    with serve_here(create_app(Settings(artifact=artifact.path))) as address:
        for _ in range(2):  # the first is counted when it is answered
            text = httpx.get(f"{address}/metrics").raise_for_status().text
    return list(text_string_to_metric_families(text))


def tables(text, *headings):
    """The cells of each table with this first row."""
    parts = text.split(f"| {' | '.join(headings)} |\n")[1:]
    assert parts, headings
    return [
        [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in part.split("\n\n")[0].splitlines()[1:]
        ]
        for part in parts
    ]


def names(cell):
    return set(re.findall(r"`([^`]*)`", cell))


def metrics_table():
    (table,) = tables(page("operating"), "metric", "type", "labels", "meaning", "worry when")
    return table


def test_every_metric_is_in_the_table_with_type_and_labels_and_no_other(metrics):
    told = {names(name).pop(): (kind, names(labels)) for name, kind, labels, *_ in metrics_table()}
    there = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in metrics
    }
    assert told == there


def test_every_value_of_a_label_is_named(metrics):
    table = {names(name).pop(): names(meaning) for name, _, _, meaning, _ in metrics_table()}
    for family in metrics:
        for sample in family.samples:
            for label in {"by", "outcome"} & sample.labels.keys():
                assert sample.labels[label] in table[sample.name]


def test_every_kind_of_place_is_in_the_table_with_its_number_and_no_other(metrics):
    told = {
        names(of).pop(): places
        for of, _, places, _ in tables(page("operating"), "`of`", "what takes a place", "places", "beyond")[0]
    }
    (there,) = (family for family in metrics if family.name == "hebbsearch_places")
    found = {sample.labels["of"]: sample.value for sample in there.samples}
    assert told.keys() == found.keys()
    for of, places in told.items():
        if places.isdecimal():
            assert int(places) == found[of]
        else:
            assert places.strip("`") in {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}


def tree():
    """The files that the tree of docs/architecture.md names, as paths."""
    drawn = re.search(r"^## The tree\n+```\n(.*?)```", page("architecture"), re.M | re.S)[1]
    above, found = [], []
    for line in drawn.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth:] = [name.rstrip("/")]
        if not name.endswith("/"):
            found.append("/".join(above))
    return found


@pytest.mark.parametrize("room", ["index", "training", "service"])
def test_every_file_of_the_tree_is_there_and_the_other_way_round(room):
    named = [path for path in tree() if path.startswith(f"{room}/")]
    present = {relative(path) for kind in ("*.py", "*.js") for path in (ROOT / room).rglob(kind)}
    present = {path for path in present if not path.endswith("/__init__.py")}
    assert len(named) == len(set(named))
    assert set(named) == present


def test_the_readme_leads_to_every_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(DOCS) >= 10
    for path in DOCS:
        assert f"({relative(path)})" in text
    assert "](docs/page.png)" in text


# --- links ---


def prose(text):
    """Without what stands in code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)


def anchors(text):
    """The anchors that GitHub makes of the headings."""
    seen, made = Counter(), set()
    for heading in re.findall(r"^#+ +(.+)$", prose(text), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        made.add(slug + (f"-{seen[slug]}" if seen[slug] else ""))
        seen[slug] += 1
    return made


def broken_links(path):
    """The relative links of a page that lead nowhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = path.parent / name if name else path
        if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
            yield target


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.md").write_text(
        "# A *b*, `c`-d\n# Twice\n# Twice\n[x](b.md) [x](b.md#there) [x](#a-b-c-d) [x](#twice-1)\n"
        "[no](c.md) [no](b.md#gone) [no](#twice-2) [far](https://example.org/x)\n```\n[code](nothing)\n```\n"
    )
    (tmp_path / "b.md").write_text("## There\n")
    assert list(broken_links(tmp_path / "a.md")) == ["c.md", "b.md#gone", "#twice-2"]


@pytest.mark.parametrize("path", LINKING, ids=relative)
def test_every_link_leads_somewhere(path):
    assert list(broken_links(path)) == []


def test_pages_that_the_code_speaks_of_are_there():
    code = [
        path for room in ("index", "training", "service", "tests") for path in (ROOT / room).rglob("*.py")
    ]
    code += [ROOT / name for name in ("Dockerfile", "Makefile", "compose.yaml", "pyproject.toml")]
    named = {
        name
        for path in code
        for name in re.findall(r"(?<![\w/])(?:docs|results)/[\w-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert "results/README.md" in named
    assert not [name for name in named if not (ROOT / name).exists()]


# --- sentences ---


def sentences(text):
    """The sentences of running text and of lists, each as its number of words. No headings, tables, code."""
    text = re.sub(r"`[^`\n]*`", "code", prose(text))
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)  # a link reads as its words
    blocks, block = [], []
    for line in [*text.splitlines(), ""]:
        item = re.match(r" *(?:[-*]|\d+\.) +(.*)", line)
        if not line.strip() or item or line.startswith(("#", "|")):
            blocks.append(" ".join(block))
            block = []
        if item or (line.strip() and not line.startswith(("#", "|"))):
            block.append(item[1] if item else line)
    ended = (re.split(r"(?<=[.!?])[*)\"]* +(?=[*(\"]*[\w…])", block) for block in blocks)
    counts = (len(re.findall(r"\w[\w'’.,%/-]*", sentence)) for some in ended for sentence in some)
    return [count for count in counts if count]


def test_sentences_are_counted_rightly():
    text = """# A heading of many words that does not count

One two three. Four
five! *Six* [seven eight](x.md) `a b c`?

- nine ten 1,618 images
  eleven.
- twelve: thirteen

| a table | of words |

```
code that does not count
```
"""
    assert sentences(text) == [3, 2, 4, 5, 2]


@pytest.mark.parametrize("path", WRITTEN, ids=relative)
def test_sentences_are_short(path):
    found = sentences(path.read_text(encoding="utf-8"))
    assert len(found) > 10
    assert median(found) <= LONGEST_MEDIAN
