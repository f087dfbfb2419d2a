"""Senders: the names under which Redis notes calls.

A sender has one call to a shard unanswered at a time. It remembers the number of the last write
that was answered to it, for the case that a later reply is lost.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Sequence
from typing import Any

from writebehind_app.store import clock
from writebehind_app.store.calls import Call

_QUICK = 10_000  # µs; from an answer that took less, there is nothing to learn about the clock


class Sender:
    """A name under which one round of calls is sent at a time."""

    __slots__ = ("answered", "name")

    def __init__(self) -> None:
        self.name = secrets.token_urlsafe(9)
        self.answered: dict[str, int] = {}  # by shard, the number of the last write

    def was_answered(self, call: Call, reply: Sequence[Any], asked: int) -> int:
        """Note that the only call of a round was taken; returns the number of its first write."""
        now, first = reply
        if not 0 <= now - asked - (clock.ahead or 0) < _QUICK:
            clock.saw(now, asked)
        # The same as note(), without a call: this is done for each write.
        self.answered[call.shard] = clock.numbers[call.shard] = first + call.size - 1
        _idle.append(self)
        return int(first)

    def note(self, call: Call, first: int) -> None:
        """Note the number of the last write of a call that was taken."""
        self.answered[call.shard] = clock.numbers[call.shard] = first + call.size - 1


# The senders that wait for no answer. A sender that got no answer is never used again: its call may
# still be on its way.
_idle: deque[Sender] = deque()
os.register_at_fork(after_in_child=_idle.clear)


def take_sender() -> Sender:
    try:
        return _idle.pop()
    except IndexError:
        return Sender()


give_back = _idle.append  # only for a sender that waits for no answer
