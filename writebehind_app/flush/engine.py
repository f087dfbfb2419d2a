"""What is pending goes to the database: claim, apply, acknowledge, shard by shard.

A crash between any two steps leaves this:

before claim        everything is pending
claim … commit      the batch is in flight, the database knows nothing of it; once the lease has
                    ended, the next flusher applies the same batch under the same token
commit … ack        the batch is in flight and its token is in the ledger; the next flusher finds
                    it there and only acknowledges
after ack           the batch is in the database and nowhere else
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import Error, connections

from writebehind_app import conf
from writebehind_app.database import deadletters, retained
from writebehind_app.database.failures import Kind, kind, storable
from writebehind_app.database.parents import ParentPending
from writebehind_app.database.transactions import check_outside_transaction
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferPaused, WritebehindError
from writebehind_app.flush.garbage import paused
from writebehind_app.flush.lease import renewed
from writebehind_app.flush.pruning import prune
from writebehind_app.flush.telling import tell
from writebehind_app.flush.writer import (
    AlreadyApplied,
    Applied,
    Fenced,
    apply,
    state_of,
)
from writebehind_app.models import DeadLetter
from writebehind_app.signals import flush_failed
from writebehind_app.steps import reach
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client
from writebehind_app.store.shard import Batch, Shard, Wait

logger = logging.getLogger("writebehind")

_POLL = 0.02  # seconds between two looks at a shard that another flusher is busy with
_AGAIN = 100  # dead letters that are tried once more when all shards were flushed
_TRIES = 5  # of one batch in a row, where the database is likely to take it the next time


@dataclass(slots=True, kw_only=True)
class FlushResult:
    """What a flush came to."""

    rows: int = 0  # written or deleted in the database
    batches: int = 0
    dead_letters: int = 0
    remaining: int = 0  # entries that were to be flushed and are not
    seconds: float = 0.0
    statements: int = 0
    errors: int = 0  # batches that failed

    def add(self, other: FlushResult) -> None:
        self.rows += other.rows
        self.batches += other.batches
        self.dead_letters += other.dead_letters
        self.remaining += other.remaining
        self.seconds += other.seconds
        self.statements += other.statements
        self.errors += other.errors


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
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda entries: None,
) -> FlushResult:
    """Flush what the buffer holds at this moment: all of it, what is due of it, or some ids.

    It ends early at `limit` entries, at the `deadline` (of `time.monotonic()`), and, between two
    batches, when `stop()` says so. A shard that another flusher is at is waited for, unless `wait`
    is False. Errors of the database are logged, and raised at the end if `raise_errors` is set:
    the other shards are flushed all the same.
    """
    check_outside_transaction(buffer.layout().using)
    started = time.monotonic()
    result = FlushResult()
    failures: list[Exception] = []
    letters: list[DeadLetter] = []
    is_paused = False
    size = batch_size or buffer.option("BATCH_SIZE")

    def over() -> bool:
        return stop() or (deadline is not None and time.monotonic() >= deadline)

    def claim(work: _Work, budget: int) -> Batch | Wait | None:
        reach("flush.claiming")
        work.token = secrets.token_hex(16)
        batch = work.shard.claim(
            work.token,
            lease=conf.settings().LEASE,
            size=budget,
            due_only=due_only,
            ids=work.ids[:budget],
            ignore_backoff=ignore_backoff,
        )
        if isinstance(batch, Batch):
            work.claimed = batch.token
            reach("flush.claimed")
        return batch

    def next_claim() -> Callable[[], tuple[_Work, int, Batch | Wait | None]] | None:
        """The claim to be made next, if there is one. What is claimed is always applied."""
        nonlocal limit
        if not queue or over() or limit == 0:
            return None
        work = queue.popleft()
        budget = min(size, work.left)
        if limit is not None:
            budget = min(budget, limit)
            limit -= budget
        return lambda: (work, budget, claim(work, budget))

    if not ids and not over():
        try:
            prune(buffer, size)
        except Error as error:
            logger.exception("%s: what has expired could not be looked up", buffer)
            connections[buffer.layout().using].close_if_unusable_or_obsolete()
            failures.append(error)
        except WritebehindError as error:  # a full Redis takes no writes, and is to be drained
            logger.warning("%s: what has expired stays until the next flush: %s", buffer, error)
    works = _works(buffer, ids, due_only=due_only)
    queue = deque(works)
    with (
        _given_back(works),
        ThreadPoolExecutor(1, thread_name_prefix="writebehind-claim") as ahead,
    ):
        claimed = next_claim()
        while claimed is not None:
            work, budget, batch = claimed()
            if limit is not None:  # what it did not use up
                used = len(batch.entries) if isinstance(batch, Batch) else 0
                limit = max(limit + budget - used, 0)  # a batch taken over has the size it has
            # Redis gets the next shard's batch ready while the database takes this one.
            following = next_claim() if isinstance(batch, Batch) else None
            claimed = following and ahead.submit(following).result
            match batch:
                case None:
                    work.left = 0
                case Wait(reason="paused"):
                    if work.is_held():
                        is_paused = True
                    else:
                        work.left = 0
                case Wait(reason="busy") if wait:
                    time.sleep(min(_POLL, batch.seconds))
                    queue.append(work)
                case Batch():
                    applied = _flush_batch(buffer, work.number, work.shard, batch)
                    if applied is None:
                        queue.append(work)
                    elif isinstance(applied, Exception):
                        failures.append(applied)
                    else:
                        result.rows += applied.rows
                        result.statements += applied.statements
                        result.batches += 1
                        letters += applied.dead_letters
                        work.done(batch)
                        progress(len(batch.entries))
                        if work.left:
                            queue.append(work)
            claimed = claimed or next_claim()
    result.errors = len(failures)
    result.dead_letters = len(letters)
    if letters and len(works) > 1:
        # What one shard gave up may be what another had to have first: a unique value.
        again = [letter.pk for letter in letters[:_AGAIN]]
        try:
            result.dead_letters -= deadletters.retry(buffer, again)[0]
        except (Error, ParentPending, WritebehindError, DeadLetter.DoesNotExist):
            logger.exception("%s: dead letters could not be tried once more", buffer)
    result.remaining = sum(work.left for work in works)
    result.seconds = time.monotonic() - started
    if raise_errors and failures:
        raise failures[0]
    if raise_errors and is_paused:
        raise BufferPaused(f"{buffer} is paused: what is pending waits for writebehind_resume.")
    return result


@dataclass(slots=True)
class _Work:
    """What is to be done in a shard."""

    number: int
    shard: Shard
    left: int  # entries to be flushed
    ids: Sequence[str] = ()  # which, if not all
    token: str = ""  # of the last claim
    claimed: str = ""  # the token of the batch that it got

    def is_held(self) -> bool:
        """Whether Redis has anything of it: of ids that were asked for nobody knows before."""
        if not self.ids:
            return True
        found = store.read(self.shard.client, {self.shard.key: [*self.ids]})[self.shard.key]
        return bool(found.pending or found.in_flight)

    def done(self, batch: Batch) -> None:
        if not self.ids:
            self.left = max(self.left - len(batch.entries), 0)
        elif batch.token == self.token:  # and not one that a dead flusher left
            claimed = {entry.id for entry in batch.entries}
            # What is left may be nowhere: the next claim says so.
            self.ids = [id for id in self.ids if id not in claimed]
            self.left = len(self.ids)


@contextmanager
def _given_back(works: Sequence[_Work]) -> Iterator[None]:
    """Where the flusher is told to end in the middle, as by Django-Q2 when a task takes too long,
    nobody has to wait for the ends of its leases."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        for work in works:
            work.shard.release(work.claimed, retry_in=0, error="The flusher was told to end.")
        raise


