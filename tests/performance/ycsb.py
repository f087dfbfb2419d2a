"""Measures YCSB A, B, C, F and a TPC-B on every database there is, through the ORM and through the
buffer: `manage.py writebehind_bench` with trials that are long enough for its flusher.

python -m pytest -s tests/performance/ycsb.py      (WRITEBEHIND_TEST_DATABASES names the databases,
WRITEBEHIND_REPORTS a directory for the pages, WRITEBEHIND_SECONDS how long a trial takes)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connections

SECONDS = os.environ.get("WRITEBEHIND_SECONDS", "6")
ROUNDS = os.environ.get("WRITEBEHIND_ROUNDS", "5")
REPORTS = os.environ.get("WRITEBEHIND_REPORTS")

pytestmark = [
    pytest.mark.timeout(7200),
    pytest.mark.parametrize("redis_server", ["valkey"], indirect=True),
    # YCSB has few clients here, as they share the CPUs; of a bank's, more wait for each other.
    pytest.mark.parametrize(("names", "clients"), [("ABCF", 4), (["tpcb"], 8)]),
]


def test_workloads(database, redis_server, names, clients):
    args = [f"--workload={name}" for name in names]
    if REPORTS:
        page = Path(REPORTS) / f"{database}-{'-'.join(names)}.html"
        args.append(f"--report={page.absolute()}")
    print(f"\n{database}")
    with as_on_a_site(database):
        call_command(
            *("writebehind_bench", "--no-input", "--database", database, *args),
            *("--seconds", SECONDS, "--rounds", ROUNDS, "--clients", str(clients)),
        )


@contextmanager
def as_on_a_site(alias: str) -> Iterator[None]:
    """SQLite as who has several processes sets it up, with a disk that is waited for: the tests
    have none of that."""
    connection = connections[alias]
    if connection.vendor != "sqlite":
        yield
        return
    before = connection.settings_dict["OPTIONS"]
    connection.close()
    connection.settings_dict["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL",
    }
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["OPTIONS"] = before
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode=DELETE")
