"""The way around Redis: each verb straight in the database, in one transaction.

What is written so leaves fences, in the same transaction, by which nothing that Redis still holds
comes over it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import IntegrityError, connections, transaction

from writebehind_app.database import deadletters, fences
from writebehind_app.database.failures import kind
from writebehind_app.database.keyed import rows_by_id
from writebehind_app.database.rows import write as write_rows
from writebehind_app.database.transactions import autocommits
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.fold import fold
from writebehind_app.fields.limits import out_of_range
from writebehind_app.models import Fence
from writebehind_app.store import clock

if TYPE_CHECKING:
    from writebehind_app.database.once import Once
    from writebehind_app.declaration import Declaration, KeyedDeclaration
    from writebehind_app.fields.writes import Write
    from writebehind_app.store.shard import Record

_Result = TypeVar("_Result")
_TRIES = 6  # where somebody was in the way
_PAUSE = 0.005  # seconds before the second of them, at most: doubled each time


# Rows and entities


def write(buffer: KeyedDeclaration, writes: Sequence[Write], *, once: Once | None = None) -> None:
    """Write all or nothing, in order."""

    def act() -> bool:
        fences.hold(buffer, {write.id for write in writes})
        for part in _distinct(writes):
            _write(buffer, part)
        return True

    _commit(buffer, act, once)


def write_if(
    buffer: KeyedDeclaration,
    id: str,
    write_for: Callable[[Any | None], Write | None],
    *,
    whole: bool,
    once: Once | None = None,
) -> Write | None:
    """Write what is made for the row, which is locked, and return it; None where nothing is.
    `whole` if the row is a new one."""

    def act() -> Write | None:
        fences.hold(buffer, [id])
        stored = buffer.stored([id], lock=True)
        rows = dict(buffer.rows_in(stored))  # what the decision changes is not what is written
        write = write_for(stored.get(id))
        if write is not None:
            _write(buffer, [write], whole=whole, stored=rows)
        return write

    return _commit(buffer, act, once)


def _write(
    buffer: KeyedDeclaration,
    writes: Sequence[Write],
    *,
    whole: bool = False,
    stored: Mapping[str, Any] | None = None,
) -> None:
    """Write to rows, or entities, of which no two are the same; on what is stored, where that was
    read and locked."""
    now = clock.now()
    entries = [write.entry(now) for write in writes]
    rows = sorted(buffer.row_entries(entries), key=lambda entry: entry.id)
    deadletters.supersede(buffer, rows, entries)
    try:
        write_rows(buffer.layout(), rows, stored, over_new=stored is None)
    except ValidationError:
        _refuse(buffer, rows)
        raise
    deleted = [entry for entry in entries if entry.deleted]
    fences.leave(buffer, [*rows, *deleted], now, whole=whole)


def _refuse(buffer: KeyedDeclaration, rows: Sequence[Entry]) -> None:
    """Say of a row that is refused for the outcome of an operation what Redis would say."""
    layout = buffer.layout()
    stored = rows_by_id(layout, [entry.id for entry in rows])
    for entry in rows:
        try:
            fold(layout, entry, None if (row := stored.get(entry.id)) is None else row.__dict__)
        except ValidationError as error:
            codes = {each.code for errors in error.error_dict.values() for each in errors}
            if codes <= {"range", "max_whole_digits"}:
                names = buffer.refused_fields(entry, error.error_dict)
                raise out_of_range(names, "nothing was changed") from None


def _distinct(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """The writes in parts, in each of which no two are to the same row."""
    part: dict[str, Write] = {}
    for write in writes:
        if write.id in part:
            yield list(part.values())
            part = {}
        part[write.id] = write
    if part:
        yield list(part.values())


# Logs


def append(buffer: Declaration, records: Sequence[Record], *, once: Once | None = None) -> None:
    """Insert records, all or none."""
    now = clock.now()
    entries = [record.entry(no) for no, record in enumerate(records, now)]
    _commit(buffer, lambda: write_rows(buffer.layout(), entries), once)


# Transactions


def _commit(
    buffer: Declaration, act: Callable[[], _Result], once: Once | None = None
) -> _Result | None:
    """Act in a transaction, again where somebody was in the way: with locks, or with a row. Where
    the caller has a transaction, or autocommit is off, the caller commits: a deadlock may have
    rolled back more than this call."""
    connection = connections[buffer.layout().using]
    is_whole = not connection.in_atomic_block and autocommits(connection)
    for attempt in range(_TRIES):
        try:
            with transaction.atomic(using=connection.alias):
                if connection.vendor == "sqlite":
                    # Who has read before he writes is refused, where another one wrote in between.
                    Fence.objects.using(connection.alias).filter(pk=0).update(at=0)
                return once.settled(act) if once else act()
        except Exception as error:
            transient = kind(error) == "transient" and is_whole
            if attempt == _TRIES - 1 or not (transient or isinstance(error, IntegrityError)):
                raise
            time.sleep(random.uniform(0, _PAUSE * 2**attempt))
    raise AssertionError("unreachable")
