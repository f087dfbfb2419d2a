"""The ledger of applied batches: rows that nobody needs any more go after LEDGER_DAYS."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import OuterRef, Q, Subquery
from django.utils import timezone

from writebehind_app import conf
from writebehind_app.declaration import Declaration
from writebehind_app.models import AppliedBatch
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

_CHUNK = 1000  # rows that one flush deletes at most
_SLACK = timedelta(hours=1)  # a row may stay so much longer, so that many go in one statement


def expire(buffer: Declaration) -> None:
    """Delete rows of the ledger that are older than the settings keep them.

    Two kinds stay: a token whose batch is in flight, as that would be applied once more without;
    and the greatest `upto` of a shard, which every window() asks for. Where no row has to go, this
    is one statement.
    """
    days = conf.settings().LEDGER_DAYS
    if not days:
        return
    since = timezone.now() - timedelta(days=max(days, 1))
    ledger = AppliedBatch.objects.using(buffer.layout().using).filter(buffer=buffer.label)
    # The greatest is the end of an index. With Exists(), PostgreSQL reads the whole ledger.
    uptos = ledger.filter(shard=OuterRef("shard"), upto__isnull=False).order_by("-upto")
    is_dispensable = Q(upto=None) | Q(upto__lt=Subquery(uptos.values("upto")[:1]))
    dispensable = ledger.filter(is_dispensable).order_by("applied_at")
    if not dispensable.filter(applied_at__lt=since - _SLACK).exists():
        return
    old = dispensable.filter(applied_at__lt=since).values_list("token", flat=True)[:_CHUNK]
    tokens = set(old)
    # Asked after the tokens were read: a batch whose token is in the ledger can leave, and not
    # come back.
    readings = store.read(client(patient=True), {key: [] for key in buffer.shard_keys()})
    tokens -= {reading.token for reading in readings.values()}
    ledger.filter(token__in=tokens).delete()
