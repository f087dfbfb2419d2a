"""Apply one claimed batch to the database, and acknowledge it or give it back."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress

from django.db import connections

from writebehind_app import conf
from writebehind_app.checkpoints import reach
from writebehind_app.database.failures import Kind, is_end, is_refusal, kind, storable
from writebehind_app.database.parents import RowPending
from writebehind_app.declaration import Declaration
from writebehind_app.english import counted
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.flush.garbage import paused
from writebehind_app.flush.ledger import AlreadyApplied, state_of
from writebehind_app.flush.related import Busy, Related
from writebehind_app.flush.report import lacks_tables, report
from writebehind_app.flush.writer import Applied, Claimed, apply
from writebehind_app.signals import flush_failed
from writebehind_app.store.shard import Batch, Shard

logger = logging.getLogger("writebehind")

POLL = 0.02  # seconds between two looks at a shard that another flusher has
_PATIENCE = 10  # failures of a batch; after these, an unknown error makes dead letters
_TRIES = 5  # of one batch in a row, if the next try is likely to succeed


class Void(Exception):
    """Somebody discarded entries of the batch: nothing may be applied under its token any more."""


def flush_batch(
    buffer: Declaration, number: int, shard: Shard, batch: Batch, *, wait: bool
) -> Sequence[Applied] | Exception | None:
    """Apply a claimed batch and its related batches, and acknowledge them.

    If that fails, the batch is given back, and the error is returned. None means that the batch has
    to be claimed again.
    """
    with Related(Claimed(buffer, number, shard, batch)) as related:
        own = related.own
        try:
            with paused():
                applied = _apply(related)
        except Void:
            shard.revoke(own.batch.token)
            return None
        except Busy as error:
            related.give_back()
            if not wait:  # nothing went wrong: this is no attempt
                shard.release(own.batch.token, retry_in=_soon(conf.settings().BACKOFF))
                entries = counted(len(batch.entries), "entry", "entries")
                logger.warning("%s: a batch of %s waits. %s", buffer, entries, error)
                return error
            shard.release(own.batch.token)
            time.sleep(random.uniform(POLL, 10 * POLL))  # random: the other one waits too
            return None
        except BufferUnavailable:  # nothing is wrong with the batch
            with suppress(BufferUnavailable):
                shard.release(own.batch.token)
            raise
        except Exception as error:
            if is_end(error):
                raise
            _give_back(own, error)
            return error
        reach("flush.committed")
        # If this batch was stored before, `applied` is about it alone.
        outcomes = [*zip(related.every(), applied, strict=False)]
        for each, its in outcomes:
            dead = len(its.dead_letters)
            bases = each.buffer.bases()
            each.shard.ack(
                each.batch.token,
                rows=its.rows,
                dead_letters=dead,
                seconds=its.seconds,
                bases=its.bases,
                terms=bases.terms if bases else None,
            )
        reach("flush.acked")
        for each, its in outcomes:
            report(each.buffer, each.number, each.batch, its)
        if len(applied) > 1:
            related.claims.clear()
    return applied


def _give_back(own: Claimed, error: Exception) -> None:
    settings, buffer, batch = conf.settings(), own.buffer, own.batch
    longest = min(settings.MAX_BACKOFF, settings.BACKOFF * 2 ** min(batch.attempts, 30))
    delay = _soon(longest)
    if not lacks_tables(buffer, error):
        logger.error(
            "%s: a batch of %s failed (%d before) and waits, the next try is in %.1f s: %s",
            buffer,
            counted(len(batch.entries), "entry", "entries"),
            batch.attempts,
            delay,
            _WHY[kind(error)],
            exc_info=error,
        )
    connections[buffer.layout().using].close_if_unusable_or_obsolete()
    # Errors quote values, and people see this text. The log has the whole error.
    why = type(error).__name__ if buffer.sensitive else f"{type(error).__name__}: {error}"
    own.shard.release(batch.token, retry_in=delay, error=storable(why[:500]))
    flush_failed.send_robust(
        buffer.model, buffer=buffer, shard=own.number, error=error, attempts=batch.attempts + 1
    )


def _soon(longest: float) -> float:
    """A random part of a pause: so the flushers that wait do not all come at once."""
    return longest * random.uniform(0.5, 1)


_WHY: dict[Kind, str] = {
    "row": "its entries are refused, but not one by one",
    "schema": "a table, a column or a right may be missing (see manage.py migrate), or this code "
    "is too old",
    "transient": "other transactions were in the way each time",
    "connection": "the database is out of reach, full, or takes no writes",
    "end": "the process or its task was told to end",
    "unknown": f"the error is not known; after {_PATIENCE} tries it makes dead letters",
}


def _apply(related: Related) -> Sequence[Applied]:
    """Apply a batch, and the related batches that it turns out to need.

    If the ledger has the token of a related batch, settle that batch and try the others again.
    """
    own = related.own
    while True:
        try:
            return _apply_once(related)
        except AlreadyApplied as refused:
            if related.is_settled(refused.token):
                continue
            match state_of(own.buffer.layout(), own.batch.token):
                case "absent":  # the ledger refused the token for another reason
                    raise refused.reason from None
                case "void":
                    raise Void from None
            return [Applied(rows=0, statements=1, seconds=0.0)]


def _apply_once(related: Related) -> Sequence[Applied]:
    """Apply them. Raise `AlreadyApplied` if the ledger has the token of one of the batches.

    If entries are refused, isolate them. If another transaction is in the way, try again.
    """
    own, using = related.own, related.own.buffer.layout().using
    isolating, attempt, insist = False, 1, own.batch.attempts >= _PATIENCE
    until = time.monotonic() + conf.settings().LEASE
    while True:
        try:
            related.gather()
            related.make_safe()
            return apply(
                own.buffer,
                own.number,
                own.batch,
                related=related.claims,
                isolating=isolating,
                insist=insist,
                joined=related.joined,
            )
        except AlreadyApplied:
            raise
        except RowPending as error:
            isolating = True
            if not related.claim_rows(error):  # the rows are stored meanwhile
                attempt += 1
                if attempt > _TRIES:
                    raise
        except Exception as error:
            is_refused = is_refusal(error, insist=insist)
            if attempt == _TRIES or not (is_refused or kind(error) == "transient"):
                raise
            if time.monotonic() >= until and not is_refused:  # do not keep the other shards waiting
                raise
            if not is_refused or isolating:
                connections[using].close_if_unusable_or_obsolete()
                time.sleep(POLL * attempt)
            isolating = isolating or is_refused
            attempt += 1
