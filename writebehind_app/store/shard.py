"""One shard of a buffer in Redis: writes go in, batches come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import redis

from writebehind_app.store import codec, lua
from writebehind_app.store.codec import Entry
from writebehind_app.store.connection import errors

Where = Literal["pending", "in_flight", "gone", "discarded", "lost"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries that were claimed together."""

    token: str
    attempts: int  # how often it failed so far
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Wait:
    """Why there is no batch although there is something to flush."""

    reason: Literal["busy", "backoff"]
    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What Redis holds for some ids of one shard, at one moment."""

    moves: int  # differs from another reading's once a batch was claimed or dropped in between
    token: str  # of the batch in flight, or ''
    attempts: int  # how often it failed so far
    pending: dict[str, Entry]
    in_flight: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many entries a shard holds."""

    pending: int
    in_flight: int
    due: int  # of the pending ones


class Shard:
    """The state of one shard and everything that can be done to it."""

    __slots__ = ("client", "key")

    def __init__(self, client: redis.Redis, key: str) -> None:
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
            case ["batch", token, attempts, *entries]:
                found = (codec.entry(id, flat) for id, flat in entries)
                return Batch(token, attempts, [entry for entry in found if entry])
            case [("busy" | "backoff") as reason, micros]:
                return Wait(reason, micros / 1e6)
            case _:
                return None

    def ack(self, token: str) -> bool:
        """Drop the batch in flight; False where it is another one by now."""
        with errors:
            return bool(lua.run(self.client, "ack", self.key, token))

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

    def discard(self, limit: int, ids: Sequence[str] = ()) -> int:
        """Throw pending entries away, at most `limit` of them; says how many."""
        with errors:
            count: int = lua.run(self.client, "discard", self.key, limit, *ids)
        return count

    def locate(self, id: str, no: int) -> Where:
        """Where the entry of that number is."""
        with errors:
            where: Where = lua.run(self.client, "locate", self.key, id, no)
        return where


def read(client: redis.Redis, ids: dict[str, list[str]]) -> dict[str, Reading]:
    """What the shards hold for the ids asked of each, in one round trip."""
    keys = list(ids)
    with errors:
        replies = lua.run_many(client, "read", [(key, *ids[key]) for key in keys])
    readings = {}
    for key, (moves, token, attempts, *flat) in zip(keys, replies, strict=True):
        pending = zip(ids[key], flat[::2], strict=True)
        in_flight = zip(ids[key], flat[1::2], strict=True)
        readings[key] = Reading(
            moves,
            token,
            attempts,
            {id: entry for id, hash in pending if (entry := codec.entry(id, hash))},
            {id: entry for id, hash in in_flight if (entry := codec.entry(id, hash))},
        )
    return readings


def count(client: redis.Redis, keys: Sequence[str]) -> dict[str, Counts]:
    """How much each shard holds, in one round trip."""
    with errors:
        seconds, micros = client.time()
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.zcard(f"{key}:due")
            pipeline.llen(f"{key}:flight")
            pipeline.zcount(f"{key}:due", "-inf", seconds * 1_000_000 + micros)
        replies = pipeline.execute()
    return {key: Counts(*replies[3 * i : 3 * i + 3]) for i, key in enumerate(keys)}
