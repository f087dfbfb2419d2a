from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What an examination found. One that is sound has no id, and says what was examined."""

    id: str  # 'writebehind.E101': an error; 'writebehind.W101': a warning; or ''
    what: str
    why: str = ""  # it matters
    do: str = ""

    @property
    def level(self) -> Literal["error", "warning", "ok"]:
        if not self.id:
            return "ok"
        return "error" if self.id.startswith("writebehind.E") else "warning"


def error(number: int, what: str, why: str, do: str) -> Finding:
    return Finding(f"writebehind.E{number:03}", what, why, do)


def warning(number: int, what: str, why: str, do: str) -> Finding:
    return Finding(f"writebehind.W{number:03}", what, why, do)
