"""What pending writes come to, on a stored row, on a new one or on nothing.

`fold` is the one place that knows. Reads, flushes, held and direct writes, dead letters and the
admin all ask it. It works on plain data: rows are mappings from attname to value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import JSONDecoder
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db.models import JSONField

from writebehind_app.fields.columns import Column
from writebehind_app.fields.entry import DIGITS, Entry, Numbered
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.limits import REFUSALS, refusal
from writebehind_app.fields.operations import described_operations, outcome

if TYPE_CHECKING:
    from writebehind_app.fields.layout import Layout

Row = Mapping[str, Any]


class Folded(NamedTuple):
    """What is to be stored of an entry."""

    delete: bool  # the stored row goes first
    values: dict[str, Any] | None  # by attname; None: there is no row afterwards
    is_new: bool = False  # the values are those of a new row
    first: int = 0  # when a new row came to be
    last: int = 0  # when the row was last written


def fold(
    layout: Layout,
    entry: Entry,
    row: Row | None,
    fence: Fence | None = None,
    *,
    to_store: bool = True,
    values: dict[str, Any] | None = None,
) -> Folded:
    """What the entry comes to on a row, which is None where there is none. Its plain `values` are
    given where they are decoded already.

    An error of REFUSALS says that the entry cannot be stored. Unless it is `to_store`: then what
    cannot be understood changes nothing.
    """
    if not to_store and entry.broken:
        return Folded(False, {})
    if fence is not None:
        left = fence.left_of(layout, entry, row)
        if left is None:
            return Folded(False, None if row is None else {})
        entry = left
    delete = entry.deleted > 0
    if not entry.exists:
        return Folded(delete, None)
    is_new = delete or row is None
    if is_new and not layout.insert:
        return Folded(delete, None)
    try:
        key = layout.key_of(entry.id) if is_new else {}
        if values is None:
            values = decoded(layout, entry.values, to_store=to_store)
    except REFUSALS:
        if to_store:
            raise
        return Folded(False, {})
    for name, segments in entry.operations.items():
        column = layout.columns[name]
        if column.attname in values:
            value = values[column.attname]
        elif is_new:
            value = column.field.get_default()
        else:
            assert row is not None
            value = row[column.attname]
        try:
            values[column.attname] = outcome(column, segments, entry.merges.get(name, {}), value)
        except REFUSALS as error:
            if to_store:
                raise ValidationError({name: refusal(column.field, value, error)}) from error
    values.update(key)
    return Folded(delete, values, is_new, entry.first, entry.last)


def decoded(
    layout: Layout, values: Mapping[str, Numbered], *, to_store: bool = False
) -> dict[str, Any]:
    """Plain values by attname, `to_store` as the database takes them."""
    if not values:
        return {}
    shape = layout.shape(tuple(values))
    texts = [*map(_json, values.values())]
    if shape.types:
        joined = f"[{','.join(texts)}]"
        try:
            read, end = _scan(joined, 0)
            if end == len(joined) and tuple(map(type, read)) == shape.types:
                found = dict(zip(shape.attnames, read))  # noqa: B905 - as many as types
                for attname, load in shape.loads:
                    found[attname] = load(found[attname])
                if to_store and shape.has_json and "[null]" in texts:
                    for column, text in zip(shape.columns, texts, strict=True):
                        found[column.attname] = column.prepare(text)
                return found
        except (StopIteration, *REFUSALS):
            pass  # one by one: the error is that of a field
    return {
        column.attname: (column.prepare if to_store else column.decode)(text)
        for column, text in zip(shape.columns, texts, strict=True)
    }


def decoded_together(layout: Layout, entries: Sequence[Entry]) -> list[dict[str, Any] | None]:
    """The plain values of many entries, as the database takes them: field by field, which is
    faster. None for an entry that has to be decoded by itself."""
    found: list[dict[str, Any] | None] = [None] * len(entries)
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, entry in enumerate(entries):
        alike.setdefault(tuple(entry.values), []).append(i)
    for names, places in alike.items():
        if len(places) < _TOGETHER or not names:
            continue
        shape = layout.shape(names)
        rows = [entries[i].values.values() for i in places]
        columns = [
            _column(column, [*map(_json, values)])
            for column, values in zip(shape.columns, zip(*rows, strict=True), strict=True)
        ]
        if None not in columns:
            attnames = shape.attnames
            for i, row in zip(places, zip(*columns, strict=True), strict=True):
                found[i] = dict(zip(attnames, row, strict=True))
    return found


def _column(column: Column, texts: list[str]) -> Sequence[Any] | None:
    """The values of one field; None where the texts have to be decoded one by one."""
    loader, joined = column.loader, f"[{','.join(texts)}]"
    if loader is None or (loader.read is list and "[null]" in texts):
        return None
    try:
        read, end = _scan(joined, 0)
        if end != len(joined) or len(read) != len(texts):
            return None
        kinds = set(map(type, read))
        if kinds == {loader.read}:
            return read if loader.load is None else [*map(loader.load, read)]
        if kinds <= {loader.read, NoneType}:
            load = loader.load or (lambda value: value)
            return [None if value is None else load(value) for value in read]
    except (StopIteration, *REFUSALS):
        pass
    return None


_TOGETHER = 8  # entries that it takes to be faster
_json = itemgetter(slice(DIGITS, None))  # of a numbered value
_scan = JSONDecoder().scan_once  # type: ignore[attr-defined]


class Shape:
    """How to decode entries that set the same fields."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self.attnames = [column.attname for column in columns]
        loaders = [column.loader for column in columns]
        # What JSON reads of each; () where only the fields can tell.
        self.types = () if None in loaders else tuple(each.read for each in loaders if each)
        self.loads = [
            (column.attname, column.loader.load)
            for column in columns
            if column.loader and column.loader.load
        ]
        self.has_json = any(isinstance(column.field, JSONField) for column in columns)


def described(layout: Layout, entry: Entry) -> dict[str, Any]:
    """What an entry sets, by name, for people: values and operations."""
    found: dict[str, Any] = {}
    for name, value in entry.values.items():
        found[name] = layout.columns[name].decode(value[DIGITS:])
    for name, segments in entry.operations.items():
        column, merges = layout.columns[name], entry.merges.get(name, {})
        if name in found:
            found[name] = outcome(column, segments, merges, found[name])
        else:
            operations = described_operations(column, segments, merges)
            found[name] = operations[0] if len(operations) == 1 else tuple(operations)
    return found