def _works(buffer: Declaration, ids: Sequence[str], *, due_only: bool) -> list[_Work]:
    keys = buffer.shard_keys()
    shards = buffer.shards(patient=True)
    if ids:
        by_shard: dict[int, list[str]] = {}
        for id in dict.fromkeys(ids):
            by_shard.setdefault(keys.index(buffer.shard_key_of(id)), []).append(id)
        return [_Work(n, shards[n], len(own), own) for n, own in by_shard.items()]
    works = []
    for number, counts in enumerate(store.count(client(patient=True), keys).values()):
        left = (counts.due if due_only else counts.pending) + counts.in_flight
        if left:
            works.append(_Work(number, shards[number], left))
    return works


class Void(Exception):
    """Somebody discarded of the batch, and nothing may be applied under its token any more."""


def _flush_batch(
    buffer: Declaration, number: int, shard: Shard, batch: Batch
) -> Applied | Exception | None:
    """Apply a claimed batch and acknowledge it; or give it back and return what went wrong; or
    None for one that has to be claimed again."""
    try:
        with paused(), renewed(shard, batch.token, conf.settings().LEASE):
            applied = _apply(buffer, number, batch)
    except Void:
        shard.revoke(batch.token)
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is, the batch is given back
        _give_back(buffer, number, shard, batch, error)
        return error
    reach("flush.committed")
    dead, seconds = len(applied.dead_letters), applied.seconds
    shard.ack(
        batch.token,
        rows=applied.rows,
        dead_letters=dead,
        seconds=seconds,
        retain=retained.seconds(buffer),
        copies=applied.copies,
    )
    reach("flush.acked")
    tell(buffer, number, batch, applied)
    return applied


