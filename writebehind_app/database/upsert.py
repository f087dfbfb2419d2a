"""Writes rows in a few statements, which name the columns that were written.

Rows that are there go by `UPDATE … FROM unnest(…)` on PostgreSQL, where their fields have types of
which there are arrays; elsewhere by an upsert, which never inserts, as the rows are locked. Both
are `bulk_create()` in its parts: that method calls `pre_save()` of each field, by which `auto_now`
would say when a batch was flushed instead of when a row was written, and it names every column.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from django.conf import settings
from django.db import connections, models
from django.db.models.constants import OnConflict
from django.db.models.expressions import RawSQL
from django.db.models.fields.files import FileField
from django.db.models.sql import InsertQuery

from writebehind_app.database.statements import check_row, most_rows, parts, size_of
from writebehind_app.fields.custom import own_methods
from writebehind_app.fields.layout import Layout

_Row = TypeVar("_Row")

if TYPE_CHECKING:
    Field = models.Field[Any, Any]


class Change(NamedTuple):
    """What becomes of a row that is there."""

    stored: Mapping[str, Any]  # what was read of it under its lock, by attname
    values: dict[str, Any]  # what is written to it, by attname


def reads(layout: Layout, shapes: Collection[frozenset[str]]) -> set[Field]:
    """The fields that have to be read of stored rows, for `update` to write to them. Each shape has
    the names of the fields that some rows change."""
    written = {name for shape in shapes for name in shape}
    if any(_sets_itself(layout.columns[name].field) for name in written):
        return set(layout.model._meta.concrete_fields)  # its pre_save() may look at the others
    if _takes_arrays(layout):
        return set()
    partly = {name for name in written if not all(name in shape for shape in shapes)}
    fields = {layout.columns[name].field for name in partly}
    return {field for field in fields if field in _short(layout)} | _unnamed(layout)[0]


def update(layout: Layout, changes: Sequence[Change]) -> None:
    """Write to rows that are there, and locked."""
    changes = [change for change in changes if change.values]
    if not changes:
        return
    _prepare(layout, changes)
    if _takes_arrays(layout):
        _update_from_arrays(layout, changes)
    else:
        _upsert(layout, changes)


def insert(layout: Layout, rows: Sequence[models.Model]) -> None:
    """Insert new rows."""
    meta = layout.model._meta
    fields = [field for field in meta.concrete_fields if not field.generated]
    for field in fields:
        if _sets_itself(field):
            for row in rows:
                setattr(row, field.attname, field.pre_save(row, True))
    pk = meta.pk.attname
    numbered = [row for row in rows if row.__dict__.get(pk) is not None]
    _insert(layout, fields, numbered)
    if len(numbered) < len(rows):
        others = [row for row in rows if row.__dict__.get(pk) is None]
        _insert(layout, [field for field in fields if field is not meta.pk], others)


# What fields do by themselves


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


def _sets_itself(field: Field) -> bool:
    """Whether it is a field of the project's own that sets its value as it is saved."""
    return type(field).pre_save not in _PLAIN_PRE_SAVE


def _prepare(layout: Layout, changes: Sequence[Change]) -> None:
    """Let fields of the project's own set their value as save() would."""
    fields = layout.model._meta.concrete_fields
    for field in fields:
        if _sets_itself(field):
            for change in changes:
                if field.attname in change.values:
                    row = {**change.stored, **change.values}
                    names = [f.attname for f in fields if f.attname in row]
                    of = layout.model.from_db(layout.using, names, [row[n] for n in names])
                    change.values[field.attname] = field.pre_save(of, False)
        if isinstance(field, models.JSONField) and not field.null:
            for change in changes:
                if change.values.get(field.attname, field) is None:  # a null of JSON
                    change.values[field.attname] = models.Value(None, models.JSONField())


# By arrays, on PostgreSQL

_ARRAYS = {
    *("bigint", "boolean", "bytea", "date", "double precision", "inet", "integer", "interval"),
    *("jsonb", "numeric", "smallint", "text", "time", "timestamp with time zone", "uuid"),
    "varchar",
}


