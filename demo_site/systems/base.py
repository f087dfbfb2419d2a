"""What a system of the site is to its tab, to the load and to the proof."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any, ClassVar

from django.db import models

Write = tuple[Any, dict[str, Any]]
"""The key of what is written, and the values."""

FIRST_FREE = 1_000_000
"""Far from the ids of the site: where those of proofs begin."""


class System(ABC):
    """A part of the site that writes through a buffer."""

    title: ClassVar[str]  # of its tab
    view: ClassVar[str]  # the name of the page that its tab opens, and of its section
    model: ClassVar[type[models.Model]]
    compared: ClassVar[tuple[str, ...]]  # the fields that the proof looks at
    dated: ClassVar[tuple[str, ...]] = ("created_at", "updated_at")  # set by a write, in that order
    ordered: ClassVar[bool] = False  # the proof looks at the order of its rows too
    rate: ClassVar[float]  # simulated writes in a second

    # The site and its load

    def prepare(self) -> None:
        """Make what the site shows, where it is not there yet."""
        missing = [key for key in self.shown() if not self.rows([key]).exists()]
        for key, values in self.openings(missing):
            self.write(key, values)

    def shown(self) -> Sequence[Any]:
        """The keys that are to be there from the start."""
        return self.busy()

    def tidy(self) -> None:  # noqa: B027 - most systems keep as many rows as they have keys
        """Remove what no page shows any more. The demo asks for it every minute."""

    @abstractmethod
    def busy(self) -> Sequence[Any]:
        """The keys that the load writes to."""

    # Writes

    def openings(self, keys: Sequence[Any]) -> Iterable[Write]:
        """The first write of each key."""
        return ()

    @abstractmethod
    def changes(self, rng: Random, keys: Sequence[Any]) -> Iterator[Write]:
        """Endless later writes, each to one of the keys."""

    @abstractmethod
    def write(self, key: Any, values: dict[str, Any]) -> None:
        """Through the buffer."""

    @abstractmethod
    def write_directly(self, key: Any, values: dict[str, Any]) -> None:
        """As a site without a buffer does it."""

    # The proof

    @abstractmethod
    def fresh(self, count: int) -> Sequence[Any]:
        """Keys that nobody has used. Call it when nothing is pending."""

    @abstractmethod
    def expected(self, writes: Iterable[Write]) -> dict[str, dict[str, Any]]:
        """What the compared fields of each row have to be, by its name, worked out from the writes
        alone, the oldest row first."""

    @abstractmethod
    def rows(self, keys: Sequence[Any]) -> models.QuerySet[Any]:
        """All rows that the database has for the keys, the oldest first where that counts."""

    @abstractmethod
    def name(self, row: Any) -> str:
        """Names a row to people, and in `expected()`."""

    def remove(self, keys: Sequence[Any]) -> None:
        self.rows(keys).delete()


def free_ids(model: type[models.Model], field: str, count: int) -> range:
    """Ids that no row has, and none had that a proof left."""
    last = model._default_manager.aggregate(last=models.Max(field))["last"] or 0
    first = max(last + 1, FIRST_FREE)
    return range(first, first + count)
