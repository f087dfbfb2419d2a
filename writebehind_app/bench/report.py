"""The result of a measurement as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from writebehind_app.bench import surroundings
from writebehind_app.bench.calls import RATIOS, WAYS, Result
from writebehind_app.bench.rounds import Spread
from writebehind_app.bench.trials import (
    COMPARED,
    FIGURES,
    OPERATIONS,
    ORM,
    TrialResult,
    Trials,
)
from writebehind_app.bench.trials import WAYS as TRIAL_WAYS
from writebehind_app.bench.workloads import WORKLOADS

TITLES = {
    OPERATIONS: "operations/s",
    "read_p50": "read p50",
    "read_p99": "read p99",
    "write_p50": "write p50",
    "write_p99": "write p99",
    "cpu_clients": "clients",
    "cpu_flusher": "flusher",
    "cpu_database": "database",
    "cpu_redis": "Redis",
}
NONE = "–"  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that was measured, and on what machine and servers."""

    on: dict[str, Any]
    trials: TrialResult | None
    calls: Result | None

    @property
    def conditions(self) -> list[tuple[str, str]]:
        """The conditions under which the figures were measured."""
        found = []
        if self.trials:
            plan = self.trials.plan
            found.append(
                (
                    "Workloads",
                    f"clients: {plan.clients}, records: {plan.records:,}, rounds: {plan.rounds}, "
                    f"each of {plan.seconds:g} s and the drain; Zipf 0.99",
                )
            )
        if self.calls:
            of = self.calls.plan
            found.append(
                (
                    "Calls",
                    f"rows that are there: {of.rows}, writes to each in each way: {of.writes}, "
                    f"rounds: {of.rounds}; every write changes three fields",
                )
            )
        return found + surroundings.described(self.on)


# As JSON


def as_json(found: Found) -> dict[str, Any]:
    return {
        "workloads": found.trials and _trials_json(found.trials),
        "calls": found.calls and _calls_json(found.calls),
        "on": found.on,
    }


def _trials_json(result: TrialResult) -> dict[str, Any]:
    return {
        "ratios": [
            {"workload": r.workload, "way": r.way, "figure": r.figure, **_rounded(r.spread, 1, 3)}
            for r in trial_ratios(result)
        ],
        "trials": [
            {
                "workload": workload,
                "way": way,
                "cache_seconds": TRIAL_WAYS[way],
                "operations_per_second": _rounded(trials.spread(OPERATIONS), 1, 1),
                "us": {
                    name: _rounded(trials.spread(name), 1e6, 1)
                    for name in FIGURES[1:]
                    if name in trials.figures
                },
                "statements": round(trials.statements, 4),
                "round_trips": round(trials.trips, 4),
                "operations": trials.operations,
                "failed": trials.failed,
            }
            for workload, ways in result.trials.items()
            for way, trials in ways.items()
        ],
        "clients": result.plan.clients,
        "records": result.plan.records,
        "seconds": result.plan.seconds,
        "rounds": result.plan.rounds,
    }


def _calls_json(result: Result) -> dict[str, Any]:
    return {
        "ratios": [
            {"slow": [*one], "fast": [*other], **_rounded(result.ratio(one, other), 1, 3)}
            for one, other in RATIOS
        ],
        "ways": [
            {
                "name": name,
                "us": _rounded(result.seconds(name), 1e6, 1),
                "calls": len(way.calls),
                "p50_us": round(way.percentile(0.5) * 1e6, 1),
                "p99_us": round(way.percentile(0.99) * 1e6, 1),
                "statements": round(way.statements, 4),
                "round_trips": round(way.trips, 4),
            }
            for name, way in result.ways.items()
        ],
        "rows": result.plan.rows,
        "writes": result.plan.writes,
        "rounds": result.plan.rounds,
    }


def _rounded(spread: Spread | None, unit: float, digits: int) -> dict[str, float]:
    if spread is None:
        return {}
    return {name: round(value * unit, digits) for name, value in asdict(spread).items()}


# For people


@dataclass(frozen=True, slots=True)
class Ratio:
    spread: Spread

    @property
    def median(self) -> str:
        return figure(self.spread.median)

    @property
    def rounds(self) -> str:
        return spanned(self.spread, 1)


@dataclass(frozen=True, slots=True)
class CallRatio(Ratio):
    one: str
    other: str

    @property
    def is_worse(self) -> bool:
        """Whether the buffer is worse than the ORM."""
        return self.spread.median < 1


@dataclass(frozen=True, slots=True)
class TrialRatio(Ratio):
    workload: str
    way: str
    figure: str

    @property
    def is_worse(self) -> bool:
        less = self.spread.median < 1
        return less if self.figure == OPERATIONS else self.spread.median > 1


def call_ratios(result: Result) -> Iterator[CallRatio]:
    for one, other in RATIOS:
        yield CallRatio(result.ratio(one, other), titled(one), titled(other))


def trial_ratios(result: TrialResult) -> Iterator[TrialRatio]:
    for workload, ways in result.trials.items():
        for way in ways:
            for name in COMPARED:
                spread = None if way == ORM else result.ratio(workload, way, name)
                if spread:
                    yield TrialRatio(spread, workload, way, name)


