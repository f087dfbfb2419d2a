"""Plan the rows of a batch, and write them in a few statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import IntegrityError, models
from django.db.models.deletion import Collector

from writebehind_app.checkpoints import reach
from writebehind_app.database import fences, upsert
from writebehind_app.database.arrays import Change
from writebehind_app.database.lookup import all_rows, locked_by_id
from writebehind_app.declaration import Declaration
from writebehind_app.fields.decoding import decoded_together
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.fold import fold
from writebehind_app.fields.layout import Layout

Stored = Mapping[str, Mapping[str, Any]]
"""Rows by id: the values of each, by attname."""


class Deleted(NamedTuple):
    """Rows that the package is deleting."""

    model: type[models.Model]
    pks: frozenset[Any]
    is_direct: bool  # nobody knows what is pending of the rows that go with them


_deletes: ContextVar[Deleted | None] = ContextVar("writebehind_deletes", default=None)


def being_deleted() -> Deleted | None:
    """The rows that the package is deleting now. None if code of the project deletes rows."""
    return _deletes.get()


def write_entries(
    layout: Layout,
    entries: Sequence[Entry],
    stored: Stored | None = None,
    *,
    is_direct: bool = False,
) -> int:
    """Write entries, at most one for each row; return how many rows were written or deleted.

    `stored` are the rows if they are read and locked already. `is_direct` says that the writes go
    around Redis.
    """
    plan = make_plan(layout, entries, stored)
    if plan.delete:
        delete(layout, plan.delete, is_direct=is_direct)
    reach("flush.deleted")
    upsert.update(layout, plan.change)
    reach("flush.updated")
    # A plain INSERT: if another process inserts the row at this moment, the transaction fails. The
    # next try finds that row and changes only the fields that were written.
    upsert.insert(layout, plan.insert)
    reach("flush.inserted")
    return len(plan.delete) + len(plan.change) + len(plan.insert)


def delete(layout: Layout, pks: Sequence[Any], *, is_direct: bool = False) -> None:
    """Delete rows for a write of the package. Its own signal handlers leave no fences for them; for
    rows that go with them, only if the write goes around Redis."""
    token = _deletes.set(Deleted(layout.model, frozenset(pks), is_direct))
    try:
        rows = all_rows(layout).filter(pk__in=pks)
        collector = _Locking(using=layout.using, origin=rows)
        collector.collect(rows)
        collector.delete()
    finally:
        _deletes.reset(token)


class _Locking(Collector):
    """Locks the rows that go with others. Otherwise a row would go, too, that somebody moves away
    from its parent between the SELECT that finds it and the DELETE."""

    def related_objects(self, *args: Any) -> models.QuerySet[Any]:
        found: models.QuerySet[Any] = super().related_objects(*args)
        return found.select_for_update()  # SQLite ignores it


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do to the rows of a batch."""

    delete: list[Any]  # primary keys of rows to delete
    change: list[Change]  # stored rows to update
    insert: list[Any]  # new rows


def make_plan(layout: Layout, entries: Sequence[Entry], stored: Stored | None = None) -> Plan:
    """Fold the entries onto the stored rows, which stay locked until the end of the transaction.
    Each record of a log is a new row."""
    decoded = decoded_together(layout, entries)
    delete, change, insert = [], [], []
    if not layout.key:
        for entry, values in zip(entries, decoded, strict=True):
            insert.append(layout.new_rows.to_insert(fold(layout, entry, None, values=values)))
        return Plan([], [], insert)
    if stored is None:
        stored = locked(layout, entries)
    pk = layout.model._meta.pk.attname
    rows = [stored.get(entry.id) for entry in entries]
    found = [row[pk] for row in rows if row is not None]
    if len({*found}) < len(found):
        raise IntegrityError("The database takes two of the keys for the same row.")
    for entry, row, values in zip(entries, rows, decoded, strict=True):
        folded = fold(layout, entry, row, values=values)
        if folded.delete and row is not None:
            delete.append(row[pk])
        if folded.values is None:
            continue
        if folded.is_new:
            insert.append(layout.new_rows.to_insert(folded))
        else:
            assert row is not None
            change.append(Change(row, layout.values_to_store(row, folded)))
    return Plan(delete, change, insert)


class Counting(NamedTuple):
    """What fences leave of entries, and their rows, locked."""

    entries: Sequence[Entry]
    stored: Stored | None = None  # None: no fence counts
    fenced: Mapping[str, Fence] = {}  # the fences of the rows, by row id

    def of(self, entries: Sequence[Entry]) -> Counting:
        """What is left of some of the entries."""
        if self.stored is None:
            return self._replace(entries=entries)
        ids = {entry.id for entry in entries}
        return self._replace(entries=[entry for entry in self.entries if entry.id in ids])


def what_counts(
    buffer: Declaration, entries: Sequence[Entry], before: Counting | None = None
) -> Counting:
    """What the fences leave of these entries, and their rows, locked.

    `before` is what counted of more entries a moment ago. The fences are read again only if a row
    was made since.
    """
    layout = buffer.layout()
    if not layout.key:
        return Counting(entries)
    stored = locked(layout, entries)
    if before is not None and before.stored is not None and stored.keys() <= before.stored.keys():
        return before.of(entries)._replace(stored=stored)
    known = {*stored}
    while True:
        fenced = fences.of_rows(buffer, [entry.id for entry in entries])
        left = fences.left_of_fenced(buffer, entries, fenced)
        if left is entries:
            break
        stored = locked(layout, left)  # what is left may need other fields of the rows
        if stored.keys() <= known:
            break
        known |= stored.keys()  # some were made meanwhile: from now on their fences are seen
    return Counting(left, stored, fenced)


def write_counting(buffer: Declaration, counting: Counting, new: dict[str, Fence | None]) -> int:
    """Write what counts; return how many rows were written or deleted.

    Rows that are not there yet are noted in `new`, with the fence that was seen first.
    """
    entries, stored, fenced = counting
    if stored is not None:
        for entry in entries:
            if entry.id not in stored:
                new.setdefault(entry.id, fenced.get(entry.id))
    return write_entries(buffer.layout(), entries, stored)


def locked(layout: Layout, entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Lock the rows of these entries, and read what the flush needs to know of them.

    These are the fields that operations change, the stamps (`auto_now`), and the fields that the
    statements need.
    """
    shapes = {frozenset(entry.names()) for entry in entries}
    operated = {name for entry in entries for name in entry.operations}
    fields = {layout.columns[name].field for name in operated} | {*layout.stamped}
    ids = [entry.id for entry in entries]
    return locked_by_id(layout, ids, fields | upsert.reads(layout, shapes))
