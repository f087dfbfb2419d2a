"""The cards of the dashboard: the state of each buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from writebehind_app import registry, status
from writebehind_app.admin.display import duration
from writebehind_app.admin.names import plural
from writebehind_app.conf import is_direct
from writebehind_app.declaration import Declaration
from writebehind_app.status import Away, Status

_LATE = 10.0  # seconds beyond max_age, after which the oldest entry is shown as late


@dataclass(frozen=True, slots=True)
class Card:
    buffer: Declaration
    dead_letters: int | None  # None if the database cannot be asked
    status: Status | None  # None if Redis cannot be asked

    @property
    def kind(self) -> str:
        return type(self.buffer).__name__

    @property
    def name(self) -> str:
        return plural(self.buffer)

    @property
    def using(self) -> str:
        """The database with the buffer's dead letters."""
        return self.buffer.layout().using

    @property
    def oldest(self) -> str:
        """How long the oldest entry has waited; "" if there is none."""
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
        """How many writes became one entry on average, since the shards were made."""
        if self.status is None:
            return ""
        counters = self.status.counters
        entries = counters["flushed"] + self.status.pending + self.status.in_flight
        return f"{counters['accepted'] / entries:.1f}" if counters["flushed"] else ""


def read() -> tuple[list[Card], Sequence[Away]]:
    """A card for each buffer, and which Redis cannot be asked."""
    buffers = registry.buffers()
    seen = status.look([*buffers.values()])
    known = {one.label: one for one in seen.found}
    unknown = status.dead_letters([b for label, b in buffers.items() if label not in known])
    letters = unknown | {label: one.dead_letters for label, one in known.items()}
    cards = [Card(buffer, letters[label], known.get(label)) for label, buffer in buffers.items()]
    return cards, [] if is_direct() else seen.away
