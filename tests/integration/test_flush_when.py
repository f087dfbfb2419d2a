"""The option `flush_when`: an entry whose row is as it says is flushed at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.apps import apps
from django.db import connections, transaction
from django_q.conf import Conf
from django_q.models import OrmQ
from django_q.signing import SignedPackage

from tests.backdoor.calls import lose_hints
from tests.backdoor.keyspace import of_hints
from tests.backdoor.limits import limit
from tests.models import Item, Owner, Pair, Stamp
from tests.servers import Proxy
from writebehind_app import Add, tasks
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.meta.models import TicketMeta
from writebehind_app.meta.services import open_ticket, update_ticket


@pytest.fixture
def flush_when(monkeypatch: pytest.MonkeyPatch, configure: Any) -> Callable[..., None]:
    configure(MAX_AGE=60)

    def change(predicate: Callable[[Any], Any], model: Any = Item) -> None:
        monkeypatch.setattr(model.buffered, "flush_when", predicate)

    return change


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The database of the test."""
    if "database" in request.fixturenames:
        monkeypatch.setattr(Conf, "ORM", request.getfixturevalue("database"))


def asked_for() -> list[tuple[str, tuple]]:
    """The jobs in the queue."""
    found = [SignedPackage.loads(task.payload) for task in OrmQ.objects.order_by("pk")]
    OrmQ.objects.all().delete()
    return [(task["func"].removeprefix("writebehind_app.tasks."), task["args"]) for task in found]


def is_done(row: Any) -> bool:
    return row.b == "done"


class TestAsked:
    def test_of_each_write_that_sets_the_field(self, database, redis_server, flush_when):
        flush_when(is_done)
        Item.buffered.set(number=1, b="open")
        assert asked_for() == []
        Item.buffered.set(number=1, b="done")
        assert asked_for() == [("flush_entry", ("tests.Item", "1", database))]
        assert tasks.flush_due()["rows"] == 1  # it is due, with or without the job
        assert Item.objects.get().b == "done"

    def test_of_no_write_that_has_nothing_to_do_with_it(self, plain, flush_when):
        flush_when(is_done)
        Item.buffered.set(number=1, b="done")
        Item.buffered.flush()
        asked_for()
        with connections["default"].execute_wrapper(refuse):  # and nothing is looked up
            Item.buffered.set(number=1, c="more")
            Item.buffered.delete(number=1)
        assert asked_for() == []

    def test_what_else_it_looks_at_is_the_row_after_the_write(
        self, database, redis_server, flush_when
    ):
        flush_when(lambda row: row.b == "done" and row.a > 1 and row.c == "x")
        Item.buffered.set(number=1, a=2)
        Item.buffered.flush()
        Item.buffered.set(number=1, b="done")
        assert asked_for() == []
        Item.buffered.set(number=1, c="x")  # what it looks at first has not changed
        assert asked_for() == []
        Item.buffered.set(number=1, b="done")
        assert asked_for() == [("flush_entry", ("tests.Item", "1", database))]

    def test_of_the_outcome_of_an_operation(self, database, redis_server, flush_when):
        flush_when(lambda row: row.a >= 3)
        Item.objects.create(number=1, a=1)
        Item.buffered.set(number=1, a=Add(1))
        assert asked_for() == []
        Item.buffered.set(number=1, a=Add(1))
        assert asked_for() == [("flush_entry", ("tests.Item", "1", database))]

    def test_it_gets_an_instance_of_the_model(self, plain, flush_when):
        seen: list[Item] = []
        flush_when(lambda row: seen.append(row) or row.b == "done")
        known = apps.get_models()
        Item.buffered.set(number=1, b="done")
        assert isinstance(seen[0], Item)
        assert seen[0]._meta is Item._meta
        assert apps.get_models() == known
        assert len(asked_for()) == 1

    def test_with_the_key(self, plain, flush_when):
        owner = Owner.objects.create(name="o")
        flush_when(lambda row: row.value and row.name == "b" and row.owner == owner, Pair)
        Pair.buffered.set(owner=owner, name="a", value=1)
        assert asked_for() == []
        Pair.buffered.set(owner=owner, name="b", value=1)
        assert asked_for() == [("flush_entry", ("tests.Pair", f'{owner.pk},"b"', "default"))]

    def test_by_the_primary_key(self, plain, flush_when):
        flush_when(lambda row: row.count == 1 and row.seen is None, Stamp)
        stamp = Stamp.objects.create()
        Stamp.buffered.set(pk=stamp.pk, count=1)
        assert len(asked_for()) == 1
        Stamp.buffered.set(pk=404404, count=1)  # there is no such row
        assert asked_for() == []

    def test_of_all_verbs(self, plain, flush_when):
        flush_when(is_done)
        Item.buffered.create(number=1, b="done")
        Item.buffered.create(number=2, b="open")
        assert not Item.buffered.set_if({"b": "shut"}, number=2, b="done")
        assert asked_for() == [("flush_entry", ("tests.Item", "1", "default"))]
        assert Item.buffered.set_if({"b": "open"}, number=2, b="done")
        assert asked_for() == [("flush_entry", ("tests.Item", "2", "default"))]

    def test_many_at_once_are_one_job(self, database, redis_server, flush_when):
        flush_when(is_done)
        Item.buffered.set_many({"number": n, "b": "done"} for n in range(100))
        Item.buffered.set_many({"number": n, "b": "open"} for n in range(100, 110))
        assert asked_for() == [("flush_due", ("tests.Item",))]
        assert tasks.flush_due("tests.Item")["rows"] == 100

    def test_after_the_pause_of_a_quiet_buffer(self, plain, flush_when, configure):
        configure(QUIET=30)
        flush_when(is_done)
        Item.buffered.set(number=1, b="done")
        assert tasks.flush_due()["rows"] == 1

    def test_not_where_nothing_is_buffered(self, plain, flush_when, configure):
        configure(MODE="direct")
        flush_when(is_done)
        Item.buffered.set(number=1, b="done")
        assert asked_for() == []


