"""Ten seconds of a soak on each database; `make soak MINUTES=20` for more of it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests import servers
from tests.faults.soak.__main__ import ABSENT

SECONDS = 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("database", "redis"), [("sqlite", "valkey"), ("postgresql", "redis"), ("mariadb", "valkey")]
)
@pytest.mark.parametrize("when_down", ["raise", "direct"])
def test_nothing_is_lost_nothing_doubled_and_nothing_goes_back(database, redis, when_down):
    """SCENARIOS 1 to 12, 15, 19, 20, 28 and 32."""
    command = [sys.executable, "-m", "tests.faults.soak", "--minutes", str(SECONDS / 60)]
    command += ["--database", database, "--redis", redis, "--when-down", when_down]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
    )
    if done.returncode == ABSENT and not servers.services_required():
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout
    figures = {name: int(n) for n, name in re.findall(r"^ +(\d+) (.+)$", done.stdout, re.M)}
    assert figures["kills in all"] >= 1
    assert figures["acknowledged"] >= 100
    assert figures["batches"] >= 10
