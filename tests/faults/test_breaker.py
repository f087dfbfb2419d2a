"""A process does not ask a Redis that is away, until it is back."""

from __future__ import annotations

import logging
import os
import signal
import time
from statistics import median

import pytest

from tests.backdoor.breaker import busy, is_asked, stop_asking
from tests.backdoor.limits import limit
from tests.models import Item, Visit
from tests.outages import hearing, wait_for, wait_for_redis
from writebehind_app import Add
from writebehind_app.exceptions import BufferUnavailable, WriteUncertain
from writebehind_app.flush import engine

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def heard():
    """What the signals told, as (name, arguments)."""
    with hearing() as told:
        yield told


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
        assert median(seconds) < 0.85  # each would wait for Redis three times
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
        with pytest.raises(BufferUnavailable, match=r"it is not asked until it is back, after:"):
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
            assert not is_asked()
            row = Item.buffered.get(number=1)
            assert (row.a, row.b) == (4, "pending")
            assert Item.buffered.flush().rows == 1
            client.config_set("maxmemory", 0)
        wait_for_redis()
        assert not Item.buffered.set(number=1, c="later").direct
        Item.buffered.flush()
        row = Item.objects.get()
        assert (row.a, row.b, row.c) == (4, "pending", "later")

    def test_a_flusher_is_not_held_back(self, database, redis_server, monkeypatch):
        limit(monkeypatch, first_probe=30.0)  # nor does a probe find that Redis is back
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
        stop_asking()
        wait_for_redis()
        with redis_server.client() as client:
            (key,) = client.scan_iter()
            assert 0 < client.ttl(key) <= 10

    def test_a_forked_process_waits_for_itself(self, database, redis_server):
        """SCENARIOS 42: its parent's thread is not there, and a lock may have been held."""
        redis_server.stop()
        for _ in range(3):
            with pytest.raises(BufferUnavailable):
                Item.buffered.set(number=1)
        with busy():
            pid = os.fork()
        if pid == 0:
            done = 1
            signal.alarm(30)  # it would wait for ever for a lock of its parent
            try:
                with pytest.raises(BufferUnavailable):
                    Item.buffered.set(number=1)
                wait_for(is_asked)
                Item.buffered.set(number=1, a=5)
                done = 0
            finally:
                os._exit(done)
        redis_server.start()
        assert os.waitpid(pid, 0)[1] == 0
        wait_for_redis()
        assert Item.buffered.get(number=1).a == 5


def test_no_password_is_told(plain, configure, heard, caplog):
    caplog.set_level(logging.DEBUG)
    configure(REDIS=plain.url.replace("redis://", "redis://user:secret@"))
    for _ in range(3):
        with pytest.raises(BufferUnavailable) as caught:
            Item.buffered.set(number=1)
        assert "secret" not in str(caught.value)
    assert heard[0][0] == "started"
    assert "secret" not in str(heard) + caplog.text
