"""A write to an entry, on its way to Redis."""

from __future__ import annotations

from typing import NamedTuple

from writebehind_app.buffers.operations import is_kept_operation, is_operation, kept, merged_field
from writebehind_app.store.codec import Entry


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

    def entry(self, now: int) -> Entry:
        """As Redis would give it to a flusher, if it were the only one."""
        texts = {}
        for name, text in self.texts.items():
            if is_operation(text):
                text = kept(text)
            elif text == "^":
                text = f"{now} {now}"
            texts[name] = text
        relative = any(merged_field(name) or is_kept_operation(t) for name, t in texts.items())
        is_delete, head = bool(self.delete), "not sent"
        return Entry(
            self.id, head, 0, 1, now, now, now, is_delete, not is_delete, relative, texts, gone=now
        )
