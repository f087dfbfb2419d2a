"""The pages that list names, defaults, ids and options have those of the code, all of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib import import_module
from inspect import getdoc, signature
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import load_command_class
from django.dispatch import Signal

import writebehind_app
from tests.documents import ROOT, rows
from writebehind_app import LogBuffer, MetaBuffer, RowBuffer, signals
from writebehind_app.buffers.base import PendingEntry
from writebehind_app.buffers.metadata import Metadata
from writebehind_app.conf import Settings
from writebehind_app.contrib.prometheus import WritebehindCollector
from writebehind_app.declaration import FlushedRow, Options
from writebehind_app.flush.engine import FlushResult
from writebehind_app.store.state import COUNTERS

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PACKAGE = Path(writebehind_app.__file__).parent
COMMANDS = sorted(
    path.stem
    for path in (PACKAGE / "management" / "commands").glob("*.py")
    if path.stem != "__init__"
)
_DIRECTIVE = re.compile(r"^::: (\S+)$(?:\n    .*)*", re.MULTILINE)


def column(page: Path, heading: str, number: int = 0) -> list[str]:
    """The names in a column of the first table below a heading."""
    return [row[number].replace("`", "") for row in rows(page, heading)]


# Docstrings


@cache
def directives() -> dict[str, list[str] | None]:
    """What the reference takes from docstrings, and the members that it names."""
    found = {}
    for page in REFERENCE.glob("*.md"):
        for match in _DIRECTIVE.finditer(page.read_text()):
            members = re.search(r"members: \[(.*)\]", match[0])
            found[match[1]] = members and members[1].split(", ")
    return found


def resolved(path: str) -> Any:
    parent, _, name = path.rpartition(".")
    try:
        return getattr(import_module(parent), name)
    except (AttributeError, ModuleNotFoundError):
        return import_module(path)


@pytest.mark.parametrize("path", directives())
def test_what_the_reference_names_is_there(path):
    found = resolved(path)
    if not path.endswith("DELETED"):
        assert getdoc(found)
    for member in directives()[path] or ():
        assert getdoc(getattr(found, member)), member


@pytest.mark.parametrize("name", writebehind_app.__all__)
def test_each_public_name_is_in_the_reference(name):
    assert f"writebehind_app.{name}" in directives()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("writebehind_app.RowBuffer", RowBuffer),
        ("writebehind_app.MetaBuffer", MetaBuffer),
        ("writebehind_app.LogBuffer", LogBuffer),
    ],
)
def test_each_verb_is_in_the_reference(path, kind):
    verbs = {name[1:] for name in dir(kind) if name[:1] == "a" and hasattr(kind, name[1:])}
    assert verbs > {"flush", "discard", "pending"}
    missing = verbs - set(directives()[path] or ())
    assert not missing


def test_each_call_of_the_mapping_is_in_the_reference():
    own = {name for name in vars(Metadata) if not name.startswith("_")}
    twins = {name for name in own if name[1:] in own or name == "aget"}
    of_dict = {"keys", "items", "values"}
    asked = {"asks_redis_alone"}  # of the asynchronous twins, not of callers
    assert own - twins - of_dict - asked == set(
        directives()["writebehind_app.buffers.metadata.Metadata"] or ()
    )


@pytest.mark.parametrize("kind", [PendingEntry, FlushResult, FlushedRow])
def test_what_a_call_returns(kind):
    text = (REFERENCE / "buffers.md").read_text().split(f"`{kind.__name__}`")[1]
    table = text.split("\n\n")[1]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [f.name for f in fields(kind)]


# Settings


def value(text: str) -> Any:
    if number := re.fullmatch(r"(\d+) MiB", text):
        return int(number[1]) * 1024**2
    return ast.literal_eval(text)


def test_each_setting_has_its_default():
    found = {
        name.strip("`"): value(default.strip("`"))
        for name, default, *_ in rows(DOCS / "settings.md", "Settings")
    }
    assert found == {field.name: field.default for field in fields(Settings)}


@pytest.mark.parametrize("kind", [RowBuffer, MetaBuffer, LogBuffer])
def test_each_option_is_named(kind):
    section = (DOCS / "settings.md").read_text().split("## Options of a buffer")[1]
    tables = re.split(r"^A `(\w+)` also takes$", section, flags=re.MULTILINE)
    of_kind = dict(zip(tables[1::2], tables[2::2], strict=True))[kind.__name__]
    named = {
        *re.findall(r"^\| `(\w+)`", tables[0] + of_kind, re.MULTILINE),
        *(
            name.strip("`").lower()
            for name, _, is_option, _ in rows(DOCS / "settings.md", "Settings")
            if is_option == "yes"
        ),
    }
    own = {n for n in signature(kind.__init__).parameters if n not in ("self", "options")}
    if kind is LogBuffer:
        named -= {"cache_seconds"}
    assert named == own | Options.__annotations__.keys()


# Commands


@pytest.mark.parametrize("command", COMMANDS)
def test_each_argument_of_a_command_is_listed(command):
    parser = load_command_class("writebehind_app", command).create_parser("manage.py", command)
    django = {"-h", "--version", "-v", "--settings", "--pythonpath", "--traceback", "--no-color"}
    django |= {"--force-color", "--skip-checks"}
    actions = {
        ", ".join(action.option_strings) or action.dest: action
        for action in parser._actions
        if django.isdisjoint(action.option_strings)
    }
    listed = {row[0].replace("`", ""): row[1] for row in rows(REFERENCE / "commands.md", command)}
    assert listed.keys() == actions.keys()
    numbers = {
        name: f"{action.default:g}"
        for name, action in actions.items()
        if type(action.default) in (int, float)
    }
    assert numbers == {name: listed[name] for name in numbers}


def test_no_other_command_is_listed():
    headings = re.findall(r"^## (.*)$", (REFERENCE / "commands.md").read_text(), re.MULTILINE)
    assert sorted(headings) == COMMANDS


# Checks


def ids_in_code() -> Iterator[str]:
    makers = {"error": "E", "_away": "E", "warning": "W"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Name(maker), [ast.Constant(int(number)), *_]) if maker in makers:
                    yield f"{makers[maker]}{number:03}"
                case ast.Constant(str(text)):
                    yield from re.findall(r"writebehind\.([EW]\d{3})$", text)


def ids_in(page: Path) -> list[str]:
    return re.findall(r"^\| ([EW]\d{3}) \|", page.read_text(), re.MULTILINE)


def test_each_check_is_listed_by_its_id():
    listed = ids_in(REFERENCE / "checks.md") + ids_in(DOCS / "doctor.md")
    assert sorted(listed) == sorted(set(ids_in_code()))


# Signals


def test_each_signal_is_listed_with_its_arguments():
    sent: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Attribute(sender, "send_robust"), _, keywords):
                    name = ast.unparse(sender).removeprefix("signals.")
                    sent[name] = {str(keyword.arg) for keyword in keywords}
    assert sent.keys() == {name for name, it in vars(signals).items() if isinstance(it, Signal)}
    for name, _, _, text in rows(REFERENCE / "signals.md", ""):
        arguments = set(re.findall(r"`(\w+)`", text)) - {"writebehind_app"}
        assert arguments == sent.pop(name.strip("`")), name
    assert not sent


# Metrics and tables


def test_each_metric_is_listed():
    names = set()
    for metric in WritebehindCollector().describe():
        is_counter = metric.type == "counter"
        names.add(f"{metric.name}_total" if is_counter else metric.name)
    assert sorted(column(REFERENCE / "metrics.md", "Metrics for Prometheus")) == sorted(names)


def test_each_counter_is_listed():
    assert sorted(column(REFERENCE / "metrics.md", "Counters")) == sorted(COUNTERS)


def test_each_table_is_listed():
    models = [m for m in apps.get_app_config("writebehind").get_models() if m._meta.managed]
    listed = zip(
        column(REFERENCE / "storage.md", "Tables"),
        column(REFERENCE / "storage.md", "Tables", 1),
        strict=True,
    )
    assert sorted(listed) == sorted((m._meta.db_table, m.__name__) for m in models)
