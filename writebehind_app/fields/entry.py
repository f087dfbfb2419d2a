"""The pending state of one row, as plain data.

A number says when a write was accepted: microseconds by Redis' clock, raised so that they only
grow. Numbers order the writes of a shard, and they are what a fence compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, KeysView, Mapping, Sequence
from json.encoder import encode_basestring as json_string
from typing import Any, NamedTuple

SIGNS = "+><&"  # what the text of an operation begins with; JSON never does


# A value as an entry keeps it: the number of the write that set it, in 16 digits, and its JSON.
Numbered = str
DIGITS = 16
_GREATEST = 10**DIGITS - 1


def numbered(number: int, text: str) -> Numbered:
    """A JSON text with its number, which somebody else may have made too long."""
    return f"{min(number, _GREATEST):0{DIGITS}}{text}"


def number_of(value: Numbered) -> int:
    """The number of a value."""
    return int(value[:DIGITS])


class Segment(NamedTuple):
    """One operation on a field, or several that were merged into one."""

    first: int  # the number of the first write in it
    last: int  # and of the last one
    sign: str  # "+" Add, ">" Max, "<" Min, "&" Merge, "=" see `operations.normal_form`
    kind: str  # how the operand is written, see `operations.Kind`
    operand: str


Segments = tuple[Segment, ...]


class Entry(NamedTuple):
    """What is pending, or in flight, for one row, one entity of metadata, or one record.

    Of a row, the names are those of its fields. Of an entity they are its meta keys in JSON, and
    each stands for a row of its own; `EntityLayout.row_entries` takes them apart.
    """

    id: str  # the key as text; of a record, its number
    first: int  # the number of the first write after the last delete
    last: int  # the number of the last write
    deleted: int = 0  # the number of the last delete: the stored row goes first
    values: dict[str, Numbered] = {}
    operations: dict[str, Segments] = {}  # those after the value
    merges: dict[str, dict[str, Numbered]] = {}  # keys that a Merge sets, in JSON
    apart: dict[str, Segments] = {}  # operations that the value holds: they count if it is void
    tombstones: dict[str, int] = {}  # meta keys whose row goes first, and when
    firsts: dict[str, int] = {}  # when the row of a meta key came to be
    version: int = 0  # of the declaration, when it was written
    older: tuple[Entry, ...] = ()  # what was written under other versions, in order
    once: tuple[str, ...] = ()  # digests of the idempotency keys of its writes
    broken: str = ""  # why it cannot be understood
    no: int = 0  # names the entry: a write after it was claimed begins another one
    head: str = ""  # differs after each write
    writes: int = 1  # how many are in it
    since: int = 0  # when the first of them came

    @property
    def exists(self) -> bool:
        """Whether something was written after the delete, so that there is a row afterwards."""
        return self.last > self.deleted

    def names(self) -> KeysView[str]:
        """The fields that the entry changes."""
        if not (self.operations or self.tombstones):
            return self.values.keys()
        return {**self.values, **self.operations, **self.tombstones}.keys()

    def texts(self) -> dict[str, str]:
        """What it writes, for people who see what could not be understood."""
        if self.broken:
            return self.values
        found = {name: value[DIGITS:] for name, value in self.values.items()}
        for name, segments in self.operations.items():
            for sign, kind, operand in (segment[2:] for segment in segments):
                found[name] = found.get(name, "") + f"{sign}{kind}:{operand}"
        for name, keys in self.merges.items():
            found |= {merge_name(name, key): value[DIGITS:] for key, value in keys.items()}
        return found | {name: "!" for name in self.tombstones if name not in found}

    def number_of(self, name: str) -> int:
        """The number of the last write to a field; 0 for none."""
        value, segments = self.values.get(name), self.operations.get(name)
        others = (*self.apart.get(name, ()), *(segments or ()))
        return max(number_of(value) if value else 0, *(s.last for s in others), 0)

    def only(self, names: Iterable[str]) -> Entry:
        """The entry with these fields alone."""
        kept = set(names)
        if self.values.keys() <= kept and self.operations.keys() <= kept:
            return self
        return self._replace(
            values={name: v for name, v in self.values.items() if name in kept},
            operations={name: s for name, s in self.operations.items() if name in kept},
            merges={name: m for name, m in self.merges.items() if name in kept},
            apart={name: s for name, s in self.apart.items() if name in kept},
        )


def entry_of(
    id: str, texts: Mapping[str, str], number: int, *, delete: bool = False, **more: Any
) -> Entry:
    """The entry of a single write: texts as `Layout.encode` makes them."""
    values: dict[str, Numbered] = {}
    operations: dict[str, Segments] = {}
    merges: dict[str, dict[str, Numbered]] = {}
    tombstones: dict[str, int] = {}
    for name, text in texts.items():
        if text == "!":
            tombstones[name] = number
        elif name[:1] == "&":
            field, _, key = name[1:].partition(":")
            merges.setdefault(field, {})[key] = numbered(number, text)
        elif text[:1] in SIGNS:
            kind, _, operand = text[1:].partition(":")
            operations[name] = (Segment(number, number, text[0], kind, operand),)
        else:
            values[name] = numbered(number, text)
    deleted = number if delete else 0
    return Entry(
        id,
        number,
        number,
        deleted,
        values,
        operations,
        merges,
        tombstones=tombstones,
        since=number,
        **more,
    )


def merge_name(field: str, key: str) -> str:
    """The name of a key that a Merge sets in a field; the key is JSON."""
    return f"&{field}:{key}"


def merge_key(key: str) -> str:
    """A key of a JSON object as it stands in the name of a merge."""
    return json_string(key)


def combined(entries: Sequence[Entry]) -> Entry:
    """One entry of one row in place of several, in the order of their writes."""
    found = entries[0]
    for later in entries[1:]:
        found = _followed(found, later)
    return found


def _followed(entry: Entry, later: Entry) -> Entry:
    once = tuple(dict.fromkeys((*entry.once, *later.once)))
    if later.deleted:
        return later._replace(once=once, since=entry.since, writes=entry.writes + later.writes)
    values, operations = dict(entry.values), dict(entry.operations)
    merges, apart, firsts = dict(entry.merges), dict(entry.apart), dict(entry.firsts)
    for name in later.tombstones:
        values.pop(name, None)
        firsts.pop(name, None)
    for name in (*later.values, *later.tombstones):
        for of_before in (operations, merges, apart):
            of_before.pop(name, None)
    values |= later.values
    apart |= later.apart
    for name, segments in later.operations.items():
        operations[name] = (*operations.get(name, ()), *segments)
    for name, keys in later.merges.items():
        merges[name] = {**merges.get(name, {}), **keys}
    return later._replace(
        first=entry.first if entry.exists else later.first,
        deleted=entry.deleted,
        values=values,
        operations=operations,
        merges=merges,
        apart=apart,
        tombstones={**entry.tombstones, **later.tombstones},
        firsts={**later.firsts, **firsts},
        once=once,
        since=entry.since,
        writes=entry.writes + later.writes,
    )


# For the table of dead letters


def dumped(entry: Entry) -> str:
    """An entry as JSON."""
    return json.dumps(_parts(entry))


def _parts(entry: Entry) -> dict[str, Any]:
    default = Entry._field_defaults
    parts = {n: v for n, v in entry._asdict().items() if n not in default or v != default[n]}
    if entry.older:
        parts["older"] = [_parts(layer) for layer in entry.older]
    return parts


def loaded(text: str) -> Entry:
    """The entry that `dumped` wrote, also in another release, unless that says what this one has no
    name for; TypeError or ValueError for anything else."""
    return _entry(json.loads(text))


def _entry(parts: Any) -> Entry:
    if not isinstance(parts, dict) or any(parts[name] for name in parts.keys() - _KINDS.keys()):
        raise TypeError("This is no entry.")
    for name, value in parts.items():
        if name in _KINDS and type(value) is not _KINDS[name]:
            raise TypeError(f"This is no entry: {name} is {value!r}.")
    entry = Entry(**{name: value for name, value in parts.items() if name in _KINDS})
    if not all(isinstance(keys, dict) for keys in entry.merges.values()):
        raise TypeError(f"This is no entry: merges is {entry.merges!r}.")
    keys = [key for keys in entry.merges.values() for key in keys.values()]
    for value in (*entry.values.values(), *keys):
        if type(value) is not str or not (entry.broken or value[:DIGITS].isdigit()):
            raise TypeError(f"This is no value: {value!r}.")
    return entry._replace(
        operations={name: tuple(map(_segment, s)) for name, s in entry.operations.items()},
        apart={name: tuple(map(_segment, s)) for name, s in entry.apart.items()},
        older=tuple(map(_entry, entry.older)),
        once=tuple(entry.once),
    )


_KINDS: dict[str, type] = {
    **dict.fromkeys(("id", "broken", "head"), str),
    **dict.fromkeys(("first", "last", "deleted", "version", "no", "writes", "since"), int),
    **dict.fromkeys(("values", "operations", "merges", "apart", "tombstones", "firsts"), dict),
    **dict.fromkeys(("older", "once"), list),
}


def _segment(parts: Any) -> Segment:
    segment = Segment(*parts)
    if [type(part) for part in segment] != [int, int, str, str, str]:
        raise TypeError(f"This is no segment: {parts!r}.")
    return segment
