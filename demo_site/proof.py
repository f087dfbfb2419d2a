"""A bounded run, and the proof that the database then has exactly what was written.

The same writes are done twice: through the buffer, with a flusher at work at the same time, and
with `update_or_create`, as a site without the buffer does them. Both take the same threads, and
every SQL statement is counted where it is executed.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Max
from django.utils import timezone

from demo_site.flusher import Flusher, drain
from demo_site.load import Write, changes, in_threads, opening, set_buffered
from writebehind_app.meta.models import TicketMeta

KEYS = 500
THREADS = 4

_FIRST_ID = 1_000_000  # far from the tickets of the site
_WRITTEN = ("customer_id", "status", "subject", "category", "assigned_to", "extra")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way to do the writes, measured."""

    accepted: int
    rows: int  # written to the database, as often as they were
    statements: int
    accepted_seconds: float  # until the last write had returned
    seconds: float  # until all of it was in the database
    differences: list[str]


def plan(writes: int, first_id: int) -> list[list[Write]]:
    """The writes of each thread. Each has tickets of its own, so that the last write is known."""
    parts = []
    for number in range(THREADS):
        ids = list(range(first_id + number, first_id + KEYS, THREADS))
        rng = random.Random(number)
        openings = [(id, opening(id)) for id in ids]
        count = writes // THREADS + (number < writes % THREADS)
        parts.append(list(itertools.islice(itertools.chain(openings, changes(rng, ids)), count)))
    return parts


def free_ids() -> int:
    """The first of the ids that no run has used. Call it when nothing is pending."""
    last = TicketMeta.objects.aggregate(last=Max("ticket_id"))["last"] or 0
    return max(last + 1, _FIRST_ID)


def run_buffered(parts: list[list[Write]]) -> Run:
    """The writes through the buffer; whatever the flusher has not got to is flushed at the end."""
    begun, started = timezone.now(), time.monotonic()
    flusher = Flusher(eager=True)
    flusher.start()
    try:
        in_threads(set_buffered, parts)
        accepted_seconds = time.monotonic() - started
    finally:
        flusher.end()
    flusher.result.add(drain())
    return Run(
        accepted=sum(map(len, parts)),
        rows=flusher.result.rows,
        statements=flusher.result.statements,
        accepted_seconds=accepted_seconds,
        seconds=time.monotonic() - started,
        differences=_differences(parts, since=begun),
    )


def run_direct(parts: list[list[Write]]) -> Run:
    """The writes one by one with `update_or_create`. The rows are deleted again."""
    begun, started = timezone.now(), time.monotonic()
    lock, statements = threading.Lock(), 0

    def update_or_create(writes: Iterable[Write]) -> None:
        nonlocal statements
        with _statements() as count:
            for ticket_id, values in writes:
                TicketMeta.objects.update_or_create(ticket_id=ticket_id, defaults=values)
        with lock:
            statements += count()

    try:
        in_threads(update_or_create, parts)
        seconds = time.monotonic() - started
        found = _differences(parts, since=begun)
    finally:
        TicketMeta.objects.filter(ticket_id__in=_expected(parts)).delete()
    return Run(
        accepted=sum(map(len, parts)),
        rows=sum(map(len, parts)),
        statements=statements,
        accepted_seconds=seconds,
        seconds=seconds,
        differences=found,
    )


def table(buffered: Run, direct: Run) -> str:
    """Both runs side by side."""
    lines = [
        ("", "buffered", "update_or_create", "ratio"),
        _row("writes accepted", buffered.accepted, direct.accepted, ratio=False),
        _row("rows written", buffered.rows, direct.rows),
        _row("SQL statements", buffered.statements, direct.statements),
        _row("seconds until accepted", buffered.accepted_seconds, direct.accepted_seconds),
        _row("seconds until stored", buffered.seconds, direct.seconds),
        _row("differences", len(buffered.differences), len(direct.differences), ratio=False),
    ]
    return "\n".join(f"{name:<24}{a:>12}{b:>20}{ratio:>12}" for name, a, b, ratio in lines)


def _row(name: str, a: float, b: float, *, ratio: bool = True) -> tuple[str, str, str, str]:
    style = ",.2f" if isinstance(a, float) else ",d"
    return name, format(a, style), format(b, style), f"1 : {b / a:.1f}" if ratio and a else ""


def _expected(parts: list[list[Write]]) -> dict[int, dict[str, Any]]:
    """What each ticket has to be, worked out from the writes alone."""
    fresh = {name: TicketMeta._meta.get_field(name).get_default() for name in _WRITTEN}
    tickets: dict[int, dict[str, Any]] = {}
    for ticket_id, values in itertools.chain.from_iterable(parts):
        tickets.setdefault(ticket_id, dict(fresh)).update(values)
    return tickets


def _differences(parts: list[list[Write]], *, since: datetime) -> list[str]:
    """Compares every row and every field of the database with what was written."""
    expected = _expected(parts)
    found = TicketMeta.objects.in_bulk(expected, field_name="ticket_id")
    differences = []
    for ticket_id, values in expected.items():
        row = found.get(ticket_id)
        if row is None:
            differences.append(f"ticket {ticket_id}: not in the database")
            continue
        for name, value in values.items():
            if getattr(row, name) != value:
                differences.append(
                    f"ticket {ticket_id}: {name} is {getattr(row, name)!r}, written was {value!r}"
                )
        # Valkey and we read the same clock, rounded differently.
        margin = timedelta(milliseconds=10)
        if not since - margin <= row.created_at <= row.updated_at <= timezone.now() + margin:
            differences.append(
                f"ticket {ticket_id}: created {row.created_at}, updated {row.updated_at}, in a run "
                f"that began {since}"
            )
    return differences


@contextmanager
def _statements() -> Iterator[Callable[[], int]]:
    """Counts the statements of this thread's connection."""
    count = 0

    def counted(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal count
        count += 1
        return execute(sql, params, many, context)

    with connection.execute_wrapper(counted):
        yield lambda: count
