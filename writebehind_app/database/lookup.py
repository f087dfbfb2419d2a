"""Find stored rows by their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.expressions import Col, Expression
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.where import AND

from writebehind_app.database.locking import locking
from writebehind_app.database.statements import parts, placeholders, size_of
from writebehind_app.fields.columns import Column, encoded
from writebehind_app.fields.instances import maker
from writebehind_app.fields.layout import Layout

_Row = TypeVar("_Row")
_TEXTS = 1000  # statements that are kept


def rows_by_id(
    layout: Layout, ids: Sequence[str], *, lock: bool = False, nowait: bool = False
) -> dict[str, Any]:
    """The stored rows of these ids. `lock` locks them until the end of the transaction; with
    `nowait`, a row that somebody else has locked is an error."""

    def fetch(chunk: Sequence[str]) -> list[tuple[str, Any]]:
        rows = _rows(layout, chunk, lock=lock, nowait=nowait)
        return [(layout.id_of(row), row) for row in rows]

    return _by_id(layout, ids, fetch)


def locked_by_id(
    layout: Layout, ids: Sequence[str], fields: Iterable[models.Field[Any, Any]]
) -> dict[str, dict[str, Any]]:
    """Lock the stored rows of these ids until the end of the transaction, and read some fields.

    Read are the primary key, the key and `fields`, by attname.
    """
    pk = layout.model._meta.pk
    assert pk is not None
    wanted = {pk, *(c.field for c in layout.key), *fields}
    names = [f.attname for f in layout.model._meta.concrete_fields if f in wanted]
    key = [(c, names.index(c.attname)) for c in layout.key]

    def fetch(chunk: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        return [
            (
                ",".join([encoded(c, row[at]) for c, at in key]),
                dict(zip(names, row)),  # noqa: B905 - as many as were asked for
            )
            for row in _query(layout, chunk, lock=True).values_list(*names)
        ]

    return _by_id(layout, ids, fetch)


def _by_id(
    layout: Layout, ids: Sequence[str], fetch: Callable[[Sequence[str]], list[tuple[str, _Row]]]
) -> dict[str, _Row]:
    found: dict[str, _Row] = {}
    for chunk in _chunks(layout, ids):
        rows = fetch(chunk)
        wanted = set(chunk)
        matched = {id: row for id, row in rows if id in wanted}
        left = [id for id in chunk if id not in matched]
        if left and rows and (len(matched) < len(rows) or may_be_equal(layout, left, rows)):
            found.update(_others(rows, left, fetch))
        found.update(matched)
    return found


def may_be_equal(layout: Layout, ids: Sequence[str], rows: Sequence[tuple[str, Any]]) -> bool:
    """Whether the database may treat different texts as equal keys. MariaDB ignores case, accents
    and blanks at the end."""
    is_mysql = connections[layout.using].vendor == "mysql"
    if is_mysql and any(
        isinstance(c.field, models.CharField | models.TextField) for c in layout.key
    ):
        return True
    return not {id.casefold() for id, _ in rows}.isdisjoint(id.casefold() for id in ids)


def _others(
    rows: Sequence[tuple[str, _Row]],
    left: Sequence[str],
    fetch: Callable[[Sequence[str]], list[tuple[str, _Row]]],
) -> dict[str, _Row]:
    """The rows of the ids that are `left`: no row has them letter by letter, but the database may
    treat them as equal to a key. Mostly it does not, and one query says so."""
    found = {}
    if len(left) == 1 or fetch(left):
        for id in left:
            if again := fetch([id]):
                own, row = again[0]
                found[id] = next((row for other, row in rows if other == own), row)
    return found


def rows_by_entity(
    layout: Layout, ids: Sequence[str], *, lock: bool = False, nowait: bool = False
) -> dict[str, list[Any]]:
    """The stored rows of each of these entities. The key of the layout names an entity. `lock` and
    `nowait` as for `rows_by_id`."""
    found: dict[str, list[Any]] = {}
    for chunk in _chunks(layout, ids):
        for row in _rows(layout, chunk, lock=lock, nowait=nowait):
            found.setdefault(layout.id_of(row), []).append(row)
        left = [id for id in chunk if id not in found]
        if not found.keys() <= {*ids}:  # the database treats different texts as equal keys
            left = [*chunk]
        elif not (left and found and may_be_equal(layout, left, [*found.items()])):
            continue
        found.update({id: list(_query(layout, [id], lock=lock, nowait=nowait)) for id in left})
    return {id: found[id] for id in ids if found.get(id)}


def _chunks(layout: Layout, ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return parts(connections[layout.using], ids, size_of)


def stored_values(
    layout: Layout, columns: Sequence[Column], keys: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """The values of the first stored row that has one of these keys in these columns, or None.

    Keys and values are by attname.
    """
    names = [column.attname for column in columns]
    found: Iterable[Sequence[Any]]
    connection = connections[layout.using]
    for chunk in parts(connection, keys, lambda key: sum(map(size_of, key.values()))):
        if len(keys) == 1:
            found = _found(layout, _value(layout, tuple(columns)), columns, keys[0])
        else:
            found = _values(layout, columns, chunk)
        for row in found:
            return dict(zip(names, row, strict=True))
    return None


def _values(
    layout: Layout, columns: Sequence[Column], keys: Sequence[dict[str, Any]]
) -> models.QuerySet[Any, Any]:
    query = _filtered(layout, columns, keys).order_by()
    return query.values_list(*(column.attname for column in columns))[:1]


def all_rows(layout: Layout) -> models.QuerySet[Any]:
    """All rows of the table. A manager of the model may hide some."""
    return models.QuerySet(layout.model, using=layout.using)


def _rows(layout: Layout, ids: Sequence[str], *, lock: bool, nowait: bool) -> list[Any]:
    if lock or len(ids) > 1:
        return list(_query(layout, ids, lock=lock, nowait=nowait))
    return instances(layout, answered(layout, select(layout, 1).sql, params_of(layout, ids)))


def _query(
    layout: Layout, ids: Sequence[str], *, lock: bool, nowait: bool = False
) -> models.QuerySet[Any]:
    query = _filtered(layout, layout.key, [layout.key_of(id) for id in ids])
    return locking(layout, query, nowait=nowait) if lock else query


def matching_keys(
    rows: models.QuerySet[Any], layout: Layout, ids: Sequence[str]
) -> models.QuerySet[Any]:
    """Restrict a queryset to the rows, or the entities, with one of these ids."""
    return _restricted(rows.all(), layout.key, [layout.key_of(id) for id in ids])


def _filtered(
    layout: Layout, columns: Sequence[Column], keys: Sequence[dict[str, Any]]
) -> models.QuerySet[Any]:
    """The rows that have one of these keys in these columns."""
    return _restricted(all_rows(layout), columns, keys)


def _restricted(
    query: models.QuerySet[Any], columns: Sequence[Column], keys: Sequence[dict[str, Any]]
) -> models.QuerySet[Any]:
    # With filter(), MariaDB would get `… IN (…) = 1`. That reads and locks the whole table.
    query.query.where.add(_In(columns, keys).resolve_expression(query.query), AND)
    return query


class _In(Expression):
    """`column IN (…)`, or `(column, column) IN (…)` for several.

    Comparisons joined by OR are too deep for SQLite's parser. Django's own `IN` for one column
    spends more time on each value than the database does.
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
        values = _placeholders(len(self.columns), len(self.keys), connection)
        return f"({columns}) IN ({values})", _params(self.of, self.keys, connection)


