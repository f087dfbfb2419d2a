"""How an entry looks in Redis: its head, and for each field a JSON text with its time ahead of it.
A record of a log has no head; its number says all.

Who else can write to Redis may leave anything there. What is not to be understood is an entry too,
a broken one: a flush puts it among the dead letters, and reads show the row without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from writebehind_app import conf
from writebehind_app.fields.entry import (
    DIGITS,
    Entry,
    Numbered,
    Segment,
    Segments,
    number_of,
    numbered,
)

HEAD = "@"  # no field of a model can be called that
APART = "+"  # what the name of a field has before it, for operations on its pending value
ONCE = "*"  # what the name of a field begins with that stands for a call with a key, see once.py
LAYER = "<"  # what the name of a text begins with that was written under another version
VERSION = "="  # stands in a record for the version of the declaration, if that is not 0
NOTHING = ""  # stands in a record without fields, as a stream takes none without

_HEAD = re.compile(
    r"([0-9]{1,18}) " * 4
    + r"([12]|([0-9]{1,18}):([0-9]{1,18})) ([01])(?: ([0-9]{1,18}) ([0-9]{1,18}))?"
)
_VERSION = re.compile(r"[0-9]{1,18}")
_RECORD = re.compile(r"([0-9]{1,18})-0")
_LAST = 253_370_764_800_000_000  # the year 9999: beyond, no database and no datetime goes
_SHOWN = 1000  # characters of a text, and texts, that a broken entry keeps of too much


class Unreadable(ValueError):
    """An entry is nothing that the package writes."""


def entry(id: str, flat: Sequence[str]) -> Entry | None:
    """The entry in the answer of HGETALL, None where there is none; or the record of a stream."""
    if not flat:
        return None
    texts = dict(zip(flat[::2], flat[1::2], strict=True))
    head = texts.pop(HEAD, None)
    most = conf.settings().MAX_VALUE_BYTES + _SHOWN
    for name, text in texts.items():
        if len(text) > most:
            return _broken(id, head, f"{name[:100]!r} has {len(text)} characters", texts)
    if head is None:
        return _record(id, texts)
    matched = _HEAD.fullmatch(head)
    if matched is None:
        return _broken(id, head, f"its head is {head[:_SHOWN]!r}", texts)
    no, writes, since, at, row, gone, born, _, version, layers = matched.groups()
    if max(int(since), int(at), int(gone or 0), int(born or 0)) >= _LAST:
        return _broken(id, head, f"its times are those of {head!r}", texts)
    once = _once(texts)
    older = _older(id, texts) if layers and layers != "0" else ()
    if len(older) != int(layers or 0) or any(layer.broken for layer in older):
        return _broken(id, head, "what was written under another version is not all there", texts)
    digits = "".join([text[:DIGITS] for text in texts.values()])
    if texts and not (len(digits) == DIGITS * len(texts) and digits.isascii() and digits.isdigit()):
        return _broken(id, head, "a text has no time", texts)
    last = int(at)
    deleted = 0 if row == "1" else last if row == "2" else int(gone)
    found = Entry(
        id,
        int(born or since),
        last if row == "2" else max(last, deleted + 1),
        deleted,
        version=int(version or 0),
        older=older,
        once=once,
        no=int(no),
        head=head,
        writes=int(writes),
        since=int(since),
    )
    try:
        return _with_texts(found, texts)
    except (ValueError, IndexError):
        return _broken(id, head, "a meta key has no time", texts)


def _with_texts(entry: Entry, texts: dict[str, str]) -> Entry:
    """The entry with values and operations as they stand in the hash."""
    special = [name for name, text in texts.items() if name[0] in _NAMES or text[16:17] in _KEPT]
    if not special:
        return entry._replace(values=texts)
    values = {name: text for name, text in texts.items() if name not in special}
    operations: dict[str, Segments] = {}
    merges: dict[str, dict[str, Numbered]] = {}
    apart: dict[str, Segments] = {}
    tombstones: dict[str, int] = {}
    firsts: dict[str, int] = {}
    for name in special:
        text = texts[name]
        number = number_of(text)
        if name[0] == "@":
            stamp = text[DIGITS:]
            if stamp != "!":
                firsts[name[1:]] = int(stamp.split()[0])
        elif name[0] == "&":
            field, _, key = name[1:].partition(":")
            merges.setdefault(field, {})[key] = text
        elif name[0] == APART:
            apart[name[1:]] = (_segment(number, text[DIGITS:]),)
        elif text[DIGITS : DIGITS + 1] == "!":
            tombstones[name] = number
            if len(text) > DIGITS + 1:
                values[name] = numbered(number, text[DIGITS + 1 :])
        else:
            operations[name] = (_segment(number, text[DIGITS:]),)
    for name in tombstones.keys() & values:
        if values[name][DIGITS : DIGITS + 1] in _OPERATIONS:
            operations[name] = (_segment(number_of(values[name]), values.pop(name)[DIGITS:]),)
    for field, keys in merges.items():
        numbers = [number_of(text) for text in keys.values()]
        merge = Segment(min(numbers), max(numbers), "&", "", "")
        operations[field] = (*operations.get(field, ()), merge)
        keys.pop("", None)  # it says that there is an object
    for name in tombstones.keys() & {*values, *operations}:
        first = firsts.get(
            name, entry._replace(values=values, operations=operations).number_of(name)
        )
        tombstones[name] = first - 1
    return entry._replace(
        values=values,
        operations=operations,
        merges=merges,
        apart=apart,
        tombstones=tombstones,
        firsts=firsts,
    )


_NAMES = "@&+"  # what names begin with that are no fields
_OPERATIONS = ("#", "$", "~", "%")
_KEPT = (*_OPERATIONS, "!")


def _segment(number: int, text: str) -> Segment:
    """Operations as scripts/write.lua keeps them: '#add,low,high,null,places', the same with '$'
    for a number within JSON, or '~low,high,null' and '%low,high,null'."""
    if text[0] in "#$":
        operand, _, places = text[1:].rpartition(",")
        return Segment(number, number, "=", f"{text[0]}{places}", operand)
    return Segment(number, number, "=", text[0], f",{text[1:]}")


def understood(entries: Sequence[Entry], *, records: bool) -> Sequence[Entry]:
    """The entries; `Unreadable` where one of them is broken, or none of a buffer of that kind."""
    for entry in entries:
        why = entry.broken
        if bool(entry.head) == records:
            why = why or ("it is no record" if records else "it is a record")
        if why:
            raise Unreadable(f"The package did not write this: {why}.")
    return entries


def _record(id: str, texts: dict[str, str]) -> Entry:
    matched = _RECORD.fullmatch(id)
    if matched is None or int(matched[1]) >= _LAST:
        return _broken(id, None, "it has no head", texts)
    no = int(matched[1])
    texts.pop(NOTHING, None)
    version = texts.pop(VERSION, "0")
    if not _VERSION.fullmatch(version):
        return _broken(id, None, f"its version is {version[:_SHOWN]!r}", texts)
    once = _once(texts)
    return record(no, texts)._replace(version=int(version), once=once)


def _once(texts: dict[str, str]) -> tuple[str, ...]:
    """Takes the keys of calls out of the texts."""
    names = [name for name in texts if name.startswith(ONCE)]
    for name in names:
        del texts[name]
    return tuple(name.removeprefix(ONCE)[:40] for name in names)


def _older(id: str, texts: dict[str, str]) -> tuple[Entry, ...]:
    """Takes what was written under other versions out of the texts."""
    layers: dict[int, list[str]] = {}
    for name in [name for name in texts if name.startswith(LAYER)]:
        number, _, own = name.removeprefix(LAYER).partition(":")
        if _VERSION.fullmatch(number) and not own.startswith(LAYER):  # there are none of layers
            layers.setdefault(int(number), []).extend((own, texts.pop(name)))
    found = [entry(id, layers[number]) for number in sorted(layers)]
    return tuple(layer for layer in found if layer and layer.head)


def record(no: int, texts: Mapping[str, str]) -> Entry:
    """A record of a log: its number is its time."""
    number = numbered(no, "")
    values = {name: number + text for name, text in texts.items()}
    return Entry(str(no), no, no, values=values, no=no, since=no)


def _broken(id: str, head: str | None, why: str, texts: dict[str, str]) -> Entry:
    some = {name[:_SHOWN]: text[:_SHOWN] for name, text in [*texts.items()][:_SHOWN]}
    found = _HEAD.fullmatch(head or "")
    no = int(found[1]) if found else 0  # for the receipts of writes that were spoiled
    head = (head or "broken")[:_SHOWN]
    return Entry(id, 0, 1, values=some, broken=why, no=no, head=head)
