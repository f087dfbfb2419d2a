"""Deliver calls to Redis, and report what became of each.

A call is taken whole or not at all, and at most once. Mostly its caller learns which. A sender has
one call to a shard unanswered at a time. So if a reply is lost, it needs to know only the number of
its last write that was answered. If Redis has noted a later number for the sender, that is the
number of the call. See docs/protocol.md.

If the connection of a call breaks, another connection asks at once what became of it. If an answer
does not come in time, nobody asks again: if Redis is frozen, the caller would wait twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoScriptError

from writebehind_app import conf
from writebehind_app.exceptions import BufferFull, BufferUnavailable, WriteUncertain
from writebehind_app.store import clock, divisions, lua, overdue
from writebehind_app.store.calls import (
    Call,
    Fleeting,
    Outcome,
    Refused,
    unavailable,
    uncertain,
)
from writebehind_app.store.ceiling import find_room
from writebehind_app.store.client import Client
from writebehind_app.store.dialogue import Ask, Dialogue, Pause, arun_dialogue, run_dialogue
from writebehind_app.store.durability import Durability, check_waitaof
from writebehind_app.store.link import Command
from writebehind_app.store.senders import Sender, give_back, take_sender

_POLL = 0.01  # seconds between two looks at a change of the shards


def deliver(
    client: Client, calls: Sequence[Call], durability: Durability | None = None
) -> list[Outcome]:
    """Send calls, and report what became of each.

    Calls to one shard are taken in their order. If one of them is not taken, because the buffer is
    full or Redis is away, no later one is sent to that shard. After an outage none is sent at all.
    """
    return run_dialogue(client, delivering(client, calls, durability))


def deliver_one(client: Client, call: Call) -> Outcome:
    """Send a single call that need not be durable: mostly one command and its answer."""
    if clock.ahead is None:  # the first call of a process: the clock of Redis is not known yet
        return deliver(client, [call])[0]
    sender = take_sender()
    asked = time.monotonic_ns() // 1000
    # If the settings changed a moment ago, this is too early, and Redis answers "late".
    until = asked + clock.ahead + int(client.timeout * 1e6)
    try:
        replies, error = client.exchange([call.command(sender.name, until)], True)
    except redis.RedisError as unsent:
        give_back(sender)
        return unavailable(unsent)
    if replies and type(reply := replies[0]) is list and type(reply[1]) is int:
        number = sender.was_answered(call, reply, asked)
        if asked > overdue.next_at:
            run_dialogue(client, overdue.checking([call]))
        return number
    sent = _Sent(sender, [call], asked, until, [replies[0] if replies else None], error)
    return run_dialogue(client, _follow_up(client, call, sent))


async def adeliver_one(client: Client, call: Call) -> Outcome:
    """The twin of `deliver_one()`. If the task is cancelled meanwhile, it does not learn whether
    its call was taken."""
    if clock.ahead is None:
        [outcome] = await arun_dialogue(client, delivering(client, [call]))
        return outcome
    sender = take_sender()
    asked = until = 0

    def commands() -> list[Command]:
        nonlocal asked, until
        asked = time.monotonic_ns() // 1000
        until = asked + (clock.ahead or 0) + int(client.timeout * 1e6)
        return [call.command(sender.name, until)]

    try:
        replies, error = await client.aexchange(commands, True)
    except redis.RedisError as unsent:
        give_back(sender)
        return unavailable(unsent)
    if replies and type(reply := replies[0]) is list and type(reply[1]) is int:
        number = sender.was_answered(call, reply, asked)
        if asked > overdue.next_at:
            await arun_dialogue(client, overdue.checking([call]))
        return number
    sent = _Sent(sender, [call], asked, until, [replies[0] if replies else None], error)
    return await arun_dialogue(client, _follow_up(client, call, sent))


def delivering(
    client: Client, calls: Sequence[Call], durability: Durability | None = None
) -> Dialogue[list[Outcome]]:
    """The dialogue of `deliver()`."""
    if durability and durability.level == "fsync":
        yield from check_waitaof(client, [call.shard for call in calls])
    options = _Options(client.timeout, durability)
    outcomes: dict[int, Outcome] = {}
    by_shard: dict[str, deque[int]] = {}
    for i, call in enumerate(calls):
        by_shard.setdefault(call.shard, deque()).append(i)
    while by_shard:
        part = [indexes.popleft() for indexes in by_shard.values()]
        found = yield from _send_until_decided(options, [calls[i] for i in part])
        outcomes.update(zip(part, found, strict=True))
        outage = next((o for o in found if isinstance(o, BufferUnavailable | WriteUncertain)), None)
        for i, outcome in zip(part, found, strict=True):
            indexes = by_shard[calls[i].shard]
            if isinstance(failure := outage or outcome, Exception):
                outcomes |= {left: _not_sent(failure) for left in indexes}
                indexes.clear()
            if not indexes:
                del by_shard[calls[i].shard]
    if clock.ticks() > overdue.next_at:
        yield from overdue.checking(calls[i] for i, found in outcomes.items() if type(found) is int)
    return [outcomes[i] for i in range(len(calls))]


def _not_sent(earlier: Exception) -> Exception:
    kind = BufferFull if isinstance(earlier, BufferFull) else BufferUnavailable
    return kind(f"Not sent, because an earlier call was not taken: {earlier}")


class _Options(NamedTuple):
    """How calls are sent."""

    timeout: float  # seconds to wait for an answer
    durability: Durability | None = None


def _send_until_decided(options: _Options, calls: Sequence[Call]) -> Dialogue[list[Outcome]]:
    """Send calls, each to a shard of its own. Send a call again if it came too late, or if its
    shard had no room and the other shards of the buffer have."""
    outcomes = yield from _send_round(options, calls)

    def again(why: str, calls_of: Sequence[int], *, is_roomy: bool = False) -> Dialogue[None]:
        found = yield from _send_round(options, [calls[i] for i in calls_of], is_roomy=is_roomy)
        for i, outcome in zip(calls_of, found, strict=True):
            outcomes[i] = BufferUnavailable(why) if outcome == Refused("late") else outcome

    late = [i for i, outcome in enumerate(outcomes) if outcome == Refused("late")]
    if late:  # their answers have told the time of Redis
        yield from again("Redis: the call came too late, twice.", late)
    full: dict[str, list[int]] = {}  # by the first shard of the buffer
    for i, outcome in enumerate(outcomes):
        if outcome == Refused("full"):
            full.setdefault(calls[i].terms.limit.shards[0], []).append(i)
    for indexes in full.values():
        fitting = yield from find_room(calls, indexes, outcomes)
        if fitting:
            yield from again("Redis: the call came too late.", fitting, is_roomy=True)
            for i in fitting:
                if outcomes[i] == Refused("full"):
                    outcomes[i] = BufferFull(
                        "More is pending for one row than an entry may hold: see whether a flusher "
                        "runs, and keeps up."
                    )
    return outcomes


# One round of calls


class _Sent(NamedTuple):
    """Calls that were sent, and their replies."""

    sender: Sender
    calls: Sequence[Call]
    asked: int  # ticks, when they were sent
    until: int  # their deadline
    replies: list[Any]  # None for a reply that did not come
    error: Exception | None  # why it did not come
    shortfall: str = ""  # why the durability was not reached

    @property
    def is_answered(self) -> bool:
        return None not in self.replies


def _follow_up(client: Client, call: Call, sent: _Sent) -> Dialogue[Outcome]:
    """Find out what became of a call that was sent alone, if the reply has no number."""
    match sent.replies:
        case [NoScriptError()] | [[_, "late" | "full"]]:  # it was not taken
            give_back(sent.sender)
            [outcome] = yield from delivering(client, [call])
        case _:
            [outcome] = yield from _outcomes(_Options(client.timeout), sent)
            if isinstance(outcome, Refused):
                [outcome] = yield from delivering(client, [call])
    return outcome


def _send_round(
    options: _Options, calls: Sequence[Call], *, is_roomy: bool = False
) -> Dialogue[list[Outcome]]:
    """Send calls, each to a shard of its own, and find out what became of each. While a change of
    the shards is under way, wait for its end. Calls to shards that are not in force any more are
    refused as "elsewhere"."""
    outcomes = yield from _send_once(options, calls, is_roomy=is_roomy)
    until = clock.ticks() + 3 * divisions.LONGEST
    while closed := [i for i, found in enumerate(outcomes) if _is_closed(found)]:
        try:
            shards = {calls[i].shard: outcomes[i].more for i in closed}  # type: ignore[union-attr]
            verdicts = yield from divisions.settling(shards)
            if clock.ticks() > until:
                raise redis.TimeoutError("the shards of the buffer are being changed for too long")
        except redis.RedisError as error:
            for i in closed:
                outcomes[i] = unavailable(error)
            break
        for i in closed:
            if verdicts[calls[i].shard] == "moved":
                outcomes[i] = Refused("elsewhere")
        again = [i for i in closed if _is_closed(outcomes[i])]
        if "closing" in verdicts.values():
            yield Pause(_POLL)
        if again:
            found = yield from _send_once(options, [calls[i] for i in again], is_roomy=is_roomy)
            for i, outcome in zip(again, found, strict=True):
                outcomes[i] = outcome
    return outcomes


def _is_closed(outcome: Outcome) -> bool:
    return isinstance(outcome, Refused) and outcome.why == "closed"


def _send_once(
    options: _Options, calls: Sequence[Call], *, is_roomy: bool
) -> Dialogue[list[Outcome]]:
    """Send calls, each to a shard of its own, and find out what became of each."""
    sender = take_sender()
    try:
        if clock.ahead is None:
            asked = clock.ticks()
            clock.saw((yield from lua.asking_time()), asked)
        sent = yield from _send(options, sender, calls, options.timeout, is_roomy=is_roomy)
    except redis.RedisError as unsent:
        give_back(sender)
        return [unavailable(unsent)] * len(calls)
    return (yield from _outcomes(options, sent, is_roomy=is_roomy))


def _outcomes(options: _Options, sent: _Sent, *, is_roomy: bool = False) -> Dialogue[list[Outcome]]:
    """What became of the calls. If the connection broke, Redis is asked once more about lost
    replies, and about calls whose script was missing."""
    outcomes: list[Outcome] = []
    for call, reply in zip(sent.calls, sent.replies, strict=True):
        if isinstance(reply, Exception):
            yield from lua.mending(call.shard, reply)
            outcomes.append(unavailable(reply))
        elif reply is None:
            outcomes.append(uncertain(sent.error, sent.until))
        else:
            _, what, *more = reply
            if isinstance(what, int):
                sent.sender.note(call, what)
                outcomes.append(Fleeting(what, sent.shortfall) if sent.shortfall else what)
            else:
                outcomes.append(Refused(what, more[0] if more else None))
    if sent.is_answered:
        give_back(sent.sender)
        return outcomes
    took = (clock.ticks() - sent.asked) / 1e6
    left = min(conf.settings().CONNECT_TIMEOUT + options.timeout - took, options.timeout)
    if left > 0 and not isinstance(sent.error, redis.TimeoutError):
        lost = [
            i
            for i, reply in enumerate(sent.replies)
            if reply is None or isinstance(reply, NoScriptError)
        ]
        calls = [sent.calls[i] for i in lost]
        with suppress(redis.RedisError):  # it stays unknown
            found = yield from _recover_lost(options, sent.sender, calls, left, is_roomy=is_roomy)
            for i, outcome in zip(lost, found, strict=True):
                outcomes[i] = outcome
    return outcomes


def _recover_lost(
    options: _Options, lost: Sender, calls: Sequence[Call], timeout: float, *, is_roomy: bool
) -> Dialogue[list[Outcome]]:
    """Find out what became of calls whose replies the sender `lost` did not get. A call that was
    not taken is sent once more, by another sender. Raises an error if nothing can be found out."""
    until = clock.now() + int(timeout * 1e6)
    questions: list[Command] = [
        ("again", call.shard, lost.name, lost.answered.get(call.shard, 0), until) for call in calls
    ]
    replies = yield from lua.running_each(questions)
    outcomes: dict[int, Outcome] = {}
    for i, (_, answer) in enumerate(replies):
        if answer == "late":
            outcomes[i] = uncertain(TimeoutError("it was asked for too late"), until)
        elif answer == "lost":
            outcomes[i] = uncertain(ConnectionError("Redis lost what it had taken before"), until)
        elif answer != "no":
            first = answer - calls[i].size + 1
            clock.numbers[calls[i].shard] = answer
            shortfall = options.durability and options.durability.missing(None)
            outcomes[i] = Fleeting(first, shortfall) if shortfall else first
    left = [i for i in range(len(calls)) if i not in outcomes]
    if left:
        sender = take_sender()
        try:
            again = [calls[i] for i in left]
            sent = yield from _send(options, sender, again, timeout, is_roomy=is_roomy)
        except redis.RedisError as unsent:  # Redis will not take the first try either
            give_back(sender)
            outcomes |= dict.fromkeys(left, unavailable(unsent))
        else:
            found = yield from _outcomes(options._replace(timeout=0), sent)
            outcomes.update(zip(left, found, strict=True))
    return [outcomes[i] for i in range(len(calls))]


def _send(
    options: _Options, sender: Sender, calls: Sequence[Call], timeout: float, *, is_roomy: bool
) -> Dialogue[_Sent]:
    """Send calls, each to a shard of its own. Raises an error if none of them was sent."""
    durability = options.durability
    wait = [durability.command] if durability else []
    patience = durability.timeout if durability else 0
    replies: list[Any] = [None] * len(calls)
    left: Sequence[int] = range(len(calls))
    load: list[Command] = []
    error: Exception | None = None
    shortfall = ""
    asked = until = 0
    while left and error is None:

        def commands() -> list[Command]:
            nonlocal asked, until
            if not until:
                asked, until = clock.ticks(), clock.now() + int(timeout * 1e6)
            sent = [calls[i].command(sender.name, until, is_roomy=is_roomy) for i in left]  # noqa: B023
            return [*load, *sent, *wait]  # noqa: B023 - it is called at once

        try:
            found, error = yield Ask(commands, write=True, timeout=timeout, patience=patience)
        except redis.RedisError:
            if not load:
                raise
            break  # the calls were not sent again: they keep the reply that the script is missing
        for i in left:
            replies[i] = None
        for i, reply in zip(left, found[len(load) :], strict=False):
            replies[i] = reply
        if durability:
            waited = found[-1] if len(found) == len(load) + len(left) + 1 else error
            shortfall = shortfall or durability.missing(waited)
        if any(isinstance(reply, Exception) for reply in found[: len(load)]):
            break  # the server does not take the script
        left = [i for i in left if isinstance(replies[i], NoScriptError)]
        load = [("SCRIPT", "LOAD", lua.source(s)) for s in {calls[i].script: 0 for i in left}]
    for reply in reversed(replies):
        if isinstance(reply, list):
            clock.saw(int(reply[0]), asked)
            break
    return _Sent(sender, calls, asked, until, replies, error, shortfall)
