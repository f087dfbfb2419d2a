"""One shard of a buffer in Redis: writes go in, batches come out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from writebehind_app.exceptions import WriteUncertain
from writebehind_app.fields.entry import Entry
from writebehind_app.store import codec, delivery, lua
from writebehind_app.store.calls import Call, Durability, Limit, Outcome
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.dialogue import ahold
from writebehind_app.store.keys import taken_place
from writebehind_app.store.link import Command

_TOKEN = re.compile("[0-9A-Za-z]{1,32}")  # as in claim.lua
_TIME = re.compile("[0-9]{1,16}")
Where = Literal["pending", "in_flight", "gone", "discarded", "lost"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries that were claimed together."""

    token: str
    attempts: int  # how often it failed so far
    entries: list[Entry]
    error: str = ""  # why, the last time


@dataclass(frozen=True, slots=True)
class Wait:
    """Why there is no batch although there is something to flush."""

    reason: Literal["busy", "backoff", "paused"]
    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What Redis holds for some ids of one shard, at one moment."""

    moves: int  # differs from another reading's once a batch was claimed or dropped in between
    token: str  # of the batch in flight, or ''
    attempts: int  # how often it failed so far
    pending: dict[str, Entry]
    in_flight: dict[str, Entry]
    copies: dict[str, str]  # of ids of which nothing is pending or in flight: what there is


@dataclass(frozen=True, slots=True)
class Counts:
    """How many entries a shard holds."""

    pending: int
    in_flight: int
    due: int  # of the pending ones


class Shard:
    """The state of one shard and everything that can be done to it."""

    __slots__ = ("client", "key")

    def __init__(self, client: Client, key: str) -> None:
        self.client = client
        self.key = key

    def claim(
        self,
        token: str,
        *,
        lease: float,
        size: int,
        due_only: bool,
        ids: Sequence[str] = (),
        ignore_backoff: bool = False,
    ) -> Batch | Wait | None:
        """The next batch; None when nothing is to be flushed."""
        which = "ids" if ids else "due" if due_only else "all"
        with errors:
            reply = lua.run(
                self.client,
                "claim",
                self.key,
                token,
                round(lease * 1e6),
                size,
                which,
                "1" if ignore_backoff else "",
                *ids,
            )
        match reply:
            case ["batch", token, attempts, error, *entries]:
                found = (codec.entry(id, flat) for id, flat in entries)
                return Batch(token, attempts, [entry for entry in found if entry], error)
            case [("busy" | "backoff") as reason, micros]:
                return Wait(reason, micros / 1e6)
            case ["paused"]:
                return Wait("paused", 0)
            case _:
                return None

    def renew(self, token: str, *, lease: float) -> None:
        """Lengthen the lease of the batch in flight, if it is that one."""
        with errors:
            lua.run(self.client, "renew", self.key, token, round(lease * 1e6))

    def ack(
        self,
        token: str,
        *,
        rows: int = 0,
        dead_letters: int = 0,
        seconds: float = 0.0,
        retain: float = 0.0,
        copies: Mapping[str, str] | None = None,
    ) -> bool:
        """Drop the batch in flight, and count what it came to; False where it is another one by
        now. Keep `copies` for reads, by id, for so long."""
        parts = [part for pair in (copies or {}).items() for part in pair]
        kept: Sequence[str | int] = (max(round(retain * 1000), 1), *parts) if parts else ()
        args = (token, rows, dead_letters, round(seconds * 1e6), *kept)
        with errors:
            return bool(lua.run(self.client, "ack", self.key, *args))

    def release(self, token: str, *, retry_in: float, error: str) -> None:
        """Give the batch back, to be tried again."""
        with errors:
            lua.run(self.client, "release", self.key, token, round(retry_in * 1e6), error)

    def pending(self, limit: int) -> tuple[int, list[Entry], list[Entry]]:
        """How often the batch in flight failed, its entries, and the pending ones, due first."""
        with errors:
            attempts, flying, *pairs = lua.run(self.client, "pending", self.key, limit)
        entries = [entry for id, flat in pairs if (entry := codec.entry(id, flat))]
        return attempts, entries[:flying], entries[flying:]

    def discard(self, limit: int, ids: Sequence[str] = (), *, token: str = "") -> int:
        """Throw pending entries away, and those of the batch in flight if it has that token and
        nobody works on it; at most `limit` of them. Says how many."""
        with errors:
            count: int = lua.run(self.client, "discard", self.key, limit, token, *ids)
        return count

    def idle_token(self) -> str:
        """The token of a batch in flight whose lease has ended; '' where there is none."""
        with errors:
            token: Any
            lease: Any
            token, lease = self.client.hmget(self.key, ["token", "lease"])
            seconds, micros = self.client.time()
        ends = int(lease) if _TIME.fullmatch(str(lease)) else 0
        if not token or ends > seconds * 1_000_000 + micros:
            return ""
        # One that somebody else wrote is in no ledger.
        return str(token) if _TOKEN.fullmatch(token) else self.revoke(token)

    def revoke(self, token: str) -> str:
        """Give the batch in flight another token, and say which; '' where it has that already."""
        fresh = secrets.token_hex(16)
        with errors:
            return fresh if lua.run(self.client, "revoke", self.key, token, fresh) else ""

    def locate(self, id: str, no: int) -> Where:
        """Where the entry of that number is; the id of a record is ''."""
        with errors:
            where: Where = lua.run(self.client, "locate", self.key, id, no)
        return where

    async def alocate(self, id: str, no: int) -> Where:
        with errors:
            dialogue = lua.running("locate", self.key, id, no)
            where: Where = await ahold(self.client, dialogue)
        return where


def read(client: Client, ids: dict[str, list[str]], *, copies: bool = False) -> dict[str, Reading]:
    """What the shards hold for the ids asked of each, in one round trip; with `copies`, if any."""
    keys = list(ids)
    with errors:
        flag = "1" if copies else ""
        replies = lua.run_many(client, "read", [(key, flag, *ids[key]) for key in keys])
    readings = {}
    for key, (moves, token, attempts, *flat) in zip(keys, replies, strict=True):
        pending = zip(ids[key], flat[::3], strict=True)
        in_flight = zip(ids[key], flat[1::3], strict=True)
        retained = zip(ids[key], flat[2::3], strict=True)
        readings[key] = Reading(
            moves,
            token,
            attempts,
            {id: entry for id, hash in pending if (entry := codec.entry(id, hash))},
            {id: entry for id, hash in in_flight if (entry := codec.entry(id, hash))},
            {id: copy for id, copy in retained if copy},
        )
    return readings


def count(client: Client, keys: Sequence[str]) -> dict[str, Counts]:
    """How much each shard holds, in one round trip."""
    with errors:
        replies = lua.run_many(client, "count", [(key,) for key in keys])
    return {key: Counts(*reply) for key, reply in zip(keys, replies, strict=True)}


# What a shard counts, from its first day.
COUNTERS = ("accepted", "flushed", "rows", "batches", "retries", "buried", "fallbacks")


@dataclass(frozen=True, slots=True)
class Overview:
    """How a shard is doing."""

    pending: int
    in_flight: int
    due: int  # of the pending ones
    oldest: float  # seconds that its oldest entry has waited; 0 where there is none
    paused: bool
    attempts: int  # how often the batch in flight failed so far
    took: float  # seconds of its last batch
    counters: dict[str, int]


def overview(client: Client, keys: Sequence[str]) -> dict[str, Overview]:
    """How the shards are doing, in one round trip."""
    names = ("paused", "attempts", "took", *COUNTERS)
    with errors:
        replies = lua.run_many(client, "count", [(key, *names) for key in keys])
    found = {}
    for key, (pending, in_flight, due, since, now, state) in zip(keys, replies, strict=True):
        # Anything may be there where somebody else has written.
        paused, attempts, took, *numbers = state
        found[key] = Overview(
            pending,
            in_flight,
            due,
            max(int(now) - (_whole(since) or int(now)), 0) / 1e6,
            paused is not None,
            _whole(attempts),
            _whole(took) / 1e6,
            dict(zip(COUNTERS, map(_whole, numbers), strict=True)),
        )
    return found


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0


def pause(client: Client, keys: Sequence[str]) -> bool:
    """Let nobody claim anything of these shards; says whether that was otherwise in any."""
    return any(_set(client, [("HSET", key, "paused", 1) for key in keys]))


def resume(client: Client, keys: Sequence[str]) -> bool:
    """The opposite; says whether any of them was paused."""
    return any(_set(client, [("HDEL", key, "paused") for key in keys]))


def count_up(client: Client, key: str, counter: str, by: int) -> None:
    _set(client, [("HINCRBY", key, counter, by)])


def _set(client: Client, commands: Sequence[Command]) -> Sequence[Any]:
    with errors:
        return lua.run_commands(client, commands, write=True)


def keep_dry(client: Client, keys: Sequence[str], seconds: float) -> None:
    """Let nobody read copies of what these shards are for, for so long."""
    with errors:
        lua.run_many(client, "dry", [(key, max(round(seconds * 1000), 1)) for key in keys])


def hasten(client: Client, entries: Sequence[tuple[str, str]], *, silence: float) -> list[str]:
    """Make pending entries due at once, by shard and id; the ids of those of which nobody was told
    in the last seconds of `silence`."""
    calls = [(key, id, round(silence * 1000)) for key, id in entries]
    with errors:
        replies = lua.run_many(client, "hasten", calls)
    return [id for (_, id), reply in zip(entries, replies, strict=True) if reply]


# Logs

PAGE = 5000  # records that are read at a time
PAGE_BYTES = 1_000_000  # and no more after so many bytes


class Record(NamedTuple):
    """A record that was checked, to be appended."""

    id: str  # its unique id, or ''
    time: int | None  # in µs, if it is not the time of the append
    texts: dict[str, str]  # those that make up the unique id first

    def entry(self, no: int) -> Entry:
        """As Redis would give it to a flusher under that number."""
        return codec.record(no, self.texts)


@dataclass(frozen=True, slots=True)
class Moved:
    """Why nothing was appended: records may have become rows since one looked for such rows."""

    guard: str  # how the shard looks now


@dataclass(frozen=True, slots=True)
class Taken:
    """Why nothing was appended: the unique id of a record is that of a pending one."""

    index: int


def append(
    client: Client,
    key: str,
    records: Sequence[Record],
    *,
    guard: str,
    max_age: float,
    quiet: float,
    unique: int,
    limit: Limit | None = None,
    once: str = "",
    version: int = 0,
    durability: Durability | None = None,
) -> int | Moved | Taken:
    """Append all or none; the number of the first, which the others follow.

    With a `guard` only while the shard looks like that. `unique` is how many fields make up the
    unique id. Raises `Fleeting` for those that are not as durable as they should be.
    """
    call = append_call(
        key,
        records,
        guard=guard,
        max_age=max_age,
        quiet=quiet,
        unique=unique,
        once=once,
        version=version,
    )
    [outcome] = delivery.deliver(client, "append", [call], limit, durability=durability, once=once)
    return appended(outcome)


def append_call(
    key: str,
    records: Sequence[Record],
    *,
    guard: str,
    max_age: float,
    quiet: float,
    unique: int,
    once: str = "",
    version: int = 0,
) -> Call:
    """What `append()` sends."""
    args: list[str | int] = [guard, round(max_age * 1e6), round(quiet * 1e6), unique]
    for id, time, texts in records:
        parts = [part for pair in texts.items() for part in pair]
        parts += [codec.VERSION, str(version)] if version else []
        parts += [codec.ONCE + once, ""] if once else [] if parts else [codec.NOTHING, ""]
        args += [id, "" if time is None else time, len(parts), *parts]
    return (key, *args)


def appended(outcome: Outcome) -> int | Moved | Taken:
    """What it comes to."""
    match outcome:
        case Exception() as error:
            raise error
        case ["moved", now]:
            return Moved(now)
        case ["taken", n]:
            return Taken(n - 1)
        case [0]:
            raise WriteUncertain("A call under the same key is on its way to Redis: repeat this.")
        case [first]:
            number: int = first
            return number
    raise AssertionError("unreachable")


def are_taken(client: Client, ids: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether unique ids are those of records that are pending or in flight, by shard and id."""
    commands = []
    for key, id in ids:
        commands.append(("HEXISTS", *taken_place(key, id)))
    with errors:
        return [bool(reply) for reply in lua.run_commands(client, commands)]


