"""Examinations of a Redis that the settings, or a buffer, name."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.exceptions import ImproperlyConfigured
from django_redis import get_redis_connection

from writebehind_app import conf
from writebehind_app.declaration import Declaration
from writebehind_app.doctor.finding import Finding, error, warning
from writebehind_app.english import counted
from writebehind_app.store import server
from writebehind_app.store.client import Client
from writebehind_app.store.slots import COUNT

SLOW = 0.005  # seconds; each write waits for one answer
SKEW, WRONG_TIME = 1.0, 60.0  # seconds between two clocks: a warning, an error
# What servers say if the user may not run a command, or if they do not know it.
_REFUSED = re.compile("can't run this command|ACL failure|NOPERM|[Uu]nknown (Redis )?command")
_FULL, _NEARLY_FULL = 0.95, 0.8  # used parts of the memory: an error, a warning
_SOON = 24.0  # hours until the memory is full
_LONG_ENOUGH = 3600  # seconds; before that, the growth of a server's memory says nothing


@dataclass(frozen=True, slots=True)
class Examined:
    """A Redis that answers."""

    client: Client
    info: dict[str, Any]  # the answer to INFO; empty if the user may not ask
    buffers: Collection[Declaration]  # that are on it
    name: str = "Redis"  # what findings call it


def access(examined: Examined) -> Iterator[Finding]:
    """Whether the user may run all commands of the package."""
    try:
        failures = server.failures(examined.client)
    except redis.exceptions.NoPermissionError as refusal:
        if "key" in str(refusal):
            keys = "{" + conf.prefix() + ":*"
            yield error(
                103,
                f"The user of Redis may not touch the keys of the package: {refusal}.",
                "All pending writes are under such keys.",
                f"Add the pattern ~{keys} to the ACL of the user.",
            )
        else:
            yield error(
                102,
                f"The user of Redis may not run scripts: {refusal}.",
                "Each write and each flush is a script, so that nobody sees half of it.",
                "Let the user run EVAL, EVALSHA and SCRIPT LOAD.",
            )
        return
    except redis.ResponseError as refusal:
        if examined.info.get("cluster_enabled") != 1:  # clustering() explains it better
            yield error(
                102,
                f"Redis runs no scripts: {refusal}.",
                "Each write and each flush is a script, so that nobody sees half of it.",
                "Choose a Redis (6.2 or later) or a Valkey that runs scripts.",
            )
        return
    refused = [name for name, text in failures.items() if _REFUSED.search(text)]
    if refused:
        yield error(
            104,
            f"Redis refuses or does not know these commands: {', '.join(refused)}.",
            "Writes or flushes fail halfway.",
            "Allow them in the ACL of the user. The server must be Redis 6.2 or later, or Valkey.",
        )
    stopped = [text for text in failures.values() if text.startswith(("READONLY", "MISCONF"))]
    if stopped:
        yield error(
            105,
            f"Redis takes no writes: {stopped[0]}",
            "Each write to a buffer fails, and no pending write can be flushed.",
            "Name the primary in WRITEBEHIND['REDIS'], not a replica."
            if stopped[0].startswith("READONLY")
            else "See the server's log: it cannot save its data.",
        )


def asking(examined: Examined) -> Iterator[Finding]:
    """Whether the user may run INFO."""
    if not examined.info:
        yield warning(
            101,
            "The user of Redis may not run INFO.",
            "Memory, eviction and persistence were not examined.",
            "Run the doctor as a user that may, or grant +info.",
        )


def latency(examined: Examined) -> Iterator[Finding]:
    took = server.latency(examined.client)
    if took > SLOW:
        yield warning(
            102,
            f"An answer of Redis takes {took * 1000:.1f} ms.",
            "Each write waits for one.",
            "Bring Redis closer, or look for what keeps it busy (SLOWLOG GET).",
        )


def version(examined: Examined) -> Iterator[Finding]:
    """Whether the server is new enough: XTRIM MINID came with Redis 6.2."""
    try:
        examined.client.xtrim(f"{{{conf.prefix()}:doctor:0}}", minid="0")
    except redis.ResponseError as refusal:
        if "syntax error" in str(refusal):
            yield error(
                106,
                "Redis is too old: it does not know XTRIM MINID.",
                "Batches of a LogBuffer cannot be acknowledged.",
                "Upgrade to Redis 6.2 or later, or to Valkey.",
            )


def eviction(examined: Examined) -> Iterator[Finding]:
    policy = str(examined.info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):
        yield error(
            107,
            f"{examined.name} has maxmemory-policy {policy}.",
            "When Redis is full, it throws away writes that are nowhere else.",
            "Set maxmemory-policy to noeviction, and give caches a Redis of their own.",
        )
    elif policy != "noeviction":
        yield warning(
            103,
            f"{examined.name} has maxmemory-policy {policy}.",
            "Redis throws away only keys with an expiry, and pending writes have none. But a cache "
            "seems to be in this Redis, and to compete for its memory.",
            "Set maxmemory-policy to noeviction, and give caches a Redis of their own.",
        )


def persistence(examined: Examined) -> Iterator[Finding]:
    has_log = examined.info.get("aof_enabled") == 1
    saves = server.config(examined.client, "save")
    if not has_log and saves == "":
        yield error(
            108,
            f"{examined.name} writes nothing to disk: appendonly is no, and save is empty.",
            "A restart of Redis loses each write that is not in the database yet.",
            "Set appendonly yes.",
        )
    elif not has_log:
        yield warning(
            104,
            f"{examined.name} has appendonly no.",
            "A crash of Redis loses what was written since its last snapshot.",
            "Set appendonly yes.",
        )
    elif server.config(examined.client, "appendfsync") == "no":
        yield warning(
            105,
            f"{examined.name} has appendfsync no.",
            "A crash of the machine loses what the system has not written to disk yet, usually "
            "up to half a minute.",
            "Set appendfsync to everysec, or to always.",
        )


def durability(examined: Examined) -> Iterator[Finding]:
    """Whether the server can give the durability that buffers ask for."""
    if "fsync" in _levels(examined):
        yield from _fsync(examined)
    wanted = wanted_replicas(examined)
    if wanted and (replicas := examined.client.wait(wanted, 1000)) < wanted:
        yield error(
            115,
            f"{examined.name} has {counted(replicas, 'replica')}, and a buffer waits for {wanted}.",
            "Each of its writes takes DURABILITY_TIMEOUT and raises NotDurable, and none of its "
            "batches is flushed.",
            "Start more replicas, or set `durability` to as many as there are.",
        )


def wanted_replicas(examined: Examined) -> int:
    """How many replicas the writes of some buffer wait for."""
    return max((level for level in _levels(examined) if isinstance(level, int)), default=0)


def _levels(examined: Examined) -> set[str | int]:
    return {buffer.option("DURABILITY") for buffer in examined.buffers}


def _fsync(examined: Examined) -> Iterator[Finding]:
    do = "Set appendfsync always; or set `durability` to 'memory'."
    try:
        examined.client.execute_command("WAITAOF", 1, 0, 1)  # type: ignore[no-untyped-call]
    except redis.ResponseError as refusal:
        yield error(
            114,
            f"A buffer has the durability 'fsync', which {examined.name} cannot give: {refusal}",
            "Each of its writes raises ImproperlyConfigured.",
            "Set appendonly yes, on a Redis of 7.2 or later or a Valkey; or set `durability` to "
            "'memory'.",
        )
        return
    policy = server.config(examined.client, "appendfsync")
    if policy == "no":
        yield error(
            114,
            f"A buffer has the durability 'fsync', and {examined.name} has appendfsync no.",
            "Redis never forces a write to disk: each of them raises NotDurable.",
            do,
        )
    elif policy == "everysec":
        yield warning(
            111,
            f"A buffer has the durability 'fsync', and {examined.name} has appendfsync everysec.",
            "Its writes wait for up to a second. Some servers say too early that a write is on "
            "disk, as Valkey 9.1 and the first releases of Redis 7.4.",
            do,
        )


def memory(examined: Examined) -> Iterator[Finding]:
    info = examined.info
    used = float(info.get("used_memory", 0))
    limit = float(info.get("maxmemory") or info.get("total_system_memory") or 0)
    if not used or not limit:
        return
    why = "A full Redis takes no more writes."
    do = "Raise maxmemory, flush more often, or see what else fills it (redis-cli --bigkeys)."
    of = f"memory of {examined.name}"
    full = f"{used / limit:.0%} of the {of} is used: {_mib(used)} of {_mib(limit)}."
    uptime = float(info.get("uptime_in_seconds", 0))
    growth = (used - float(info.get("used_memory_startup", used))) / max(uptime, 1)
    hours = (limit - used) / growth / 3600 if growth > 0 else float("inf")
    if used >= _FULL * limit:
        yield error(109, full, why, do)
    elif used >= _NEARLY_FULL * limit:
        yield warning(106, full, why, do)
    elif uptime >= _LONG_ENOUGH and hours < _SOON:
        yield warning(
            107,
            f"The {of} lasts for {hours:.1f} hours, if its use grows as it did on "
            f"average since the server started {uptime / 3600:.1f} hours ago.",
            why,
            do,
        )


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def clustering(examined: Examined) -> Iterator[Finding]:
    """Whether Redis is a cluster, although the settings name a single server."""
    if examined.info.get("cluster_enabled") != 1:
        return
    if missing := [*not_served(served_slots(examined))]:
        yield from missing
        return
    nodes = int(_cluster_info(examined).get("cluster_size", 1))
    do = (
        "Set WRITEBEHIND['REDIS'] to {'CLUSTER': ['redis://host:port', …]}, with some of its nodes."
    )
    if nodes > 1:
        yield error(
            111,
            f"Redis is a cluster of {nodes} nodes, and the client talks to one of them.",
            "Writes whose slots are on another node fail.",
            do,
        )
    else:
        yield warning(
            108,
            "Redis runs as a cluster, of one node.",
            "Writes fail as soon as there is a second node: the client talks to one node.",
            do,
        )


def not_served(served: int) -> Iterator[Finding]:
    if served < COUNT:
        yield error(
            110,
            f"The Redis cluster serves only {served} of the {COUNT} hash slots.",
            "Writes to the other slots fail.",
            "See redis-cli --cluster check, and --cluster fix.",
        )


def served_slots(examined: Examined) -> int:
    """How many slots are served; all of them where the user may not ask."""
    return int(_cluster_info(examined).get("cluster_slots_ok", COUNT))


def _cluster_info(examined: Examined) -> dict[str, str]:
    try:
        found: dict[str, str] = examined.client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
    except redis.ResponseError:
        return {}
    return found


def clock(examined: Examined) -> Iterator[Finding]:
    before = time.time()
    theirs = server.now(examined.client)
    yield from skewed(theirs, before, time.time(), examined.name)


def skewed(theirs: float, before: float, after: float, whose: str) -> Iterator[Finding]:
    """Compare another clock with this machine's, which was read `before` and `after` it."""
    skew = max(before - theirs, theirs - after)
    side = "behind" if theirs < before else "ahead of"
    what = f"The clock of {whose} is {skew:.1f} s {side} that of this machine."
    why = "Writes have their times from Redis, the ledger from this machine; both are compared."
    do = "Let both machines keep their time by NTP."
    if skew > WRONG_TIME:
        yield error(112, what, why, do)
    elif skew > SKEW:
        yield warning(109, what, why, do)


