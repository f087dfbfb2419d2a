"""What a scheduler calls: plain functions for Django-Q2, Celery beat, RQ, cron or a thread.

Any of them may run at any time, twice, or at once with others: a batch is applied once.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from multiprocessing import parent_process
from typing import Any

from django.db import close_old_connections
from django.db.transaction import TransactionManagementError

from writebehind_app import conf, jobs, registry, sampling, schedules
from writebehind_app.database.parents import parents_first
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.flush import engine, pruning
from writebehind_app.flush.engine import FlushResult
from writebehind_app.store import places
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client, is_told
from writebehind_app.store.keys import place_key

logger = logging.getLogger("writebehind")

_PAUSE = 0.2  # seconds between two looks at what is due
_ALIVE = 3.0  # seconds after which one that gave no sign of life is taken for dead
_AT_ONCE = 5.0  # seconds that a flush of a single entry waits for others


def flush_due(*labels: str, seconds: float = 0.0, fan_out: bool = False) -> dict[str, int]:
    """Flush what is due of these buffers, or of all; again and again for so many `seconds`.

    With `fan_out`, in a worker of Django-Q2: the clock that starts it is slower than entries become
    due. So one worker stays at it. When its time is over, it asks for the next one, which may be
    another worker; until then all that it finds due but one buffer is handed to others. Who comes
    while somebody is at it leaves, once it is sure that the other one lives.
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


def flush_entry(label: str, id: str) -> int:
    """Flush one entry, by its id as a receipt has it; says how many rows were written. Where it
    cannot be, the entry is due, and flushed by the next one who flushes."""
    for buffer in _buffers([label]):
        try:
            return engine.flush(buffer, ids=[id], deadline=time.monotonic() + _AT_ONCE).rows
        except BufferUnavailable as error:
            logger.error("%s: an entry cannot be flushed at once: %s", buffer, error)
    return 0


def prune() -> int:
    """Do away with what has expired: rows, dead letters, fences, old rows of the ledger. Says how
    many rows go with the next flush."""
    return sum(pruning.prune(buffer, buffer.option("BATCH_SIZE")) for buffer in _buffers())


def tick_at_once(**kwargs: Any) -> None:
    """When a worker of Django-Q2 starts: it may be the first one, or come in place of one that died
    in the middle. The clock would take half a minute to start anything."""
    if parent_process() is None:
        return  # no worker: a task runs in the very process that asks for it
    try:
        wanted = schedules.is_on() and places.hold(
            client(), place_key(conf.prefix(), "start"), secrets.token_hex(8), 1
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
    """The buffers with something to be flushed, a batch that somebody left in flight included."""
    keys = [key for buffer in buffers for key in buffer.shard_keys()]
    counts = store.count(client(patient=True), keys)
    return [
        buffer
        for buffer in buffers
        if any(counts[key].due or counts[key].in_flight for key in buffer.shard_keys())
    ]


def _go_on(buffers: Sequence[Declaration], seconds: float, total: FlushResult) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            sampling.take(client(patient=True))
            for buffer in _due(buffers):
                total.add(_flush(buffer, deadline if seconds else None))
        except BufferUnavailable as error:
            if not seconds:
                raise
            if not is_told(error):
                logger.error("Nothing can be flushed: %s", error)
        if time.monotonic() >= deadline:
            break
        close_old_connections()
        time.sleep(_PAUSE)


def _flush(buffer: Declaration, deadline: float | None) -> FlushResult:
    """A batch of each shard at most, where more may come: others are due too, and are flushed
    whatever is wrong with this one."""
    most = buffer.option("BATCH_SIZE") * len(buffer.shard_keys()) if deadline else None
    try:
        return engine.flush(buffer, due_only=True, wait=False, limit=most, deadline=deadline)
    except (BufferUnavailable, TransactionManagementError):
        raise
    except Exception:
        if deadline is None:
            raise
        logger.exception("%s cannot be flushed", buffer)
        return FlushResult(errors=1)


# In a worker of Django-Q2


def _tick(buffers: Sequence[Declaration], seconds: float, total: FlushResult) -> None:
    """Be at it for so long, or for as long as the timeout of a task allows, as the only one."""
    timeout = jobs.conf().TIMEOUT or float("inf")
    overlap = min(_ALIVE, timeout / 4) if jobs.conf().WORKERS > 1 else 0.0
    token, place = secrets.token_hex(8), place_key(conf.prefix(), "tick")
    started = time.monotonic()
    end = last = started + min(seconds, timeout / 2)
    handed_out: set[str] = set()
    has_place = is_over = False
    while True:
        try:
            if not is_over:
                has_place = places.hold(client(patient=True), place, token, _ALIVE)
            elif places.is_taken(client(patient=True), place):
                break  # the next one has begun
            sampling.take(client(patient=True))
            for buffer in _hand_out(_due(buffers), handed_out):
                total.add(_flush(buffer, last))
        except BufferUnavailable as error:
            if not is_told(error):
                logger.error("Nothing can be flushed: %s", error)
        now = time.monotonic()
        if now >= last or (not has_place and now >= started + _ALIVE + 1):
            if is_over or not has_place or not _hand_on(place, token, seconds) or not overlap:
                break
            # Until the next one begins, which may take a moment, this one goes on.
            is_over, last = True, end + overlap
        close_old_connections()
        time.sleep(_PAUSE)


def _hand_out(due: list[Declaration], handed_out: set[str]) -> list[Declaration]:
    """Give each buffer but one to another worker, once; those that are left."""
    if jobs.conf().WORKERS == 1 or jobs.conf().SYNC:
        return due
    given = [buffer for buffer in due[1:] if buffer.label not in handed_out]
    given = [buffer for buffer in given if jobs.enqueue("flush_due", buffer.label)]
    handed_out |= {buffer.label for buffer in given}
    return [buffer for buffer in due if buffer not in given]


def _hand_on(place: str, token: str, seconds: float) -> bool:
    """Let the next one begin; False where there is to be none any more, or nobody can be asked."""
    try:
        places.leave(client(patient=True), place, token)
        goes_on = not jobs.conf().SYNC and schedules.is_on()
    except Exception as error:  # noqa: BLE001 - Redis or the database: the clock starts the next
        logger.warning("The next tick is left to the clock of Django-Q2: %s", error)
        return False
    return goes_on and jobs.enqueue("flush_due", seconds=seconds, fan_out=True)
