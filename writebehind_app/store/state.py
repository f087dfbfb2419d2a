"""The state of shards: how many entries they hold, their counters, and whether they are paused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from writebehind_app.store import codec, lua
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.link import Command
from writebehind_app.store.shard import Shard


@dataclass(frozen=True, slots=True)
class Counts:
    """How many entries a shard holds."""

    pending: int
    in_flight: int
    due: int  # of the pending ones
    closed: str  # why the shard is not open, or ""


def count(client: Client, shards: Sequence[Shard]) -> dict[str, Counts]:
    """How many entries each shard holds, by its key, in one round trip."""
    return {
        shard.key: Counts(pending, in_flight, due, _why(open))
        for shard, (pending, in_flight, due, _, _, (_, open)) in zip(
            shards, _counts(client, shards, "open"), strict=True
        )
    }


def _why(open: str | None) -> str:
    """Why a shard is not open, or ""."""
    return "" if open == "1" else open or "?"


def _counts(client: Client, shards: Sequence[Shard], *names: str) -> list[Any]:
    with errors:
        return lua.run_each(
            client, [(shard.script("count"), shard.key, *names) for shard in shards]
        )


def holding(client: Client, shards: Sequence[Shard]) -> set[str]:
    """The keys of the shards that hold any entries, in one round trip. This is far less work for
    Redis than `count`.

    A shard that is not in force any more counts too: the caller does not know that yet. For the
    shards of a log this is not asked.
    """
    commands: list[Command] = [
        ("XLEN", f"{shard.key}:log")
        if shard.is_log
        else ("EXISTS", f"{shard.key}:due", f"{shard.key}:flight", f"{shard.key}:gone")
        for shard in shards
    ]
    with errors:
        replies, error = client.exchange(commands, again=True)
        if error:
            raise error
    # An error counts too: another program has written there, and a script will mend it.
    return {shard.key for shard, reply in zip(shards, replies, strict=True) if reply != 0}


class Deleting(NamedTuple):
    """Whether a delete may be pending or in flight in a shard. A delete that was flushed still
    counts until the shard was empty once."""

    is_so: bool
    closed: str  # why the shard is not open, or ""


def deleting(client: Client, keys: Sequence[str]) -> dict[str, Deleting]:
    """Whether a delete may be pending or in flight in these shards, in one round trip."""
    commands: list[Command] = [("HMGET", key, "deletes", "deleting", "open") for key in keys]
    with errors:
        replies = lua.run_commands(client, commands)
    return {
        key: Deleting(any(deletes), _why(open))
        for key, (*deletes, open) in zip(keys, replies, strict=True)
    }


# What a shard counts since it was made.
COUNTERS = ("accepted", "flushed", "rows", "batches", "retries", "buried", "fallbacks")


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of a shard, for people."""

    pending: int
    in_flight: int
    due: int  # of the pending ones
    oldest: float  # how many seconds its oldest entry has waited; 0 if there is none
    paused: bool
    attempts: int  # how often the batch in flight has failed
    took: float  # how many seconds its last batch took
    last: int  # the number of the last write
    batch: int  # the number of the last batch
    counters: dict[str, int]


def overview(client: Client, shards: Sequence[Shard]) -> dict[str, Overview]:
    """The state of each shard, by its key, in one round trip."""
    replies = _counts(client, shards, "attempts", "took", "last", "batch", *COUNTERS)
    found = {}
    for shard, (pending, in_flight, due, since, now, state) in zip(shards, replies, strict=True):
        # Another program may have written anything there.
        paused, attempts, took, last, batch, *numbers = state
        found[shard.key] = Overview(
            pending,
            in_flight,
            due,
            max(int(now) - (codec.whole(since) or int(now)), 0) / 1e6,
            paused is not None,
            codec.whole(attempts),
            codec.whole(took) / 1e6,
            codec.whole(last),
            codec.whole(batch),
            dict(zip(COUNTERS, map(codec.whole, numbers), strict=True)),
        )
    return found


def pause(client: Client, keys: Sequence[str]) -> bool:
    """Pause these shards: nobody can claim from them. Return whether that changed anything."""
    return any(_set(client, [("HSET", key, "paused", 1) for key in keys]))


def resume(client: Client, keys: Sequence[str]) -> bool:
    """End the pause of these shards. Return whether that changed anything."""
    return any(_set(client, [("HDEL", key, "paused") for key in keys]))


def make(
    client: Client,
    keys: Sequence[str],
    acked: str,
    last: int,
    batch: int,
    counters: Mapping[str, int],
) -> None:
    """Make open shards. Their numbers begin after `last`, and the numbers of their batches after
    `batch`. `acked` counts as the token of their last acknowledged batch. The first shard goes on
    with the counters."""
    counted = [part for pair in counters.items() for part in pair]
    commands: list[Command] = []
    for key in keys:
        numbers = ("first", last, "last", last, "batch", batch)
        commands.append(("HSET", key, "open", 1, "acked", acked, *numbers, *counted))
        counted = []
    _set(client, commands)


def leave(client: Client, keys: Sequence[str]) -> None:
    """Tell flushers that these shards are not in force any more. Let Redis forget the senders, when
    nobody asks about them any more."""
    commands: list[Command] = []
    for key in keys:
        commands.append(("SET", f"{key}:gone", 1, "EX", _FORGOTTEN))
        commands.append(("EXPIRE", f"{key}:senders", _FORGOTTEN))
    _set(client, commands)


_FORGOTTEN = 3600  # seconds; flushers look at all shards each minute


def count_up(client: Client, key: str, counter: str, by: int) -> None:
    _set(client, [("HINCRBY", key, counter, by)])


def _set(client: Client, commands: Sequence[Command]) -> Sequence[Any]:
    with errors:
        return lua.run_commands(client, commands, write=True)
