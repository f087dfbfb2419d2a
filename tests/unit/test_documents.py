"""README.md and docs/: short enough, and without a dead link."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import PAGES, README, ROOT, anchors, links, words


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len(words(README)) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_relative_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


IMPORTS = [
    pytest.param(line.strip(), id=f"{page.name}: {line.strip()}")
    for page in PAGES
    for line in re.findall(r"^ *from writebehind_app.* import .*$", page.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("line", IMPORTS)
def test_what_an_example_imports_is_there(line: str) -> None:
    exec(line, {})


def test_the_index_names_each_document() -> None:
    index = ROOT / "docs" / "README.md"
    assert {page.name for page in PAGES[1:]} - {index.name} <= set(links(index))
