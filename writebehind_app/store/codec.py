"""How an entry looks in Redis: its head, and for each field a JSON text with its time ahead of it.
A record of a log has no head; its number says all.

Who else can write to Redis may leave anything there. What is not to be understood is an entry too,
a broken one: a flush puts it among the dead letters, and reads show the row without it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from writebehind_app import conf

HEAD = "@"  # no field of a model can be called that
APART = "+"  # what the name of a field has before it, for operations on its pending value
ONCE = "*"  # what the name of a field begins with that stands for a call with a key, see once.py
LAYER = "<"  # what the name of a text begins with that was written under another version
VERSION = "="  # stands in a record for the version of the declaration, if that is not 0
_TIME = 16  # digits of a time
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


class Entry(NamedTuple):
    """What is pending, or in flight, for one row; or one record of a log."""

    id: str  # the row's key, as text; of a record, its number
    head: str  # differs from what it was once anything was written to the entry
    no: int  # names this entry; a write after it was claimed begins another one
    writes: int  # how many writes are in it
    since: int  # when the first of them came, in µs since 1970
    at: int  # when the last of them came
    born: int  # when the row came to be, if these writes make it
    delete: bool  # the row that is stored goes
    keep: bool  # there is a row afterwards: the stored one or a new one, with the values in it
    relative: bool  # some texts are operations on what is stored
    texts: dict[str, str]  # by field name
    times: dict[str, str] = {}  # when each was written, in µs; see scripts/write.lua
    broken: str = ""  # why it is not to be understood
    gone: int = 0  # when the stored row goes
    once: tuple[str, ...] = ()  # the keys, by their digests, of calls that are in it
    apart: dict[str, str] = {}  # operations that were carried out on the texts, by name
    version: int = 0  # of the declaration, when it was written
    older: tuple[Entry, ...] = ()  # what was written before it, under other versions


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
    found = _HEAD.fullmatch(head)
    if found is None:
        return _broken(id, head, f"its head is {head[:_SHOWN]!r}", texts)
    no, writes, since, at, row, gone, born, relative, version, layers = found.groups()
    if max(int(since), int(at), int(gone or 0), int(born or 0)) >= _LAST:
        return _broken(id, head, f"its times are those of {head!r}", texts)
    once = _once(texts)
    older = _older(id, texts) if layers and layers != "0" else ()
    if len(older) != int(layers or 0) or any(layer.broken for layer in older):
        return _broken(id, head, "what was written under another version is not all there", texts)
    times = {name: text[:_TIME] for name, text in texts.items()}
    digits = "".join(times.values())
    if texts and not (len(digits) == _TIME * len(times) and digits.isascii() and digits.isdigit()):
        return _broken(id, head, "a text has no time", texts)
    return Entry(
        id,
        head,
        int(no),
        int(writes),
        int(since),
        int(at),
        int(born or since),
        row != "1",
        row != "2",
        relative == "1",
        {name: text[_TIME:] for name, text in texts.items() if name[:1] != APART},
        times,
        gone=int(gone or at),
        once=once,
        apart={name[1:]: text[_TIME:] for name, text in texts.items() if name[:1] == APART},
        version=int(version or 0),
        older=older,
    )


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
    found = Entry(str(no), "", no, 1, no, no, no, False, True, False, texts, once=once)
    return found._replace(version=int(version)) if version != "0" else found


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


def _broken(id: str, head: str | None, why: str, texts: dict[str, str]) -> Entry:
    some = {name[:_SHOWN]: text[:_SHOWN] for name, text in [*texts.items()][:_SHOWN]}
    found = _HEAD.fullmatch(head or "")
    no = int(found[1]) if found else 0  # for the receipts of writes that were spoiled
    head = (head or "broken")[:_SHOWN]
    return Entry(id, head, no, 1, 0, 0, 0, False, True, False, some, broken=why)
