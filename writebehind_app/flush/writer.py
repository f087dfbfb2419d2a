"""Write a batch to the database: one transaction, a few statements, exactly once."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from writebehind_app import conf
from writebehind_app.checkpoints import reach
from writebehind_app.database import deadletters, fences, once, superseding
from writebehind_app.database.bases import new_bases
from writebehind_app.database.bisect import Refused
from writebehind_app.database.failures import is_duplicate
from writebehind_app.database.isolation import write_isolating
from writebehind_app.database.order import Written
from writebehind_app.database.parents import Row, refers_to
from writebehind_app.database.planner import what_counts, write_counting
from writebehind_app.database.transactions import transaction_of_batch
from writebehind_app.declaration import Declaration, KeyedDeclaration
from writebehind_app.exceptions import WritebehindError
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.versions import current
from writebehind_app.flush import ledger
from writebehind_app.models import AppliedBatch, DeadLetter
from writebehind_app.store.codec import understood
from writebehind_app.store.shard import Batch, Shard


class AllRefused(WritebehindError):
    """The database refuses every entry of a large batch: the fault is probably not in them."""

    def __init__(self, refused: Sequence[Refused]) -> None:
        error = refused[0].error
        super().__init__(
            f"All {len(refused)} entries are refused. The first: {type(error).__name__}: {error}"
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch."""

    rows: int  # rows written or deleted
    statements: int
    seconds: float
    dead_letters: Sequence[DeadLetter] = ()
    written: Sequence[Entry] = ()  # the written entries, one for each row
    bases: Mapping[str, str] = field(default_factory=dict)  # new bases of ids that had one


@dataclass(slots=True)
class Claimed:
    """A batch that a flusher claimed, and its shard. An extension puts another batch in its
    place."""

    buffer: Declaration
    number: int  # of the shard
    shard: Shard
    batch: Batch


def apply(
    buffer: Declaration,
    number: int,
    batch: Batch,
    *,
    related: Sequence[Claimed] = (),
    isolating: bool = False,
    insist: bool = False,
    joined: Set[Row] = frozenset(),
) -> list[Applied]:
    """Write a batch, its token, and the `related` batches with theirs, in one transaction.

    Return what became of each batch. If this raises, nothing was written. With `isolating`, refused
    entries become dead letters and the others are written. With `insist`, this also holds for
    unknown errors, and even if every entry is refused. `joined` as in `write_isolating`.
    """
    started = time.monotonic()
    layout = buffer.layout()
    batches = [(buffer, number, batch), *((c.buffer, c.number, c.batch) for c in related)]
    with (
        _statements(connections[layout.using]) as count,
        transaction_of_batch(layout.using),
    ):
        for in_order in sorted(batches, key=lambda each: each[2].token):
            ledger.enter(*in_order)
        reach("flush.token")
        in_steps = bool(related) or _has_order(buffer, batch)
        if isolating or in_steps:
            written = write_isolating(
                [(buffer, batch.entries) for buffer, _, batch in batches],
                tried=not in_steps,
                insist=insist,
                joined=joined,
            )
        else:
            written = [_write_all(buffer, batch)]
        for each in written:
            fences.check_new(each.buffer, each.new)
        outcomes = []
        for (of, shard, its), found in zip(batches, written, strict=True):
            doubtful = [
                each for each in found.refused if each.is_readable and not is_duplicate(each.error)
            ]
            entries = found.entries
            if not (entries or insist) and len(doubtful) >= conf.settings().POISON_LIMIT:
                raise AllRefused(doubtful)
            superseding.supersede(of, entries, its.entries, found.refused)
            letters = deadletters.bury(of, shard, found.refused)
            once.settle(of, its.entries)
            outcomes.append((found, letters, its.token, _bases(of, its)))
        reach("flush.buried")
        applied = []
        for found, letters, token, bases in outcomes:
            statements, seconds = count() + 1, time.monotonic() - started
            AppliedBatch.objects.using(layout.using).filter(token=token).update(
                rows=found.rows,
                dead_letters=len(letters),
                statements=statements,
                duration=datetime.timedelta(seconds=seconds),
            )
            applied.append(Applied(found.rows, statements, seconds, letters, found.entries, bases))
    return applied


def _write_all(buffer: Declaration, batch: Batch) -> Written:
    """Write a whole batch, in the order of the ids: so two transactions do not deadlock."""
    readable = understood(batch.entries)
    every = buffer.row_entries(current(buffer, readable))
    in_order = sorted(every, key=lambda entry: entry.id)
    counting, written = what_counts(buffer, in_order), Written(buffer)
    written.rows = write_counting(buffer, counting, written.new)
    written.entries = list(counting.entries)
    return written


def _bases(buffer: Declaration, batch: Batch) -> Mapping[str, str]:
    """The new bases of the ids that had a base when the batch was claimed."""
    if not batch.based or not isinstance(buffer, KeyedDeclaration):
        return {}
    entries = {entry.id: entry for entry in batch.entries if entry.id in batch.based}
    return new_bases(buffer, entries)


def last_delete(batch: Batch) -> int:
    """The number of the last deletion in a batch; 0 if there is none."""
    layers = (layer for entry in batch.entries for layer in (*entry.older, entry))
    return max((layer.deleted for layer in layers), default=0)


def last_write(batch: Batch) -> int:
    """The number of the last write in a batch."""
    return max((entry.last for entry in batch.entries), default=0)


def _has_order(buffer: Declaration, batch: Batch) -> bool:
    """Whether a deletion in a batch may delete rows of its other entries."""
    return last_delete(batch) > 0 and refers_to(buffer.model, buffer.model)


@contextmanager
def _statements(connection: BaseDatabaseWrapper) -> Iterator[Callable[[], int]]:
    """Count the statements that are executed in the block."""
    statements = 0

    def count(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        nonlocal statements
        statements += 1
        return execute(sql, params, many, context)

    with connection.execute_wrapper(count):
        yield lambda: statements
