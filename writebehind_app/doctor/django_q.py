"""Examinations of Django-Q2, if the project uses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import connections

from writebehind_app import jobs, registry, schedules
from writebehind_app.doctor.finding import Finding, warning


def timeouts() -> Iterator[Finding]:
    conf = jobs.conf()
    do = "Set Q_CLUSTER['timeout'] to more than a flush takes, and 'retry' to more than that."
    if not conf.TIMEOUT:
        yield warning(
            140,
            "Q_CLUSTER has no timeout.",
            "A task that hangs keeps its worker for ever. If all hang, nobody flushes.",
            do,
        )
    elif conf.RETRY <= conf.TIMEOUT:
        yield warning(
            141,
            f"Q_CLUSTER['retry'] is {conf.RETRY} s, and 'timeout' {conf.TIMEOUT} s.",
            "A task that takes longer than `retry` starts once more while it runs.",
            do,
        )


def sync() -> Iterator[Finding]:
    if jobs.conf().SYNC:
        yield warning(
            142,
            "Q_CLUSTER['sync'] is on.",
            "A task runs in the request that asks for it, which then waits for the database.",
            "Remove it: it is for debugging.",
        )


def catching_up() -> Iterator[Finding]:
    if jobs.conf().CATCH_UP and _schedules():
        yield warning(
            143,
            "Q_CLUSTER['catch_up'] is on, as it is by default.",
            "After a pause, the cluster starts each flush that it missed. One is enough.",
            "Set it to False.",
        )


def workers() -> Iterator[Finding]:
    databases = {buffer.layout().using for buffer in registry.buffers().values()}
    on_sqlite = [using for using in databases if connections[using].vendor == "sqlite"]
    if on_sqlite and jobs.conf().WORKERS > 1 and _schedules():
        yield warning(
            144,
            f"{jobs.conf().WORKERS} workers of Django-Q2 can flush to SQLite at a time.",
            "SQLite takes one writer at a time. The others wait for its lock, and fail after the "
            "timeout of the database.",
            "Set Q_CLUSTER['workers'] to 1.",
        )


def cluster() -> Iterator[Finding]:
    if not _schedules():
        return
    try:
        running = jobs.clusters()
    except Exception as problem:  # noqa: BLE001 - each broker and cache has errors of its own
        yield warning(
            147,
            f"The doctor cannot see whether a cluster of Django-Q2 runs: {type(problem).__name__}.",
            "The schedule that flushes needs one.",
            f"Check the broker, or the cache {jobs.conf().CACHE!r}, in which clusters report.",
        )
        return
    if running is None:
        return
    if not running:
        yield warning(
            145,
            "There is a schedule that flushes, but no cluster of Django-Q2 runs.",
            "Nobody runs the schedule.",
            "Run manage.py qcluster, as a service.",
        )
    else:
        workers = sum(len(one.workers) for one in running)
        yield Finding("", f"Django-Q2: clusters that run: {len(running)}, with workers: {workers}")


def schedule() -> Iterator[Finding]:
    """Only run if entries wait too long: a project may flush without Django-Q2."""
    if not _schedules():
        yield warning(
            148,
            "Django-Q2 has no schedule that flushes, and entries wait.",
            "Nobody else seems to flush them.",
            "Run manage.py writebehind_schedule, or, as a service, flush_writebehind --loop.",
        )


def stuck() -> Iterator[Finding]:
    """Only run if entries wait too long."""
    if schedules.is_stuck():
        yield warning(
            149,
            schedules.STUCK,
            "A worker that was killed while it waited may hold the lock of the queue. Then no task "
            "starts any more. Or all workers are busy with other tasks.",
            "End the cluster with SIGKILL and start it again. Nothing is lost meanwhile.",
        )


def _schedules() -> list[Any]:
    """Return the schedules that flush."""
    from django_q.models import Schedule

    return list(filter(schedules.flushes, Schedule.objects.exclude(repeats=0)))


EXAMINATIONS = {
    "timeouts": timeouts,
    "sync": sync,
    "catch_up": catching_up,
    "workers": workers,
    "cluster": cluster,
}
