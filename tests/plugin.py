"""Starts the servers before pytest-django reads the settings, which name them; chooses the tests of
a tier, and the seed of what is random."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests import servers, tiers


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("writebehind")
    group.addoption("--tier", choices=tiers.TIERS, help="run only these tests, see tests/tiers.py")
    group.addoption(
        "--random", action="store_true", help="random examples, others than in the last run"
    )
    group.addoption(
        "--seed", type=int, default=0, help="repeats the run with --random that had this seed"
    )


# A wrapper goes before every plain hook, and pytest-django's is one.
@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    options = early_config.known_args_namespace
    if options.tier == "quick":
        os.environ[servers.WANTED_DATABASES] = tiers.QUICK_DATABASE
        os.environ[servers.WANTED_REDIS] = tiers.QUICK_REDIS
    for argument in options.file_or_dir:  # as pytest says it, which xdist does not pass on
        if not Path(early_config.invocation_params.dir, argument.partition("::")[0]).exists():
            raise pytest.UsageError(f"file or directory not found: {argument}")
    try:
        servers.start(for_workers=servers.WORKER not in os.environ and bool(options.numprocesses))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    if servers.absent and servers.services_required():
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in servers.absent.items())
        raise pytest.UsageError(f"REQUIRE_SERVICES is set, and there is no\n{reasons}")
    return (yield)


# Before conftest.py, which tells Hypothesis.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # of xdist
        config.option.seed = config.workerinput["seed"]
        return
    if config.option.tier and (problem := tiers.misplaced(Path(tiers.__file__).parent)):
        raise pytest.UsageError(problem)  # of a worker, nobody would see it
    if config.option.random and not config.option.seed:
        config.option.seed = secrets.randbelow(2**32 - 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Workers of xdist have the seed of the process that starts them."""
    node.workerinput["seed"] = node.config.option.seed


# After the hooks that leave out what -k and -m do not name.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = tiers.EVERY - {*servers.wanted_databases(), *servers.wanted_redis()}
    items[:], others = tiers.select(items, config.option.tier, unwanted)
    if others:
        config.hook.pytest_deselected(items=others)


def pytest_report_header(config: pytest.Config) -> list[str]:
    found = [name for name in servers.wanted_databases() if name not in servers.absent]
    kinds = [name for name in servers.wanted_redis() if name not in servers.absent]
    seed = config.option.seed
    return [
        f"databases: {', '.join(found)}",
        f"redis: {', '.join(kinds)}",
        f"seed: {seed} (--seed={seed} repeats it)" if seed else "seed: the same in every run",
    ]
