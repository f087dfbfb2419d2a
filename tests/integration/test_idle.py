"""A flusher with nothing to do asks the database nothing, and Redis as little as it can."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.backdoor.flushes import forget_pruning
from tests.backdoor.limits import limit
from tests.backdoor.shards import spoil
from tests.models import Item, Visit
from writebehind_app import registry, schedules, tasks
from writebehind_app.meta.models import AppointmentMeta
from writebehind_app.models import AppliedBatch

ONLY_VALKEY = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


def loop(*labels: str, seconds: float = 1.5) -> None:
    call_command(
        "flush_writebehind", *labels, loop=True, max_time=seconds, interval=0.2, verbosity=0
    )


def go_on(*labels: str, seconds: float = 1.5) -> None:
    tasks.flush_due(*labels, seconds=seconds)


def tick(*labels: str, seconds: float = 1.5) -> None:
    tasks.flush_due(*labels, seconds=seconds, fan_out=True)


LOOPS = pytest.mark.parametrize("flusher", [loop, go_on, tick])


@pytest.fixture(autouse=True)
def young() -> None:
    """This process has pruned nothing so far."""
    forget_pruning()


def statements(act: Callable[[], object]) -> list[str]:
    """Those that are sent to any database, but for the schedules of Django-Q2, and what Django
    says to MariaDB on a new connection."""
    with ExitStack() as stack:
        captured = [stack.enter_context(CaptureQueriesContext(connections[a])) for a in connections]
        act()
    found = [query["sql"] for each in captured for query in each]
    return [sql for sql in found if "django_q" not in sql and not sql.startswith("SET SESSION")]


@ONLY_VALKEY
@LOOPS
def test_the_database_is_asked_nothing(database, redis_server, flusher):
    loop(seconds=0.1)  # prunes
    schedules.make()
    assert statements(flusher) == []


@LOOPS
def test_redis_is_asked_once_in_a_pass(plain, flusher, trips):
    flusher(seconds=0.1)  # Redis knows all scripts
    trips.clear()
    flusher()
    shards = sum(len(buffer.every_shard()) for buffer in registry.buffers().values())
    assert set(trips) <= {1, shards}  # the place of a tick, and what each shard holds
    passes = trips.count(shards)
    assert 2 <= passes <= (9 if flusher is loop else 3)
    assert len(trips) - passes <= (passes + 4 if flusher is tick else 0)


@LOOPS
def test_what_is_pending_in_a_row_or_in_a_log_is_seen(plain, configure, flusher):
    configure(MAX_AGE=0)
    Item.buffered.set(number=1)
    Visit.buffered.append(event=1, email="a")
    flusher()
    assert (Item.objects.count(), Visit.objects.count()) == (1, 1)


def test_what_somebody_else_wrote_is_seen(plain, configure, caplog):
    configure(MAX_AGE=0)
    loop(seconds=0.1)
    spoil(Visit.buffered, "records")
    Item.buffered.set(number=1)
    with suppress(SystemExit):  # where the last pass met an error, too
        loop(seconds=0.5)
    assert "tests.Visit.buffered: nothing can be flushed" in caplog.text
    assert Item.objects.count() == 1


@LOOPS
def test_what_has_expired_goes_once_a_minute(plain, configure, flusher, monkeypatch):
    configure(MAX_AGE=0)
    limit(monkeypatch, pause_of_pruning=3600)
    label = AppointmentMeta._meta.label

    def expire(number: int) -> None:
        at = timezone.now() - timedelta(days=1)
        AppointmentMeta.objects.create(appointment_id=number, expires_at=at)

    loop(label, seconds=0.1)
    expire(1)
    AppointmentMeta.buffered.set(appointment_id=2)
    flusher(label)
    assert AppointmentMeta.objects.count() == 2
    forget_pruning()  # the minute is over
    loop(label)
    assert list(AppointmentMeta.objects.values_list("appointment_id", flat=True)) == [2]


def test_a_few_writes_a_second_are_few_batches(plain, configure):
    """All that waits in a shard goes with what is due of it."""
    configure(MAX_AGE=1)
    loop(seconds=0.1)

    def act() -> None:
        for n in range(300):
            Item.buffered.set(number=n % 150)
        loop(seconds=3)

    assert len(statements(act)) < 12
    assert list(AppliedBatch.objects.values_list("entries", flat=True)) == [150]
