"""A Redis Cluster: ways to name it, and what the doctor finds."""

from __future__ import annotations

import pytest
from django.conf import settings as django_settings
from redis.cluster import ClusterNode, RedisCluster

from tests.backdoor.connection import shown
from tests.backdoor.divisions import Process, divide
from tests.doctor import AsksTheDoctor
from tests.models import Item, Line
from tests.outages import wait_for
from tests.servers.process import LOCALHOST
from writebehind_app import Add, doctor
from writebehind_app.checks import check_settings

ROWS = range(24)  # on all nodes

pytestmark = pytest.mark.outage  # it takes as long as one


def by_function() -> RedisCluster:
    nodes = [ClusterNode(LOCALHOST, port) for port in django_settings.PORTS_OF_A_TEST]
    return RedisCluster(startup_nodes=nodes)


class TestWays:
    def assert_all_is_well(self) -> None:
        assert check_settings() == []
        for n in ROWS:
            Item.buffered.set(number=n, a=Add(n))
            Line.buffered.append(text=str(n))
        assert [Item.buffered.get(number=n).a for n in ROWS] == [*ROWS]
        Item.buffered.flush()
        assert Item.objects.count() == len(ROWS)
        assert not any("geheim" in text for text in shown())

    def test_one_node_tells_of_the_others(self, cluster, configure):
        configure(REDIS={"CLUSTER": cluster.setting["CLUSTER"][-1:]})
        self.assert_all_is_well()

    def test_a_node_that_is_away(self, cluster, configure):
        configure(REDIS={"CLUSTER": ["redis://127.0.0.1:1", *cluster.setting["CLUSTER"]]})
        self.assert_all_is_well()

    @pytest.mark.parametrize("place", ["URL", "NODE_KWARGS"])
    def test_a_user_and_a_password(self, place, cluster, configure):
        for node in cluster.nodes:
            with node.client() as client:
                client.execute_command("ACL SETUSER", "app", "on", ">geheim", "~*", "+@all")
        if place == "URL":
            urls = [f"redis://app:geheim@{LOCALHOST}:{node.port}" for node in cluster.nodes]
            configure(REDIS={"CLUSTER": urls})
        else:
            user = {"username": "app", "password": "geheim"}
            configure(REDIS={**cluster.setting, "NODE_KWARGS": user})
        self.assert_all_is_well()

    def test_a_function(self, cluster, settings, configure):
        settings.PORTS_OF_A_TEST = [node.port for node in cluster.nodes[:2]]
        configure(REDIS="tests.integration.test_cluster.by_function")
        self.assert_all_is_well()

    def test_a_user_with_few_rights(self, cluster, configure, rights):
        for node in cluster.nodes:
            with node.client() as client:
                client.execute_command("ACL SETUSER", "few", "reset", "on", ">geheim", *rights)
        urls = [f"redis://few:geheim@{LOCALHOST}:{node.port}" for node in cluster.nodes]
        configure(REDIS={"CLUSTER": urls})
        self.assert_all_is_well()

    @pytest.fixture
    def rights(self):
        from tests.backdoor.connection import RIGHTS

        return (*RIGHTS(), "+cluster|slots", "+asking")


class TestDoctor(AsksTheDoctor):
    @pytest.fixture(autouse=True)
    def project(self, cluster, monkeypatch, settings, configure):
        self.prepare(monkeypatch, settings)
        self.group, self.configure = cluster, configure

    def test_nothing_is_found(self):
        examined = {f.what for f in doctor.examine()}
        assert self.found() == {}
        assert {"Cluster: slots", "Cluster: masters", "Cluster: replicas"} <= examined
        assert {"Redis: rights", "Redis: latency"} <= examined

    @pytest.mark.parametrize(
        ("wanted", "finding"),
        [
            (1, {"W112": "Masters with 1 replica, for which a buffer waits: "}),
            (2, {"E115": f"The master {LOCALHOST}:"}),
        ],
    )
    def test_too_few_replicas(self, wanted, finding):
        self.configure(DURABILITY=wanted)
        found = self.found()
        assert set(found) == set(finding)
        [(id, text)] = finding.items()
        assert found[id].startswith(text)

    @pytest.mark.parametrize(
        ("config", "finding", "text"),
        [
            ({"maxmemory-policy": "allkeys-lru"}, "E107", " has maxmemory-policy allkeys-lru."),
            ({"appendonly": "no"}, "E108", " writes nothing to disk: appendonly is no, and save"),
            ({"appendonly": "no", "save": "60 1"}, "W104", " has appendonly no."),
        ],
    )
    @pytest.mark.parametrize("role", ["master", "replica"])
    def test_a_node_that_is_not_safe(self, role, config, finding, text):
        """SCENARIOS 36."""
        master, [replica] = [*self.group.masters().items()][2]
        node = master if role == "master" else replica
        with self.configured(node, **config):
            found = self.found()
        assert set(found) == {finding}
        assert found[finding].startswith(f"The {role} {LOCALHOST}:{node.port}{text}")

    def test_a_slot_that_is_not_covered(self):
        slot = 7
        owner = self.group.owner(slot)
        for node in self.group.nodes:
            with node.client() as client:
                client.execute_command("CLUSTER DELSLOTS", slot)
        found = self.found()
        assert found["E110"] == "The Redis cluster serves only 16383 of the 16384 hash slots."
        with owner.client() as client:
            client.execute_command("CLUSTER ADDSLOTS", slot)

    def test_a_master_without_a_replica(self):
        [master, [replica]] = next(iter(self.group.masters().items()))
        replica.kill()
        wait_for(lambda: set(self.found()) == {"W116"})
        assert f"{LOCALHOST}:{master.port}" in self.found()["W116"]
        master.kill()
        wait_for(lambda: "E118" in self.found())
        assert f"The master {LOCALHOST}:{master.port} cannot be used: " in self.found()["E118"]

    def test_a_url_of_one_of_its_nodes(self):
        self.configure(REDIS=self.group.nodes[0].url)
        assert "E111" in self.found()
        [finding] = [f for f in doctor.examine() if f.id == "writebehind.E111"]
        assert "{'CLUSTER': [" in finding.do


def test_shards_raised_and_lowered(cluster):
    """Scenario 41, with the shards, and what says how many there are, on several nodes."""
    old, new = (Process(shards, Item.buffered, Line.buffered) for shards in (1, 5))
    for turn, (first, second) in enumerate(((old, new), (new, old)), 1):
        with first.running():
            Item.buffered.set_many([{"number": n, "a": Add(1)} for n in ROWS])
        with second.running():
            for buffer in (Item.buffered, Line.buffered):
                assert divide(buffer, seconds=10) == ""
            Item.buffered.set_many([{"number": n, "a": Add(1)} for n in ROWS])
            Line.buffered.append(text=str(turn))
        with first.running():
            assert {row.a for row in Item.buffered.get_many(ROWS).values()} == {2 * turn}
            assert len(Line.buffered.window(None, None)) == turn
    with new.running():
        Item.buffered.flush()
        Line.buffered.flush()
    assert {row.a for row in Item.objects.all()} == {4}
    assert Line.objects.count() == 2
