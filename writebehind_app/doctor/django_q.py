"""Examinations of Django-Q2, where a project has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import connections

from writebehind_app import jobs, registry, schedules
from writebehind_app.doctor.finding import Finding, warning

_LOCAL = ("locmem.LocMemCache", "dummy.DummyCache")  # caches that other processes do not see


def timeouts() -> Iterator[Finding]:
    conf = jobs.conf()
    do = "Set Q_CLUSTER['timeout'] to more than a flush takes, and 'retry' to more than that."
    if not conf.TIMEOUT:
        yield warning(
            140,
            "Q_CLUSTER has no timeout.",
            "A task that hangs keeps its worker for ever; when all do, nobody flushes.",
            do,
        )
    elif conf.RETRY <= conf.TIMEOUT:
        yield warning(
            141,
            f"Q_CLUSTER['retry'] is {conf.RETRY} s, and 'timeout' {conf.TIMEOUT} s.",
            "A task that takes longer than `retry` is started once more while it runs.",
            do,
        )


def sync() -> Iterator[Finding]:
    if jobs.conf().SYNC:
        yield warning(
            142,
            "Q_CLUSTER['sync'] is on.",
            "Tasks run in the request that asks for them, which waits for the database.",
            "Take it out; it is for debugging.",
        )


def catching_up() -> Iterator[Finding]:
    if jobs.conf().CATCH_UP and _schedules():
        yield warning(
            143,
            "Q_CLUSTER['catch_up'] is on, as it is by default.",
            "When the cluster comes back from a pause, each flush that was missed is started; one "
            "is enough.",
            "Set it to False.",
        )


def workers() -> Iterator[Finding]:
    databases = {buffer.layout().using for buffer in registry.buffers().values()}
    on_sqlite = [using for using in databases if connections[using].vendor == "sqlite"]
    if on_sqlite and jobs.conf().WORKERS > 1 and _schedules():
        yield warning(
            144,
            f"{jobs.conf().WORKERS} workers of Django-Q2 can flush to SQLite at a time.",
            "SQLite takes one writer at a time: the others wait for its lock, and fail when that "
            "takes longer than the timeout of the database.",
            "Set Q_CLUSTER['workers'] to 1.",
        )


def cluster() -> Iterator[Finding]:
    if not _schedules() or not _is_seen():
        return
    from django_q.status import Stat

    try:
        running = Stat.get_all()
    except Exception as problem:  # noqa: BLE001 - each broker and cache has errors of its own
        yield warning(
            147,
            f"Whether a cluster of Django-Q2 runs cannot be seen: {type(problem).__name__}.",
            "The schedule that flushes needs one.",
            f"Look after the broker, or the cache {jobs.conf().CACHE!r}, in which clusters report.",
        )
        return
    if not running:
        yield warning(
            145,
            "There is a schedule that flushes, and no cluster of Django-Q2 runs.",
            "Nobody carries the schedule out.",
            "Run manage.py qcluster, as a service.",
        )
    else:
        workers = sum(len(one.workers) for one in running)
        yield Finding("", f"Django-Q2: clusters that run: {len(running)}, with workers: {workers}")


def _is_seen() -> bool:
    """Whether clusters report where this process can see it."""
    conf = jobs.conf()
    backend = str(settings.CACHES.get(conf.CACHE, {}).get("BACKEND", ""))
    shared = bool(backend) and not backend.endswith(_LOCAL)
    return bool(conf.REDIS or conf.DJANGO_REDIS) or shared


def schedule() -> Iterator[Finding]:
    """Carried out where entries wait: a project may flush without Django-Q2."""
    if not _schedules():
        yield warning(
            148,
            "Django-Q2 has no schedule that flushes, and entries wait.",
            "Nobody else seems to flush them.",
            "Run manage.py writebehind_schedule, or, as a service, flush_writebehind --loop.",
        )


def _schedules() -> list[Any]:
    """The schedules that flush."""
    from django_q.models import Schedule

    return list(filter(schedules.flushes, Schedule.objects.exclude(repeats=0)))


EXAMINATIONS = {
    "timeouts": timeouts,
    "sync": sync,
    "catch_up": catching_up,
    "workers": workers,
    "cluster": cluster,
}
