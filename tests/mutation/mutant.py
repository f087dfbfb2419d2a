"""A change of the package that makes a safeguard void, and the tests that may notice."""

from __future__ import annotations

from dataclasses import dataclass

Change = tuple[str, str, str]  # a file of the package, a text in it, and what takes its place


@dataclass(frozen=True)
class Mutant:
    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]  # one of them fails
    databases: tuple[str, ...] = ("sqlite",)


def mutant(
    name: str,
    file: str,
    old: str,
    new: str,
    *tests: str,
    also: tuple[Change, ...] = (),
    databases: tuple[str, ...] = ("sqlite",),
) -> Mutant:
    """One whose change is in one place, or, with `also`, in more."""
    return Mutant(name, ((file, old, new), *also), tests, databases)


# Where tests are

EXHAUSTIVE = "tests/faults/test_exhaustive.py::"
SAFEGUARDS = "tests/faults/test_safeguards.py::"
HARD_TIMES = "tests/faults/test_hard_times.py::"
POISON = "tests/faults/test_poison.py::"
SCRIPTS = "tests/unit/test_scripts.py::"
ROWS = "tests/integration/test_row_buffer.py::"
UNIQUE = "tests/integration/test_log_unique.py::"
BETWEEN = "tests/integration/test_reading.py::TestBetweenTheTwoReads::"
WINDOW = "tests/integration/test_log_window.py::TestWhileAFlusherRuns::"


def flush(step: str, how: str, around: str, database: str = "sqlite") -> str:
    return f"{EXHAUSTIVE}test_a_flush[{database}-flush.{step}-{how}-{around}-valkey]"


def write(step: str, how: str, around: str) -> str:
    return f"{EXHAUSTIVE}test_a_write[sqlite-write.{step}-{how}-{around}-valkey]"
