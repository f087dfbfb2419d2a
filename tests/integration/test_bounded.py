"""A flush costs work in proportion to its batch, and leaves nothing behind in Redis (G8)."""

from __future__ import annotations

import pytest

from tests.backdoor.batches import is_in_flight
from tests.models import Item
from tests.servers import lasting_keys
from writebehind_app.flush.engine import flush
from writebehind_app.models import AppliedBatch

LOOKING_FOR_WORK = {"keys", "scan", "hscan", "zscan", "sscan", "randomkey"}


CONNECTING = {"client|setinfo", "hello", "auth", "select", "ping"}


def calls(client) -> dict[str, int]:
    """How often each command was sent, but for those that make a connection."""
    return {
        command: stats["calls"]
        for name, stats in client.info("commandstats").items()
        if (command := name.removeprefix("cmdstat_")) not in CONNECTING
    }


@pytest.mark.parametrize("due_only", [False, True])
def test_a_flush_of_1_000_among_20_000(plain, configure, due_only):
    configure(SHARDS=1, MAX_AGE=0)
    Item.buffered.set_many({"number": n} for n in range(20_000))
    with plain.client(decode_responses=True) as client:
        client.config_resetstat()
        result = flush(Item.buffered, limit=1000, due_only=due_only)
        commands = calls(client)
    assert not is_in_flight(Item.buffered)
    assert (result.rows, result.remaining) == (1000, 19_000)
    assert sum(commands.values()) <= 8 * 1000 + 100
    assert not LOOKING_FOR_WORK & commands.keys()
    # As many entries are read as are in the batch. The index is asked for what was written ahead of
    # the clock, for what is due, and twice for the oldest that is left.
    assert commands["hgetall"] == 1000
    assert commands.get("zrange", 0) + commands.get("zrangebyscore", 0) == 4
    assert AppliedBatch.objects.get().entries == 1000
    assert Item.buffered.count_pending() == 19_000


def test_reads_and_listings_look_at_what_they_are_asked_for(plain, configure):
    configure(SHARDS=4)
    Item.buffered.set_many({"number": n} for n in range(5000))
    with plain.client(decode_responses=True) as client:
        for call, most in (
            (lambda: Item.buffered.get(number=1), 20),
            (lambda: Item.buffered.get_many(range(10)), 100),
            (lambda: Item.buffered.pending(limit=10), 130),  # ten of each shard
            (lambda: Item.buffered.count_pending(), 50),
            (lambda: Item.buffered.discard(number=1), 30),
        ):
            client.config_resetstat()
            call()
            commands = calls(client)
            assert sum(commands.values()) <= most
            assert not LOOKING_FOR_WORK & commands.keys()


def test_redis_holds_after_the_drain_what_it_held_before(plain, configure):
    """Scenario 45."""
    configure(SHARDS=4)

    def held() -> tuple[int, int]:
        with plain.client(decode_responses=True) as client:
            keys = lasting_keys(client)
            return len(keys), sum(client.memory_usage(key) for key in client.scan_iter())

    def write_and_drain() -> None:
        Item.buffered.set_many(
            {"number": n, "a": turn, "b": "x" * 100} for turn in range(3) for n in range(2000)
        )
        for n in range(0, 2000, 4):
            Item.buffered.delete(number=n)
        Item.buffered.flush()

    assert held() == (0, 0)
    write_and_drain()
    keys, size = held()
    # Of each shard its state, and who sent to it; of each database how many shards there are.
    assert keys == 2 * 4 + len(Item.buffered.databases())
    assert size < 8000
    write_and_drain()
    assert held()[0] == keys
    assert held()[1] <= size + 100
