"""How writes get to Redis: each is carried out once, or not at all, and mostly it is known which.

A call has an identity, and a time after which it is not carried out any more: see
scripts/delivery.lua. So a call whose connection broke is sent again at once, over another one. One
that got no answer in time is not: a Redis that is frozen would cost its caller a second wait.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoScriptError

from writebehind_app import conf
from writebehind_app.exceptions import BufferFull, BufferUnavailable, WriteUncertain
from writebehind_app.store import clock, lua
from writebehind_app.store.connection import errors
from writebehind_app.store.failures import reason

PIPELINE = 1000  # calls in one round trip

# The shard, what the call is about within it, and the rest that the script takes.
Call = tuple[str | int, ...]

# What the script says, without the time; or why the call was not carried out, or may not have been.
Outcome = list[Any] | Exception


class OutOfRange(Exception):
    """An operation leaves the range of the field it names. The write was not taken."""


class Limit(NamedTuple):
    """How many entries there may be."""

    keys: Sequence[str]  # of the shards
    most: int  # in all of them
    size: int = 1  # entries that a call makes

    @property
    def share(self) -> int:
        """While its shard holds no more, a call is taken without a look at the others."""
        return max(self.most // len(self.keys), 1)


def deliver(
    client: redis.Redis,
    script: str,
    calls: Sequence[Call],
    limit: Limit | None = None,
    *,
    once: str = "",
) -> list[Outcome]:
    """Run `write` or `append` for each call, and say what became of it.

    Calls about the same thing run in their order. After one that was not taken, those about the
    same are not sent, and after an outage none, unless it is a value that is out of range. With
    `once`, a name for a single call, that is not carried out where one of the same name was.
    """
    if len(calls) == 1:
        return _delivered(client, script, calls, limit, once)
    assert not once
    outcomes: list[Outcome] = []
    failed: dict[Call, Exception] = {}  # by what the call was about
    outage: Exception | None = None
    for part in _parts(calls):
        sent = [call for call in part if outage is None and call[:2] not in failed]
        delivered = iter(_delivered(client, script, sent, limit))
        for call in part:
            earlier = failed.get(call[:2], outage)
            outcome = next(delivered) if earlier is None else _not_sent(earlier)
            outcomes.append(outcome)
            if isinstance(outcome, BufferFull | BufferUnavailable | WriteUncertain):
                failed.setdefault(call[:2], outcome)
        outages = (error for error in failed.values() if not isinstance(error, BufferFull))
        outage = outage or next(outages, None)
    return outcomes


def _parts(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """Calls that may be sent together: no two about the same thing."""
    part: dict[Call, Call] = {}
    for call in calls:
        if call[:2] in part or len(part) == PIPELINE:
            yield list(part.values())
            part = {}
        part[call[:2]] = call
    yield list(part.values())


def _not_sent(earlier: Exception) -> Exception:
    kind = BufferFull if isinstance(earlier, BufferFull) else BufferUnavailable
    return kind(f"Not sent, as one before it was not taken: {earlier}")


def _delivered(
    client: redis.Redis,
    script: str,
    calls: Sequence[Call],
    limit: Limit | None,
    once: str = "",
) -> list[Outcome]:
    """What became of calls whose order does not matter."""
    room = limit.share if limit else None
    outcomes = _round(client, script, calls, room, once)

    def again(indexes: list[int], room: int | None) -> None:
        found = _round(client, script, [calls[i] for i in indexes], room, once)
        for i, outcome in zip(indexes, found, strict=True):
            outcomes[i] = outcome

    if ["late"] in outcomes:
        late = [i for i, outcome in enumerate(outcomes) if outcome == ["late"]]
        again(late, room)  # they did not run, and the time is known better now
        for i in late:
            if outcomes[i] == ["late"]:
                outcomes[i] = BufferUnavailable("Redis: the call came too late, twice.")
    if limit and ["full"] in outcomes:
        full = [i for i, outcome in enumerate(outcomes) if outcome == ["full"]]
        try:
            held = _held(client, limit.keys)
        except redis.RedisError as error:
            refusal: Exception = _unavailable(error)
            held = limit.most
        else:
            refusal = BufferFull(
                f"{held} entries are pending, and max_pending is {limit.most}: see whether a "
                "flusher runs, and keeps up."
            )
        for i in full:
            outcomes[i] = refusal
        again(full[: max(limit.most - held, 0) // limit.size], None)
    return outcomes


def _held(client: redis.Redis, keys: Sequence[str]) -> int:
    """How many entries there are in all the shards, those in flight included."""
    counts = lua.run_many(client, "count", [(key,) for key in keys])
    return sum(pending + in_flight for pending, in_flight, _ in counts)


def was_taken(client: redis.Redis, key: str, once: str) -> bool:
    """Whether a call to the shard was carried out under that name."""
    with errors:
        known: Any = client.hget(f"{key}:w:{_Once(once).id}", "0")
    return known is not None and not known.endswith(" 0")


# One round of calls


class _Session:
    """Has one round of calls under way at a time, and gives each of them a name."""

    lasting = "-"

    def __init__(self) -> None:
        self.id = secrets.token_urlsafe(9)
        self.seq = 0

    def next(self) -> int:
        self.seq += 1
        return self.seq

    def names(self, calls: Sequence[Call]) -> list[str]:
        """A name for each call, under which no other is carried out in this round."""
        if len(calls) == 1:
            return [f"{self.id} 0"]
        numbers: dict[str | int, Iterator[int]] = defaultdict(count)  # by the shard
        return [f"{self.id} {next(numbers[call[0]])}" for call in calls]


class _Once(_Session):
    """Has one call, that may come again from anywhere."""

    def __init__(self, name: str) -> None:
        self.id = f"!{name}"
        self.lasting = str(max(round(conf.settings().ONCE_DAYS * 86400), 1))

    def next(self) -> int:
        return clock.now()


_idle: deque[_Session] = deque()  # those that have none under way
os.register_at_fork(after_in_child=_idle.clear)


def _round(
    client: redis.Redis, script: str, calls: Sequence[Call], room: int | None, once: str = ""
) -> list[Outcome]:
    """Send calls, and once more those whose connection broke."""
    if not calls:
        return []
    if once:
        return _sent(client, script, calls, _Once(once), room)
    try:
        session = _idle.pop()
    except IndexError:
        session = _Session()
    try:
        return _sent(client, script, calls, session, room)
    finally:
        _idle.append(session)


def _sent(
    client: redis.Redis,
    script: str,
    calls: Sequence[Call],
    session: _Session,
    room: int | None,
) -> list[Outcome]:
    started = time.monotonic()
    names = session.names(calls)
    tail = f"{'-' if room is None else room} {session.lasting}"
    timeout = _timeout(client)
    try:
        if not clock.is_known():
            clock.saw(lua.now(client))
        seq = session.next()
        until = clock.now() + int(timeout * 1e6)
        named = _named(calls, names, f"{until} {seq:016} 0", tail)
        replies, error = _exchange(client, script, named)
    except redis.RedisError as unsent:
        return [_unavailable(unsent)] * len(calls)
    sent_again: list[int] = []
    left = conf.settings().CONNECT_TIMEOUT + timeout - (time.monotonic() - started)
    if error and left > 0 and not isinstance(error, redis.TimeoutError):
        until = clock.now() + int(min(left, timeout) * 1e6)
        lost = [i for i, reply in enumerate(replies) if reply is None]
        those, their_names = [calls[i] for i in lost], [names[i] for i in lost]
        with suppress(redis.RedisError):  # of which nothing was sent
            named = _named(those, their_names, f"{until} {seq:016} 1", tail)
            found, error = _exchange(client, script, named, min(left, timeout))
            sent_again = lost
            for i, reply in zip(lost, found, strict=True):
                replies[i] = reply
    return [
        _outcome(reply, error, until, is_certain=i not in sent_again)
        for i, reply in enumerate(replies)
    ]


def _named(calls: Sequence[Call], names: Sequence[str], head: str, tail: str) -> list[Call]:
    return [
        (call[0], f"{head} {name} {tail}", *call[1:])
        for call, name in zip(calls, names, strict=True)
    ]


def _outcome(reply: Any, error: Exception | None, until: int, *, is_certain: bool) -> Outcome:
    if isinstance(reply, list):
        return OutOfRange(reply[2]) if reply[1] == "overflow" else reply[1:]
    if reply is not None and is_certain:
        return _unavailable(reply)
    # What was sent first may have been carried out, or be on its way still.
    return _uncertain(reply or error, until)


# By call what Redis answered, None where no answer came; and what kept it from coming.
_Replies = tuple[list[Any], Exception | None]


def _exchange(
    client: redis.Redis, script: str, calls: Sequence[Call], timeout: float | None = None
) -> _Replies:
    """Raises what kept all of it from being sent."""
    replies: list[Any] = [None] * len(calls)
    left: Sequence[int] = range(len(calls))
    load: list[lua.Command] = []
    error: Exception | None = None
    while left and error is None:
        commands = [*load, *(("EVALSHA", lua.digest(script), 1, *calls[i]) for i in left)]
        try:
            found, error = lua.exchange(client, commands, write=True, timeout=timeout)
        except redis.RedisError:
            if not load:
                raise
            break  # it was not sent again: that the script is not there is the answer
        for i, reply in zip(left, found[len(load) :], strict=False):
            replies[i] = reply
        if load and found and isinstance(found[0], Exception):
            break  # the script is not let in
        left = [i for i in left if isinstance(replies[i], NoScriptError)]
        load = [("SCRIPT", "LOAD", lua.source(script))]
    for reply in reversed(replies):
        if isinstance(reply, list):
            clock.saw(int(reply[0]))
            break
    for call, reply in zip(calls, replies, strict=True):
        if isinstance(reply, Exception):
            lua.mend(client, str(call[0]), reply)
    return replies, error


def _unavailable(error: Exception) -> BufferUnavailable:
    unavailable = BufferUnavailable(f"Redis: {reason(error)}")
    unavailable.__cause__ = error
    return unavailable


def _uncertain(error: Exception | None, until: int) -> WriteUncertain:
    why = reason(error) if error else "the connection broke"
    return WriteUncertain(
        f"The write was sent to Redis, and the answer was lost ({why}): it was taken once, or not "
        "at all. Repeat it if that comes to the same; else look first what is there.",
        until,
    )


def _timeout(client: redis.Redis) -> float:
    """How long the client waits for an answer."""
    given: float | None = client.connection_pool.connection_kwargs.get("socket_timeout")
    return given or conf.settings().SOCKET_TIMEOUT
