"""What a write costs through the ORM: the load of the demo, for a moment before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median

from django.db import connections

from demo_site import proof
from demo_site.systems.base import System

_LEAST = 20  # writes of each system
_SECONDS = 2  # of the load: as many writes of each system as come in so long


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The cost of writes through the ORM, by the label of their model."""

    runs: Mapping[str, proof.Run] = field(default_factory=dict)

    @property
    def ms(self) -> float | None:
        """The time of a write, the median."""
        calls = [seconds for run in self.runs.values() for seconds in run.calls]
        return 1000 * median(calls) if calls else None

    def rows(self, writes: Mapping[str, int]) -> int:
        """How many rows the ORM writes for so many writes."""
        return round(sum(run.rows / run.writes * writes[label] for label, run in self.runs.items()))

    def statements(self, writes: Mapping[str, int]) -> int:
        found = (run.statements / run.writes * writes[label] for label, run in self.runs.items())
        return round(sum(found))


def measure(systems: Sequence[System]) -> Yardstick:
    """Let the load of the demo go through the ORM for a moment. Its rows are deleted again."""
    writes = [max(_LEAST, round(_SECONDS * system.rate)) for system in systems]
    plans = [
        proof.plan(system, count, keys=_LEAST // 2, threads=1)
        for system, count in zip(systems, writes, strict=True)
    ]

    def run(system: System, plans: list[proof.Plan], count: int) -> proof.Run:
        try:
            return proof.run_directly(system, plans, rate=count / _SECONDS)
        finally:
            connections.close_all()

    with proof.without_buffer(), ThreadPoolExecutor(len(systems)) as pool:
        runs = pool.map(run, systems, plans, writes)
        return Yardstick({s.model._meta.label: r for s, r in zip(systems, runs, strict=True)})