@cache
def _takes_arrays(layout: Layout) -> bool:
    """Whether the database can be given the values of each field as an array."""
    connection = connections[layout.using]
    fields = [layout.model._meta.pk, *(c.field for c in layout.columns.values()), *layout.stamped]
    return connection.vendor == "postgresql" and all(_array_type(layout, f) for f in fields if f)


@cache
def _array_type(layout: Layout, field: Field) -> str | None:
    """The type of which the array is, without a length: what is too long is to be refused."""
    if hasattr(field, "get_placeholder") and not isinstance(field, models.BinaryField):
        return None
    kind = (field.db_type(connections[layout.using]) or "").partition("(")[0].lower()
    return kind if kind in _ARRAYS else None


def _update_from_arrays(layout: Layout, changes: Sequence[Change]) -> None:
    """One statement. A mask for each row says which of the fields it changes that others do."""
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
    for part in _parts(layout, fields, changes, _value):
        given = [[pk.get_db_prep_save(c.stored[pk.attname], connection) for c in part]]
        for field in fields:
            name, prepare = field.attname, field.get_db_prep_save
            given.append([prepare(c.values.get(name), connection) for c in part])
        if partly:
            given.append([masks[frozenset(change.values)] for change in part])
        with connection.cursor() as cursor:
            cursor.execute(sql, given)


def _value(change: Change, name: str) -> Any:
    return change.values.get(name)


# By an upsert


def _upsert(layout: Layout, changes: Sequence[Change]) -> None:
    """One statement for all fields that can be written back as they were read where a row does not
    change, and that are short; for the other fields one for those that the same rows change. The
    primary key is what rows are found by on each of the databases."""
    pk, fields = layout.model._meta.pk, layout.model._meta.concrete_fields
    assert pk is not None
    alike: dict[frozenset[str], list[Change]] = defaultdict(list)
    for change in changes:
        alike[frozenset(change.values)].append(change)
    groups = {f: frozenset(s for s in alike if f.attname in s) for f in fields}
    everywhere, short = frozenset(alike), _short(layout)
    first = [f for f in fields if groups[f] and (f in short or groups[f] == everywhere)]
    statements: dict[frozenset[frozenset[str]], list[Field]] = defaultdict(list)
    if first:
        statements[frozenset().union(*(groups[f] for f in first))] = first
    for field in fields:
        if groups[field] and field not in first:
            statements[groups[field]].append(field)
    to_read, placeholders = _unnamed(layout)
    for shapes, named in statements.items():
        more = [f for f in fields if (f in to_read or f in placeholders) and f not in named]
        held = {f.attname: value() for f, value in placeholders.items() if f in more}
        own = {f.attname for f in named}
        rows = [
            SimpleNamespace(**{**stored, **{n: values[n] for n in shape & own}, **held})
            for shape in shapes
            for stored, values in alike[shape]
        ]
        _insert(layout, [pk, *more, *named], rows, update=named)


def _insert(
    layout: Layout, fields: Sequence[Field], rows: Sequence[Any], update: Iterable[Field] = ()
) -> None:
    """Insert rows with those fields; or update those of rows that are there."""
    connection = connections[layout.using]
    meta = layout.model._meta
    conflict: dict[str, Any] = {}
    if update:
        by_target = connection.features.supports_update_conflicts_with_target
        unique = [meta.pk] if by_target else []
        conflict = {
            "on_conflict": OnConflict.UPDATE,
            "update_fields": update,
            "unique_fields": unique,
        }
    for part in _parts(layout, fields, rows, getattr):
        query = InsertQuery(layout.model, **conflict)
        query.insert_values(fields, list(part), raw=True)
        query.get_compiler(layout.using).execute_sql()


def _parts(
    layout: Layout,
    fields: Sequence[Field],
    rows: Sequence[_Row],
    value_of: Callable[[_Row, str], Any],
) -> Iterator[Sequence[_Row]]:
    connection = connections[layout.using]
    bounds = [_longest(field) for field in fields]
    long = [f.attname for f, bound in zip(fields, bounds, strict=True) if bound is None]
    known = sum(bound for bound in bounds if bound is not None)

    def size(row: _Row) -> int:
        return known + sum(size_of(value_of(row, name)) for name in long)

    count = most_rows(connection, len(fields))
    for part in parts(connection, rows, size if long else known, count):
        if long and len(part) == 1:
            check_row(connection, [value_of(part[0], field.attname) for field in fields])
        yield part


