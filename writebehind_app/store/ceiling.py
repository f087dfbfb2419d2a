"""How many entries a buffer may have, over all its shards."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from writebehind_app.english import be, counted
from writebehind_app.exceptions import BufferFull
from writebehind_app.store import lua
from writebehind_app.store.calls import Call, Limit, Outcome, unavailable
from writebehind_app.store.dialogue import Dialogue


def find_room(
    calls: Sequence[Call], indexes: Sequence[int], outcomes: list[Outcome]
) -> Dialogue[list[int]]:
    """The calls for which all shards of the buffer together have room. The given calls are to one
    buffer, and found no room in their own shards. The others get `BufferFull` as their outcome."""
    limit = calls[indexes[0]].terms.limit
    is_log = calls[indexes[0]].script == "append"
    try:
        held = yield from _count(limit, is_log)
    except redis.RedisError as error:
        for i in indexes:
            outcomes[i] = unavailable(error)
        return []
    fitting = []
    for i in indexes:
        size = calls[i].entries
        if held + size <= limit.most:
            fitting.append(i)
            held += size
        else:
            many = f", {size} more came together" if size > 1 else ""
            outcomes[i] = BufferFull(
                f"{counted(held, 'entry', 'entries')} {be(held)} pending{many}, and max_pending is "
                f"{limit.most}: see whether a flusher runs, and keeps up."
            )
    return fitting


def _count(limit: Limit, is_log: bool) -> Dialogue[int]:
    """How many entries there are in all the shards, those in flight included."""
    script = "count_records" if is_log else "count"
    counts = yield from lua.running_each([(script, shard) for shard in limit.shards])
    return sum(pending + in_flight for pending, in_flight, *_ in counts)
