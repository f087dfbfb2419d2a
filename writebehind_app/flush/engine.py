"""Flush a buffer, shard by shard: claim a batch, apply it to the database, acknowledge it.

A crash between any two steps leaves this:

before claim        everything is pending
claim … commit      the batch is in flight and not in the database; when the lease is over, the
                    next flusher applies the same batch under the same token
commit … ack        the batch is in flight and its token is in the ledger; the next flusher finds
                    the token there and only acknowledges the batch
after ack           the batch is in the database and nowhere else
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, fields

from django.db import Error, connections

from writebehind_app import conf
from writebehind_app.checkpoints import reach
from writebehind_app.database.divided import learn
from writebehind_app.database.transactions import check_outside_transaction
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferPaused, WritebehindError
from writebehind_app.flush.batch import POLL, flush_batch
from writebehind_app.flush.pruning import prune
from writebehind_app.flush.report import lacks_tables
from writebehind_app.flush.work import Work, given_back, which_of, works_of
from writebehind_app.store import state
from writebehind_app.store.connection import client
from writebehind_app.store.shard import Batch, Wait

logger = logging.getLogger("writebehind")


@dataclass(slots=True, kw_only=True)
class FlushResult:
    """The result of a flush."""

    rows: int = 0  # rows written or deleted in the database
    batches: int = 0
    dead_letters: int = 0
    remaining: int = 0  # entries that should have been flushed and were not
    seconds: float = 0.0
    statements: int = 0
    errors: int = 0  # batches that failed

    def add(self, other: FlushResult) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def flush(
    buffer: Declaration,
    *,
    ids: Sequence[str] = (),
    due_only: bool = False,
    batch_size: int | None = None,
    limit: int | None = None,
    deadline: float | None = None,
    ignore_backoff: bool = False,
    raise_errors: bool = False,
    wait: bool = True,
    pruning: bool = True,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda entries: None,
) -> FlushResult:
    """Flush what the buffer holds now: all entries, those that are due, or those of some ids.

    With ids, only the database that is written to is flushed. The flush ends early after `limit`
    entries, at the `deadline` (of `time.monotonic()`), or between two batches if `stop()` is true.
    If another flusher has a shard, it is waited for, unless `wait` is False. Expired rows are
    deleted too, unless `pruning` is False. Errors of the database are logged, and the other shards
    are flushed anyway; with `raise_errors`, the first error is raised at the end.
    """
    total, failures, flushed = FlushResult(), [], 0

    def count(entries: int) -> None:
        nonlocal flushed
        flushed += entries
        progress(entries)

    here, *others = [buffer.using()] if ids else buffer.databases()
    for alias in (here, *others):
        with buffer.in_database(alias):
            if alias != here and not state.holding(client(patient=True), buffer.shards()):
                continue
            part, why = _flush_here(
                buffer,
                ids=ids,
                due_only=due_only,
                batch_size=batch_size,
                limit=None if limit is None else max(limit - flushed, 0),
                deadline=deadline,
                ignore_backoff=ignore_backoff,
                wait=wait,
                pruning=pruning and not ids,
                stop=stop,
                progress=count,
            )
        total.add(part)
        failures += why
    if raise_errors and failures:
        raise failures[0]
    return total


def holding(buffers: Sequence[Declaration]) -> list[Declaration]:
    """The buffers that hold any entries, for any of their databases. One round trip."""
    learn(buffers, patient=True)
    every = [(buffer, shard) for buffer in buffers for shard in buffer.every_shard()]
    found = state.holding(client(patient=True), [shard for _, shard in every])
    return [*dict.fromkeys(buffer for buffer, shard in every if shard.key in found)]


def _flush_here(
    buffer: Declaration,
    *,
    ids: Sequence[str],
    due_only: bool,
    batch_size: int | None,
    limit: int | None,
    deadline: float | None,
    ignore_backoff: bool,
    wait: bool,
    pruning: bool,
    stop: Callable[[], bool],
    progress: Callable[[int], None],
) -> tuple[FlushResult, list[Exception]]:
    """Flush one database. Return the result, and what went wrong."""
    check_outside_transaction(buffer.layout().using)
    started, result = time.monotonic(), FlushResult()
    failures: list[Exception] = []
    is_paused = alone = False
    size = batch_size or buffer.option("BATCH_SIZE")

    def over() -> bool:
        return stop() or (deadline is not None and time.monotonic() >= deadline)

    def claim(work: Work, budget: int) -> Batch | Wait | None:
        reach("flush.claiming")
        work.token = secrets.token_hex(16)
        batch = work.shard.claim(
            work.token,
            lease=conf.settings().LEASE,
            size=budget,
            max_age=buffer.option("MAX_AGE"),
            which=which_of(buffer, due_only=due_only),
            ids=work.ids[:budget],
            ignore_backoff=ignore_backoff,
            bases=buffer.bases() is not None,
        )
        if isinstance(batch, Batch):
            work.claimed = batch.token
            reach("flush.claimed")
        return batch

    def next_claim() -> Callable[[], tuple[Work, int, Batch | Wait | None]] | None:
        """A function that makes the next claim, or None. A claimed batch is always applied."""
        nonlocal limit
        if not queue or over() or limit == 0:
            return None
        work = queue.popleft()
        budget = min(size, work.left)
        if limit is not None:
            budget = min(budget, limit)
            limit -= budget
        return lambda: (work, budget, claim(work, budget))

    if pruning and not over():
        try:
            prune(buffer, size)
        except Error as error:
            if not lacks_tables(buffer, error):
                logger.exception("%s: expired rows could not be looked up", buffer)
            connections[buffer.layout().using].close_if_unusable_or_obsolete()
            failures.append(error)
        except WritebehindError as error:  # a full Redis takes no deletes: drain it first
            logger.warning("%s: expired rows stay until the next flush: %s", buffer, error)
    works = works_of(buffer, ids, due_only=due_only)
    queue = deque(works)
    with (
        given_back(works),
        ThreadPoolExecutor(1, thread_name_prefix="writebehind-claim") as ahead,
    ):
        claimed = next_claim()
        while claimed is not None:
            work, budget, batch = claimed()
            if limit is not None:  # give back what the claim did not use
                used = len(batch.entries) if isinstance(batch, Batch) else 0
                limit = max(limit + budget - used, 0)  # a batch taken over may be larger
            # Claim the next shard's batch while the database takes this one. Not if shards need
            # each other: this flusher would hold the batch that it waits for.
            following = next_claim() if isinstance(batch, Batch) and not alone else None
            # A router may ask the caller's context.
            claimed = following and ahead.submit(copy_context().run, following).result
            match batch:
                case None:
                    work.left = 0
                case Wait(reason="paused"):
                    if work.is_held():
                        is_paused = True
                    else:
                        work.left = 0
                case Wait(reason="busy") if wait:
                    time.sleep(min(POLL, batch.seconds))
                    queue.append(work)
                case Batch():
                    work.until = work.until or time.monotonic() + conf.settings().LEASE
                    is_patient = wait and time.monotonic() < work.until
                    applied = flush_batch(buffer, work.number, work.shard, batch, wait=is_patient)
                    if applied is None:
                        queue.append(work)
                        alone = True
                    elif isinstance(applied, Exception):
                        failures.append(applied)
                    else:
                        for each in applied:
                            result.rows += each.rows
                            result.dead_letters += len(each.dead_letters)
                        result.statements += applied[-1].statements  # of the whole transaction
                        result.batches += len(applied)
                        work.done(batch)
                        work.until = 0.0
                        progress(len(batch.entries))
                        if work.left:
                            queue.append(work)
            claimed = claimed or next_claim()
    result.errors = len(failures)
    result.remaining = sum(work.left for work in works)
    result.seconds = time.monotonic() - started
    if is_paused:
        failures.append(
            BufferPaused(f"{buffer} is paused: its entries wait for writebehind_resume.")
        )
    return result, failures
