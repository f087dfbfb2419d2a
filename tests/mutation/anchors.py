"""Finds what a mutant breaks, wherever in the package it is by now, and breaks it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.mutation import lua, python
from tests.mutation.mutant import Change, Mutant


class Lost(Exception):
    """The code of an anchor is not there, or is there more than once."""


@dataclass(frozen=True)
class Place:
    """A function, or a script, that has the code of a change."""

    file: str
    times: int
    text: str
    """All of the function, the same however it is formatted."""
    broken: str
    """The file after the change."""


class Package:
    """The sources of a package, or of an earlier state of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def broken(self, mutant: Mutant) -> dict[str, str]:
        """The files that are other ones in the mutant; raises Lost."""
        broken: dict[str, str] = {}
        for change in mutant.changes:
            places = list(self._places(change, broken))
            if sum(place.times for place in places) != 1:
                raise Lost(_message(change, places))
            broken[places[0].file] = places[0].broken
        return broken

    def texts(self, mutant: Mutant) -> set[str]:
        """The functions that it breaks, the same however they are formatted."""
        return {place.text for change in mutant.changes for place in self._places(change, {})}

    def _places(self, change: Change, broken: dict[str, str]) -> Iterator[Place]:
        script, _, function = change.where.partition(":")
        if script.endswith(".lua"):
            for file in self._scripts:
                if Path(file).name == script:
                    source = broken.get(file) or self._scripts[file]
                    times, after = lua.replace(source, function, change.old, change.new)
                    if times:
                        yield Place(file, times, lua.text_of(source, function), after)
            return
        for file in self._modules.get(change.where, ()):
            tree = ast.parse(broken.get(file) or self._source(file))
            for name, node in python.functions(tree):
                if change.where in python.endings(name):
                    text = python.text_of(node)
                    if times := python.replace(node, change.old, change.new):
                        yield Place(file, times, text, ast.unparse(tree))

    @cached_property
    def _scripts(self) -> dict[str, str]:
        return {file: self._source(file) for file in self._files("*.lua")}

    @cached_property
    def _modules(self) -> dict[str, list[str]]:
        """By function, with or without its class, the modules that have one of that name."""
        modules: dict[str, list[str]] = {}
        for file in self._files("*.py"):
            names = [name for name, _ in python.functions(ast.parse(self._source(file)))]
            for where in dict.fromkeys(end for name in names for end in python.endings(name)):
                modules.setdefault(where, []).append(file)
        return modules

    def _files(self, pattern: str) -> list[str]:
        files = self._directory.rglob(pattern)
        return sorted(str(file.relative_to(self._directory)) for file in files)

    def _source(self, file: str) -> str:
        return (self._directory / file).read_text()


def _message(change: Change, places: list[Place]) -> str:
    if not places:
        return f"no {change.where} has this code: {change.old!r}"
    found = ", ".join(f"{place.times} times in {place.file}" for place in places)
    return f"{change.where} has this code {found}: {change.old!r}. It has to be there once."
