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
from weakref import WeakSet

import redis
from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import NoScriptError

from writebehind_app import conf
from writebehind_app.exceptions import BufferFull, BufferUnavailable, WriteUncertain
from writebehind_app.store import clock, lua
from writebehind_app.store.connection import errors
from writebehind_app.store.failures import is_away, reason

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


class Durability(NamedTuple):
    """What is waited for after a call was carried out."""

    level: str | int  # 'fsync', or how many replicas have it
    timeout: float

    @property
    def command(self) -> lua.Command:
        """To be sent over the connection of the call, after it."""
        ms = max(round(self.timeout * 1000), 1)  # 0 would be for ever
        return ("WAITAOF", 1, 0, ms) if self.level == "fsync" else ("WAIT", self.level, ms)

    def missing(self, reply: Any) -> str:
        """What the reply to that leaves to be desired."""
        match reply:
            case Exception():
                return reason(reply)
            case None:
                return "the answer was lost"
            case [on_disk, _]:
                return "" if on_disk else f"it was not on disk after {self.timeout:g} s"
        if reply >= self.level:
            return ""
        return f"{reply} of {self.level} replicas had it after {self.timeout:g} s"


class Fleeting(Exception):
    """The call was carried out, and is not as durable as it should be."""

    def __init__(self, outcome: list[Any], why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


class _Way(NamedTuple):
    """How calls get to Redis."""

    client: redis.Redis
    script: str
    durability: Durability | None


def deliver(
    client: redis.Redis,
    script: str,
    calls: Sequence[Call],
    limit: Limit | None = None,
    *,
    durability: Durability | None = None,
    once: str = "",
) -> list[Outcome]:
    """Run `write` or `append` for each call, and say what became of it.

    Calls about the same thing run in their order. After one that was not taken, those about the
    same are not sent, and after an outage none, unless it is a value that is out of range. With
    `once`, a name for a single call, that is not carried out where one of the same name was.
    """
    way = _Way(client, script, durability)
    if durability and durability.level == "fsync" and client not in _with_waitaof:
        _look_for_waitaof(client)
    if len(calls) == 1:
        return _delivered(way, calls, limit, once)
    assert not once
    outcomes: list[Outcome] = []
    failed: dict[Call, Exception] = {}  # by what the call was about
    outage: Exception | None = None
    for part in _parts(calls):
        sent = [call for call in part if outage is None and call[:2] not in failed]
        delivered = iter(_delivered(way, sent, limit))
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


_with_waitaof: WeakSet[redis.Redis] = WeakSet()  # the clients whose server has it, and an AOF


def _look_for_waitaof(client: redis.Redis) -> None:
    """Nothing is written where there is no fsync to wait for."""
    with suppress(redis.RedisError):  # of which the call will tell
        replies, _ = lua.exchange(client, [("WAITAOF", 1, 0, 1)])
        for reply in replies:
            if isinstance(reply, Exception) and not is_away(reply):
                raise ImproperlyConfigured(
                    f"The durability 'fsync' is not to be had: Redis says {reason(reply)!r}. It "
                    "takes `appendonly yes`, on a Redis of 7.2 or later or a Valkey. Else set "
                    "DURABILITY to 'memory'."
                )
            if isinstance(reply, list):
                _with_waitaof.add(client)


def _delivered(
    way: _Way, calls: Sequence[Call], limit: Limit | None, once: str = ""
) -> list[Outcome]:
    """What became of calls whose order does not matter."""
    room = limit.share if limit else None
    outcomes = _round(way, calls, room, once)

    def again(indexes: list[int], room: int | None) -> None:
        found = _round(way, [calls[i] for i in indexes], room, once)
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
            held = _held(way.client, limit.keys)
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
        known = lua.call(client, "HGET", f"{key}:w:{_Once(once).id}", "0", again=True)
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


def memories(shard: str) -> list[str]:
    """The keys under which a shard may remember calls of this process; see scripts/delivery.lua."""
    return [f"{shard}:w:{session.id}" for session in _idle]


def _round(way: _Way, calls: Sequence[Call], room: int | None, once: str = "") -> list[Outcome]:
    """Send calls, and once more those whose connection broke."""
    if not calls:
        return []
    if once:
        return _sent(way, calls, _Once(once), room)
    try:
        session = _idle.pop()
    except IndexError:
        session = _Session()
    try:
        return _sent(way, calls, session, room)
    finally:
        _idle.append(session)


def _sent(way: _Way, calls: Sequence[Call], session: _Session, room: int | None) -> list[Outcome]:
    started = time.monotonic()
    names = session.names(calls)
    tail = f"{'-' if room is None else room} {session.lasting}"
    timeout = _timeout(way.client)
    try:
        if not clock.is_known():
            asked = clock.ticks()
            clock.saw(lua.now(way.client), asked)
        seq = session.next()
        until = clock.now() + int(timeout * 1e6)
        named = _named(calls, names, f"{until} {seq:016} 0", tail)
        replies, error = _exchange(way, named)
    except redis.RedisError as unsent:
        return [_unavailable(unsent)] * len(calls)
    sent_again: list[int] = []
    left = conf.settings().CONNECT_TIMEOUT + timeout - (time.monotonic() - started)
    lost = [i for i, reply in enumerate(replies) if reply is None]
    if lost and left > 0 and not isinstance(error, redis.TimeoutError):
        until = clock.now() + int(min(left, timeout) * 1e6)
        those, their_names = [calls[i] for i in lost], [names[i] for i in lost]
        with suppress(redis.RedisError):  # of which nothing was sent
            named = _named(those, their_names, f"{until} {seq:016} 1", tail)
            found, error = _exchange(way, named, min(left, timeout))
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
    if isinstance(reply, Fleeting):
        return reply
    if isinstance(reply, list):
        return OutOfRange(reply[2]) if reply[1] == "overflow" else reply[1:]
    if reply is not None and is_certain:
        return _unavailable(reply)
    # What was sent first may have been carried out, or be on its way still.
    return _uncertain(reply or error, until)


# By call what Redis answered, None where no answer came; and what kept it from coming.
_Replies = tuple[list[Any], Exception | None]


def _exchange(way: _Way, calls: Sequence[Call], timeout: float | None = None) -> _Replies:
    """Raises what kept all of it from being sent."""
    client, script, durability = way
    wait = [durability.command] if durability else []
    replies: list[Any] = [None] * len(calls)
    left: Sequence[int] = range(len(calls))
    load: list[lua.Command] = []
    error: Exception | None = None
    asked = clock.ticks()
    short: dict[int, str] = {}  # by call what its durability leaves to be desired
    while left and error is None:
        commands = [*load, *(("EVALSHA", lua.digest(script), 1, *calls[i]) for i in left), *wait]
        try:
            found, error = lua.exchange(
                client,
                commands,
                write=True,
                timeout=timeout,
                patience=durability.timeout if durability else 0,
            )
        except redis.RedisError:
            if not load:
                raise
            break  # it was not sent again: that the script is not there is the answer
        for i, reply in zip(left, found[len(load) :], strict=False):
            replies[i] = reply
        if durability:
            waited = found[-1] if len(found) == len(commands) else error
            if missing := durability.missing(waited):
                short |= dict.fromkeys(left, missing)
        if load and found and isinstance(found[0], Exception):
            break  # the script is not let in
        left = [i for i in left if isinstance(replies[i], NoScriptError)]
        load = [("SCRIPT", "LOAD", lua.source(script))]
    for reply in reversed(replies):
        if isinstance(reply, list):
            clock.saw(int(reply[0]), asked)
            break
    for call, reply in zip(calls, replies, strict=True):
        if isinstance(reply, Exception):
            lua.mend(client, str(call[0]), reply)
    for i, why in short.items():
        match replies[i]:
            case [_, int(outcome)] if outcome:  # it was carried out
                replies[i] = Fleeting([outcome], why)
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