def window(
    client: Client, keys: Sequence[str], since: int | None, until: int | None
) -> list[list[Entry]]:
    """The records of each shard, in flight or pending, whose times may be in [since, until), which
    are in µs and may be open.

    One round trip, and one more for each page of a shard, so that nobody waits long for Redis
    meanwhile. A record that leaves it between two of them is in the database by then.
    """
    last = None if until is None else until - 1
    first_no = "-" if since is None else max(since, 0)  # no record was appended before 1970
    last_no = "+" if last is None else max(last, 0)
    times = ("-inf" if since is None else since, "+inf" if last is None else last)
    found: dict[str, dict[int, Entry]] = {key: {} for key in keys}
    calls: list[tuple[str | int, ...]] = [
        (key, PAGE, PAGE_BYTES, first_no, last_no, "times", *times) for key in keys
    ]
    rest: dict[str, list[str]] = {key: [] for key in keys}  # numbers that were not asked for yet
    while calls:
        with errors:
            replies = lua.run_many(client, "window", calls)
        asked, calls = [str(key) for key, *_ in calls], []
        for key, (go_on, left, records) in zip(asked, replies, strict=True):
            entries = [entry for id, flat in records if (entry := codec.entry(id, flat))]
            found[key] |= {entry.no: entry for entry in entries}
            more = [no for no in left + rest[key] if int(no) not in found[key]]
            if go_on or more:
                rest[key] = more[PAGE:]
                calls.append((key, PAGE, PAGE_BYTES, go_on, last_no, "numbers", *more[:PAGE]))
    return [sorted(entries.values(), key=lambda entry: entry.no) for entries in found.values()]
