"""The same writes and reads done in each way in turn, timed and counted.

All ways of a round come one after the other, in an order that changes, and a ratio is one of the
same round: what else the machine has to do hits both sides of it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.core.management.base import CommandError
from django.db import connections

from writebehind_app.bench.table import BUFFER, Hold, Row
from writebehind_app.store.connection import client

# By the name in the JSON, what is done. A write or a read is one of a single row.
WAYS = {
    "update_or_create": "update_or_create()",
    "bulk_create": "bulk_create(update_conflicts)",
    "set": "set()",
    "set_many": "set_many()",
    "flush": "flush() after set()",
    "flush_many": "flush() after set_many()",
    "hset": "HSET, by redis-py",
    "orm_get": "objects.get()",
    "get_pending": "get() of a pending row",
    "get_stored": "get() of a stored row",
}
# What takes so many times as long as what: the buffer is the second. Several are done one after the
# other.
RATIOS = (
    (("update_or_create",), ("set",)),
    (("update_or_create",), ("set_many",)),
    (("update_or_create",), ("set", "flush")),
    (("bulk_create",), ("set_many",)),
    (("bulk_create",), ("set_many", "flush_many")),
    (("bulk_create",), ("flush_many",)),
    (("orm_get",), ("get_pending",)),
    (("orm_get",), ("get_stored",)),
    (("hset",), ("set",)),
)
_STATUSES = ("open", "waiting", "solved")
_FIELDS = ("status", "subject", "quantity")
_TRANSACTION = ("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK")


class Stopped(Exception):
    """Somebody wants it to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    using: str
    rows: int
    writes: int  # to each row, in a round
    rounds: int

    @property
    def count(self) -> int:
        """Writes, and reads, of a round."""
        return self.rows * self.writes


