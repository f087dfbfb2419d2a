"""Writes as entries, and what they come to, said once more in plain Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import models

from writebehind_app import Add, Max, Merge, Min
from writebehind_app.fields.entry import Entry, combined, entry_of
from writebehind_app.fields.fold import Folded
from writebehind_app.fields.layout import Layout

Values = Mapping[str, Any]  # by name: values and operations
Row = dict[str, Any]  # by attname
DELETE = None  # a write that deletes, in place of its values


def in_python(old: Any, value: Any, *, json: bool) -> Any:
    """What an operation means."""
    if json and not isinstance(value, Merge):
        old = old if type(old) in (int, float) else None
    match value:
        case Add(amount):
            return amount if old is None else old + amount
        case Max(other):
            return other if old is None else max(old, other)
        case Min(other):
            return other if old is None else min(old, other)
        case Merge(keys):
            return {**(old if isinstance(old, dict) else {}), **keys}
    return value


def entry_of_write(layout: Layout, key: Values, values: Values | None, number: int) -> Entry:
    """The entry of one write."""
    id, texts = layout.split({**key, **(values or {})})
    return entry_of(id, texts, number, delete=values is DELETE)


def entry_of_writes(
    layout: Layout, key: Values, writes: Iterable[tuple[int, Values | None]]
) -> Entry:
    """The entry of several writes, each with its number."""
    return combined([entry_of_write(layout, key, values, n) for n, values in writes])


def new_row(layout: Layout, key: Values) -> Row:
    """A row with defaults alone."""
    row = layout.model(**key)
    return {f.attname: getattr(row, f.attname) for f in layout.model._meta.concrete_fields}


def row_after_write(layout: Layout, key: Values, row: Row | None, values: Values | None) -> Any:
    """The row after one write, as one would write it without the package."""
    if values is DELETE or (row is None and not layout.insert):
        return None
    row = dict(row or new_row(layout, key))
    for name, value in values.items():
        field = layout.model._meta.get_field(name)
        is_json = isinstance(field, models.JSONField)
        row[field.attname] = in_python(row[field.attname], value, json=is_json)
    return row


def row_after(layout: Layout, key: Values, row: Row | None, folded: Folded) -> Row | None:
    """The row as it is once `folded` was stored, and read again."""
    if folded.values is None:
        return None
    if not folded.is_new:
        if row is None:
            return None
        before = row
    else:
        before = new_row(layout, key)
    read = {
        attname: value.value if isinstance(value, models.Value) else value  # JSON's null is NULL
        for attname, value in folded.values.items()
    }
    return {**before, **read}
