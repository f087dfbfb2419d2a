"""The plain values of entries, from the numbered texts that entries keep.

JSON reads the texts of several fields, or of one field of many entries, faster than text by text.
What it reads then is checked by type. Where that does not do, each field decodes its own text: the
error is that of the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import JSONDecoder
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any

from django.db.models import JSONField

from writebehind_app.fields.columns import Column
from writebehind_app.fields.entry import DIGITS, Entry, Numbered
from writebehind_app.fields.limits import REFUSALS

if TYPE_CHECKING:
    from writebehind_app.fields.layout import Layout

_TOGETHER = 8  # entries that it takes to be faster
_json = itemgetter(slice(DIGITS, None))  # of a numbered value
_scan = JSONDecoder().scan_once  # type: ignore[attr-defined]


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
