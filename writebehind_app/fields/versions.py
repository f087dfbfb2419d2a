"""Convert entries that were written under another version of a declaration.

Each write carries the version under which it was made. `upgrade()` gets the values of an older
version as plain JSON, as their fields may be gone. This code cannot know a newer version: reads
show as much of it as they can, and a flush leaves the entry to newer code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from django.core.exceptions import FieldError, ValidationError

from writebehind_app.exceptions import NewerVersion
from writebehind_app.fields.columns import Column, encoded
from writebehind_app.fields.entry import (
    DIGITS,
    Entry,
    Numbered,
    Segment,
    Segments,
    combined,
    numbered,
)
from writebehind_app.fields.kinds import MOMENTS, exact_decimal
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.limits import REFUSALS, excerpt, refusal
from writebehind_app.fields.operations import (
    DELETED,
    Add,
    Max,
    Merge,
    Min,
    Operation,
    is_current,
    keys_of,
    operation_texts,
)


class Upgrades(Protocol):
    """A declaration with a version and an `upgrade()`."""

    version: int

    def upgrade(self, values: dict[str, Any], version: int) -> dict[str, Any]: ...

    def names(self) -> Names: ...


class Names(Protocol):
    """Translates the names in an entry: to field names or meta keys, and to columns."""

    @property
    def is_entity(self) -> bool: ...

    @property
    def is_stamped(self) -> bool:
        """Whether each meta key has the time when its row was created."""

    def label(self, name: str) -> str: ...

    def name(self, label: str) -> str: ...

    def column(self, label: str) -> Column: ...


@dataclass(frozen=True)
class RowNames:
    """The names in the entry of a row or a record: they are its fields."""

    layout: Layout
    is_entity = False
    is_stamped = False

    def label(self, name: str) -> str:
        return name

    def name(self, label: str) -> str:
        return self.column(label).name

    def column(self, label: str) -> Column:
        column = self.layout.column(label)
        if column in self.layout.key:
            raise ValidationError({label: "The key of a row that was written stays what it is."})
        return column


def upgraded(buffer: Upgrades, entry: Entry) -> Entry:
    """The entry under the current version. A newer one stays as it is."""
    if entry.version == buffer.version and not entry.older:
        return entry
    layers = (*entry.older, entry._replace(older=()))
    return combined([_renewed(buffer, layer) for layer in layers])


def is_newer(buffer: Upgrades, entry: Entry) -> bool:
    """Whether only newer code can read the entry. A delete is the same in every version."""
    return entry.version > buffer.version and bool(entry.names())


def refuse_newer(buffer: Upgrades, entries: Sequence[Entry]) -> None:
    """Raise `NewerVersion` if only newer code can store one of the entries."""
    for entry in entries:
        for layer in (*entry.older, entry):
            if is_newer(buffer, layer):
                raise NewerVersion(
                    f"{buffer} has version {buffer.version}, and an entry was written under "
                    f"version {layer.version}: it waits for a flusher with that version."
                )


def current(buffer: Upgrades, entries: Sequence[Entry]) -> Sequence[Entry]:
    """The entries under the current version. Raise `NewerVersion` if this code cannot know them."""
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
    except FieldError as error:  # FieldError is not among REFUSALS
        raise ValidationError(str(error)) from error


_OPERATIONS = (Operation, tuple)


class _Part(NamedTuple):
    """What an entry writes to one field or one meta key."""

    value: Numbered | None = None
    segments: Segments = ()
    merges: Mapping[str, Numbered] = {}


def _upgraded(buffer: Upgrades, entry: Entry) -> Entry:
    names = buffer.names()
    parts = {
        names.label(name): _Part(
            entry.values.get(name),
            entry.operations.get(name, ()),
            entry.merges.get(name, {}),
        )
        for name in entry.names()
    }
    values = {label: _value(part) for label, part in parts.items()}
    returned: Any = buffer.upgrade(dict(values), entry.version)
    if not isinstance(returned, dict):
        raise TypeError(
            f"{buffer}: upgrade() must return a dict of values, not {excerpt(returned)}."
        )
    gone = [name for name in values if name not in returned]
    made = entry._replace(values={}, operations={}, merges={}, tombstones={}, firsts={})
    for key, value in returned.items():
        column, name = names.column(key), names.name(key)
        # Find the field that the value came from. `upgrade()` may have moved an operation: it is
        # found by its identity. Equal plain values cannot be told apart. If the source is not
        # found, the number of the entry's last write counts.
        sources = [n for n in values if values[n] is value and isinstance(value, _OPERATIONS)]
        if key in values and (values[key] is value or not sources):
            sources = [key]
        source = next(iter(sources or [n for n in gone if values[n] is value]), None)
        before = names.name(source) if source in parts and names.is_entity else source
        number = entry.number_of(before) if before else 0
        # upgrade() may have changed the value in place.
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
    return made


# What upgrade() gets


def _value(part: _Part) -> Any:
    """What `upgrade()` gets for a field: a JSON value, an operation, or a tuple of several."""
    operations: list[Operation] = []
    for segment in part.segments:
        if segment.sign == "&":
            keys = keys_of(segment, part.merges).items()
            operations.append(Merge({json.loads(key): json.loads(text) for key, text in keys}))
        else:
            operations.append(_operation(segment))
    if part.value is None:
        if not operations:
            return DELETED
        return operations[0] if len(operations) == 1 else tuple(operations)
    text = part.value[DIGITS:]
    value = json.loads(text)
    if text[:1] == "[":  # a JSONField
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


def _operation(segment: Segment) -> Operation:
    """A segment as an operation. A decimal stays exact; a date or time is a text, as in JSON."""
    operation = {"+": Add, ">": Max, "<": Min}[segment.sign]
    kind, operand = segment.kind, segment.operand
    if kind[:1] == "d":
        return operation(exact_decimal(int(operand), int(kind[1:])))
    if kind in MOMENTS:
        return operation(MOMENTS[kind].value(int(operand)).isoformat())
    return operation(json.loads(operand))


# What upgrade() returns


def _fits(column: Column, part: _Part) -> bool:
    """Whether a field can take this part unchanged."""
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
    """The part of an entry for what `upgrade()` returned for a field."""
    if value is DELETED:
        return _Part()
    if isinstance(value, tuple) and any(isinstance(each, Operation) for each in value):
        raise ValidationError(
            {
                column.name: "Several operations on a field can be passed on as they are, to a "
                f"field of the same kind, or left out; not {excerpt(value)}."
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
