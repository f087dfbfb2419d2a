"""Finds the held calls that concern one row, however many are held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from writebehind_app.buffers.held import Held
    from writebehind_app.declaration import Declaration


NAME = -1  # in place of the index of a part: a call keeps its name if all its parts are replaced


class HeldIndex:
    """The held calls of a list, by the ids that they write to and by their names.

    Somebody else owns the list, and adds to its end. If part of the list went, as with a rollback,
    the index is made anew. It keeps nothing alive.
    """

    def __init__(self) -> None:
        self._at = -1  # the index in the list of the last call that was found
        self._last: ref[Held] | None = None
        self._found: dict[tuple[Declaration, str], list[tuple[ref[Held], int]]] = {}

    def of(
        self, count: int, at: Callable[[int], Held | None], buffer: Declaration, place: str
    ) -> Iterator[tuple[Held, int]]:
        """Return the calls of a buffer that write to an id, each with the index of the part, or
        that have the name '*digest'. The list has `count` items; `at` returns an item if it is a
        call."""
        self._update(count, at)
        for found, part in self._found.get((buffer, place), ()):
            held = found()
            if held is not None and held.state == "held" and (part == NAME or part in held.parts):
                yield held, part

    def _update(self, count: int, at: Callable[[int], Held | None]) -> None:
        if self._last and (self._at >= count or at(self._at) is not self._last()):
            self._at, self._last, self._found = -1, None, {}
        for index in range(self._at + 1, count):
            held = at(index)
            if held is not None:
                self._at, self._last = index, ref(held)
                places = [(part.id, i) for i, part in held.parts.items()]
                places += [(f"*{name}", NAME) for name in held.names]
                for place, i in places:
                    self._found.setdefault((held.buffer, place), []).append((self._last, i))
