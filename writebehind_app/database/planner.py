"""Entries become rows of the database: planned, and written in a few statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError

from writebehind_app.database import upsert
from writebehind_app.database.lookup import all_rows, locked_by_id
from writebehind_app.database.upsert import Change
from writebehind_app.fields.decoding import decoded_together
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fold import fold
from writebehind_app.fields.layout import Layout
from writebehind_app.steps import reach

Stored = Mapping[str, Mapping[str, Any]]
"""Rows by their ids; of each its values by attname."""


def write(layout: Layout, entries: Sequence[Entry], stored: Stored | None = None) -> int:
    """Write entries of rows, of which no two are of one row; says how many rows were written or
    deleted.

    `stored` are the rows as they are, where they have been read and locked already.
    """
    plan = make_plan(layout, entries, stored)
    if plan.delete:
        all_rows(layout).filter(pk__in=plan.delete).delete()
    reach("flush.deleted")
    upsert.update(layout, plan.change)
    reach("flush.updated")
    # Plainly: a row that someone else inserts in this moment ends the transaction. The next try
    # finds that row and changes only what was written.
    upsert.insert(layout, plan.insert)
    reach("flush.inserted")
    return len(plan.delete) + len(plan.change) + len(plan.insert)


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done to the rows of a batch."""

    delete: list[Any]  # primary keys of rows that go
    change: list[Change]  # rows that are there
    insert: list[Any]  # new rows


def make_plan(layout: Layout, entries: Sequence[Entry], stored: Stored | None = None) -> Plan:
    """Merge the entries into the stored rows, which stay locked until the transaction ends. Each
    record of a log is a new row."""
    decoded = decoded_together(layout, entries)
    delete, change, insert = [], [], []
    if not layout.key:
        for entry, values in zip(entries, decoded, strict=True):
            insert.append(layout.row_to_insert(fold(layout, entry, None, values=values)))
        return Plan([], [], insert)
    if stored is None:
        stored = locked(layout, entries)
    pk = layout.model._meta.pk.attname
    rows = [stored.get(entry.id) for entry in entries]
    found = [row[pk] for row in rows if row is not None]
    if len({*found}) < len(found):
        raise IntegrityError("Two of the keys name one row to the database: one after the other.")
    for entry, row, values in zip(entries, rows, decoded, strict=True):
        folded = fold(layout, entry, row, values=values)
        if folded.delete and row is not None:
            delete.append(row[pk])
        if folded.values is None:
            continue
        if folded.is_new:
            insert.append(layout.row_to_insert(folded))
        else:
            assert row is not None
            change.append(Change(row, layout.values_to_store(row, folded)))
    return Plan(delete, change, insert)


def locked(layout: Layout, entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """The rows that entries write, locked, with what has to be known of them: what operations work
    on, when the rows were written last, and what it takes to write them."""
    shapes = {frozenset(entry.names()) for entry in entries}
    operated = {name for entry in entries for name in entry.operations}
    fields = {layout.columns[name].field for name in operated} | {*layout.stamped}
    ids = [entry.id for entry in entries]
    return locked_by_id(layout, ids, fields | upsert.reads(layout, shapes))
