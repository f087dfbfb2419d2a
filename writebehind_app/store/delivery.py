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
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.dialogue import Ask, Dialogue, ahold, hold
from writebehind_app.store.failures import is_away, reason
from writebehind_app.store.link import Command

PIPELINE = 1000  # calls in one round trip
_QUICK = 10_000  # µs: an answer that is on its way for less tells nothing new of the clock


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
    [outcomes] = hold(client, delivering(client, [delivery], durability, once))
    return outcomes


def deliver_one(client: Client, script: str, call: Call, limit: Limit | None) -> Outcome:
    """The same for a call that is sent alone, need not be durable, and has no name: mostly one
    command and its answer."""
    if clock.ahead is None:  # the first call of a process: it has no deadline yet
        return deliver(client, script, [call], limit)[0]
    alone = _Alone(client, script, call, limit)
    try:
        replies, error = client.exchange(alone.commands(), True)
        if taken := alone.taken(replies):
            return taken
        return hold(client, alone.otherwise(replies, error))
    except redis.RedisError as unsent:
        return unavailable(unsent)
    finally:
        _idle.append(alone.session)


async def adeliver_one(client: Client, script: str, call: Call, limit: Limit | None) -> Outcome:
    """The twin of `deliver_one()`. A task that is cancelled meanwhile does not know what became of
    its call: it is carried out once, or not at all."""
    if clock.ahead is None:
        delivery = Delivery(script, [call], limit)
        [[outcome]] = await ahold(client, delivering(client, [delivery]))
        return outcome
    alone = _Alone(client, script, call, limit)
    try:
        replies, error = await client.aexchange(alone.commands, True)
        if taken := alone.taken(replies):
            return taken
        return await ahold(client, alone.otherwise(replies, error))
    except redis.RedisError as unsent:
        return unavailable(unsent)
    finally:
        _idle.append(alone.session)


