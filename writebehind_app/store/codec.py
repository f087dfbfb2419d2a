"""The format of an entry in Redis. An entry is a hash; a record of a log is an entry of a stream.

| name | text |
|---|---|
| `#`, `@` | the numbers of the first and the last write |
| `!` | the number of the last delete; it stands in place of `@` until the next write |
| `^` | the number of the first write after that delete |
| `|` | the number at which a save closed the sums |
| `status` | a value: the number of its write, in 16 digits, and JSON |
| `+status` | the operations on a field: `first,last,kind,operand` of each, the newest first |
| `&status:"key"` | a key that a Merge sets, written like a value |
| `"section"` | the value of a meta key |
| `!"section"`, `#"section"` | the numbers of the writes that deleted and created its row |
| `*digest` | the number of a write with an idempotency key |

A name with `3|` in front, as in `3|status`, was written under version 3 of the declaration.

Another program may write anything to Redis. A hash that cannot be read becomes a broken entry: a
flush makes a dead letter of it, and reads show the row without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from writebehind_app import conf
from writebehind_app.fields.entry import (
    DIGITS,
    SIGNS,
    Entry,
    Numbered,
    Segment,
    Segments,
    number_of,
    numbered,
)

_NAME = re.compile(r"([!#&*+]?)(?:([0-9]{1,9})\|)?([^!#&*+].*)", re.DOTALL)
_WHOLE = re.compile("[0-9]{1,18}")
_DIGEST = re.compile("[0-9a-z]{1,40}")
_LAST = 253_370_764_800_000_000  # the year 9999: the end of datetime and of each database
_SHOWN = 1000  # the most texts, and characters of each, that a broken entry keeps


class Unreadable(ValueError):
    """The entry cannot be read: the package did not write it."""


def understood(entries: Sequence[Entry]) -> Sequence[Entry]:
    """The same entries. Raise `Unreadable` if one of them is broken."""
    for entry in entries:
        if entry.broken:
            raise Unreadable(f"The package did not write this: {entry.broken}.")
    return entries


def decoder(*, is_log: bool) -> Callable[[str, Sequence[str]], Entry | None]:
    """The function that decodes the entries, or the records, of a shard."""
    return record if is_log else entry


def entry(id: str, flat: Sequence[str]) -> Entry | None:
    """The entry in an answer of HGETALL; None if the answer is empty."""
    if not flat:
        return None
    texts = dict(zip(flat[::2], flat[1::2]))  # noqa: B905 - HGETALL gives pairs
    if max(map(len, flat)) > conf.settings().MAX_VALUE_BYTES + _SHOWN:
        return broken(id, "a text is too long", flat)
    try:
        first = int(texts.pop("#"))
        last = int(texts.pop("@", 0))
        if texts and not "".join(texts).isidentifier():
            return _with_sums(id, first, last, texts) or _with_marks(id, first, last, texts)
        digits = "".join(map(_digits, texts.values()))
        if texts and not (len(digits) == DIGITS * len(texts) and _is_number(digits)):
            return broken(id, "a value has no number", flat)
    except KeyError:
        return broken(id, "it has no number", flat)
    except ValueError as error:
        return broken(id, str(error)[:_SHOWN], flat)
    if not 0 < first <= last < _LAST:
        return broken(id, f"its numbers are {first} and {last}", flat)
    return Entry(id, first, last, values=texts, since=first)


def last(flat: Sequence[str]) -> str:
    """The number of the last write in an answer of HGETALL, as text, for a guard.

    "" if it is not a number. scripts/looks.lua does the same.
    """
    texts = dict(zip(flat[::2], flat[1::2], strict=False))
    found = texts.get("@", texts.get("!", ""))
    return found if _is_number(found) else ""


def _with_sums(id: str, first: int, last: int, texts: Mapping[str, str]) -> Entry | None:
    """An entry with plain values and sums only; None if there is anything else in it."""
    values: dict[str, Numbered] = {}
    sums: dict[str, str] = {}
    for name, text in texts.items():
        if name.isidentifier():
            values[name] = text
        elif name[:1] == "+" and name[1:].isidentifier():
            sums[name[1:]] = text
        elif name != "|":
            return None
    digits = "".join(map(_digits, values.values()))
    numbers_are_good = len(digits) == DIGITS * len(values) and (not digits or _is_number(digits))
    if not (numbers_are_good and 0 < first <= last < _LAST):
        return None
    operations: dict[str, Segments] = {}
    for name, text in sums.items():
        since = int(values[name][:DIGITS]) if name in values else 0
        if segments := tuple(s for s in _segments(text) if s.last > since):
            if any(s.sign == "&" for s in segments):
                return None
            operations[name] = segments
    return Entry(id, first, last, values=values, operations=operations, since=first)


_digits = itemgetter(slice(DIGITS))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


class _Item(NamedTuple):
    """One name of the hash that can have a version, with its text."""

    number: int
    version: int
    mark: str
    name: str
    text: Numbered
    segment: Segment | None = None


def _with_marks(id: str, first: int, last: int, texts: dict[str, str]) -> Entry:
    deleted, began = (int(texts.pop(name)) if name in texts else None for name in ("!", "^"))
    texts.pop("|", None)
    once = _once(texts)
    greatest = last or deleted or 0
    if not 0 < first <= greatest < _LAST or any(
        number is not None and not 0 < number <= greatest for number in (deleted, began)
    ):
        raise Unreadable(f"its numbers are {first}, {deleted}, {began} and {last}")
    layers = _layers(sorted(_items(texts), key=lambda item: item.number))
    found = Entry(
        id,
        began or deleted or first,
        greatest,
        deleted or 0,
        once=once,
        since=first,
    )
    if not layers:
        return found
    *older, newest = layers
    if not older:
        return _with_items(found, newest)
    ordered = []
    for items in older:
        layer = Entry(id, items[0].number, items[-1].number, since=first)
        ordered.append(_with_items(layer, items))
    ordered[0] = ordered[0]._replace(first=found.first, deleted=found.deleted)
    return _with_items(found._replace(deleted=0), newest)._replace(older=tuple(ordered))


def _items(texts: Mapping[str, str]) -> Iterator[_Item]:
    for whole, text in texts.items():
        matched = _NAME.fullmatch(whole)
        if matched is None:
            raise Unreadable(f"{whole[:100]!r} is no name")
        mark, version, name = matched[1], int(matched[2] or 0), matched[3]
        if mark == "+":
            for segment in _segments(text):
                yield _Item(segment.last, version, mark, name, "", segment)
        elif mark != "*":
            if len(text) < DIGITS or not _is_number(text[:DIGITS]):
                raise Unreadable(f"{whole[:100]!r} has no number")
            yield _Item(number_of(text), version, mark, name, text)


def _once(texts: Mapping[str, str]) -> tuple[str, ...]:
    """The digests of idempotency keys."""
    found = tuple(name[1:] for name in texts if name[:1] == "*")
    if wrong := [digest for digest in found if not _DIGEST.fullmatch(digest)]:
        raise Unreadable(f"{wrong[0][:100]!r} is no digest")
    return found


def _segments(text: str) -> Segments:
    """The operations in a text, in the order of their numbers."""
    found = []
    for part in reversed(text.split(" ")):
        first, last, kind, operand = part.split(",", 3)
        if kind[:1] not in SIGNS or not kind:
            raise Unreadable(f"{kind[:100]!r} is no operation")
        found.append(Segment(int(first), int(last), kind[0], kind[1:], operand))
    return tuple(found)


def _layers(items: Sequence[_Item]) -> list[list[_Item]]:
    """The items, sorted by number, as groups of one version each."""
    return [[*group] for _, group in groupby(items, key=lambda item: item.version)]


def _with_items(entry: Entry, items: Sequence[_Item]) -> Entry:
    """The entry with the items of one version. A newer item may make an older one void."""
    values: dict[str, Numbered] = {}
    operations: dict[str, Segments] = {}
    merges: dict[str, dict[str, Numbered]] = {}
    tombstones: dict[str, int] = {}
    firsts: dict[str, int] = {}
    void: dict[str, int] = {}  # by name, the number up to which operations do not count
    for number, _, mark, name, text, _ in items:
        if mark == "!":
            tombstones[name] = void[name] = number
            values.pop(name, None)
            firsts.pop(name, None)
        elif mark == "":
            values[name] = text
            void[name] = number
        elif mark == "#":
            firsts[name] = number
    for number, _, _, name, _, segment in items:
        if segment is not None and number > void.get(name, 0):
            operations[name] = (*operations.get(name, ()), segment)
    for number, _, mark, name, text, _ in items:
        if mark == "&":
            field, _, key = name.partition(":")
            if number > void.get(field, 0):
                if all(segment.sign != "&" for segment in operations.get(field, ())):
                    raise Unreadable(f"{name[:100]!r} is of no Merge")
                merges.setdefault(field, {})[key] = text
    return entry._replace(
        values=values,
        operations=operations,
        merges=merges,
        tombstones=tombstones,
        firsts=firsts,
        version=items[0].version,
    )


# Records of a log

VERSION = "="  # the name of the declaration's version, if it is not 0
WRONG = "@"  # the name of the reason why this is no record, see scripts/claim_records.lua
NOTHING = ""  # the only name in a record without fields: a stream needs one
_RECORD = re.compile(r"([0-9]{1,18})-0")
_VERSION = re.compile("[0-9]{1,9}")


def record(id: str, flat: Sequence[str]) -> Entry:
    """The entry of a record, from an answer of XRANGE. Its number is its id."""
    matched = _RECORD.fullmatch(id)
    number = int(matched[1]) if matched else 0
    if not 0 < number < _LAST:
        return broken(id, f"its number is {id[:100]}", flat)
    texts = dict(zip(flat[::2], flat[1::2], strict=True))
    version = texts.pop(VERSION, "0")
    why = ""
    once: tuple[str, ...] = ()
    if max(map(len, flat), default=0) > conf.settings().MAX_VALUE_BYTES + _SHOWN:
        why = "a text is too long"
    elif not _VERSION.fullmatch(version):
        why = f"its version is {version[:100]}"
    elif WRONG in texts:
        why = texts[WRONG] or "it is none of this log"
    try:
        once = _once(texts)
    except Unreadable as error:
        why = why or str(error)
    if why:
        found = broken(str(number), why, flat)
        return found._replace(first=number, last=number, since=number)
    texts.pop(NOTHING, None)
    texts = {name: text for name, text in texts.items() if name[:1] != "*"}
    return record_of(number, texts)._replace(version=int(version), once=once)


def record_of(number: int, texts: Mapping[str, str]) -> Entry:
    """The entry of a record. Its number is its time."""
    head = numbered(number, "")
    values = {name: head + text for name, text in texts.items()}
    return Entry(str(number), number, number, values=values, since=number)


def broken(id: str, why: str, flat: Sequence[str]) -> Entry:
    """A broken entry, with as much of its texts as can be shown."""
    pairs = [*zip(flat[::2], flat[1::2], strict=False)][:_SHOWN]
    texts = {name[:_SHOWN]: text[:_SHOWN] for name, text in pairs}
    first, last = (
        int(text) if re.fullmatch("[0-9]{1,16}", text) else 0
        for text in (texts.get("#", ""), texts.get("@", ""))
    )
    # Receipts of its writes find it by these numbers.
    return Entry(id, first, max(first, last, 1), values=texts, broken=why, since=first)


# The state of a shard


def whole(text: str | None) -> int:
    """A whole number of the state; 0 if there is none, or another program wrote something else."""
    return int(text) if text and _WHOLE.fullmatch(text) else 0
