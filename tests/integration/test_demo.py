"""`manage.py demo`, as a process of its own on data of its own."""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from demo_site.locks import Lock
from demo_site.server import Valkey
from tests.keeper import keeper
from tests.servers.process import LOCALHOST, free_port

ROOT = Path(__file__).parent.parent.parent


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


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    demos = []

    def start(**options: Any) -> Demo:
        demos.append(Demo(tmp_path / "data", **options))
        return demos[-1]

    yield start
    for demo in demos:
        keeper().end(demo.process)


def environment(data: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "DEMO_REDIS_URL"}
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


def wait_until(condition: Callable[[], Any], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def valkey_runs(data: Path) -> bool:
    """Whether any process holds the lock that a Valkey inherits."""
    lock = Lock(data / "valkey" / "lock")
    if lock.acquire():
        lock.release()
        return False
    return True


def left_in_valkey(data: Path) -> int:
    """How many entries, pending and in flight, the data of an ended Valkey holds."""
    valkey = Valkey(data / "valkey", data / "valkey" / "valkey.sock")
    valkey.start()
    try:
        with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
            return sum(len(client.keys(f"*:{kind}:*")) for kind in ("e", "f"))
    finally:
        valkey.stop()


def rows(data: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(data / "db.sqlite3")) as connection:
        return connection.execute(query).fetchall()


class TestOnce:
    def test_proves_that_the_database_has_what_was_written(self, tmp_path):
        # A name too long for the address of a socket, with blanks in it.
        data = tmp_path / ("a directory with a long name " * 4)

        for so_often in (1, 2):
            done = run(data, "manage.py", "demo", "--once", "--writes", "1000")

            assert done.returncode == 0, done.stdout + done.stderr
            assert re.search(r"writes accepted +1,000 +1,000", done.stdout)
            assert re.search(r"differences +0 +0", done.stdout)
            statements = re.search(r"SQL statements +([\d,]+) +([\d,]+)", done.stdout)
            assert statements is not None
            buffered, direct = (int(text.replace(",", "")) for text in statements.groups())
            assert 0 < buffered < 100 < 2000 < direct
            # Those of the comparison are gone again.
            assert rows(data, "SELECT count(*) FROM writebehind_meta_ticketmeta") == [
                (500 * so_often,)
            ]
        assert not valkey_runs(data)

    def test_fails_on_a_lost_write(self, tmp_path):
        done = run(
            tmp_path,
            "-c",
            "import sys, django; django.setup()\n"
            "from demo_site import proof\n"
            "write = proof.set_buffered\n"
            "proof.set_buffered = lambda writes: write(list(writes)[:-1])\n"
            "from django.core.management import execute_from_command_line\n"
            "execute_from_command_line(['manage.py', 'demo', '--once', '--writes', '500'])\n",
        )

        assert done.returncode == 1, done.stdout + done.stderr
        assert re.search(r"differences +4 +0", done.stdout)
        assert "ticket 1000499: not in the database" in done.stderr
        assert not valkey_runs(tmp_path)

    def test_refuses_too_few_writes(self, tmp_path):
        done = run(tmp_path, "manage.py", "demo", "--once", "--writes", "499")

        assert done.returncode == 2
        assert "it takes 500 or more, so that each ticket is written, not '499'" in done.stderr


class TestPort:
    def test_a_taken_port_is_one_clear_message(self, tmp_path):
        with socket.create_server((LOCALHOST, 0)) as taken:
            port = taken.getsockname()[1]
            done = run(tmp_path, "manage.py", "demo", "--port", str(port))

        assert done.returncode == 1
        assert f"Port {port} of 127.0.0.1 cannot be used" in done.stderr
        assert "--port" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "valkey").exists()  # nothing was started


