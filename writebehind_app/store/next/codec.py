"""How an entry looks in Redis: a hash that keeps, and no more; a record is an entry of a stream.

| name | text |
|---|---|
| `#`, `@` | the numbers of its first and of its last write |
| `!`, `^` | the numbers of the last delete, in place of `@`, and of the first write after it |
| `|` | the number at which a save closed the sums |
| `status` | a value: the number of its write, in 16 digits, and JSON |
| `+status` | the operations on a field: `first,last,kind,operand` of each, the newest first |
| `&status:"key"` | a key that a Merge sets, as a value |
| `"section"` | the value of a meta key; `!"section"`, `#"section"`: when it went, and came to be |
| `*digest` | the number of a write with an idempotency key |

With `3|` in front of `status`, it was written under version 3 of the declaration.

Anybody who can write to Redis may leave anything there. What cannot be understood is an entry too,
a broken one: a flush puts it among the dead letters, and reads show the row without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

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
_LAST = 253_370_764_800_000_000  # the year 9999: no database and no datetime goes beyond
_SHOWN = 1000  # characters of a text, and texts, that a broken entry keeps of too much


class Unreadable(ValueError):
    """The package did not write this."""


def entry(id: str, flat: Sequence[str]) -> Entry | None:
    """The entry in the answer of HGETALL; None where there is none."""
    if not flat:
        return None
    texts = dict(zip(flat[::2], flat[1::2]))  # noqa: B905 - HGETALL gives pairs
    try:
        first = int(texts.pop("#"))
        last = int(texts.pop("@", 0))
        if texts and not "".join(texts).isidentifier():
            return _with_marks(id, first, last, texts)
        digits = "".join(map(_digits, texts.values()))
        if texts and not (len(digits) == DIGITS * len(texts) and _is_number(digits)):
            return broken(id, "a value has no number", flat)
    except KeyError:
        return broken(id, "it has no number", flat)
    except ValueError as error:
        return broken(id, str(error)[:_SHOWN], flat)
    if not 0 < first <= last < _LAST:
        return broken(id, f"its numbers are {first} and {last}", flat)
    return Entry(id, first, last, values=texts, no=first, head=str(last), since=first)


_digits = itemgetter(slice(DIGITS))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


class _Item(NamedTuple):
    """What one name of the hash says, of those that have a version."""

    number: int
    version: int
    mark: str
    name: str
    text: Numbered
    segment: Segment | None = None


def _with_marks(id: str, first: int, last: int, texts: dict[str, str]) -> Entry:
    deleted = int(texts.pop("!", 0))
    began = int(texts.pop("^", 0))
    texts.pop("|", None)
    once = tuple(name[1:41] for name in texts if name[:1] == "*")
    if not 0 < first <= max(first, deleted) <= (last or deleted) < _LAST or began > _LAST:
        raise Unreadable(f"its numbers are {first}, {deleted} and {last}")
    layers = _layers(sorted(_items(texts), key=lambda item: item.number))
    found = Entry(
        id,
        began or deleted or first,
        last or deleted,
        deleted,
        once=once,
        no=first,
        head=str(last or deleted),
        since=first,
    )
    if not layers:
        return found
    *older, newest = layers
    if not older:
        return _with_items(found, newest)
    ordered = []
    for items in older:
        layer = Entry(id, items[0].number, items[-1].number, no=first, since=first, head="older")
        ordered.append(_with_items(layer, items))
    ordered[0] = ordered[0]._replace(first=found.first, deleted=deleted)
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


def _segments(text: str) -> Segments:
    """In the order of their numbers."""
    found = []
    for part in reversed(text.split(" ")):
        first, last, kind, operand = part.split(",", 3)
        if kind[:1] not in SIGNS or not kind:
            raise Unreadable(f"{kind[:100]!r} is no operation")
        found.append(Segment(int(first), int(last), kind[0], kind[1:], operand))
    return tuple(found)


def _layers(items: Sequence[_Item]) -> list[list[_Item]]:
    """What was written in turn under one version and another."""
    return [[*group] for _, group in groupby(items, key=lambda item: item.version)]


def _with_items(entry: Entry, items: Sequence[_Item]) -> Entry:
    """The entry with items of one version, of which an older one may be void."""
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
    for number, _, mark, name, text, segment in items:
        if mark == "+" and number > void.get(name, 0):
            assert segment is not None
            operations[name] = (*operations.get(name, ()), segment)
        elif mark == "&":
            field, _, key = name.partition(":")
            if number > void.get(field, 0):
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

VERSION = "="  # the version of the declaration, if that is not 0
NOTHING = ""  # for a record without fields, as a stream takes none
_RECORD = re.compile(r"([0-9]{1,18})-0")


def record(id: str, flat: Sequence[str]) -> Entry:
    """The entry of a record as XRANGE gives it; its number is its id."""
    texts = dict(zip(flat[::2], flat[1::2], strict=True))
    matched = _RECORD.fullmatch(id)
    number = int(matched[1]) if matched else 0
    version = texts.pop(VERSION, "0")
    if not 0 < number < _LAST or not (version.isascii() and version.isdigit()):
        return broken(id, f"its number is {id[:100]}, its version {version[:100]}", flat)
    texts.pop(NOTHING, None)
    once = tuple(name[1:41] for name in texts if name[:1] == "*")
    values = {name: numbered(number, text) for name, text in texts.items() if name[:1] != "*"}
    return Entry(
        str(number),
        number,
        number,
        values=values,
        version=int(version),
        once=once,
        no=number,
        since=number,
    )


def broken(id: str, why: str, flat: Sequence[str]) -> Entry:
    """What somebody else wrote, as far as it can be shown."""
    pairs = [*zip(flat[::2], flat[1::2], strict=False)][:_SHOWN]
    texts = {name[:_SHOWN]: text[:_SHOWN] for name, text in pairs}
    number = texts.get("#", "")
    no = int(number) if re.fullmatch("[0-9]{1,16}", number) else 0  # for the receipts of its writes
    return Entry(id, 0, 1, values=texts, broken=why, no=no, head="broken")