def _give_back(
    buffer: Declaration, number: int, shard: Shard, batch: Batch, error: Exception
) -> None:
    settings = conf.settings()
    longest = min(settings.MAX_BACKOFF, settings.BACKOFF * 2 ** min(batch.attempts, 30))
    delay = longest * random.uniform(0.5, 1)  # not all at once, where many wait for one thing
    logger.error(
        "%s: a batch of %d entries failed (%d before) and waits, the next try is in %.1f s: %s",
        buffer,
        len(batch.entries),
        batch.attempts,
        delay,
        _WHY[kind(error)],
        exc_info=error,
    )
    connections[buffer.layout().using].close_if_unusable_or_obsolete()
    # A database quotes values, and this is shown to people; the log has all of it.
    why = type(error).__name__ if buffer.sensitive else f"{type(error).__name__}: {error}"
    shard.release(batch.token, retry_in=delay, error=storable(why[:500]))
    flush_failed.send_robust(
        buffer.model, buffer=buffer, shard=number, error=error, attempts=batch.attempts + 1
    )


_WHY: dict[Kind, str] = {
    "row": "its entries are refused, but not one by one",
    "schema": "a table, a column or a right may be missing, or code that is new enough",
    "transient": "others were in the way each time",
    "connection": "the database is out of reach, full, or takes no writes",
}


def _apply(buffer: Declaration, number: int, batch: Batch) -> Applied:
    """Apply a batch: what it is refused for is isolated, and who is in the way is waited for."""
    isolating, held = False, None
    for attempt in range(1, _TRIES + 1):
        try:
            return apply(buffer, number, batch, isolating=isolating, fences=held)
        except Fenced as error:
            held = error.fences
            if attempt == _TRIES:
                raise
        except AlreadyApplied as refused:
            match state_of(buffer.layout(), batch.token):
                case "absent":  # the ledger refused it for something else
                    raise refused.reason from None
                case "void":
                    raise Void from None
            return Applied(rows=0, statements=1, seconds=0.0)
        except ParentPending as error:
            flush(error.parent, ids=error.ids, wait=False)
            if attempt == _TRIES:
                raise
        except Exception as error:
            found = kind(error)
            if attempt == _TRIES or found in ("schema", "connection"):
                raise
            if found == "transient" or isolating:
                connections[buffer.layout().using].close_if_unusable_or_obsolete()
                time.sleep(_POLL * attempt)
            isolating = isolating or found == "row"
    raise AssertionError("unreachable")
