"""Numbers with their nouns, in texts that are in English only: findings, logs, commands."""

from __future__ import annotations


def counted(count: int, noun: str, nouns: str = "") -> str:
    """A number and its noun, as "1 row", "2 rows"."""
    return f"{count} {noun if count == 1 else nouns or f'{noun}s'}"


def be(count: int) -> str:
    """The verb after a number and its noun: "1 row is", "2 rows are"."""
    return "is" if count == 1 else "are"
