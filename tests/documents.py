"""README.md and docs/, as tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = tuple(sorted((ROOT / "docs").rglob("*.md")))
PAGES = (*sorted(ROOT.glob("*.md")), *DOCS)

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return _BLOCK.sub("", page.read_text())


def blocks(page: Path, heading: str = "") -> list[tuple[str, str]]:
    """Language and text of each code block below a heading, or of the page, in order."""
    text = page.read_text()
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return _BLOCK.findall(text)


def words(page: Path) -> list[str]:
    """The words outside code blocks. The address of a link is no word."""
    text = _LINK.sub("]", prose(page))
    return [word for word in text.split() if re.search(r"\w", word)]


def links(page: Path) -> list[str]:
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """What a link can name after "#": the headings, in the spelling of GitHub."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of each row of the first table below a heading, or of the page."""
    text = prose(page)
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table, f"{page.name} has no table below {heading!r}"
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
