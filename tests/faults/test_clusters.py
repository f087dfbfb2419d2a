"""Real clusters of Django-Q2, with the real schedules."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule

from tests.cluster import Cluster
from tests.models import Item
from writebehind_app import Add, schedules
from writebehind_app.meta.models import TicketMeta
from writebehind_app.meta.services import open_ticket, update_ticket
from writebehind_app.models import AppliedBatch

pytestmark = pytest.mark.cluster

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
two_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
MAX_AGE = 1.0
LEASE = 1.0
TIMEOUT = 6
SECONDS = float(os.environ.get("WRITEBEHIND_TEST_CLUSTER_SECONDS", "10"))  # of load


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    clusters: list[Cluster] = []

    def start(**options: Any) -> Cluster:
        clusters.append(Cluster(tmp_path / f"cluster{len(clusters)}.log", **options))
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.end()
    OrmQ.objects.all().delete()


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


@on_valkey
@two_databases
class TestClusters:
    """Scenario 43: two clusters, a worker timed out in the middle, the same task twice."""

    def test_all_is_stored_in_time_and_once(self, database, redis_server, configure, start_cluster):
        configure(MAX_AGE=MAX_AGE, LEASE=LEASE)
        schedules.make()
        clusters = [start_cluster(workers=3, timeout=TIMEOUT, retry=7) for _ in range(2)]
        wait_until_it_runs()  # long before the first tick of the clock, which is after 30 s

        written: dict[int, int] = {}
        begun, faults = time.time(), 0
        # Times at which batches may have been late; the first one waited for the clusters to start.
        excused = [(0.0, begun)]
        rng = random.Random(1)
        while (now := time.time()) < begun + SECONDS:
            key = rng.randrange(200)
            Item.buffered.set(number=key, a=Add(1))
            written[key] = written.get(key, 0) + 1
            if faults == 0 and now > begun + SECONDS * 0.2:
                faults += kill_a_worker(clusters)
                excused.append((now, now + LEASE + 3))
            if faults == 1 and now > begun + SECONDS * 0.5:
                clusters[0].hang.touch()
                faults += 1
                excused.append((now, now + TIMEOUT + LEASE + 5))
            time.sleep(0.004)
        wait_for(lambda: not Item.buffered.count_pending())

        assert dict(Item.objects.values_list("number", "a")) == written
        late = {
            batch.applied_at.timestamp(): (batch.applied_at - batch.oldest_at).total_seconds()
            for batch in AppliedBatch.objects.all()
        }
        too_late = [
            (round(at - begun, 2), age)
            for at, age in late.items()
            if age >= MAX_AGE + 2 and not any(since < at < until for since, until in excused)
        ]
        assert not too_late, [(since - begun, until - begun) for since, until in excused]
        assert Schedule.objects.count() == 2
        # A slow machine may not have begun the job that hangs: the next tick begins it.
        wait_for(lambda: any("after timeout" in c.output for c in clusters), seconds=60)
        started = time.monotonic()
        clusters[0].end()
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("broker", ["orm", "redis"])
def test_a_resolved_ticket_is_stored_within_a_second(
    plain, configure, start_cluster, monkeypatch, broker
):
    configure(MAX_AGE=60)
    options = {"orm": None, "redis": plain.url.replace("/0", "/3")} if broker == "redis" else {}
    for name, value in options.items():
        monkeypatch.setattr(Conf, name.upper(), value)
    schedules.make()
    for number in range(5):
        open_ticket(number)
    TicketMeta.buffered.flush()
    cluster = start_cluster(timeout=TIMEOUT, **options)
    cluster.wait_for("flush_due")
    seconds = []
    for number in range(5):
        started = time.monotonic()
        update_ticket(number, status="resolved")
        wait_for(TicketMeta.objects.filter(ticket_id=number, status="resolved").exists)
        seconds.append(time.monotonic() - started)
    assert statistics.median(seconds) < 1


def kill_a_worker(clusters: list[Cluster]) -> bool:
    """In the middle of a tick; whether there was one."""
    for pid in filter(None, (cluster.ticking for cluster in clusters)):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def wait_until_it_runs() -> None:
    Item.buffered.set(number=-1)
    wait_for(lambda: Item.objects.filter(number=-1).exists())
    Item.objects.all().delete()
