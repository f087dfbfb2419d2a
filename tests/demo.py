"""`manage.py demo` as a process of its own on data of its own, for tests to start and look into."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.keeper import keeper

ROOT = Path(__file__).parent.parent


class Demo:
    """A demo that runs until a signal."""

    def __init__(self, data: Path, *, port: int = 0) -> None:
        self.data = data
        self.log = data.with_name(f"{data.name}.log")
        with self.log.open("a") as log:
            self.process = keeper().start(
                [sys.executable, "manage.py", "demo", "--port", str(port)],
                cwd=ROOT,
                env=environment(data),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        wait_until(lambda: self.process.poll() is not None or re.search(pattern, self.output))
        found = re.search(pattern, self.output)
        assert found, self.output
        return found

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)


def environment(data: Path) -> dict[str, str]:
    own = ("DEMO_REDIS_URL", "DEMO_DATABASE")
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    return {**inherited, "DJANGO_SETTINGS_MODULE": "demo_site.settings", "DEMO_DATA": str(data)}


def run(data: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(data),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def rows(data: Path, query: str) -> list[tuple[Any, ...]]:
    """The rows that a query finds in the database of a demo."""
    with closing(sqlite3.connect(data / "db.sqlite3")) as connection:
        return connection.execute(query).fetchall()


def wait_until(condition: Callable[[], Any], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
