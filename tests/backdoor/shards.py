"""What a shard keeps next to its entries: numbers, counters, whether it is paused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from tests.servers import lasting_keys
from writebehind_app import status
from writebehind_app.buffers.base import Buffer
from writebehind_app.models import AppliedBatch
from writebehind_app.store import state
from writebehind_app.store.connection import client

COUNTERS = state.COUNTERS
"""What a shard counts."""

Part = Literal["state", "index", "flight", "senders", "times", "records"]
PARTS: dict[Part, str] = {
    "state": "",
    "index": ":due",
    "flight": ":flight",
    "senders": ":senders",
    "times": ":times",
    "records": ":log",
}
"""What there is of a shard, by what its keys end in."""


def number_of(buffer: Buffer, id: str) -> int:
    """Which shard an id belongs to."""
    return buffer.shard_keys().index(buffer.shard_key_of(id))


def counted(buffer: Buffer, counter: str) -> int:
    """A counter, of all shards."""
    return sum(int(client().hget(key, counter) or 0) for key in buffer.shard_keys())


def status_of(buffer: Buffer) -> status.Status:
    """How a buffer is doing, as monitors get it."""
    (found,) = status.read(client(), [buffer])
    return found


def counters_of(buffer: Buffer) -> tuple[dict[str, int], float]:
    """All counters, of all shards, and seconds of the last batch."""
    found = status_of(buffer)
    return dict(found.counters), found.seconds


def are_paused(buffer: Buffer) -> bool:
    found = state.overview(client(), buffer.shards())
    return all(shard.paused for shard in found.values())


def begin_numbers_at(buffer: Buffer, number: int) -> None:
    """Have the next writes of each shard numbered from there on."""
    for key in buffer.shard_keys():
        client().hset(key, mapping={"first": number, "last": number})


def spoil_counter(buffer: Buffer, counter: str, text: str) -> None:
    for key in buffer.shard_keys():
        client().hset(key, counter, text)


def spoil(buffer: Buffer, part: Part) -> None:
    """Write what a call cannot go on with into each shard."""
    for key in buffer.shard_keys():
        if part == "state":
            client().hset(key, "rows", "007")
        else:
            client().set(key + PARTS[part], "x")


def discard_one_of_each(buffer: Buffer) -> list[int]:
    """How many entries were thrown away in each shard, where one at most may be."""
    return [shard.discard(1) for shard in buffer.shards()]


def assert_drained(buffers: Iterable[Buffer]) -> None:
    """Redis keeps the number of shards of each, and one hash for its only shard, without a batch.
    It agrees with the ledger, and has nothing else that lasts."""
    server = client()
    keys: set[Any] = lasting_keys(server)
    for buffer in buffers:
        (key,) = buffer.shard_keys()
        state = server.hgetall(key)
        assert {"token", "lease", "attempts", "retry_at", "to", "flying"}.isdisjoint(state)
        ledger = AppliedBatch.objects.filter(buffer=buffer.label)
        assert sum(ledger.values_list("entries", flat=True)) == int(state["flushed"])
        assert len(ledger) == int(state["batches"])
        keys -= {key, f"{key}:senders"}
        for alias in buffer.databases():
            with buffer.in_database(alias):
                keys -= {buffer.redis_key()}
        if f"{key}:log" in keys:  # remembers the last number, and has no record
            assert server.xlen(f"{key}:log") == 0
            keys -= {f"{key}:log"}
    assert not keys
