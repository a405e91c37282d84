"""The README names every flag, route, setting and file, and nothing that is not there."""

import re
from pathlib import Path

import pytest

from service.settings import PREFIX, Settings
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
    from service.app import create_app

    app = create_app(Settings(artifact=artifact.path))
    routes = {
        f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods
    }
    app.state.opened.pop().close()
    named = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`(?=.*\|)", README))
    assert named == routes | {"GET /", "GET /docs", "GET /openapi.json"}


def test_every_environment_variable_is_in_the_table_with_its_default():
    rows = dict(re.findall(rf"^\| `({PREFIX}[A-Z_]+)` \|[^|]*\| ([^|]*) \|$", README, re.M))
    assert rows.keys() == {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int):
            assert rows[f"{PREFIX}{name.upper()}"] == str(field.default).lower()  # as true is written


@pytest.mark.parametrize("room", ["index", "training", "service"])
def test_every_file_of_the_tree_is_there_and_the_other_way_round(room):
    tree = re.search(r"^## The tree\n+```\n(.*?)```", README, re.M | re.S)[1]
    section = re.search(rf"^{room}/.*?(?=^\S|\Z)", tree, re.M | re.S)[0]
    named = set(re.findall(r"(\w+\.py)", section))
    present = {path.name for path in (ROOT / room).rglob("*.py")} - {"__init__.py"}
    assert named == present
