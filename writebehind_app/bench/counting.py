"""Count the SQL statements and the round trips to Redis of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connections

from writebehind_app.store.connection import client

_TRANSACTION = ("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK")


@dataclass(slots=True)
class Counts:
    statements: int = 0
    trips: int = 0  # round trips to Redis


@contextmanager
def counted(using: str) -> Iterator[Counts]:
    """Count statements, without BEGIN and COMMIT, and round trips: one for each time a connection
    to Redis is taken."""
    counts = Counts()

    def statement(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        counts.statements += not sql.startswith(_TRANSACTION)
        return execute(sql, params, many, context)

    def counting(take: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            counts.trips += 1
            return take(*args, **kwargs)

        return count

    places: list[tuple[object, str]] = []
    for found in (*client().nodes(), *client(patient=True).nodes()):
        places += [(found.links, "take"), (found.connection_pool, "get_connection")]
    for place, name in places:
        setattr(place, name, counting(getattr(place, name)))
    try:
        with connections[using].execute_wrapper(statement):
            yield counts
    finally:
        for place, name in places:
            delattr(place, name)  # the method of the class shows again
