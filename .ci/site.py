"""Makes one site of docs/ and of the pages beside it, for MkDocs.

The pages stay where readers on GitHub expect them. Their links lead where they lead on GitHub: to a
page of the site if there is one, else to the file in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# Pages at the top of the repository, and their names in the site.
PAGES = {
    "README.md": "quick-start.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")


def on_files(files: Any, config: Any) -> Any:
    for name, path in PAGES.items():
        # Its links are those of a page in docs/, from here on.
        text = _LINK.sub(lambda link: _moved(link[1]), (ROOT / name).read_text())
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)
    return _LINK.sub(lambda link: _followed(link[1], folder, config.repo_url), markdown)


def _moved(link: str) -> str:
    if "://" in link or link.startswith("#"):
        return link
    return link.removeprefix("docs/") if link.startswith("docs/") else f"../{link}"


def _followed(link: str, folder: str, repository: str) -> str:
    """A link that leads out of docs/ leads to the page that is made of its target, or to GitHub."""
    path, mark, anchor = link.partition("#")
    if "://" in link or not path:
        return link
    target = posixpath.normpath(posixpath.join("docs", folder, path))
    if target.startswith("docs/"):
        return link
    if page := PAGES.get(target):
        return posixpath.relpath(page, folder or ".") + mark + anchor
    kind = "blob" if (ROOT / target).is_file() else "tree"
    return f"{repository}/{kind}/main/{target}{mark}{anchor}"
