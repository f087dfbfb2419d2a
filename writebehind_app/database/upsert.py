"""Write rows in a few statements that name only the columns that were written.

On PostgreSQL, stored rows are changed by `UPDATE … FROM unnest(…)` if their fields can be sent as
arrays. Elsewhere they are changed by an upsert; it never inserts, as the rows are locked.

`bulk_create()` itself will not do. It names every column. And it calls `pre_save()` of each field:
then `auto_now` would be the time of the flush instead of the time of the write.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings
from django.db import connections, models
from django.db.models.constants import OnConflict
from django.db.models.expressions import RawSQL
from django.db.models.fields.files import FileField
from django.db.models.sql import InsertQuery

from writebehind_app.database.arrays import (
    Change,
    insert_from_arrays,
    may_be_arrays,
    takes_arrays,
    update_from_arrays,
)
from writebehind_app.database.rows import longest, parts_of_rows
from writebehind_app.database.statements import size_of
from writebehind_app.fields.custom import own_methods
from writebehind_app.fields.layout import Layout

_Row = TypeVar("_Row")

if TYPE_CHECKING:
    Field = models.Field[Any, Any]


def reads(layout: Layout, shapes: Collection[frozenset[str]]) -> set[Field]:
    """The fields that `update` needs to know of stored rows. A shape is the set of the names of the
    fields that an entry changes."""
    written = {name for shape in shapes for name in shape}
    if any(_sets_itself(layout.columns[name].field) for name in written):
        return set(layout.model._meta.concrete_fields)  # pre_save() may look at any other field
    if takes_arrays(layout):
        return set()
    partly = {name for name in written if not all(name in shape for shape in shapes)}
    fields = {layout.columns[name].field for name in partly}
    return {field for field in fields if field in _short(layout)} | _unnamed(layout)[0]


def update(layout: Layout, changes: Sequence[Change]) -> None:
    """Update stored rows, which are locked."""
    changes = [change for change in changes if change.values]
    if not changes:
        return
    _prepare(layout, changes)
    if takes_arrays(layout):
        update_from_arrays(layout, changes)
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
    """Whether the field has a `pre_save()` of its own, which sets its value."""
    return type(field).pre_save not in _PLAIN_PRE_SAVE


def _prepare(layout: Layout, changes: Sequence[Change]) -> None:
    """Call `pre_save()` of the fields that have one of their own, as save() would."""
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
                if change.values.get(field.attname, field) is None:  # JSON's null, not SQL's NULL
                    change.values[field.attname] = models.Value(None, models.JSONField())


# By an upsert


def _upsert(layout: Layout, changes: Sequence[Change]) -> None:
    """Update stored rows by upserts that find them by the primary key.

    The first statement has all short fields whose stored values can be written back unchanged: a
    row that does not change one of them gets its stored value again. The other fields have one
    statement for each set of rows that change.
    """
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
    """Insert rows with these fields; with `update`, change these fields of stored rows instead."""
    connection = connections[layout.using]
    meta = layout.model._meta
    conflict: dict[str, Any] = {}
    if not update and may_be_arrays(layout, fields, rows):
        insert_from_arrays(layout, fields, rows)
        return
    if update:
        by_target = connection.features.supports_update_conflicts_with_target
        unique = [meta.pk] if by_target else []
        conflict = {
            "on_conflict": OnConflict.UPDATE,
            "update_fields": update,
            "unique_fields": unique,
        }
    for part in parts_of_rows(layout, fields, rows, getattr):
        query = InsertQuery(layout.model, **conflict)
        query.insert_values(fields, list(part), raw=True)
        query.get_compiler(layout.using).execute_sql()


_SHORT = 1000  # characters


@cache
def _short(layout: Layout) -> set[Field]:
    """The short fields whose stored values can be written back unchanged."""
    most = size_of("ä" * _SHORT)
    exact = [c.field for c in layout.columns.values() if c.exact]
    fields = [*exact, *layout.stamped]
    return {f for f in fields if (bound := longest(f)) is not None and bound <= most}


@cache
def _unnamed(layout: Layout) -> tuple[set[Field], dict[Field, Callable[[], Any]]]:
    """The fields that an upsert must name although it does not write them: those that need their
    stored value, and those that take a placeholder.

    The INSERT of an upsert proposes a row. This row must pass each CHECK and NOT NULL. On MariaDB
    it must not have a unique value of another row.
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
    """The fields that a constraint or a generated column uses."""
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
            return set(meta.concrete_fields)  # raw SQL may use any field
        names |= models.Q(condition).referenced_base_fields
    return {meta.pk if name == "pk" else meta.get_field(name) for name in names}  # type: ignore[misc]


def _placeholder(field: Field) -> Callable[[], Any] | None:
    """A function that makes a value which every column of the type takes. None if only the stored
    value is sure to be taken."""
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
