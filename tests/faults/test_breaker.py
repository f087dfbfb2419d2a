"""A process does not ask a Redis that is away, until it is back."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import Any

import pytest
import redis
from redis._parsers.base import BaseParser

from tests.models import Item, Visit
from tests.outages import wait_for, wait_for_redis
from writebehind_app import Add, signals
from writebehind_app.exceptions import BufferUnavailable, WriteUncertain
from writebehind_app.flush import engine
from writebehind_app.store import breaker as module
from writebehind_app.store import connection
from writebehind_app.store.breaker import Breaker, HeldBack

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def heard():
    """What the signals told, as (name, arguments)."""
    told = []

    def start(**arguments):
        told.append(("started", arguments))

    def end(**arguments):
        told.append(("ended", arguments))

    signals.fallback_started.connect(start)
    signals.fallback_ended.connect(end)
    yield told
    signals.fallback_started.disconnect(start)
    signals.fallback_ended.disconnect(end)


@pytest.fixture
def made(monkeypatch):
    """Makes a breaker; Redis answers its probes while there is something in `.answers`."""
    monkeypatch.setattr(module, "_FIRST", 0.01)
    monkeypatch.setattr(module, "_LONGEST", 0.08)
    ends = []

    def make() -> Breaker:
        def probe() -> None:
            one.probed.append(time.monotonic())
            if not one.answers:
                raise redis.ConnectionError("no")

        one = Breaker("here", probe)
        one.probed, one.answers = [], False
        ends.append(one.end)
        return one

    yield make
    for end in ends:
        end()


def holds(breaker: Breaker, *, write: bool = False) -> bool:
    try:
        breaker.check(write=write)
    except HeldBack:
        return True
    return False


@contextmanager
def held(lock: Any) -> Iterator[None]:
    """By another thread."""
    taken, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            go_on.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    yield
    go_on.set()
    thread.join()


class TestOpening:
    def test_one_call_without_an_answer_in_time(self, made):
        breaker = made()
        breaker.note([], redis.TimeoutError("slow"))
        assert holds(breaker)
        assert holds(breaker, write=True)

    def test_three_failures_in_a_row(self, made):
        breaker = made()
        for error in (redis.ConnectionError("a"), redis.ConnectionError("b")):
            breaker.note([], error)
        assert not holds(breaker)
        breaker.note(["an answer"])
        for error in (redis.ConnectionError("a"), redis.ConnectionError("b")):
            breaker.note([], error, write=True)
        assert not holds(breaker)
        breaker.note([], redis.ConnectionError("c"))
        assert holds(breaker)
        assert holds(breaker, write=True)

    @pytest.mark.parametrize(
        "answer",
        [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write.",
            "MISCONF Redis is configured to save RDB snapshots, but it cannot.",
            "LOADING Redis is loading the dataset in memory",
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "CLUSTERDOWN The cluster is down",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "NOREPLICAS Not enough good replicas to write.",
        ],
    )
    def test_answers_of_a_redis_that_takes_no_writes(self, made, answer):
        """Reads find out themselves what they get."""
        error = BaseParser.parse_error(answer)
        breaker = made()
        for _ in range(3):
            assert not holds(breaker, write=True)
            breaker.note(["read"])  # a read that works says nothing of writes
            breaker.note(["NOSCRIPT", error], write=True)
        assert holds(breaker, write=True)
        assert not holds(breaker)
        for _ in range(3):
            breaker.note([error])
        assert holds(breaker)

    @pytest.mark.parametrize(
        "answer", ["NOSCRIPT No matching script.", "WRONGTYPE Operation against", "ERR user_script"]
    )
    def test_what_a_call_is_to_blame_for(self, made, answer):
        breaker = made()
        for _ in range(10):
            breaker.note([BaseParser.parse_error(answer)], write=True)
        assert not holds(breaker, write=True)

    def test_a_write_that_works_ends_the_row(self, made):
        breaker = made()
        for _ in range(5):
            breaker.note([BaseParser.parse_error("OOM full")], write=True)
            breaker.note([BaseParser.parse_error("OOM full")], write=True)
            breaker.note(["written"], write=True)
        assert not holds(breaker, write=True)


class TestClosing:
    def test_probes_come_less_and_less_often(self, made):
        breaker = made()
        breaker.note([], redis.TimeoutError())
        wait_for(lambda: len(breaker.probed) >= 6)
        pauses = [b - a for a, b in zip(breaker.probed, breaker.probed[1:], strict=False)][:5]
        for pause, least in zip(pauses, (0.02, 0.04, 0.08, 0.08, 0.08), strict=True):
            assert pause >= least
        breaker.answers = True
        wait_for(lambda: not breaker.is_open)
        assert not holds(breaker)
        assert not holds(breaker, write=True)
        assert breaker.outages == 1

    def test_one_that_comes_and_goes_is_asked_less_and_less_often(self, made):
        breaker = made()
        breaker.answers = True
        for _ in range(5):
            breaker.note([], redis.TimeoutError())
            wait_for(lambda: not breaker.is_open)
        started = time.monotonic()
        breaker.note([], redis.TimeoutError())
        wait_for(lambda: not breaker.is_open)
        assert time.monotonic() - started >= 0.08

    def test_after_a_calm_time_it_is_asked_soon_again(self, made, monkeypatch):
        monkeypatch.setattr(module, "_CALM", 0)
        monkeypatch.setattr(module, "_LONGEST", 30)
        breaker = made()
        breaker.answers = True
        for _ in range(20):  # doubled each time that were hours
            breaker.note([], redis.TimeoutError())
            wait_for(lambda: not breaker.is_open)

    def test_one_thread_waits_whoever_calls(self, made):
        breaker = made()
        before = threading.active_count()

        def call(_: int) -> None:
            breaker.note([], redis.TimeoutError())
            assert holds(breaker)

        with ThreadPoolExecutor(20) as pool:
            list(pool.map(call, range(200)))
        assert threading.active_count() == before + 1
        assert (breaker.outages, breaker.failures) == (1, 400)

    def test_a_thread_that_died_is_replaced(self, made, monkeypatch):
        breaker = made()
        monkeypatch.setattr(threading, "excepthook", lambda args: None)
        probe, breaker._probe = breaker._probe, lambda: 1 / 0
        breaker.note([], redis.TimeoutError())
        wait_for(lambda: not breaker._thread.is_alive())
        breaker._probe, breaker.answers = probe, True
        assert holds(breaker)
        wait_for(lambda: not breaker.is_open)

    def test_the_thread_ends_with_its_settings(self, plain, configure):
        plain.stop()
        before = threading.active_count()
        connection.breaker().note([], redis.TimeoutError())
        assert threading.active_count() == before + 1
        configure(MAX_AGE=7)
        wait_for(lambda: threading.active_count() == before, seconds=5)
        assert not connection.breaker().is_open


class TestTelling:
    def test_once_not_with_each_call(self, made, heard, caplog):
        breaker = made()
        for _ in range(5):
            breaker.note([], redis.TimeoutError("Timeout reading from socket"))
            assert holds(breaker)
        breaker.answers = True
        wait_for(lambda: len(heard) == 2)
        (started, reason), (ended, end) = heard
        assert (started, ended) == ("started", "ended")
        for told in (reason, end):
            assert told["sender"] is Breaker
            assert (told["redis"], told["reason"]) == ("here", "Timeout reading from socket")
        assert 0 < end["seconds"] < 10
        lines = [r.message for r in caplog.records if r.name == "writebehind"]
        assert lines[0] == (
            "Redis at here is away: Timeout reading from socket. Until it is back, calls do what "
            "WHEN_DOWN says; what is wrong with it, manage.py writebehind_doctor may tell."
        )
        assert lines[1].startswith("Redis at here is back, after ")
        assert len(lines) == 2

    def test_a_receiver_that_fails_harms_nobody(self, made, caplog):
        def fail(**arguments):
            raise ValueError

        signals.fallback_started.connect(fail)
        signals.fallback_ended.connect(fail)
        try:
            breaker = made()
            breaker.note([], redis.TimeoutError())
            breaker.answers = True
            wait_for(lambda: sum("fail" in r.message for r in caplog.records) == 2)
        finally:
            signals.fallback_started.disconnect(fail)
            signals.fallback_ended.disconnect(fail)
        assert not breaker.is_open

    def test_no_password_is_told(self, plain, configure, heard, caplog):
        caplog.set_level(logging.DEBUG)
        configure(REDIS=plain.url.replace("redis://", "redis://user:secret@"))
        for _ in range(3):
            with pytest.raises(BufferUnavailable) as caught:
                Item.buffered.set(number=1)
            assert "secret" not in str(caught.value)
        assert heard[0][0] == "started"
        assert "secret" not in str(heard) + caplog.text


@on_sqlite
class TestServers:
    def test_a_redis_that_is_frozen_costs_one_timeout(self, database, proxy, configure, heard):
        """SCENARIOS 32."""
        configure(SOCKET_TIMEOUT=0.3, WHEN_DOWN="direct")
        Item.buffered.set(number=1, a=1)
        proxy.freeze()
        connections, seconds = proxy.connections, []
        with pytest.raises(WriteUncertain):
            Item.buffered.set(number=1, a=Add(1))
        for n in range(10):
            started = time.monotonic()
            assert Item.buffered.set(number=2, a=n).direct
            assert Item.buffered.get(number=2).a == n
            assert Visit.buffered.append(event=n, email="a").direct
            seconds.append(time.monotonic() - started)
        assert median(seconds) < 0.6  # each would wait for Redis three times
        assert proxy.connections <= connections + 3  # of the probes
        proxy.thaw()
        wait_for_redis()
        wait_for(lambda: len(heard) == 2)
        assert not Item.buffered.set(number=3, a=1).direct
        assert [name for name, _ in heard] == ["started", "ended"]

    def test_a_redis_that_is_gone_is_asked_three_times(self, database, redis_server, configure):
        configure(WHEN_DOWN="raise")
        redis_server.stop()
        for _ in range(5):
            with pytest.raises(BufferUnavailable):
                Item.buffered.get(number=1)
        with pytest.raises(BufferUnavailable, match=r"it is not asked before it is back, after:"):
            Item.buffered.set(number=1)
        redis_server.start()
        wait_for_redis()
        assert Item.buffered.set(number=1)

    def test_reads_of_a_redis_that_is_full(self, database, redis_server, configure):
        """SCENARIOS 32: what is pending is seen, although no write is taken."""
        configure(WHEN_DOWN="direct")
        Item.buffered.set(number=1, a=1, b="pending")
        with redis_server.client() as client:
            client.config_set("maxmemory", 1)
            for n in range(5):
                assert Item.buffered.set(number=1, a=n).direct
            assert connection.breaker().is_open
            row = Item.buffered.get(number=1)
            assert (row.a, row.b) == (4, "pending")
            assert Item.buffered.flush().rows == 1
            client.config_set("maxmemory", 0)
        wait_for_redis()
        assert not Item.buffered.set(number=1, c="later").direct
        Item.buffered.flush()
        row = Item.objects.get()
        assert (row.a, row.b, row.c) == (4, "pending", "later")

    def test_a_flusher_is_not_held_back(self, database, redis_server):
        Item.buffered.set(number=1, a=1)
        redis_server.stop()
        for call in (lambda: engine.flush(Item.buffered), Item.buffered.count_pending) * 3:
            with pytest.raises(BufferUnavailable):
                call()
        redis_server.start()
        for call in (lambda: Item.buffered.set(number=1, a=2), Item.buffered.flush):
            with pytest.raises(BufferUnavailable):
                call()
        assert engine.flush(Item.buffered).rows == 1
        assert Item.objects.get().a == 1

    def test_what_a_probe_leaves_expires(self, database, redis_server):
        connection.breaker().note([], redis.TimeoutError())
        wait_for_redis()
        with redis_server.client() as client:
            keys = list(client.scan_iter())
            assert keys == [b"{wb:test:probe:0}"]
            assert 0 < client.ttl(keys[0]) <= 10

    def test_a_forked_process_waits_for_itself(self, database, redis_server):
        """SCENARIOS 42: its parent's thread is not there, and a lock may have been held."""
        redis_server.stop()
        for _ in range(3):
            with pytest.raises(BufferUnavailable):
                Item.buffered.set(number=1)
        with held(module._lock):
            pid = os.fork()
        if pid == 0:
            done = 1
            signal.alarm(30)  # it would wait for ever for a lock of its parent
            try:
                breaker = connection.breaker()
                with pytest.raises(BufferUnavailable):
                    Item.buffered.set(number=1)
                wait_for(lambda: not breaker.is_open)
                Item.buffered.set(number=1, a=5)
                done = 0
            finally:
                os._exit(done)
        redis_server.start()
        assert os.waitpid(pid, 0)[1] == 0
        wait_for_redis()
        assert Item.buffered.get(number=1).a == 5