class _Alone:
    """A call that is sent alone."""

    __slots__ = ("asked", "call", "client", "limit", "room", "script", "session", "until")

    def __init__(self, client: Client, script: str, call: Call, limit: Limit | None) -> None:
        self.client, self.script, self.call, self.limit = client, script, call, limit
        self.room = limit and (limit.most // len(limit.keys) or 1)
        self.asked = self.until = 0
        try:
            session = _idle.pop()
        except IndexError:
            session = _Session()
        session.seq += 1
        self.session = session

    def commands(self) -> list[Command]:
        self.asked = asked = time.monotonic_ns() // 1000
        # Where the settings changed a moment ago, Redis says that this is late.
        self.until = asked + (clock.ahead or 0) + int(self.client.timeout * 1e6)
        session, call = self.session, self.call
        identity = f"{self.until:016} {session.seq:016} 0 {session.id} 0 {self.room or '-'} -"
        return [("EVALSHA", lua.digest(self.script), 1, call[0], identity, *call[1:])]

    def taken(self, replies: Sequence[Any]) -> list[Any] | None:
        """What it came to, if it was carried out; None for everything else."""
        if not replies or type(reply := replies[0]) is not list or type(reply[1]) is not int:
            return None
        now = int(reply[0])
        if not 0 <= now - self.asked - (clock.ahead or 0) < _QUICK:
            clock.saw(now, self.asked)
        outcome: list[Any] = reply[1:]
        return outcome

    def otherwise(self, replies: Sequence[Any], error: Exception | None) -> Dialogue[Outcome]:
        """What it came to after any other answer, or none."""
        match replies:
            case [NoScriptError()] | [[_, "late" | "full"]]:  # it was not carried out
                delivery = Delivery(self.script, [self.call], self.limit)
                [[outcome]] = yield from delivering(self.client, [delivery])
                return outcome
            case [Exception() as refused]:
                yield from lua.mending(str(self.call[0]), refused)
        way = _Way(self.client.timeout, None, "")
        job = _Job(self.script, self.call, self.limit, self.room)
        reply = replies[0] if replies else None
        sent = _Sent(self.session, self.session.seq, self.asked, self.until, [reply], error)
        [outcome] = yield from _repeated(way, [job], sent)
        return outcome


def deliver_all(
    client: Client, deliveries: Sequence[Delivery], durability: Durability | None
) -> list[list[Outcome]]:
    """The same for calls to several buffers, in the round trips of one: a thousand calls each."""
    return hold(client, delivering(client, deliveries, durability))


def delivering(
    client: Client,
    deliveries: Sequence[Delivery],
    durability: Durability | None = None,
    once: str = "",
) -> Dialogue[list[list[Outcome]]]:
    """The same, whoever waits for the answers."""
    if durability and durability.level == "fsync" and client not in _with_waitaof:
        yield from _look_for_waitaof(client)
    way = _Way(client.timeout, durability, once)
    jobs = [
        _Job(script, call, limit, limit.share if limit else None)
        for script, calls, limit in deliveries
        for call in calls
    ]
    assert not once or len(jobs) == 1
    outcomes = iter((yield from _in_order(way, jobs)))
    return [[next(outcomes) for _ in calls] for _, calls, _ in deliveries]


class _Way(NamedTuple):
    """How calls are sent."""

    timeout: float  # seconds to wait for an answer
    durability: Durability | None
    once: str  # the name of a single call, or ''


def _in_order(way: _Way, jobs: Sequence[_Job]) -> Dialogue[list[Outcome]]:
    outcomes: dict[int, Outcome] = {}
    failed: dict[Call, Exception] = {}  # by what the call was about
    outage: Exception | None = None
    left = list(range(len(jobs)))
    while left:
        part, left = left[:PIPELINE], left[PIPELINE:]
        sent = [i for i in part if outage is None and jobs[i].about not in failed]
        found = yield from _delivered(way, [jobs[i] for i in sent])
        delivered = dict(zip(sent, found, strict=True))
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


def _look_for_waitaof(client: Client) -> Dialogue[None]:
    """Nothing is written where there is no fsync to wait for."""
    with suppress(redis.RedisError):  # of which the call will tell
        replies, _ = yield Ask(lambda: [("WAITAOF", 1, 0, 1)])
        for reply in replies:
            if isinstance(reply, Exception) and not is_away(reply):
                raise ImproperlyConfigured(
                    f"The durability 'fsync' is not to be had: Redis says {reason(reply)!r}. It "
                    "takes `appendonly yes`, on a Redis of 7.2 or later or a Valkey. Else set "
                    "DURABILITY to 'memory'."
                )
            if isinstance(reply, list):
                _with_waitaof.add(client)


def _delivered(way: _Way, jobs: Sequence[_Job]) -> Dialogue[list[Outcome]]:
    """What became of calls that are sent together."""
    outcomes = yield from _round(way, jobs)

    def again(indexes: list[int], *, roomy: bool = False) -> Dialogue[None]:
        those = [jobs[i]._replace(room=None) if roomy else jobs[i] for i in indexes]
        found = yield from _round(way, those)
        for i, outcome in zip(indexes, found, strict=True):
            outcomes[i] = outcome

    if ["late"] in outcomes:
        late = [i for i, outcome in enumerate(outcomes) if outcome == ["late"]]
        yield from again(late)  # they did not run, and the time is known better now
        for i in late:
            if outcomes[i] == ["late"]:
                outcomes[i] = BufferUnavailable("Redis: the call came too late, twice.")
    full: dict[str, list[int]] = defaultdict(list)  # by the first shard of the buffer
    for i, outcome in enumerate(outcomes):
        if outcome == ["full"] and (limit := jobs[i].limit):
            full[limit.keys[0]].append(i)
    for indexes in full.values():
        refusals, free = yield from _refusals([jobs[i].limit for i in indexes])
        for i, refusal in zip(indexes, refusals, strict=True):
            outcomes[i] = refusal
        yield from again(indexes[:free], roomy=True)
    return outcomes


def _refusals(limits: Sequence[Any]) -> Dialogue[tuple[list[Exception], int]]:
    """What is said of calls to a buffer that has a full shard; and how many of them, from the
    first one on, there is room for in all shards together."""
    most: int = limits[0].most
    try:
        held = yield from _held(limits[0].keys)
    except redis.RedisError as error:
        return [unavailable(error)] * len(limits), 0
    refusal = BufferFull(
        f"{held} entries are pending, and max_pending is {most}: see whether a flusher runs, and "
        "keeps up."
    )
    sizes = accumulate(limit.size for limit in limits)
    return [refusal] * len(limits), sum(held + size <= most for size in sizes)


def _held(keys: Sequence[str]) -> Dialogue[int]:
    """How many entries there are in all the shards, those in flight included."""
    counts = yield from lua.running_many("count", [(key,) for key in keys])
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


def _round(way: _Way, jobs: Sequence[_Job]) -> Dialogue[list[Outcome]]:
    """Send calls, and once more those whose connection broke."""
    if not jobs:
        return []
    if way.once:
        return (yield from _sent(way, jobs, _Once(way.once)))
    try:
        session = _idle.pop()
    except IndexError:
        session = _Session()
    try:
        return (yield from _sent(way, jobs, session))
    finally:
        _idle.append(session)


def _sent(way: _Way, jobs: Sequence[_Job], session: _Session) -> Dialogue[list[Outcome]]:
    try:
        if clock.ahead is None:
            asked = clock.ticks()
            clock.saw((yield from lua.asking_time()), asked)
        first = _Attempt(jobs, session, session.next(), way.timeout)
        replies, error = yield from _exchange(way, first, range(len(jobs)))
    except redis.RedisError as unsent:
        return [unavailable(unsent)] * len(jobs)
    sent = _Sent(session, first.seq, first.asked, first.until, replies, error)
    return (yield from _repeated(way, jobs, sent))


class _Sent(NamedTuple):
    """What came of calls that were sent."""

    session: _Session
    seq: int
    asked: int  # ticks, when they were sent
    until: int  # their deadline
    replies: list[Any]  # None where none came
    error: Exception | None  # what kept it from coming


def _repeated(way: _Way, jobs: Sequence[_Job], sent: _Sent) -> Dialogue[list[Outcome]]:
    """What came of calls, once those were sent again whose answer was lost."""
    session, seq, asked, until, replies, error = sent
    sent_again: list[int] = []
    took = (clock.ticks() - asked) / 1e6
    left = min(conf.settings().CONNECT_TIMEOUT + way.timeout - took, way.timeout)
    lost = [i for i, reply in enumerate(replies) if reply is None]
    if lost and left > 0 and not isinstance(error, redis.TimeoutError):
        second = _Attempt(jobs, session, seq, left, again="1")
        with suppress(redis.RedisError):  # of which nothing was sent
            found, error = yield from _exchange(way, second, lost)
            sent_again = lost
            for i, reply in zip(lost, found, strict=True):
                replies[i] = reply
        until = second.until or until
    return [
        _outcome(reply, error, until, is_certain=i not in sent_again)
        for i, reply in enumerate(replies)
    ]


class _Attempt:
    """Calls of a round as they are sent together, with a deadline."""

    def __init__(
        self, jobs: Sequence[_Job], session: _Session, seq: int, timeout: float, again: str = "0"
    ) -> None:
        self.jobs = jobs
        self.seq = seq
        self.timeout = timeout
        self.asked = 0  # ticks, when it was sent
        self.until = 0  # the deadline
        self._again = again
        self._names = session.names(jobs)
        self._tails = session.tails(jobs, self._names)

    def commands(self, indexes: Iterable[int]) -> list[Command]:
        """What is sent for these of the jobs."""
        if not self.until:
            self.asked = clock.ticks()
            self.until = clock.now() + int(self.timeout * 1e6)
        head = f"{self.until} {self.seq:016} {self._again}"
        return [
            (
                "EVALSHA",
                lua.digest(script),
                1,
                call[0],
                f"{head} {self._names[i]} {self._tails[i]}",
                *call[1:],
            )
            for i in indexes
            for script, call, *_ in [self.jobs[i]]
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


# By job what Redis answered, None where no answer came; and what kept it from coming.
_Replies = tuple[list[Any], Exception | None]


def _exchange(way: _Way, attempt: _Attempt, indexes: Sequence[int]) -> Dialogue[_Replies]:
    """Raises what kept all of it from being sent."""
    durability, jobs = way.durability, attempt.jobs
    wait = [durability.command] if durability else []
    patience = durability.timeout if durability else 0
    replies: dict[int, Any] = dict.fromkeys(indexes)
    left = indexes
    load: list[Command] = []
    error: Exception | None = None
    short: dict[int, str] = {}  # by job what its durability leaves to be desired
    while left and error is None:

        def commands() -> list[Command]:
            return [*load, *attempt.commands(left), *wait]  # noqa: B023 - it is called at once

        try:
            found, error = yield Ask(
                commands, write=True, timeout=attempt.timeout, patience=patience
            )
        except redis.RedisError:
            if not load:
                raise
            break  # it was not sent again: that the script is not there is the answer
        for i, reply in zip(left, found[len(load) :], strict=False):
            replies[i] = reply
        if durability:
            waited = found[-1] if len(found) == len(load) + len(left) + 1 else error
            if missing := durability.missing(waited):
                short |= dict.fromkeys(left, missing)
        if any(isinstance(reply, Exception) for reply in found[: len(load)]):
            break  # the script is not let in
        left = [i for i in left if isinstance(replies[i], NoScriptError)]
        load = [("SCRIPT", "LOAD", lua.source(s)) for s in {jobs[i].script: 0 for i in left}]
    for reply in reversed(replies.values()):
        if isinstance(reply, list):
            clock.saw(int(reply[0]), attempt.asked)
            break
    for i, reply in replies.items():
        if isinstance(reply, Exception):
            yield from lua.mending(str(jobs[i].call[0]), reply)
    for i, why in short.items():
        match replies[i]:
            case [_, int(outcome)] if outcome:  # it was carried out
                replies[i] = Fleeting([outcome], why)
    return [replies[i] for i in indexes], error
