"""What pending writes come to, on a stored row, on a new one or on nothing.

`fold` is the one place that knows. Reads, flushes, held and direct writes, dead letters and the
admin all ask it. It works on plain data: rows are mappings from attname to value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.exceptions import ValidationError

from writebehind_app.fields.decoding import decoded
from writebehind_app.fields.entry import DIGITS, Entry
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
        try:
            left = fence.left_of(layout, entry, row)
        except REFUSALS:  # the field would not take again what is stored
            if to_store:
                raise
            return Folded(False, {})
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
        if entry.tombstones or entry.firsts:
            raise ValueError("it has names of meta keys")
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
