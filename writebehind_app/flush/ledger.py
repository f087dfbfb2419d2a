"""The ledger: the tokens of the batches that are in the database.

A token is inserted in the transaction of its batch. Rows that nobody needs any more are deleted
after LEDGER_DAYS.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import OuterRef, Q, Subquery
from django.utils import timezone

from writebehind_app import conf
from writebehind_app.database.failures import storable
from writebehind_app.declaration import Declaration
from writebehind_app.fields.layout import Layout
from writebehind_app.fields.stamps import moment
from writebehind_app.models import AppliedBatch
from writebehind_app.store import divisions, reads
from writebehind_app.store.connection import client
from writebehind_app.store.shard import Batch

_MOST_ATTEMPTS = 2**31 - 1  # the greatest number that the column takes
_MOST = 20_000  # rows that one flush deletes; fewer batches than that come in a minute
_CHUNK = 1000  # rows to delete in one statement
_SLACK = timedelta(hours=1)  # a row may stay this much longer: so one statement deletes many


class AlreadyApplied(Exception):
    """The ledger refused the token. Mostly an earlier flusher committed the batch and did not
    acknowledge it; `reason` is the error of the database."""

    def __init__(self, reason: IntegrityError, token: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.token = token


def enter(buffer: Declaration, shard: int, batch: Batch) -> None:
    """Insert the token into the ledger. Another process that inserts the same token waits until
    this transaction ends, and then fails with `AlreadyApplied`."""
    layout = buffer.layout()
    entries = [entry for entry in batch.entries if not entry.broken]
    oldest = min((entry.since for entry in entries), default=0)
    record = AppliedBatch(
        token=batch.token,
        buffer=buffer.label,
        shard=shard,
        entries=len(batch.entries),
        oldest_at=_stored(moment(oldest)),
        upto=batch.number if layout.key else max((entry.last for entry in entries), default=None),
        attempts=min(max(batch.attempts, 0), _MOST_ATTEMPTS),  # Redis may hold any number
        error=storable(batch.error)[:500],
        applied_at=timezone.now(),
    )
    try:
        record.save(using=layout.using, force_insert=True)
    except IntegrityError as error:
        raise AlreadyApplied(error, record.token) from None


def void(buffer: Declaration, shard: int, token: str) -> None:
    """Insert a token into the ledger as void, and commit: nothing can be applied under it any more.
    Raise `AlreadyApplied` if the token is there."""
    with transaction.atomic(using=buffer.layout().using):
        enter(buffer, shard, Batch(token, 0, []))


def state_of(
    layout: Layout, token: str, *, lock: bool = False
) -> Literal["absent", "applied", "void"]:
    """What the ledger says about a token. An applied batch has a duration, a void one has none.

    With `lock`, it says so as of now, even if the transaction sees older rows.
    """
    ledger = AppliedBatch.objects.using(layout.using).filter(token=token)
    if lock:
        ledger = ledger.select_for_update()
    found = list(ledger.values_list("duration", flat=True))
    if not found:
        return "absent"
    return "void" if found[0] is None else "applied"


def _stored(at: datetime) -> datetime:
    return at if settings.USE_TZ else timezone.make_naive(at)


# Deleting old rows


def expire(buffer: Declaration) -> None:
    """Delete rows of the ledger that are older than LEDGER_DAYS.

    Two kinds of rows stay. A token that Redis names stays: without it, a batch in flight would be
    applied twice, and a read would think that its snapshot is too old. The row with the greatest
    `upto` of a shard stays too: `window()` needs it. If there is nothing to delete, this is one
    statement.
    """
    days = conf.settings().LEDGER_DAYS
    if not days:
        return
    since = timezone.now() - timedelta(days=max(days, 1))
    ledger = AppliedBatch.objects.using(buffer.layout().using).filter(buffer=buffer.label)
    # An index ends with the greatest one. With Exists(), PostgreSQL reads the whole ledger.
    uptos = ledger.filter(shard=OuterRef("shard"), upto__isnull=False).order_by("-upto")
    is_dispensable = Q(upto=None) | Q(upto__lt=Subquery(uptos.values("upto")[:1]))
    dispensable = ledger.filter(is_dispensable).order_by("applied_at")
    if not dispensable.filter(applied_at__lt=since - _SLACK).exists():
        return
    # Ask the database first, then Redis: a batch in the ledger may leave Redis, but never returns.
    old = list(dispensable.filter(applied_at__lt=since).values_list("token", flat=True)[:_MOST])
    redis = client(patient=True)
    readings = divisions.asked(
        redis, lambda: reads.read(redis, {key: [] for key in buffer.shard_keys()})
    )
    named = set().union(*({each.token, each.acked} for each in readings.values()))
    for start in range(0, len(old), _CHUNK):
        tokens = {*old[start : start + _CHUNK]} - named
        ledger.filter(token__in=tokens).delete()
