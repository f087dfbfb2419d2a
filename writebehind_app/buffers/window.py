"""The records of a log in a window of time, stored or not, none missing and none twice.

First Redis is read: the records in flight or pending. Then the database is read, in one statement,
as of one moment: the rows, and up to which number the records of each shard are among them. A
record with a greater number is shown as Redis has it; any other is a row already. If no row comes
back, no record was a row at that moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import FieldError
from django.db import models
from django.db.models import Count, Max, Subquery

from writebehind_app.buffers import outbox
from writebehind_app.buffers.fallback import with_fallback
from writebehind_app.database.lookup import all_rows
from writebehind_app.fields.columns import NOT_FOR_KEYS, column, encoded
from writebehind_app.fields.entry import DIGITS, Entry
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.fields.stamps import micros_of
from writebehind_app.fields.versions import upgraded
from writebehind_app.models import AppliedBatch
from writebehind_app.store import divisions, records
from writebehind_app.store.connection import client
from writebehind_app.store.keys import parts_of
from writebehind_app.store.records import Found

if TYPE_CHECKING:
    from writebehind_app.buffers.log import LogBuffer


_DAY = 24 * 60 * 60 * 1_000_000  # in µs; no clock change is longer


class Window:
    """The records of a buffer with `since <= time < until`, whose fields have the values of the
    filters. None is no bound."""

    def __init__(
        self,
        buffer: LogBuffer,
        since: datetime | None,
        until: datetime | None,
        filters: Mapping[str, Any],
    ) -> None:
        self.buffer = buffer
        self.layout = layout = buffer.layout()
        self.time = buffer.time
        self.since, self.until = (_moment(layout, self.time, at) for at in (since, until))
        self.wanted = layout.expected(filters)
        for name in self.wanted:
            if isinstance(layout.columns[name].field, NOT_FOR_KEYS):
                raise FieldError(
                    f"{name!r} of {buffer.label} cannot be a filter: its values cannot be "
                    "compared exactly."
                )

    def records(self) -> list[Any]:
        """Return instances in the order of their times; of one time, unstored ones last."""
        waiting = sorted(self._waiting(), key=lambda pair: pair[1].since)
        upto = self._upto()
        found = list(self._rows().annotate(**upto).order_by(self.time, "pk"))
        applied = {name: getattr(found[0], name) for name in upto} if found else {}
        for row in found:
            for name in upto:
                del row.__dict__[name]
        for name, entry in waiting:
            if entry.since > (applied.get(name) or 0):
                row = self.layout.read(entry, None)
                found += [row] if row else []  # None if the entry is unreadable
        found += [row for entry in self._held() if (row := self.layout.read(entry, None))]
        return sorted(found, key=lambda row: getattr(row, self.time))

    def count(self) -> int:
        """Return how many records there are."""
        waiting = list(self._waiting())
        upto = {name: Max(query) for name, query in self._upto().items()}
        applied = self._rows().aggregate(stored=Count("pk"), **upto)
        missing = sum(entry.since > (applied[name] or 0) for name, entry in waiting)
        return int(applied["stored"]) + missing + sum(1 for _ in self._held())

    # In Redis

    def _waiting(self) -> Iterator[tuple[str, Entry]]:
        """Yield what is in flight or pending, with the name of its shard in `_upto()`."""
        # Clocks are changed twice a year: naive times are not in the order of their moments.
        slack = 0 if settings.USE_TZ else _DAY
        since = micros_of(self.since) - slack if self.since else None
        until = micros_of(self.until) + slack if self.until else None

        def ask() -> dict[str, Found]:
            return records.window(client(), self.buffer.shard_keys(), since, until)

        found: dict[str, Found] = with_fallback(
            self.buffer, lambda: divisions.asked(client(), ask), dict
        )
        for key, (entries, _) in found.items():
            for found_entry in entries:
                try:
                    entry = upgraded(self.buffer, found_entry)
                except REFUSALS:  # it will not be stored
                    continue
                if self._has(entry):
                    yield _name(parts_of(key)[2]), entry

    def _held(self) -> Iterator[Entry]:
        """Yield what is held back in this process."""
        for held in outbox.held_of(self.buffer):
            for entry in held.entries():
                if self._has(entry, found=False):
                    yield entry

    def _has(self, entry: Entry, *, found: bool = True) -> bool:
        """Return whether an entry is in the window. `found` if Redis chose it by number or time."""
        wanted = self.wanted
        texts = {name: value[DIGITS:] for name, value in entry.values.items()}
        if entry.broken or any(texts.get(name, text) != text for name, text in wanted.items()):
            return False
        absent = wanted.keys() - texts.keys()
        if found and not absent and self.time not in texts and settings.USE_TZ:
            return True  # it was found by its number, which is its time
        row = self.layout.read(entry, None)
        if row is None:  # it is unreadable, and will not be stored
            return False
        defaults = self.layout.texts_of(row, absent)
        at = getattr(row, self.time)
        return (
            all(wanted[name] == text for name, text in defaults.items())
            and not (self.since and at < self.since)
            and not (self.until and at >= self.until)
        )

    # In the database

    def _rows(self) -> models.QuerySet[Any]:
        rows = all_rows(self.layout)
        if self.since:
            rows = rows.filter(**{f"{self.time}__gte": self.since})
        if self.until:
            rows = rows.filter(**{f"{self.time}__lt": self.until})
        columns = self.layout.columns
        return rows.filter(
            **{columns[name].attname: columns[name].decode(t) for name, t in self.wanted.items()}
        )

    def _upto(self) -> dict[str, Subquery]:
        """Return, for each shard, up to which number its records are rows."""
        ledger = AppliedBatch.objects.using(self.layout.using).filter(
            buffer=self.buffer.label, upto__isnull=False
        )
        return {
            _name(n): Subquery(ledger.filter(shard=n).order_by("-upto").values("upto")[:1])
            for n in range(len(self.buffer.shard_keys()))
        }


def _moment(layout: Layout, time: str, at: datetime | None) -> datetime | None:
    """Return a bound as the field has its values: in UTC, or naive without USE_TZ."""
    if at is None:
        return None
    field: Any = layout.model._meta.get_field(time)
    c = column(field, layout.using)
    value: datetime = c.decode(encoded(c, at))
    return value


def _name(shard: int) -> str:
    """Return the name of the annotation; no field of a model begins like that."""
    return f"writebehind_upto_{shard}"
