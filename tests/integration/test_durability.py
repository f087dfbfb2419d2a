"""`durability`: a write is on disk, or on replicas, when its call returns; or the caller knows."""

from __future__ import annotations

import time

import pytest
from django.core.exceptions import ImproperlyConfigured

from tests.backdoor.breaker import is_asked
from tests.backdoor.keyspace import has_shard_of
from tests.models import Item, Line, Setting, Visit
from tests.outages import wait_for
from tests.servers import RedisServer
from writebehind_app import Add, doctor
from writebehind_app.exceptions import NotDurable

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

CALLS = {
    "set_many once": lambda: Item.buffered.set_many(
        [{"number": n, "a": 1} for n in range(9)], once="x"
    ),
    "extend once": lambda: Line.buffered.extend([{"text": str(n)} for n in range(9)], once="x"),
    "set": lambda: [Item.buffered.set(number=1, a=Add(1))],
    "set_many": lambda: Item.buffered.set_many({"number": n, "a": 1} for n in range(9)),
    "create": lambda: [Item.buffered.create(number=1)],
    "metadata": lambda: [Setting.buffered.of(site=1).update(a=Add(1))],
    "append": lambda: [Visit.buffered.append(event=1, email="a")],
    "extend": lambda: Line.buffered.extend({"text": str(n)} for n in range(9)),
}


@pytest.fixture
def server(database, redis_server):
    """With its configuration as it was, afterwards."""
    with redis_server.client(decode_responses=True) as client:
        before = client.config_get("append*")
        yield client
        for name in ("appendonly", "appendfsync"):
            client.config_set(name, before[name])


@pytest.fixture(scope="module", params=RedisServer.KINDS)
def replicated(request):
    """A Redis and its replica."""
    with (
        RedisServer(request.param, **{"repl-diskless-sync-delay": "0"}) as primary,
        RedisServer(request.param, replicaof=f"127.0.0.1 {primary.port}") as replica,
        primary.client() as client,
    ):
        wait_for(lambda: client.wait(1, 100) == 1)
        yield primary, replica


@on_sqlite
@on_valkey
class TestFsync:
    @pytest.mark.parametrize("call", CALLS)
    def test_on_disk(self, server, configure, call):
        server.config_set("appendfsync", "always")
        configure(DURABILITY="fsync")
        for receipt in CALLS[call]():
            assert receipt.where == "pending"

    @pytest.mark.parametrize("call", CALLS)
    def test_not_on_disk_in_time(self, server, configure, call):
        server.config_set("appendfsync", "no")
        configure(DURABILITY="fsync", DURABILITY_TIMEOUT=0.1)
        started = time.monotonic()
        with pytest.raises(
            NotDurable, match=r"do not repeat it.* lose it: it was not on disk after 0\.1 s\."
        ) as caught:
            CALLS[call]()
        assert 0.1 <= time.monotonic() - started < 5
        assert len(caught.value.receipts) == (9 if "many" in call or "extend" in call else 1)
        for receipt in caught.value.receipts:
            assert receipt.where == "pending"
        assert is_asked()
        for buffer in (Item.buffered, Setting.buffered, Visit.buffered, Line.buffered):
            buffer.flush()
        for receipt in caught.value.receipts:
            assert receipt.persisted

    def test_what_was_not_taken_is_said_as_ever(self, server, configure):
        server.config_set("appendfsync", "no")
        Item.buffered.create(number=1, a=1)
        configure(DURABILITY="fsync", DURABILITY_TIMEOUT=0.01)
        assert not Item.buffered.set_if({"a": 2}, number=1, a=3)
        with pytest.raises(NotDurable):
            Item.buffered.set_if({"a": 1}, number=1, a=3)
        assert Item.buffered.get(number=1).a == 3

    def test_a_server_without_an_aof(self, server, configure):
        server.config_set("appendonly", "no")
        configure(DURABILITY="fsync")
        for call in CALLS.values():
            with pytest.raises(ImproperlyConfigured, match=r"appendonly is disabled.*DURABILITY"):
                call()
        assert Item.buffered.count_pending() == 0
        server.config_set("appendonly", "yes")
        server.config_set("appendfsync", "always")
        wait_for(lambda: server.info("persistence")["aof_rewrite_in_progress"] == 0)
        Item.buffered.set(number=1)
        server.config_set("appendonly", "no")
        with pytest.raises(NotDurable, match="appendonly is disabled"):
            Item.buffered.set(number=1)

    def test_an_option_of_the_buffer_comes_first(self, server, monkeypatch):
        server.config_set("appendonly", "no")
        monkeypatch.setattr(
            Item.buffered, "options", {**Item.buffered.options, "DURABILITY": "fsync"}
        )
        with pytest.raises(ImproperlyConfigured):
            Item.buffered.set(number=1)
        Line.buffered.append(text="x")

    def test_the_script_cache_is_flushed(self, server, configure):
        server.config_set("appendfsync", "no")
        configure(DURABILITY="fsync", DURABILITY_TIMEOUT=0.01)
        server.script_flush()
        with pytest.raises(NotDurable) as caught:
            CALLS["set_many"]()
        assert len(caught.value.receipts) == 9

    def test_while_redis_is_away_the_database_is_durable(self, server, configure, redis_server):
        configure(DURABILITY="fsync", WHEN_DOWN="direct")
        redis_server.stop()
        assert Item.buffered.set(number=1).direct
        redis_server.start()

    @pytest.mark.parametrize(
        ("name", "value", "finding", "text"),
        [
            ("appendonly", "no", "writebehind.E114", "appendonly is disabled"),
            ("appendfsync", "no", "writebehind.E114", "appendfsync no"),
            ("appendfsync", "everysec", "writebehind.W111", "appendfsync everysec"),
            ("appendfsync", "always", None, ""),
        ],
    )
    def test_the_doctor(self, server, configure, name, value, finding, text):
        server.config_set(name, value)
        configure(DURABILITY="fsync")
        found = {f.id: f.what for f in doctor.examine()}
        assert text in found.get(finding, "")
        assert {id for id in found if id in ("writebehind.E114", "writebehind.W111")} == (
            {finding} if finding else set()
        )


