"""Read what shards hold for some ids."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis

from writebehind_app.fields.entry import Entry
from writebehind_app.store import codec, lua
from writebehind_app.store.bases import BaseTerms
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.link import Command

_NO_BASES = ("", "", 0, 0)


class Reading(NamedTuple):
    """What a shard holds for some ids, at one moment."""

    shard: str
    closed: str  # why the shard is not open, or ''
    guard: str  # changes with each claim, ack and discard
    token: str  # of the batch in flight, or ''
    attempts: int  # how often it failed so far
    acked: str  # the token of the last batch that was acknowledged, or ''
    batch: int  # the number of the last batch that was claimed
    pending: dict[str, Entry]
    in_flight: dict[str, Entry]
    guards: Mapping[str, str]  # by id: a write with it is taken only if the row has not changed
    bases: Mapping[str, str]  # by id: a base, or the lease for one, if bases were asked for
    marks: Mapping[str, Sequence[str]]  # by id: tokens of writes past Redis that are under way


def read(
    client: Client,
    ids: Mapping[str, Sequence[str]],
    *,
    guarded: bool = False,
    bases: BaseTerms | None = None,
    lease: str = "",
) -> dict[str, Reading]:
    """What the shards hold for these ids, in one round trip.

    With `guarded`, a shard without a guard gets one. With `bases`, bases are read too. If a base is
    missing, this `lease` is left in its place, unless it is ''.
    """
    guard = secrets.token_hex(8) if guarded else ""
    given = (bases.prefix, lease, bases.micros, bases.bytes) if bases else _NO_BASES
    calls: list[Command] = [(key, guard, *given, *ids[key]) for key in ids]
    with errors:  # a second run leaves the same guard and the same lease
        replies = lua.run_many(client, "read", calls, again=True)
    return {
        key: reading_of(key, ids[key], reply, guarded=guarded)
        for key, reply in zip(ids, replies, strict=True)
    }


def read_one(client: Client, key: str, id: str, bases: BaseTerms | None, lease: str) -> Any:
    """The answer of read.lua for one id: mostly one command."""
    given = (bases.prefix, lease, bases.micros, bases.bytes) if bases else _NO_BASES
    args: Command = (key, "", *given, id)
    try:
        replies, _ = client.exchange([("EVALSHA", lua.digest("read"), 1, *args)], again=True)
        if replies and type(replies[0]) is list:
            return replies[0]
    except redis.RedisError:
        pass  # the call below says what is wrong
    with errors:
        return lua.run_many(client, "read", [args], again=True)[0]


def reading_of(
    shard: str, ids: Sequence[str], reply: Sequence[Any], *, guarded: bool = False
) -> Reading:
    """The answer of read.lua as a `Reading`."""
    guard, token, attempts, acked, batch, closed, *flat = reply
    pending = dict(zip(ids, flat[::3], strict=True))
    in_flight = dict(zip(ids, flat[1::3], strict=True))
    last = dict(zip(ids, flat[2::3], strict=True))
    return Reading(
        shard,
        closed,
        guard,
        token,
        attempts,
        acked,
        batch,
        {id: entry for id, hash in pending.items() if (entry := codec.entry(id, hash))},
        {id: entry for id, hash in in_flight.items() if (entry := codec.entry(id, hash))},
        {id: f"{guard} {codec.last(hash)}" for id, hash in pending.items()} if guarded else {},
        {} if guarded else last,
        last if guarded else {},
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What a shard holds of ids that are about to be written past Redis: all of it is older."""

    number: int  # the number of the write past Redis; 0 if the shard holds nothing
    token: str  # of the batch in flight, or ''
    closed: str  # why the shard is not open, or ''
    pending: dict[str, Entry]
    in_flight: dict[str, Entry]


def look(
    client: Client, ids: Mapping[str, Collection[str]], *, mark: str = "", seconds: float = 0
) -> dict[str, Look]:
    """What the shards hold of these ids, in one round trip, before a write past Redis.

    Open sums are closed: a later sum begins a new segment. With a `mark`, the rows are marked for
    some seconds.
    """
    ms = round(seconds * 1000)
    calls: list[Command] = [(key, mark, ms, *ids[key]) for key in ids]
    with errors:
        replies = lua.run_many(client, "look", calls, again=True)
    looks = {}
    for (key, of), (number, token, closed, *flat) in zip(ids.items(), replies, strict=True):
        pending, in_flight = (
            {id: e for id, hash in zip(of, side, strict=True) if (e := codec.entry(id, hash))}
            if number
            else {}
            for side in (flat[::2], flat[1::2])
        )
        looks[key] = Look(number, token, closed, pending, in_flight)
    return looks


@dataclass(frozen=True, slots=True)
class Waiting:
    """The ids that a shard holds entries of."""

    acked: str  # the token of the last batch that was acknowledged, or ""
    count: int  # how many entries the shard holds
    closed: str  # why the shard is not open, or ""
    ids: Sequence[str]


def waiting(client: Client, ids: Mapping[str, Sequence[str]], most: int = 0) -> dict[str, Waiting]:
    """Which of these ids the shards hold entries of, in one round trip.

    A shard that is asked for no ids answers with all that it has, if these are at most `most`.
    """
    with errors:
        replies = lua.run_many(client, "waiting", [(key, most, *ids[key]) for key in ids])
    return {
        key: Waiting(acked, count, closed, found)
        for key, (acked, count, closed, *found) in zip(ids, replies, strict=True)
    }


def is_known(client: Client, key: str, once: str) -> bool:
    """Whether a write with the idempotency key of this digest was taken."""
    with errors:
        return bool(lua.call(client, "EXISTS", f"{key}:once:{once}", again=True))
