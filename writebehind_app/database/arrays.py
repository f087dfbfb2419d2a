"""Write rows on PostgreSQL. Each statement gets one array for each column."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.db import connections, models

from writebehind_app.database.rows import parts_of_rows
from writebehind_app.fields.custom import own_methods
from writebehind_app.fields.layout import Layout

if TYPE_CHECKING:
    Field = models.Field[Any, Any]


class Change(NamedTuple):
    """A change of one stored row."""

    stored: Mapping[str, Any]  # the values that were read under the row's lock, by attname
    values: dict[str, Any]  # the values to write, by attname


_ARRAYS = {
    *("bigint", "boolean", "bytea", "date", "double precision", "inet", "integer", "interval"),
    *("jsonb", "numeric", "smallint", "text", "time", "timestamp with time zone", "uuid"),
    "varchar",
}


@cache
def takes_arrays(layout: Layout) -> bool:
    """Whether the values of each field can be sent as an array."""
    connection = connections[layout.using]
    fields = [layout.model._meta.pk, *(c.field for c in layout.columns.values()), *layout.stamped]
    return connection.vendor == "postgresql" and all(_array_type(layout, f) for f in fields if f)


@cache
def _array_type(layout: Layout, field: Field) -> str | None:
    """The type of the array's elements; None if the field cannot be sent as an array.

    The type has no length. With a length, PostgreSQL would cut a text that the column must refuse.
    """
    if hasattr(field, "get_placeholder") and not isinstance(field, models.BinaryField):
        return None
    kind = (field.db_type(connections[layout.using]) or "").partition("(")[0].lower()
    return kind if kind in _ARRAYS else None


def update_from_arrays(layout: Layout, changes: Sequence[Change]) -> None:
    """Update rows with one statement.

    Some fields change in some rows only. For these, a mask in each row says whether to write it.
    """
    connection = connections[layout.using]
    quote = connection.ops.quote_name
    pk, table = layout.model._meta.pk, quote(layout.model._meta.db_table)
    assert pk is not None
    shapes = {frozenset(change.values) for change in changes}
    fields = [f for f in layout.model._meta.concrete_fields if any(f.attname in s for s in shapes)]
    partly = [f for f in fields if not all(f.attname in shape for shape in shapes)]
    masks = {s: "".join("01"[f.attname in s] for f in partly) for s in shapes} if partly else {}
    sets, columns = [], ["pk"]
    types: list[str | None] = [_array_type(layout, pk)]
    for n, field in enumerate(fields):
        column, value = quote(field.column), f"v.c{n}"  # type: ignore[arg-type]
        if field in partly:
            bit = f"get_bit(v.mask, {partly.index(field)}) = 1"
            value = f"CASE WHEN {bit} THEN {value} ELSE {table}.{column} END"
        sets.append(f"{column} = {value}")
        columns.append(f"c{n}")
        types.append(_array_type(layout, field))
    if partly:
        columns.append("mask")
        types.append("varbit")
    sql = (
        f"UPDATE {table} SET {', '.join(sets)} "
        f"FROM unnest({', '.join(f'(%s)::{kind}[]' for kind in types)}) AS v({', '.join(columns)}) "
        f"WHERE {table}.{quote(pk.column)} = v.pk"  # type: ignore[arg-type]
    )
    for part in parts_of_rows(layout, fields, changes, _value):
        given: list[Any] = [_given(layout, pk, [c.stored[pk.attname] for c in part])]
        for field in fields:
            name = field.attname
            given.append(_given(layout, field, [c.values.get(name) for c in part]))
        if partly:
            given.append(f"{{{','.join([masks[frozenset(c.values)] for c in part])}}}")
        with connection.cursor() as cursor:
            cursor.execute(sql, given)


def insert_from_arrays(
    layout: Layout, fields: Sequence[Field], rows: Sequence[models.Model]
) -> None:
    """Insert rows with one statement. Django does the same, but prepares each value by itself."""
    connection = connections[layout.using]
    quote = connection.ops.quote_name
    columns = ", ".join(quote(field.column) for field in fields)  # type: ignore[arg-type]
    arrays = ", ".join(f"(%s)::{_array_type(layout, field)}[]" for field in fields)
    table = quote(layout.model._meta.db_table)
    sql = f"INSERT INTO {table} ({columns}) SELECT * FROM unnest({arrays})"
    for part in parts_of_rows(layout, fields, rows, getattr):
        given: list[Any] = [
            _given(layout, f, [getattr(row, f.attname) for row in part]) for f in fields
        ]
        with connection.cursor() as cursor:
            cursor.execute(sql, given)


def may_be_arrays(layout: Layout, fields: Sequence[Field], rows: Sequence[models.Model]) -> bool:
    """Whether these new rows can be sent as arrays. An expression as a value cannot."""
    if connections[layout.using].vendor != "postgresql" or len(rows) < _FEW:
        return False
    if not all(_array_type(layout, field) for field in fields):
        return False
    doubtful = [f.attname for f in fields if f.has_db_default() or isinstance(f, models.JSONField)]
    return not any(hasattr(getattr(row, name), "as_sql") for name in doubtful for row in rows)


def _given(layout: Layout, field: Field, values: list[Any]) -> Any:
    """The values of a field, as the driver takes them.

    Values of a plain type become the text of an array here. To ask the field and the driver for
    each value takes longer than the rest of the flush.
    """
    plain = _plain_type(field)
    kinds = {*map(type, values)}
    if plain is not None and kinds <= {plain, NoneType}:
        found = _array_text(plain, values, has_null=NoneType in kinds)
        if found is not None:
            return found
    connection = connections[layout.using]
    return [field.get_db_prep_save(value, connection) for value in values]


def _array_text(plain: type, values: list[Any], *, has_null: bool) -> str | None:
    """The text of an array, as PostgreSQL reads it; None if the driver has to write it."""
    if plain is str:
        if has_null or not values:
            texts = ["NULL" if v is None else f'"{_escaped(v)}"' for v in values]
            return f"{{{','.join(texts)}}}" if not any("\0" in v for v in values if v) else None
        joined = "\0".join(values)
        if joined.count("\0") >= len(values):
            return None
        return '{"' + _escaped(joined).replace("\0", '","') + '"}'
    if plain is datetime.datetime and not (
        settings.USE_TZ and all(value is None or value.tzinfo for value in values)
    ):
        return None
    text = _TEXTS[plain]
    if has_null:
        return f"{{{','.join('NULL' if value is None else text(value) for value in values)}}}"
    return f"{{{','.join(map(text, values))}}}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


_TEXTS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "t" if value else "f",
    int: repr,
    float: repr,
    datetime.datetime: datetime.datetime.isoformat,
    datetime.date: datetime.date.isoformat,
    uuid.UUID: str,
}


@cache
def _plain_type(field: Field) -> type | None:
    """The Python type of the field's values, if the driver takes them as they are; else None."""
    target: Any = field
    while isinstance(target, models.ForeignKey):
        target = target.target_field
    if own_methods(target):
        return None
    return next((plain for kind, plain in _PLAIN_TYPES if isinstance(target, kind)), None)


_FEW = 2  # a single row is left to Django's own INSERT
_PLAIN_TYPES: tuple[tuple[Any, type], ...] = (
    (models.BooleanField, bool),
    (models.IntegerField, int),
    (models.FloatField, float),
    (models.CharField | models.TextField, str),
    (models.DateTimeField, datetime.datetime),
    (models.DateField, datetime.date),
    (models.UUIDField, uuid.UUID),
)


def _value(change: Change, name: str) -> Any:
    return change.values.get(name)
