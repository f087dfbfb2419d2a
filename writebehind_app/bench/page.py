"""The result of a measurement as one page of HTML, without other files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from django.template import Context, Engine

from writebehind_app.bench.calls import WAYS, Result
from writebehind_app.bench.report import (
    TITLES,
    Found,
    call_ratios,
    cell,
    compared_title,
    figure,
    per_write,
    short_title,
    short_way,
    spanned,
    titled,
    trial_ratios,
    way_title,
    worse,
)
from writebehind_app.bench.rounds import Spread
from writebehind_app.bench.trials import COMPARED, FIGURES, OPERATIONS, ORM, TrialResult, Trials
from writebehind_app.bench.workloads import WORKLOADS

_CHARTS = (
    (
        "A write, until its caller goes on",
        (("update_or_create",), ("bulk_create",), ("set",), ("set_many",), ("hset",)),
    ),
    (
        "A write, until it is in the database",
        (("update_or_create",), ("bulk_create",), ("set", "flush"), ("set_many", "flush_many")),
    ),
    ("A read", (("orm_get",), ("get_pending",), ("get_stored",))),
)


def as_page(found: Found) -> str:
    # Not the TEMPLATES of the project.
    template = files("writebehind_app").joinpath("templates/writebehind/bench.html").read_text()
    context = {
        "conditions": found.conditions,
        "worse": worse(found),
        "trials": found.trials and _trials(found.trials),
        "calls": found.calls and _calls(found.calls),
    }
    return Engine().from_string(template).render(Context(context))


# Bars


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar. Its numbers are texts, in percent of the width."""

    title: str
    value: str
    rounds: str
    width: str
    least: str
    greatest: str
    is_buffered: bool


def _bars(rows: Sequence[tuple[str, Spread, bool]], unit: str, times: float) -> list[Bar]:
    longest = max(spread.greatest for _, spread, _ in rows)

    def percent(value: float) -> str:
        return f"{100 * value / longest:.2f}"

    return [
        Bar(
            title,
            f"{figure(s.median * times)}{unit}",
            f"{spanned(s, times)}{unit}",
            percent(s.median),
            percent(s.least),
            percent(s.greatest),
            is_buffered,
        )
        for title, s, is_buffered in rows
    ]


# Workloads


@dataclass(frozen=True, slots=True)
class Span:
    """A bar from the median to p99, in percent of the width, and its label."""

    title: str
    value: str
    median: str
    most: str
    is_buffered: bool


def _trials(result: TrialResult) -> dict[str, Any]:
    ratios = {(r.workload, r.way, r.figure): r for r in trial_ratios(result)}
    return {
        "compared": [*map(compared_title, COMPARED)],
        "ratios": [
            {
                "workload": short_title(workload),
                "way": short_way(way),
                "cells": [ratios.get((workload, way, name)) for name in COMPARED],
            }
            for workload, ways in result.trials.items()
            for way in ways
            if way != ORM
        ],
        "charts": [
            {
                "title": WORKLOADS[workload].title,
                "bars": _operations(ways),
                "spans": _spans(ways),
            }
            for workload, ways in result.trials.items()
        ],
        "figures": [TITLES[name] for name in FIGURES[:5]],
        "cpus": [TITLES[name] for name in FIGURES[5:]],
        "rows": [
            {
                "workload": short_title(workload),
                "way": way_title(way),
                "cells": [
                    *(cell(trials, name) for name in FIGURES[:5]),
                    per_write(trials.statements),
                    per_write(trials.trips),
                    *(cell(trials, name) for name in FIGURES[5:]),
                    str(trials.failed),
                ],
            }
            for workload, ways in result.trials.items()
            for way, trials in ways.items()
        ],
    }


def _operations(ways: dict[str, Trials]) -> list[Bar]:
    rows = [(way_title(way), t.spread(OPERATIONS), way != ORM) for way, t in ways.items()]
    return _bars([(title, s, is_buffered) for title, s, is_buffered in rows if s], "/s", 1)


def _spans(ways: dict[str, Trials]) -> list[Span]:
    """How long calls take, on a logarithmic scale that begins at a quarter of the least median."""
    found = [
        (f"{kind}: {short_way(way)}", middle.median, most.median, way != ORM)
        for kind in ("read", "write")
        for way, trials in ways.items()
        if (middle := trials.spread(f"{kind}_p50")) and (most := trials.spread(f"{kind}_p99"))
    ]
    least, greatest = min(f[1] for f in found) / 4, max(f[2] for f in found)

    def percent(seconds: float) -> str:
        return f"{100 * math.log(seconds / least) / math.log(greatest / least):.2f}"

    return [
        Span(
            title,
            f"{figure(median * 1e6)} – {figure(most * 1e6)} µs",  # noqa: RUF001
            percent(median),
            percent(most),
            is_buffered,
        )
        for title, median, most, is_buffered in found
    ]


# Calls


def _calls(result: Result) -> dict[str, Any]:
    return {
        "ratios": [*call_ratios(result)],
        "charts": [
            (
                title,
                _bars(
                    [
                        (titled(names), result.seconds(*names), names[0].startswith(("set", "get")))
                        for names in ways
                    ],
                    " µs",
                    1e6,
                ),
            )
            for title, ways in _CHARTS
        ],
        "ways": [
            {
                "title": WAYS[name],
                "median": figure(result.seconds(name).median * 1e6),
                "p50": figure(way.percentile(0.5) * 1e6),
                "p99": figure(way.percentile(0.99) * 1e6),
                "calls": f"{len(way.calls):,}",
                "statements": per_write(way.statements),
                "trips": per_write(way.trips),
            }
            for name, way in result.ways.items()
        ],
    }
