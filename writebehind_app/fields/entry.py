"""The pending state of one row, as plain data.

Each write has a number: the time in microseconds by Redis' clock, raised so that numbers only grow.
Numbers order the writes of a shard, and fences compare them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence
from json.encoder import encode_basestring as json_string
from typing import Any, NamedTuple

SIGNS = "+><&"  # the text of an operation begins with one of these; JSON never does


# A value as an entry keeps it: the number of the write that set it, in 16 digits, and its JSON.
Numbered = str
DIGITS = 16
_GREATEST = 10**DIGITS - 1


def numbered(number: int, text: str) -> Numbered:
    """A JSON text with its number. A number that is too long is cut to the greatest one."""
    return f"{min(number, _GREATEST):0{DIGITS}}{text}"


def number_of(value: Numbered) -> int:
    """The number of a value."""
    return int(value[:DIGITS])


class Segment(NamedTuple):
    """One operation on a field, or several that were joined to one."""

    first: int  # the number of the first write in it
    last: int  # the number of the last write in it
    sign: str  # "+" Add, ">" Max, "<" Min, "&" Merge
    kind: str  # how the operand is written, see `kinds.Kind`
    operand: str

    def has_set(self, numbers: Iterable[int]) -> bool:
        """Whether it is a Merge that has set a key under one of these numbers."""
        return self.sign == "&" and any(self.first <= number <= self.last for number in numbers)


Segments = tuple[Segment, ...]


class Entry(NamedTuple):
    """One unflushed entry: of a row, of an entity of metadata, or of a record.

    In the entry of a row, the names are its fields. In the entry of an entity, they are its meta
    keys as JSON. Each meta key is a row; `EntityLayout.row_entries` splits the entry.
    """

    id: str  # the key as text; for a record, its number
    first: int  # the number of the first write after the last delete
    last: int  # the number of the last write
    deleted: int = 0  # the number of the last delete: the stored row is deleted first
    values: dict[str, Numbered] = {}
    operations: dict[str, Segments] = {}  # the operations after the value
    merges: dict[str, dict[str, Numbered]] = {}  # the keys that a Merge sets, as JSON
    tombstones: dict[str, int] = {}  # meta keys whose row is deleted first: the delete's number
    firsts: dict[str, int] = {}  # meta keys: the number of the write that created the row
    version: int = 0  # the version of the declaration that wrote it
    older: tuple[Entry, ...] = ()  # what other versions wrote before, in order
    once: tuple[str, ...] = ()  # digests of the idempotency keys of its writes
    broken: str = ""  # why it cannot be read
    since: int = 0  # the number of its first write; after a claim, a write begins a new entry

    @property
    def exists(self) -> bool:
        """Whether there is a row afterwards: something was written after the last delete."""
        return self.last > self.deleted

    def names(self) -> KeysView[str]:
        """The fields that the entry changes."""
        if not (self.operations or self.tombstones):
            return self.values.keys()
        return {**self.values, **self.operations, **self.tombstones}.keys()

    def texts(self) -> dict[str, str]:
        """What the entry writes, as raw texts: for people, where it cannot be decoded."""
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
        """The number of the last write to a field; 0 if there is none."""
        value, segments = self.values.get(name), self.operations.get(name)
        return max(number_of(value) if value else 0, *(s.last for s in segments or ()), 0)

    def numbers(self) -> set[int]:
        """The numbers of what it writes. For operations that were joined, the last number."""
        found = {*map(number_of, self.values.values())}
        found |= {each.last for segments in self.operations.values() for each in segments}
        return found | {
            number_of(value) for keys in self.merges.values() for value in keys.values()
        }

    def part(self, counts: Callable[[int], bool]) -> Entry:
        """The entry with what was written under the numbers that count."""
        operations: dict[str, Segments] = {}
        merges: dict[str, dict[str, Numbered]] = {}
        for name, segments in self.operations.items():
            keys = {k: v for k, v in self.merges.get(name, {}).items() if counts(number_of(v))}
            # Keys have numbers of their own. A Merge that set any of them counts, too.
            numbers = [*map(number_of, keys.values())]
            kept = tuple(s for s in segments if counts(s.last) or s.has_set(numbers))
            if kept:
                operations[name] = kept
            if keys:
                merges[name] = keys
        values = {name: v for name, v in self.values.items() if counts(number_of(v))}
        return self._replace(values=values, operations=operations, merges=merges)

    def only(self, names: Iterable[str]) -> Entry:
        """The entry with these fields only."""
        kept = set(names)
        if self.values.keys() <= kept and self.operations.keys() <= kept:
            return self
        return self._replace(
            values={name: v for name, v in self.values.items() if name in kept},
            operations={name: s for name, s in self.operations.items() if name in kept},
            merges={name: m for name, m in self.merges.items() if name in kept},
        )


def entry_of(
    id: str, texts: Mapping[str, str], number: int, *, delete: bool = False, **more: Any
) -> Entry:
    """The entry of a single write, from texts that `Layout.encode` made."""
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
    """The name in an entry for a key that a Merge sets. The key is JSON."""
    return f"&{field}:{key}"


def field_of(name: str) -> str:
    """The field or meta key that a name in the texts of a write belongs to."""
    return name[1:].partition(":")[0] if name[:1] == "&" else name


def merge_key(key: str) -> str:
    """A key of a JSON object, as `merge_name` takes it."""
    return json_string(key)


def combined(entries: Sequence[Entry]) -> Entry:
    """Join several entries of one row, given in the order of their writes."""
    found = entries[0]
    for later in entries[1:]:
        found = _followed(found, later)
    return found


def _followed(entry: Entry, later: Entry) -> Entry:
    once = tuple(dict.fromkeys((*entry.once, *later.once)))
    if later.deleted:
        return later._replace(once=once, since=entry.since)
    values, operations = dict(entry.values), dict(entry.operations)
    merges, firsts = dict(entry.merges), dict(entry.firsts)
    for name in later.tombstones:
        values.pop(name, None)
        firsts.pop(name, None)
    for name in (*later.values, *later.tombstones):
        operations.pop(name, None)
        merges.pop(name, None)
    values |= later.values
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
        tombstones={**entry.tombstones, **later.tombstones},
        firsts={**later.firsts, **firsts},
        once=once,
        since=entry.since,
    )


# For the table of dead letters


def dumped(entry: Entry, *, ensure_ascii: bool = True) -> str:
    """An entry as JSON."""
    return json.dumps(_parts(entry), ensure_ascii=ensure_ascii)


def _parts(entry: Entry) -> dict[str, Any]:
    default = Entry._field_defaults
    parts = {n: v for n, v in entry._asdict().items() if n not in default or v != default[n]}
    if entry.older:
        parts["older"] = [_parts(layer) for layer in entry.older]
    return parts


def loaded(text: str) -> Entry:
    """The entry that `dumped` wrote. Raises TypeError or ValueError for any other text.

    Another release may have written it, if it uses no names that this release does not know.
    """
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
        older=tuple(map(_entry, entry.older)),
        once=tuple(entry.once),
    )


_KINDS: dict[str, type] = {
    **dict.fromkeys(("id", "broken"), str),
    **dict.fromkeys(("first", "last", "deleted", "version", "since"), int),
    **dict.fromkeys(("values", "operations", "merges", "tombstones", "firsts"), dict),
    **dict.fromkeys(("older", "once"), list),
}


def _segment(parts: Any) -> Segment:
    segment = Segment(*parts)
    if [type(part) for part in segment] != [int, int, str, str, str]:
        raise TypeError(f"This is no segment: {parts!r}.")
    return segment