class TestSite:
    def test_a_change_is_pending_then_stored(self, start_demo):
        demo = start_demo(port=free_port())
        url = demo.wait_for(r"http://\S+")[0]
        page = Browser(url)

        assert 'href="/tickets/1/"' in page("")
        assert "change this ticket" in page("tickets/1/")
        assert "Username" in page("tickets/1/", {"subject": "Not logged in", "status": "open"})
        page("login/", {"username": "demo", "password": "demo", "next": "/"})
        changed = {"subject": "By hand", "status": "solved", "assigned_to": "dora"}
        after = page("tickets/1/", changed)

        assert "Your write was accepted" in after
        assert "By hand" in after
        address = "tickets/1/" + re.search(r"\?write=\d+", page.address)[0]
        wait_until(lambda: "<strong>stored in the database</strong>" in page(address), timeout=15)
        assert "<strong>stored in the database</strong>" in page(address)
        assert rows(
            demo.data,
            "SELECT subject, status, assigned_to FROM writebehind_meta_ticketmeta"
            " WHERE ticket_id = 1",
        ) == [("By hand", "solved", "dora")]
        figures = json.loads(page("figures.json"))
        assert figures["accepted"] > figures["flushed"] > 0

        again = run(demo.data, "manage.py", "demo", "--once")
        assert again.returncode == 1
        assert f"runs already, as process {demo.process.pid}" in again.stderr


class TestEnd:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_everything_is_flushed(self, start_demo, how):
        demo = start_demo()
        demo.wait_for(r"pending [1-9]")

        assert demo.end(how) == 0

        assert "Everything is in the database" in demo.output
        assert "Traceback" not in demo.output
        assert not valkey_runs(demo.data)
        assert left_in_valkey(demo.data) == 0

    def test_what_a_killed_demo_left_is_flushed_by_the_next(self, start_demo):
        demo = start_demo()
        demo.wait_for("accepted")
        # Ticket 3 is not under load: what it is afterwards was written here.
        written = run(
            demo.data,
            "manage.py",
            "shell",
            "-c",
            "from writebehind_app.meta.models import TicketMeta\n"
            "TicketMeta.buffered.set(ticket_id=3, subject='kept')",
        )
        demo.end(signal.SIGKILL)
        assert written.returncode == 0, written.stderr
        wait_until(lambda: not valkey_runs(demo.data))
        assert not valkey_runs(demo.data)
        assert left_in_valkey(demo.data) > 0

        after = start_demo()
        after.wait_for("rows are pending from an earlier demo")
        after.wait_for("Ctrl-C ends")
        assert after.end(signal.SIGINT) == 0

        assert left_in_valkey(demo.data) == 0
        subject = "SELECT subject FROM writebehind_meta_ticketmeta WHERE ticket_id = 3"
        assert rows(demo.data, subject) == [("kept",)]


class TestValkey:
    def test_one_that_was_left_running_is_ended_with_its_data_kept(self, tmp_path):
        directory, address = tmp_path / "valkey", tmp_path / "valkey" / "valkey.sock"
        left = Valkey(directory, address)
        left.start()
        with redis.Redis(unix_socket_path=str(address)) as client:
            client.set("kept", "yes")
        # As when the demo and the process that watches over its Valkey are both killed.
        left._keeper.kill()
        left._keeper.wait()
        left._keeper.stdin.close()
        left._lock.release()
        assert valkey_runs(tmp_path)

        valkey = Valkey(directory, address)
        valkey.start()

        try:
            assert valkey.replaced_stale
            with redis.Redis(unix_socket_path=str(address), decode_responses=True) as client:
                assert client.get("kept") == "yes"
                policy = client.config_get("*")
            assert policy["maxmemory-policy"] == "noeviction"
            assert policy["appendonly"] == "yes"
            assert policy["port"] == "0"
        finally:
            valkey.stop()
        assert not valkey_runs(tmp_path)


class Browser:
    """Opens pages and sends forms, with cookies and the token of the last page."""

    def __init__(self, url: str) -> None:
        self.url = self.address = url
        self._cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPCookieProcessor(self._cookies),
        )

    def __call__(self, path: str, form: dict[str, str] | None = None) -> str:
        data = None
        if form is not None:
            self("login/")  # every page with a form sets the cookie
            token = next(cookie.value for cookie in self._cookies if cookie.name == "csrftoken")
            data = urllib.parse.urlencode({**form, "csrfmiddlewaretoken": token}).encode()
        with self._opener.open(self.url + path, data, timeout=20) as response:
            self.address = response.url
            return response.read().decode()
