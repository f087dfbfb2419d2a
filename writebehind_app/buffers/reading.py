"""Read your writes: what the database has, with what Redis holds over it.

What is read by one id is a row, or all rows of an entity.

Redis and the database are read one after the other, and a flusher may move a write from one to
the other in between. A write must be seen once then, not twice and not at all:

- What is in flight counts only while its token is not in the ledger. The ledger is read before
  the rows and again after them, until both say the same.
- What is pending counts only if it is pending still after the rows were read. Rows of which that
  is not so are read again.
- Of what Redis holds, nothing counts that is older than a write which went around it.
- A copy that a flush left is all there is; see retained.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django.db import models

from writebehind_app.database import retained
from writebehind_app.database.fences import Fences
from writebehind_app.database.keyed import all_rows
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.limits import REFUSALS, shown
from writebehind_app.fields.versions import upgraded
from writebehind_app.models import AppliedBatch
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client
from writebehind_app.store.shard import Reading

if TYPE_CHECKING:
    from writebehind_app.buffers.coalescing import CoalescingBuffer
    from writebehind_app.buffers.row import RowBuffer


def rows(buffer: CoalescingBuffer, ids: Sequence[str]) -> dict[str, Any]:
    """What is there of those ids with all accepted writes, by id."""
    found: dict[str, Any] = {}
    retains = retained.seconds(buffer) > 0
    while ids:
        readings = _read(buffer, ids, copies=retains)
        if retains:
            kept = {id: r.copies[id] for id, r in readings.items() if id in r.copies}
            found |= retained.rows(buffer, kept)
            ids = [id for id in ids if id not in found]
        fences = _fences(buffer, readings)
        stored, applied = _stored(buffer, ids, readings)
        pending = [id for id in ids if id in readings[id].pending]
        still = _read(buffer, pending)
        again = []
        for id in ids:
            reading, row = readings[id], stored.get(id)
            if id in reading.in_flight and reading.token not in applied:
                row = _merged(buffer, reading.in_flight[id], row, fences)
            if id in reading.pending:
                entry = still[id].pending.get(id)
                if entry is None or entry.no != reading.pending[id].no:
                    again.append(id)
                    continue
                row = _merged(buffer, entry, row, fences)
            if row is not None:
                found[id] = row
        ids = again
    return found


def guarded(buffer: CoalescingBuffer, ids: Sequence[str]) -> dict[str, tuple[Any | None, str]]:
    """What there seems to be of each id, and a guard: a write with it is accepted only if it was
    so, and is still. Without such a write, `is_unchanged()` tells."""
    readings = _read(buffer, ids)
    fences = _fences(buffer, readings)
    stored, applied = _stored(buffer, ids, readings)
    found = {}
    for id in ids:
        reading, row = readings[id], stored.get(id)
        if id in reading.in_flight and reading.token not in applied:
            row = _merged(buffer, reading.in_flight[id], row, fences)
        if id in reading.pending:
            row = _merged(buffer, reading.pending[id], row, fences)
        found[id] = row, _guard(reading, id)
    return found


def _merged(buffer: CoalescingBuffer, entry: Entry, row: Any | None, fences: Fences) -> Any | None:
    try:
        current = upgraded(buffer, entry)
    except REFUSALS:  # it will not be stored
        return row
    return buffer.merged(current, row, fences.of)


def _row_ids(buffer: CoalescingBuffer, entry: Entry) -> Sequence[str]:
    try:
        return buffer.row_ids(upgraded(buffer, entry))
    except REFUSALS:  # it will not be stored
        return ()


def is_unchanged(buffer: CoalescingBuffer, id: str, guard: str) -> bool:
    return _guard(_read(buffer, [id])[id], id) == guard


def _guard(reading: Reading, id: str) -> str:
    """As scripts/write.lua has it: what is pending, or that nothing was claimed."""
    pending = reading.pending.get(id)
    return pending.head if pending else f"moves {reading.moves}"


def overlay(buffer: RowBuffer, queryset: models.QuerySet[Any]) -> list[Any]:
    """The rows of a queryset as they are with all accepted writes."""
    layout = buffer.layout()
    before = store.read(client(), {key: [] for key in buffer.shard_keys()})
    stored = _with_keys(layout, matching(buffer, queryset))
    ids = [layout.id_of(row) for row in stored]  # the same twice where a join repeats a row
    after = _read(buffer, dict.fromkeys(ids))
    # A shard that moved a batch while the queryset ran may have brought values to the database
    # that the queryset missed and Redis holds no more.
    changed = {
        id
        for id, reading in after.items()
        if id in reading.pending
        or id in reading.in_flight
        or reading.moves != before[buffer.shard_key_of(id)].moves
    }
    return renewed(buffer, stored, changed, lambda ids: rows(buffer, ids))


def renewed(
    buffer: RowBuffer,
    stored: list[Any],
    changed: Collection[str],
    read: Callable[[Sequence[str]], dict[str, Any]],
) -> list[Any]:
    """The rows of a queryset, those of the changed ids as they are read anew."""
    stored = _with_keys(buffer.layout(), stored)
    ids = [buffer.layout().id_of(row) for row in stored]
    fresh = read([id for id in dict.fromkeys(ids) if id in changed])
    gone = {id for id in changed if id not in fresh}
    for id, row in zip(ids, stored, strict=True):
        if id in fresh:
            for field in row._meta.concrete_fields:
                if field.attname in row.__dict__:
                    setattr(row, field.attname, getattr(fresh[id], field.attname))
    return [row for id, row in zip(ids, stored, strict=True) if id not in gone]


def matching(buffer: RowBuffer, queryset: models.QuerySet[Any]) -> list[Any]:
    """The rows of a queryset as they are stored."""
    if not isinstance(queryset, models.QuerySet):
        raise TypeError(f"{buffer}: overlay() takes a queryset, not {shown(queryset)}.")
    if not issubclass(queryset.model, buffer.model):
        raise TypeError(
            f"{buffer} overlays rows of {buffer.label}, not of {queryset.model._meta.label}."
        )
    stored = list(queryset.all())  # not those that it may have read before
    if stored and not isinstance(stored[0], models.Model):
        raise TypeError("overlay() needs instances: a queryset without values() or values_list().")
    return stored


def _with_keys(layout: Layout, rows: list[Any]) -> list[Any]:
    """The rows with the fields of the key, which a queryset may have deferred: all by one query."""
    if all(c.attname in row.__dict__ for row in rows for c in layout.key):
        return rows
    keys = all_rows(layout).only(*(c.name for c in layout.key)).in_bulk([row.pk for row in rows])
    rows = [row for row in rows if row.pk in keys]
    for row in rows:
        for c in layout.key:
            setattr(row, c.attname, getattr(keys[row.pk], c.attname))
    return rows


def _read(
    buffer: CoalescingBuffer, ids: Iterable[str], *, copies: bool = False
) -> dict[str, Reading]:
    """What Redis holds for each id."""
    by_shard: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        by_shard[buffer.shard_key_of(id)].append(id)
    readings = store.read(client(), by_shard, copies=copies) if by_shard else {}
    return {id: readings[key] for key, ids in by_shard.items() for id in ids}


def _fences(buffer: CoalescingBuffer, readings: dict[str, Reading]) -> Fences:
    """The fences of the rows of which Redis holds something. To be read before the rows: then what
    is missing among the fences, and not among the rows, is as new as what Redis holds."""
    return Fences(
        buffer,
        [
            row_id
            for id, reading in readings.items()
            for entries in (reading.pending, reading.in_flight)
            if id in entries
            for row_id in _row_ids(buffer, entries[id])
        ],
    )


def _stored(
    buffer: CoalescingBuffer, ids: Sequence[str], readings: dict[str, Reading]
) -> tuple[dict[str, Any], set[str]]:
    """What is there as the database has it, and which batches in flight are in them already."""
    tokens = {readings[id].token for id in ids if id in readings[id].in_flight}
    if not tokens:
        return buffer.stored(ids), set()
    ledger = AppliedBatch.objects.using(buffer.layout().using).filter(
        token__in=tokens, duration__isnull=False
    )

    def applied() -> set[str]:
        return set(ledger.values_list("token", flat=True))

    before = applied()
    while True:
        stored = buffer.stored(ids)
        after = applied()
        if before == after:
            return stored, before
        before = after
