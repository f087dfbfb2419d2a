"""Examinations of the Redis that the settings name."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.exceptions import ImproperlyConfigured
from django_redis import get_redis_connection

from writebehind_app import conf, registry
from writebehind_app.doctor.finding import Finding, error, warning
from writebehind_app.store import server
from writebehind_app.store.client import Client

SLOW = 0.005  # seconds for an answer that stands in the way of each write
SKEW, WRONG_TIME = 1.0, 60.0  # seconds that two clocks may differ
# What servers say of a command that the user may not run, or that is not there.
_REFUSED = re.compile("can't run this command|ACL failure|NOPERM|[Uu]nknown (Redis )?command")
_FULL, _NEARLY_FULL = 0.95, 0.8  # of the memory
_SOON = 24.0  # hours
_LONG_ENOUGH = 3600  # seconds that a server has to be up for its growth to say something


@dataclass(frozen=True, slots=True)
class Examined:
    """A Redis that answers."""

    client: Client
    info: dict[str, Any]  # empty where the user may not ask


def access(examined: Examined) -> Iterator[Finding]:
    """Whether the user may do what the package does."""
    try:
        failures = server.failures(examined.client)
    except redis.exceptions.NoPermissionError as refusal:
        if "key" in str(refusal):
            keys = "{" + conf.prefix() + ":*"
            yield error(
                103,
                f"The user of Redis may not touch the keys of the package: {refusal}.",
                "All pending writes are under keys that begin so.",
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
        if examined.info.get("cluster_enabled") != 1:  # clustering() says it better
            yield error(
                102,
                f"In Redis a script cannot be run: {refusal}.",
                "Each write and each flush is a script, so that nobody sees half of it.",
                "Choose a Redis (6.2 or later) or a Valkey that runs scripts.",
            )
        return
    refused = [name for name, text in failures.items() if _REFUSED.search(text)]
    if refused:
        yield error(
            104,
            f"Redis: these commands are refused, or not known: {', '.join(refused)}.",
            "Writes or flushes fail in the middle of what they do.",
            "Let the ACL of the user have them; the server has to be a Redis of 6.2 or later, or a "
            "Valkey.",
        )
    stopped = [text for text in failures.values() if text.startswith(("READONLY", "MISCONF"))]
    if stopped:
        yield error(
            105,
            f"Redis takes no writes: {stopped[0]}",
            "Each write to a buffer fails, and nothing that is pending can be flushed.",
            "Name the primary in WRITEBEHIND['REDIS'], not a replica."
            if stopped[0].startswith("READONLY")
            else "See the server's log: it cannot save its data.",
        )


def asking(examined: Examined) -> Iterator[Finding]:
    """Whether the server may be asked how it is."""
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
    """By what it can do: XTRIM MINID came with Redis 6.2."""
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
            f"Redis has maxmemory-policy {policy}.",
            "A Redis that is full then throws away writes that are nowhere else.",
            "Set maxmemory-policy to noeviction, and give caches a Redis of their own.",
        )
    elif policy != "noeviction":
        yield warning(
            103,
            f"Redis has maxmemory-policy {policy}.",
            "Only keys with an expiry are thrown away, which pending writes do not have; but it "
            "says that this Redis is used as a cache, which competes for its memory.",
            "Set maxmemory-policy to noeviction, and give caches a Redis of their own.",
        )


def persistence(examined: Examined) -> Iterator[Finding]:
    has_log = examined.info.get("aof_enabled") == 1
    saves = server.config(examined.client, "save")
    if not has_log and saves == "":
        yield error(
            108,
            "Redis writes nothing to disk: appendonly is no, and save is empty.",
            "A restart of Redis loses each write that is not in the database yet.",
            "Set appendonly yes.",
        )
    elif not has_log:
        yield warning(
            104,
            "Redis has appendonly no.",
            "A crash of Redis loses what was written since its last snapshot.",
            "Set appendonly yes.",
        )
    elif server.config(examined.client, "appendfsync") == "no":
        yield warning(
            105,
            "Redis has appendfsync no.",
            "A crash of the machine loses what its system had not written to disk by itself, "
            "usually up to half a minute.",
            "Set appendfsync to everysec, or to always.",
        )


def durability(examined: Examined) -> Iterator[Finding]:
    """Whether buffers get what they wait for."""
    levels = {buffer.option("DURABILITY") for buffer in registry.buffers().values()}
    if "fsync" in levels:
        yield from _fsync(examined)
    wanted = max((level for level in levels if isinstance(level, int)), default=0)
    if wanted and (replicas := examined.client.wait(wanted, 1000)) < wanted:
        yield error(
            115,
            f"Redis has {replicas} replicas, and a buffer waits for {wanted}.",
            "Each of its writes takes DURABILITY_TIMEOUT, and then raises NotDurable.",
            "Start more replicas, or set `durability` to as many as there are.",
        )


def _fsync(examined: Examined) -> Iterator[Finding]:
    do = "Set appendfsync always; or set `durability` to 'memory'."
    try:
        examined.client.execute_command("WAITAOF", 1, 0, 1)  # type: ignore[no-untyped-call]
    except redis.ResponseError as refusal:
        yield error(
            114,
            f"A buffer has the durability 'fsync', which Redis cannot give: {refusal}",
            "Each of its writes raises ImproperlyConfigured.",
            "Set appendonly yes, on a Redis of 7.2 or later or a Valkey; or set `durability` to "
            "'memory'.",
        )
        return
    policy = server.config(examined.client, "appendfsync")
    if policy == "no":
        yield error(
            114,
            "A buffer has the durability 'fsync', and Redis has appendfsync no.",
            "Nobody forces its writes to disk: each of them raises NotDurable.",
            do,
        )
    elif policy == "everysec":
        yield warning(
            111,
            "A buffer has the durability 'fsync', and Redis has appendfsync everysec.",
            "Its writes wait for up to a second; or they do not, and are not on disk, with servers "
            "that say too early that they are, as Valkey 9.1 and the first releases of Redis 7.4.",
            do,
        )


def memory(examined: Examined) -> Iterator[Finding]:
    info = examined.info
    used = float(info.get("used_memory", 0))
    limit = float(info.get("maxmemory") or info.get("total_system_memory") or 0)
    if not used or not limit:
        return
    why = "A full Redis takes no writes any more."
    do = "Raise maxmemory, flush more often, or see what else fills it (redis-cli --bigkeys)."
    full = f"{used / limit:.0%} of the memory of Redis is used: {_mib(used)} of {_mib(limit)}."
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
            f"The memory of Redis lasts for {hours:.1f} hours, if it is used up as it was on "
            f"average since the server was started {uptime / 3600:.1f} hours ago.",
            why,
            do,
        )


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def clustering(examined: Examined) -> Iterator[Finding]:
    if examined.info.get("cluster_enabled") != 1:
        return
    try:
        state: dict[str, str] = examined.client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
    except redis.ResponseError:
        state = {}
    slots, nodes = int(state.get("cluster_slots_ok", 16384)), int(state.get("cluster_size", 1))
    if slots < 16384:
        yield error(
            110,
            f"Only {slots} of the 16384 hash slots of the Redis cluster are served.",
            "Writes to the other slots fail.",
            "See redis-cli --cluster check, and --cluster fix.",
        )
    elif nodes > 1:
        yield error(
            111,
            f"Redis is a cluster of {nodes} nodes, and the client talks to one of them.",
            "Writes whose slots are on another node fail.",
            "Name a Redis or a Valkey that is not a cluster.",
        )
    else:
        yield warning(
            108,
            "Redis runs as a cluster, of one node.",
            "Writes fail as soon as there is a second node: the client talks to one.",
            "Name a Redis or a Valkey that is not a cluster.",
        )


def clock(examined: Examined) -> Iterator[Finding]:
    before = time.time()
    theirs = server.now(examined.client)
    yield from skewed(theirs, before, time.time(), "Redis")


def skewed(theirs: float, before: float, after: float, whose: str) -> Iterator[Finding]:
    """What there is to say of another clock, that was read between two looks at this one."""
    skew = max(before - theirs, theirs - after)
    side = "behind" if theirs < before else "ahead of"
    what = f"The clock of {whose} is {skew:.1f} s {side} that of this machine."
    why = "Times of writes come from Redis, those of the ledger from here: they are compared."
    do = "Let both machines keep their time by NTP."
    if skew > WRONG_TIME:
        yield error(112, what, why, do)
    elif skew > SKEW:
        yield warning(109, what, why, do)


def cache(examined: Examined) -> Iterator[Finding]:
    """`cache.clear()` is FLUSHDB."""
    where = conf.settings().REDIS
    why = "cache.clear() on it is FLUSHDB: it deletes each write that is not in the database yet."
    for alias in sorted(django_settings.CACHES):
        other = _client_of_cache(alias)
        if other is None or not server.is_same_database(examined.client, other):
            continue
        if alias == where and alias != "default":
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
    """A client for the Redis of a cache; None where it has none."""
    found: Any
    try:
        found = get_redis_connection(alias, write=True)
    except (InvalidCacheBackendError, ImportError, ImproperlyConfigured):  # it works for nobody
        return None
    except NotImplementedError:  # it is not of django-redis
        get_client = getattr(getattr(caches[alias], "_cache", None), "get_client", None)
        found = get_client(write=True) if get_client else None
    return found if isinstance(found, redis.Redis) else None


EXAMINATIONS = {
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
# Those that are nothing without INFO.
BY_INFO = ("eviction", "persistence", "memory", "cluster")
