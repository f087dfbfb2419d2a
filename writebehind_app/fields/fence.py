"""A fence: what was written to a row past Redis, and so which pending writes still count.

A write past Redis goes to the database at once, while older writes may wait in Redis. Its fence
keeps the number up to which these are void, for the whole row or for each field.
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

_MOST = 20  # operations on a field; if there are more, some are joined and share a number


@dataclass(frozen=True, slots=True)
class Fence:
    """Which pending writes to a row are void."""

    last: int = 0  # the number of the last write past Redis
    row: int = 0  # all writes up to this number are void
    values: Mapping[str, int] = field(default_factory=dict)  # by field: writes up to it are void
    # Operations that were carried out on the stored values. They are carried out again on a pending
    # value that is older than they are.
    operations: Mapping[str, Segments] = field(default_factory=dict)
    merges: Mapping[str, Mapping[str, Numbered]] = field(default_factory=dict)

    def void_until(self, name: str) -> int:
        """The number up to which writes to a field are void."""
        return max(self.row, self.values.get(name, 0))

    def with_write(self, entry: Entry, number: int, *, whole: bool = False) -> Fence:
        """The fence after one more write past Redis. With `whole`, nothing older counts."""
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
        """The fence of a row, joined with the fence of its whole entity."""
        return replace(self, last=max(self.last, other.last), row=max(self.row, other.row))

    def left_of(self, layout: Layout, entry: Entry, row: Mapping[str, Any] | None) -> Entry | None:
        """What the fence leaves of an entry; None if nothing counts.

        `row` is the stored row. It contains what was written past Redis.
        """
        values: dict[str, Numbered] = {}
        operations: dict[str, Segments] = {}
        merges: dict[str, dict[str, Numbered]] = {}
        deleted = entry.deleted if entry.deleted > self.row else 0
        # The entry deletes the row, and a later write past Redis makes it again.
        anew = deleted and self.last > deleted and row is not None
        for name in entry.names():
            until = self.void_until(name)
            value, segments = entry.values.get(name), entry.operations.get(name, ())
            since = None
            if value is not None and number_of(value) > until:
                values[name] = value
                since = number_of(value)
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
        )

    def _merged_keys(self, entry: Entry, name: str, until: int) -> dict[str, Numbered]:
        """The keys that merges set: for each key, the last value. A key counts only if there is
        still a segment with its number."""
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
        """Take over what was written past Redis after the delete, from the stored row."""
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
    """Pending operations on a stored value that already contains newer operations.

    If their order matters, newer sums are subtracted first, and added again in their place.
    """
    newer = tuple(s for s in own if s.last > pending[0].first)
    if not newer or column is None or column.kind is None or row is None:
        return pending
    replay = _in_order(pending, newer)
    # A Merge replaces a number by an object, and an Add replaces an object by a number. So what
    # came before such a change is gone.
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
    """The text of a stored value. In a JSON field without NULL, None is JSON's null."""
    if value is None and isinstance(column.field, JSONField) and not column.field.null:
        return "[null]"
    return column.encode(value)


def _in_order(segments: Sequence[Segment], others: Sequence[Segment]) -> Segments:
    if not others:
        return tuple(segments)
    return tuple(sorted((*segments, *others), key=lambda segment: segment.last))


def _shortened(segments: list[Segment]) -> Segments:
    """The operations on a field. If there are many, two similar neighbours are joined."""
    if len(segments) > _MOST:
        for i, (older, newer) in enumerate(pairwise(segments)):
            if older[2:4] == newer[2:4]:
                operand = joined(newer.sign, older.operand, newer.operand)
                both = newer._replace(first=older.first, operand=operand)
                return (*segments[:i], both, *segments[i + 2 :])
    return tuple(segments)
