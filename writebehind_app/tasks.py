"""What a scheduler calls: plain functions for Django-Q2, Celery beat, RQ, cron or a thread.

Any of them may run at any time, twice, or at once with others: a batch is applied once.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any

from django.db import Error, close_old_connections
from django.db.transaction import TransactionManagementError

from writebehind_app import conf, jobs, registry, schedules
from writebehind_app.database.failures import is_end
from writebehind_app.database.parents import parents_first
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.flush import engine, pruning
from writebehind_app.flush.engine import FlushResult
from writebehind_app.flush.report import lacks_tables
from writebehind_app.store import divisions, locks, state
from writebehind_app.store.connection import client, is_logged
from writebehind_app.store.keys import shared_key

logger = logging.getLogger("writebehind")

_PAUSE = 0.2  # seconds between two looks at what is due
_IDLE = 1.0  # and where nothing is pending, at most
_ALIVE = 3.0  # seconds after which one that gave no sign of life is taken for dead
_AT_ONCE = 5.0  # seconds that a flush of a single entry waits for others


def flush_due(*labels: str, seconds: float = 0.0, fan_out: bool = False) -> dict[str, int]:
    """Flush what is due of these buffers, or of all; again and again for so many `seconds`.
    Returns the sums of `rows`, `batches`, `dead_letters` and `errors`. If Redis is away, it raises
    `BufferUnavailable`; with `seconds` it logs that and tries again.

    `fan_out` is for workers of Django-Q2. Their clock is slower than entries become due. So one
    task flushes for so many `seconds`, and then asks for the next such task. Of several buffers
    that are due, it hands all but one to other workers. A second such task leaves, once it is sure
    that the first one lives.
    """
    buffers = _buffers(labels)
    total = FlushResult()
    if fan_out:
        _tick(buffers, seconds, total)
    else:
        _go_on(buffers, seconds, total)
    return {
        "rows": total.rows,
        "batches": total.batches,
        "dead_letters": total.dead_letters,
        "errors": total.errors,
    }


def flush_entry(label: str, id: str, using: str | None = None) -> int:
    """Flush one entry, by the `id` of its receipt. Returns how many rows were written.

    Its row is in the database that the router names, or in `using`. If the entry cannot be flushed
    now, it stays pending, and the next flusher takes it.
    """
    for buffer in _buffers([label]):
        try:
            with buffer.in_database(using or buffer.using()):
                return engine.flush(buffer, ids=[id], deadline=time.monotonic() + _AT_ONCE).rows
        except BufferUnavailable as error:
            logger.error("%s: an entry cannot be flushed at once: %s", buffer, error)
    return 0


def prune() -> int:
    """Remove what has expired: rows of buffers with `expires`, dead letters, fences, old rows of
    the ledger. Returns how many rows go with the next flush."""
    expired = 0
    for buffer in _buffers():
        try:
            expired += pruning.prune(buffer, buffer.option("BATCH_SIZE"))
        except Error as error:
            if not lacks_tables(buffer, error):
                raise
    return expired


def tick_at_once(**kwargs: Any) -> None:
    """When a worker of Django-Q2 starts: it may be the first one, or come in place of one that died
    in the middle. The clock would take half a minute to start anything."""
    if parent_process() is None:
        return  # no worker: a task runs in the very process that asks for it
    try:
        wanted = schedules.is_on() and locks.hold(
            client(), shared_key(conf.prefix(), "start"), secrets.token_hex(8), 1
        )
    except Exception as error:  # noqa: BLE001 - the worker is the project's, and has to start
        logger.warning("The first tick is left to the clock of Django-Q2: %s", error)
    else:
        if wanted:
            jobs.enqueue("flush_due", **schedules.TICK)


def _buffers(labels: Sequence[str] = ()) -> list[Declaration]:
    known = registry.buffers()
    for label in labels:
        if label not in known:  # a job from before a deploy
            logger.warning("There is no buffer %s any more, and nothing to be flushed.", label)
    wanted = [known[label] for label in labels if label in known]
    return parents_first(wanted if labels else list(known.values()))


def _due(buffers: Sequence[Declaration]) -> list[Declaration]:
    """Of buffers that hold something, those with something to be flushed, a batch that somebody
    left in flight included."""
    redis = client(patient=True)

    def ask() -> dict[str, state.Counts]:
        return state.count(redis, [shard for buffer in buffers for shard in buffer.every_shard()])

    counts = divisions.asked(redis, ask)
    return [
        buffer
        for buffer in buffers
        if any(counts[s.key].due or counts[s.key].in_flight for s in buffer.every_shard())
    ]


def _wait(buffers: Sequence[Declaration], held: Sequence[Declaration], most: float) -> None:
    """Wait for the next look at what is due: not for long where something is pending, nor longer
    than until something may be due that is written now."""
    ages = [each.option("MAX_AGE") for each in buffers]
    silences = [quiet for each in buffers if (quiet := each.option("QUIET"))]
    time.sleep(_PAUSE if held else max(_PAUSE, min(_IDLE, most, *ages, *silences)))


def _go_on(buffers: Sequence[Declaration], seconds: float, total: FlushResult) -> None:
    deadline = time.monotonic() + seconds
    held: Sequence[Declaration] = ()
    while True:
        held, away = _pass(buffers, total, deadline if seconds else None)
        if away and not seconds:
            raise away
        if time.monotonic() >= deadline:
            break
        close_old_connections()
        _wait(buffers, held, deadline - time.monotonic())


def _pass(
    buffers: Sequence[Declaration],
    total: FlushResult,
    deadline: float | None,
    choose: Callable[[list[Declaration]], list[Declaration]] = list,
) -> tuple[list[Declaration], BufferUnavailable | None]:
    """Flush what is due, of the buffers that `choose` leaves. Return the buffers that hold
    anything; and why nothing can be flushed of some, or of all. Where buffers are on several Redis,
    the others are flushed while one is away."""
    groups = registry.by_server(buffers)
    held: list[Declaration] = []
    due: list[Declaration] = []
    away: list[BufferUnavailable] = []

    @contextmanager
    def noting() -> Iterator[None]:
        try:
            yield
        except BufferUnavailable as error:
            away.append(error)
            if deadline is not None and not is_logged(error):
                logger.error("Nothing can be flushed: %s", error)

    for group in groups:
        with noting():
            holding = engine.holding(group)
            due += _due(holding)
            held += holding
    for buffer in choose([buffer for buffer in buffers if buffer in due]):
        with noting():
            total.add(_flush(buffer, deadline))
        if away and len(groups) == 1:
            break
    return held, away[0] if away else None


def _flush(buffer: Declaration, deadline: float | None) -> FlushResult:
    """A batch of each shard at most, where more may come: others are due too, and are flushed
    whatever is wrong with this one."""
    most = buffer.option("BATCH_SIZE") * len(buffer.shard_keys()) if deadline else None
    try:
        return engine.flush(
            buffer,
            due_only=True,
            wait=False,
            limit=most,
            deadline=deadline,
            pruning=pruning.is_time(buffer),
        )
    except (BufferUnavailable, TransactionManagementError):
        raise
    except Exception as error:
        if deadline is None or is_end(error):
            raise
        logger.exception("%s cannot be flushed", buffer)
        return FlushResult(errors=1)


# In a worker of Django-Q2


def _tick(buffers: Sequence[Declaration], seconds: float, total: FlushResult) -> None:
    """Be at it for so long, or for as long as the timeout of a task allows, as the only one."""
    timeout = jobs.conf().TIMEOUT or float("inf")
    overlap = min(_ALIVE, timeout / 4) if jobs.conf().WORKERS > 1 else 0.0
    token, lock = secrets.token_hex(8), shared_key(conf.prefix(), "tick")
    started = time.monotonic()
    end = last = started + min(seconds, timeout / 2)
    handed_out: set[str] = set()
    has_lock = is_over = False
    held: Sequence[Declaration] = ()
    while True:
        try:
            if not is_over:
                has_lock = locks.hold(client(patient=True), lock, token, _ALIVE)
            elif locks.is_taken(client(patient=True), lock):
                break  # the next one has begun
            held, _ = _pass(buffers, total, last, lambda due: _hand_out(due, handed_out))
        except BufferUnavailable as error:
            if not is_logged(error):
                logger.error("Nothing can be flushed: %s", error)
        now = time.monotonic()
        if now >= last or (not has_lock and now >= started + _ALIVE + 1):
            if is_over or not has_lock or not _hand_on(lock, token, seconds) or not overlap:
                break
            # Until the next one begins, which may take a moment, this one goes on.
            is_over, last = True, end + overlap
        close_old_connections()
        _wait(buffers, held, min(_ALIVE / 3, last - now))


def _hand_out(due: list[Declaration], handed_out: set[str]) -> list[Declaration]:
    """Give each buffer but one to another worker, once; those that are left."""
    if jobs.conf().WORKERS == 1 or jobs.conf().SYNC:
        return due
    given = [buffer for buffer in due[1:] if buffer.label not in handed_out]
    given = [buffer for buffer in given if jobs.enqueue("flush_due", buffer.label)]
    handed_out |= {buffer.label for buffer in given}
    return [buffer for buffer in due if buffer not in given]


def _hand_on(lock: str, token: str, seconds: float) -> bool:
    """Let the next one begin; False where there is to be none any more, or nobody can be asked."""
    try:
        locks.release(client(patient=True), lock, token)
        goes_on = not jobs.conf().SYNC and schedules.is_on()
    except Exception as error:  # noqa: BLE001 - Redis or the database: the clock starts the next
        logger.warning("The next tick is left to the clock of Django-Q2: %s", error)
        return False
    return goes_on and jobs.enqueue("flush_due", seconds=seconds, fan_out=True)