def _placeholders(columns: int, keys: int, connection: BaseDatabaseWrapper) -> str:
    if columns == 1:
        return placeholders(keys)
    rows = ", ".join([f"({placeholders(columns)})"] * keys)
    return f"VALUES {rows}" if connection.vendor == "sqlite" else rows


def _params(
    of: Sequence[Column], keys: Sequence[dict[str, Any]], connection: BaseDatabaseWrapper
) -> list[Any]:
    return [
        None if key is _LATER else c.field.get_db_prep_value(key[c.attname], connection)
        for key in keys
        for c in of
    ]


class HasKey:
    """The condition that a row has this key, in these columns, where a query has one table.

    The SQL is made once. As an expression of Django's it would take a good part of the time of a
    save().
    """

    contains_aggregate = contains_over_clause = False

    def __init__(self, layout: Layout, of: tuple[Column, ...], key: dict[str, Any]) -> None:
        self._layout, self._of, self._key = layout, of, key  # `key` by attname

    def as_sql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper
    ) -> tuple[str, list[Any]]:
        return _condition(self._layout, self._of), _params(self._of, [self._key], connection)


@cache
def _condition(layout: Layout, of: tuple[Column, ...]) -> str:
    connection = connections[layout.using]
    quoted = connection.ops.quote_name
    table = quoted(layout.model._meta.db_table)
    columns = ", ".join(f"{table}.{quoted(c.field.column)}" for c in of)  # type: ignore[arg-type]
    condition = f"({columns}) IN ({_placeholders(len(of), 1, connection)})"
    # MariaDB and MySQL find the row by another condition: see Check.
    return f"({condition}) IS TRUE" if connection.vendor == "mysql" else condition


