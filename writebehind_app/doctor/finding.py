from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What an examination found. If nothing is wrong, it has no id and names the examination."""

    id: str  # "writebehind.E101" for an error, "writebehind.W101" for a warning, or ""
    what: str  # what is wrong
    why: str = ""  # why it matters
    do: str = ""  # what to do about it
    buffer: str = ""  # the label of the buffer that it is about, if it is about one

    @property
    def level(self) -> Literal["error", "warning", "ok"]:
        if not self.id:
            return "ok"
        return "error" if self.id.startswith("writebehind.E") else "warning"


def error(number: int, what: str, why: str, do: str) -> Finding:
    return Finding(f"writebehind.E{number:03}", what, why, do)


def warning(number: int, what: str, why: str, do: str, buffer: str = "") -> Finding:
    return Finding(f"writebehind.W{number:03}", what, why, do, buffer)
