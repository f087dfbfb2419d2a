"""Entries become rows of the database: planned, and written in a few statements."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.db import IntegrityError, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.fields.files import FileField
from django.db.models.sql import InsertQuery
from django.db.models.sql.compiler import SQLInsertCompiler

from writebehind_app.database.keyed import all_rows, rows_by_id
from writebehind_app.fields.decoding import decoded_together
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fold import fold
from writebehind_app.fields.layout import Layout
from writebehind_app.steps import reach


def write(
    layout: Layout,
    entries: Sequence[Entry],
    stored: Mapping[str, Any] | None = None,
    *,
    over_new: bool = True,
) -> int:
    """Write entries of rows, of which no two are of one row; says how many rows were written or
    deleted.

    `stored` are the rows as they are, where they have been read and locked already. What says all
    of a row goes over one that somebody else makes in this moment, if `over_new`.
    """
    plan = make_plan(layout, entries, stored, over_new=over_new)
    if plan.delete:
        keys = [row.pk for row in plan.delete]
        all_rows(layout).filter(pk__in=keys).delete()
    reach("flush.deleted")
    _update(layout, plan)
    reach("flush.updated")
    _insert(layout, plan)
    reach("flush.inserted")
    return len(plan.delete) + len(plan.update) + len(plan.insert) + len(plan.upsert)


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done to the rows of a batch."""

    delete: list[Any]  # rows that go
    update: list[Any]  # rows that were there, as they become
    changed: dict[str, list[Any]]  # which of them change in a field
    insert: list[Any]  # new rows
    upsert: list[Any]  # rows whose entries say all there is to say: stored or not, they are this


def make_plan(
    layout: Layout,
    entries: Sequence[Entry],
    stored: Mapping[str, Any] | None = None,
    *,
    over_new: bool = True,
) -> Plan:
    """Merge the entries into the stored rows, which stay locked until the transaction ends. Each
    record of a log is a new row."""
    if not layout.key:
        given = zip(entries, decoded_together(layout, entries), strict=True)
        new = [layout.row_to_insert(fold(layout, entry, None, values=v)) for entry, v in given]
        return Plan([], [], {}, new, [])
    upsert, partial = [], []
    takes_whole_rows = over_new and _takes_whole_rows(layout)
    for entry, values in zip(entries, decoded_together(layout, entries), strict=True):
        if takes_whole_rows and _is_whole(layout, entry):
            upsert.append(layout.row_to_insert(fold(layout, entry, None, values=values)))
        else:
            partial.append((entry, values))
    ids = [entry.id for entry, _ in partial]
    if stored is None:
        stored = rows_by_id(layout, ids, lock=True)
    else:
        stored = {id: copy(stored[id]) for id in ids if id in stored}
    pk = layout.model._meta.pk.attname  # the property `pk` takes long
    if len({row.__dict__[pk] for row in stored.values()}) < len(stored):
        raise IntegrityError("Two of the keys name one row to the database: one after the other.")
    delete, insert, update = [], [], {}
    alike: dict[tuple[str, ...], list[Any]] = defaultdict(list)  # by the fields that change
    for entry, values in partial:
        row: Any = stored.get(entry.id)
        folded = fold(layout, entry, None if row is None else row.__dict__, values=values)
        if folded.delete and row is not None:
            delete.append(row)
        if folded.values is None:
            continue
        if folded.is_new:
            insert.append(layout.row_to_insert(folded))
        else:
            update[row.__dict__[pk]] = layout.changed_to_store(row, folded)
            alike[tuple(entry.names())].append(row)
    changed: dict[str, list[Any]] = defaultdict(list)
    for names, rows in alike.items():
        for name in names:
            changed[name] += rows
    return Plan(delete, list(update.values()), changed, insert, upsert)


def _is_whole(layout: Layout, entry: Entry) -> bool:
    """Whether nothing needs to be known of the stored row: the entry has each of its fields."""
    return (
        len(entry.values) == len(layout.columns)
        and not entry.operations
        and not entry.deleted
        and entry.exists
    )


@cache
def _takes_whole_rows(layout: Layout) -> bool:
    """Whether a row that has all buffered fields can be written by its key, stored or not."""
    meta = layout.model._meta
    key = {c.field for c in layout.key}
    given = {*key, *(c.field for c in layout.columns.values())}
    given |= {*layout.stamped, *layout.stamped_once}
    others = {field for field in meta.concrete_fields if not field.generated} - given - {meta.pk}
    # MariaDB updates by whichever unique key the new row meets. Only one may be there to meet.
    uniques = [{f} for f in meta.concrete_fields if f.unique and f is not meta.pk]
    groups = [*meta.unique_together, *(c.fields for c in meta.total_unique_constraints)]
    uniques += [{f for f in meta.concrete_fields if f.name in group} for group in groups]
    partial = len(meta.total_unique_constraints) < sum(
        isinstance(c, models.UniqueConstraint) for c in meta.constraints
    )
    # An upsert takes a number of the sequence even where it changes a row. There are enough of 64
    # bits, not of 32.
    pk = meta.pk
    numbers = (
        pk in key or isinstance(pk, models.BigAutoField) or not isinstance(pk, models.AutoField)
    )
    own = any(type(f).pre_save not in _PLAIN_PRE_SAVE for f in meta.concrete_fields)
    unique_else = partial or any(unique != key for unique in uniques)
    something = layout.columns or layout.stamped  # an upsert has to update something
    return bool(layout.insert and numbers and something) and not (others or own or unique_else)


