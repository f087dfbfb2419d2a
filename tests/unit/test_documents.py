"""README.md, its neighbours and docs/: short enough, and without a dead link."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import writebehind_app
from tests.documents import DOCS, PAGES, README, ROOT, anchors, links, words


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
    if "contrib.tasks" in line:
        pytest.importorskip("django.tasks")
    exec(line, {})


def test_the_index_names_each_document() -> None:
    index = ROOT / "docs" / "README.md"
    pages = {str(page.relative_to(index.parent)) for page in DOCS}
    assert pages - {index.name} <= {link.partition("#")[0] for link in links(index)}


def test_the_redis_of_compose_is_the_safe_one() -> None:
    page = (ROOT / "docs" / "redis.md").read_text()
    settings = re.search(r"```\n(maxmemory-policy.*?)```", page, re.DOTALL)
    assert settings is not None
    compose = (ROOT / "compose.yaml").read_text()
    given = dict(re.findall(r'- --([\w-]+)\n +- "?(\w+)"?\n', compose))
    assert given == dict(re.findall(r"^([\w-]+) (\w+)", settings[1], re.MULTILINE))


def test_actions_of_workflows_are_pinned() -> None:
    """To a commit, as a tag may be moved to another one."""
    used = [
        line.strip()
        for path in (ROOT / ".github" / "workflows").iterdir()
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]
    assert used
    for line in used:
        assert re.fullmatch(r"- uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == writebehind_app.__version__
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()
