"""Finds the entries of a batch that the database refuses, and writes all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from writebehind_app.database.failures import kind
from writebehind_app.database.fences import Fences
from writebehind_app.database.keyed import rows_by_id
from writebehind_app.database.parents import without_parent
from writebehind_app.database.rows import write
from writebehind_app.declaration import Declaration
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fold import described
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.versions import current
from writebehind_app.store.codec import understood


class Refused(NamedTuple):
    """An entry that the database does not take, and why."""

    entry: Entry
    error: Exception
    is_readable: bool = True  # and it may be the fault of the database


def write_isolating(
    buffer: Declaration,
    entries: Sequence[Entry],
    fences: Fences | None = None,
    *,
    of_rows: bool = False,
) -> tuple[int, list[Entry], list[Refused]]:
    """Write what the database takes; says how many rows, of which entries, and what it refuses.

    The entries are those of a batch, of which nothing is written that fences hold back, or
    `of_rows`.
    """
    layout = buffer.layout()
    connection = connections[layout.using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # or they refuse the commit
    # In the order of the writes: a value that moves from row to row is free before it is taken.
    in_order = sorted(entries, key=lambda entry: entry.last)

    def expand(found: Sequence[Entry]) -> Sequence[Entry]:
        if of_rows:
            if all(entry.version == buffer.version and not entry.older for entry in found):
                return found
            found = [buffer.whole(entry) for entry in found]
        rows = buffer.row_entries(current(buffer, found))
        return rows if fences is None else fences.left_of_all(rows)

    found, refused = _readable(layout, in_order, expand)
    refused += [Refused(*orphan) for orphan in without_parent(layout, found)]
    found = _others(found, refused)
    rows = 0

    def write_part(part: Sequence[Entry]) -> None:
        nonlocal rows
        # A single entry may be refused for a row that came in between: it is looked up again.
        written = write(layout, part, stored if len(part) > 1 else None)
        rows += written

    if found:
        stored = _stored_rows(layout, found)
        refused += isolate(connection, found, write_part)
    return rows, _others(found, refused), refused


def _others(entries: Sequence[Entry], refused: Sequence[Refused]) -> list[Entry]:
    found = {id(each.entry) for each in refused}
    return [entry for entry in entries if id(entry) not in found]


def _stored_rows(layout: Layout, entries: Sequence[Entry]) -> dict[str, Any] | None:
    """The stored rows, locked; None where the database takes offence at one of the keys. For the
    records of a log there are none."""
    if not layout.key:
        return {}
    connection = connections[layout.using]
    savepoint = _savepoint(connection)
    try:
        return rows_by_id(layout, [entry.id for entry in entries], lock=True)
    except Exception as error:
        if kind(error) != "row":
            raise
        connection.set_rollback(False)
        connection.savepoint_rollback(savepoint)
        return None


def _readable(
    layout: Layout, entries: Sequence[Entry], expand: Callable[[Sequence[Entry]], Sequence[Entry]]
) -> tuple[list[Entry], list[Refused]]:
    """What the entries come to row by row, and those that are not to be understood."""
    found: list[Entry] = []
    refused: list[Refused] = []
    for entry in entries:
        try:
            of_rows = expand(understood([entry], records=not layout.key))
            for of_row in of_rows:
                layout.key_of(of_row.id)
                described(layout, of_row)
        except Exception as error:
            if kind(error) != "row":
                raise
            refused.append(Refused(entry, error, is_readable=False))
        else:
            found += of_rows
    return found, refused


def isolate(
    connection: BaseDatabaseWrapper,
    entries: Sequence[Entry],
    write: Callable[[Sequence[Entry]], None],
) -> list[Refused]:
    """Write entries that were refused all at once, as many as are taken, in their order; returns
    the others.

    Halves of what is refused are tried, down to single entries: for one bad entry of n, that is
    about log2(n) writes. Errors that are no entry's fault are raised.
    """
    refused: list[Refused] = []
    savepoint = _savepoint(connection)

    def refusal(part: Sequence[Entry]) -> Exception | None:
        """Why a part is refused, or None: it is written."""
        nonlocal savepoint
        try:
            write(part)
        except Exception as error:
            if kind(error) != "row":
                raise
            # What Django wraps in atomic() forbids everything but a rollback, which this is.
            connection.set_rollback(False)
            connection.savepoint_rollback(savepoint)
            return error
        savepoint = _savepoint(connection)
        return None

    left = [list(entries)]  # parts that were not tried yet, the last one first
    part, is_refused = left.pop(), True
    alone = True  # whether the bad entry that was found may be the only one
    while True:
        while is_refused and len(part) > 1:
            half = len(part) // 2
            if refusal(part[:half]) is None:
                part = part[half:]  # so it is in there
            else:
                left.append(part[half:])
                part = part[:half]
        if error := refusal(part):
            if len(part) > 1:
                is_refused = True
                continue
            refused.append(Refused(part[0], error))
            if alone and left:
                alone = False
                if refusal([entry for part in reversed(left) for entry in part]) is None:
                    return refused
        if not left:
            return refused
        part, is_refused = left.pop(), False


def _savepoint(connection: BaseDatabaseWrapper) -> str:
    name = connection.savepoint()
    assert name is not None  # each of the databases has them
    return name
