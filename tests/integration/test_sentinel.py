"""Sentinel says who the master is: calls by way of it, and what the doctor finds."""

from __future__ import annotations

import asyncio

import pytest
import redis
from django_q.conf import Conf

from tests.backdoor.connection import shown
from tests.doctor import AsksTheDoctor
from tests.models import Item, Line, Setting
from tests.outages import wait_for
from tests.servers import SentinelGroup
from tests.servers.process import LOCALHOST
from writebehind_app import Add, doctor, jobs
from writebehind_app.exceptions import NotDurable


def cache_of(group: SentinelGroup, **options):
    """A cache of django-redis, as its documentation has it for Sentinel."""
    return {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": f"redis://{group.setting['MASTER_NAME']}/0",
        "OPTIONS": {
            "CLIENT_CLASS": "django_redis.client.SentinelClient",
            "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
            "SENTINELS": [tuple(each) for each in group.setting["SENTINELS"]],
            **options,
        },
    }


@pytest.fixture(params=["dict", "cache"])
def by(request, sentinels, settings, configure):
    """Both ways to write it in the settings."""
    if request.param == "cache":
        settings.CACHES = {**settings.CACHES, "sentinel": cache_of(sentinels)}
        configure(REDIS="sentinel")
    return sentinels


class TestCalls:
    def test_threads(self, by):
        Item.buffered.set(number=1, a=1)
        Item.buffered.set(number=1, a=Add(2))
        Line.buffered.append(text="x")
        Setting.buffered.of(site=1).update(a=1)
        assert Item.buffered.get(number=1).a == 3
        with by.nodes[0].client() as client:
            assert client.dbsize() > 0
        for buffer in (Item.buffered, Line.buffered, Setting.buffered):
            buffer.flush()
        assert Item.objects.get(number=1).a == 3

    def test_event_loops(self, by):
        async def calls() -> int:
            await Item.buffered.aset(number=1, a=1)
            await asyncio.gather(*(Item.buffered.aset(number=1, a=Add(1)) for _ in range(20)))
            return (await Item.buffered.aget(number=1)).a

        assert asyncio.run(calls()) == 21

    def test_a_database_of_another_number(self, sentinels, configure):
        configure(REDIS={**sentinels.setting, "MASTER_KWARGS": {"db": 3}})
        Item.buffered.set(number=1, a=1)
        with redis.Redis(port=sentinels.nodes[0].port, db=3) as client:
            assert client.dbsize() > 0

    def test_a_password(self, sentinels, configure):
        for node in sentinels.nodes:
            with node.client() as client:
                client.execute_command("ACL SETUSER", "app", "on", ">geheim", "~*", "+@all")
        user = {"username": "app", "password": "geheim"}
        configure(REDIS={**sentinels.setting, "MASTER_KWARGS": user})
        Item.buffered.set(number=1, a=1)
        assert Item.buffered.get(number=1).a == 1
        assert not any("geheim" in text for text in shown())

    def test_durability(self, by, configure):
        configure(DURABILITY=2, DURABILITY_TIMEOUT=10)
        Item.buffered.set(number=1, a=1)
        configure(DURABILITY=3, DURABILITY_TIMEOUT=0.1)
        with pytest.raises(NotDurable, match=r"[012] of 3 replicas"):
            Item.buffered.set(number=1, a=2)


def test_a_cache_by_sentinel_is_the_broker_of_django_q(sentinels, settings, monkeypatch):
    settings.CACHES = {**settings.CACHES, "sentinel": cache_of(sentinels)}
    monkeypatch.setattr(Conf, "ORM", None)
    monkeypatch.setattr(Conf, "DJANGO_REDIS", "sentinel")
    assert jobs.enqueue("tick")
    with sentinels.nodes[0].client() as client:
        assert client.llen(f"django_q:{Conf.CLUSTER_NAME}:q") == 1


class TestDoctor(AsksTheDoctor):
    @pytest.fixture(autouse=True)
    def project(self, sentinels, monkeypatch, settings, configure):
        self.prepare(monkeypatch, settings)
        self.group, self.configure = sentinels, configure

    def test_nothing_is_found(self):
        self.configure(DURABILITY=1)
        examined = {f.what for f in doctor.examine()}
        assert self.found() == {}
        assert {"Sentinel: quorum", "Sentinel: master", "Sentinel: replicas"} <= examined

    def test_a_replica_that_is_taken_for_the_master(self):
        named = self.group.nodes[1]
        self.group.monitor(named)
        found = self.found()
        assert set(found) <= {"E116", "E117"}  # the Sentinels get to know each other only now
        assert found["E116"].startswith(f"{LOCALHOST}:{named.port}, the master by the Sentinel at ")

    def test_a_replica_in_the_url(self):
        self.configure(REDIS=self.group.nodes[1].url)
        assert "READONLY" in self.found()["E105"]

    @pytest.mark.parametrize(
        ("wanted", "finding"),
        [
            (2, {"W112": "Redis has 2 replicas, and a buffer waits for as many."}),
            (3, {"E115": "Redis has 2 replicas, and a buffer waits for 3."}),
        ],
    )
    def test_too_few_replicas(self, wanted, finding):
        self.configure(DURABILITY=wanted)
        assert self.found() == finding

    def test_a_quorum_that_cannot_be_reached(self):
        for sentinel in self.group.sentinels[:2]:
            sentinel.kill()
        wait_for(lambda: "E117" in self.found())
        found = [f for f in doctor.examine() if f.level != "ok"]
        assert sorted(f.id[-4:] for f in found) == ["E117", "W113", "W113"]
        texts = " ".join(f.what for f in found)
        assert "NOQUORUM" in texts
        for sentinel in self.group.sentinels[:2]:
            assert f"The Sentinel at {LOCALHOST}:{sentinel.port} is of no use: " in texts

    @pytest.mark.parametrize(
        ("config", "finding", "text"),
        [
            ({"maxmemory-policy": "allkeys-lru"}, "E107", " has maxmemory-policy allkeys-lru."),
            ({"appendonly": "no"}, "E108", " writes nothing to disk: appendonly is no, and save"),
            ({"appendonly": "no", "save": "60 1"}, "W104", " has appendonly no."),
            ({"min-replicas-to-write": "0"}, "W115", ": min-replicas-to-write is 0."),
        ],
    )
    def test_a_replica_that_must_not_become_the_master(self, config, finding, text):
        replica = self.group.nodes[1]
        with self.configured(replica, **config):
            found = self.found()
        assert set(found) == {finding}
        assert found[finding].startswith(f"The replica {LOCALHOST}:{replica.port}{text}")

    def test_a_replica_that_is_away(self):
        replica = self.group.nodes[1]
        replica.kill()
        found = self.found()
        assert set(found) == {"W114"}
        assert f"{LOCALHOST}:{replica.port} cannot be examined" in found["W114"]
