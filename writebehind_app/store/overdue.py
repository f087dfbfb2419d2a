"""Warn if pending entries are overdue: then no flusher runs, or it cannot keep up.

Each process that writes looks once a minute: if no flusher runs, nobody else would notice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import redis

from writebehind_app import conf
from writebehind_app.store import clock, lua
from writebehind_app.store.calls import Call
from writebehind_app.store.dialogue import Dialogue
from writebehind_app.store.keys import parts_of

logger = logging.getLogger("writebehind")

SLACK = 10.0  # seconds that a flush may take
_PAUSE = 60_000_000  # µs between two looks
_FIRST = 30_000_000  # µs until the first look: most management commands end sooner

next_at: float = clock.ticks() + _FIRST  # when the next write looks again, in ticks
_logged: set[str] = set()  # shards for which the warning was logged


def is_overdue(age: float, max_age: float) -> bool:
    """Whether an entry that has waited so many seconds should be in the database by now, even if
    a flusher died with its batch."""
    return age > max_age + conf.settings().LEASE + SLACK


def checking(calls: Iterable[Call]) -> Dialogue[None]:
    """Look at the shards of calls that were taken. Log a warning, once for each shard, if an entry
    is overdue."""
    global next_at
    next_at = clock.ticks() + _PAUSE
    shards = {call.shard: call for call in calls}
    scripts = [
        ("count_records" if call.script == "append" else "count", shard)
        for shard, call in shards.items()
    ]
    try:
        replies = yield from lua.running_each(scripts)
    except redis.RedisError:  # the next call will notice
        return
    for (shard, call), reply in zip(shards.items(), replies, strict=True):
        _log(shard, call.terms.max_age / 1e6, *reply)


def _log(
    shard: str,
    max_age: float,
    _pending: int,
    _flying: int,
    _due: int,
    since: str,
    now: int,
    more: Any,
) -> None:
    is_paused = more[0] is not None
    age = (now - int(since)) / 1e6 if since.isdecimal() else 0.0
    if is_paused or not is_overdue(age, max_age):
        _logged.discard(shard)
    elif shard not in _logged:
        _logged.add(shard)
        label, *_ = parts_of(shard)
        logger.warning(
            "%s: the oldest pending entry has waited for %.0f s, and max_age is %g s. No "
            "flusher runs, or it cannot keep up: see manage.py writebehind_doctor.",
            label,
            age,
            max_age,
        )
