"""A change of the package that makes a safeguard void, and the tests that may notice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Change(NamedTuple):
    where: str
    """A function, with its class or without, or "<module>", outside of all; "script.lua", or one
    function of it, "script.lua:function". In which file of the package it is does not matter."""
    old: str
    """Code that is there once: an expression, or statements. Its format does not matter."""
    new: str
    """What takes its place; "" for nothing."""


@dataclass(frozen=True)
class Mutant:
    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]  # one of them fails
    databases: tuple[str, ...] = ("sqlite",)

    @property
    def test_files(self) -> set[str]:
        return {test.partition("::")[0] for test in self.tests}


def mutant(
    name: str,
    where: str,
    old: str,
    new: str,
    *tests: str,
    also: tuple[tuple[str, str, str], ...] = (),
    databases: tuple[str, ...] = ("sqlite",),
) -> Mutant:
    """One whose change is in one place, or, with `also`, in more."""
    return Mutant(
        name, tuple(Change(*change) for change in ((where, old, new), *also)), tests, databases
    )


# Where tests are

EXHAUSTIVE = "tests/faults/test_exhaustive.py::"
SAFEGUARDS = "tests/faults/test_safeguards.py::"
HARD_TIMES = "tests/faults/test_hard_times.py::"
POISON = "tests/faults/test_poison.py::"
STORE = "tests/unit/test_store_"
ROWS = "tests/integration/test_row_buffer.py::"
UNIQUE = "tests/integration/test_log_unique.py::"
BETWEEN = "tests/integration/test_reading.py::TestBetweenTheTwoReads::"
WINDOW = "tests/integration/test_log_window.py::TestWhileAFlusherRuns::"


def flush(step: str, how: str, around: str, database: str = "sqlite") -> str:
    return f"{EXHAUSTIVE}test_a_flush[{database}-flush.{step}-{how}-{around}-valkey]"


def write(step: str, how: str, around: str) -> str:
    return f"{EXHAUSTIVE}test_a_write[sqlite-write.{step}-{how}-{around}-valkey]"
