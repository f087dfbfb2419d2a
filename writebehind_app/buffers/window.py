"""The records of a log in a window of time, stored or not, none missing and none twice.

Redis is read first: what is in flight or pending. Then the database, in one statement, which sees
one moment: the rows, and up to which number the records of each shard are among them. A record
with a greater number is shown as Redis has it, any other is a row already. Where no row comes
back, none of the records was one at that moment.
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
from writebehind_app.buffers.fallback import otherwise
from writebehind_app.database.keyed import all_rows
from writebehind_app.fields.columns import NOT_FOR_KEYS, column
from writebehind_app.fields.entry import DIGITS, Entry
from writebehind_app.fields.layout import Layout, encoded, micros_of
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.fields.versions import upgraded
from writebehind_app.models import AppliedBatch
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

if TYPE_CHECKING:
    from writebehind_app.buffers.log import LogBuffer


_DAY = 24 * 60 * 60 * 1_000_000  # in µs; no clock is ever put by more


class Window:
    """The records of a buffer from a time up to, and without, another; None for no bound. Of
    those, the ones whose fields have the values of the filters."""

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
                    f"{name!r} of {buffer.label} cannot be a filter: its values are not simply "
                    "equal or not."
                )

    def records(self) -> list[Any]:
        """Instances, in the order of their times; of one time, those that are not stored last."""
        waiting = sorted(self._waiting(), key=lambda pair: pair[1].no)
        upto = self._upto()
        found = list(self._rows().annotate(**upto).order_by(self.time, "pk"))
        applied = {name: getattr(found[0], name) for name in upto} if found else {}
        for row in found:
            for name in upto:
                del row.__dict__[name]
        for name, entry in waiting:
            if entry.no > (applied.get(name) or 0):
                row = self.layout.read(entry, None)
                found += [row] if row else []  # none of one that is not to be understood
        found += [row for entry in self._held() if (row := self.layout.read(entry, None))]
        return sorted(found, key=lambda row: getattr(row, self.time))

    def count(self) -> int:
        """How many records there are."""
        waiting = list(self._waiting())
        upto = {name: Max(query) for name, query in self._upto().items()}
        applied = self._rows().aggregate(stored=Count("pk"), **upto)
        missing = sum(entry.no > (applied[name] or 0) for name, entry in waiting)
        return int(applied["stored"]) + missing + sum(1 for _ in self._held())

    # In Redis

    def _waiting(self) -> Iterator[tuple[str, Entry]]:
        """What is in flight or pending, with the name of its shard in `_upto()`."""
        # Clocks are put forward and back: naive times are not in the order of their moments.
        slack = 0 if settings.USE_TZ else _DAY
        since = micros_of(self.since) - slack if self.since else None
        until = micros_of(self.until) + slack if self.until else None
        keys = self.buffer.shard_keys()

        def in_redis() -> list[list[Entry]]:
            return store.window(client(), keys, since, until)

        found: list[list[Entry]] = otherwise(self.buffer, in_redis, list)
        for n, entries in enumerate(found):
            for found_entry in entries:
                try:
                    entry = upgraded(self.buffer, found_entry)
                except REFUSALS:  # it will not be stored
                    continue
                if self._has(entry):
                    yield _name(n), entry

    def _held(self) -> Iterator[Entry]:
        """What is held back in this process."""
        for held in outbox.held_of(self.buffer):
            for entry in held.entries():
                if self._has(entry, found=False):
                    yield entry

    def _has(self, entry: Entry, *, found: bool = True) -> bool:
        """Whether it is in the window. One that was `found` by its number, or its time, may be."""
        wanted = self.wanted
        texts = {name: value[DIGITS:] for name, value in entry.values.items()}
        if entry.broken or any(texts.get(name, text) != text for name, text in wanted.items()):
            return False
        absent = wanted.keys() - texts.keys()
        if found and not absent and self.time not in texts and settings.USE_TZ:
            return True  # its number is its time, by which it was found
        row = self.layout.read(entry, None)
        if row is None:  # it is not to be understood, and will not be stored
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
        """For each shard, up to which number its records are rows."""
        ledger = AppliedBatch.objects.using(self.layout.using).filter(
            buffer=self.buffer.label, upto__isnull=False
        )
        return {
            _name(n): Subquery(ledger.filter(shard=n).order_by("-upto").values("upto")[:1])
            for n in range(len(self.buffer.shard_keys()))
        }


def _moment(layout: Layout, time: str, at: datetime | None) -> datetime | None:
    """A bound as values of the field are: in UTC, or naive without USE_TZ."""
    if at is None:
        return None
    field: Any = layout.model._meta.get_field(time)
    c = column(field, layout.using)
    value: datetime = c.decode(encoded(c, at))
    return value


def _name(shard: int) -> str:
    """What the annotation is called; no field of a model begins so."""
    return f"writebehind_upto_{shard}"
