"""One shard of a buffer in Redis: entries become batches, and batches go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from writebehind_app.fields.entry import Entry
from writebehind_app.store.next import codec
from writebehind_app.store.next.calls import Exchange, command

Where = Literal["pending", "in_flight", "gone", "discarded", "lost"]
# Of the pending entries: all once one is due, those that are due themselves, or each.
Which = Literal["due", "ripe", "all"]


def ask(exchange: Exchange, script: str, shard: str, *args: str | int) -> Any:
    """The answer of one script; an error is raised."""
    (reply,) = exchange([command(script, shard, *args)])
    if isinstance(reply, Exception):
        raise reply
    return reply


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries that were claimed together."""

    token: str
    attempts: int  # how often it failed so far
    error: str  # why, the last time
    claimed: int  # the number of the last write of the shard then
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Wait:
    """Why there is no batch although there is something to flush."""

    reason: Literal["busy", "backoff", "paused"]
    seconds: float = 0


class Claim(NamedTuple):
    """What is asked for."""

    token: str  # fresh and random
    size: int
    max_age: int  # µs
    lease: float = 15
    which: Which = "all"
    ids: Sequence[str] = ()  # these alone
    ignore_backoff: bool = False


def claim(
    exchange: Exchange, shard: str, asked: Claim, *, records: bool = False
) -> Batch | Wait | None:
    """The next batch; None where nothing is to be flushed."""
    reply = ask(
        exchange,
        "claim_records" if records else "claim",
        shard,
        asked.token,
        round(asked.lease * 1e6),
        asked.size,
        "ids" if asked.ids else asked.which,
        asked.max_age,
        "1" if asked.ignore_backoff else "",
        *asked.ids,
    )
    decode: Callable[[str, Sequence[str]], Entry | None]
    decode = codec.record if records else codec.entry
    match reply:
        case ["batch", token, attempts, error, claimed, *entries]:
            found = (decode(id, flat) for id, flat in entries)
            last = int(claimed) if claimed.isdigit() else 0
            return Batch(token, attempts, error, last, [entry for entry in found if entry])
        case [("busy" | "backoff") as reason, micros]:
            return Wait(reason, micros / 1e6)
        case ["paused"]:
            return Wait("paused")
        case _:
            return None


def renew(exchange: Exchange, shard: str, token: str, *, lease: float) -> bool:
    """Lengthen the lease of the batch in flight; False where it is another one by now."""
    return bool(ask(exchange, "renew", shard, token, round(lease * 1e6)))


def release(exchange: Exchange, shard: str, token: str, *, retry_in: float, error: str) -> bool:
    """Give the batch back, to be tried again; False where it is another one by now."""
    return bool(ask(exchange, "release", shard, token, round(retry_in * 1e6), error))


def revoke(exchange: Exchange, shard: str, token: str, fresh: str) -> bool:
    """Give the batch in flight another token; False where it is another one by now."""
    return bool(ask(exchange, "revoke", shard, token, fresh))


def ack(
    exchange: Exchange,
    shard: str,
    token: str,
    *,
    rows: int = 0,
    dead_letters: int = 0,
    seconds: float = 0.0,
    records: bool = False,
) -> bool:
    """Drop the batch in flight and count what it came to; False where it is another one by now."""
    script = "ack_records" if records else "ack"
    return bool(ask(exchange, script, shard, token, rows, dead_letters, round(seconds * 1e6)))


def discard(
    exchange: Exchange,
    shard: str,
    most: int,
    fresh: str,
    ids: Sequence[str] = (),
    *,
    token: str = "",
    records: bool = False,
) -> int:
    """Throw away pending entries, and those of the batch with that token if nobody works on it.
    Says how many went. `fresh` is random."""
    script = "discard_records" if records else "discard"
    count: int = ask(exchange, script, shard, most, token, fresh, *ids)
    return count


@dataclass(frozen=True, slots=True)
class Reading:
    """What a shard holds for some ids at one moment."""

    state: str  # changes with each claim, ack and discard
    token: str  # of the batch in flight, or ''
    attempts: int  # how often it failed so far
    acked: str  # the token of the last batch that was acknowledged, or ''
    pending: dict[str, Entry]
    in_flight: dict[str, Entry]

    def guard(self, id: str) -> str:
        """A write with it is taken only if nothing of the row has changed since, nor in flight."""
        entry = self.pending.get(id)
        return f"{self.state} {entry.head if entry else ''}"


def read(exchange: Exchange, shard: str, ids: Sequence[str], *, fresh: str = "") -> Reading:
    """What the shard holds for ids. Its guards can be trusted if `fresh` is random."""
    state, token, attempts, acked, *flat = ask(exchange, "read", shard, fresh, *ids)
    pending = zip(ids, flat[::2], strict=True)
    in_flight = zip(ids, flat[1::2], strict=True)
    return Reading(
        state,
        token,
        attempts,
        acked,
        {id: entry for id, hash in pending if (entry := codec.entry(id, hash))},
        {id: entry for id, hash in in_flight if (entry := codec.entry(id, hash))},
    )


def locate(exchange: Exchange, shard: str, id: str, number: int) -> Where:
    """Where the write with that number is; the id of a record is ''."""
    where: Where = ask(exchange, "locate" if id else "locate_record", shard, id, number)
    return where


@dataclass(frozen=True, slots=True)
class Counts:
    """How a shard is doing."""

    pending: int
    in_flight: int
    due: int  # of the pending ones
    oldest: float  # seconds that its oldest entry has waited; 0 where there is none
    paused: bool
    state: dict[str, int]  # what was asked for


def count(
    exchange: Exchange, shard: str, names: Sequence[str] = (), *, records: bool = False
) -> Counts:
    """How many entries there are, and whole numbers of the state of the shard."""
    script = "count_records" if records else "count"
    pending, in_flight, due, since, now, state = ask(exchange, script, shard, *names)
    paused, *numbers = state
    return Counts(
        pending,
        in_flight,
        due,
        max(now - (_whole(since) or now), 0) / 1e6,
        paused is not None,
        dict(zip(names, map(_whole, numbers), strict=True)),
    )


def hasten(exchange: Exchange, shard: str, id: str, *, silence: float) -> bool:
    """Make a pending entry due at once; whether somebody is to be told, which is once in so many
    seconds."""
    return bool(ask(exchange, "hasten", shard, id, round(silence * 1000)))


def _whole(text: str | None) -> int:  # somebody else may have written it
    return int(text) if text and text.isascii() and text.isdigit() else 0
