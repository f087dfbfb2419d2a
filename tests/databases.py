"""Makes the databases of a test run, and drops them."""

from __future__ import annotations

import sys
from typing import Any

from django.db import connections
from django.test.utils import setup_databases, teardown_databases


def make() -> list[Any]:
    """All of the settings; returns what `drop` takes."""
    return setup_databases(verbosity=0, interactive=False, aliases=set(connections))


def drop(made: list[Any]) -> None:
    # Threads and children of tests leave sessions: PostgreSQL drops no database in use.
    if "postgresql" in connections:
        with connections["postgresql"].cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    teardown_databases(made, verbosity=0)


def keep() -> None:
    """In a process of its own: they are there until its standard input ends."""
    made = make()
    print("made", flush=True)
    sys.stdin.read()
    drop(made)
