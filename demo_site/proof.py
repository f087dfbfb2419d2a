"""A bounded run, and the proof that the database then has exactly what was written.

The same writes are done twice: through the buffer, with a flusher at work at the same time, and
one by one through the ORM, as a site without the buffer does them. Both take the same threads, and
every SQL statement is counted where it is executed.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import quantiles
from typing import Any

from django.conf import settings
from django.db import connection, connections
from django.test.utils import override_settings
from django.utils import timezone

from demo_site.flusher import Flusher, drain
from demo_site.systems.base import System, Write

KEYS = 100  # of each system
THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The writes of one thread. It has keys of its own, so that the last write is known."""

    keys: Sequence[Any]
    writes: list[Write]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way to do the writes, measured."""

    writes: int
    rows: int  # written to the database, each as often as it was
    statements: int
    seconds: float  # until all of it was in the database
    calls: list[float]  # the seconds that each write took its caller
    differences: list[str]


def reading() -> str:
    """How to read the table."""
    of_sqlite = (
        " A commit costs SQLite next to nothing, so that p50 of the ORM may be the smaller one; "
        "p99 has the waits for its lock."
    )
    return (
        f"How to read it: both did the same writes from {THREADS} threads. `buffered` is through "
        "the buffer, while a flusher works beside it; `ORM` is one by one. Rows and statements are "
        "what the database has to do, ms per call is what a caller waits."
        + (of_sqlite if connection.vendor == "sqlite" else "")
    )


def run(system: System, writes: int) -> tuple[Run, Run]:
    """The writes done through the buffer, and the same on other keys through the ORM."""
    buffered = run_buffered(system, plan(system, writes))
    # The second keys are looked for once nothing of the first is pending any more.
    with without_buffer():
        return buffered, run_directly(system, plan(system, writes))


def without_buffer() -> AbstractContextManager[None]:
    """As on a site without it, save() does not look for pending writes in Redis."""
    return override_settings(WRITEBEHIND={**settings.WRITEBEHIND, "ORM": "ignore"})


def plan(system: System, writes: int, *, keys: int = KEYS, threads: int = THREADS) -> list[Plan]:
    """For each thread the same writes every time, but for the keys."""
    fresh = system.fresh(keys)
    plans = []
    for number in range(threads):
        own = fresh[number::threads]
        count = writes // threads + (number < writes % threads)
        endless = itertools.chain(system.openings(own), system.changes(random.Random(number), own))
        plans.append(Plan(keys=own, writes=list(itertools.islice(endless, count))))
    return plans


def run_buffered(system: System, plans: list[Plan]) -> Run:
    """The writes through the buffer; whatever the flusher has not got to is flushed at the end."""
    begun, started = timezone.now(), time.monotonic()
    flusher = Flusher()
    flusher.start()
    try:
        counted = _in_threads(system.write, plans)
    finally:
        flusher.end()
    flusher.result.add(drain())
    return Run(
        writes=_count(plans),
        rows=flusher.result.rows,
        statements=counted.statements + flusher.result.statements,
        seconds=time.monotonic() - started,
        calls=counted.calls,
        differences=_differences(system, plans, since=begun),
    )


def run_directly(system: System, plans: list[Plan], *, rate: float = 0) -> Run:
    """The writes one by one through the ORM, so many a second. The rows are deleted again."""
    begun, started = timezone.now(), time.monotonic()
    try:
        counted = _in_threads(system.write_directly, plans, rate=rate)
        seconds = time.monotonic() - started
        found = _differences(system, plans, since=begun)
    finally:
        for part in plans:
            system.remove(part.keys)
    return Run(
        writes=_count(plans),
        rows=counted.rows,
        statements=counted.statements,
        seconds=seconds,
        calls=counted.calls,
        differences=found,
    )


def table(runs: dict[str, tuple[Run, Run]]) -> str:
    """Of each system both runs side by side, and all of them together."""
    lines = [
        "",
        f"{'':14}{'':>8}{'rows written':>18}{'SQL statements':>20}{'seconds until stored':>24}",
        f"{'':14}{'writes':>8}{'buffered':>10}{'ORM':>8}{'buffered':>11}{'ORM':>9}"
        f"{'buffered':>12}{'ORM':>8}{'':>9}{'differences':>14}",
    ]
    sums = [_sum(both) for both in zip(*runs.values(), strict=True)]
    for title, (buffered, direct) in {**runs, "All": (sums[0], sums[1])}.items():
        faster = f"{direct.seconds / buffered.seconds:.1f} x"
        lines.append(
            f"{title:14}{buffered.writes:8,}{buffered.rows:10,}{direct.rows:8,}"
            f"{buffered.statements:11,}{direct.statements:9,}"
            f"{buffered.seconds:12.2f}{direct.seconds:8.2f}{faster:>9}"
            f"{len(buffered.differences) + len(direct.differences):14,}"
        )
    lines += [
        "",
        f"{'ms per call':14}{'p50':>18}{'p99':>20}",
        f"{'':14}{'buffered':>10}{'ORM':>8}{'buffered':>12}{'ORM':>8}",
    ]
    for title, both in {**runs, "All": (sums[0], sums[1])}.items():
        (p50, p99), (orm_p50, orm_p99) = (_percentiles(run.calls) for run in both)
        lines.append(f"{title:14}{p50:10.2f}{orm_p50:8.2f}{p99:12.2f}{orm_p99:8.2f}")
    return "\n".join(lines)


def _percentiles(calls: Sequence[float]) -> tuple[float, float]:
    """The 50th and the 99th, in milliseconds."""
    found = quantiles(calls, n=100)
    return 1000 * found[49], 1000 * found[98]


def _sum(runs: Iterable[Run]) -> Run:
    every = list(runs)
    return Run(
        writes=sum(run.writes for run in every),
        rows=sum(run.rows for run in every),
        statements=sum(run.statements for run in every),
        seconds=sum(run.seconds for run in every),
        calls=[seconds for run in every for seconds in run.calls],
        differences=[line for run in every for line in run.differences],
    )


def _count(plans: list[Plan]) -> int:
    return sum(len(part.writes) for part in plans)


def _in_threads(
    write: Callable[[Any, dict[str, Any]], None], plans: list[Plan], *, rate: float = 0
) -> _Counter:
    """Do each plan in a thread of its own, and count what they sent to the database. With `rate`,
    each thread makes so many writes a second.

    An error, or a Ctrl-C, ends them all.
    """
    ending = threading.Event()

    def work(part: Plan) -> _Counter:
        counter = _Counter()
        try:
            with connection.execute_wrapper(counter):
                begun = time.monotonic()
                for number, (key, values) in enumerate(part.writes):
                    due = begun + number / rate if rate else 0
                    if ending.wait(max(0, due - time.monotonic())):
                        break
                    started = time.perf_counter()
                    write(key, values)
                    counter.calls.append(time.perf_counter() - started)
            return counter
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(plans)) as pool:
        try:
            done = [d.result() for d in as_completed(pool.submit(work, part) for part in plans)]
        finally:
            ending.set()
    return _Counter(
        sum(each.statements for each in done),
        sum(each.rows for each in done),
        [seconds for each in done for seconds in each.calls],
    )


def _differences(system: System, plans: list[Plan], *, since: datetime) -> list[str]:
    """Compares every row and every field of the database with what was written."""
    differences = []
    for part in plans:
        expected = system.expected(part.writes)
        found = {system.name(row): row for row in system.rows(part.keys)}
        for name in expected.keys() - found.keys():
            differences.append(f"{name}: not in the database")
        for name in found.keys() - expected.keys():
            differences.append(f"{name}: in the database, and was never written")
        for name in expected.keys() & found.keys():
            differences += _in_row(name, found[name], expected[name])
            times = [getattr(found[name], field) for field in system.dated]
            differences += _in_times(name, times, since)
        if system.ordered and list(found) != list(expected):
            differences.append(f"{system.title}: the rows are not in the order of the writes")
    return sorted(differences)


def _in_row(name: str, row: Any, expected: dict[str, Any]) -> Iterator[str]:
    for column, value in expected.items():
        if getattr(row, column) != value:
            yield f"{name}: {column} is {getattr(row, column)!r}, written was {value!r}"


def _in_times(name: str, times: list[datetime], since: datetime) -> Iterator[str]:
    margin = timedelta(milliseconds=10)  # Valkey and we read the same clock, rounded differently
    moments = [since - margin, *times, timezone.now() + margin]
    if moments != sorted(moments):
        yield f"{name}: dated {', '.join(map(str, times))}, in a run that began {since}"


@dataclass(slots=True)
class _Counter:
    """Counts what goes through the connection of a thread."""

    statements: int = 0
    rows: int = 0  # written
    calls: list[float] = field(default_factory=list)  # seconds

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self.statements += 1
        result = execute(sql, params, many, context)
        if sql.startswith("INSERT"):
            self.rows += 1  # SQLite knows only once the new primary key was fetched
        elif sql.startswith(("UPDATE", "DELETE")):
            self.rows += context["cursor"].rowcount
        return result
