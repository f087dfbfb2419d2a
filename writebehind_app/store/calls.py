"""Calls that write: their arguments, and their possible outcomes.

A call is one script for one shard. Redis takes all writes of a call, or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from writebehind_app.exceptions import BufferUnavailable, WriteUncertain
from writebehind_app.fields.entry import SIGNS, Entry
from writebehind_app.fields.writes import Write
from writebehind_app.store import codec
from writebehind_app.store.failures import reason
from writebehind_app.store.link import Command
from writebehind_app.store.lua import digest

ROWS = 200  # the most rows in one call: Redis does nothing else meanwhile

_Part = TypeVar("_Part")


class Limit(NamedTuple):
    """How many pending entries a buffer may have."""

    shards: Sequence[str]
    most: int  # in all shards together
    share: int  # in one shard, before the other shards are counted


class Terms(NamedTuple):
    """The options of a buffer that its calls carry."""

    limit: Limit
    version: int  # of the declaration
    max_age: int  # µs
    quiet: int = 0  # µs


class Call(NamedTuple):
    """Writes or records for one shard, which Redis takes together."""

    script: str
    shard: str
    terms: Terms
    args: Sequence[str | int]  # the arguments of the script after the terms
    size: int = 1  # how many writes or records
    entries: int = 1  # how many new entries they make at most

    def command(self, sender: str, deadline: int, *, is_roomy: bool = False) -> Command:
        """The command for a sender. After the `deadline`, by its own clock, Redis refuses it.

        `is_roomy` says that the shards together have room: then the script does not check it.
        """
        limit, version, max_age, quiet = self.terms
        room = "-" if is_roomy else limit.share
        head = (sender, deadline, room, version, max_age, quiet)
        return ("EVALSHA", digest(self.script), 1, self.shard, *head, *self.args)


class Refused(NamedTuple):
    """Redis refused the call, and will not take it later."""

    why: Literal["late", "full", "stale", "known", "taken", "moved", "closed", "elsewhere"]
    # known: the number of the write; taken: the index; moved: the guard; closed: by which change
    more: Any = None


class Fleeting(NamedTuple):
    """Redis took the call, but did not reach the durability that was asked for."""

    first: int
    why: str


# If the call was taken, the number of its first write; the other writes have the next numbers.
# Otherwise, why it was not taken, or an error if nobody knows.
Outcome = int | Fleeting | Refused | Exception


# Writes to rows


def writes_call(
    shard: str,
    writes: Sequence[Write],
    terms: Terms,
    *,
    is_stamped: bool = False,
    once: str = "",
    once_ms: int = 0,
) -> Call:
    """The call for writes to rows or to entities of metadata.

    With `is_stamped`, each meta key keeps the time when its row was created. `once` is the digest
    of an idempotency key, for a single write.
    """
    args: list[str | int] = []
    script = "write"
    version, rare = terms.version, is_stamped or once
    for write in writes:
        texts = write.texts
        args += (write.id, len(texts))
        # Field names are identifiers. Meta keys and the keys of a Merge are not.
        is_plain = not (version or rare or write.guard or write.delete) and (
            not texts or "".join(texts).isidentifier()
        )
        if is_plain:
            for name, text in texts.items():
                args += (name, text)
                if text[0] in _SIGNS:
                    script = "operate"
        else:
            pairs = [*_pairs(write, f"{version}|" if version else "", is_stamped)]
            if once:
                pairs.append((f"*{once}", once_ms))
            args[-1] = len(pairs)
            for pair in pairs:
                args += pair
            if script == "write" and not all(map(_is_value, pairs)):
                script = "operate"
    entries = 1 if len(writes) == 1 else len({write.id for write in writes})
    return Call(script, shard, terms, args, len(writes), entries)


def _pairs(write: Write, version: str, is_stamped: bool) -> Iterator[tuple[str, str | int]]:
    """The names and texts of a write, as scripts/operate.lua takes them."""
    if write.guard:
        yield "$", write.guard
    if write.delete:
        yield "", ""
    for name, text in write.texts.items():
        if name[:1] == "&":
            yield f"&{version}{name[1:]}", text
        elif text == "!":
            yield f"!{version}{name}", ""
        else:
            yield f"{version}{name}", text
            if is_stamped:
                yield f"#{version}{name}", ""


def _is_value(pair: tuple[str, str | int]) -> bool:
    """Whether this pair only sets the value of a field."""
    name, text = pair
    return not (name[:1] in _MARKS or '"' in name or str(text)[:1] in _SIGNS)


_SIGNS = frozenset(SIGNS)  # JSON never begins with one of them
_MARKS = frozenset(["", *"!#&*$"])


# Records of a log


class Record(NamedTuple):
    """A checked record, ready to be appended."""

    id: str  # its unique id, or ""
    time: int | None  # in µs; None stands for the time of the append
    texts: Mapping[str, str]  # by field; the fields of the unique id come first

    def entry(self, number: int) -> Entry:
        """The entry that a flusher would get for this record, under this number."""
        return codec.record_of(number, self.texts)


def append_call(
    shard: str,
    records: Sequence[Record],
    terms: Terms,
    *,
    guard: str = "",
    unique: int = 0,
    once: str = "",
    once_ms: int = 0,
) -> Call:
    """The call that appends records.

    With a `guard`, it is refused if the guard of the shard has changed. `unique` is the number of
    fields in the unique id.
    """
    args: list[str | int] = [guard, unique, once, once_ms]
    for id, time, texts in records:
        parts = [part for pair in texts.items() for part in pair]
        parts += [codec.VERSION, str(terms.version)] if terms.version else []
        parts += [f"*{once}", ""] if once else []
        parts = parts or [codec.NOTHING, ""]
        args += [id, "" if time is None else time, len(parts) // 2, *parts]
    return Call("append", shard, terms, args, len(records), len(records))


def cut(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Cut the writes to one shard into parts that are small enough for one call each."""
    found: list[_Part] = []
    for part in parts:
        found.append(part)
        if len(found) == ROWS:
            yield found
            found = []
    if found:
        yield found


# What is raised


def unavailable(error: Exception) -> BufferUnavailable:
    unavailable = BufferUnavailable(f"Redis: {reason(error)}")
    unavailable.__cause__ = error
    return unavailable


def uncertain(error: Exception | None, until: int) -> WriteUncertain:
    why = reason(error) if error else "the connection broke"
    return WriteUncertain(
        f"The write was sent to Redis, and the answer was lost ({why}): it was taken once, or not "
        "at all. Repeat it if a repeat does no harm; otherwise read first what is there.",
        until,
    )
