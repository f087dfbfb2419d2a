"""The option `redis`: buffers on several servers."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import models, transaction
from django.test.utils import isolate_apps

from tests import router
from tests.backdoor import links
from tests.backdoor.breaker import look_at_what_is_overdue
from tests.backdoor.connection import clients
from tests.backdoor.declarations import declare_only
from tests.backdoor.limits import limit
from tests.models import Counter, Item, Place, Setting, Venue, Visit
from tests.servers import RedisServer
from tests.several import OnEach, labels_on, moved, on_each
from writebehind_app import Add, RowBuffer, batch, doctor, registry, tasks, testing
from writebehind_app.exceptions import AlreadyExists, NotDurable

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module", params=["valkey"])
def second(request):
    with RedisServer(request.param) as server:
        yield server


@pytest.fixture
def other(plain, second):
    """A server besides that of the settings, which has the buffers of Item, Setting, Visit and
    Place. `plain` has the others."""
    with moved(second.url, Item, Setting, Visit, Place):
        yield second
    second.clear()


@on_each
class TestVerbs(OnEach):
    def test_rows(self, plain, other):
        rows = Item.buffered
        assert rows.set(number=1, a=1).where == "pending"
        rows.set_many([{"number": n, "a": Add(n)} for n in range(1, 500)])
        rows.create(number=1000)
        with pytest.raises(AlreadyExists):
            rows.create(number=1000)
        assert rows.set_if({"a": 2}, number=1, a=3)
        rows.delete(number=2)
        rows.set(number=3, b="x", once="call")
        rows.set(number=3, b="y", once="call")
        assert [row.a for row in rows.get_many([1, 499]).values()] == [3, 499]
        assert rows.get(number=3).b == "x"
        assert rows.count_pending() == 500
        assert len(rows.pending(limit=3)) == 3
        assert rows.discard(number=4)
        assert labels_on(other) == {"tests.Item"}
        assert not labels_on(plain)
        assert rows.flush(number=5).rows == 1
        rows.flush()
        assert Item.objects.count() == 498
        assert rows.count_pending() == 0

    def test_metadata(self, plain, other):
        meta = Setting.buffered.of(site=1)
        meta.update(a=1, b=2)
        meta["a"] = Add(1)
        assert meta.pop("b") == 2
        assert dict(meta) == {"a": 2}
        assert labels_on(other) == {"tests.Setting"}
        meta.flush()
        assert Setting.objects.get().value == 2

    def test_records(self, plain, other):
        visits = Visit.buffered
        visits.append(event=1, email="a", registered_at=NOON)
        visits.extend([{"event": 1, "email": str(n), "registered_at": NOON} for n in range(9)])
        with pytest.raises(AlreadyExists):
            visits.append(event=1, email="a", registered_at=NOON)
        assert len([*visits.window(NOON, NOON + timedelta(days=1), event=1)]) == 10
        assert labels_on(other) == {"tests.Visit"}
        visits.flush()
        assert len([*visits.window(NOON, NOON + timedelta(days=1), event=1)]) == 10
        assert Visit.objects.count() == 10

    def test_the_buffers_without_the_option_stay_where_they_were(self, plain, other):
        Counter.buffered.set(name="a", small=1)
        assert labels_on(plain) == {"tests.Counter"}
        assert not labels_on(other)

    def test_event_loops(self, plain, other):
        async def write():
            await Item.buffered.aset(number=1, a=1)
            await Item.buffered.aset_many([{"number": n, "a": 2} for n in range(2, 9)])
            await Setting.buffered.of(site=1).aupdate(a=1)
            await Visit.buffered.aappend(event=1, email="a")
            await Counter.buffered.aset(name="a", small=1)
            return await Item.buffered.aget(number=8)

        assert asyncio.run(write()).a == 2
        assert labels_on(other) == {"tests.Item", "tests.Setting", "tests.Visit"}
        assert labels_on(plain) == {"tests.Counter"}

    def test_shards_are_changed(self, plain, other):
        Item.buffered.set_many([{"number": n, "a": n} for n in range(50)])
        with moved(other.url, Item), pytest.MonkeyPatch.context() as patch:
            patch.setitem(Item.buffered.options, "SHARDS", 3)
            call_command("writebehind_shards", "tests.Item", stdout=io.StringIO())
            Item.buffered.set_many([{"number": n, "a": n} for n in range(40, 90)])
            assert Item.buffered.count_pending() == 50
            Item.buffered.flush()
        assert Item.objects.count() == 90
        assert not labels_on(plain)


@on_each
class TestTogether(OnEach):
    def test_a_batch(self, plain, other):
        with batch():
            for n in range(3):
                Item.buffered.set(number=n, a=n)
                Counter.buffered.set(name=str(n), small=n)
        assert labels_on(other) == {"tests.Item"}
        assert labels_on(plain) == {"tests.Counter"}
        assert Item.buffered.count_pending() == Counter.buffered.count_pending() == 3
        for n in range(3):  # each answer came to its own call
            assert Item.buffered.get(number=n).a == n
            assert Counter.buffered.get(name=str(n)).small == n

    def test_answers_are_in_order(self, plain, other):
        with batch():
            receipts = [
                Counter.buffered.set(name="a", small=1),
                Item.buffered.set(number=1, a=1),
                Counter.buffered.set(name="b", small=1),
            ]
        for receipt in receipts:
            assert receipt.where == "pending"
        Item.buffered.flush()
        assert [receipt.where for receipt in receipts] == ["pending", "stored", "pending"]

    def test_a_script_that_one_of_them_does_not_know(self, plain, other):
        Item.buffered.set(number=1, a=1)
        Counter.buffered.set(name="a", small=1)
        with other.client() as client:
            client.script_flush()
        with batch():
            Item.buffered.set(number=1, a=Add(1))
            Counter.buffered.set(name="a", small=Add(1))
        assert Item.buffered.get(number=1).a == Counter.buffered.get(name="a").small == 2

    def test_a_transaction(self, plain, other):
        with transaction.atomic(using=router.current()):
            Item.buffered.set(number=1, a=1)
            Counter.buffered.set(name="a", small=1)
            assert not labels_on(other) | labels_on(plain)
        assert labels_on(other) == {"tests.Item"}
        assert labels_on(plain) == {"tests.Counter"}
        with transaction.atomic(using=router.current()):
            Item.buffered.set(number=2, a=1)
            Counter.buffered.set(name="b", small=1)
            transaction.set_rollback(True, using=router.current())
        assert Item.buffered.count_pending() == Counter.buffered.count_pending() == 1

    def test_a_parent_and_its_child(self, plain, other):
        Venue.buffered.set(slug="hall", name="Hall")
        Place.buffered.set(number=1, venue_id="hall")
        assert labels_on(plain) == {"tests.Venue"}
        assert labels_on(other) == {"tests.Place"}
        Place.buffered.flush()
        assert Place.objects.get().venue.name == "Hall"
        Venue.buffered.delete(slug="hall")
        Place.buffered.set(number=2, venue_id="hall")
        assert Venue.buffered.count_pending() == Place.buffered.count_pending() == 1

    def test_the_children_go_with_their_parent(self, plain, other):
        Venue.buffered.set(slug="hall")
        Place.buffered.set(number=1, venue_id="hall")
        Venue.buffered.delete(slug="hall")
        tasks.flush_due()
        testing.flush()
        assert not Venue.objects.exists()
        assert not Place.objects.exists()
        assert Place.buffered.count_pending() == 0


class TestDurability:
    @pytest.fixture
    def without_aof(self, plain):
        with plain.client() as client:
            client.config_set("appendonly", "no")
            yield
            client.config_set("appendonly", "yes")

    def test_is_that_of_the_server_of_the_buffer(self, plain, other, without_aof, monkeypatch):
        monkeypatch.setitem(Item.buffered.options, "DURABILITY", "fsync")
        with moved(other.url, Item):
            assert Item.buffered.set_many([{"number": 1}, {"number": 2}])[0].where == "pending"
            monkeypatch.setitem(Counter.buffered.options, "DURABILITY", "fsync")
            with moved(other.url, Item):
                pass
            with pytest.raises(ImproperlyConfigured, match="durability 'fsync'"):
                Counter.buffered.set(name="a")

    def test_the_least_of_both_counts(self, plain, other, configure):
        configure(DURABILITY=1, DURABILITY_TIMEOUT=0.1)

        def both():
            with batch():
                Item.buffered.set(number=1)
                Counter.buffered.set(name="a")

        with pytest.raises(NotDurable, match="0 of 1 replica "):
            both()
        assert Item.buffered.count_pending() == Counter.buffered.count_pending() == 1


class TestForPeople:
    def test_status(self, plain, other):
        Item.buffered.set(number=1)
        Counter.buffered.set_many([{"name": "a"}, {"name": "b"}])
        out = io.StringIO()
        call_command("writebehind_status", "tests.Item", "tests.Counter", "--json", stdout=out)
        found = json.loads(out.getvalue())
        assert [one["pending"] for one in found["buffers"]] == [1, 2]
        assert all(f":{server.port}" in found["redis"]["address"] for server in (plain, other))

    def test_flush_writebehind(self, plain, other):
        Item.buffered.set(number=1)
        Counter.buffered.set(name="a")
        call_command("flush_writebehind", "--all", "--json", stdout=io.StringIO())
        assert Item.objects.exists()
        assert Counter.objects.exists()

    def test_what_tests_leave_is_removed_from_each(self, plain, other):
        with testing.buffered():
            Item.buffered.set(number=1)
            Counter.buffered.set(name="a")
            testing.assertBuffered(Item.buffered, number=1)
        assert not labels_on(plain) | labels_on(other)

    def test_one_that_is_overdue(self, plain, other):
        look_at_what_is_overdue()
        with batch():
            Item.buffered.set(number=1)
            Counter.buffered.set(name="a")
        assert Item.buffered.count_pending() == 1


class TestDoctor:
    @pytest.fixture(autouse=True)
    def project(self, plain, other, monkeypatch, settings):
        declare_only(monkeypatch, Item, Counter)
        settings.CACHES = {**settings.CACHES, "writebehind": settings.CACHES["default"]}
        limit(monkeypatch, doctor_slow_redis=1.0)
        for server in (plain, other):
            with server.client() as client:
                client.config_set("appendfsync", "always")
        with moved(other.url, Item):
            yield
        for server in (plain, other):
            with server.client() as client:
                client.config_set("appendfsync", "everysec")

    def findings(self):
        return [f for f in doctor.examine() if f.level != "ok" and "ledger" not in f.what]

    def test_each_is_examined(self, plain, other):
        for server in (plain, other):
            with server.client() as client:
                client.config_set("maxmemory-policy", "allkeys-lru")
                [finding] = [f for f in self.findings() if f.id == "writebehind.E107"]
                client.config_set("maxmemory-policy", "noeviction")
            assert finding.what.startswith(f"127.0.0.1:{server.port}, database 0: Redis has ")

    def test_the_durability_is_that_of_its_own_buffers(self, plain, other, monkeypatch):
        monkeypatch.setitem(Item.buffered.options, "DURABILITY", 1)
        [finding] = [f for f in self.findings() if f.id == "writebehind.E115"]
        assert f":{other.port}," in finding.what

    def test_one_that_is_away(self, plain, other):
        with RedisServer("valkey") as gone:
            url = gone.url
        with moved(url, Item):
            [finding] = [f for f in self.findings() if f.id == "writebehind.E101"]
        assert f":{gone.port}, database 0 cannot be used" in finding.what


class TestClients:
    def test_there_is_one_where_no_buffer_has_its_own(self, plain):
        assert type(links.client()).__name__ == "Client"

    def test_one_for_the_same_server(self, plain, second):
        with moved(plain.url, Item):  # that of the settings
            assert type(links.client()).__name__ == "Client"
        with moved(second.url, Item, Setting), moved(second.url, Visit):
            assert len(clients()) == 2

    @isolate_apps("tests")
    def test_a_buffer_that_is_declared_later(self, plain, second):
        Counter.buffered.set(name="a")  # which makes the clients

        class Late(models.Model):
            number = models.IntegerField(unique=True)

            buffered = RowBuffer(key="number", redis=second.url)

        try:
            Late.buffered.set(number=1)
            assert labels_on(second) == {"tests.Late"}
        finally:
            registry.remove(Late.buffered)
            with moved(plain.url):  # which forgets the clients
                second.clear()

    @pytest.mark.parametrize("kind", ["alias", "function"])
    def test_what_the_setting_may_be(self, kind, plain, second, settings, monkeypatch):
        alias = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": second.url}
        settings.CACHES = {**settings.CACHES, "second": alias}
        monkeypatch.setattr("tests.several.made", lambda: second.client(), raising=False)
        with moved({"alias": "second", "function": "tests.several.made"}[kind], Item):
            Item.buffered.set(number=1)
            assert labels_on(second) == {"tests.Item"}
            Item.buffered.discard(number=1)
        second.clear()


@isolate_apps("tests")
def problems(where):
    class Elsewhere(models.Model):
        number = models.IntegerField(unique=True)

        buffered = RowBuffer(key="number", redis=where)

    try:
        return [*Elsewhere.buffered.check()]
    finally:
        registry.remove(Elsewhere.buffered)


class TestChecks:
    @pytest.mark.parametrize(
        ("where", "text"),
        [
            (5, "redis must be a non-empty string, not 5."),
            ("", "redis must be a non-empty string, not ''."),
            (
                "http://app:geheim@10.0.0.1",
                "redis is 'http://***@10.0.0.1': neither a URL (redis, rediss, unix) nor the "
                "dotted path of a function, nor one of the caches in CACHES (default, "
                "writebehind).",
            ),
            (
                "redis://app:geheim@10.0.0.1:66000",
                "redis is 'redis://***@10.0.0.1:66000': its port is no number up to 65535.",
            ),
            ("default", "redis is 'default', the cache of the backend "),
            ("tests.none.made", "redis is 'tests.none.made', which cannot be imported: "),
            (
                {"SENTINELS": [("10.0.0.1", 26379)]},
                "redis has no 'MASTER_NAME'. Expected is ",
            ),
            ({"CLUSTER": []}, "redis['CLUSTER'] is []. Expected is "),
        ],
    )
    def test_a_wrong_value(self, where, text):
        [found] = problems(where)
        assert found.id == "writebehind.E011"
        assert found.msg.startswith(text)
        assert found.hint.startswith("Set redis to 'redis://host:port/number', with ")
        assert found.hint.endswith(", or leave it out for the project's.")

    def test_a_right_value(self):
        assert not problems({"CLUSTER": ["redis://10.0.0.1"]})

    def test_a_call_names_the_buffer(self, plain):
        with (
            moved("http://10.0.0.1", Item),
            pytest.raises(ImproperlyConfigured, match=r"`redis` of tests\.Item\.buffered is 'http"),
        ):
            Item.buffered.set(number=1)


class BesideASingleServer:
    """A buffer is on what is more than that."""

    def test_a_batch(self, plain, group, configure):
        configure(SHARDS=4)
        with batch():
            for n in range(20):
                Item.buffered.set(number=n, a=n)
                Counter.buffered.set(name=str(n), small=n)
        assert labels_on(plain) == {"tests.Counter"}
        assert [row.a for row in Item.buffered.get_many(range(20)).values()] == [*range(20)]
        Item.buffered.flush()
        assert Item.objects.count() == 20
        assert Counter.buffered.count_pending() == 20

    def test_event_loops(self, plain, group):
        async def write():
            await asyncio.gather(
                *(Item.buffered.aset(number=n, a=n) for n in range(20)),
                *(Counter.buffered.aset(name=str(n), small=n) for n in range(20)),
            )

        asyncio.run(write())
        assert Item.buffered.count_pending() == Counter.buffered.count_pending() == 20

    def test_durability(self, plain, group, monkeypatch):
        monkeypatch.setitem(Item.buffered.options, "DURABILITY", 1)
        with batch():
            receipts = [Item.buffered.set(number=1), Counter.buffered.set(name="a")]
        assert [receipt.where for receipt in receipts] == ["pending", "pending"]


@pytest.mark.outage  # it takes as long as one
class TestACluster(BesideASingleServer):
    @pytest.fixture
    def group(self, plain, cluster_group):
        with moved(cluster_group.setting, Item):
            yield
        cluster_group.clear()


@pytest.mark.outage
class TestSentinels(BesideASingleServer):
    @pytest.fixture
    def group(self, plain, sentinel_group):
        with moved(sentinel_group.setting, Item):
            yield
        sentinel_group.clear()