@dataclass(slots=True)
class Measured:
    """One way, in all rounds."""

    rounds: list[float] = field(default_factory=list)  # seconds for a write, or a read, in each
    calls: list[float] = field(default_factory=list)  # seconds of each call, of all rounds
    statements: float = 0.0  # of SQL for a write, or a read
    trips: float = 0.0  # to Redis and back

    def percentile(self, share: float) -> float:
        """Seconds that so many of the calls took at most."""
        return sorted(self.calls)[math.ceil(share * len(self.calls)) - 1]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure, the median of the rounds, and the least and the greatest of them."""

    median: float
    least: float
    greatest: float


def spread(figures: Sequence[float]) -> Spread:
    return Spread(statistics.median(figures), min(figures), max(figures))


@dataclass(frozen=True, slots=True)
class Result:
    plan: Plan
    ways: dict[str, Measured]

    def seconds(self, *names: str) -> Spread:
        """How long these ways take for one write, one after the other."""
        return spread(self._rounds(names))

    def ratio(self, one: Iterable[str], other: Iterable[str]) -> Spread:
        """How many times as long the one takes as the other."""
        pairs = zip(self._rounds(one), self._rounds(other), strict=True)
        return spread([a / b for a, b in pairs])

    def _rounds(self, names: Iterable[str]) -> list[float]:
        return [sum(each) for each in zip(*(self.ways[n].rounds for n in names), strict=True)]


def measure(
    plan: Plan,
    hold: Hold,
    *,
    is_over: Callable[[], bool],
    progress: Callable[[int], None] = lambda round: None,
) -> Result:
    """Do all rounds; raises `Stopped` between two calls once `is_over()`."""
    run = _Run(plan, is_over)
    run.prepare()
    for number in range(plan.rounds + 1):
        progress(number)
        turn = number % len(run.parts)
        for part in (*run.parts[turn:], *run.parts[:turn]):
            hold.renew()
            part(number)
    return Result(plan, run.ways)


class _Run:
    def __init__(self, plan: Plan, is_over: Callable[[], bool]) -> None:
        self.plan = plan
        self.ways = {name: Measured() for name in WAYS}
        self.parts = (
            self._one_by_one,
            self._in_bulk,
            self._buffered,
            self._buffered_many,
            self._read,
            self._bare,
        )
        self._is_over = is_over
        self._objects = Row._default_manager.using(plan.using)
        features = connections[plan.using].features
        self._options: dict[str, Any] = {
            "update_conflicts": True,
            "update_fields": [*_FIELDS, "updated_at"],
        }
        if features.supports_update_conflicts_with_target:  # not so MariaDB
            self._options["unique_fields"] = ["number"]

    def prepare(self) -> None:
        """Have all rows there, so that all that is measured are changes, and Redis knows the
        scripts."""
        [values] = self._passes("first", 1)
        BUFFER.set_many(values)
        BUFFER.get(number=0)
        BUFFER.flush()

    # The first round is counted, and not timed: to count takes time.

    def _one_by_one(self, number: int) -> None:
        def write(values: dict[str, Any]) -> Callable[[], object]:
            key, defaults = values["number"], {name: values[name] for name in _FIELDS}
            return lambda: self._objects.update_or_create(number=key, defaults=defaults)

        passes = self._passes(f"o{number}")
        self._do("update_or_create", number, [write(v) for values in passes for v in values])
        self._check(passes)

    def _in_bulk(self, number: int) -> None:
        def write(values: list[dict[str, Any]]) -> Callable[[], object]:
            rows = [Row(**each) for each in values]
            return lambda: self._objects.bulk_create(rows, **self._options)

        passes = self._passes(f"b{number}")
        self._do("bulk_create", number, [write(values) for values in passes])
        self._check(passes)

    def _buffered(self, number: int) -> None:
        def write(values: dict[str, Any]) -> Callable[[], object]:
            return lambda: BUFFER.set(**values)

        passes = self._passes(f"s{number}")
        self._do("set", number, [write(v) for values in passes for v in values])
        self._get("get_pending", number)
        self._do("flush", number, [BUFFER.flush])
        self._get("get_stored", number)
        self._check(passes)

    def _buffered_many(self, number: int) -> None:
        def write(values: list[dict[str, Any]]) -> Callable[[], object]:
            return lambda: BUFFER.set_many(values)

        passes = self._passes(f"m{number}")
        self._do("set_many", number, [write(values) for values in passes])
        self._do("flush_many", number, [BUFFER.flush])
        self._check(passes)

    def _read(self, number: int) -> None:
        def read(key: int) -> Callable[[], object]:
            return lambda: self._objects.get(number=key)

        self._do("orm_get", number, [read(key) for key in self._keys()])

    def _bare(self, number: int) -> None:
        redis, key = client(), BUFFER.raw_key

        def write(values: dict[str, Any]) -> Callable[[], object]:
            name = f"{key}:{values['number']}"
            mapping: Any = {n: values[n] for n in _FIELDS}
            return lambda: redis.hset(name, mapping=mapping)

        self._do("hset", number, [write(v) for values in self._passes("h") for v in values])

    # Within one way

    def _get(self, way: str, number: int) -> None:
        def read(key: int) -> Callable[[], object]:
            return lambda: BUFFER.get(number=key)

        self._do(way, number, [read(key) for key in self._keys()])

    def _keys(self) -> list[int]:
        return [*range(self.plan.rows)] * self.plan.writes

    def _passes(self, word: str, passes: int | None = None) -> list[list[dict[str, Any]]]:
        """The values of the writes: every row once, and then again."""
        return [
            [
                {
                    "number": key,
                    "status": _STATUSES[(key + turn) % len(_STATUSES)],
                    "subject": f"{word}, {turn} of {key}",
                    "quantity": key + turn,
                }
                for key in range(self.plan.rows)
            ]
            for turn in range(passes or self.plan.writes)
        ]

    def _do(self, way: str, number: int, calls: list[Callable[[], object]]) -> None:
        measured = self.ways[way]
        times: list[float] = []
        if number == 0:
            with _counted(self.plan.using) as counts:
                self._each(calls, times)
            measured.statements = counts.statements / self.plan.count
            measured.trips = counts.trips / self.plan.count
        else:
            self._each(calls, times)
            measured.rounds.append(sum(times) / self.plan.count)
            measured.calls += times

    def _each(self, calls: list[Callable[[], object]], times: list[float]) -> None:
        clock = time.perf_counter
        for call in calls:
            if self._is_over():
                raise Stopped
            started = clock()
            call()
            times.append(clock() - started)

    def _check(self, passes: list[list[dict[str, Any]]]) -> None:
        """What is not stored was not measured either."""
        found = {row["number"]: row for row in self._objects.values("number", *_FIELDS)}
        if found != {values["number"]: values for values in passes[-1]}:
            raise CommandError("What is stored differs from what was written: report this mistake.")


@dataclass(slots=True)
class _Counts:
    statements: int = 0
    trips: int = 0


@contextmanager
def _counted(using: str) -> Iterator[_Counts]:
    """Counts statements, without those of transactions, and how often Redis is asked: for each
    time a connection is taken."""
    counts = _Counts()

    def statement(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        counts.statements += not sql.startswith(_TRANSACTION)
        return execute(sql, params, many, context)

    def counting(take: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            counts.trips += 1
            return take(*args, **kwargs)

        return counted

    places: list[tuple[object, str]] = []
    for found in (client(), client(patient=True)):
        places += [(found.links, "take"), (found.connection_pool, "get_connection")]
    for place, name in places:
        setattr(place, name, counting(getattr(place, name)))
    try:
        with connections[using].execute_wrapper(statement):
            yield counts
    finally:
        for place, name in places:
            delattr(place, name)  # the method of its class is there again
