"""What was written under another version of a declaration, as it is under this one.

An entry has the version under which it was written. What comes under another one while it is
pending is a layer of its own, in the order of the writes; see scripts/write.lua. `upgrade()` gets
the values of an older layer as JSON has them, as the fields they were for may be gone, and says
what they are now. A newer layer is nothing that this code can know: reads show of it what they
can, and a flush leaves it to newer code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.exceptions import FieldError, ValidationError
from django.db import models

from writebehind_app.buffers.columns import Column
from writebehind_app.buffers.layout import Layout, encoded
from writebehind_app.buffers.operations import (
    DELETED,
    Add,
    Max,
    Merge,
    Min,
    Operation,
    exact_decimal,
    is_current,
    is_kept_operation,
    kept,
    merged_field,
    operation_texts,
)
from writebehind_app.buffers.refusals import REFUSALS, refusal, shown
from writebehind_app.exceptions import NewerVersion
from writebehind_app.store.codec import APART, Entry

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration

Texts = dict[str, str]  # of one field: by '', or by ':"key"' for what is merged into it


def layers(buffer: Declaration, entry: Entry) -> list[Entry]:
    """What was written to an entry, version by version, as far as this code can know it."""
    return [_renewed(buffer, layer) for layer in (*entry.older, entry)]


def readable(buffer: Declaration, entry: Entry) -> list[Entry]:
    """The same, for who reads: nothing of what will not be stored."""
    try:
        return layers(buffer, entry)
    except REFUSALS:
        return []


def current(buffer: Declaration, entries: Sequence[Entry]) -> Sequence[Entry]:
    """The same of many, to be stored; `NewerVersion` where only newer code can do that."""
    if all(entry.version == buffer.version and not entry.older for entry in entries):
        return entries
    found = [layer for entry in entries for layer in layers(buffer, entry)]
    for layer in found:
        if layer.version > buffer.version and layer.texts:
            raise NewerVersion(
                f"{buffer} has version {buffer.version}, and something was written to it under "
                f"version {layer.version}: it waits for a flusher of that version."
            )
    return found


def _renewed(buffer: Declaration, entry: Entry) -> Entry:
    if entry.version >= buffer.version or entry.broken or not entry.texts:
        return entry._replace(older=()) if entry.older else entry
    try:
        return buffer.upgraded(entry)._replace(version=buffer.version, older=())
    except FieldError as error:  # REFUSALS are those of values, and have none
        raise ValidationError(str(error)) from error


# The values of an entry, and what upgrade() makes of them


class Renewed(NamedTuple):
    """A field after upgrade()."""

    texts: Texts
    source: str | None  # the field that it was before, if it was one
    is_same: bool  # whether nothing but its name is another


def renewed(
    buffer: Declaration,
    version: int,
    given: Mapping[str, Texts],
    values: dict[str, Any],
    column_of: Callable[[str], Column],
) -> dict[str, Renewed]:
    """What `upgrade()` makes of values, by its names."""
    returned: Any = buffer.upgrade(dict(values), version)
    if not isinstance(returned, dict):
        raise TypeError(f"{buffer}: upgrade() must return a dict of values, not {shown(returned)}.")
    gone = [name for name in values if name not in returned]
    using = buffer.layout().using
    found = {}
    for name, value in returned.items():
        column = column_of(name)
        sources = [name] if name in values else [n for n in gone if values[n] is value]
        source = next(iter(sources), None)
        # It may have been changed in place.
        is_same = source is not None and values[source] is value == value_of(given[source])
        if source is not None and is_same and _fit(column, given[source], using):
            found[name] = Renewed(given[source], source, True)
        else:
            # Of two that change places, or become one, nobody knows: the time of the last counts.
            found[name] = Renewed(_texts(column, value, using), source, False)
    return found


def upgraded(buffer: Declaration, layout: Layout, entry: Entry) -> Entry:
    """What `upgrade()` makes of an entry of a row, or of a record."""
    given: dict[str, Texts] = {}
    for name, text in entry.texts.items():
        field = merged_field(name)
        given.setdefault(field or name, {})[name.removeprefix(f"&{field}") if field else ""] = text

    def column_of(name: str) -> Column:
        column = layout.column(name)
        if column in layout.key:
            raise ValidationError({name: "The key of a row that was written stays what it is."})
        return column

    values = {field: value_of(texts) for field, texts in given.items()}
    fields = renewed(buffer, entry.version, given, values, column_of)
    texts: dict[str, str] = {}
    times: dict[str, str] = {}
    apart: dict[str, str] = {}
    for alias, (own, source, is_same) in fields.items():
        field = column_of(alias).name
        if not own:
            raise ValidationError({field: "DELETED is for meta keys."})
        for suffix, text in own.items():
            texts[_name(field, suffix)] = text
            before = _name(source or "", suffix)
            times[_name(field, suffix)] = entry.times.get(before, f"{entry.at:016}")
        if is_same and source in entry.apart:
            apart[field] = entry.apart[source]
            times[APART + field] = entry.times[APART + source]
    relative = any(merged_field(name) or is_kept_operation(t) for name, t in texts.items())
    return entry._replace(texts=texts, times=times, apart=apart, relative=relative)


def _name(field: str, suffix: str) -> str:
    return f"&{field}{suffix}" if suffix else field


def value_of(texts: Texts) -> Any:
    """What is written to a field: a value as JSON has it, an operation, or several in a tuple."""
    if not texts:
        return DELETED
    operations: list[Operation] = []
    merge = {
        json.loads(suffix[1:]): json.loads(text) for suffix, text in texts.items() if suffix[1:]
    }
    has_merge = any(suffix for suffix in texts)
    if "" in texts:
        text = texts[""]
        if not is_kept_operation(text):
            value = json.loads(text)
            if text[:1] == "[":  # of a JSONField
                (value,) = value
            if not has_merge:
                return value
            return {**(value if isinstance(value, dict) else {}), **merge}
        operations = _operations(text)
    if has_merge:
        operations.append(Merge(merge))
    return operations[0] if len(operations) == 1 else tuple(operations)


def _operations(text: str) -> list[Operation]:
    """In the order in which they apply. Numbers are as exact as they were."""
    kind, parts = text[0], text[1:].split(",")

    def number(part: str) -> Any:
        if kind == "#" and parts[-1]:
            return exact_decimal(int(part), int(parts[-1]))
        return json.loads(part)

    found: list[Operation] = []
    if kind in "#$":
        add, low, high, *_ = parts
        found += [Add(number(add))] if add != "0" else []
    else:
        low, high, _ = parts
    found += [Max(number(low))] if low else []
    found += [Min(number(high))] if high else []
    return found or [Add(0)]


def _fit(column: Column, texts: Texts, using: str) -> bool:
    """Whether texts of a field mean the same to this one."""
    try:
        text = texts.get("")
        is_json = isinstance(column.field, models.JSONField)
        if len(texts) > (text is not None) and not is_json:  # something is merged into it
            return False
        if text is None:
            return True
        if is_kept_operation(text):
            return is_current(column, text, using)
        return column.encode(column.decode(text)) == text
    except REFUSALS:
        return False


def _texts(column: Column, value: Any, using: str) -> Texts:
    """The texts of what upgrade() returned for a field."""
    if value is DELETED:
        return {}
    if isinstance(value, tuple) and any(isinstance(each, Operation) for each in value):
        raise ValidationError(
            {
                column.name: "Several operations on a field can be passed on as they are, to a "
                f"field of the same kind, or left out; not {shown(value)}."
            }
        )
    if not isinstance(value, Operation):
        return {"": encoded(column, value)}
    try:
        texts = operation_texts(column, value, using)
    except REFUSALS as error:
        raise ValidationError({column.name: refusal(column.field, value, error)}) from error
    if isinstance(value, Merge):
        return {name.removeprefix(f"&{column.name}"): text for name, text in texts.items()}
    return {"": kept(texts[column.name])}
