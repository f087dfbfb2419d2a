"""A log: records that are appended, and read by their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from writebehind_app.fields.entry import Entry
from writebehind_app.store.next import codec
from writebehind_app.store.next.calls import Command, Exchange, command
from writebehind_app.store.next.shard import ask

PAGE = 5000  # records that are read at a time
PAGE_BYTES = 1_000_000  # and no more after so many bytes


class Record(NamedTuple):
    """A record that was checked, to be appended."""

    texts: Mapping[str, str]  # those that make up the unique id first
    id: str = ""  # its unique id
    time: int | None = None  # in µs, if it is not the time of the append

    def args(self, version: int) -> list[str | int]:
        pairs = [*self.texts.items()]
        if version:
            pairs.append((codec.VERSION, str(version)))
        time = "" if self.time is None else self.time
        pairs = pairs or [(codec.NOTHING, "")]
        return [self.id, time, len(pairs), *(part for pair in pairs for part in pair)]


@dataclass(frozen=True, slots=True)
class Append:
    """Records that one shard takes together, as a `calls.Call` takes writes."""

    shard: str
    records: Sequence[Record]
    max_age: int  # µs
    quiet: int = 0  # µs
    room: int | None = None  # how many records there may be
    version: int = 0  # of the declaration
    guard: str = ""  # what `shard.Reading.state` was
    unique: int = 0  # how many fields make up the unique id
    once: str = ""  # the digest of an idempotency key
    once_ms: int = 0

    @property
    def size(self) -> int:
        return len(self.records)

    def command(self, sender: str, deadline: int) -> Command:
        room = "-" if self.room is None else self.room
        head = (sender, deadline, room, self.version, self.max_age, self.quiet)
        own = (self.guard, self.unique, self.once, self.once_ms)
        records = [arg for record in self.records for arg in record.args(self.version)]
        return command("append", self.shard, *head, *own, *records)


def window(
    exchange: Exchange, shard: str, first: int | str, last: int | str, times: tuple[int, int]
) -> list[Entry]:
    """The records, in flight or pending, of numbers or of given times in a window; in the order of
    their numbers. Some have another time, and are not in the window."""
    found: dict[int, Entry] = {}
    start: int | str = first
    more: Sequence[int | str] = ("times", *times)
    while True:
        start, left, records = ask(exchange, "window", shard, PAGE, PAGE_BYTES, start, last, *more)
        for id, flat in records:
            entry = codec.record(id, flat)
            found[entry.first] = entry
        if start == "" and not left:
            return [found[number] for number in sorted(found)]
        more = ("numbers", *left)
