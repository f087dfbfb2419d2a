"""A write to an entry, on its way to Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from writebehind_app.fields.entry import SIGNS, Entry, entry_of
from writebehind_app.fields.operations import script_text
from writebehind_app.fields.versions import Names


class Write(NamedTuple):
    """A write that was checked."""

    id: str
    texts: dict[str, str]
    delete: str = ""  # '1' for a delete
    guard: str = ""  # what Redis must hold for the id still

    @property
    def is_idempotent(self) -> bool:
        """Whether it comes to the same twice in a row."""
        return not (self.guard or any(text.startswith("+") for text in self.texts.values()))

    def entry(self, number: int) -> Entry:
        """As Redis would give it to a flusher, if it were the only one."""
        return entry_of(self.id, self.texts, number, delete=bool(self.delete), head="not sent")

    def fields(self) -> set[str]:
        """The names that it writes to."""
        return {name for name in self.texts if name[:1] != "&"}


def script_texts(
    names: Names, texts: Mapping[str, str], void: Mapping[str, int] = {}
) -> Mapping[str, str]:
    """The texts of a write as scripts/write.lua takes them; `void` says of operations up to which
    number values are that they must not be carried out on."""
    if not names.is_stamped and not any(t[:1] in SIGNS or n[:1] == "&" for n, t in texts.items()):
        return texts
    found = {}
    for name, text in texts.items():
        if text[:1] == "&" and name[:1] != "&":
            found[f"&{name}:"] = ""  # an object, whatever is merged into it
        elif text[:1] in SIGNS and name[:1] != "&":
            number = f";{void[name]}" if name in void else ""
            found[name] = script_text(names.column(names.shown(name)), text) + number
        else:
            found[name] = text
        if names.is_stamped and name[:1] != "&":
            found[f"@{name}"] = "!" if text == "!" else "^"
    return found
