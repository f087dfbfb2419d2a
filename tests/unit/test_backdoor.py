"""Of all tests, but for those in here, only tests/backdoor knows how the inside looks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import writebehind_app

PACKAGE = Path(writebehind_app.__file__).parent
TESTS = Path(__file__).parents[1]
WHO_MAY = ("backdoor", "mutation", "unit")
FILES = sorted(
    path for path in TESTS.rglob("*.py") if path.relative_to(TESTS).parts[0] not in WHO_MAY
)

# Ways from a buffer to what Redis has of it.
SHARDS = {"shards", "shard_of", "shard_key_of", "shard_keys"}
# What a key of the package begins with, or has in it before an id or at its end.
KEY = re.compile(
    r"\{wb\b|:(?:e|f|once|taken|told|aside):|:(?:due|flight|senders|log|times|discarded)$"
)
# Names of others that the package happens to have, too.
OF_OTHERS = {
    "_meta",  # of a model
    "_state",  # of an instance
    "_commit",  # of a connection
    "_non_atomic_requests",  # of a view
}
# Those that take an attribute by its name.
BY_NAME = {"setattr", "getattr", "delattr", "hasattr", "setitem", "delitem"}
# The processes of a Valkey of the demo.
OF_THE_DEMO = {("integration/test_demo.py", "_lock")}


@cache
def internal_names() -> set[str]:
    """Every name of the package that begins with an underscore."""
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case (
                    ast.FunctionDef(name=name)
                    | ast.ClassDef(name=name)
                    | ast.Name(id=name, ctx=ast.Store())
                    | ast.Attribute(attr=name, ctx=ast.Store())
                ):
                    names.add(name)
    internal = {name for name in names if re.match("_[^_]", name)}
    assert len(internal) > 100
    return internal - OF_OTHERS


def breaches(source: str) -> Iterator[tuple[str, int]]:
    """What a test names that it may not, and the line."""
    tree = ast.parse(source)
    inside = internal_names() - {name for node in ast.walk(tree) for name in _made(node)}
    for node in ast.walk(tree):
        for name in _named(node):
            if name.startswith("writebehind_app.store") or inside & set(name.split(".")):
                yield name, node.lineno
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) if name in SHARDS:
                yield name, node.lineno
            case ast.Constant(value=str() | bytes() as text) if KEY.search(_text(text)):
                yield _text(text), node.lineno


def _made(node: ast.AST) -> Iterator[str]:
    """Names that the test makes itself."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
            yield name


def _named(node: ast.AST) -> Iterator[str]:
    """Modules of the package that are imported, attributes, and either where a text names it."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names if alias.name.startswith("writebehind_app"))
        case ast.ImportFrom(module=str() as module, names=names):
            if module.startswith("writebehind_app"):
                yield from (f"{module}.{alias.name}" for alias in names)
        case ast.Attribute(attr=name):
            yield name
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args):
            texts = [arg.value for arg in args if isinstance(arg, ast.Constant)]
            if name in BY_NAME:
                yield from (text for text in texts if isinstance(text, str))


def _text(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode("latin-1")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_nothing_of_the_inside_is_named(path):
    file = str(path.relative_to(TESTS))
    found = [
        f"{file}:{line}: {name}"
        for name, line in breaches(path.read_text())
        if (file, name) not in OF_THE_DEMO
    ]
    assert not found, "\n".join(["tests/backdoor is the place for:", *found])


def test_there_are_files_to_be_looked_at():
    assert {path.parent.name for path in FILES} >= {"faults", "integration", "systems", "soak"}


@pytest.mark.parametrize(
    "source",
    [
        "from writebehind_app.store import lua",
        "from writebehind_app.store.shard import Shard",
        "from writebehind_app import store",
        "import writebehind_app.store.lua",
        "from writebehind_app.checks import _not_called",
        "def test(): from writebehind_app.store import lua",
        "batch._apply(related)",
        "monkeypatch.setattr(reading, '_stored', None)",
        "monkeypatch.setattr('writebehind_app.buffers.reading._stored', None)",
        "monkeypatch.setattr('writebehind_app.store.shard.hasten', away)",
        "Item.buffered.shards()[0].claim('a', lease=1)",
        "client.hget(f'{key}:e:5', 'a')",
        "client.delete('{wb:test:bench}')",
        "client.delete(key + b':due')",
    ],
)
def test_a_breach_is_found(source):
    assert list(breaches(source))


@pytest.mark.parametrize(
    "source",
    [
        "from writebehind_app.flush.engine import flush",
        "from tests.backdoor.batches import claim",
        "Item._meta.get_field('a')",
        "client.scan_iter('other:*')",
        "class Client:\n    def _write(self): self._write()",
    ],
)
def test_what_is_none_is_not(source):
    assert not list(breaches(source))
