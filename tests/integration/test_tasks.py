"""What a scheduler calls, in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ
from django_q.signing import SignedPackage
from django_q.tasks import async_task

from tests.backdoor import locks
from tests.backdoor.batches import claim
from tests.backdoor.breaker import is_asked
from tests.backdoor.declarations import redeclare
from tests.backdoor.entries import set_times
from tests.backdoor.limits import limit
from tests.models import Counter, Item, Stamp, Visit
from tests.outages import wait_for
from writebehind_app import Add, checkpoints, jobs, schedules, tasks
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.meta.models import AppointmentMeta
from writebehind_app.models import AppliedBatch, DeadLetter


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def change(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setattr(Conf, name, value)

    change(WORKERS=2)
    return change


def asked_for() -> list[tuple[str, tuple, dict]]:
    """The jobs in the queue."""
    found = [SignedPackage.loads(task.payload) for task in OrmQ.objects.order_by("pk")]
    OrmQ.objects.all().delete()
    return [
        (t["func"].removeprefix("writebehind_app.tasks."), t["args"], t["kwargs"]) for t in found
    ]


def in_a_thread(act: Callable[[], Any]) -> Callable[[], Any]:
    """Act while the test does something else; what is returned waits for the end."""
    found = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()

    def result() -> Any:
        thread.join(20)
        return found[0]

    return result


class TestFlushDue:
    def test_what_is_due_of_all_buffers_or_of_some(
        self, database, redis_server, configure, monkeypatch
    ):
        configure(MAX_AGE=0)
        patient = {**Counter.buffered.options, "MAX_AGE": 60}
        redeclare(monkeypatch, Counter.buffered, options=patient)
        Counter.buffered.set(name="x")
        Item.buffered.set_many({"number": n} for n in range(3))
        Visit.buffered.append(event=1, email="a")
        assert tasks.flush_due("tests.Visit")["rows"] == 1
        assert tasks.flush_due() == {"rows": 3, "batches": 3, "dead_letters": 0, "errors": 0} | {
            "batches": AppliedBatch.objects.filter(buffer="tests.Item").count()
        }
        assert tasks.flush_due()["rows"] == 0
        assert Counter.buffered.count_pending() == 1
        assert asked_for() == []

    def test_what_waits_in_a_shard_goes_along_with_what_is_due(
        self, database, redis_server, configure
    ):
        configure(MAX_AGE=60)
        Item.buffered.set_many({"number": n} for n in range(3))
        assert tasks.flush_due()["rows"] == 0
        set_times(Item.buffered, "1", first=-61, last=-61, due=-1)
        assert tasks.flush_due() == {"rows": 3, "batches": 1, "dead_letters": 0, "errors": 0}

    def test_again_and_again_for_a_time(self, plain, configure):
        configure(MAX_AGE=0.1)
        ended = in_a_thread(lambda: tasks.flush_due(seconds=1.5))
        for n in range(3):
            Item.buffered.set(number=n)
            started = time.monotonic()
            while not Item.objects.filter(number=n).exists():
                assert time.monotonic() - started < 5
                time.sleep(0.02)
        assert ended()["rows"] == 3

    def test_a_buffer_that_is_no_more(self, plain):
        assert tasks.flush_due("tests.Gone")["rows"] == 0
        assert tasks.flush_entry("tests.Gone", "1") == 0

    def test_redis_is_away(self, plain, caplog):
        plain.stop()
        with pytest.raises(BufferUnavailable):
            tasks.flush_due()
        assert tasks.flush_due(seconds=0.3)["errors"] == 0
        assert tasks.flush_due(seconds=0.3, fan_out=True)["errors"] == 0
        wait_for(lambda: not is_asked())
        assert caplog.text.count(" is away: ") == 1
        assert "Nothing can be flushed" not in caplog.text

    def test_redis_is_full(self, plain, configure, cluster):
        """A tick takes its lock all the same: nothing else makes room."""
        configure(MAX_AGE=0, WHEN_DOWN="raise")
        cluster(WORKERS=1)
        Item.buffered.set_many({"number": n} for n in range(20))
        with plain.client() as client:
            client.config_set("maxmemory", 1)
            try:
                assert tasks.flush_due(seconds=1, fan_out=True)["rows"] == 20
            finally:
                client.config_set("maxmemory", 0)
        assert Item.objects.count() == 20

    def test_a_buffer_that_cannot_be_flushed_keeps_no_other_from_it(
        self, plain, configure, monkeypatch, caplog
    ):
        def fail() -> None:
            raise LookupError("a mistake")

        configure(MAX_AGE=0)
        Item.buffered.set(number=1)
        Visit.buffered.append(event=1, email="a")
        monkeypatch.setattr(Item.buffered, "layout", fail)
        found = tasks.flush_due(seconds=0.5)
        assert (found["rows"], found["errors"] > 0) == (1, True)
        assert "tests.Item.buffered cannot be flushed" in caplog.text
        with pytest.raises(SystemExit):
            call_command("flush_writebehind", loop=True, max_time=0.1, interval=0.2, verbosity=0)
        with pytest.raises(LookupError):
            tasks.flush_due()

    def test_a_batch_that_a_dead_one_left(self, plain, configure):
        configure(MAX_AGE=0, SHARDS=1, LEASE=0.2)
        Item.buffered.set(number=1)
        assert claim(Item.buffered, lease=0.2, due_only=True)
        assert tasks.flush_due(seconds=1)["rows"] == 1


class TestTick:
    """In a worker of Django-Q2."""

    def test_hands_all_due_buffers_but_one_to_other_workers(self, plain, configure):
        configure(MAX_AGE=0)
        stamp = Stamp.objects.create()
        Item.buffered.set(number=1)
        Stamp.buffered.set(pk=stamp.pk, count=1)
        Visit.buffered.append(event=1, email="a")
        found = tasks.flush_due(seconds=2, fan_out=True)
        assert found["rows"] == 3  # in the end it does what nobody came for
        jobs = asked_for()
        assert len(jobs) == 2
        assert {name for name, *_ in jobs} == {"flush_due"}
        labels = {args[0] for _, args, _ in jobs}
        assert len(labels & {"tests.Item", "tests.Stamp", "tests.Visit"}) == 2

    def test_does_all_by_itself_where_there_is_one_worker(self, plain, configure, cluster):
        cluster(WORKERS=1)
        configure(MAX_AGE=0)
        Item.buffered.set(number=1)
        Visit.buffered.append(event=1, email="a")
        assert tasks.flush_due(seconds=1, fan_out=True)["rows"] == 2
        assert asked_for() == []

    def test_asks_for_the_next_one_while_it_is_scheduled(self, plain):
        tasks.flush_due(seconds=0.1, fan_out=True)
        assert asked_for() == []
        schedules.make()
        tasks.flush_due(seconds=0.1, fan_out=True)
        assert asked_for() == [("flush_due", (), {"seconds": 0.1, "fan_out": True})]
        schedules.remove()
        tasks.flush_due(seconds=0.1, fan_out=True)
        assert asked_for() == []

    def test_one_is_at_it_at_a_time(self, plain, monkeypatch):
        """Scenario 43: the same task delivered twice."""
        limit(monkeypatch, tick_alive=0.6)
        schedules.make()
        both = [
            in_a_thread(lambda: tasks.flush_due(seconds=2, fan_out=True)),
            in_a_thread(lambda: tasks.flush_due(seconds=2, fan_out=True)),
        ]
        for end in both:
            end()
        assert len(asked_for()) == 1

    def test_one_that_comes_after_a_death_takes_its_place(self, plain, configure, monkeypatch):
        limit(monkeypatch, tick_alive=0.6)
        configure(MAX_AGE=0)
        schedules.make()
        assert locks.take("tick", 0.6)
        Item.buffered.set(number=1)
        assert tasks.flush_due(seconds=1.5, fan_out=True)["rows"] == 1  # at once
        assert len(asked_for()) == 1

    def test_is_over_before_the_task_is_timed_out(self, plain, cluster):
        cluster(TIMEOUT=1)
        started = time.monotonic()
        tasks.flush_due(seconds=20, fan_out=True)
        assert time.monotonic() - started < 2

    def test_begins_when_a_worker_starts(self, plain, monkeypatch):
        monkeypatch.setattr(tasks, "parent_process", lambda: "a cluster")
        tasks.tick_at_once()
        assert asked_for() == []
        schedules.make()
        tasks.tick_at_once()
        tasks.tick_at_once()  # the second worker
        assert asked_for() == [("flush_due", (), schedules.TICK)]

    def test_is_not_begun_by_a_task_that_runs_at_once(self, plain):
        schedules.make()
        started = time.monotonic()
        async_task("math.floor", 1.5, sync=True)
        assert time.monotonic() - started < 3
        assert asked_for() == []

    def test_a_worker_starts_whatever_is_away(self, plain, caplog, monkeypatch):
        monkeypatch.setattr(tasks, "parent_process", lambda: "a cluster")
        plain.stop()
        schedules.make()
        tasks.tick_at_once()
        assert "left to the clock" in caplog.text

    def test_a_broker_that_is_away(self, plain, configure, monkeypatch, caplog):
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise ConnectionError("no broker")

        monkeypatch.setattr("django_q.tasks.async_task", refuse)
        configure(MAX_AGE=0)
        schedules.make()
        Item.buffered.set(number=1)
        Visit.buffered.append(event=1, email="a")
        assert tasks.flush_due(seconds=1, fan_out=True)["rows"] == 2
        assert "Django-Q2 took no job" in caplog.text

    def test_where_tasks_run_at_once(self, plain, configure, cluster):
        cluster(SYNC=True)
        configure(MAX_AGE=0)
        schedules.make()
        Item.buffered.set(number=1)
        Visit.buffered.append(event=1, email="a")
        assert tasks.flush_due(seconds=1, fan_out=True)["rows"] == 2
        assert asked_for() == []


LIMITS = [
    "django_q.exceptions.TimeoutException",
    "rq.timeouts.JobTimeoutException",
    "celery.exceptions.SoftTimeLimitExceeded",
]


def error_of(path: str) -> type[BaseException]:
    module, _, name = path.rpartition(".")
    return getattr(pytest.importorskip(module), name)


class TestTimeout:
    """Scenario 43: a worker is timed out in the middle of a task."""

    @pytest.mark.parametrize("path", LIMITS)
    @pytest.mark.parametrize("step", ["flush.claimed", "flush.token", "flush.buried"])
    def test_nobody_waits_for_the_lease_of_its_batch(
        self, database, redis_server, configure, monkeypatch, step, path
    ):
        error = error_of(path)
        configure(MAX_AGE=0, LEASE=3600)
        Item.buffered.set_many({"number": n, "a": Add(1)} for n in range(20))

        def hook(reached: str) -> None:
            if reached == step:
                raise error

        monkeypatch.setattr(checkpoints, "hook", hook)
        with pytest.raises(error):
            tasks.flush_due(seconds=20)
        monkeypatch.setattr(checkpoints, "hook", None)
        assert Item.buffered.count_pending() == 20
        assert tasks.flush_due()["rows"] == 20  # it is redelivered
        assert set(Item.objects.values_list("a", flat=True)) == {1}
        assert Item.buffered.count_pending() == 0

    @pytest.mark.parametrize("path", LIMITS)
    def test_refuses_no_entry_however_often_the_batch_failed(
        self, database, redis_server, configure, monkeypatch, path
    ):
        error = error_of(path)
        configure(SHARDS=1, MAX_AGE=0)
        Item.buffered.set(number=1)
        for _ in range(11):
            claim(Item.buffered)[0].release()

        def hook(reached: str) -> None:
            if reached == "flush.inserted":
                raise error

        monkeypatch.setattr(checkpoints, "hook", hook)
        with pytest.raises(error):
            tasks.flush_due()
        assert Item.buffered.count_pending() == 1
        assert not DeadLetter.objects.exists()


class TestFlushEntry:
    def test_that_one_alone(self, database, redis_server):
        Item.buffered.set_many([{"number": 1}, {"number": 2}])
        assert tasks.flush_entry("tests.Item", "1") == 1
        assert [item.number for item in Item.objects.all()] == [1]
        assert tasks.flush_entry("tests.Item", "1") == 0

    def test_waits_for_nobody_for_long(self, plain, configure, monkeypatch):
        limit(monkeypatch, flush_entry_patience=0.3)
        configure(SHARDS=1)
        Item.buffered.set(number=1)
        claim(Item.buffered)
        Item.buffered.set(number=2)
        started = time.monotonic()
        assert tasks.flush_entry("tests.Item", "2") == 0
        assert time.monotonic() - started < 2

    def test_redis_is_away(self, plain):
        plain.stop()
        assert tasks.flush_entry("tests.Item", "1") == 0


class TestPrune:
    def test_does_away_with_what_has_expired(self, database, redis_server, configure):
        configure(LEDGER_DAYS=1)
        now = timezone.now()
        AppointmentMeta.buffered.set(appointment_id=1, expires_at=now + timedelta(days=1))
        AppointmentMeta.buffered.flush()
        AppointmentMeta.objects.update(expires_at=now)
        AppliedBatch.objects.update(applied_at=now - timedelta(days=3))
        assert tasks.prune() == 1
        assert AppliedBatch.objects.count() == 1  # the last one of its shard stays
        tasks.flush_due()
        assert not AppointmentMeta.objects.exists()
        assert tasks.prune() == 0


class TestJobs:
    def test_are_asked_for_after_the_commit(self, database, redis_server, cluster):
        from django.db import transaction

        cluster(ORM=database)
        with transaction.atomic(using=database):
            assert jobs.enqueue("prune")
            assert not OrmQ.objects.exists()
        assert asked_for() == [("prune", (), {})]

    def test_leave_the_history_to_those_of_the_project(self, plain):
        jobs.enqueue("prune")
        (task,) = OrmQ.objects.all()
        assert SignedPackage.loads(task.payload)["save"] is False

    def test_without_django_q(self, plain, monkeypatch):
        monkeypatch.setattr(jobs, "is_installed", lambda: False)
        assert not jobs.enqueue("prune")
        assert not OrmQ.objects.exists()


class TestOtherSchedulers:
    def test_a_thread_with_a_clock(self, database, redis_server, configure):
        """As Celery beat, RQ or cron call it: a plain function, at some interval."""
        configure(MAX_AGE=0.1)
        for n in range(5):
            Item.buffered.set(number=n)
            time.sleep(0.12)
            assert tasks.flush_due() == {"rows": 1, "batches": 1, "dead_letters": 0, "errors": 0}
        assert Item.objects.count() == 5
