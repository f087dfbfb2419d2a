"""Which cases `make test` and `make test-all` run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import plugin, tiers
from tests.servers import DATABASES, RedisServer

ROOT = Path(tiers.__file__).parent


@dataclass(eq=False)
class Item:
    """As much of a test as the choice looks at."""

    folder: str
    parameters: dict[str, Any]
    mark: str = "parametrize"

    def __post_init__(self) -> None:
        self.path = ROOT / self.folder / "test_it.py"
        self.nodeid = f"{self.path}::test[{self.parameters}]"
        self.callspec = SimpleNamespace(params=self.parameters)

    def iter_markers(self) -> list[Any]:
        return [SimpleNamespace(name=self.mark)]


def on_every_server(folder: str, **options: Any) -> list[Item]:
    return [
        Item(folder, {"database": database, "redis_server": kind}, **options)
        for database in DATABASES
        for kind in RedisServer.KINDS
    ]


def chosen(items: list[Item], tier: str | None, *unwanted: str) -> list[str]:
    kept, others = tiers.select(items, tier, {*unwanted})
    assert len(kept) + len(others) == len(items)
    return [" ".join(map(str, item.parameters.values())) for item in kept]


@pytest.mark.parametrize("folder", ["unit", "integration", "systems"])
def test_each_database_with_one_kind_of_redis_and_sqlite_with_both(folder: str) -> None:
    items = on_every_server(folder)
    rest = ["sqlite redis", "postgresql valkey", "mariadb valkey"]
    assert chosen(items, "quick") == ["sqlite valkey"]
    assert chosen(items, "rest") == rest
    assert chosen(items, "all") == ["sqlite valkey", *rest]
    assert len(chosen(items, None)) == 6


def test_a_fault_on_every_combination() -> None:
    items = on_every_server("faults")
    assert chosen(items, "quick") == ["sqlite valkey"]
    assert len(chosen(items, "rest")) == 5
    assert len(chosen(items, "all")) == 6


def test_a_combination_without_another_one_that_shows_the_same() -> None:
    items = [
        Item("integration", {"database": "mariadb", "redis_server": "redis"}),
        Item("integration", {"database": "mariadb", "redis_server": "valkey", "call": "set"}),
    ]
    assert chosen(items, "all") == ["mariadb redis", "mariadb valkey set"]


@pytest.mark.parametrize("mark", tiers.MARKS_OF_SLOW_TESTS)
def test_a_marked_test_is_not_quick(mark: str) -> None:
    items = [Item("integration", {}, mark=mark), Item("integration", {"kind": "valkey"})]
    assert chosen(items, "quick") == ["valkey"]
    assert chosen(items, "rest") == [""]


def test_a_server_that_is_not_wanted() -> None:
    items = [*on_every_server("faults"), Item("integration", {"kind": "redis"})]
    assert chosen(items, None, "redis", "mariadb") == ["sqlite valkey", "postgresql valkey"]


def test_a_parameter_that_only_has_the_name_of_a_server() -> None:
    assert chosen([Item("unit", {"section": "redis", "kind": 5})], "quick") == ["redis 5"]


def test_a_mistyped_path_is_told_where_there_are_workers() -> None:
    right, wrong = "tests/unit/test_tiers.py::test[a/b]", "tests/unit/test_teirs.py::test[a/b]"
    command = [sys.executable, "-m", "pytest", "-n", "1", right, wrong]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: file or directory not found: {wrong}\n" in done.stderr


def test_a_file_in_a_new_place_is_told_where_to_go(tmp_path: Path) -> None:
    for name in ("unit/test_it.py", "faults/soak/test_it.py", "performance/measure.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert tiers.misplaced(tmp_path) is None
    (tmp_path / "test_new.py").touch()
    assert tiers.misplaced(tmp_path) == (
        "tests/test_new.py is in no tier: put it into unit, integration, systems, faults or browser"
    )


def test_with_a_tier_pytest_tells_it_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "misplaced", lambda tests: f"{tests} has such a file")
    config = SimpleNamespace(option=SimpleNamespace(tier="quick", random=False))
    with pytest.raises(pytest.UsageError, match=f"^{ROOT} has such a file$"):
        plugin.pytest_configure(config)
    config.option.tier = None
    plugin.pytest_configure(config)


def test_the_order_is_that_of_the_folders() -> None:
    items = [Item(folder, {"it": folder}) for folder in sorted(tiers.FOLDERS)]
    assert chosen(items, "all") == list(tiers.FOLDERS)
    assert chosen(items, None) == sorted(tiers.FOLDERS)
