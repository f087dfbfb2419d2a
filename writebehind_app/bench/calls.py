"""Time and count the same writes and reads, done in different ways.

A round does all ways one after the other, in an order that changes. A ratio compares two ways of
the same round: other work of the machine slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from django.core.management.base import CommandError
from django.db import connections

from writebehind_app.bench.counting import counted
from writebehind_app.bench.rounds import Spread, Stopped, percentile, spread
from writebehind_app.bench.tables import BUFFER, Hold, Row
from writebehind_app.store.connection import client

# Each way, by its name in the JSON. A write or a read is of a single row.
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
# The ratios: how many times as long the first takes as the second, which is the buffer. Several
# ways are done one after the other.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    using: str
    rows: int
    writes: int  # to each row in a round
    rounds: int

    @property
    def count(self) -> int:
        """How many writes, and how many reads, a round makes."""
        return self.rows * self.writes


@dataclass(slots=True)
class Measured:
    """The figures of one way, of all rounds."""

    rounds: list[float] = field(default_factory=list)  # seconds of a write or a read, in each round
    calls: list[float] = field(default_factory=list)  # seconds of each call, in all rounds
    statements: float = 0.0  # of SQL, for a write or a read
    trips: float = 0.0  # round trips to Redis

    def percentile(self, share: float) -> float:
        """The seconds within which this share of the calls was done."""
        return percentile(sorted(self.calls), share)


@dataclass(frozen=True, slots=True)
class Result:
    plan: Plan
    ways: dict[str, Measured]

    def seconds(self, *names: str) -> Spread:
        """The seconds that these ways take for one write, together."""
        return spread(self._rounds(names))

    def ratio(self, one: Iterable[str], other: Iterable[str]) -> Spread:
        """How many times as long the first takes as the second."""
        pairs = zip(self._rounds(one), self._rounds(other), strict=True)
        return spread([a / b for a, b in pairs])

    def _rounds(self, names: Iterable[str]) -> list[float]:
        return [sum(each) for each in zip(*(self.ways[n].rounds for n in names), strict=True)]


def measure(
    plan: Plan,
    hold: Hold,
    *,
    is_over: Callable[[], bool],
    progress: Callable[[str], None] = lambda text: None,
) -> Result:
    """Do all rounds. Raise `Stopped` between two calls if `is_over()`."""
    run = _Run(plan, is_over)
    run.prepare()
    for number in range(plan.rounds + 1):
        progress(f"round {number} of {plan.rounds}" if number else "warming up")
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
        if features.supports_update_conflicts_with_target:  # MariaDB does not
            self._options["unique_fields"] = ["number"]

    def prepare(self) -> None:
        """Make all rows, and send the scripts to Redis: only changes of rows are measured."""
        [values] = self._passes("first", 1)
        BUFFER.set_many(values)
        BUFFER.get(number=0)
        BUFFER.flush()

    # The first round is counted and not timed, as counting takes time.

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
        """The values to write: to each row once, then to each row again."""
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
            with counted(self.plan.using) as counts:
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
        """Check that everything is stored: a write that was lost must not count."""
        found = {row["number"]: row for row in self._objects.values("number", *_FIELDS)}
        if found != {values["number"]: values for values in passes[-1]}:
            raise CommandError("What is stored differs from what was written: report this mistake.")
