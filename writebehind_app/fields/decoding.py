"""Decode the numbered texts that entries keep into plain values.

To parse the texts of several fields at once, or of one field of many entries, is faster than to
parse each. Then the types of the parsed values are checked. If a type is wrong, each field decodes
its own text, and raises its own error.
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

_TOGETHER = 8  # entries; with fewer, to decode them together is not faster
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
            pass  # decode one by one: a field raises its own error
    return {
        column.attname: (column.prepare if to_store else column.decode)(text)
        for column, text in zip(shape.columns, texts, strict=True)
    }


def decoded_together(layout: Layout, entries: Sequence[Entry]) -> list[dict[str, Any] | None]:
    """The plain values of many entries, as the database takes them, decoded field by field. None
    for an entry that has to be decoded by itself."""
    found: list[dict[str, Any] | None] = [None] * len(entries)
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, entry in enumerate(entries):
        alike.setdefault(tuple(entry.values), []).append(i)
    others: list[int] = []
    for names, places in alike.items():
        if len(places) < _TOGETHER or not names:
            others += places
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
    if len(others) >= _TOGETHER:
        _decode_others(layout, entries, others, found)
    return found


def _decode_others(
    layout: Layout,
    entries: Sequence[Entry],
    places: Sequence[int],
    found: list[dict[str, Any] | None],
) -> None:
    """Decode entries that set different fields."""
    by_name: dict[str, tuple[list[int], list[str]]] = {}
    for i in places:
        found[i] = {}
        for name, value in entries[i].values.items():
            if name not in by_name:
                by_name[name] = ([], [])
            own, texts = by_name[name]
            own.append(i)
            texts.append(value[DIGITS:])
    for name, (own, texts) in by_name.items():
        column = layout.columns[name]
        values = _column(column, texts)
        if values is None:
            for i in own:
                found[i] = None
            continue
        attname = column.attname
        for i, value in zip(own, values, strict=True):
            row = found[i]
            if row is not None:
                row[attname] = value


def _column(column: Column, texts: list[str]) -> Sequence[Any] | None:
    """The values of one field; None if the texts have to be decoded one by one."""
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
        # The type that JSON reads for each field; () if one of the fields has no loader.
        self.types = () if None in loaders else tuple(each.read for each in loaders if each)
        self.loads = [
            (column.attname, column.loader.load)
            for column in columns
            if column.loader and column.loader.load
        ]
        self.has_json = any(isinstance(column.field, JSONField) for column in columns)
