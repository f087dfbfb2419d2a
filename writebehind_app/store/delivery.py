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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, count
from typing import Any, NamedTuple
from weakref import WeakSet

import redis
from django.core.exceptions import ImproperlyConfigured
from redis.exceptions import NoScriptError

from writebehind_app import conf
from writebehind_app.exceptions import BufferFull, BufferUnavailable, WriteUncertain
from writebehind_app.store import clock, lua
from writebehind_app.store.calls import (
    Call,
    Delivery,
    Durability,
    Fleeting,
    Limit,
    Outcome,
    OutOfRange,
    unavailable,
    uncertain,
)
from writebehind_app.store.client import Client, Command
from writebehind_app.store.connection import errors
from writebehind_app.store.failures import is_away, reason

PIPELINE = 1000  # calls in one round trip


class _Way(NamedTuple):
    """How calls get to Redis."""

    client: Client
    durability: Durability | None


class _Job(NamedTuple):
    """A call to be made."""

    script: str
    call: Call
    limit: Limit | None
    room: int | None  # while its shard holds no more, the call is taken; None for however many

    @property
    def about(self) -> Call:
        """Calls about the same thing run in their order."""
        return self.call[:2]


def deliver(
    client: Client,
    script: str,
    calls: Sequence[Call],
    limit: Limit | None = None,
    *,
    durability: Durability | None = None,
    once: str = "",
) -> list[Outcome]:
    """Run `write` or `append` for each call, and say what became of it.

    Calls about the same thing run in their order. After one that was not taken, those about the
    same are not sent, or not carried out, and after an outage none, unless it is a value that is
    out of range. With `once`, a name for a single call, that is not carried out where one of the
    same name was.
    """
    delivery = Delivery(script, calls, limit)
    [outcomes] = deliver_all(client, [delivery], durability=durability, once=once)
    return outcomes


def deliver_all(
    client: Client,
    deliveries: Sequence[Delivery],
    *,
    durability: Durability | None = None,
    once: str = "",
) -> list[list[Outcome]]:
    """The same for calls to several buffers, in the round trips of one: a thousand calls each."""
    way = _Way(client, durability)
    if durability and durability.level == "fsync" and client not in _with_waitaof:
        _look_for_waitaof(client)
    jobs = [
        _Job(script, call, limit, limit.share if limit else None)
        for script, calls, limit in deliveries
        for call in calls
    ]
    assert not once or len(jobs) == 1
    outcomes = iter(_in_order(way, jobs, once))
    return [[next(outcomes) for _ in calls] for _, calls, _ in deliveries]


def _in_order(way: _Way, jobs: Sequence[_Job], once: str) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    failed: dict[Call, Exception] = {}  # by what the call was about
    outage: Exception | None = None
    left = list(range(len(jobs)))
    while left:
        part, left = left[:PIPELINE], left[PIPELINE:]
        sent = [i for i in part if outage is None and jobs[i].about not in failed]
        delivered = dict(zip(sent, _delivered(way, [jobs[i] for i in sent], once), strict=True))
        again = []
        for i in part:
            about = jobs[i].about
            earlier = failed.get(about, outage)
            if i in delivered and delivered[i] != ["after"]:
                outcomes[i] = outcome = delivered[i]
                if isinstance(outcome, BufferFull | BufferUnavailable | WriteUncertain):
                    failed.setdefault(about, outcome)
            elif earlier is not None:
                outcomes[i] = _not_sent(earlier)
            else:  # the one before it was out of range, or had to be sent again
                again.append(i)
        outages = (error for error in failed.values() if not isinstance(error, BufferFull))
        outage = outage or next(outages, None)
        left = again + left
    return [outcomes[i] for i in range(len(jobs))]


def _not_sent(earlier: Exception) -> Exception:
    kind = BufferFull if isinstance(earlier, BufferFull) else BufferUnavailable
    return kind(f"Not sent, as one before it was not taken: {earlier}")


_with_waitaof: WeakSet[Client] = WeakSet()  # the clients whose server has it, and an AOF


