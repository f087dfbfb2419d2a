"""Divide rows into parts that fit into one statement each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import connections, models
from django.db.models.fields.files import FileField

from writebehind_app.database.statements import check_row, most_rows, parts, size_of
from writebehind_app.fields.custom import own_methods
from writebehind_app.fields.layout import Layout

_Row = TypeVar("_Row")

if TYPE_CHECKING:
    Field = models.Field[Any, Any]


def parts_of_rows(
    layout: Layout,
    fields: Sequence[Field],
    rows: Sequence[_Row],
    value_of: Callable[[_Row, str], Any],
) -> Iterator[Sequence[_Row]]:
    connection = connections[layout.using]
    bounds = [longest(field) for field in fields]
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
def longest(field: Field) -> int | None:
    """The most bytes that a value of the field takes in a statement; None if it may be long."""
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
