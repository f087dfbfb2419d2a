"""How the buffers are doing, each on a card."""

from __future__ import annotations

from dataclasses import dataclass

from writebehind_app import registry, sampling, status
from writebehind_app.admin.shown import duration
from writebehind_app.conf import is_direct
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.status import Status
from writebehind_app.store.connection import client

_LATE = 10.0  # seconds beyond max_age: what waits so long is worth a colour


@dataclass(frozen=True, slots=True)
class Card:
    buffer: Declaration
    dead_letters: int | None  # None where the database does not say
    status: Status | None  # None where Redis does not answer

    @property
    def kind(self) -> str:
        return type(self.buffer).__name__

    @property
    def model(self) -> str:
        return self.buffer.model.__name__

    @property
    def using(self) -> str:
        """The database of its dead letters."""
        return self.buffer.layout().using

    @property
    def app(self) -> str:
        return self.buffer.model._meta.app_label

    @property
    def oldest(self) -> str:
        """How long the oldest entry has waited; '' where there is none."""
        if self.status is None or not (self.status.pending or self.status.in_flight):
            return ""
        return duration(self.status.oldest_seconds)

    @property
    def max_age(self) -> str:
        return duration(self.buffer.option("MAX_AGE"))

    @property
    def is_late(self) -> bool:
        late = self.buffer.option("MAX_AGE") + _LATE
        return self.status is not None and self.status.oldest_seconds > late

    @property
    def coalescing(self) -> str:
        """How many writes went into an entry, since the shards were made."""
        flushed = self.status.counters["flushed"] if self.status else 0
        return (
            f"{self.status.counters['accepted'] / flushed:.1f}" if self.status and flushed else ""
        )


def read() -> tuple[list[Card], str]:
    """A card for each buffer, and why Redis does not say how they are, or ''."""
    buffers = list(registry.buffers().values())
    try:
        found = status.read(client(), buffers)
        sampling.take(client())
    except BufferUnavailable as error:
        letters = status.dead_letters(buffers)
        cards = [Card(buffer, letters[buffer.label], None) for buffer in buffers]
        return cards, "" if is_direct() else str(error)
    return [Card(b, one.dead_letters, one) for b, one in zip(buffers, found, strict=True)], ""
