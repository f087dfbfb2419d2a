"""Measures what the package costs against what it replaces, as ratios within one process.

python -m pytest tests/performance/measure.py -s      (on every database there is)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import pytest
import redis

from writebehind_app.meta.models import TicketMeta

ROWS = 20_000


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def paired(one: Callable[[int], object], other: Callable[[int], object], times: int) -> float:
    """How many times as long `one` takes as `other`, alternating so that noise hits both."""
    firsts, seconds_ = [], []
    for n in range(times):
        started = time.perf_counter()
        one(n)
        between = time.perf_counter()
        other(n)
        firsts.append(between - started)
        seconds_.append(time.perf_counter() - between)
    print(
        f"  {statistics.median(firsts) * 1e6:.0f} µs against "
        f"{statistics.median(seconds_) * 1e6:.0f} µs"
    )
    return statistics.median(firsts) / statistics.median(seconds_)


def test_set_against_hset(plain):
    raw = redis.Redis.from_url(plain.url)

    def hset(n: int) -> None:
        raw.hset(f"raw:{n % 500}", mapping={"status": "open", "subject": f"s{n}", "category": "c"})

    def buffered(n: int) -> None:
        TicketMeta.buffered.set(ticket_id=n % 500, status="open", subject=f"s{n}", category="c")

    for n in range(600):
        hset(n), buffered(n)
    print(f"\nset() / raw hset: {paired(buffered, hset, 10_000):.2f}")
    raw.close()


def test_set_against_update_or_create(database, redis_server):
    def buffered(n: int) -> None:
        TicketMeta.buffered.set(ticket_id=n % 100, status="open", subject=f"s{n}", category="c")

    def orm(n: int) -> None:
        TicketMeta.objects.update_or_create(
            ticket_id=n % 100, defaults={"status": "open", "subject": f"s{n}", "category": "c"}
        )

    print(f"\nupdate_or_create / set() on {database}: {paired(orm, buffered, 1000):.1f}")


def ticket(n: int, word: str) -> TicketMeta:
    return TicketMeta(
        ticket_id=n,
        customer_id=n % 97,
        status="open",
        subject=f"{word} {n}",
        category="c",
        assigned_to="me",
        extra={"n": n},
    )


@pytest.mark.parametrize("kind", ["insert", "update"])
def test_flush_against_bulk_create(kind, database, redis_server):
    ratios = []
    fields = ["customer_id", "status", "subject", "category", "assigned_to", "extra", "updated_at"]
    mariadb = {} if database == "mariadb" else {"unique_fields": ["ticket_id"]}

    def bare(rows):
        TicketMeta.objects.bulk_create(rows, update_conflicts=True, update_fields=fields, **mariadb)

    for turn in range(3):
        if kind == "insert":
            TicketMeta.objects.all().delete()
        TicketMeta.buffered.set_many([ticket(n, f"buffered{turn}") for n in range(ROWS)])
        whole = seconds(TicketMeta.buffered.flush)
        assert TicketMeta.objects.get(ticket_id=7).subject == f"buffered{turn} 7"
        if kind == "insert":
            TicketMeta.objects.all().delete()
        rows = [ticket(n, "bare") for n in range(ROWS)]
        alone = seconds(partial(bare, rows))
        ratios.append(whole / alone)
        print(f"\n  {whole:.2f} s against {alone:.2f} s", end="")
    print(f"\nflush() / bulk_create, {kind}, {database}: {statistics.median(ratios):.2f}")
