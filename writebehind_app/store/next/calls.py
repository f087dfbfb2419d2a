"""Calls that write: each is taken whole or not at all, once, and mostly it is known which.

A call is one script for one shard. A sender is a connection under a random name, and has one call
to a shard unanswered at a time. So whoever asks again after a lost reply needs no more than the
number of the last write that was answered: a later one that Redis noted is that of the call.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from writebehind_app.fields.entry import SIGNS
from writebehind_app.store.next.scripts import digest

Command = Sequence[str | int]

# Sends commands and gives the reply to each; in its place the error, where it is one or none came.
Exchange = Callable[[Sequence[Command]], Sequence[Any]]

ROWS = 200  # in one call: Redis does nothing else meanwhile
FOREVER = 2**53


def command(script: str, shard: str, *args: str | int) -> Command:
    return ("EVALSHA", digest(script), 1, shard, *args)


class Row(NamedTuple):
    """A write to one row, or to one entity of metadata."""

    id: str
    texts: Mapping[str, str]  # as `Layout.encode` makes them
    delete: bool = False
    guard: str = ""  # what `shard.Reading.guard` said
    once: str = ""  # the digest of an idempotency key
    once_ms: int = 0
    stamped: bool = False  # whether meta keys have times of their own

    def args(self, version: int) -> tuple[list[str | int], bool]:
        """As the scripts take it, and whether it is plain: gives fields new values, and no more."""
        texts = self.texts
        args: list[str | int] = [self.id, len(texts)]
        plain = not (self.delete or self.guard or self.once)
        # The names of meta keys, and of keys that a Merge sets, are no identifiers.
        if plain and not version and (not texts or "".join(texts).isidentifier()):
            for name, text in texts.items():
                args += (name, text)
                if text[0] in _SIGNS:
                    plain = False
            return args, plain
        pairs = [*self._pairs(f"{version}|" if version else "")]
        plain = plain and not any(
            name[:1] in _MARKS or '"' in name or str(text)[0] in _SIGNS for name, text in pairs
        )
        return [self.id, len(pairs), *(part for pair in pairs for part in pair)], plain

    def _pairs(self, under: str) -> Iterator[tuple[str, str | int]]:
        if self.guard:
            yield "$", self.guard
        if self.once:
            yield f"*{self.once}", self.once_ms
        if self.delete:
            yield "", ""
        for name, text in self.texts.items():
            if name[:1] == "&":
                yield f"&{under}{name[1:]}", text
            elif text == "!":
                yield f"!{under}{name}", ""
            else:
                yield f"{under}{name}", text
                if self.stamped:
                    yield f"#{under}{name}", ""


_SIGNS = frozenset(SIGNS)  # no JSON begins with one
_MARKS = frozenset(["", *"!#&*$"])


@dataclass(frozen=True, slots=True)
class Call:
    """Writes to one shard that are taken together."""

    shard: str
    rows: Sequence[Row]
    max_age: int  # µs
    quiet: int = 0  # µs
    room: int | None = None  # how many entries there may be
    version: int = 0  # of the declaration

    @property
    def size(self) -> int:
        return len(self.rows)

    def command(self, sender: str, deadline: int) -> Command:
        room = "-" if self.room is None else self.room
        args: list[str | int] = [sender, deadline, room, self.version, self.max_age, self.quiet]
        script = "write"
        for row in self.rows:
            more, is_plain = row.args(self.version)
            args += more
            if not is_plain:
                script = "operate"
        return command(script, self.shard, *args)


class Taken(NamedTuple):
    """The call was taken. Its writes have numbers from `first` on."""

    first: int
    now: int = 0  # by Redis' clock


class Refused(NamedTuple):
    """The call was not taken, and will not be."""

    why: Literal["late", "full", "stale", "known", "taken", "moved"]
    now: int
    more: Any = None  # known: the number of the write with that key


Outcome = Taken | Refused | Exception  # an error: nobody knows, or nothing was done


@dataclass(slots=True)
class Sender:
    """A connection, under a name that no other has."""

    exchange: Exchange
    name: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    answered: dict[str, int] = field(default_factory=dict)  # by shard, the last number

    def send(self, calls: Sequence[Any], deadline: int) -> list[Outcome]:
        """What became of calls to as many shards, in one round trip."""
        assert len({call.shard for call in calls}) == len(calls), "one call for each shard"
        replies = self.exchange([call.command(self.name, deadline) for call in calls])
        outcomes = [*map(_outcome, replies)]
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, Taken):
                self.answered[call.shard] = outcome.first + call.size - 1
        return outcomes

    def send_again(self, calls: Sequence[Any], lost: Sender, deadline: int) -> list[Outcome]:
        """What became of calls whose replies another sender lost: they are taken now, unless they
        were then. That sender is listened to no more. It is the last try: after the deadline, or
        another loss, nobody knows."""
        asked = [
            command("again", call.shard, lost.name, lost.answered.get(call.shard, 0), deadline)
            for call in calls
        ]
        found: dict[int, Outcome] = {}
        for i, reply in enumerate(self.exchange(asked)):
            if isinstance(reply, Exception):
                found[i] = reply
            elif reply[1] == "late":
                found[i] = TimeoutError("Asked too late whether the write was taken.")
            elif reply[1] != "no":
                found[i] = Taken(reply[1] - calls[i].size + 1, reply[0])
        left = [i for i in range(len(calls)) if i not in found]
        if left:
            outcomes = self.send([calls[i] for i in left], deadline)
            found.update(zip(left, outcomes, strict=True))
        return [found[i] for i in range(len(calls))]


def _outcome(reply: Any) -> Outcome:
    if isinstance(reply, Exception):
        return reply
    now, what, *more = reply
    if isinstance(what, int):
        return Taken(what, now)
    return Refused(what, now, more[0] if more else None)


def cut(rows: Iterable[Row]) -> Iterator[Sequence[Row]]:
    """Rows of one shard in calls of a size that Redis takes at once."""
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if len(part) == ROWS:
            yield part
            part = []
    if part:
        yield part