def _update(layout: Layout, plan: Plan) -> None:
    """Write the changed rows: one statement for all fields that can be written back as they were
    read where a row did not change, as it is locked; one for each other field. The primary key is
    what rows are found by on each of the databases."""
    if not plan.update:
        return
    _call_pre_save(layout, plan.update, add=False)
    for field in layout.model._meta.concrete_fields:
        if isinstance(field, models.JSONField) and not field.null:
            for row in plan.update:
                if getattr(row, field.attname) is None:  # a null of JSON: it cannot be another
                    setattr(row, field.attname, models.Value(None, models.JSONField()))
    pk = layout.model._meta.pk
    assert pk is not None
    exact = [c.name for c in layout.columns.values() if c.exact and c.name in plan.changed]
    exact += [field.name for field in layout.stamped]
    if exact:
        _upsert(layout, plan.update, exact, [pk.name])
    for name, rows in plan.changed.items():
        if not layout.columns[name].exact:
            _upsert(layout, rows, [name], [pk.name])


def _insert(layout: Layout, plan: Plan) -> None:
    """Write the rows that were not read."""
    if plan.upsert:
        fields = [*layout.columns, *(field.name for field in layout.stamped)]
        _upsert(layout, plan.upsert, fields, [c.name for c in layout.key])
    if plan.insert:
        # Plainly: a row that someone else inserts in this moment has to end the transaction,
        # whose next try finds it and changes only what was written.
        _call_pre_save(layout, plan.insert, add=True)
        with _large_statements(connections[layout.using]):
            _AsGiven(layout.model, using=layout.using).bulk_create(plan.insert)


def _upsert(layout: Layout, rows: Sequence[Any], fields: list[str], unique: list[str]) -> None:
    connection = connections[layout.using]
    by_target = connection.features.supports_update_conflicts_with_target
    with _large_statements(connection):
        _AsGiven(layout.model, using=layout.using).bulk_create(
            rows,
            update_conflicts=True,
            update_fields=fields,
            unique_fields=unique if by_target else None,
        )


class _AsGiven(models.QuerySet[Any]):
    """Inserts what instances hold. Usually a pre_save() of each field comes in between, by which
    `auto_now` would say when the batch was flushed instead of when the row was written. Nothing
    is read back, as the instances are not used any more."""

    def _insert(
        self, objs: Any, fields: Any, returning_fields: Any = None, **conflicts: Any
    ) -> list[tuple[()]]:
        connection = connections[conflicts.pop("using")]
        query = InsertQuery(self.model, **conflicts)
        query.insert_values(fields, objs, raw=True)
        compiler = _compiler(connection)(query, connection, connection.alias)
        compiler.execute_sql()
        return [()] * len(objs)


@cache
def _compiler(connection: BaseDatabaseWrapper) -> type[SQLInsertCompiler]:
    """The compiler of the database, quick where all rows are alike.

    Django asks for the placeholder of each single value. PostgreSQL's compiler has a way around
    it of its own; the others spend a third of an insert on it.
    """
    plain: type[SQLInsertCompiler] = connection.ops.compiler("SQLInsertCompiler")  # type: ignore[assignment]
    if plain.assemble_as_sql is not SQLInsertCompiler.assemble_as_sql:
        return plain

    class Quick(plain):  # type: ignore[misc, valid-type]
        def assemble_as_sql(self, fields: Any, value_rows: Any) -> Any:
            if any(f is None or hasattr(f, "get_placeholder") for f in fields) or any(
                hasattr(value, "as_sql") for row in value_rows for value in row
            ):
                return super().assemble_as_sql(fields, value_rows)
            return [("%s",) * len(fields)] * len(value_rows), value_rows

    return Quick


_PLAIN_PRE_SAVE = {
    kind.pre_save
    for kind in (
        models.Field,
        models.DateField,
        models.DateTimeField,
        models.TimeField,
        FileField,
    )
}


def _call_pre_save(layout: Layout, rows: Sequence[models.Model], *, add: bool) -> None:
    """Let fields of the project's own set their value as save() would."""
    for field in layout.model._meta.concrete_fields:
        if type(field).pre_save not in _PLAIN_PRE_SAVE:
            for row in rows:
                setattr(row, field.attname, field.pre_save(row, add))


@contextmanager
def _large_statements(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Lets SQLite take as many parameters as it can, where Django assumes the least."""
    if connection.vendor != "sqlite":
        yield
        return
    connection.ensure_connection()
    most = connection.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    features: Any = connection.features
    least = features.max_query_params
    if least >= most:  # from Django 6.1 on it asks SQLite itself, and cannot be set
        yield
        return
    features.max_query_params = most
    try:
        yield
    finally:
        features.max_query_params = least