class TestOnce:
    def test_a_thousand_writes_to_a_key_make_few_jobs(self, database, redis_server, flush_when):
        flush_when(is_done)
        for n in range(1000):
            Item.buffered.set(number=1, a=n, b="done")
        assert 1 <= len(asked_for()) <= 5
        assert tasks.flush_due()["rows"] == 1
        assert Item.objects.get().a == 999

    def test_but_the_last_write_is_due_too(self, plain, flush_when):
        flush_when(is_done)
        Item.buffered.set(number=1, b="done")
        assert tasks.flush_entry(*asked_for()[0][1]) == 1
        Item.buffered.set(number=1, a=5, b="done")
        assert asked_for() == []  # somebody was told a moment ago
        assert tasks.flush_due()["rows"] == 1
        assert Item.objects.get().a == 5

    def test_nothing_of_it_lasts_in_redis(self, plain, flush_when, monkeypatch):
        limit(monkeypatch, silence_after_a_hint=0.05)
        flush_when(is_done)
        Item.buffered.set(number=1, b="done")
        with plain.client() as client:
            assert all(client.ttl(key) >= 0 for key in of_hints(client))


class TestTrouble:
    def test_a_broker_that_is_away_costs_nothing_but_time(
        self, database, redis_server, flush_when, monkeypatch, caplog
    ):
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise ConnectionError("no broker")

        monkeypatch.setattr("django_q.tasks.async_task", refuse)
        flush_when(is_done)
        Item.buffered.set(number=1, b="done")
        assert "Django-Q2 took no job" in caplog.text
        assert tasks.flush_due()["rows"] == 1  # the next tick

    @pytest.mark.parametrize("how", ["refuses", "hangs"])
    def test_a_redis_of_jobs_that_is_away_is_asked_once(
        self, plain, flush_when, monkeypatch, configure, caplog, how
    ):
        configure(SOCKET_TIMEOUT=0.3)
        with Proxy(plain) as proxy:
            monkeypatch.setattr(Conf, "ORM", None)
            monkeypatch.setattr(Conf, "REDIS", proxy.url)
            flush_when(is_done)
            Item.buffered.set(number=0, b="done")
            assert "took no job" not in caplog.text
            if how == "hangs":
                proxy.freeze()
            else:
                proxy.refuse()
            started = time.monotonic()
            for n in range(1, 30):
                assert Item.buffered.set(number=n, b="done")
            assert time.monotonic() - started < 3
            assert caplog.text.count("took no job") == 1
            if how == "refuses":
                proxy.accept()
        assert tasks.flush_due()["rows"] == 30  # the next tick

    def test_a_transaction_takes_no_harm_and_no_job_with_it(self, plain, flush_when, configure):
        configure(ON_COMMIT=False)
        flush_when(is_done)
        with transaction.atomic():
            Item.buffered.set(number=1, b="done")
            transaction.set_rollback(True)
        assert asked_for() == []
        assert tasks.flush_due()["rows"] == 1

    def test_of_a_transaction_it_is_asked_for_after_the_commit(self, plain, flush_when):
        flush_when(is_done)
        with transaction.atomic():
            Item.buffered.set(number=1, b="done")
            assert asked_for() == []
        assert asked_for() == [("flush_entry", ("tests.Item", "1", "default"))]

    def test_a_predicate_that_fails_does_not_fail_the_write(self, plain, flush_when, caplog):
        flush_when(lambda row: row.b / 2)
        assert Item.buffered.set(number=1, b="done").where == "pending"
        assert "tests.Item.buffered: flush_when failed" in caplog.text

    def test_redis_goes_away_after_the_write(self, plain, flush_when, monkeypatch, caplog):
        lose_hints(monkeypatch, BufferUnavailable("gone"))
        flush_when(is_done)
        assert Item.buffered.set(number=1, b="done").where == "pending"
        assert "wait for max_age: gone" in caplog.text


class TestTickets:
    def test_one_that_is_resolved(self, database, redis_server, configure):
        configure(MAX_AGE=60)
        open_ticket(5)
        update_ticket(5, subject="s", status="waiting")
        assert asked_for() == []
        update_ticket(5, status="resolved")
        assert asked_for() == [("flush_entry", ("writebehind_meta.TicketMeta", "5", database))]
        tasks.flush_entry("writebehind_meta.TicketMeta", "5")
        assert TicketMeta.objects.get().status == "resolved"


def refuse(execute: Any, sql: str, *args: Any) -> Any:
    raise AssertionError(sql)
