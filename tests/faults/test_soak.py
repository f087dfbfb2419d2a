"""Ten seconds of a soak on each database, and 20 with processes that save rows. For more of it:
`make soak MINUTES=20 ORM=1`."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests import servers
from tests.faults.soak.__main__ import ABSENT

SECONDS = 10


SERVERS = [("sqlite", "valkey"), ("postgresql", "redis"), ("mariadb", "valkey")]


@pytest.mark.slow
@pytest.mark.parametrize(("database", "redis"), SERVERS)
@pytest.mark.parametrize("when_down", ["raise", "direct"])
def test_nothing_is_lost_nothing_doubled_and_nothing_goes_back(database, redis, when_down):
    """SCENARIOS 1 to 12, 15, 19, 20, 28 and 32."""
    soak(SECONDS, "--database", database, "--redis", redis, "--when-down", when_down)


@pytest.mark.slow
@pytest.mark.parametrize(("database", "redis"), SERVERS)
def test_neither_is_anything_that_the_orm_saves(database, redis):
    """SCENARIOS 46 and 47."""
    soak(2 * SECONDS, "--database", database, "--redis", redis, "--orm")


@pytest.mark.slow
def test_neither_is_anything_that_is_read_from_bases():
    """SCENARIOS 46 and 47, with `cache_seconds`."""
    soak(2 * SECONDS, "--database", "postgresql", "--orm", "--bases")


def soak(seconds: float, *options: str) -> None:
    command = [sys.executable, "-m", "tests.faults.soak", "--minutes", str(seconds / 60), *options]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
    )
    if done.returncode == ABSENT and not servers.services_required():
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout
    figures = {name: int(n) for n, name in re.findall(r"^ +(\d+) (.+)$", done.stdout, re.M)}
    assert figures["kills in all"] >= 1
    assert figures["acknowledged"] >= 30  # some thousands where nothing else runs
    assert figures["batches"] >= 10
