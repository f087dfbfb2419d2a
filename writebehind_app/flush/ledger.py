"""The ledger of applied batches, which is not kept for ever where the settings say so."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from writebehind_app import conf
from writebehind_app.buffers.base import Buffer
from writebehind_app.models import AppliedBatch
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

_CHUNK = 1000  # rows that one flush deletes at most


def expire(buffer: Buffer) -> None:
    """Delete rows of the ledger that are older than the settings keep them.

    Two kinds stay: a token whose batch is in flight, as that would be applied once more without;
    and the greatest `upto` of a shard, which every window() asks for.
    """
    days = conf.settings().LEDGER_DAYS
    if not days:
        return
    ledger = AppliedBatch.objects.using(buffer.layout().using).filter(buffer=buffer.label)
    since = timezone.now() - timedelta(days=max(days, 1))
    old = list(ledger.filter(applied_at__lt=since).order_by("applied_at")[:_CHUNK])
    if not old:
        return
    # In flight after the rows were read: a batch whose row is there can leave, and not come back.
    keys = buffer.shard_keys()
    readings = store.read(client(patient=True), {key: [] for key in keys})
    stay = {reading.token for reading in readings.values()}
    for shard in {row.shard for row in old if row.upto is not None}:
        by_upto = ledger.filter(shard=shard, upto__isnull=False).order_by("-upto")
        stay |= {*by_upto.values_list("token", flat=True)[:1]}
    ledger.filter(token__in=[row.token for row in old if row.token not in stay]).delete()
