"""What was written to a row past Redis, and what of its pending writes counts after that.

A write past the buffer goes to the database at once, while older ones may wait in Redis. It leaves
a fence: the number up to which those are void, for the row or for each field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from django.db.models import JSONField

from writebehind_app.fields.entry import (
    DIGITS,
    Entry,
    Numbered,
    Segment,
    Segments,
    number_of,
    numbered,
)
from writebehind_app.fields.operations import joined

if TYPE_CHECKING:
    from writebehind_app.fields.columns import Column
    from writebehind_app.fields.layout import Layout

_MOST = 20  # operations on a field whose numbers are told apart


@dataclass(frozen=True, slots=True)
class Fence:
    """What is void of the pending writes to a row."""

    last: int = 0  # the number of the last write past Redis
    row: int = 0  # all up to it is void
    values: Mapping[str, int] = field(default_factory=dict)  # by field: its values up to it are
    # What was carried out on the stored values since. It is carried out on a pending value as well,
    # if that is older.
    operations: Mapping[str, Segments] = field(default_factory=dict)
    merges: Mapping[str, Mapping[str, Numbered]] = field(default_factory=dict)

    def void_until(self, name: str) -> int:
        """The number up to which writes to a field are void."""
        return max(self.row, self.values.get(name, 0))

    def with_write(self, entry: Entry, number: int, *, whole: bool = False) -> Fence:
        """The fence after one more write; `whole` if it says all there is of the row."""
        if whole or entry.deleted:
            return Fence(number, number)
        values, operations = dict(self.values), dict(self.operations)
        merges = {name: dict(keys) for name, keys in self.merges.items()}
        for name in entry.values:
            values[name] = number
            operations.pop(name, None)
            merges.pop(name, None)
        for name, segments in entry.operations.items():
            new = [segment._replace(first=number, last=number) for segment in segments]
            operations[name] = _shortened([*operations.get(name, ()), *new])
        for name, keys in entry.merges.items():
            later = {key: numbered(number, value[DIGITS:]) for key, value in keys.items()}
            merges[name] = {**merges.get(name, {}), **later}
        return Fence(number, self.row, values, operations, merges)

    def joined(self, other: Fence) -> Fence:
        """The fence of a row with that of all rows of its entity."""
        return replace(self, last=max(self.last, other.last), row=max(self.row, other.row))

    def left_of(self, layout: Layout, entry: Entry, row: Mapping[str, Any] | None) -> Entry | None:
        """What counts of an entry; None for nothing. The row is as it is stored, with what was
        written past Redis."""
        values: dict[str, Numbered] = {}
        operations: dict[str, Segments] = {}
        merges: dict[str, dict[str, Numbered]] = {}
        deleted = entry.deleted if entry.deleted > self.row else 0
        # The row goes, and what was written past Redis makes a new one.
        anew = deleted and self.last > deleted and row is not None
        for name in entry.names():
            until = self.void_until(name)
            value, segments = entry.values.get(name), entry.operations.get(name, ())
            since = None
            if value is not None and number_of(value) > until:
                values[name] = value
                since = number_of(value)
            elif value is not None:
                segments = (*entry.apart.get(name, ()), *segments)
            segments = tuple(s for s in segments if s.last > until)
            own = self.operations.get(name, ())
            if since is not None:
                segments = _in_order(segments, [s for s in own if s.last > since])
            elif own and segments and not (anew and until <= deleted):
                segments = _replayed(layout.columns.get(name), segments, own, row)
            if segments:
                operations[name] = segments
                if keys := self._merged_keys(entry, name, until):
                    merges[name] = keys
        last = max(entry.last, self.last)
        if anew:
            assert row is not None
            self._carry(layout, row, deleted, values, operations, merges)
            first = self.last
        else:
            something = values or operations or entry.last > self.last
            first = entry.first
            if not (entry.exists and something):
                return entry._replace(values={}, operations={}, last=deleted) if deleted else None
        return entry._replace(
            first=first,
            last=last,
            deleted=deleted,
            values=values,
            operations=operations,
            merges=merges,
            apart={},
        )

    def _merged_keys(self, entry: Entry, name: str, until: int) -> dict[str, Numbered]:
        """The keys of merges: of each key the last one. One counts if there is still a segment
        with its number."""
        own = self.merges.get(name, {})
        later = {
            key: value
            for key, value in entry.merges.get(name, {}).items()
            if number_of(value) > max(until, number_of(own[key]) if key in own else 0)
        }
        return {**own, **later}

    def _carry(
        self,
        layout: Layout,
        row: Mapping[str, Any],
        deleted: int,
        values: dict[str, Numbered],
        operations: dict[str, Segments],
        merges: dict[str, dict[str, Numbered]],
    ) -> None:
        """Take what was written past Redis after a delete, from the row that it was written to."""
        for name in {*self.values, *self.operations}:
            if name in values or name not in layout.columns:
                continue
            if self.void_until(name) > deleted:
                column = layout.columns[name]
                text = _text_of_stored(column, row[column.attname])
                values[name] = numbered(self.void_until(name), text)
            elif newer := tuple(s for s in self.operations.get(name, ()) if s.last > deleted):
                operations[name] = _in_order(operations.get(name, ()), newer)
                if keys := self.merges.get(name):
                    merges.setdefault(name, dict(keys))

    # In the table

    def dumped(self) -> str:
        return json.dumps([self.last, self.row, self.values, self.operations, self.merges])

    @classmethod
    def loaded(cls, text: str) -> Fence:
        last, row, values, operations, merges = json.loads(text)
        return cls(
            last,
            row,
            values,
            {name: tuple(Segment(*s) for s in found) for name, found in operations.items()},
            merges,
        )


def _replayed(
    column: Column | None, pending: Segments, own: Segments, row: Mapping[str, Any] | None
) -> Segments:
    """Pending operations on a stored value, which holds the outcome of newer ones. Sums are taken
    back first, where the order matters."""
    newer = tuple(s for s in own if s.last > pending[0].first)
    if not newer or column is None or column.kind is None or row is None:
        return pending
    replay = _in_order(pending, newer)
    # A number makes nothing of an object, and an object of a number: what came before is gone.
    turns = [i for i, (a, b) in enumerate(pairwise(replay)) if (a.sign == "&") != (b.sign == "&")]
    if turns:
        return replay[turns[-1] :]
    kind = column.kind
    if not all((s.sign, s.kind) == ("+", kind.code) for s in newer):
        return pending
    stored = row[column.attname]
    if stored is None or kind.number(stored) is None:  # NULL + 1 is NULL, as SQL has it
        return replay
    if all(s.sign == "+" for s in pending):
        return pending
    total = sum(kind.parse(s.operand) for s in newer)
    return (Segment(0, 0, "+", kind.code, str(-total)), *replay)


def _text_of_stored(column: Column, value: Any) -> str:
    """The text of a stored value. None in a JSON field that takes no NULL is JSON's null."""
    if value is None and isinstance(column.field, JSONField) and not column.field.null:
        return "[null]"
    return column.encode(value)


def _in_order(segments: Sequence[Segment], others: Sequence[Segment]) -> Segments:
    if not others:
        return tuple(segments)
    return tuple(sorted((*segments, *others), key=lambda segment: segment.last))


def _shortened(segments: list[Segment]) -> Segments:
    """The operations on a field; two alike that are neighbours become one where there are many."""
    if len(segments) > _MOST:
        for i, (older, newer) in enumerate(pairwise(segments)):
            if older[2:4] == newer[2:4]:
                operand = joined(newer.sign, older.operand, newer.operand)
                both = newer._replace(first=older.first, operand=operand)
                return (*segments[:i], both, *segments[i + 2 :])
    return tuple(segments)
