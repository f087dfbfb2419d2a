"""Check that the rows exist to which entries refer by foreign keys."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import cache
from typing import Any, NamedTuple

from django.db import IntegrityError, connections, models

from writebehind_app import registry
from writebehind_app.database import divided
from writebehind_app.declaration import Declaration, KeyedDeclaration
from writebehind_app.exceptions import WritebehindError
from writebehind_app.fields.columns import Column
from writebehind_app.fields.entry import DIGITS, Entry
from writebehind_app.fields.layout import Layout

_CHUNK = 2000


class RowPending(WritebehindError):
    """An entry needs other rows, and these are pending in other batches."""

    def __init__(self, buffer: KeyedDeclaration, ids: Sequence[str]) -> None:
        super().__init__(f"{buffer.label} ({', '.join(ids[:5])}) is not in the database yet.")
        self.buffer = buffer
        self.ids = ids


class ParentPending(RowPending):
    """An entry refers to a row that is pending in another batch."""


class Orphan(NamedTuple):
    """An entry that refers to a missing row."""

    entry: Entry
    column: Column  # the foreign key
    value: Any  # of the foreign key
    error: Exception
    parent: Parent | None


Parent = tuple[KeyedDeclaration, str]
"""A row by its buffer, and its id there."""

Row = tuple[Declaration, str]
"""A row by its buffer, and its id as `row_of` writes it."""


def without_parent(layout: Layout, entries: Sequence[Entry]) -> list[Orphan]:
    """The entries that refer to a missing row, each once.

    Some databases notice a missing row only at the commit, and do not say which entry is wrong.
    """
    return [*{id(orphan.entry): orphan for orphan in missing_parents(layout, entries)}.values()]


def missing_parents(layout: Layout, entries: Sequence[Entry]) -> Iterator[Orphan]:
    """The references to missing rows."""
    for column in (*layout.key, *layout.columns.values()):
        field: Any = column.field
        if not (isinstance(column.field, models.ForeignKey) and field.db_constraint):
            continue
        children = defaultdict(list)
        for entry in entries:
            value = _reference(layout, column, entry)
            if value is not None:
                children[value].append(entry)
        buffer = _buffer_of(field, layout.using)
        for value in children.keys() - _present(layout, field, list(children)):
            error = IntegrityError(
                f"{field.name}: there is no {field.related_model._meta.label} {value!r}."
            )
            parent = (buffer, buffer.key_layout().key[0].encode(value)) if buffer else None
            for entry in children[value]:
                yield Orphan(entry, column, value, error, parent)


def _reference(layout: Layout, column: Column, entry: Entry) -> Any:
    """The value of a foreign key in an entry, or None."""
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
        stored = set(rows.filter(**{f"{target}__in": chunk}).values_list(target, flat=True))
        found |= stored
        if not stored <= {*chunk}:  # the database treats different texts as equal keys
            left = (value for value in chunk if value not in stored)
            found |= {value for value in left if rows.filter(**{target: value}).exists()}
    return found


def row_of(buffer: Declaration, id: str) -> Row:
    """A row, to compare with others. MariaDB and MySQL ignore case and accents in keys."""
    if connections[buffer.using()].vendor == "mysql":
        letters = unicodedata.normalize("NFKD", id.casefold())
        id = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return buffer, id


def check_parents(parents: Iterable[Parent], rows: Set[Row], joined: Set[Row]) -> None:
    """Raise `ParentPending` if one of the parents is pending in its buffer.

    It may be pending because it was deleted after its child was written: then the child goes, too.
    See `waiting_rows` for the other arguments.
    """
    for buffer, waiting in waiting_rows(parents, rows, joined):
        raise ParentPending(buffer, waiting)


def waiting_rows(
    wanted: Iterable[Parent],
    rows: Set[Row],
    joined: Set[Row],
) -> Iterator[tuple[KeyedDeclaration, list[str]]]:
    """The wanted rows with an entry in Redis.

    The entries of `rows` are being written already: for these, only what was written after their
    claim counts. Rows that are also in `joined` are left out: they were claimed often enough.
    """
    ids: dict[KeyedDeclaration, set[str]] = defaultdict(set)
    for buffer, id in wanted:
        if (row := row_of(buffer, id)) not in rows or row not in joined:
            ids[buffer].add(id)
    for buffer, its in ids.items():
        readings = divided.read(buffer, its, patient=True)
        waiting = [
            id
            for id, reading in readings.items()
            for is_claimed, entries in ((False, reading.pending), (True, reading.in_flight))
            if id in entries and not (is_claimed and row_of(buffer, id) in rows)
        ]
        if waiting:
            yield buffer, waiting


def _buffer_of(field: Any, using: str) -> KeyedDeclaration | None:
    """The buffer of the rows that a foreign key points to; None if its key is another field, or its
    rows are in another database."""
    model = field.related_model._meta.concrete_model
    buffer = registry.buffers().get(model._meta.label)
    if not isinstance(buffer, KeyedDeclaration) or buffer.using() != using:
        return None
    key = [column.field for column in buffer.key_layout().key]
    return buffer if key == [field.target_field] else None


def parents_of(buffer: Declaration) -> list[Declaration]:
    """The buffers to which rows of this buffer may refer, perhaps itself."""
    every = registry.buffers().values()
    return _next_to(buffer, (other for other in every if refers_to(buffer.model, other.model)))


def children_of(buffer: Declaration) -> list[Declaration]:
    """The buffers whose rows may refer to rows of this buffer, perhaps itself."""
    every = registry.buffers().values()
    return _next_to(buffer, (other for other in every if refers_to(other.model, buffer.model)))


def _next_to(buffer: Declaration, others: Iterable[Declaration]) -> list[Declaration]:
    """The buffers whose rows are in the database of this one: one transaction can have both."""
    using = buffer.using()
    return [other for other in others if other.using() == using]


def refers_to(model: type[models.Model], parent: type[models.Model]) -> bool:
    """Whether rows of a model refer to rows of another one, directly or through others."""
    return parent._meta.concrete_model in _referred(model)


@cache
def _referred(model: type[models.Model]) -> set[type[models.Model]]:
    found: set[type[models.Model]] = set()
    left = [model]
    while left:
        for field in left.pop()._meta.concrete_fields:
            related: Any = field.related_model
            if related and related._meta.concrete_model not in found:
                found.add(related._meta.concrete_model)
                left.append(related._meta.concrete_model)
    return found


@cache
def unique_sets(model: type[models.Model]) -> frozenset[frozenset[models.Field[Any, Any]]]:
    """The sets of fields in which no two rows of a model may be equal.

    For a constraint on expressions, this is the set of all fields.
    """
    meta = model._meta
    found: set[frozenset[Any]] = {frozenset([f]) for f in meta.concrete_fields if f.unique}
    found |= {frozenset(map(meta.get_field, names)) for names in meta.unique_together}
    for constraint in meta.constraints:
        if isinstance(constraint, models.UniqueConstraint):
            fields = map(meta.get_field, constraint.fields)
            found.add(frozenset(meta.concrete_fields if constraint.expressions else fields))
    return frozenset(found)


@cache
def unique_fields(model: type[models.Model]) -> frozenset[models.Field[Any, Any]]:
    """The fields in any of the `unique_sets`."""
    return frozenset().union(*unique_sets(model))


def parents_first(buffers: Sequence[Declaration]) -> list[Declaration]:
    """The buffers in order: each comes after those to which its rows refer."""
    by_model = {buffer.model: buffer for buffer in buffers}
    ordered: list[Declaration] = []
    seen: set[Declaration] = set()

    def visit(buffer: Declaration) -> None:
        if buffer not in seen:
            seen.add(buffer)
            for field in buffer.model._meta.concrete_fields:
                related: Any = field.related_model
                if related and related._meta.concrete_model in by_model:
                    visit(by_model[related._meta.concrete_model])
            ordered.append(buffer)

    for buffer in buffers:
        visit(buffer)
    return ordered
