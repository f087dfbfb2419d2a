"""What a writer knows of what it wrote, in a file that outlives it."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

Outcome = Literal["acknowledged", "unsure", "refused"]

_FEW = 12  # uncertain amounts, of which every sum is looked at


class Effect(NamedTuple):
    """What a call does to a place: adds to it, sets it (None: deletes it), or appends it."""

    kind: Literal["add", "set", "append"]
    where: str
    value: int | None = None


class Journal:
    """One line before each call and one after it: a writer may be killed in between."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def begin(self, name: str, effects: Sequence[Effect]) -> None:
        self._write(call=name, effects=effects)

    def end(self, outcome: Outcome) -> None:
        self._write(outcome=outcome)

    def problem(self, text: str) -> None:
        self._write(problem=text)

    def _write(self, **line: Any) -> None:
        line["at"] = time.time()
        os.write(self._file, json.dumps(line).encode() + b"\n")


def calls_in(path: Path) -> Iterator[tuple[list[Effect], Outcome]]:
    """The calls of a journal; of the one in which the writer was killed nobody is sure."""
    effects: list[Effect] | None = None
    for line in _lines(path):
        if "call" in line:
            effects = [Effect(*effect) for effect in line["effects"]]
        elif "outcome" in line and effects is not None:
            yield effects, line["outcome"]
            effects = None
    if effects is not None:
        yield effects, "unsure"


def problems_in(path: Path) -> list[str]:
    return [line["problem"] for line in _lines(path) if "problem" in line]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        for line in file:
            if line.endswith("\n"):  # or the writer was killed in the middle of it
                yield json.loads(line)


class Facts:
    """What may be in each place after calls of which some have no known outcome."""

    def __init__(self) -> None:
        self.sums: dict[str, int] = defaultdict(int)
        self.unsure: dict[str, list[int]] = defaultdict(list)  # amounts
        self.states: dict[str, list[int | None]] = defaultdict(lambda: [None])
        self.appended: dict[str, Outcome] = {}

    def take(self, effects: Sequence[Effect], outcome: Outcome) -> None:
        if outcome == "refused":
            return
        for kind, where, value in effects:
            if kind == "append":
                self.appended[where] = outcome
            elif kind == "set":
                before = [] if outcome == "acknowledged" else self.states[where]
                self.states[where] = [*before, value]
            elif outcome == "acknowledged":
                self.sums[where] += value or 0
            else:
                self.unsure[where].append(value or 0)

    def places(self) -> set[str]:
        """Where something was added or set."""
        return self.sums.keys() | self.unsure.keys() | self.states.keys()

    def problem(self, where: str, found: int | None) -> str | None:
        """What is wrong with what was found in a place."""
        if where in self.states:
            if found in self.states[where]:
                return None
            return f"backwards: {where} is {found}, not one of {self.states[where]}"
        unsure = self.unsure[where]
        extra = (found or 0) - self.sums[where]
        if extra == 0 or (0 < extra <= sum(unsure) and self._may_be(extra, unsure)):
            return None
        kind = "lost" if extra < 0 else "doubled"
        return f"{kind}: {where} is {found}, {self.sums[where]} plus some of {unsure}"

    @staticmethod
    def _may_be(extra: int, amounts: list[int]) -> bool:
        """Whether it is the sum of some of the amounts. They are large and random: a wrong sum is
        hardly one of them by chance. Of many amounts only the sum of all is the bound."""
        if len(amounts) > _FEW:
            return True
        sizes = range(1, len(amounts) + 1)
        return any(sum(some) == extra for size in sizes for some in combinations(amounts, size))
