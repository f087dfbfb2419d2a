"""Split entries into two halves, so that rows that wait for each other can be written.

The first half is written without unique values and references. The second half adds them.
"""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import models

from writebehind_app.database.parents import unique_fields
from writebehind_app.fields.columns import Column
from writebehind_app.fields.entry import DIGITS, Entry, number_of, numbered
from writebehind_app.fields.layout import Layout

Halves = tuple[Entry, Entry]


def halves_of(layout: Layout, entry: Entry) -> Halves | None:
    """Split an entry in two; None if it has no unique value and no reference.

    In the first half, each unique value and each reference is null, or a value that no row has. The
    second half has the real values.
    """
    held: dict[str, str] = {}
    for name, value in entry.values.items():
        column = layout.columns.get(name)
        if column is None or value[DIGITS:] == "null":
            continue
        is_unique = column.field in unique_fields(layout.model)
        if column.field.null and (is_unique or isinstance(column.field, models.ForeignKey)):
            held[name] = "null"
        elif is_unique and (spare := _spare(column)) is not None:
            held[name] = spare
    if not held:
        return None
    kept = {name: numbered(number_of(entry.values[name]), text) for name, text in held.items()}
    rest = {name: entry.values[name] for name in held}
    return (
        entry._replace(values={**entry.values, **kept}),
        entry._replace(values=rest, deleted=0, operations={}, merges={}, tombstones={}),
    )


def moving(layout: Layout, entry: Entry) -> Halves | None:
    """Split an entry in two: one without its unique values, and one with them alone. None if that
    does not help: the first one must change a reference."""
    unique = {
        name for name in entry.names() if layout.columns[name].field in unique_fields(layout.model)
    }
    move = entry.only(entry.names() - unique)
    if entry.deleted or not unique or not moves(layout, move):
        return None
    return move, entry.only(unique)


def moves(layout: Layout, entry: Entry) -> bool:
    """Whether an entry changes a reference of its row."""
    return any(isinstance(layout.columns[n].field, models.ForeignKey) for n in entry.values)


def _spare(column: Column) -> str | None:
    """A random value that hardly any row has, as text; None if the type has none."""
    field: Any = column.field
    for kind, value in _SPARE:
        if isinstance(field, kind) and not isinstance(field, models.ForeignKey):
            return column.encode(value(column))
    return None


def _any_integer(column: Column) -> int:
    least, greatest = column.range
    return random.randint(least, greatest)


def _any_text(column: Column) -> str:
    length = min(getattr(column.field, "max_length", None) or 32, 32)
    return uuid.uuid4().hex[:length]


def _any_time(column: Column) -> datetime.datetime:
    seconds = random.randrange(3_000_000_000)
    zone = datetime.UTC if settings.USE_TZ else None
    return datetime.datetime(1900, 1, 1, tzinfo=zone) + datetime.timedelta(seconds=seconds)


_SPARE: tuple[tuple[Any, Callable[[Column], Any]], ...] = (
    (models.UUIDField, lambda column: uuid.uuid4()),
    (models.IntegerField, _any_integer),
    (models.DateTimeField, _any_time),
    (models.DateField, lambda column: _any_time(column).date()),
    ((models.CharField, models.TextField), _any_text),
)