# A statement that is made once

_LATER: dict[str, Any] = {}  # stands for a key that is given at each execution


class _Statement(NamedTuple):
    """The SQL of a query by one key, made once.

    To make it takes Django several times as long as the database needs to run it.
    """

    sql: str
    more: Sequence[Any]  # the parameters after the key
    select: list[Any]


class Select(NamedTuple):
    """A query of whole rows by a number of keys. It may become a part of a larger query."""

    sql: str
    rows: str  # what follows SELECT
    order: str  # what follows ORDER BY
    ordering: int  # the index of the first parameter of `order`
    nulls: str  # NULL for each column, as the row of another query that is united with this one


@lru_cache(_TEXTS)
def select(layout: Layout, keys: int) -> Select:
    connection, columns = connections[layout.using], len(layout.key)
    statement = _row(layout)
    sql = statement.sql
    if keys > 1:
        one = f"IN ({_placeholders(columns, 1, connection)})"
        sql = sql.replace(one, f"IN ({_placeholders(columns, keys, connection)})")
    rows, _, order = sql.removeprefix("SELECT ").partition(" ORDER BY ")
    after = len(statement.more) - order.replace("%%", "").count("%s")
    nulls = ", ".join([_null(column.target, connection) for column in statement.select])
    return Select(sql, rows, order, keys * columns + after, nulls)


def _null(field: models.Field[Any, Any], connection: BaseDatabaseWrapper) -> str:
    """NULL that leaves the type of a column as it is in a UNION."""
    # MariaDB makes decimals of unsigned numbers that are united with a plain NULL.
    kind = field.db_parameters(connection)["type"] if connection.vendor == "mysql" else ""
    return "CAST(NULL AS UNSIGNED)" if "unsigned" in (kind or "").lower() else "NULL"


def params_of(layout: Layout, ids: Sequence[str]) -> list[Any]:
    """The parameters of a `Select`."""
    keys = [layout.key_of(id) for id in ids]
    return [*_params(layout.key, keys, connections[layout.using]), *_row(layout).more]


def answered(layout: Layout, sql: str, params: Sequence[Any]) -> Sequence[Sequence[Any]]:
    with connections[layout.using].cursor() as cursor:
        cursor.execute(sql, params)
        rows: Sequence[Sequence[Any]] = cursor.fetchall()
    return rows


def instances(layout: Layout, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """The instances of the rows that a `Select` found."""
    rows = _converted(connections[layout.using], _row(layout), rows)
    return [*map(_maker(layout), rows)]


@cache
def _maker(layout: Layout) -> Callable[[Sequence[Any]], Any]:
    names = [column.target.attname for column in _row(layout).select]
    return maker(layout.model, layout.using, names)


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
) -> Sequence[Sequence[Any]]:
    """The rows that the statement finds by the key, with converted values."""
    connection = connections[layout.using]
    params = [*_params(of, [key], connection), *statement.more]
    return _converted(connection, statement, answered(layout, statement.sql, params))


_Converters = list[tuple[int, Sequence[Callable[..., Any]], Any]]
_converters: WeakKeyDictionary[BaseDatabaseWrapper, dict[str, _Converters]] = WeakKeyDictionary()


def _converted(
    connection: BaseDatabaseWrapper, statement: _Statement, rows: Sequence[Sequence[Any]]
) -> Sequence[Sequence[Any]]:
    if not rows:
        return rows
    made = _converters.setdefault(connection, {})
    converters = made.get(statement.sql)
    if converters is None:
        compiler = models.sql.Query(None).get_compiler(connection=connection)
        found = compiler.get_converters(statement.select)
        converters = made[statement.sql] = [(at, *found[at]) for at in found]
    if not converters:
        return rows
    lists = [[*row] for row in rows]
    for at, functions, expression in converters:
        for row in lists:
            value = row[at]
            for function in functions:
                value = function(value, expression, connection)
            row[at] = value
    return lists