def _look_for_waitaof(client: Client) -> None:
    """Nothing is written where there is no fsync to wait for."""
    with suppress(redis.RedisError):  # of which the call will tell
        replies, _ = client.exchange([("WAITAOF", 1, 0, 1)])
        for reply in replies:
            if isinstance(reply, Exception) and not is_away(reply):
                raise ImproperlyConfigured(
                    f"The durability 'fsync' is not to be had: Redis says {reason(reply)!r}. It "
                    "takes `appendonly yes`, on a Redis of 7.2 or later or a Valkey. Else set "
                    "DURABILITY to 'memory'."
                )
            if isinstance(reply, list):
                _with_waitaof.add(client)


def _delivered(way: _Way, jobs: Sequence[_Job], once: str = "") -> list[Outcome]:
    """What became of calls that are sent together."""
    outcomes = _round(way, jobs, once)

    def again(indexes: list[int], *, roomy: bool = False) -> None:
        those = [jobs[i]._replace(room=None) if roomy else jobs[i] for i in indexes]
        for i, outcome in zip(indexes, _round(way, those, once), strict=True):
            outcomes[i] = outcome

    if ["late"] in outcomes:
        late = [i for i, outcome in enumerate(outcomes) if outcome == ["late"]]
        again(late)  # they did not run, and the time is known better now
        for i in late:
            if outcomes[i] == ["late"]:
                outcomes[i] = BufferUnavailable("Redis: the call came too late, twice.")
    full: dict[str, list[int]] = defaultdict(list)  # by the first shard of the buffer
    for i, outcome in enumerate(outcomes):
        if outcome == ["full"] and (limit := jobs[i].limit):
            full[limit.keys[0]].append(i)
    for indexes in full.values():
        refusals, free = _refusals(way, [jobs[i].limit for i in indexes])
        for i, refusal in zip(indexes, refusals, strict=True):
            outcomes[i] = refusal
        again(indexes[:free], roomy=True)
    return outcomes


def _refusals(way: _Way, limits: Sequence[Any]) -> tuple[list[Exception], int]:
    """What is said of calls to a buffer that has a full shard; and how many of them, from the
    first one on, there is room for in all shards together."""
    most: int = limits[0].most
    try:
        held = _held(way.client, limits[0].keys)
    except redis.RedisError as error:
        return [unavailable(error)] * len(limits), 0
    refusal = BufferFull(
        f"{held} entries are pending, and max_pending is {most}: see whether a flusher runs, and "
        "keeps up."
    )
    sizes = accumulate(limit.size for limit in limits)
    return [refusal] * len(limits), sum(held + size <= most for size in sizes)


def _held(client: Client, keys: Sequence[str]) -> int:
    """How many entries there are in all the shards, those in flight included."""
    counts = lua.run_many(client, "count", [(key,) for key in keys])
    return sum(pending + in_flight for pending, in_flight, _ in counts)


def was_taken(client: Client, key: str, once: str) -> bool:
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

    def names(self, jobs: Sequence[_Job]) -> list[str]:
        """A name for each call, under which no other is carried out in this round."""
        if len(jobs) == 1:
            return [f"{self.id} 0"]
        numbers: dict[str | int, Iterator[int]] = defaultdict(count)  # by the shard
        return [f"{self.id} {next(numbers[job.call[0]])}" for job in jobs]

    def tails(self, jobs: Sequence[_Job], names: Sequence[str]) -> list[str]:
        """For each call what it needs to be carried out; also that the one before it was that is
        about the same: an entry is not to have the second and then the first."""
        tails = []
        before: dict[Call, str] = {}
        for job, name in zip(jobs, names, strict=True):
            room = "-" if job.room is None else job.room
            tails.append(f"{room} {self.lasting}{before.get(job.about, '')}")
            before[job.about] = f" {name.split()[1]}"
        return tails


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


