"""A change of the package that makes a safeguard void."""

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
