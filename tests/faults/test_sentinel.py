"""The master dies amid writes and flushes, and Sentinel chooses another one."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import suppress

import pytest
import redis
from django.db import connections

from tests.backdoor.breaker import is_asked
from tests.faults.writers import ROUNDS, assert_as_told, drained, flush_and_kill, flush_on, write_on
from tests.models import Item
from tests.outages import wait_for, wait_for_redis
from tests.servers import RedisServer, SentinelGroup
from writebehind_app import Add, checkpoints
from writebehind_app.exceptions import (
    BufferUnavailable,
    WritebehindError,
)

# Seconds within which Redis is used again, once there is a master: two, by docs/guarantees.md, and
# one more, as the machine may be busy.
BACK = 3.0

pytestmark = pytest.mark.outage


def other_master(group: SentinelGroup, before: RedisServer) -> RedisServer:
    """The new master, once the Sentinels name it and it takes writes."""

    def is_there() -> bool:
        found = group.master()
        if found in (None, before):
            return False
        try:
            with found.client() as client:
                client.delete("nothing")
        except redis.ResponseError:  # it is a replica still, or none follows it yet
            return False
        return True

    wait_for(is_there, 60)
    found = group.master()
    assert found is not None
    return found


@pytest.mark.process
@pytest.mark.slow
class TestWhileProcessesWrite:
    def test_what_was_acknowledged_is_there_once(self, sentinels, configure, start_child, rng):
        """SCENARIOS 35."""
        configure(DURABILITY=1, LEASE=2)
        writers = [start_child(write_on, me) for me in (1, 2)]
        flushers = [start_child(flush_on) for _ in range(2)]
        for child in (*writers, *flushers):
            assert child.stdout.readline() == "begun\n"
        time.sleep(1 + rng.random())
        killed = sentinels.nodes[0]
        killed.kill()
        started = time.monotonic()
        other_master(sentinels, killed)
        took = time.monotonic() - started
        time.sleep(3)
        for child in (*writers, *flushers):
            child.stdin.write("\n")
            child.stdin.flush()
        told = [json.loads(child.communicate(timeout=120 + ROUNDS / 20)[0]) for child in writers]
        for child in flushers:
            assert child.wait(timeout=60) == 0
        print(f"{sentinels.kind}: a new master after {took:.1f} s; without service for")
        print(", ".join(f"{one['longest']:.1f} s" for one in told))
        unsure = [sum(each[1] for each in one["sums"].values()) for one in told]
        print(f"writes that may be lost: {unsure}")
        drained()
        assert_as_told(told)


class TestAStepOfAFlush:
    """The master dies when a flush has come to a step, and the flusher goes on."""

    @pytest.mark.parametrize("step", ["claiming", "claimed", "token", "committed", "acked"])
    def test_the_master_dies(self, step, sentinels, configure, monkeypatch, caplog):
        """SCENARIOS 35."""
        Item.objects.create(number=1, a=1)
        Item.objects.create(number=3)
        configure(DURABILITY=1, LEASE=0.5)
        Item.buffered.set(number=1, a=Add(10))
        Item.buffered.set(number=2, a=5)
        Item.buffered.delete(number=3)
        killed = sentinels.nodes[0]
        flush_and_kill(monkeypatch, step, killed)
        other_master(sentinels, killed)
        drained()
        assert dict(Item.objects.values_list("number", "a")) == {1: 11, 2: 5}
        assert "entries failed" not in caplog.text  # it is no fault of the batch

    def test_a_claim_that_no_replica_has_is_not_applied(self, sentinels, configure):
        """SCENARIOS 35. A replica that has the writes and not the claim would have them flushed
        again."""
        configure(DURABILITY=1, DURABILITY_TIMEOUT=0.2, LEASE=0.5)
        Item.objects.create(number=1, a=1)
        Item.buffered.set(number=1, a=Add(10))
        killed, *replicas = sentinels.nodes
        with killed.client() as client:
            assert client.wait(2, 10_000) == 2
        for each in replicas:
            each.pause()
        with pytest.raises(WritebehindError, match=r"not safe to apply: 0 of 1 replica had it"):
            Item.buffered.flush()
        assert Item.objects.get(number=1).a == 1
        killed.kill()
        for each in replicas:
            each.resume()
        other_master(sentinels, killed)
        drained()
        assert Item.objects.get(number=1).a == 11

    def test_a_claim_that_was_lost_is_not_applied(self, sentinels, configure, monkeypatch):
        """SCENARIOS 35. Between the claim and the transaction, another server becomes the master
        that never heard of the claim. There the batch is claimed anew."""
        configure(DURABILITY=1, LEASE=0.5)
        Item.objects.create(number=1, a=1)
        Item.buffered.set(number=1, a=Add(10))
        before, after, _ = sentinels.nodes
        with before.client() as client:
            assert client.wait(2, 10_000) == 2
        reached = []

        def hook(name: str) -> None:
            if name == "flush.claiming" and not reached:
                reached.append(name)
                with after.client() as client:  # nothing that comes now reaches it
                    client.replicaof("NO", "ONE")
            elif name == "flush.claimed" and len(reached) == 1:
                reached.append(name)
                sentinels.lead(after)
                sentinels.monitor(after)
                before.kill()

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "hook", hook)
            with suppress(BufferUnavailable):
                Item.buffered.flush()
        assert len(reached) == 2
        drained()
        assert Item.objects.get(number=1).a == 11


class TestConnections:
    def test_redis_is_used_soon_after_there_is_a_master(self, sentinels, configure):
        configure(WHEN_DOWN="direct")
        Item.buffered.set(number=1, a=1)
        killed = sentinels.nodes[0]
        killed.kill()
        there: list[float] = []

        def watch() -> None:
            other_master(sentinels, killed)
            there.append(time.monotonic())

        threading.Thread(target=watch).start()
        went = {True: 0, False: 0}
        is_direct = False
        while is_direct or not there:
            is_direct = Item.buffered.set(number=1, a=2).direct
            went[is_direct] += 1
            assert not there or time.monotonic() - there[0] < BACK
            time.sleep(0.02)
        print(f"{went[True]} writes went to the database")
        assert went[True]

    def test_a_frozen_master_is_left(self, sentinels, configure):
        """Connections of other threads to it are closed before they are used."""
        configure(WHEN_DOWN="direct", SOCKET_TIMEOUT=2)
        go_on, told = threading.Barrier(2, timeout=60), []

        def write_twice() -> None:
            Item.buffered.set(number=2, a=1)
            go_on.wait()
            go_on.wait()
            started = time.monotonic()
            is_direct = Item.buffered.set(number=2, a=2).direct
            told.append((is_direct, time.monotonic() - started))
            connections.close_all()

        other = threading.Thread(target=write_twice)
        other.start()
        Item.buffered.set(number=1, a=1)
        go_on.wait()
        frozen = sentinels.nodes[0]
        frozen.pause()
        other_master(sentinels, frozen)
        Item.buffered.set(number=1, a=2)
        wait_for_redis()
        go_on.wait()
        other.join()
        [(is_direct, took)] = told
        assert not is_direct
        assert took < 4

    def test_a_demoted_master_is_left_at_its_first_refusal(self, sentinels):
        """Somebody made it a replica of its replica, and let its connections be."""
        after = sentinels.nodes[1]
        Item.buffered.set(number=1, a=1)
        sentinels.lead(after)
        sentinels.monitor(after)
        with pytest.raises(BufferUnavailable, match="read only replica"):
            Item.buffered.set(number=1, a=2)
        Item.buffered.set(number=1, a=3)
        assert is_asked()
        assert Item.buffered.get(number=1).a == 3

    def test_a_demoted_master_is_left_by_event_loops(self, sentinels):
        after = sentinels.nodes[1]

        async def calls() -> None:
            await asyncio.gather(*(Item.buffered.aset(number=n, a=1) for n in range(5)))
            sentinels.lead(after)
            sentinels.monitor(after)
            with pytest.raises(BufferUnavailable, match="read only replica"):
                await Item.buffered.aset(number=1, a=2)
            await asyncio.gather(*(Item.buffered.aset(number=n, a=3) for n in range(5)))

        asyncio.run(calls())
        assert is_asked()
        assert [Item.buffered.get(number=n).a for n in range(5)] == [3] * 5

    def test_a_replica_that_sentinel_takes_for_the_master_is_not_used(self, sentinels):
        """A Sentinel that is cut off from the others is late."""
        named = sentinels.nodes[2]
        sentinels.monitor(named)
        with pytest.raises(
            BufferUnavailable, match=f":{named.port} is the master, and it is a rep"
        ):
            Item.buffered.get(number=1)

    def test_without_sentinels(self, sentinels):
        for each in sentinels.sentinels:
            each.kill()
        started = time.monotonic()
        with pytest.raises(BufferUnavailable, match=f"No master found for '{sentinels.name}'$"):
            Item.buffered.set(number=1, a=1)
        assert time.monotonic() - started < 5

    def test_event_loops_find_the_new_master(self, sentinels):
        killed = sentinels.nodes[0]

        async def calls() -> int:
            await Item.buffered.aset(number=1, a=1)
            await asyncio.to_thread(killed.kill)
            await asyncio.to_thread(other_master, sentinels, killed)
            deadline = time.monotonic() + BACK
            while True:
                try:
                    await Item.buffered.aset(number=1, a=2)
                    return (await Item.buffered.aget(number=1)).a
                except BufferUnavailable:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)

        assert asyncio.run(calls()) == 2
