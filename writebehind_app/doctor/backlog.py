"""Examinations of what waits in Redis: whether somebody flushes it."""

from __future__ import annotations

from collections.abc import Iterator

from writebehind_app import conf, registry
from writebehind_app.declaration import Declaration
from writebehind_app.doctor.finding import Finding, error, warning
from writebehind_app.doctor.redis_server import Examined
from writebehind_app.store import server
from writebehind_app.store import shard as store
from writebehind_app.store.client import Client
from writebehind_app.store.keys import shard_key
from writebehind_app.store.shard import Shard

_MINUTE = 60.0
_MOST_SHARDS = 64  # looked at, beyond those that a buffer has


def waiting(examined: Examined) -> Iterator[Finding]:
    """Entries that should be in the database by now."""
    now = server.now(examined.client)
    slack = conf.settings().LEASE + _MINUTE  # a batch may wait for the end of a dead one's lease
    for buffer in registry.buffers().values():
        since = _oldest(examined.client, buffer)
        age = now - since if since else 0.0
        if age > buffer.option("MAX_AGE") + slack:
            yield warning(
                130,
                f"{buffer.label}: the oldest pending entry is {_duration(age)} old; max_age is "
                f"{buffer.option('MAX_AGE'):g} s.",
                "Nobody flushes it, or who does cannot keep up, or its batch fails.",
                "Run manage.py flush_writebehind --loop, as a service, and see its log.",
            )


def failing(examined: Examined) -> Iterator[Finding]:
    """Batches that the database did not take."""
    for buffer in registry.buffers().values():
        for key in buffer.shard_keys():
            attempts, *_ = Shard(examined.client, key).pending(1)
            if attempts:
                reason = str(examined.client.hget(key, "error"))
                yield warning(
                    133,
                    f"{buffer.label}: a batch has failed, tries so far: {attempts}. The last one: "
                    f"{reason.splitlines()[0][:200]}",
                    "Its entries wait, and so does all that comes after them in its shard.",
                    "See the log 'writebehind' of the flusher; it is tried again by itself.",
                )


def stranded(examined: Examined) -> Iterator[Finding]:
    """Entries of shards that there are no more."""
    for buffer in registry.buffers().values():
        shards = buffer.option("SHARDS")
        others = range(shards, shards + _MOST_SHARDS)
        keys = [shard_key(conf.prefix(), buffer.label, number) for number in others]
        counts = store.count(examined.client, keys).values()
        found = [n for n, c in zip(others, counts, strict=True) if c.pending or c.in_flight]
        if found:
            left = sum(count.pending + count.in_flight for count in counts)
            yield error(
                131,
                f"{buffer.label} has {shards} shards, and {left} entries in others, up to number "
                f"{found[-1]}.",
                "Nobody flushes or reads them.",
                f"Set SHARDS, or shards of the buffer, to {found[-1] + 1}, flush all, and lower it "
                "then.",
            )


def _oldest(client: Client, buffer: Declaration) -> float:
    """When the first write came that is pending or in flight, by the clock of Redis; 0 for none."""
    times = []
    for key in buffer.shard_keys():
        _, in_flight, pending = Shard(client, key).pending(1)
        times += [entry.since for entry in (*in_flight, *pending) if entry.since]
    return min(times, default=0) / 1e6


def _duration(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    minutes = seconds / _MINUTE
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"


EXAMINATIONS = {"oldest entries": waiting, "failed batches": failing, "other shards": stranded}
