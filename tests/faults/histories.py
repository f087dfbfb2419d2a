"""Whether what clients saw of a register can be explained by some order of what they did.

After Wing and Gong: an operation takes effect at one moment between its call and its return. All
orders that respect this are tried, and what was reached before is not tried again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple


class Event(NamedTuple):
    """An operation of a client. A value of None is that of a register that is not there."""

    client: str
    called: float
    returned: float  # infinite, where no answer came: it may have happened, at any time or never
    operation: Literal["set", "add", "get"]
    value: int | None  # written, or read


class _Reached(NamedTuple):
    """All events before `first` took effect, and those after it whose bits are set."""

    first: int
    bits: int
    value: int | None


def inexplicable(history: Sequence[Event], value: int | None = None) -> list[Event]:
    """Nothing where the history can be explained, beginning with a value. Otherwise, of the attempt
    that came furthest, the events of which none could be next."""
    events = sorted(history, key=lambda event: event.called)
    todo = [_Reached(0, 0, value)]
    seen = set(todo)
    furthest: tuple[int, list[Event]] = (-1, [])
    while todo:
        reached = todo.pop()
        possible = _possible(events, reached)
        if all(events[i].returned == math.inf for i in possible):
            return []
        furthest = max(
            furthest,
            (reached.first + reached.bits.bit_count(), [events[i] for i in possible]),
            key=lambda found: found[0],
        )
        for i in possible:
            after = _after(events[i], reached, i)
            if after is not None and after not in seen:
                seen.add(after)
                todo.append(after)
    return furthest[1]


def _possible(events: Sequence[Event], reached: _Reached) -> list[int]:
    """Those that may be next: called before any of the others returned."""
    found = []
    deadline = math.inf
    for i in range(reached.first, len(events)):
        if events[i].called > deadline:
            break
        if not reached.bits >> (i - reached.first) & 1:
            found.append(i)
            deadline = min(deadline, events[i].returned)
    return [i for i in found if events[i].called <= deadline]


def _after(event: Event, reached: _Reached, i: int) -> _Reached | None:
    first, bits, value = reached
    match event.operation:
        case "get" if event.value != value:
            return None
        case "set":
            value = event.value
        case "add":
            value = (value or 0) + (event.value or 0)
    bits |= 1 << (i - first)
    while bits & 1:
        first, bits = first + 1, bits >> 1
    return _Reached(first, bits, value)