def cache(examined: Examined) -> Iterator[Finding]:
    """Whether a Django cache is in the same Redis database: `cache.clear()` is FLUSHDB."""
    where = [conf.settings().REDIS, *(buffer.option("REDIS") for buffer in examined.buffers)]
    why = "cache.clear() on it is FLUSHDB: it deletes each write that is not in the database yet."
    for alias in sorted(django_settings.CACHES):
        other = _client_of_cache(alias)
        if other is None or not server.is_same_database(examined.client, other):
            continue
        if alias in where and alias != "default":
            yield warning(
                110,
                f"The pending writes are in the database of the cache {alias!r}.",
                why,
                "Put the URL into WRITEBEHIND['REDIS'] and take the cache out of CACHES; or never "
                "clear it.",
            )
        else:
            yield error(
                113,
                f"The cache {alias!r} is in the same Redis database.",
                why,
                "Give one of them another database number; or better, a Redis of its own.",
            )


def _client_of_cache(alias: str) -> redis.Redis | None:
    """Return a client for the Redis of a cache, or None if the cache is not in Redis."""
    found: Any
    try:
        found = get_redis_connection(alias, write=True)
    except (InvalidCacheBackendError, ImportError, ImproperlyConfigured):  # the cache is broken
        return None
    except NotImplementedError:  # not a cache of django-redis
        get_client = getattr(getattr(caches[alias], "_cache", None), "get_client", None)
        found = get_client(write=True) if get_client else None
    return found if isinstance(found, redis.Redis) else None


Examination = Callable[[Examined], Iterator[Finding]]
EXAMINATIONS: dict[str, Examination] = {
    "latency": latency,
    "rights": access,
    "INFO": asking,
    "version": version,
    "eviction": eviction,
    "persistence": persistence,
    "durability": durability,
    "memory": memory,
    "cluster": clustering,
    "clock": clock,
    "caches": cache,
}
# These examinations need INFO.
BY_INFO = ("eviction", "persistence", "memory", "cluster")
