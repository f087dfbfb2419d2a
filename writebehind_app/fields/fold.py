"""Fold an entry onto a stored row, or onto nothing: what is there after the entry's writes?

Only `fold` decides this. Reads, flushes, held writes, direct writes, dead letters and the admin
call it. It works on plain data: a row is a mapping from attname to value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.exceptions import ValidationError

from writebehind_app.fields.columns import default_of, refuse_computed
from writebehind_app.fields.decoding import decoded
from writebehind_app.fields.entry import DIGITS, Entry
from writebehind_app.fields.fence import Fence
from writebehind_app.fields.limits import REFUSALS, refusal
from writebehind_app.fields.operations import described_operations, outcome

if TYPE_CHECKING:
    from writebehind_app.fields.layout import Layout

Row = Mapping[str, Any]


class Folded(NamedTuple):
    """The result of a fold: what to do to the stored row."""

    delete: bool  # delete the stored row first
    values: dict[str, Any] | None  # then write these, by attname; None: there is no row afterwards
    is_new: bool = False  # the values make a new row
    first: int = 0  # the number of the write that creates a new row
    last: int = 0  # the number of the last write


def fold(
    layout: Layout,
    entry: Entry,
    row: Row | None,
    fence: Fence | None = None,
    *,
    to_store: bool = True,
    values: dict[str, Any] | None = None,
) -> Folded:
    """Fold an entry onto a row; None stands for no row.

    `values` are the entry's plain values if they are decoded already. If the entry cannot be
    stored, one of REFUSALS is raised. With `to_store=False`, for reads, nothing is raised: what
    cannot be read changes nothing.
    """
    if not to_store and entry.broken:
        return Folded(False, {})
    if fence is not None:
        try:
            left = fence.left_of(layout, entry, row)
        except REFUSALS:  # the field refuses the value that is stored
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
            value = default_of(column.field)
        else:
            assert row is not None
            value = row[column.attname]
        try:
            refuse_computed(value)
            values[column.attname] = outcome(column, segments, entry.merges.get(name, {}), value)
        except REFUSALS as error:
            if to_store:
                raise ValidationError({name: refusal(column.field, value, error)}) from error
    values.update(key)
    return Folded(delete, values, is_new, entry.first, entry.last)


def described(layout: Layout, entry: Entry) -> dict[str, Any]:
    """The values and operations that an entry writes, by name, for people.

    A value and operations on it become one value. If the field refuses that value, both are shown,
    in a tuple.
    """
    found: dict[str, Any] = {}
    for name, value in entry.values.items():
        found[name] = layout.columns[name].decode(value[DIGITS:])
    for name, segments in entry.operations.items():
        column, merges = layout.columns[name], entry.merges.get(name, {})
        operations: tuple[Any, ...] = tuple(described_operations(column, segments, merges))
        if name in found:
            try:
                found[name] = outcome(column, segments, merges, found[name])
                continue
            except REFUSALS:
                operations = (found[name], *operations)
        found[name] = operations[0] if len(operations) == 1 else operations
    return found