@on_sqlite
@pytest.mark.parametrize("redis_server", ["redis"], indirect=True)
class TestWithoutWaitaof:
    """Redis 7.0."""

    def test_nothing_is_written(self, database, redis_server, configure):
        configure(DURABILITY="fsync")
        for call in CALLS.values():
            with pytest.raises(
                ImproperlyConfigured,
                match=r"cannot give the durability 'fsync': .*unknown command.* 7\.2 or later",
            ):
                call()
        assert Item.buffered.count_pending() == 0

    def test_the_doctor(self, database, redis_server, configure):
        configure(DURABILITY="fsync")
        (finding,) = [f for f in doctor.examine() if f.id == "writebehind.E114"]
        assert "unknown command" in finding.what


@on_sqlite
class TestReplicas:
    @pytest.fixture(autouse=True)
    def redis(self, database, plain, replicated, configure):
        self.primary, self.replica = replicated
        configure(REDIS=self.primary.url, DURABILITY_TIMEOUT=0.2)
        yield
        self.replica.resume()
        with self.primary.client() as client:
            wait_for(lambda: client.wait(1, 100) == 1)
            client.flushall()

    @pytest.mark.parametrize("call", CALLS)
    def test_enough(self, configure, call):
        configure(DURABILITY=1, DURABILITY_TIMEOUT=10)
        receipts = CALLS[call]()
        with self.replica.client() as client:
            assert all(has_shard_of(client, receipt) for receipt in receipts)

    @pytest.mark.parametrize("call", CALLS)
    def test_not_enough(self, configure, call):
        configure(DURABILITY=2)
        with pytest.raises(NotDurable, match=r"[01] of 2 replicas had it after 0\.2 s") as caught:
            CALLS[call]()
        assert [receipt.where for receipt in caught.value.receipts] == ["pending"] * len(
            caught.value.receipts
        )

    def test_one_that_lags_behind(self, configure):
        configure(DURABILITY=1)
        self.replica.pause()
        with pytest.raises(NotDurable, match=r"0 of 1 replica had"):
            Item.buffered.set(number=1)

    def test_a_full_redis_is_drained(self, configure):
        configure(DURABILITY=1, DURABILITY_TIMEOUT=10)
        Item.buffered.set(number=1, a=1)
        with self.primary.client() as client:
            client.config_set("maxmemory", 1)
            try:
                assert Item.buffered.flush().rows == 1
            finally:
                client.config_set("maxmemory", 0)

    def test_the_doctor(self, configure):
        for wanted, found in ((1, False), (3, True)):
            configure(DURABILITY=wanted)
            ids = {f.id: f.what for f in doctor.examine()}
            assert ("writebehind.E115" in ids) == found
        assert ids["writebehind.E115"] == "Redis has 1 replica, and a buffer waits for 3."


@on_sqlite
@pytest.mark.parametrize("level", ["fsync", 1])
def test_a_call_that_is_repeated_waits_too(database, proxy, redis_server, configure, level):
    """SCENARIOS 33: the second connection has written nothing else."""
    if (redis_server.kind, level) == ("redis", "fsync"):
        level = 1
    with redis_server.client() as client:
        before = client.config_get("appendfsync")["appendfsync"]
        client.config_set("appendfsync", "no")
        Item.buffered.set(number=2)  # Redis knows the script then
        configure(DURABILITY=level, DURABILITY_TIMEOUT=0.05)
        proxy.faults = ["lose the reply"]
        with pytest.raises(NotDurable) as caught:
            Item.buffered.set(number=1, a=Add(1))
        client.config_set("appendfsync", before)
    assert proxy.met == 1
    assert caught.value.receipt.where == "pending"
    assert Item.buffered.get(number=1).a == 1
