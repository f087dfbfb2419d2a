"""What was written under another version of a declaration, as it is under this one.

Each write has the version under which it was made. `upgrade()` gets what an older version wrote,
as JSON has it, as the fields that it was for may be gone. What a newer version wrote is nothing
that this code can know: reads show of it what they can, and a flush leaves it to newer code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from django.core.exceptions import FieldError, ValidationError

from writebehind_app.exceptions import NewerVersion
from writebehind_app.fields.columns import Column
from writebehind_app.fields.entry import (
    DIGITS,
    Entry,
    Numbered,
    Segment,
    Segments,
    combined,
    numbered,
)
from writebehind_app.fields.layout import Layout, encoded
from writebehind_app.fields.limits import REFUSALS, refusal, shown
from writebehind_app.fields.operations import (
    DELETED,
    Add,
    Max,
    Merge,
    Min,
    Operation,
    exact_decimal,
    is_current,
    keys_of,
    operation_texts,
)


class Upgrades(Protocol):
    """What has a version, and can take what an older one wrote."""

    version: int

    def upgrade(self, values: dict[str, Any], version: int) -> dict[str, Any]: ...

    def names(self) -> Names: ...


class Names(Protocol):
    """What the names of an entry are called, and which columns they are for."""

    @property
    def is_entity(self) -> bool: ...

    @property
    def is_stamped(self) -> bool:
        """Whether meta keys have times of their own."""

    def shown(self, name: str) -> str: ...

    def name(self, shown: str) -> str: ...

    def column(self, shown: str) -> Column: ...


@dataclass(frozen=True)
class RowNames:
    """The names in the entry of a row, or of a record: its fields."""

    layout: Layout
    is_entity = False
    is_stamped = False

    def shown(self, name: str) -> str:
        return name

    def name(self, shown: str) -> str:
        return self.column(shown).name

    def column(self, shown: str) -> Column:
        column = self.layout.column(shown)
        if column in self.layout.key:
            raise ValidationError({shown: "The key of a row that was written stays what it is."})
        return column


def upgraded(buffer: Upgrades, entry: Entry) -> Entry:
    """The entry under the current version, as far as this code can know it."""
    if entry.version == buffer.version and not entry.older:
        return entry
    layers = (*entry.older, entry._replace(older=()))
    found = combined([_renewed(buffer, layer) for layer in layers])
    return found._replace(no=entry.no, head=entry.head)


def is_newer(buffer: Upgrades, entry: Entry) -> bool:
    """Whether only newer code knows what was written. A delete is the same in every version."""
    return entry.version > buffer.version and bool(entry.names())


def refuse_newer(buffer: Upgrades, entries: Sequence[Entry]) -> None:
    """`NewerVersion` where only newer code can store one of the entries."""
    for entry in entries:
        for layer in (*entry.older, entry):
            if is_newer(buffer, layer):
                raise NewerVersion(
                    f"{buffer} has version {buffer.version}, and something was written to it under "
                    f"version {layer.version}: it waits for a flusher of that version."
                )


def current(buffer: Upgrades, entries: Sequence[Entry]) -> Sequence[Entry]:
    """The entries under the current version, to be stored."""
    if all(entry.version == buffer.version and not entry.older for entry in entries):
        return entries
    refuse_newer(buffer, entries)
    return [upgraded(buffer, entry) for entry in entries]


def _renewed(buffer: Upgrades, entry: Entry) -> Entry:
    if entry.version >= buffer.version or entry.broken:
        return entry
    if not entry.names():
        return entry._replace(version=buffer.version)
    try:
        return _upgraded(buffer, entry)._replace(version=buffer.version)
    except FieldError as error:  # REFUSALS are those of values, and have none
        raise ValidationError(str(error)) from error


_OPERATIONS = (Operation, tuple)


class _Part(NamedTuple):
    """What an entry writes to one field, or to one meta key."""

    value: Numbered | None = None
    segments: Segments = ()
    merges: Mapping[str, Numbered] = {}
    apart: Segments = ()


def _upgraded(buffer: Upgrades, entry: Entry) -> Entry:
    names = buffer.names()
    parts = {
        names.shown(name): _Part(
            entry.values.get(name),
            entry.operations.get(name, ()),
            entry.merges.get(name, {}),
            entry.apart.get(name, ()),
        )
        for name in entry.names()
    }
    values = {shown: _value(part) for shown, part in parts.items()}
    returned: Any = buffer.upgrade(dict(values), entry.version)
    if not isinstance(returned, dict):
        raise TypeError(f"{buffer}: upgrade() must return a dict of values, not {shown(returned)}.")
    gone = [name for name in values if name not in returned]
    made = entry._replace(values={}, operations={}, merges={}, apart={}, tombstones={}, firsts={})
    for key, value in returned.items():
        column, name = names.column(key), names.name(key)
        # Operations are made for one field, and say by themselves of which. Of two values that
        # change places, or become one, nobody knows: the number of the last counts.
        sources = [n for n in values if values[n] is value and isinstance(value, _OPERATIONS)]
        if key in values and (values[key] is value or not sources):
            sources = [key]
        source = next(iter(sources or [n for n in gone if values[n] is value]), None)
        before = names.name(source) if source in parts and names.is_entity else source
        number = entry.number_of(before) if before else 0
        # It may have been changed in place.
        is_same = source is not None and values[source] is value == _value(parts[source])
        if source is not None and is_same and _fits(column, parts[source]):
            part = parts[source]
        else:
            part = _part(column, value, number or entry.last)
        if before in entry.tombstones:
            made.tombstones[name] = entry.tombstones[before]
        if before in entry.firsts:
            made.firsts[name] = entry.firsts[before]
        if value is DELETED:
            if not names.is_entity:
                raise ValidationError({key: "DELETED is for meta keys."})
            made.tombstones.setdefault(name, entry.last)
        if part.value is not None:
            made.values[name] = part.value
        if part.segments:
            made.operations[name] = part.segments
        if part.merges:
            made.merges[name] = dict(part.merges)
        if part.apart:
            made.apart[name] = part.apart
    return made


# What upgrade() gets


def _value(part: _Part) -> Any:
    """What is written to a field: a value as JSON has it, an operation, or several in a tuple."""
    operations: list[Operation] = []
    for segment in part.segments:
        if segment.sign == "&":
            keys = keys_of(segment, part.merges).items()
            operations.append(Merge({json.loads(key): json.loads(text) for key, text in keys}))
        else:
            operations += _operations(segment)
    if part.value is None:
        if not operations:
            return DELETED
        return operations[0] if len(operations) == 1 else tuple(operations)
    text = part.value[DIGITS:]
    value = json.loads(text)
    if text[:1] == "[":  # of a JSONField
        (value,) = value
    if not operations:
        return value
    if all(isinstance(operation, Merge) for operation in operations):
        merged = dict(value) if isinstance(value, dict) else {}
        for operation in operations:
            assert isinstance(operation, Merge)
            merged |= operation.values
        return merged
    return (value, *operations)


def _operations(segment: Segment) -> list[Operation]:
    """In the order in which they apply. Numbers are as exact as they were."""
    places = segment.kind[1:]

    def number(text: str) -> Any:
        return exact_decimal(int(text), int(places)) if places else json.loads(text)

    if segment.sign != "=":
        operation = {"+": Add, ">": Max, "<": Min}[segment.sign]
        return [operation(number(segment.operand))]
    add, low, high, _ = segment.operand.split(",")
    found: list[Operation] = []
    found += [Add(number(add))] if add not in ("", "0") else []
    found += [Max(number(low))] if low else []
    found += [Min(number(high))] if high else []
    return found or [Add(0)]


# What upgrade() returns


def _fits(column: Column, part: _Part) -> bool:
    """Whether what was written to a field means the same to this one."""
    try:
        if not all(is_current(column, segment) for segment in part.segments):
            return False
        if part.value is None:
            return True
        text = part.value[DIGITS:]
        value = column.decode(text)
        return text == "[null]" or column.encode(value) == text
    except REFUSALS:
        return False


def _part(column: Column, value: Any, number: int) -> _Part:
    """What upgrade() returned for a field, as an entry has it."""
    if value is DELETED:
        return _Part()
    if isinstance(value, tuple) and any(isinstance(each, Operation) for each in value):
        raise ValidationError(
            {
                column.name: "Several operations on a field can be passed on as they are, to a "
                f"field of the same kind, or left out; not {shown(value)}."
            }
        )
    if not isinstance(value, Operation):
        return _Part(numbered(number, encoded(column, value)))
    try:
        texts = operation_texts(column, value)
    except REFUSALS as error:
        raise ValidationError({column.name: refusal(column.field, value, error)}) from error
    sign, (kind, _, operand) = texts[column.name][0], texts[column.name][1:].partition(":")
    merges = {
        name.partition(":")[2]: numbered(number, text)
        for name, text in texts.items()
        if name[:1] == "&"
    }
    return _Part(segments=(Segment(number, number, sign, kind, operand),), merges=merges)
