"""Which division of a buffer into shards is in force. docs/protocol.md has the rules.

A process assumes that the division in its settings is in force. If it is not, the shards of that
division are not open, and their answers say so. Only then Redis is asked which one is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import redis
from django.core.signals import setting_changed

from writebehind_app import conf
from writebehind_app.store import lua
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.dialogue import Dialogue, run_dialogue
from writebehind_app.store.failures import is_away
from writebehind_app.store.keys import Division, division_of, shard_key
from writebehind_app.store.link import Command

LONGEST = 2_000_000  # µs that a change may take: so long writes wait for it

# "open": it was opened, or is open by now; "closing": a change is under way; "moved": another
# division is in force.
Verdict = Literal["open", "closing", "moved"]


class Known(NamedTuple):
    """The divisions in force, as far as this process knows."""

    divisions: Mapping[str, Division]  # by the key of the buffer
    keys: dict[tuple[str, int], list[str]]  # of shards, once they were asked for


known = Known({}, {})  # replaced by another one when something is learned


def shard_keys(buffer: str, first: int) -> list[str]:
    """The keys of the shards in force of a buffer. A first division has `first` shards."""
    now = known
    if (buffer, first) not in now.keys:
        division = now.divisions.get(buffer) or Division(first)
        numbers = range(division.shards)
        now.keys[buffer, first] = [shard_key(buffer, number, division) for number in numbers]
    return now.keys[buffer, first]


class _Answer(Protocol):
    @property
    def closed(self) -> str: ...  # why the shard is not open, or ""


_Found = TypeVar("_Found", bound=Mapping[str, Any])  # answers by the keys of their shards


def settling(closed: Mapping[str, str], *, to_write: bool = True) -> Dialogue[dict[str, Verdict]]:
    """Find out why shards are not open. `closed` has their answers, by key.

    This learns which divisions are in force, and opens shards that have to be open. If Redis takes
    no writes, that is an error only for a caller that is going `to_write`.
    """
    first = {division_of(key)[0]: division_of(key)[1].shards for key in closed}
    in_force = yield from _asking(first)
    verdicts: dict[str, Verdict] = {}
    to_open: list[Command] = []
    for key, token in closed.items():
        buffer, division = division_of(key)
        now, change, why = in_force[buffer]
        if division != now:
            verdicts[key] = "moved"
        elif token == change:
            verdicts[key] = "closing"
        else:  # the shard is new, or was closed by a change that failed
            verdicts[key] = "open"
            if not why:
                to_open.append(("open", key, token))
            elif to_write:
                raise redis.ResponseError(why)
    if to_open:
        try:
            yield from lua.running_each(to_open, again=True)
        except redis.ResponseError as error:
            if to_write or not is_away(error):
                raise
    return verdicts


def _asking(
    buffers: Mapping[str, int], *, to_write: bool = True
) -> Dialogue[dict[str, tuple[Division, str, str]]]:
    """Learn the divisions in force. `buffers` says by key how many shards a first division has. It
    is made where there is none yet. With `to_write=False` it is neither made nor learned.

    Return for each buffer its division, the token of a change that is under way, and why the first
    division could not be noted; "" for none.
    """
    global known
    write = "1" if to_write else ""
    calls: list[Command] = [("division", k, first, LONGEST, write) for k, first in buffers.items()]
    replies = yield from lua.running_each(calls, again=True)
    found = {key: Division(reply[0], reply[1]) for key, reply in zip(buffers, replies, strict=True)}
    learned = {
        key: found[key]
        for key, reply in zip(buffers, replies, strict=True)
        if to_write or len(reply) == 3
    }
    if any(known.divisions.get(key) != division for key, division in learned.items()):
        known = Known({**known.divisions, **learned}, {})
    return {
        key: (found[key], reply[2], reply[3] if len(reply) > 3 else "")
        for key, reply in zip(buffers, replies, strict=True)
    }


def are_moved(client: Client, closed: Mapping[str, str]) -> bool:
    """Whether another division is in force for any of these shards. `closed` has the answers of
    shards that are not open. If it is false, the rest of their answers can be relied on."""
    if not closed:
        return False
    with errors:
        return "moved" in run_dialogue(client, settling(closed, to_write=False)).values()


def asked(client: Client, ask: Callable[[], _Found]) -> _Found:
    """Return the answers of shards. If another division is in force, ask again: by then `ask` finds
    its shards."""
    while True:
        found = ask()
        closed = {key: answer.closed for key, answer in found.items() if answer.closed}
        if not are_moved(client, closed):
            return found


def renew(client: Client, buffers: Mapping[str, int], *, to_write: bool = True) -> dict[str, str]:
    """Learn the divisions in force. `buffers` says by key how many shards a first division has.
    Return the tokens of changes that are under way, or "". One round trip. With `to_write=False`,
    nothing changes in Redis."""
    with errors:
        found = run_dialogue(client, _asking(buffers, to_write=to_write))
    return {key: change for key, (_, change, _) in found.items()}


# Changing it


def begin(client: Client, buffer: str, token: str, now: Division) -> int:
    """Begin a change. Return the number of the division to come; 0 if another change is under
    way, or another division in force."""
    with errors:
        return int(lua.run(client, "begin_change", buffer, token, now.number, LONGEST))


def close(client: Client, keys: Iterable[str], token: str) -> dict[str, str]:
    """Close shards. Return those that an earlier change left closed, each with the token of that
    change."""
    keys = [*keys]
    with errors:
        replies = lua.run_many(client, "close", [(key, token) for key in keys], again=True)
    return {key: reply for key, reply in zip(keys, replies, strict=True) if reply != token}


def reopen(client: Client, keys: Mapping[str, str]) -> None:
    """Open shards again. `keys` has for each the token of the change that closed it."""
    with errors:
        lua.run_many(client, "open", [*keys.items()], again=True)


def put_in_force(client: Client, buffer: str, token: str, division: Division) -> bool:
    """End a change with the new division in force. False if the change took too long."""
    with errors:
        done = lua.run(client, "end_change", buffer, token, division.shards, division.number)
    return bool(done)


def give_up(client: Client, buffer: str, token: str) -> None:
    """End a change without a new division."""
    with errors:
        lua.run(client, "end_change", buffer, token)


def _reset(*, setting: str, **kwargs: Any) -> None:
    global known
    if setting == conf.NAME:
        known = Known({}, {})


setting_changed.connect(_reset, dispatch_uid="writebehind.divisions")
