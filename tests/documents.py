"""README.md and docs/, as tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return _BLOCK.sub("", page.read_text())


def blocks(page: Path, heading: str) -> list[tuple[str, str]]:
    """Language and text of each code block below a heading, in order."""
    section = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return _BLOCK.findall(section)


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
