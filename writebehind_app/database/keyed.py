"""Rows of the database by their ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.expressions import Col, Expression
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.where import AND

from writebehind_app.fields.columns import Column
from writebehind_app.fields.layout import Layout

_CHUNK = 2000  # keys in one statement: below what any of the databases refuses


def rows_by_id(layout: Layout, ids: Sequence[str], *, lock: bool = False) -> dict[str, Any]:
    """The stored rows of those ids. `lock` holds them until the end of the transaction."""
    found: dict[str, Any] = {}
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        rows = _rows(layout, chunk, lock=lock)
        wanted = set(chunk)
        matched = {id: row for row in rows if (id := layout.id_of(row)) in wanted}
        # The database may take keys for equal that are not the same text, as MariaDB does with
        # upper and lower case. Only it can say which of the ids it means.
        alike = {layout.id_of(row).casefold() for row in rows}
        for id in chunk:
            ask = len(matched) < len(rows) or id.casefold() in alike
            if ask and id not in matched and (row := _query(layout, [id], lock=lock).first()):
                matched[id] = next((r for r in rows if r.pk == row.pk), row)
        found.update(matched)
    return found


def rows_by_entity(
    layout: Layout, ids: Sequence[str], *, lock: bool = False
) -> dict[str, list[Any]]:
    """The stored rows of the entities of those ids; the layout's key names an entity."""
    found: dict[str, list[Any]] = {}
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        for row in _rows(layout, chunk, lock=lock):
            found.setdefault(layout.id_of(row), []).append(row)
        if not found.keys() <= {*ids}:  # the database takes keys for equal, as above
            found.update({id: list(_query(layout, [id], lock=lock)) for id in chunk})
    return {id: found[id] for id in ids if found.get(id)}


def stored_values(
    layout: Layout, columns: Sequence[Column], keys: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """The values in those columns of a stored row that has some of the keys there; None where no
    row has. All by attname."""
    names = [column.attname for column in columns]
    found: Iterable[Sequence[Any]]
    for start in range(0, len(keys), _CHUNK):
        if len(keys) == 1:
            found = _found(layout, _value(layout, tuple(columns)), columns, keys[0])
        else:
            found = _values(layout, columns, keys[start : start + _CHUNK])
        for row in found:
            return dict(zip(names, row, strict=True))
    return None


def _values(
    layout: Layout, columns: Sequence[Column], keys: Sequence[dict[str, Any]]
) -> models.QuerySet[Any, Any]:
    query = _filtered(layout, columns, keys).order_by()
    return query.values_list(*(column.attname for column in columns))[:1]


def all_rows(layout: Layout) -> models.QuerySet[Any]:
    """Of no manager: one may hide rows, which are in the table all the same."""
    return models.QuerySet(layout.model, using=layout.using)


def _rows(layout: Layout, ids: Sequence[str], *, lock: bool) -> list[Any]:
    if lock or len(ids) > 1:
        return list(_query(layout, ids, lock=lock))
    statement = _row(layout)
    names = [column.target.attname for column in statement.select]
    found = _found(layout, statement, layout.key, layout.key_of(ids[0]))
    return [layout.model.from_db(layout.using, names, row) for row in found]


def _query(layout: Layout, ids: Sequence[str], *, lock: bool) -> models.QuerySet[Any]:
    query = _filtered(layout, layout.key, [layout.key_of(id) for id in ids])
    if lock:
        # Always in the order of the primary key, so that two who lock the same rows do not wait
        # for each other.
        query = query.select_for_update().order_by("pk")
    return query


def _filtered(
    layout: Layout, columns: Sequence[Column], keys: Sequence[dict[str, Any]]
) -> models.QuerySet[Any]:
    """The rows whose columns have some of the keys."""
    query = all_rows(layout)
    # By filter(), MariaDB would get `… IN (…) = 1`, which reads, and locks, the whole table.
    query.query.where.add(_In(columns, keys).resolve_expression(query.query), AND)
    return query


class _In(Expression):
    """`column IN (…)`, or `(column, column) IN (…)` for several.

    Several, written as comparisons joined by OR, are too deep for SQLite's parser; and Django's
    own lookup for one spends more on each value than the database does.
    """

    conditional = True

    def __init__(self, of: Sequence[Column], keys: Sequence[dict[str, Any]]) -> None:
        super().__init__(output_field=models.BooleanField())
        self.of = of
        self.keys = keys  # by attname
        self.columns: list[Col] = []

    def resolve_expression(self, query: Any = None, *args: Any, **kwargs: Any) -> _In:
        resolved = self.copy()
        alias = query.get_initial_alias()
        resolved.columns = [Col(alias, c.field) for c in self.of]
        return resolved

    def as_sql(  # type: ignore[override]
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **kwargs: Any
    ) -> tuple[str, list[Any]]:
        columns = ", ".join(compiler.compile(column)[0] for column in self.columns)
        row = ", ".join(["%s"] * len(self.columns))
        if len(self.columns) == 1:
            values = ", ".join([row] * len(self.keys))
        else:
            rows = ", ".join([f"({row})"] * len(self.keys))
            values = f"VALUES {rows}" if connection.vendor == "sqlite" else rows
        return f"({columns}) IN ({values})", _params(self.of, self.keys, connection)


def _params(
    of: Sequence[Column], keys: Sequence[dict[str, Any]], connection: BaseDatabaseWrapper
) -> list[Any]:
    return [
        None if key is _LATER else c.field.get_db_prep_value(key[c.attname], connection)
        for key in keys
        for c in of
    ]


# One key

_LATER: dict[str, Any] = {}  # stands for a key that is given with each execution


class _Statement(NamedTuple):
    """The text of a query by one key. Most are: and Django spends several times as long on such a
    text as the database on what it says, so it is made once."""

    sql: str
    more: Sequence[Any]  # parameters after those of the key
    select: list[Any]


@cache
def _row(layout: Layout) -> _Statement:
    query = _filtered(layout, layout.key, [_LATER])
    return _statement(layout, query, len(layout.key))


@cache
def _value(layout: Layout, columns: tuple[Column, ...]) -> _Statement:
    return _statement(layout, _values(layout, columns, [_LATER]), len(columns))


def _statement(layout: Layout, query: models.QuerySet[Any, Any], given: int) -> _Statement:
    compiler = query.query.get_compiler(layout.using)
    sql, params = compiler.as_sql()
    return _Statement(sql, params[given:], [column for column, *_ in compiler.select])


def _found(
    layout: Layout, statement: _Statement, of: Sequence[Column], key: dict[str, Any]
) -> Iterable[Sequence[Any]]:
    """What the statement finds by the key, as values of the fields."""
    connection = connections[layout.using]
    with connection.cursor() as cursor:
        cursor.execute(statement.sql, [*_params(of, [key], connection), *statement.more])
        rows: Sequence[Sequence[Any]] = cursor.fetchall()
    if not rows:
        return rows
    compiler = all_rows(layout).query.get_compiler(layout.using)
    converters = compiler.get_converters(statement.select)
    return compiler.apply_converters(rows, converters)  # type: ignore[no-any-return]