@cache
def _longest(field: Field) -> int | None:
    """The bytes that a value of a field takes in a statement at most, None where it may be long."""
    target: Any = field
    while isinstance(target, models.ForeignKey):
        target = target.target_field
    if own_methods(target) or isinstance(
        target, models.TextField | models.JSONField | models.BinaryField
    ):
        return None
    if isinstance(target, models.CharField | FileField | models.FilePathField):
        return None if target.max_length is None else size_of("ä" * target.max_length)
    return size_of(None)


_SHORT = 1000  # characters


@cache
def _short(layout: Layout) -> set[Field]:
    """The fields that are written back as they were read where a row does not change in them."""
    most = size_of("ä" * _SHORT)
    exact = [c.field for c in layout.columns.values() if c.exact]
    fields = [*exact, *layout.stamped]
    return {f for f in fields if (bound := _longest(f)) is not None and bound <= most}


@cache
def _unnamed(layout: Layout) -> tuple[set[Field], dict[Field, Callable[[], Any]]]:
    """What an INSERT has to name beside the fields that are written, although it only updates:
    fields whose stored value has to be given, and placeholders for others.

    A row that is proposed has to pass each CHECK and NOT NULL, and on MariaDB it must not meet
    another row by a unique key.
    """
    meta = layout.model._meta
    constrained = _constrained(layout.model)
    stored, placeholders = set(), {}
    for field in meta.concrete_fields:
        if field is meta.pk or field.generated:
            continue
        if field in constrained:
            stored.add(field)
        elif not (field.null or field.has_db_default()):
            placeholder = _placeholder(field)
            if placeholder is None:
                stored.add(field)
            else:
                placeholders[field] = placeholder
    return stored, placeholders


def _constrained(model: type[models.Model]) -> set[Field]:
    """The fields that a constraint, or a generated column, says something of."""
    meta = model._meta
    names = {name for group in meta.unique_together for name in group}
    conditions: list[Any] = []
    for field in meta.concrete_fields:
        if field.unique:
            names.add(field.name)
        if isinstance(field, models.GeneratedField):
            conditions.append(field.expression)  # type: ignore[attr-defined]
    for constraint in meta.constraints:
        if isinstance(constraint, models.UniqueConstraint):
            names |= {*constraint.fields}
            conditions += [*constraint.expressions, constraint.condition]
        else:
            conditions.append(getattr(constraint, "condition", RawSQL("", ())))
    for condition in filter(None, conditions):
        flat = condition.flatten() if hasattr(condition, "flatten") else ()
        if any(isinstance(each, RawSQL) for each in flat):
            return set(meta.concrete_fields)  # nobody knows which
        names |= models.Q(condition).referenced_base_fields
    return {meta.pk if name == "pk" else meta.get_field(name) for name in names}  # type: ignore[misc]


def _placeholder(field: Field) -> Callable[[], Any] | None:
    """Gives a value that each column of the type takes; None where only the stored one is sure to
    be taken."""
    if isinstance(field, models.ForeignKey) or own_methods(field):
        return None
    return next((value for kind, value in _PLACEHOLDERS if isinstance(field, kind)), None)


def _time() -> datetime.datetime:
    return datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC if settings.USE_TZ else None)


_PLACEHOLDERS: tuple[tuple[Any, Callable[[], Any]], ...] = (
    (models.GenericIPAddressField, lambda: "127.0.0.1"),
    (models.CharField | models.TextField | FileField | models.FilePathField, lambda: "-"),
    (models.BooleanField, lambda: True),
    (models.IntegerField | models.FloatField, lambda: 1),
    (models.DecimalField, lambda: decimal.Decimal(0)),
    (models.DateTimeField, _time),
    (models.DateField, lambda: _time().date()),
    (models.TimeField, lambda: _time().time()),
    (models.DurationField, lambda: datetime.timedelta(1)),
    (models.UUIDField, lambda: uuid.UUID(int=1)),
    (models.BinaryField, lambda: b"-"),
    (models.JSONField, lambda: {"": 0}),
)
