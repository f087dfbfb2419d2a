"""Notes how much waits, for the charts: whoever looks at all buffers anyway takes a sample now and
then. These are the flushers, the health view, Prometheus, and who has the dashboard open; while
there is none of them, nobody knows, and the charts say so."""

from __future__ import annotations

import time

from writebehind_app import conf, registry
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.store import samples
from writebehind_app.store import shard as store
from writebehind_app.store.client import Client
from writebehind_app.store.keys import place_key
from writebehind_app.store.samples import Sample

_PAUSE = 10.0  # seconds: some of them in each minute that is drawn
_next_at = -float("inf")  # on the clock of time.monotonic()


def key() -> str:
    return place_key(conf.prefix(), "samples")


def take(client: Client) -> None:
    """Note how much waits in each buffer, unless this process has just done so."""
    global _next_at
    now = time.monotonic()
    if now < _next_at:
        return
    _next_at = now + _PAUSE
    buffers = registry.buffers()
    try:
        shards = store.overview(client, [k for b in buffers.values() for k in b.shard_keys()])
        found = {}
        for label, buffer in buffers.items():
            own = [shards[key] for key in buffer.shard_keys()]
            entries = sum(shard.pending + shard.in_flight for shard in own)
            found[label] = Sample(entries, max(shard.oldest for shard in own))
        if found:
            samples.note(client, key(), found)
    except BufferUnavailable:
        return  # of which others tell: nobody is to fail because of a chart
