"""Find the rows that hold a unique value which an entry wants.

A pending write to such a row may free the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from django.db import models

from writebehind_app.database.fences import of_rows
from writebehind_app.database.lookup import all_rows, rows_by_id
from writebehind_app.database.parents import (
    Row,
    RowPending,
    unique_sets,
    waiting_rows,
)
from writebehind_app.declaration import Declaration, KeyedDeclaration
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fold import fold

_CHUNK = 100  # rows to look for in one statement
_MOST = 1000  # refused entries to look into; if there are more, freed values are not the cause


class HolderPending(RowPending):
    """A unique value may become free once another row is written."""


class LaterPending(RowPending):
    """A row was written again after its batch was claimed."""


def check_later(
    buffer: Declaration, entries: Sequence[Entry], rows: Set[Row], joined: Set[Row]
) -> None:
    """Raise `LaterPending` if rows of refused entries were written again since their batch was
    claimed: the later write may be what the database takes."""
    if entries and isinstance(buffer, KeyedDeclaration):
        own = [(buffer, buffer.entry_id(entry.id)) for entry in entries[:_MOST]]
        for of, waiting in waiting_rows(own, rows, joined):
            raise LaterPending(of, waiting)


def check_holders(
    buffer: Declaration, entries: Sequence[Entry], rows: Set[Row], joined: Set[Row]
) -> None:
    """Raise `HolderPending` if pending writes to other rows may free the values of these entries.

    The entries were refused because another row has their unique values. See `waiting_rows` for the
    other arguments.
    """
    if not entries or not isinstance(buffer, KeyedDeclaration):  # a log's rows never change
        return
    layout = buffer.layout()
    holders = _holders(buffer, entries[:_MOST])
    found = {(buffer, buffer.entry_id(layout.id_of(row))) for row in holders}
    for of, waiting in waiting_rows(found, rows, joined):
        raise HolderPending(of, waiting)


def _holders(buffer: Declaration, entries: Sequence[Entry]) -> Iterator[models.Model]:
    """The stored rows that have a unique value of one of these entries."""
    layout = buffer.layout()
    wanted = [values for _, values in _wanted(buffer, entries)]
    for fields in unique_sets(layout.model):
        names = [field.attname for field in fields]
        for start in range(0, len(wanted), _CHUNK):
            either = models.Q()
            for values in wanted[start : start + _CHUNK]:
                if all(values.get(name) is not None for name in names):
                    either |= models.Q(**{name: values[name] for name in names})
            if either:
                yield from all_rows(layout).filter(either)


def without_holder(buffer: Declaration, entries: Sequence[Entry]) -> list[Entry]:
    """Those of a few entries whose unique values no other row has by now."""
    if not entries or not isinstance(buffer, KeyedDeclaration):
        return []
    layout = buffer.layout()
    rows = {layout.id_of(row): row.__dict__ for row in _holders(buffer, entries)}
    names = [[field.attname for field in fields] for fields in unique_sets(layout.model)]

    def is_held(entry: Entry, values: Mapping[str, Any]) -> bool:
        return any(
            all(values.get(name) is not None and values[name] == row[name] for name in own)
            for id, row in rows.items()
            if id != entry.id
            for own in names
        )

    return [entry for entry, values in _wanted(buffer, entries) if not is_held(entry, values)]


def _wanted(
    buffer: Declaration, entries: Sequence[Entry]
) -> Iterator[tuple[Entry, Mapping[str, Any]]]:
    """The values of the rows after the entries, by attname.

    The database has refused what the fences leave of them. So this is what is folded: nobody knows
    whether the rest can be.
    """
    layout, ids = buffer.layout(), [entry.id for entry in entries]
    stored, fenced = rows_by_id(layout, ids), of_rows(buffer, ids)
    for entry in entries:
        found = stored.get(entry.id)
        row = None if found is None else found.__dict__
        folded = fold(layout, entry, row, fenced.get(entry.id))
        if folded.values is not None and folded.is_new:
            yield entry, layout.new_rows.to_insert(folded).__dict__
        elif folded.values is not None and row is not None:
            yield entry, {**row, **folded.values}
