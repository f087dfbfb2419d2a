"""Find what is wrong with the Redis, the databases and the flushers of a project.

Redis, each database and Django-Q2 are examined one after the other, each in a thread with its own
connections. If one of them hangs, its thread is left behind, and the doctor goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import redis
from django.core import checks
from django.db import Error, connections
from redis.sentinel import SentinelConnectionPool

from writebehind_app import jobs, registry
from writebehind_app.checks import check_buffers, check_settings
from writebehind_app.declaration import Declaration
from writebehind_app.doctor import backlog, cluster, databases, django_q, redis_server, sentinel
from writebehind_app.doctor.finding import Finding, error, warning
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.store import connection, server
from writebehind_app.store.client import Client
from writebehind_app.store.cluster_client import ClusterClient
from writebehind_app.store.failures import reason

__all__ = ["Finding", "check", "examine"]

_SECONDS = 10.0  # for all examinations of one of them
_ANSWER = 1.5  # seconds, for each answer of Redis
_REDIS_AWAY = "writebehind.E101"

_Examinations = Mapping[str, Callable[..., Iterator[Finding]]]


def examine() -> list[Finding]:
    """Carry out all examinations. If a server is away, that is a finding, and not an error."""
    wrong = [*check_settings(), *check_buffers()]
    if ids := sorted({str(m.id) for m in wrong if isinstance(m, checks.Error)}):
        return [
            error(
                100,
                f"Settings or declarations are wrong: {', '.join(ids)}.",
                "Nothing else can be examined before they are right.",
                "See manage.py check.",
            )
        ]
    parts = _parts_of_redis()
    by_database: dict[str, list[Declaration]] = {}
    for buffer in registry.buffers().values():
        by_database.setdefault(buffer.layout().using, []).append(buffer)
    for using, buffers in sorted(by_database.items()):
        examined = databases.Examined(using, buffers)
        parts[f"The database {using!r}"] = partial(_database, examined)
    findings: list[Finding] = []
    if jobs.is_installed():
        parts["Django-Q2"] = partial(_django_q, findings)
    for name, part in parts.items():
        found, end = _started(part)
        try:
            end.result(_SECONDS)
        except TimeoutError:
            number = 101 if name.startswith("Redis") else 120
            found = [*found, _away(number, name, f"no answer within {_SECONDS:g} s")]
        findings += found
    return findings


def check(**kwargs: Any) -> list[checks.CheckMessage]:
    """Return the findings, for `manage.py check --deploy`."""
    kinds = {"error": checks.Error, "warning": checks.Warning}
    return [
        kinds[finding.level](finding.what, hint=f"{finding.why} {finding.do}", id=finding.id)
        for finding in examine()
        if finding.level != "ok" and finding.id != "writebehind.E100"  # `check` itself says that
    ]


def _parts_of_redis() -> dict[str, Callable[[], Iterator[Finding]]]:
    """The examinations of each Redis, with the buffers that are on it."""
    known = connection.client(patient=True)
    every: dict[Client, list[Declaration]] = {each: [] for each in known.servers()}
    for buffer in registry.buffers().values():
        every[known.server_of(buffer.redis_key())].append(buffer)
    if len(every) == 1:
        return {"Redis": partial(_redis, *every.popitem())}
    return {
        f"Redis {number}, at {server.address(each)}": partial(_named, each, buffers)
        for number, (each, buffers) in enumerate(every.items(), 1)
    }


def _named(known: Client, buffers: Collection[Declaration]) -> Iterator[Finding]:
    """The findings about one Redis of several say which one, unless they are about a buffer."""
    labels = ", ".join(buffer.label for buffer in buffers) or "no buffer"
    for finding in _redis(known, buffers):
        what = finding.what if finding.buffer else f"{server.address(known)}: {finding.what}"
        why = f"{finding.why} On it: {labels}." if finding.id == _REDIS_AWAY else finding.why
        yield replace(finding, what=what, why=why)


def _redis(known: Client, buffers: Collection[Declaration]) -> Iterator[Finding]:
    is_explained = False  # whether an earlier error explains why Redis fails
    with server.sibling(known, _ANSWER) as client:
        try:
            of_redis: Collection[str] = redis_server.EXAMINATIONS
            if isinstance(client, ClusterClient):
                of_redis = cluster.OF_REDIS
                found = [*_carried_out("Cluster", cluster.EXAMINATIONS, client, buffers)]
                yield from found
                if any(finding.id == cluster.AWAY for finding in found):
                    return
            try:
                server.connect(client)
            except redis.ResponseError as refusal:
                yield _refused(client, refusal)
                return
            server.ping(client)
            examined = redis_server.Examined(client, server.info(client), buffers)
            if isinstance(client.connection_pool, SentinelConnectionPool):
                found = [*_carried_out("Sentinel", sentinel.EXAMINATIONS, examined)]
                yield from found
                if any(finding.id == sentinel.NO_MASTER for finding in found):
                    return
            examinations = {
                name: redis_server.EXAMINATIONS[name]
                for name in of_redis
                if examined.info or name not in redis_server.BY_INFO
            }
            for finding in _carried_out("Redis", examinations, examined):
                is_explained = is_explained or finding.level == "error"
                yield finding
            yield from _carried_out("Buffers", backlog.EXAMINATIONS, examined)
        except (redis.RedisError, BufferUnavailable) as problem:
            if not is_explained:
                yield _away(101, f"Redis at {server.address(client)}", reason(problem))


def _refused(client: redis.Redis, refusal: redis.ResponseError) -> Finding:
    """Return the finding for a server that refuses the connection."""
    if "DB index" not in str(refusal):
        return _away(101, f"Redis at {server.address(client)}", str(refusal))
    return error(
        101,
        f"Redis at {server.address(client)} cannot be used: it has no database of that number.",
        "Each call is refused, and nothing can be flushed.",
        "Choose a number that exists, as 0, in WRITEBEHIND['REDIS']: `databases` in the "
        "configuration of the server says how many there are.",
    )


def _database(examined: databases.Examined) -> Iterator[Finding]:
    name = f"The database {examined.using!r}"
    try:
        with connections[examined.using].cursor():  # fails if the database is away
            pass
        yield from _carried_out(name, databases.possible(examined), examined)
    except Error as problem:
        password = str(connections.settings[examined.using].get("PASSWORD") or "")
        text = str(problem).strip()
        yield _away(120, name, text.replace(password, "***") if password else text)


def _django_q(so_far: Sequence[Finding]) -> Iterator[Finding]:
    examinations = {**django_q.EXAMINATIONS}
    ids = {finding.id for finding in so_far}
    if "writebehind.W130" in ids:
        examinations["schedule"] = django_q.schedule
        if "writebehind.W133" not in ids:  # a failed batch shows that somebody flushes
            examinations["ticks"] = django_q.stuck
    try:
        yield from _carried_out("Django-Q2", examinations)
    except Error as problem:
        yield warning(
            146,
            f"The schedules of Django-Q2 cannot be read: {str(problem).strip()}",
            "The doctor cannot say whether one of them flushes.",
            "manage.py migrate django_q",
        )


def _carried_out(subject: str, examinations: _Examinations, *args: Any) -> Iterator[Finding]:
    for name, examination in examinations.items():
        yield from [*examination(*args)] or [Finding("", f"{subject}: {name}")]


def _away(number: int, name: str, problem: str) -> Finding:
    return error(
        number,
        f"{name} cannot be used: {problem}",
        "It takes no writes, and nothing can be flushed.",
        "Start it, or correct its address, user and password in the settings.",
    )


def _started(part: Callable[[], Iterator[Finding]]) -> tuple[list[Finding], Future[None]]:
    """Start examinations in a thread. Return the list that they fill, and a future of their end."""
    findings: list[Finding] = []
    future: Future[None] = Future()

    def run() -> None:
        try:
            findings.extend(part())
            future.set_result(None)
        except BaseException as problem:  # noqa: BLE001 - result() raises it
            future.set_exception(problem)
        finally:
            connections.close_all()

    threading.Thread(target=run, name="writebehind-doctor", daemon=True).start()
    return findings, future
