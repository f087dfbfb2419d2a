"""Among many entries, find those that the database refuses, and write the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from writebehind_app.database.failures import is_refusal
from writebehind_app.database.parents import Parent
from writebehind_app.fields.entry import Entry


class Refused(NamedTuple):
    """An entry that the database refuses, and why."""

    entry: Entry
    error: Exception
    is_readable: bool = True  # else the entry itself is broken, and the database is not to blame
    parent: Parent | None = None  # the missing row that the entry refers to


def isolate(
    connection: BaseDatabaseWrapper,
    entries: Sequence[Entry],
    write: Callable[[Sequence[Entry]], None],
    *,
    tried: bool = False,
    insist: bool = False,
) -> list[Refused]:
    """Write as many of these entries as the database takes, in their order; return the others.

    They are tried together, unless they were `tried` and refused. Then each half is tried, then
    each half of a refused half, down to single entries: one bad entry of n costs about log2(n)
    writes. An error that is no entry's fault is raised.
    """
    refused: list[Refused] = []
    savepoint = ""

    def refusal(part: Sequence[Entry]) -> Exception | None:
        """Write a part; return why it is refused, or None if it is written."""
        nonlocal savepoint
        savepoint = savepoint or savepoint_of(connection)
        try:
            write(part)
        except Exception as error:
            if not is_refusal(error, insist=insist):
                raise
            # After an error inside atomic(), Django allows nothing but a rollback. This is one.
            connection.set_rollback(False)
            connection.savepoint_rollback(savepoint)
            return error
        savepoint = ""
        return None

    left = [list(entries)]  # parts that were not tried yet, the last one first
    is_refused = tried and len(entries) > 1
    alone = True  # whether the bad entry that was found may be the only one
    while left:
        part = left.pop()
        error = None if is_refused else refusal(part)
        is_refused = is_refused or error is not None
        while is_refused and len(part) > 1:
            half = len(part) // 2
            if (its := refusal(part[:half])) is None:
                part, error = part[half:], None  # the bad entry is in this half
            else:
                left.append(part[half:])
                part, error = part[:half], its
        if is_refused and (error := error or refusal(part)):
            refused.append(Refused(part[0], error))
            if alone and left:
                alone = False
                if refusal([entry for rest in reversed(left) for entry in rest]) is None:
                    break
        is_refused = False
    return refused


def savepoint_of(connection: BaseDatabaseWrapper) -> str:
    name = connection.savepoint()
    assert name is not None  # each supported database has savepoints
    return name
