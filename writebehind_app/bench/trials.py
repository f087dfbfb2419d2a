"""Run each workload in each way, with several clients at a time and a flusher beside them.

A trial is one workload in one way for some seconds. A round does all trials one after the other, in
an order that changes. A ratio compares two trials of the same round.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from django.conf import ENVIRONMENT_VARIABLE
from django.core.management.base import CommandError
from django.db import connections

from writebehind_app import conf
from writebehind_app.bench import tables, usage, workers
from writebehind_app.bench.process import Failure, Place, begin
from writebehind_app.bench.rounds import Spread, Stopped, percentile, spread
from writebehind_app.bench.tables import Hold
from writebehind_app.bench.workers import DONE, DRAIN, GO, READY, Report
from writebehind_app.bench.workloads import WORKLOADS, Order, fill

_SHARES = {"p50": 0.5, "p99": 0.99}
CACHE_SECONDS = 60
# By the name in the JSON: whether the ORM or the buffer is used, and for how long bases may answer
# reads.
ORM = "orm"
WAYS: dict[str, float | None] = {ORM: None, "buffer": 0, "buffer_cached": CACHE_SECONDS}


def ways() -> list[str]:
    """The ways in which workloads can be done here."""
    return [name for name, seconds in WAYS.items() if not seconds or tables.has_bases()]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    using: str
    workloads: tuple[str, ...]
    clients: int
    records: int
    seconds: float  # of a trial, without its drain
    rounds: int


# The figures of a workload. The first is better when it is more, the others when they are less.
OPERATIONS = "operations"
FIGURES = (
    OPERATIONS,
    "read_p50",
    "read_p99",
    "write_p50",
    "write_p99",
    "cpu_clients",
    "cpu_flusher",
    "cpu_database",
    "cpu_redis",
)
COMPARED = (*FIGURES[:5], "cpu_database")


@dataclass(slots=True)
class Trials:
    """The figures of one workload in one way, of all rounds."""

    # By name, one figure for each round: operations a second, the drain included, or seconds of an
    # operation. A figure is missing if there is no such operation, or the server does not tell.
    figures: dict[str, list[float]] = field(default_factory=dict)
    statements: float = 0.0  # of SQL for an operation, those of the flusher included
    trips: float = 0.0  # round trips to Redis
    operations: int = 0  # of all rounds
    failed: int = 0

    def spread(self, name: str) -> Spread | None:
        return spread(self.figures[name]) if name in self.figures else None


@dataclass(frozen=True, slots=True)
class TrialResult:
    plan: TrialPlan
    trials: dict[str, dict[str, Trials]]  # by workload and way

    def ratio(self, workload: str, way: str, name: str) -> Spread | None:
        """The figure of this way divided by that of the ORM."""
        found = [self.trials[workload][each].figures.get(name) for each in (way, ORM)]
        if not found[0] or not found[1] or not all(found[1]):
            return None
        return spread([a / b for a, b in zip(found[0], found[1], strict=True)])


def measure(
    plan: TrialPlan,
    hold: Hold,
    *,
    is_over: Callable[[], bool],
    progress: Callable[[str], None] = lambda text: None,
) -> TrialResult:
    """Do all rounds. Raise `Stopped` soon after `is_over()`."""
    fill(plan.using, plan.records)
    names = ways()
    result = TrialResult(plan, {w: {name: Trials() for name in names} for w in plan.workloads})
    number = 0
    with crew(plan, is_over) as act:
        for turn in range(plan.rounds + 1):
            for workload in plan.workloads:
                first = turn % len(names)
                for way in (*names[first:], *names[:first]):
                    hold.renew()
                    number += 1
                    of = f"round {turn} of {plan.rounds}" if turn else "warming up"
                    progress(f"{of}: {workload}, {way}")
                    act(number, workload, way, result.trials[workload][way], is_counted=not turn)
    return result


@contextmanager
def crew(plan: TrialPlan, is_over: Callable[[], bool]) -> Iterator[Callable[..., None]]:
    """Start the processes, and give a function that does a trial with them."""
    if ENVIRONMENT_VARIABLE not in os.environ:
        raise CommandError(
            f"The clients are processes of their own, and {ENVIRONMENT_VARIABLE} does not say "
            "which settings are theirs."
        )
    connection: Any = connections[plan.using]
    connection.ensure_connection()
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        raise CommandError("A database in memory is there for no other process.")
    place = Place(plan.using, connection.settings_dict, conf.raw(), tables.prefix(plan.using))
    # Not by a fork, which would share the sockets of this process.
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        for work in [workers.be_client] * plan.clients + [workers.be_flusher]:
            ours, theirs = context.Pipe()
            process = context.Process(target=begin, args=(theirs, place), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
            with suppress(OSError):
                ours.send(work)
        yield partial(_trial, plan, pipes, is_over)
    finally:
        for process in processes:
            process.kill()  # its work is dropped
        for process in processes:
            process.join()
            process.close()
        for pipe in pipes:
            pipe.close()


def _trial(
    plan: TrialPlan,
    pipes: Sequence[Connection],
    is_over: Callable[[], bool],
    number: int,
    name: str,
    way: str,
    trials: Trials,
    *,
    is_counted: bool,
) -> None:
    """Do one trial, check what is stored after it, and note its figures."""

    def hear(pipe: Connection) -> Any:
        while not pipe.poll(0.1):
            if is_over():
                raise Stopped
        try:
            heard = pipe.recv()
        except (EOFError, OSError):
            raise CommandError("A process of the measurement has ended.") from None
        if isinstance(heard, Failure):
            raise CommandError(f"A process of the measurement failed.\n{heard.text}")
        return heard

    def say(pipe: Connection, what: Any) -> None:
        with suppress(OSError):  # the process has ended
            pipe.send(what)

    def everybody(pipes: Sequence[Connection], word: str) -> None:
        for pipe in pipes:
            heard = hear(pipe)
            assert heard == word, heard

    workload = WORKLOADS[name]
    before = workload.prepare(plan.using)
    tables.remove_bases(plan.records)  # they are older than what the ORM wrote since
    if seconds_of_bases := WAYS[way]:
        tables.fill_bases(workload.models, plan.records, seconds_of_bases)
    order = Order(
        name, WAYS[way], number, 0, plan.using, plan.records, plan.seconds, is_counted=is_counted
    )
    *clients, flusher = pipes
    working = pipes if order.is_buffered else clients
    for n, pipe in enumerate(working):
        say(pipe, replace(order, client=n))
    everybody(working, READY)
    used = usage.of_database(plan.using), usage.of_redis()
    started = time.perf_counter()
    for pipe in working:
        say(pipe, GO)
    everybody(clients, DONE)
    if order.is_buffered:
        say(flusher, DRAIN)
        everybody([flusher], DONE)
    seconds = time.perf_counter() - started
    now = usage.of_database(plan.using), usage.of_redis()
    reports: list[Report] = [hear(pipe) for pipe in working]
    workload.check(plan.using, before, [report.done for report in reports[: plan.clients]])
    _note(trials, reports, plan.clients, seconds, used, now, is_counted=is_counted)


def _note(
    trials: Trials,
    reports: Sequence[Report],
    clients: int,
    seconds: float,
    used: Sequence[float | None],
    now: Sequence[float | None],
    *,
    is_counted: bool,
) -> None:
    reads = sorted(time for report in reports for time in report.reads)
    writes = sorted(time for report in reports for time in report.writes)
    count = len(reads) + len(writes)
    if not count:
        raise CommandError("No client came to the end of a call: give them more --seconds.")
    if is_counted:  # counting takes time
        trials.statements = sum(report.counts.statements for report in reports) / count
        trials.trips = sum(report.counts.trips for report in reports) / count
        return
    found: dict[str, float | None] = {
        OPERATIONS: count / seconds,
        "cpu_clients": sum(report.cpu for report in reports[:clients]) / count,
        "cpu_flusher": sum(report.cpu for report in reports[clients:]) / count,
    }
    for kind, times in {"read": reads, "write": writes}.items():
        if times:
            found |= {f"{kind}_{n}": percentile(times, share) for n, share in _SHARES.items()}
    for server, (first, last) in zip(
        ("database", "redis"), zip(used, now, strict=True), strict=True
    ):
        if first is not None and last is not None:
            found[f"cpu_{server}"] = (last - first) / count
    for name, value in found.items():
        if value is not None:
            trials.figures.setdefault(name, []).append(value)
    trials.operations += count
    trials.failed += sum(report.failed for report in reports)
