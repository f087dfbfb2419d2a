"""Redis goes away and comes back while processes write: each call is answered, and in the end the
database has what was acknowledged, once."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections

from tests.models import Counter, Item, Line, Visit
from tests.outages import wait_for, wait_for_redis
from tests.servers import DATABASES, RedisServer
from writebehind_app import Add, checkpoints
from writebehind_app.database import direct
from writebehind_app.exceptions import BufferUnavailable, WriteUncertain
from writebehind_app.flush.engine import flush

SECONDS = float(os.environ.get("WRITEBEHIND_TEST_OUTAGE", 3))  # of the long outage
SHORT = 1.0
SLOW = 0.4  # seconds: a call that waited for a Redis that did not answer

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


# What happens to Redis: it does, and then it is undone.


@contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    """And comes back from its AOF, with all that it acknowledged."""
    server.kill()
    yield
    server.start()


@contextmanager
def emptied(server: RedisServer) -> Iterator[None]:
    server.kill()
    yield
    shutil.rmtree(server.directory)
    server.directory.mkdir()
    server.start()


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


@contextmanager
def read_only(server: RedisServer) -> Iterator[None]:
    """A replica of one that is not there."""
    with server.client() as client:
        client.replicaof("127.0.0.1", 1)
        yield
        client.replicaof("NO", "ONE")


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    server.pause()
    yield
    server.resume()


OUTAGES = [
    (stopped, "redis"),
    (killed, "valkey"),
    (emptied, "redis"),
    (full, "valkey"),
    (read_only, "redis"),
    (frozen, "valkey"),
]


# Those who write


def _write(me: int, pause: float) -> None:
    """Writes until it is told to end, and Redis takes its writes again; then says what became of
    them."""
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ending.set()), daemon=True).start()
    told: dict[str, Any] = {
        "calls": 0,
        "sums": [0, 0],  # acknowledged, uncertain
        "lines": [0, 0],
        "last": [0],  # which may be in the row: the last one acknowledged, and uncertain ones since
        "direct": 0,
        "slow": 0,
        "slowest": 0.0,
    }
    direct.write(Item.buffered, [])  # as one that runs for a while has its modules and connection
    print("begun")
    deadline = time.monotonic() + 60
    while True:
        told["calls"] += 1
        n, took_redis = told["calls"], True
        for name, call in (
            ("sums", lambda: Counter.buffered.set(name="shared", big=Add(1))),
            ("lines", lambda: Line.buffered.append(text=str(me))),
            ("last", lambda n=n: Item.buffered.set(number=me, a=n, b=str(n))),
        ):
            started = time.monotonic()
            try:
                receipt = call()
            except WriteUncertain:
                certain = False
            else:
                certain = True
                told["direct"] += receipt.direct
                took_redis = took_redis and not receipt.direct
            took = time.monotonic() - started
            told["slow"] += took > SLOW
            told["slowest"] = max(told["slowest"], took)
            if name != "last":
                told[name][not certain] += 1
            else:
                told["last"] = [n] if certain else [*told["last"], n]
        if ending.is_set() and (took_redis or time.monotonic() > deadline):
            break
        time.sleep(pause * random.random())
    connections.close_all()
    print(json.dumps(told))


def _flush() -> None:
    """Flushes until it is told to end."""
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ending.set()), daemon=True).start()
    print("begun")
    while not ending.wait(0.05):
        for buffer in (Counter.buffered, Line.buffered, Item.buffered):
            try:
                flush(buffer, due_only=False)
            except BufferUnavailable:
                break
    connections.close_all()


class Work:
    """Processes that write and flush."""

    def __init__(self, start_child: Callable[..., Any], writers: int, pause: float) -> None:
        self.children = [start_child(_write, me, pause) for me in range(writers)]
        self.children.append(start_child(_flush))
        for child in self.children:
            assert child.stdout.readline() == "begun\n"

    def ended(self) -> list[dict[str, Any]]:
        """What the writers tell."""
        for child in self.children:
            child.stdin.write("\n")
            child.stdin.flush()
        told = [json.loads(child.communicate(timeout=120)[0]) for child in self.children[:-1]]
        self.children[-1].wait(timeout=60)
        return told


def drained() -> None:
    wait_for_redis()
    for buffer in (Counter.buffered, Line.buffered, Item.buffered):
        buffer.flush()
        assert buffer.count_pending() == 0


def assert_all_is_there(told: list[dict[str, Any]]) -> None:
    sums = [sum(one["sums"][n] for one in told) for n in range(2)]
    assert sums[0] <= Counter.objects.get(name="shared").big <= sum(sums)
    for me, one in enumerate(told):
        lines = Line.objects.filter(text=str(me)).count()
        assert one["lines"][0] <= lines <= sum(one["lines"])
        row = Item.objects.get(number=me)
        assert row.a in one["last"]
        assert row.b == str(row.a)


@pytest.mark.outage
class TestWhileProcessesWrite:
    @pytest.mark.process
    @pytest.mark.parametrize(
        ("outage", "database", "redis_server"),
        [(outage, DATABASES[n % len(DATABASES)], kind) for n, (outage, kind) in enumerate(OUTAGES)],
        indirect=["database", "redis_server"],
    )
    def test_redis_goes_and_comes_back(
        self, outage, database, redis_server, configure, start_child
    ):
        """SCENARIOS 32."""
        configure(WHEN_DOWN="direct", SOCKET_TIMEOUT=0.5, LEASE=2)
        work = Work(start_child, writers=2, pause=0.02)
        time.sleep(0.3)
        with outage(redis_server):
            time.sleep(SHORT)
        told = work.ended()
        assert all(one["direct"] for one in told)
        drained()
        if outage is not emptied:
            assert_all_is_there(told)
            return
        # What was pending is gone with it; nothing is there twice.
        assert Counter.objects.get(name="shared").big <= sum(sum(one["sums"]) for one in told)
        for me, one in enumerate(told):
            assert Line.objects.filter(text=str(me)).count() <= sum(one["lines"])
            row = Item.objects.get(number=me)
            assert row.b == str(row.a)

    @pytest.mark.process
    @pytest.mark.parametrize(
        ("outage", "database", "redis_server"),
        [(stopped, DATABASES[-1], "redis"), (frozen, DATABASES[:2][-1], "valkey")],
        indirect=["database", "redis_server"],
    )
    def test_a_long_outage_under_many_writers(
        self, outage, database, redis_server, configure, start_child
    ):
        """SCENARIOS 32; each call is answered, and few of them late."""
        configure(WHEN_DOWN="direct", LEASE=2, SOCKET_TIMEOUT=1)
        # SQLite lets one write at a time, and those who wait sleep.
        work = Work(start_child, writers=8, pause=1.5 if database == "default" else 0.1)
        time.sleep(0.5)
        with outage(redis_server):
            time.sleep(SECONDS)
        told = work.ended()
        for one in told:
            print({name: one[name] for name in ("calls", "direct", "slow", "slowest")})
        drained()
        assert_all_is_there(told)
        assert all(one["direct"] for one in told)
        most = 5 if database == "default" else 2.5
        assert max(one["slowest"] for one in told) < most
        probes = 6 if SECONDS < 8 else 8
        assert max(one["slow"] for one in told) <= 1 + probes


class TestFallback:
    @pytest.fixture(autouse=True)
    def around(self, database, proxy, configure):
        configure(WHEN_DOWN="direct")
        self.proxy = proxy

    @pytest.mark.parametrize(
        ("faults", "taken"),
        [
            (["lose the reply", "cut"], 1),
            (["cut", "lose the reply"], 0),  # whoever asked after it has disowned it by that
            (["cut", "none", "lose the reply"], 1),
            (["cut", "none", "cut"], 0),
        ],
    )
    @pytest.mark.parametrize(
        ("call", "times"),
        [
            (
                lambda: Item.buffered.set(number=1, a=Add(1)),
                lambda: sum(Item.objects.filter(number=1).values_list("a", flat=True)),
            ),
            (
                lambda: Item.buffered.create(number=1),
                lambda: Item.objects.filter(number=1).count(),
            ),
            (
                lambda: Visit.buffered.append(event=1, email="a"),
                lambda: Visit.objects.filter(email="a").count(),
            ),
            (lambda: Line.buffered.append(text="a"), lambda: Line.objects.filter(text="a").count()),
        ],
    )
    @on_sqlite
    def test_what_may_have_been_taken_does_not_go_around(self, call, times, faults, taken):
        """SCENARIOS 33: a reply is lost, and that to the question, or to the repeated call, as
        well."""
        # Redis knows the scripts then, and nothing is refused because a shard is new.
        self.proxy.faults = ["cut"]
        Item.buffered.set(number=2, a=Add(1))
        Line.buffered.append(text="b")
        for email in "xy":
            Visit.buffered.extend({"event": event, "email": email} for event in range(30))
        self.proxy.faults = list(faults)
        with pytest.raises(WriteUncertain):
            call()
        assert self.proxy.met == 1 + len(faults)
        for buffer in (Item.buffered, Visit.buffered, Line.buffered):
            buffer.flush()
        assert times() == taken

    @on_sqlite
    def test_what_comes_to_the_same_twice_does(self):
        """SCENARIOS 33."""
        Item.buffered.set(number=1, a=1, b="pending")
        self.proxy.faults = ["lose the reply", "cut"]
        assert Item.buffered.set(number=1, a=2).direct
        Item.buffered.set(number=1, c="later")
        Item.buffered.flush()
        row = Item.objects.get()
        assert (row.a, row.b, row.c) == (2, "pending", "later")


@on_sqlite
def test_scripts_are_flushed_between_all_calls(database, redis_server, monkeypatch):
    """SCENARIOS 34."""
    with redis_server.client() as client:
        for n in range(5):
            for call in (
                lambda n=n: Item.buffered.set(number=n, a=Add(1)),
                lambda: Item.buffered.set_many({"number": m, "a": Add(1)} for m in range(5)),
                lambda n=n: Visit.buffered.append(event=n, email="a"),
                lambda: Item.buffered.get_many(range(5)),
                lambda: Visit.buffered.window(),
                lambda: Item.buffered.count_pending(),
            ):
                client.script_flush()
                call()
        for buffer in (Item.buffered, Visit.buffered):
            client.script_flush()
            buffer.flush()
    assert set(Item.objects.values_list("a", flat=True)) == {6}
    assert Visit.objects.count() == 5


# A writer dies


def _die_at(step: str) -> None:
    """Adds one, and stands still at the step."""

    def stand_still(reached: str) -> None:
        if reached == step:
            print("reached")
            time.sleep(60)

    checkpoints.hook = stand_still
    print("begun")
    Item.buffered.set(number=1, a=Add(1))
    print("done")


@on_sqlite
class TestAWriterIsKilled:
    """SCENARIOS 9."""

    @pytest.mark.process
    @pytest.mark.parametrize(("step", "taken"), [("write.sending", 0), ("write.accepted", 1)])
    def test_before_and_after_its_call(self, step, taken, database, redis_server, start_child):
        Item.buffered.set(number=1, a=10)
        child = start_child(_die_at, step)
        assert [child.stdout.readline() for _ in range(2)] == ["begun\n", "reached\n"]
        child.kill()
        child.wait()
        assert Item.buffered.get(number=1).a == 10 + taken
        Item.buffered.set(number=1, a=Add(1))
        Item.buffered.flush()
        assert Item.objects.get().a == 11 + taken

    @pytest.mark.process
    @pytest.mark.parametrize("late", [False, True])
    def test_during_its_call(self, late, database, proxy, redis_server, configure, start_child):
        """What it sent is on its way: it is taken once, or is too late."""
        configure(SOCKET_TIMEOUT=0.5 if late else 20)
        Item.buffered.set(number=1, a=9)
        Item.buffered.set(number=1, a=Add(1))  # from now on, Redis knows the script of sums
        proxy.faults = ["hold"]
        child = start_child(_die_at, "")
        wait_for(lambda: proxy.met)
        child.kill()
        child.wait()
        if late:
            time.sleep(0.6)
        assert proxy.deliver() == 1
        if late:
            time.sleep(0.2)  # Redis has it by now, and has refused it
            assert Item.buffered.get(number=1).a == 10
        else:
            wait_for(lambda: Item.buffered.get(number=1).a == 11)
        Item.buffered.set(number=1, a=Add(1))
        Item.buffered.flush()
        assert Item.objects.get().a == (11 if late else 12)
