"""A batch goes into the database: one transaction, a few statements, exactly once."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from django.conf import settings
from django.db import IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from writebehind_app import conf
from writebehind_app.database import deadletters, once, retained
from writebehind_app.database.failures import storable
from writebehind_app.database.fences import Fences, of_rows
from writebehind_app.database.isolation import Refused, write_isolating
from writebehind_app.database.rows import write
from writebehind_app.declaration import Declaration, KeyedDeclaration
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.layout import Layout, moment
from writebehind_app.fields.versions import current
from writebehind_app.models import AppliedBatch, DeadLetter
from writebehind_app.steps import reach
from writebehind_app.store.codec import understood
from writebehind_app.store.shard import Batch

_MOST_ATTEMPTS = 2**31 - 1  # that the ledger takes


class AlreadyApplied(Exception):
    """The ledger refused the token, because a flusher before this one committed the batch and did
    not acknowledge it, or for the reason given."""

    def __init__(self, reason: IntegrityError) -> None:
        super().__init__(reason)
        self.reason = reason


class Fenced(Exception):
    """Rows of the batch were written directly."""

    def __init__(self, fences: Fences) -> None:
        super().__init__("Rows of the batch are written directly all the time.")
        self.fences = fences


class AllRefused(Exception):
    """The database refuses each single entry of a large batch: that is hardly their fault."""

    def __init__(self, refused: Sequence[Refused]) -> None:
        error = refused[0].error
        super().__init__(
            f"All {len(refused)} entries are refused, the first for {type(error).__name__}: {error}"
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch came to."""

    rows: int  # written or deleted
    statements: int
    seconds: float
    dead_letters: Sequence[DeadLetter] = ()
    written: Sequence[Entry] = ()  # what was written, row by row
    copies: Mapping[str, str] = field(default_factory=dict)  # what is stored now, by id, for reads


def apply(
    buffer: Declaration,
    shard: int,
    batch: Batch,
    *,
    isolating: bool = False,
    fences: Fences | None = None,
) -> Applied:
    """Write a batch and its token to the database, or raise and leave the database as it was.

    `isolating`, what the database refuses becomes a dead letter, and the rest is written. `Fenced`
    where some of its rows were written directly: it is to be applied again with their fences.
    """
    started = time.monotonic()
    layout = buffer.layout()
    with (
        _statements(connections[layout.using]) as count,
        transaction.atomic(using=layout.using, durable=True),
    ):
        enter(buffer, shard, batch)
        reach("flush.token")
        if isolating:
            fences = of_rows(buffer) if fences is None else fences
            rows, written, refused = write_isolating(buffer, batch.entries, fences)
            entries, ids = written, [entry.id for entry in written]
            by_database = [each for each in refused if each.is_readable]
            if not written and len(by_database) >= conf.settings().POISON_LIMIT:
                raise AllRefused(by_database)
            deadletters.supersede(buffer, written, batch.entries, refused)
        else:
            # Always in the same order, whatever the order of the writes was.
            readable = understood(batch.entries, records=not layout.key)
            every = buffer.row_entries(current(buffer, readable))
            entries = sorted(every, key=lambda entry: entry.id)
            ids = [entry.id for entry in entries]
            if fences is not None:
                entries = fences.left_of_all(entries)
            deadletters.supersede(buffer, entries, batch.entries)
            rows, refused = write(layout, entries), []
        letters = deadletters.bury(buffer, shard, refused)
        once.settle(buffer, batch.entries)
        reach("flush.buried")
        # By now the rows are locked: whoever writes to one directly comes before this, and has
        # left a fence, or after the end of the transaction.
        if fences is None:
            if found := of_rows(buffer, ids):
                raise Fenced(found)
        elif not fences.are_current():
            raise Fenced(Fences(buffer, fences.ids))
        copies: dict[str, str] = {}
        if not isolating and isinstance(buffer, KeyedDeclaration) and retained.seconds(buffer):
            copies = retained.copies(buffer, [entry.id for entry in batch.entries])
        statements, seconds = count() + 1, time.monotonic() - started
        AppliedBatch.objects.using(layout.using).filter(token=batch.token).update(
            rows=rows,
            dead_letters=len(letters),
            statements=statements,
            duration=datetime.timedelta(seconds=seconds),
        )
    return Applied(rows, statements, seconds, letters, entries, copies)


def enter(buffer: Declaration, shard: int, batch: Batch) -> None:
    """Put the token into the ledger. Whoever else does waits here for the end of this
    transaction, and then finds it there."""
    layout = buffer.layout()
    entries = [entry for entry in batch.entries if not entry.broken]
    oldest = min((entry.since for entry in entries), default=0)
    record = AppliedBatch(
        token=batch.token,
        buffer=buffer.label,
        shard=shard,
        entries=len(batch.entries),
        oldest_at=_stored(moment(oldest)),
        upto=None if layout.key else max((entry.no for entry in entries), default=None),
        attempts=min(max(batch.attempts, 0), _MOST_ATTEMPTS),  # somebody else may have written it
        error=storable(batch.error)[:500],
        applied_at=timezone.now(),
    )
    try:
        record.save(using=layout.using, force_insert=True)
    except IntegrityError as error:
        raise AlreadyApplied(error) from None


def state_of(layout: Layout, token: str) -> Literal["absent", "applied", "void"]:
    """What the ledger says of a token. A batch that was applied has a duration."""
    ledger = AppliedBatch.objects.using(layout.using).filter(token=token)
    found = list(ledger.values_list("duration", flat=True))
    if not found:
        return "absent"
    return "void" if found[0] is None else "applied"


def _stored(at: datetime.datetime) -> datetime.datetime:
    return at if settings.USE_TZ else timezone.make_naive(at)


@contextmanager
def _statements(connection: BaseDatabaseWrapper) -> Iterator[Callable[[], int]]:
    """Counts the statements that are executed."""
    statements = 0

    def count(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        nonlocal statements
        statements += 1
        return execute(sql, params, many, context)

    with connection.execute_wrapper(count):
        yield lambda: statements
