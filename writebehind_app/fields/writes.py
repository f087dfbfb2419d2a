"""A write to one row or entity, on its way to Redis."""

from __future__ import annotations

from typing import NamedTuple

from writebehind_app.fields.entry import Entry, entry_of


class Write(NamedTuple):
    """A write that was checked."""

    id: str
    texts: dict[str, str]  # as `Layout.encode` makes them
    delete: bool = False
    guard: str = ""  # the write is taken only if this guard of the row is unchanged

    @property
    def is_idempotent(self) -> bool:
        """Whether a repeat of the write changes nothing."""
        return not (self.guard or any(text.startswith("+") for text in self.texts.values()))

    def entry(self, number: int) -> Entry:
        """The entry that a flusher would get if this were the only write."""
        return entry_of(self.id, self.texts, number, delete=self.delete)

    def fields(self) -> set[str]:
        """The fields or meta keys that the write changes."""
        return {name for name in self.texts if name[:1] != "&"}