def worse(found: Found) -> list[str]:
    """Where the buffer is worse than the ORM: a line for each workload and call."""
    of: dict[tuple[str, str], list[str]] = {}
    for trial in trial_ratios(found.trials) if found.trials else ():
        if trial.is_worse:
            figures = of.setdefault((trial.workload, trial.way), [])
            figures.append(f"{compared_title(trial.figure)} × {trial.median}")  # noqa: RUF001
    said = [
        f"{short_title(workload)}, {short_way(way)}: {', '.join(figures)}"
        for (workload, way), figures in of.items()
    ]
    for call in call_ratios(found.calls) if found.calls else ():
        if call.is_worse:
            share = figure(1 / call.spread.median)
            said.append(f"{call.other}: takes {share} times as long as {call.one}")
    return said


def short_title(workload: str) -> str:
    return WORKLOADS[workload].title.partition(":")[0].partition(",")[0]


def way_title(way: str) -> str:
    return short_way(way) if way == ORM else f"buffer, {short_way(way)}"


def short_way(way: str) -> str:
    seconds = TRIAL_WAYS[way]
    return "ORM" if seconds is None else f"cache_seconds={seconds:g}"


def compared_title(name: str) -> str:
    return f"{TITLES[name]} CPU" if name.startswith("cpu_") else TITLES[name]


def titled(names: Sequence[str]) -> str:
    """The title of several ways that are done one after the other."""
    if len(names) > 1:
        return f"{WAYS[names[0]]} and flush()"
    return WAYS[names[0]]


def figure(value: float) -> str:
    """A number with about three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def per_write(value: float) -> str:
    """A count for each write."""
    return NONE if not value else f"{value:.0f}" if value % 1 == 0 else figure(value)


def spanned(spread: Spread, unit: float) -> str:
    return f"{figure(spread.least * unit)} – {figure(spread.greatest * unit)}"  # noqa: RUF001


def cell(trials: Trials, name: str) -> str:
    """The median of a figure as text, in operations a second or in µs."""
    spread = trials.spread(name)
    if spread is None:
        return NONE
    return figure(spread.median * (1 if name == OPERATIONS else 1e6))


def as_text(found: Found) -> str:
    lines = [f"{name + ':':10} {text}" for name, text in found.conditions]
    if found.trials:
        lines += [*_trial_ratios_text(found.trials)]
    if found.calls:
        lines += [*_call_ratios_text(found.calls)]
    lines += ["", "The buffer is worse at:"]
    lines += [f"  {text}" for text in worse(found)] or ["  nothing of this"]
    if found.trials:
        lines += [*_trials_text(found.trials)]
    if found.calls:
        lines += [*_calls_text(found.calls)]
    return "\n".join(lines)


def _trial_ratios_text(result: TrialResult) -> Iterator[str]:
    by_place = {(r.workload, r.way, r.figure): r for r in trial_ratios(result)}
    yield ""
    yield f"{'times what the ORM has':35}" + "".join(
        f"{compared_title(name):>14}" for name in COMPARED
    )
    for workload, ways in result.trials.items():
        for way in ways:
            if way != ORM:
                found = [by_place.get((workload, way, name)) for name in COMPARED]
                texts = "".join(f"{ratio.median if ratio else NONE:>14}" for ratio in found)
                yield f"{short_title(workload) + ', ' + short_way(way):35}{texts}"


def _call_ratios_text(result: Result) -> Iterator[str]:
    yield ""
    yield f"{'this':35}{'compared with':35}{'times':>9}{'rounds':>17}"
    for ratio in call_ratios(result):
        yield f"{ratio.one:35}{ratio.other:35}{ratio.median:>9}{ratio.rounds:>17}"


def _trials_text(result: TrialResult) -> Iterator[str]:
    for workload, ways in result.trials.items():
        yield ""
        yield WORKLOADS[workload].title
        yield f"{'':39}{'µs for a call':>52}{'for each':>16}{'':8}{'µs of CPU for each':>36}"
        yield f"{'':26}" + "".join(
            f"{text:>{width}}"
            for text, width in [
                *((TITLES[name], 13) for name in FIGURES[:5]),
                *((text, 8) for text in ("SQL", "Redis", "failed")),
                *((TITLES[name], 9) for name in FIGURES[5:]),
            ]
        )
        for way, trials in ways.items():
            yield f"{way_title(way):26}" + "".join(
                [
                    *(f"{cell(trials, name):>13}" for name in FIGURES[:5]),
                    f"{per_write(trials.statements):>8}{per_write(trials.trips):>8}",
                    f"{trials.failed:>8}",
                    *(f"{cell(trials, name):>9}" for name in FIGURES[5:]),
                ]
            )


def _calls_text(result: Result) -> Iterator[str]:
    yield ""
    yield f"{'':35}{'µs for one row':>26}{'µs for a call':>20}{'for one row':>18}"
    yield f"{'':35}{'median':>9}{'rounds':>17}{'p50':>10}{'p99':>10}{'SQL':>9}{'Redis':>9}"
    for name, way in result.ways.items():
        spread = result.seconds(name)
        yield (
            f"{WAYS[name]:35}{figure(spread.median * 1e6):>9}{spanned(spread, 1e6):>17}"
            f"{figure(way.percentile(0.5) * 1e6):>10}{figure(way.percentile(0.99) * 1e6):>10}"
            f"{per_write(way.statements):>9}{per_write(way.trips):>9}"
        )