def _round(way: _Way, jobs: Sequence[_Job], once: str = "") -> list[Outcome]:
    """Send calls, and once more those whose connection broke."""
    if not jobs:
        return []
    if once:
        return _sent(way, jobs, _Once(once))
    try:
        session = _idle.pop()
    except IndexError:
        session = _Session()
    try:
        return _sent(way, jobs, session)
    finally:
        _idle.append(session)


def _sent(way: _Way, jobs: Sequence[_Job], session: _Session) -> list[Outcome]:
    started = time.monotonic()
    names = session.names(jobs)
    tails = session.tails(jobs, names)
    timeout = way.client.timeout

    def named(indexes: Iterable[int], head: str) -> list[Call]:
        return [
            (script, call[0], f"{head} {names[i]} {tails[i]}", *call[1:])
            for i in indexes
            for script, call, *_ in [jobs[i]]
        ]

    try:
        if not clock.is_known():
            asked = clock.ticks()
            clock.saw(lua.now(way.client), asked)
        seq = session.next()
        until = clock.now() + int(timeout * 1e6)
        replies, error = _exchange(way, named(range(len(jobs)), f"{until} {seq:016} 0"))
    except redis.RedisError as unsent:
        return [unavailable(unsent)] * len(jobs)
    sent_again: list[int] = []
    left = conf.settings().CONNECT_TIMEOUT + timeout - (time.monotonic() - started)
    lost = [i for i, reply in enumerate(replies) if reply is None]
    if lost and left > 0 and not isinstance(error, redis.TimeoutError):
        until = clock.now() + int(min(left, timeout) * 1e6)
        with suppress(redis.RedisError):  # of which nothing was sent
            calls = named(lost, f"{until} {seq:016} 1")
            found, error = _exchange(way, calls, min(left, timeout))
            sent_again = lost
            for i, reply in zip(lost, found, strict=True):
                replies[i] = reply
    return [
        _outcome(reply, error, until, is_certain=i not in sent_again)
        for i, reply in enumerate(replies)
    ]


def _outcome(reply: Any, error: Exception | None, until: int, *, is_certain: bool) -> Outcome:
    if isinstance(reply, Fleeting):
        return reply
    if isinstance(reply, list):
        return OutOfRange(reply[2]) if reply[1] == "overflow" else reply[1:]
    if reply is not None and is_certain:
        return unavailable(reply)
    # What was sent first may have been carried out, or be on its way still.
    return uncertain(reply or error, until)


# By call what Redis answered, None where no answer came; and what kept it from coming.
_Replies = tuple[list[Any], Exception | None]


def _exchange(way: _Way, calls: Sequence[Call], timeout: float | None = None) -> _Replies:
    """Calls are the name of a script and what it takes. Raises what kept all of it from being
    sent."""
    client, durability = way
    wait = [durability.command] if durability else []
    replies: list[Any] = [None] * len(calls)
    left: Sequence[int] = range(len(calls))
    load: list[Command] = []
    error: Exception | None = None
    asked = clock.ticks()
    short: dict[int, str] = {}  # by call what its durability leaves to be desired
    evals: list[Command] = [("EVALSHA", lua.digest(s), 1, *args) for s, *args in calls]
    while left and error is None:
        commands = [*load, *(evals[i] for i in left), *wait]
        try:
            found, error = client.exchange(
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
        if any(isinstance(reply, Exception) for reply in found[: len(load)]):
            break  # the script is not let in
        left = [i for i in left if isinstance(replies[i], NoScriptError)]
        load = [("SCRIPT", "LOAD", lua.source(s)) for s in {str(calls[i][0]): 0 for i in left}]
    for reply in reversed(replies):
        if isinstance(reply, list):
            clock.saw(int(reply[0]), asked)
            break
    for call, reply in zip(calls, replies, strict=True):
        if isinstance(reply, Exception):
            lua.mend(client, str(call[1]), reply)
    for i, why in short.items():
        match replies[i]:
            case [_, int(outcome)] if outcome:  # it was carried out
                replies[i] = Fleeting([outcome], why)
    return replies, error
