"""Read your writes: what the database has, with what Redis holds over it.

An id names a row, or all rows of an entity.

Redis is asked first, then the database, in one statement each. A flusher may move a write from one
to the other in between. Each write must still be seen exactly once:

- What is in flight counts only while its token is not in the ledger.
- If a later batch of the shard is in the ledger, it may have what was pending, or what was in
  flight under another token. Then Redis is asked again, and what has changed is read anew.
- What is older than a write that went around Redis does not count.

The statement says all of that as of one moment; see database/snapshot.py.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import models, router

from writebehind_app.database import divided
from writebehind_app.database.bases import fenced_rows, is_own, may_be_read, text_of
from writebehind_app.database.fences import no_fence
from writebehind_app.database.lookup import all_rows
from writebehind_app.database.snapshot import Asked, Seen, snapshot
from writebehind_app.database.transactions import shows_what_is_committed
from writebehind_app.declaration import Bases
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.limits import REFUSALS, excerpt
from writebehind_app.fields.versions import upgraded
from writebehind_app.store import divisions, reads
from writebehind_app.store.bases import fill, new_lease
from writebehind_app.store.codec import entry as entry_of_reply
from writebehind_app.store.connection import client
from writebehind_app.store.keys import parts_of
from writebehind_app.store.reads import Reading

if TYPE_CHECKING:
    from writebehind_app.buffers.coalescing import CoalescingBuffer
    from writebehind_app.buffers.plan import Plan
    from writebehind_app.buffers.row import RowBuffer

logger = logging.getLogger("writebehind")

_TRIES = 2  # more, if the database shows less than Redis knows to be stored


def row(buffer: CoalescingBuffer, plan: Plan, id: str) -> Any | None:
    """Return what an id has with all accepted writes. No transaction may be open."""
    bases, shard = plan.bases, plan.shard_of(id)
    lease = new_lease() if bases else ""
    reply = reads.read_one(client(), shard, id, bases.terms if bases else None, lease)
    _, _, _, acked, _, closed, pending, in_flight, base = reply
    if closed and divisions.are_moved(client(), {shard: closed}):
        return _rows(buffer, [id], _read(buffer, [id])).get(id)
    _acked[shard] = acked
    if bases and base and base != lease and (known := bases.format.rows(base)) is not None:
        number, stored = known[0], buffer.gathered(known[1])
        for flat in (in_flight, pending):
            if flat and (entry := entry_of_reply(id, flat)):
                if not entry.since > number:
                    break
                stored = _merged(buffer, entry, stored, no_fence)
        else:
            return stored
    reading = reads.reading_of(shard, [id], reply)
    seen = _ask_database(buffer, {id: reading}, lease)[id]
    if seen.is_overtaken or seen.is_too_old:
        return _rows(buffer, [id], {id: reading}, bases, lease).get(id)
    if bases and base == lease:
        _fill(buffer, bases, lease, {id: reading}, {id: seen})
    return _value(buffer, id, reading, seen)


def rows(buffer: CoalescingBuffer, ids: Sequence[str]) -> dict[str, Any]:
    """Return what these ids have with all accepted writes, by id."""
    bases, using = buffer.bases(), buffer.layout().using
    if bases is None or not may_be_read(using):
        return _rows(buffer, ids, _read(buffer, ids))
    lease = new_lease() if shows_what_is_committed(using) else ""
    readings = _read(buffer, ids, bases=bases.terms, lease=lease)
    found: dict[str, Any] = {}
    missed: dict[str, Reading] = {}
    for id, reading in readings.items():
        base = reading.bases[id]
        known = bases.format.rows(base) if base and base != lease else None
        if known is None or _began(id, reading) <= known[0]:
            missed[id] = reading
        else:
            row = _value(buffer, id, reading, Seen(buffer.gathered(known[1]), no_fence))
            if row is not None:
                found[id] = row
    if missed:
        found |= _rows(buffer, [*missed], missed, bases, lease)
    return found


def _began(id: str, reading: Reading) -> float:
    """Return the number of the first write that is pending or in flight."""
    entries = (of[id] for of in (reading.pending, reading.in_flight) if id in of)
    return min((entry.since for entry in entries), default=math.inf)


def _rows(
    buffer: CoalescingBuffer,
    ids: Sequence[str],
    readings: dict[str, Reading],
    bases: Bases | None = None,
    lease: str = "",
) -> dict[str, Any]:
    """Do the same for ids whose readings are known. Those that have the lease get a base."""
    found: dict[str, Any] = {}
    # The snapshot of a transaction gets no younger.
    tries = _TRIES if shows_what_is_committed(buffer.layout().using) else 0
    while ids:
        seen = _ask_database(buffer, readings, lease)
        again = _moved(buffer, readings, seen)
        if old := [id for id in ids if seen[id].is_too_old]:
            if tries:
                again |= {*old}
                tries -= 1
            else:
                _tell_of_age(buffer)
        if bases is not None and lease:
            _fill(buffer, bases, lease, {id: readings[id] for id in ids if id not in again}, seen)
        for id in ids:
            if id not in again:
                row = _value(buffer, id, readings[id], seen[id])
                if row is not None:
                    found[id] = row
        ids = [id for id in ids if id in again]
        readings = _read(buffer, ids)
    return found


def _fill(
    buffer: CoalescingBuffer,
    bases: Bases,
    lease: str,
    readings: Mapping[str, Reading],
    seen: Mapping[str, Seen],
) -> None:
    """Make bases of what was seen, for ids that have the lease."""
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    for id, reading in readings.items():
        if reading.bases.get(id) == lease and not seen[id].is_too_old:
            text = text_of(buffer, bases, id, seen[id], _fenced_rows(buffer, id, reading))
            if text is not None:
                texts[reading.shard][id] = text
    if texts:
        with suppress(BufferUnavailable):
            fill(client(), bases.terms, lease, texts)


def _fenced_rows(buffer: CoalescingBuffer, id: str, reading: Reading) -> set[str]:
    entries = [of[id] for of in (reading.pending, reading.in_flight) if id in of]
    return fenced_rows(buffer, id, entries)


class Guarded(NamedTuple):
    """What an id seems to have."""

    row: Any | None
    guard: str  # a write with it is taken only if this was so, and still is
    is_moving: bool  # a flusher, or a save, may be changing the row


def guarded(buffer: CoalescingBuffer, ids: Sequence[str]) -> dict[str, Guarded]:
    """Return what each id seems to have. If no write follows, `is_unchanged()` says whether it was
    so."""
    readings, using = _read(buffer, ids, guarded=True), buffer.layout().using
    found = {}
    for id, seen in _ask_database(buffer, readings).items():
        reading = readings[id]
        is_moving = (id in reading.in_flight and not seen.is_applied) or not all(
            is_own(using, token) for token in reading.marks[id]
        )
        row = _value(buffer, id, reading, seen)
        found[id] = Guarded(row, reading.guards[id], is_moving)
    return found


def _ask_database(
    buffer: CoalescingBuffer, readings: Mapping[str, Reading], lease: str = ""
) -> dict[str, Seen]:
    """Return what the database has of ids whose readings are known."""
    is_old = not shows_what_is_committed(buffer.layout().using)
    asked = {id: _asked(buffer, id, reading, is_old, lease) for id, reading in readings.items()}
    return snapshot(buffer, asked)


def _asked(buffer: CoalescingBuffer, id: str, reading: Reading, is_old: bool, lease: str) -> Asked:
    entries = id in reading.pending or id in reading.in_flight
    fills = bool(lease) and reading.bases.get(id) == lease
    if not (entries or fills):
        return Asked(acked=reading.acked) if is_old else _NOTHING
    row_ids = _fenced_rows(buffer, id, reading)
    if not entries:
        return Asked(reading.acked, row_ids=frozenset(row_ids))
    token = reading.token if id in reading.in_flight else ""
    shard = parts_of(reading.shard)[2]
    return Asked(reading.acked, token, shard, reading.batch, frozenset(row_ids))


_NOTHING = Asked()


def _value(buffer: CoalescingBuffer, id: str, reading: Reading, seen: Seen) -> Any | None:
    row = seen.stored
    if id in reading.in_flight and not seen.is_applied:
        row = _merged(buffer, reading.in_flight[id], row, seen.fence_of)
    if id in reading.pending:
        row = _merged(buffer, reading.pending[id], row, seen.fence_of)
    return row


def _moved(
    buffer: CoalescingBuffer, readings: Mapping[str, Reading], seen: Mapping[str, Seen]
) -> set[str]:
    """Return the ids of which Redis no longer holds what it held, if a later batch may have stored
    that."""
    doubtful = [id for id, reading in readings.items() if seen[id].is_overtaken]
    now = _read(buffer, doubtful)
    return {id for id in doubtful if _state_of(id, now[id]) != _state_of(id, readings[id])}


def _state_of(id: str, reading: Reading) -> tuple[int, str]:
    """Return what changes with a claim of the id, or a revoke of its batch."""
    entry = reading.pending.get(id)
    return entry.since if entry else 0, reading.token if id in reading.in_flight else ""


_told: dict[str, float] = {}  # by the buffer, when this was last logged, by time.monotonic()
_SILENCE = 60  # seconds until it is logged again


def _tell_of_age(buffer: CoalescingBuffer) -> None:
    now = time.monotonic()
    if now - _told.get(buffer.label, -_SILENCE) >= _SILENCE:
        _told[buffer.label] = now
        logger.warning(
            "%s: a read may miss stored values: its transaction began before they were stored, or "
            "its database is a replica that lags behind",
            buffer,
        )


def _merged(
    buffer: CoalescingBuffer,
    entry: Entry,
    row: Any | None,
    fence_of: Callable[[str], Fence | None],
) -> Any | None:
    try:
        current = upgraded(buffer, entry)
    except REFUSALS:  # it will not be stored
        return row
    return buffer.merged(current, row, fence_of)


def is_unchanged(buffer: CoalescingBuffer, id: str, guard: str) -> bool:
    return _read(buffer, [id], guarded=True)[id].guards[id] == guard


def database_of(buffer: CoalescingBuffer, queryset: models.QuerySet[Any]) -> str:
    """Return the database that the rows of a queryset are written to. The queryset may read them
    from a replica."""
    inside: Any = queryset  # the stubs do not know these attributes
    if inside._db is None:  # the caller named no database
        return router.db_for_write(buffer.model, **inside._hints)
    return inside._db if inside._db in buffer.databases() else buffer.using()


def overlay(buffer: RowBuffer, queryset: models.QuerySet[Any]) -> list[Any]:
    """Return the rows of a queryset with all accepted writes."""
    layout = buffer.layout()
    known = {key: _acked.get(key, "") for key in buffer.shard_keys()}
    stored = with_keys(layout, matching(queryset))
    ids = [layout.id_of(row) for row in stored]  # the same twice where a join repeats a row
    after = _read(buffer, dict.fromkeys(ids))
    # If a batch stored something while the queryset ran, the queryset may have missed it, and Redis
    # no longer holds it.
    changed = {
        id: reading
        for id, reading in after.items()
        if id in reading.pending
        or id in reading.in_flight
        or reading.acked != known.get(reading.shard)
    }
    return reread(buffer, stored, changed, lambda ids: _rows(buffer, ids, changed))


def reread(
    buffer: CoalescingBuffer,
    stored: list[Any],
    changed: Collection[str],
    read: Callable[[Sequence[str]], dict[str, Any]],
) -> list[Any]:
    """Return the rows of a queryset, with those of the changed ids read anew."""
    stored = with_keys(buffer.layout(), stored)
    ids = [buffer.layout().id_of(row) for row in stored]
    fresh = read([id for id in dict.fromkeys(ids) if id in changed])
    gone = {id for id in changed if id not in fresh}
    for id, row in zip(ids, stored, strict=True):
        if id in fresh:
            for field in row._meta.concrete_fields:
                if field.attname in row.__dict__:
                    setattr(row, field.attname, getattr(fresh[id], field.attname))
    return [row for id, row in zip(ids, stored, strict=True) if id not in gone]


def matching(queryset: models.QuerySet[Any]) -> list[Any]:
    """Return the rows of a queryset as they are stored."""
    stored = list(queryset.all())  # not those that it may have read before
    if stored and not isinstance(stored[0], models.Model):
        raise TypeError("overlay() needs instances: a queryset without values() or values_list().")
    return stored


def check_queryset(buffer: RowBuffer, queryset: models.QuerySet[Any]) -> None:
    """Raise `TypeError` if these are not rows of the buffer."""
    if not isinstance(queryset, models.QuerySet):
        raise TypeError(f"{buffer}: overlay() takes a queryset, not {excerpt(queryset)}.")
    if not issubclass(queryset.model, buffer.model):
        raise TypeError(
            f"{buffer} overlays rows of {buffer.label}, not of {queryset.model._meta.label}."
        )


def with_keys(layout: Layout, rows: list[Any]) -> list[Any]:
    """Return the rows with the fields of the key. Those that were deferred take one query."""
    if all(c.attname in row.__dict__ for row in rows for c in layout.key):
        return rows
    keys = all_rows(layout).only(*(c.name for c in layout.key)).in_bulk([row.pk for row in rows])
    rows = [row for row in rows if row.pk in keys]
    for row in rows:
        for c in layout.key:
            setattr(row, c.attname, getattr(keys[row.pk], c.attname))
    return rows


_acked: dict[str, str] = {}  # by shard, the last acknowledged token that is known


def _read(
    buffer: CoalescingBuffer, ids: Iterable[str], *, guarded: bool = False, **bases: Any
) -> dict[str, Reading]:
    """Return what Redis holds for each id; `bases` as for `reads.read()`."""
    readings = divided.read(buffer, ids, guarded=guarded, **bases)
    for reading in readings.values():
        _acked[reading.shard] = reading.acked
    return readings
