"""The README names every flag, route, setting and file, and nothing that is not there."""

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.settings import PREFIX, Settings
from tests.conftest import serve_here
from training.build_index import parser
from training.config import settings_help

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def flags():
    return {flag for action in parser()._actions for flag in action.option_strings if flag.startswith("--")}


def test_every_flag_is_in_the_table_and_no_other():
    named = set(re.findall(r"^\| `(--[a-z-]+)", README, re.M))
    assert named == flags() - {"--help"}


def test_choices_of_a_flag_are_named():
    for action in parser()._actions:
        for choice in action.choices or ():
            assert f"`{choice}`" in README, f"{action.option_strings} {choice}"


def test_help_explains_every_setting():
    text = parser().format_help()
    for name in settings_help():
        assert re.search(rf"^  {name} +\S", text, re.M)


def test_every_route_is_in_the_table_and_no_other(artifact):
    app = create_app(Settings(artifact=artifact.path))
    routes = {
        f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods
    }
    app.state.opened.pop().close()
    named = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`(?=.*\|)", README))
    assert named == routes | {"GET /", "GET /docs", "GET /openapi.json"}


def test_every_environment_variable_is_in_the_table_with_its_meaning_and_default():
    found = re.findall(rf"^\| `({PREFIX}[A-Z_]+)` \| ([^|]*) \| ([^|]*) \|$", README, re.M)
    rows = {name: (meaning.replace("`", ""), default) for name, meaning, default in found}
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


def rows(*headings):
    """The cells of the table with this first row."""
    table = README.split(f"| {' | '.join(headings)} |\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]


def names(cell):
    return set(re.findall(r"`([^`]*)`", cell))


def test_every_metric_is_in_the_table_with_type_and_labels_and_no_other(metrics):
    told = {
        names(name).pop(): (kind, names(labels))
        for name, kind, labels, *_ in rows("metric", "type", "labels", "meaning", "worry when")
    }
    there = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in metrics
    }
    assert told == there


def test_every_value_of_a_label_is_named(metrics):
    table = {
        names(name).pop(): names(meaning)
        for name, _, _, meaning, _ in rows("metric", "type", "labels", "meaning", "worry when")
    }
    for family in metrics:
        for sample in family.samples:
            for label in {"by", "outcome"} & sample.labels.keys():
                assert sample.labels[label] in table[sample.name]


def test_every_kind_of_place_is_in_the_table_with_its_number_and_no_other(metrics):
    told = {
        names(of).pop(): places for of, _, places, _ in rows("`of`", "what takes a place", "places", "beyond")
    }
    (there,) = (family for family in metrics if family.name == "hebbsearch_places")
    found = {sample.labels["of"]: sample.value for sample in there.samples}
    assert told.keys() == found.keys()
    for of, places in told.items():
        if places.isdecimal():
            assert int(places) == found[of]
        else:
            assert places.strip("`") in {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("room", ["index", "training", "service"])
def test_every_file_of_the_tree_is_there_and_the_other_way_round(room):
    tree = re.search(r"^## The tree\n+```\n(.*?)```", README, re.M | re.S)[1]
    section = re.search(rf"^{room}/.*?(?=^\S|\Z)", tree, re.M | re.S)[0]
    named = set(re.findall(r"(\w+\.py)", section))
    present = {path.name for path in (ROOT / room).rglob("*.py")} - {"__init__.py"}
    assert named == present
