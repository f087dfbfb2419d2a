"""What a measurement comes to: as JSON, as text and as a page."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import django
from django.db import connections
from django.template import Context, Engine
from django.utils import timezone

import writebehind_app
from writebehind_app import status
from writebehind_app.bench.measure import RATIOS, WAYS, Result, Spread
from writebehind_app.bench.table import BUFFER
from writebehind_app.store import server
from writebehind_app.store.connection import client

_PINGS = 9
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


def surroundings(using: str) -> dict[str, Any]:
    """On what is measured. Nothing in it is secret: no address, no name."""
    redis = status.of_redis(client())
    kind = next((kind for kind in ("valkey", "redis") if f"{kind}_version" in redis), "redis")
    connection = connections[using]
    connection.ensure_connection()
    version = ".".join(map(str, connection.get_database_version()))
    return {
        "at": timezone.now().isoformat(timespec="seconds"),
        "writebehind": writebehind_app.__version__,
        "django": django.get_version(),
        "python": platform.python_version(),
        "database": f"{connection.display_name} {version}",
        "database_us": round(_answer(using) * 1e6),
        "redis": f"{kind.capitalize()} {redis.get(f'{kind}_version', '')}".strip(),
        "redis_us": round(server.latency(client()) * 1e6),
        "appendonly": server.config(client(), "appendonly"),
        "appendfsync": server.config(client(), "appendfsync"),
        "durability": BUFFER.option("DURABILITY"),
        "shards": BUFFER.option("SHARDS"),
        "batch_size": BUFFER.option("BATCH_SIZE"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": load(),
    }


def load() -> float | None:
    """How many processes wanted a CPU in the last minute; not every system says so."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _answer(using: str) -> float:
    """Seconds from a question to the database to its answer: the median of a few."""
    times = []
    with connections[using].cursor() as cursor:
        for _ in range(_PINGS):
            started = time.perf_counter()
            cursor.execute("SELECT 1")
            cursor.fetchall()
            times.append(time.perf_counter() - started)
    return statistics.median(times)


# As JSON


def as_json(result: Result, on: dict[str, Any]) -> dict[str, Any]:
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
        "on": on,
    }


def _rounded(spread: Spread, unit: float, digits: int) -> dict[str, float]:
    return {name: round(value * unit, digits) for name, value in asdict(spread).items()}


# For people


@dataclass(frozen=True, slots=True)
class Ratio:
    one: str
    other: str
    spread: Spread

    @property
    def median(self) -> str:
        return figure(self.spread.median)

    @property
    def rounds(self) -> str:
        return f"{figure(self.spread.least)} – {figure(self.spread.greatest)}"  # noqa: RUF001

    @property
    def is_slower(self) -> bool:
        return self.spread.median < 1


def ratios(result: Result) -> Iterator[Ratio]:
    for one, other in RATIOS:
        yield Ratio(titled(one), titled(other), result.ratio(one, other))


def titled(names: Sequence[str]) -> str:
    """Ways one after the other."""
    if len(names) > 1:
        return f"{WAYS[names[0]]} and flush()"
    return WAYS[names[0]]


def figure(value: float) -> str:
    """A number with about three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def per_write(value: float) -> str:
    """How many of something there are for a write."""
    return "–" if not value else f"{value:.0f}" if value % 1 == 0 else figure(value)  # noqa: RUF001


def conditions(on: dict[str, Any], result: Result) -> list[tuple[str, str]]:
    """What the figures hold for."""
    plan = result.plan
    names = ("appendonly",) if on["appendonly"] == "no" else ("appendonly", "appendfsync")
    kept = [f"{name} {on[name]}" for name in names if on[name]]
    loads = "" if on["load"] is None else f", load {on['load']} before and {load()} after"
    return [
        (
            "Writes",
            f"{plan.writes} to each of {plan.rows} rows that are there, in each way, in each of "
            f"{plan.rounds} rounds; every write changes three fields",
        ),
        ("Database", f"{on['database']}; SELECT 1 takes {on['database_us']} µs"),
        ("Redis", ", ".join([on["redis"], *kept]) + f"; PING takes {on['redis_us']} µs"),
        (
            "Settings",
            f"SHARDS {on['shards']}, BATCH_SIZE {on['batch_size']}, DURABILITY {on['durability']}",
        ),
        (
            "Software",
            f"django-writebehind {on['writebehind']}, Django {on['django']}, Python {on['python']}",
        ),
        ("Machine", f"{on['system']}, {on['cpus']} CPUs{loads}"),
        ("Measured", on["at"]),
    ]


def as_text(result: Result, on: dict[str, Any]) -> str:
    lines = [f"{name + ':':10} {text}" for name, text in conditions(on, result)]
    lines += ["", f"{'':35}{'µs for one row':>26}{'µs for a call':>20}{'for one row':>18}"]
    lines += [f"{'':35}{'median':>9}{'rounds':>17}{'p50':>10}{'p99':>10}{'SQL':>9}{'Redis':>9}"]
    for name, way in result.ways.items():
        spread = result.seconds(name)
        rounds = f"{figure(spread.least * 1e6)} – {figure(spread.greatest * 1e6)}"  # noqa: RUF001
        lines.append(
            f"{WAYS[name]:35}{figure(spread.median * 1e6):>9}{rounds:>17}"
            f"{figure(way.percentile(0.5) * 1e6):>10}{figure(way.percentile(0.99) * 1e6):>10}"
            f"{per_write(way.statements):>9}{per_write(way.trips):>9}"
        )
    lines += ["", f"{'this':35}{'compared with':35}{'times':>9}{'rounds':>17}"]
    for ratio in ratios(result):
        lines.append(f"{ratio.one:35}{ratio.other:35}{ratio.median:>9}{ratio.rounds:>17}")
    return "\n".join(lines)


# As a page


@dataclass(frozen=True, slots=True)
class Bar:
    """Texts, in percent of the width."""

    title: str
    value: str
    rounds: str
    width: str
    least: str
    greatest: str
    is_buffered: bool


def bars(result: Result, ways: Sequence[Sequence[str]]) -> list[Bar]:
    spreads = {tuple(names): result.seconds(*names) for names in ways}
    longest = max(spread.greatest for spread in spreads.values())

    def percent(seconds: float) -> str:
        return f"{100 * seconds / longest:.2f}"

    return [
        Bar(
            titled(names),
            f"{figure(s.median * 1e6)} µs",
            f"{figure(s.least * 1e6)} – {figure(s.greatest * 1e6)} µs",  # noqa: RUF001
            percent(s.median),
            percent(s.least),
            percent(s.greatest),
            names[0].startswith(("set", "get")),
        )
        for names, s in spreads.items()
    ]


def as_page(result: Result, on: dict[str, Any]) -> str:
    """One page of HTML, that needs nothing else."""
    ways = [
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
    ]
    charts = [(title, bars(result, ways)) for title, ways in _CHARTS]
    # Whatever TEMPLATES of the project say.
    template = files("writebehind_app").joinpath("templates/writebehind/bench.html").read_text()
    return (
        Engine()
        .from_string(template)
        .render(
            Context(
                {
                    "conditions": conditions(on, result),
                    "charts": charts,
                    "ratios": list(ratios(result)),
                    "ways": ways,
                }
            )
        )
    )
