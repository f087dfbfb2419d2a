"""Describe the machine and the servers of a measurement. No address and no name is in it."""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import django
from django.db import Error, connections
from django.utils import timezone

import writebehind_app
from writebehind_app import status
from writebehind_app.bench.tables import BUFFER
from writebehind_app.store import server
from writebehind_app.store.connection import client

_PINGS = 9
# The settings of a database that decide how safe a commit is, and what it costs.
_SAFETY = {
    "sqlite": {"journal_mode": "PRAGMA journal_mode", "synchronous": "PRAGMA synchronous"},
    "postgresql": {"fsync": "SHOW fsync", "synchronous_commit": "SHOW synchronous_commit"},
    "mysql": {
        "innodb_flush_log_at_trx_commit": "SELECT @@innodb_flush_log_at_trx_commit",
        "log_bin": "SELECT @@log_bin",
    },
}


def of(using: str) -> dict[str, Any]:
    redis = status.of_redis(client().servers())
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
        "database_settings": _safety(using),
        "redis": f"{kind.capitalize()} {redis.get(f'{kind}_version', '')}".strip(),
        "redis_us": round(server.latency(client()) * 1e6),
        "appendonly": server.config(client(), "appendonly"),
        "appendfsync": server.config(client(), "appendfsync"),
        "durability": BUFFER.option("DURABILITY"),
        "shards": BUFFER.option("SHARDS"),
        "batch_size": BUFFER.option("BATCH_SIZE"),
        "max_age": BUFFER.option("MAX_AGE"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "cpus": os.cpu_count(),
        "load": load(),
    }


def load() -> float | None:
    """The load of the last minute. None if the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def described(on: dict[str, Any]) -> list[tuple[str, str]]:
    """The same as texts for people."""
    names = ("appendonly",) if on["appendonly"] == "no" else ("appendonly", "appendfsync")
    kept = [f"{name} {on[name]}" for name in names if on[name]]
    safety = [f"{name} {value}" for name, value in on["database_settings"].items()]
    loads = "" if on["load"] is None else f", load {on['load']} before and {load()} after"
    return [
        (
            "Database",
            ", ".join([on["database"], *safety]) + f"; SELECT 1 takes {on['database_us']} µs",
        ),
        ("Redis", ", ".join([on["redis"], *kept]) + f"; PING takes {on['redis_us']} µs"),
        (
            "Settings",
            f"SHARDS {on['shards']}, BATCH_SIZE {on['batch_size']}, MAX_AGE {on['max_age']:g}, "
            f"DURABILITY {on['durability']}",
        ),
        (
            "Software",
            f"django-writebehind {on['writebehind']}, Django {on['django']}, Python {on['python']}",
        ),
        ("Machine", f"{on['system']}, {on['cpus']} × {on['cpu'] or 'CPU'}{loads}"),  # noqa: RUF001
        ("Measured", on["at"]),
    ]


def _answer(using: str) -> float:
    """The seconds of a round trip to the database: the median of a few."""
    times = []
    with connections[using].cursor() as cursor:
        for _ in range(_PINGS):
            started = time.perf_counter()
            cursor.execute("SELECT 1")
            cursor.fetchall()
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def _safety(using: str) -> dict[str, str]:
    connection = connections[using]
    found = {}
    for name, sql in _SAFETY.get(connection.vendor, {}).items():
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                found[name] = str(cursor.fetchone()[0])
        except Error:  # it does not know the setting, or does not show it
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
