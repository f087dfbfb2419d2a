"""docs/explanation names files and functions: they are there."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import writebehind_app
from tests.documents import ROOT

PACKAGE = Path(writebehind_app.__file__).parent
PAGES = sorted((ROOT / "docs" / "explanation").glob("*.md"))
_CODE = re.compile(r"`([^`]+)`")


def rows() -> list[tuple[str, str, list[str]]]:
    """Page, file and names, of each row of a table that names a file."""
    found = []
    for page in PAGES:
        for line in page.read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            for cell, after in pairwise(cells):
                path = _CODE.fullmatch(cell)
                if line.startswith("|") and path and path[1].endswith((".py", ".lua")):
                    found.append((page.name, path[1], _CODE.findall(after)))
    return found


def names_in(path: Path) -> set[str]:
    found: set[str] = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + child.name)
                visit(child, f"{prefix}{child.name}.")

    visit(ast.parse(path.read_text()), "")
    return found


def test_there_are_some():
    assert len(rows()) > 20


@pytest.mark.parametrize(("page", "file", "names"), rows())
def test_the_names_are_those_of_the_code(page, file, names):
    path = PACKAGE / file
    assert path.is_file()
    assert names
    if path.suffix == ".lua":
        parts = set(re.findall(r"-- include (\w+)\.lua", path.read_text()))
        assert {*names} <= parts
    else:
        assert {*names} <= names_in(path)
