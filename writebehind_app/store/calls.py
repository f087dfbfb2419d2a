"""What a call that writes is, what it asks for, and what may come of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from writebehind_app.exceptions import BufferUnavailable, WriteUncertain
from writebehind_app.store.failures import reason
from writebehind_app.store.link import Command

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
    def command(self) -> Command:
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


class Delivery(NamedTuple):
    """Calls that go to the shards of one buffer, in their order."""

    script: str  # 'write' or 'append'
    calls: Sequence[Call]
    limit: Limit | None = None


def unavailable(error: Exception) -> BufferUnavailable:
    unavailable = BufferUnavailable(f"Redis: {reason(error)}")
    unavailable.__cause__ = error
    return unavailable


def uncertain(error: Exception | None, until: int) -> WriteUncertain:
    why = reason(error) if error else "the connection broke"
    return WriteUncertain(
        f"The write was sent to Redis, and the answer was lost ({why}): it was taken once, or not "
        "at all. Repeat it if that comes to the same; else look first what is there.",
        until,
    )
