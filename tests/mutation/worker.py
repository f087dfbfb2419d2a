"""Runs the tests of mutants, one mutant after the other, in a copy of the project, which is the
working directory.

A line of JSON comes in for each run, and one goes out. Servers and databases are there for all of
them. A run is a fork of this process, which has imported what takes long, but nothing of the
package: a mutant imports that as it finds it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass, field
from typing import NoReturn

import pytest

from tests import child, databases, servers
from tests.keeper import keeper
from tests.servers import RedisServer

LONGEST = 60  # seconds for one test: a mutant may wait for ever


@dataclass
class Run:
    tests: list[str]
    databases: list[str]
    is_control: bool
    """All tests run, and not only up to the first that fails."""


@dataclass
class Outcome:
    code: int
    """What pytest ended with."""
    output: str
    reports: list[str] = field(default_factory=list)
    """What came of the phases of the tests: "setup-passed", "call-failed" and so on."""


def main() -> None:
    for name in ("django.contrib.admin", "django.test", "hypothesis", "redis", "redis.cluster"):
        importlib.import_module(name)
    servers.start()
    options = {server: _options(server) for server in servers.redis_servers.values()}
    os.environ[servers.DATABASES_MADE] = "1"
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    owner = child.start(databases.keep)
    assert owner.stdin is not None
    assert owner.stdout is not None
    if not owner.stdout.readline():
        sys.exit("The databases could not be made.")
    try:
        for line in sys.stdin:
            print(json.dumps(asdict(_outcome(Run(**json.loads(line))))), flush=True)
            for server in servers.redis_servers.values():
                server.clear()
                if _options(server) != options[server]:  # as a test that failed has left them
                    server.restart()
    finally:
        owner.stdin.close()
        owner.wait()


def _options(server: RedisServer) -> dict[str, str]:
    with server.client() as client:
        return client.config_get("*")


def _outcome(run: Run) -> Outcome:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as reports:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _be_run(run, output.fileno(), reports.fileno())
        code = None
        while code is None:
            ended, status = os.waitpid(-1, 0)  # it may end a server, which is our child
            if ended == pid:
                code = os.waitstatus_to_exitcode(status)
        output.seek(0)
        reports.seek(0)
        text = output.read().decode(errors="replace")
        return Outcome(code, text, reports.read().decode().split())


def _be_run(run: Run, output: int, reports: int) -> NoReturn:
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        servers.inherit()
        os.environ["WRITEBEHIND_TEST_DATABASES"] = ",".join(run.databases)
        options = ["-q", "--no-header", f"--timeout={LONGEST}", "-p", "no:cacheprovider"]
        # Of plugins that are imported already: the asserts in them are as they were.
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        if not run.is_control:
            options.append("-x")
        code = pytest.main([*options, *run.tests], [_Reports(reports)])
    except BaseException:  # noqa: BLE001 - the end of a process
        traceback.print_exc()
    finally:
        keeper().close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Reports:
    """Notes them in a file."""

    def __init__(self, file: int) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        os.write(self._file, f"{report.when}-{report.outcome} ".encode())


if __name__ == "__main__":
    main()
