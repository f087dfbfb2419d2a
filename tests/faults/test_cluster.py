"""A Redis Cluster: calls to all of its nodes, while a master dies and while a slot moves."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter as Count
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby

import pytest
from django.db import connections

import writebehind_app
from tests.backdoor import cluster as backdoor
from tests.backdoor.breaker import is_asked
from tests.faults.writers import (
    BUFFERS,
    ROUNDS,
    assert_as_told,
    drained,
    flush_and_kill,
    flush_on,
    write_on,
)
from tests.models import Item, Line, Setting
from tests.outages import wait_for, wait_for_redis
from tests.servers import ClusterGroup, RedisServer
from writebehind_app import Add
from writebehind_app.exceptions import BufferUnavailable, NotDurable, WriteUncertain

ROWS = range(24)  # on all nodes
LONG = 400.0  # seconds, for what is only slow on a busy machine
# Seconds within which Redis is used again, once there is a master: two, by docs/guarantees.md, and
# one more, as the machine may be busy.
BACK = 3.0

pytestmark = pytest.mark.outage


def other_master(group: ClusterGroup, slot: int, before: RedisServer) -> RedisServer:
    """The new master of a slot, once all nodes that run know it."""
    found: list[RedisServer] = []

    def is_there() -> bool:
        owner = group.owner(slot)
        if owner is before or not group.is_served():
            return False
        found.append(owner)
        return True

    wait_for(is_there, 60)
    return found[0]


def slot_of(number: int) -> int:
    return backdoor.slot_of(Item.buffered, str(number))


def in_thread(act: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        try:
            act()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


class TestCalls:
    def test_threads(self, cluster):
        """SCENARIOS 35."""
        for n in ROWS:
            Item.buffered.set(number=n, a=n)
            Item.buffered.set(number=n, a=Add(2))
            Line.buffered.append(text=str(n))
            Setting.buffered.of(site=n).update(a=1)
        for node in cluster.masters():
            with node.client() as client:
                assert client.dbsize() > 0
        assert [Item.buffered.get(number=n).a for n in ROWS] == [n + 2 for n in ROWS]
        assert sorted(int(line.text) for line in Line.buffered.window()) == [*ROWS]
        assert Item.buffered.count_pending() == len(ROWS)
        Item.buffered.flush(number=3)
        assert Item.objects.get().a == 5
        for buffer in (Item.buffered, Line.buffered, Setting.buffered):
            buffer.flush()
            assert buffer.count_pending() == 0
        assert dict(Item.objects.values_list("number", "a")) == {n: n + 2 for n in ROWS}
        assert Line.objects.count() == Setting.objects.count() == len(ROWS)

    def test_event_loops(self, cluster):
        async def calls() -> list[int]:
            await asyncio.gather(*(Item.buffered.aset(number=n, a=Add(1)) for n in [*ROWS] * 2))
            await Item.buffered.aset_many([{"number": n, "a": Add(1)} for n in ROWS])
            return [(await Item.buffered.aget(number=n)).a for n in ROWS]

        assert asyncio.run(calls()) == [3] * len(ROWS)

    def test_many_rows_are_one_round_trip_for_each_node(self, cluster, monkeypatch):
        rows = [{"number": n, "a": n} for n in ROWS]
        Item.buffered.set_many(rows)  # each node knows the script now
        Item.buffered.get_many(ROWS)
        asked = backdoor.asked(monkeypatch)
        Item.buffered.set_many(rows)
        assert Count(asked) == {(node.port, "EVALSHA"): 1 for node in cluster.masters()}
        asked.clear()
        with writebehind_app.batch():
            for n in ROWS:
                Item.buffered.set(number=n, a=1)
        assert Count(asked) == {(node.port, "EVALSHA"): 1 for node in cluster.masters()}
        asked.clear()
        Item.buffered.get_many(ROWS)
        assert Count(asked) == {(node.port, "EVALSHA"): 1 for node in cluster.masters()}
        asked.clear()
        Item.buffered.set(number=1, a=1)
        assert asked == [(cluster.owner(slot_of(1)).port, "EVALSHA")]

    def test_a_node_gets_the_script_that_it_does_not_know(self, cluster, monkeypatch):
        Item.buffered.set(number=1, a=1)
        owner = cluster.owner(slot_of(1))
        with owner.client() as client:
            client.script_flush()
        asked = backdoor.asked(monkeypatch)
        Item.buffered.set(number=1, a=2)
        assert {port for port, _ in asked} == {owner.port}
        assert asked[-1][1] == "SCRIPT"  # and then the call
        asked.clear()
        Item.buffered.set(number=1, a=2)
        assert asked == [(owner.port, "EVALSHA")]

    def test_durability(self, cluster, configure):
        configure(DURABILITY=1, DURABILITY_TIMEOUT=10)
        Item.buffered.set_many([{"number": n, "a": n} for n in ROWS])
        configure(DURABILITY=2, DURABILITY_TIMEOUT=0.1)
        with pytest.raises(NotDurable, match=r"[01] of 2 replicas"):
            Item.buffered.set_many([{"number": n, "a": n} for n in ROWS])
        configure(DURABILITY=1)
        [replica] = cluster.masters()[cluster.owner(slot_of(1))]
        replica.kill()
        with pytest.raises(NotDurable, match="0 of 1 replica had"):  # though the others have it
            Item.buffered.set_many([{"number": n, "a": n} for n in ROWS])
        configure(DURABILITY="fsync", DURABILITY_TIMEOUT=10)
        if cluster.has_waitaof:
            Item.buffered.set_many([{"number": n, "a": 7} for n in ROWS])
            assert Item.buffered.get(number=1).a == 7

    @pytest.mark.parametrize("rows", [[1], ROWS])
    def test_an_answer_that_is_lost(self, rows, cluster, monkeypatch):
        """What was sent is never sent again before it is known that it was not taken."""
        Item.buffered.set_many([{"number": n, "a": 1} for n in rows])
        with backdoor.answers_lost(monkeypatch, cluster.owner(slot_of(1)).port):
            Item.buffered.set_many([{"number": n, "a": Add(1)} for n in rows])
        if len(rows) == 1:
            Item.buffered.set(number=1, a=1)
            with backdoor.answers_lost(monkeypatch, cluster.owner(slot_of(1)).port):
                Item.buffered.set(number=1, a=Add(1))
        assert [Item.buffered.get(number=n).a for n in rows] == [2] * len(rows)

    def test_a_read_whose_answer_is_lost(self, cluster, monkeypatch):
        Item.buffered.set_many([{"number": n, "a": n} for n in ROWS])
        with backdoor.answers_lost(monkeypatch, cluster.owner(slot_of(1)).port):
            found = Item.buffered.get_many(ROWS)
        assert {n: row.a for n, row in found.items()} == {n: n for n in ROWS}
        with backdoor.answers_lost(monkeypatch, cluster.owner(slot_of(1)).port):
            assert Item.buffered.get(number=1).a == 1


class TestASlotThatMoves:
    @pytest.fixture
    def slot(self, cluster, configure):
        configure(WHEN_DOWN="raise")
        Item.buffered.set(number=1, a=1, b="x")
        return slot_of(1)

    def test_calls_wait_until_it_has_moved(self, cluster, slot):
        """SCENARIOS 35. A script that found half of the shard would make the other half anew."""
        source, to = cluster.owner(slot), cluster.other(slot)
        cluster.migrate(slot, to, keys=2)
        writing = in_thread(lambda: Item.buffered.set(number=1, a=Add(1)))
        time.sleep(0.3)
        assert writing.is_alive()
        with source.client() as here, to.client() as there:
            counts = [c.execute_command("CLUSTER COUNTKEYSINSLOT", slot) for c in (here, there)]
            assert counts[1] == 2
            assert counts[0] > 0
        cluster.finish(slot, source, to)
        writing.join()
        assert Item.buffered.get(number=1).a == 2
        Item.buffered.flush()
        assert Item.objects.get(number=1).a == 2

    def test_calls_do_not_wait_for_ever(self, cluster, slot, configure):
        configure(SOCKET_TIMEOUT=0.3)
        source, to = cluster.owner(slot), cluster.other(slot)
        cluster.migrate(slot, to, keys=2)
        elsewhere = next(n for n in ROWS if cluster.owner(slot_of(n)) not in (source, to))
        started = time.monotonic()
        with pytest.raises(BufferUnavailable):
            Item.buffered.set(number=1, a=Add(1))
        assert 0.2 < time.monotonic() - started < 5
        Item.buffered.set(number=elsewhere, a=7)
        cluster.finish(slot, source, to)
        wait_for_redis()
        Item.buffered.set(number=1, a=Add(1))
        Item.buffered.flush()
        assert dict(Item.objects.values_list("number", "a")) == {1: 2, elsewhere: 7}

    def test_what_is_no_script_is_asked_for_at_the_other_node(self, cluster, slot):
        source, to = cluster.owner(slot), cluster.other(slot)
        cluster.migrate(slot, to)
        key = backdoor.key_of(Item.buffered, "1")
        assert int(backdoor.read_plainly("HGET", key, "accepted")) == 1
        assert backdoor.write_plainly("HSET", key, "took", 5) == 1
        assert backdoor.write_plainly("HSETNX", f"{key}:new", "x", 1) == 1
        cluster.finish(slot, source, to)
        assert backdoor.read_plainly("HGET", f"{key}:new", "x") == "1"

    def test_each_call_finds_it_at_once(self, cluster, slot, monkeypatch):
        source, to = cluster.owner(slot), cluster.other(slot)
        cluster.migrate(slot, to)
        cluster.finish(slot, source, to)
        asked = backdoor.asked(monkeypatch)
        Item.buffered.set(number=1, a=Add(1))
        # On a busy machine, a node may have to be asked twice.
        ports = [port for port, word in asked if word != "CLUSTER"]
        assert [port for port, _ in groupby(ports)] == [source.port, to.port]
        asked.clear()
        Item.buffered.set(number=1, a=Add(1))
        assert {port for port, _ in asked} == {to.port}
        assert Item.buffered.get(number=1).a == 3

    def test_event_loops(self, cluster, slot):
        source, to = cluster.owner(slot), cluster.other(slot)

        async def calls() -> int:
            await Item.buffered.aset_many([{"number": n, "a": n} for n in ROWS])
            await asyncio.to_thread(cluster.migrate, slot, to, keys=2)
            writing = asyncio.create_task(Item.buffered.aset(number=1, a=Add(1)))
            await asyncio.sleep(0.2)
            assert not writing.done()
            await asyncio.to_thread(cluster.finish, slot, source, to)
            await writing
            await Item.buffered.aset_many([{"number": n, "a": Add(1)} for n in ROWS])
            return (await Item.buffered.aget(number=1)).a

        assert asyncio.run(calls()) == 3


@pytest.mark.process
@pytest.mark.slow
class TestWhileProcessesWrite:
    def test_what_was_acknowledged_is_there_once(self, cluster, configure, start_child, rng):
        """SCENARIOS 35. A master dies, and a slot moves."""
        configure(DURABILITY=1, DURABILITY_TIMEOUT=5, LEASE=2)
        writers = [start_child(write_on, me, 8) for me in (1, 2)]
        flushers = [start_child(flush_on)]
        for child in (*writers, *flushers):
            assert child.stdout.readline() == "begun\n"
        time.sleep(1 + rng.random())
        slot = slot_of(100)
        source, to = cluster.owner(slot), cluster.other(slot)
        cluster.migrate(slot, to, keys=3)
        time.sleep(0.2)
        cluster.finish(slot, source, to)
        time.sleep(0.5)
        killed = next(node for node in cluster.masters() if node not in (source, to))
        lost = next(slot for slot in map(slot_of, ROWS) if cluster.owner(slot) is killed)
        killed.kill()
        started = time.monotonic()
        other_master(cluster, lost, killed)
        took = time.monotonic() - started
        killed.start()  # as a replica: else none of its writes would be durable
        time.sleep(1.5)
        for child in (*writers, *flushers):
            child.stdin.write("\n")
            child.stdin.flush()
        told = [json.loads(child.communicate(timeout=120 + ROUNDS / 20)[0]) for child in writers]
        for child in flushers:
            assert child.wait(timeout=60) == 0
        print(f"{cluster.kind}: a new master after {took:.1f} s; without service for")
        print(", ".join(f"{one['longest']:.1f} s" for one in told))
        unsure = [sum(each[1] for each in one["sums"].values()) for one in told]
        calls = [sum(each[0] for each in one["sums"].values()) for one in told]
        print(f"writes that may be lost: {unsure} of {calls}")
        drained()
        assert_as_told(told)


@pytest.mark.process
@pytest.mark.slow
class TestANodeThatJoins:
    def test_it_takes_slots_and_gives_them_back(self, cluster, configure, start_child):
        configure(DURABILITY=1, DURABILITY_TIMEOUT=10, LEASE=2)
        writers = [start_child(write_on, me, 8, LONG) for me in (1, 2)]
        children = [*writers, start_child(flush_on)]
        for child in children:
            assert child.stdout.readline() == "begun\n"
        slots = {backdoor.slot_of(buffer, str(n)) for buffer in BUFFERS for n in range(2)}
        with cluster.joined() as joined:
            before = {slot: cluster.owner(slot) for slot in sorted(slots)}
            for slot, source in before.items():
                cluster.migrate(slot, joined, keys=3)
                cluster.finish(slot, source, joined)
            wait_for(cluster.is_served, LONG)
            with joined.client() as client:
                taken = client.info("commandstats")["cmdstat_evalsha"]["calls"]
                wait_for(
                    lambda: client.info("commandstats")["cmdstat_evalsha"]["calls"] > taken + 100,
                    LONG,
                )
            for slot, source in before.items():
                cluster.migrate(slot, source, keys=3)
                cluster.finish(slot, joined, source)
            wait_for(lambda: cluster.is_served() and joined not in cluster.masters(), LONG)
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        told = [json.loads(child.communicate(timeout=LONG)[0]) for child in writers]
        assert children[-1].wait(timeout=LONG) == 0
        drained()
        assert_as_told(told)
        unsure = sum(each[1] for one in told for each in one["sums"].values())
        print(f"{cluster.kind}: writes that nobody is sure of: {unsure}")


class TestAMasterThatDies:
    @pytest.mark.parametrize("step", ["claimed", "committed"])
    def test_at_a_step_of_a_flush(self, step, cluster, configure, monkeypatch, caplog):
        """SCENARIOS 35. And the flusher goes on."""
        Item.objects.create(number=1, a=1)
        configure(DURABILITY=1, LEASE=0.5)
        Item.buffered.set(number=1, a=Add(10))
        Item.buffered.set(number=2, a=5)
        slot = slot_of(1)
        killed = cluster.owner(slot)
        flush_and_kill(monkeypatch, step, killed)
        other_master(cluster, slot, killed)
        killed.start()
        drained()
        assert dict(Item.objects.values_list("number", "a")) == {1: 11, 2: 5}
        assert "entries failed" not in caplog.text  # it is no fault of the batch

    def test_its_part_of_many_rows_goes_to_the_database(self, cluster, configure):
        """SCENARIOS 35. It is certain that the part was not taken: nothing was sent."""
        configure(WHEN_DOWN="direct")
        for n in ROWS:
            Item.objects.create(number=n, a=1)
        Item.buffered.set_many([{"number": n, "a": Add(1)} for n in ROWS])
        slot = slot_of(1)
        killed = cluster.owner(slot)
        own = [n for n in ROWS if cluster.owner(slot_of(n)) is killed]
        with killed.client() as client:
            assert client.wait(1, 10_000) == 1
        killed.kill()
        Item.buffered.set_many([{"number": n, "a": Add(1)} for n in ROWS])
        assert {*Item.objects.filter(a=2).values_list("number", flat=True)} == {*own}
        other_master(cluster, slot, killed)
        drained()
        assert set(Item.objects.values_list("a", flat=True)) == {3}

    def test_redis_is_used_soon_after_there_is_another(self, cluster, configure):
        configure(WHEN_DOWN="direct")
        slot = slot_of(1)
        Item.buffered.set(number=1, a=1)
        killed = cluster.owner(slot)
        killed.kill()
        there: list[float] = []

        def watch() -> None:
            other_master(cluster, slot, killed)
            there.append(time.monotonic())

        watching = in_thread(watch)
        went = {True: 0, False: 0}
        is_direct = False
        while is_direct or not there:
            is_direct = Item.buffered.set(number=1, a=2).direct
            went[is_direct] += 1
            assert not there or time.monotonic() - there[0] < BACK
            time.sleep(0.02)
        watching.join()
        print(f"{went[True]} writes went to the database")
        assert went[True]

    def test_a_frozen_one_is_left(self, cluster, configure):
        """Redis counts as away until each node takes writes, not only one."""
        configure(WHEN_DOWN="direct", SOCKET_TIMEOUT=0.5)
        probed = cluster.owner(backdoor.slot_of_probe())
        row = next(n for n in ROWS if cluster.owner(slot_of(n)) is not probed)
        slot = slot_of(row)
        Item.buffered.set(number=row, a=1)
        frozen = cluster.owner(slot)
        frozen.pause()
        assert Item.buffered.set(number=row, a=2).direct
        other_master(cluster, slot, frozen)
        wait_for_redis()
        started = time.monotonic()
        assert not Item.buffered.set(number=row, a=3).direct
        assert time.monotonic() - started < 4
        frozen.resume()

    def test_one_that_became_a_replica_is_left(self, cluster, monkeypatch):
        """Somebody made its replica the master. That does not know the scripts."""
        Item.buffered.set_many([{"number": n, "a": 1} for n in ROWS])
        before = cluster.owner(slot_of(1))
        after = cluster.fail_over(slot_of(1))
        asked = backdoor.asked(monkeypatch)
        Item.buffered.set(number=1, a=Add(1))
        words = [(port, word) for port, word in asked if word != "CLUSTER"]
        assert words[:2] == [(before.port, "EVALSHA"), (after.port, "EVALSHA")]
        assert {port for port, _ in words[1:]} == {after.port}
        assert words[-1][1] == "SCRIPT"
        asked.clear()
        Item.buffered.set_many([{"number": n, "a": Add(1)} for n in ROWS])
        assert len(asked) <= 2 * 3  # each node is asked, and may have to be told the script
        assert Item.buffered.get(number=1).a == 3

    def test_with_its_replica(self, cluster, configure):
        """Then nobody has its slots, until it is back."""
        configure(WHEN_DOWN="raise", SOCKET_TIMEOUT=0.5)
        Item.buffered.set_many([{"number": n, "a": n} for n in ROWS])
        slots = {n: cluster.owner(slot_of(n)) for n in ROWS}
        master = slots[1]
        [replica] = cluster.masters()[master]
        replica.kill()
        master.kill()

        def is_away() -> bool:
            with suppress(WriteUncertain):
                try:
                    Item.buffered.set(number=1, a=1)
                except BufferUnavailable:
                    return not is_asked()
            return False

        wait_for(is_away)
        other = next(n for n in ROWS if slots[n] is not master)
        with pytest.raises(BufferUnavailable):  # for all keys: the rest is of no use alone
            Item.buffered.set(number=other, a=1)
        replica.start()
        master.start()
        wait_for(cluster.is_served)
        wait_for(is_asked, BACK)
        Item.buffered.set(number=1, a=Add(1))
        drained()
        assert Item.objects.count() == len(ROWS)
