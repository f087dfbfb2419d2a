"""Entries that refer to rows by foreign keys: whether those are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from django.db import IntegrityError, models

from writebehind_app import registry
from writebehind_app.declaration import Declaration, KeyedDeclaration
from writebehind_app.fields.columns import Column
from writebehind_app.fields.entry import DIGITS, Entry
from writebehind_app.fields.layout import Layout
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

_CHUNK = 2000


class ParentPending(Exception):
    """An entry refers to a row that is pending in another buffer."""

    def __init__(self, parent: Declaration, ids: Sequence[str]) -> None:
        super().__init__(f"{parent.label} ({', '.join(ids[:5])}) is not in the database yet.")
        self.parent = parent
        self.ids = ids


def without_parent(layout: Layout, entries: Sequence[Entry]) -> list[tuple[Entry, Exception]]:
    """The entries that refer to a row which is not there, and an error for each.

    Some databases say so only at the commit, and then not which. `ParentPending` where such a row
    is not there yet, but pending.
    """
    refused: dict[int, tuple[Entry, Exception]] = {}
    for column in (*layout.key, *layout.columns.values()):
        field: Any = column.field
        if not (isinstance(column.field, models.ForeignKey) and field.db_constraint):
            continue
        children = defaultdict(list)
        for entry in entries:
            value = _reference(layout, column, entry)
            if value is not None:
                children[value].append(entry)
        missing = children.keys() - _present(layout, field, list(children))
        _check_pending(layout, field, missing)
        for value in missing:
            error = IntegrityError(
                f"{field.name}: there is no {field.related_model._meta.label} {value!r}."
            )
            refused |= {id(entry): (entry, error) for entry in children[value]}
    return list(refused.values())


def _reference(layout: Layout, column: Column, entry: Entry) -> Any:
    """The value of a foreign key in an entry, None where it has none."""
    if not entry.exists:
        return None
    if column in layout.key:
        return layout.key_of(entry.id)[column.attname]
    value = entry.values.get(column.name)
    return None if value is None else column.decode(value[DIGITS:])


def _present(layout: Layout, field: Any, values: Sequence[Any]) -> set[Any]:
    target = field.target_field.attname
    rows: models.QuerySet[Any] = models.QuerySet(field.related_model, using=layout.using)
    found: set[Any] = set()
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        found |= set(rows.filter(**{f"{target}__in": chunk}).values_list(target, flat=True))
    return found


def _check_pending(layout: Layout, field: Any, values: set[Any]) -> None:
    """Raise `ParentPending` if one of the missing rows waits in a buffer of its own."""
    parent = _buffer_of(field)
    if not values or parent is None or parent.model is layout.model:
        return
    encode = parent.key_layout().key[0].encode
    by_shard = defaultdict(list)
    for value in values:
        by_shard[parent.shard_key_of(encode(value))].append(encode(value))
    waiting = [
        id
        for reading in store.read(client(patient=True), by_shard).values()
        for entries in (reading.pending, reading.in_flight)
        for id, entry in entries.items()
        if entry.exists
    ]
    if waiting:
        raise ParentPending(parent, waiting)


def _buffer_of(field: Any) -> KeyedDeclaration | None:
    """The buffer of the rows that a foreign key points to, if their key is what it has of them."""
    buffer = registry.buffers().get(field.related_model._meta.label)
    if not isinstance(buffer, KeyedDeclaration):
        return None
    key = [column.field for column in buffer.key_layout().key]
    return buffer if key == [field.target_field] else None


def parents_first(buffers: Sequence[Declaration]) -> list[Declaration]:
    """The buffers, each after those whose rows its own refer to."""
    by_model = {buffer.model: buffer for buffer in buffers}
    ordered: list[Declaration] = []
    seen: set[Declaration] = set()

    def visit(buffer: Declaration) -> None:
        if buffer not in seen:
            seen.add(buffer)
            for field in buffer.model._meta.concrete_fields:
                if field.related_model in by_model:
                    visit(by_model[field.related_model])
            ordered.append(buffer)

    for buffer in buffers:
        visit(buffer)
    return ordered
