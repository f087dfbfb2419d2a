"""What is wrong with the Redis, the databases and the flushers of a project, as they are now.

Redis, each database and Django-Q2 are examined in turn, each in a thread with connections of its
own, which is left behind where it hangs: the doctor comes to an end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import redis
from django.core import checks
from django.db import Error, connections

from writebehind_app import jobs, registry
from writebehind_app.checks import check_buffers, check_settings
from writebehind_app.declaration import Declaration
from writebehind_app.doctor import backlog, databases, django_q, redis_server
from writebehind_app.doctor.finding import Finding, error, warning
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.store import connection, server

__all__ = ["Finding", "check", "examine"]

_SECONDS = 10.0  # for each of them
_ANSWER = 1.5  # seconds for each answer of Redis

_Examinations = Mapping[str, Callable[..., Iterator[Finding]]]


def examine() -> list[Finding]:
    """Carry out all examinations. It never raises for what is away: that is a finding."""
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
    parts: dict[str, Callable[[], Iterator[Finding]]] = {"Redis": _redis}
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
            number = 101 if part is _redis else 120
            found = [*found, _away(number, name, f"no answer within {_SECONDS:g} s")]
        findings += found
    return findings


def check(**kwargs: Any) -> list[checks.CheckMessage]:
    """The findings, for `manage.py check --deploy`."""
    kinds = {"error": checks.Error, "warning": checks.Warning}
    return [
        kinds[finding.level](finding.what, hint=f"{finding.why} {finding.do}", id=finding.id)
        for finding in examine()
        if finding.level != "ok" and finding.id != "writebehind.E100"  # which is said by `check`
    ]


def _redis() -> Iterator[Finding]:
    is_explained = False  # why a script fails
    with server.sibling(connection.client(patient=True), _ANSWER) as client:
        try:
            try:
                server.connect(client)
            except redis.ResponseError as refusal:
                yield _refused(client, refusal)
                return
            server.ping(client)
            examined = redis_server.Examined(client, server.info(client))
            examinations = {
                name: examination
                for name, examination in redis_server.EXAMINATIONS.items()
                if examined.info or name not in redis_server.BY_INFO
            }
            for finding in _carried_out("Redis", examinations, examined):
                is_explained = is_explained or finding.level == "error"
                yield finding
            yield from _carried_out("Buffers", backlog.EXAMINATIONS, examined)
        except (redis.RedisError, BufferUnavailable) as problem:
            if not is_explained:
                yield _away(101, f"Redis at {server.address(client)}", str(problem))


def _refused(client: redis.Redis, refusal: redis.ResponseError) -> Finding:
    """The server takes no connection as the settings ask for it."""
    if "DB index" not in str(refusal):
        return _away(101, f"Redis at {server.address(client)}", str(refusal))
    return error(
        101,
        f"Redis at {server.address(client)} cannot be used: it has no database of that number.",
        "Each call is refused, and nothing can be flushed.",
        "Choose a number that exists in WRITEBEHIND['REDIS'], as 0: `databases` in the "
        "configuration of the server says how many there are.",
    )


def _database(examined: databases.Examined) -> Iterator[Finding]:
    name = f"The database {examined.using!r}"
    try:
        with connections[examined.using].cursor():  # away, or not
            pass
        yield from _carried_out(name, databases.EXAMINATIONS, examined)
    except Error as problem:
        password = str(connections.settings[examined.using].get("PASSWORD") or "")
        text = str(problem).strip()
        yield _away(120, name, text.replace(password, "***") if password else text)


def _django_q(so_far: Sequence[Finding]) -> Iterator[Finding]:
    examinations = {**django_q.EXAMINATIONS}
    if any(finding.id == "writebehind.W130" for finding in so_far):
        examinations["schedule"] = django_q.schedule
    try:
        yield from _carried_out("Django-Q2", examinations)
    except Error as problem:
        yield warning(
            146,
            f"The schedules of Django-Q2 cannot be read: {str(problem).strip()}",
            "Whether one of them flushes is not known.",
            "manage.py migrate django_q",
        )


def _carried_out(subject: str, examinations: _Examinations, *args: Any) -> Iterator[Finding]:
    for name, examination in examinations.items():
        yield from [*examination(*args)] or [Finding("", f"{subject}: {name}")]


def _away(number: int, name: str, problem: str) -> Finding:
    return error(
        number,
        f"{name} cannot be used: {problem}",
        "What is away takes no writes, and nothing can be flushed.",
        "Start it, or set right what the settings say of it: address, user, password.",
    )


def _started(part: Callable[[], Iterator[Finding]]) -> tuple[list[Finding], Future[None]]:
    """What it has found so far, and when it ends: it has a thread that nobody has to wait for."""
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
