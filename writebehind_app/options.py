"""The options that every kind of buffer has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

from writebehind_app import conf
from writebehind_app.store import connection


class Options(TypedDict, total=False):
    """The options of every kind of buffer. An option that is not given is as in `WRITEBEHIND`."""

    max_age: float | None  # seconds from the first unflushed write to the flush, at most
    quiet: float | None  # seconds without a write after which an entry is due
    batch_size: int | None  # entries in one transaction
    shards: int | None  # batches that can be under way at a time
    durability: str | int | None  # "memory", "fsync", or how many replicas
    max_pending: int | None  # entries in Redis
    redis: conf.Address | None  # a Redis of its own
    when_down: str | None  # "direct" or "raise"
    when_full: str | None  # the same
    orm: str | None  # "fence", or "ignore": save() and delete() do not heed what is pending
    sensitive: str | Iterable[str]  # fields, or meta keys, whose values not everybody may see
    version: int  # raised when what was written before means something else now


# The options that stand for a setting of the project.
SETTINGS = (
    *("max_age", "quiet", "batch_size", "shards", "durability", "max_pending"),
    *("redis", "when_down", "when_full", "orm"),
)


def option_problem(name: str, value: Any) -> tuple[str, str] | None:
    """What is wrong with an option that stands for a setting, and what to do about it; or None."""
    option, to = name.lower(), "such a value"
    if name == "REDIS":
        problem, to = connection.problem(value, option), connection.EXPECTED
    elif problem := conf.problem(name, value):
        problem = problem.replace(name, option)
    if problem is None:
        return None
    return problem, f"Set {option} to {to}, or leave it out for the project's."
