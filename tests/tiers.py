"""Which tests run.

Every test of a database or of a kind of Redis is there once for each of them. Of these cases

    quick   has what a bare machine runs in a few minutes: SQLite and the embedded Valkey
    all     has every database and both kinds of Redis
    rest    has what `all` has and `quick` has not

`make test` runs the first of these tiers, `make test-all` the second. Without a tier all cases run
that the arguments of pytest name.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.servers import DATABASES, RedisServer

FOLDERS = ("unit", "integration", "systems", "faults", "browser")
"""In the order in which they run: who breaks something hears of it soon."""

TIERS = ("quick", "rest", "all")
QUICK_DATABASE, QUICK_REDIS = "sqlite", "valkey"
MARKS_OF_SLOW_TESTS = ("browser", "cluster", "outage", "process", "slow")

EVERY = {*DATABASES, *RedisServer.KINDS}
# The fixtures and parameters that are a database or a kind of Redis.
_ON_SERVERS = (
    "database",
    "redis_server",
    "redis",
    "kind",
    "limited",
    "replicated",
    "sentinel_group",
)


def misplaced(tests: Path) -> str | None:
    """What is wrong with the place of a test file, or None. Without a place, it has no tier."""
    for path in sorted(tests.rglob("test_*.py")):
        inside = path.relative_to(tests)
        if inside.parts[0] not in FOLDERS:
            places = f"{', '.join(FOLDERS[:-1])} or {FOLDERS[-1]}"
            return f"tests/{inside.as_posix()} is in no tier: put it into {places}"
    return None


def select(
    items: Iterable[pytest.Item], tier: str | None, unwanted: set[str]
) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The tests of a tier in their order, and the others; `unwanted` are servers."""
    items = list(items)
    chosen = [item for item in items if not unwanted & _servers(item)]
    if tier == "quick":
        chosen = [item for item in chosen if _is_quick(item)]
    elif tier:
        elsewhere = {_case(item) for item in chosen if _redis(item) == QUICK_REDIS}
        chosen = [
            item for item in chosen if not _is_repetition(item) or _case(item) not in elsewhere
        ]
        if tier == "rest":
            chosen = [item for item in chosen if not _is_quick(item)]
    if tier:
        chosen.sort(key=lambda item: FOLDERS.index(_folder(item)))
    others = set(items) - set(chosen)
    return chosen, [item for item in items if item in others]


def _is_quick(item: pytest.Item) -> bool:
    is_slow = any(mark.name in MARKS_OF_SLOW_TESTS for mark in item.iter_markers())
    return not is_slow and _servers(item) <= {QUICK_DATABASE, QUICK_REDIS}


def _is_repetition(item: pytest.Item) -> bool:
    """Whether this is the other kind of Redis with a further database. What a test shows depends
    on the one or on the other, but for the faults, which may be in what is between them."""
    on_both_others = len(_servers(item) - {QUICK_DATABASE, QUICK_REDIS}) == 2
    return on_both_others and _folder(item) != "faults"


def _case(item: pytest.Item) -> tuple[str, str]:
    """The same for each kind of Redis."""
    others = {name: value for name, value in _parameters(item).items() if name != "redis_server"}
    return item.nodeid.partition("[")[0], repr(others)


def _redis(item: pytest.Item) -> object:
    return _parameters(item).get("redis_server")


def _servers(item: pytest.Item) -> set[str]:
    named = (_parameters(item).get(name) for name in _ON_SERVERS)
    return {value for value in named if isinstance(value, str) and value in EVERY}


def _parameters(item: pytest.Item) -> dict[str, object]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]
