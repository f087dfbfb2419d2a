"""`manage.py demo`, as a process of its own on data of its own."""

from __future__ import annotations

import http.cookiejar
import json
import re
import signal
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import redis
from django.db import connections

from demo_site.locks import Lock
from demo_site.server import Valkey
from demo_site.systems import SYSTEMS
from tests.backdoor.entries import entries_in
from tests.demo import Demo, rows, run, wait_until
from tests.keeper import keeper
from tests.servers.process import LOCALHOST, free_port

pytestmark = pytest.mark.process

TITLES = [system.title for system in SYSTEMS]
# Title, writes, rows and statements buffered and not, seconds and how much faster, differences.
TABLE = re.compile(r"^(\w+)" + r" +([\d,]+)" * 5 + r" +[\d.]+ +[\d.]+ +[\d.]+ x +(\d+)$", re.M)


CALLS = re.compile(r"^(\w+)" + r" +(\d+\.\d\d)" * 4 + "$", re.M)  # p50 and p99, both ways


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    demos = []

    def start(**options: Any) -> Demo:
        demos.append(Demo(tmp_path / "data", **options))
        return demos[-1]

    yield start
    for demo in demos:
        keeper().end(demo.process)


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
            return entries_in(client)
    finally:
        valkey.stop()


class TestOnce:
    def test_proves_that_the_database_has_what_was_written(self, tmp_path):
        # A name too long for the address of a socket, with blanks in it.
        data = tmp_path / ("a directory with a long name " * 4)

        for so_often in (1, 2):
            done = run(data, "manage.py", "demo", "--once", "--writes", "1000")

            assert done.returncode == 0, done.stdout + done.stderr
            calls = CALLS.findall(done.stdout)
            assert [title for title, *_ in calls] == [*TITLES, "All"]
            for _, *times in calls:
                p50, orm_p50, p99, orm_p99 = map(float, times)
                assert 0 < p50 <= p99
                assert 0 < orm_p50 <= orm_p99
            assert "How to read it: " in done.stdout
            table = TABLE.findall(done.stdout)
            assert [title for title, *_ in table] == [*TITLES, "All"]
            for _, *columns in table:
                writes, rows_buffered, rows_directly, buffered, directly, differences = (
                    int(text.replace(",", "")) for text in columns
                )
                assert writes in (1000 // len(TITLES), 1000 // len(TITLES) + 1, 1000)
                assert 0 < rows_buffered <= rows_directly
                assert 0 < buffered < directly
                assert differences == 0
            # Those of the comparison are gone again.
            assert rows(data, "SELECT count(*) FROM writebehind_meta_ticketmeta") == [
                (100 * so_often,)
            ]
        assert not valkey_runs(data)

    @pytest.mark.parametrize("database", ["postgresql"], indirect=True)
    def test_on_postgresql(self, database, monkeypatch, tmp_path):
        login = connections[database].settings_dict
        for name in ("HOST", "PORT", "USER", "PASSWORD"):
            monkeypatch.setenv(f"PG{name}", str(login[name]))
        command = ("manage.py", "demo", "--once", "--writes", "500", "--database", "postgresql")

        for _ in range(2):  # the second one finds its database there
            done = run(tmp_path, *command)

            assert done.returncode == 0, done.stdout + done.stderr
            assert [title for title, *_ in TABLE.findall(done.stdout)] == [*TITLES, "All"]
        assert not (tmp_path / "db.sqlite3").exists()
        with connections[database].cursor() as cursor:
            cursor.execute(
                "SELECT datname FROM pg_database WHERE datname LIKE 'writebehind_demo_%'"
            )
            found = [name for (name,) in cursor.fetchall()]
            mine = f"writebehind_demo_{crc32(bytes(tmp_path / 'postgresql')):08x}"
            assert mine in found
            cursor.execute(f"DROP DATABASE {mine}")

    def test_on_a_postgresql_that_is_away(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PGHOST", LOCALHOST)
        monkeypatch.setenv("PGPORT", str(free_port()))
        done = run(tmp_path, "manage.py", "demo", "--once", "--database", "postgresql")
        assert done.returncode == 1
        assert done.stderr.startswith("CommandError: PostgreSQL cannot be used: connection failed")
        assert "say where one is with PGHOST" in done.stderr
        assert not valkey_runs(tmp_path / "postgresql")

    def test_fails_on_a_lost_write(self, tmp_path):
        done = run(
            tmp_path,
            "-c",
            "import sys, django; django.setup()\n"
            "from demo_site.systems.tickets import Tickets\n"
            "write = Tickets.write\n"
            "Tickets.write = lambda self, key, values: (\n"
            "    None if key == 1000099 else write(self, key, values))\n"
            "from django.core.management import execute_from_command_line\n"
            "execute_from_command_line(['manage.py', 'demo', '--once', '--writes', '500'])\n",
        )

        assert done.returncode == 1, done.stdout + done.stderr
        assert re.search(r"Tickets .* 1\n", done.stdout)
        assert re.search(r"All .* 1\n", done.stdout)
        assert "ticket 1000099: not in the database" in done.stderr
        assert not valkey_runs(tmp_path)

    def test_refuses_too_few_writes(self, tmp_path):
        done = run(tmp_path, "manage.py", "demo", "--once", "--writes", "99")

        assert done.returncode == 2
        assert "or more, so that each key is written, not '99'" in done.stderr


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

        assert 'href="/tickets/1/"' in page("tickets/")
        assert "change this ticket" in page("tickets/1/")
        assert "Username" in page("tickets/1/", {"subject": "Not logged in", "status": "open"})
        page("login/", {"username": "demo", "password": "demo", "next": "/"})
        assert "This field is required." in page("tickets/1/", {"subject": "", "status": "open"})
        changed = {"subject": "By hand", "status": "closed", "assigned_to": "dora"}
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
        ) == [("By hand", "closed", "dora")]
        figures = json.loads(page("figures.json"))
        assert figures["orm_statements"] > figures["statements"] > 0
        assert figures["orm_rows"] > figures["rows"] > 0
        assert figures["accepted"] > figures["pending"]
        assert figures["call_ms"] > 0
        assert figures["orm_ms"] > 0

        again = run(demo.data, "manage.py", "demo", "--once")
        assert again.returncode == 1
        assert f"runs already, as process {demo.process.pid}" in again.stderr

    def test_works_without_javascript(self, start_demo):
        demo = start_demo()
        page = Browser(demo.wait_for(r"http://\S+")[0])

        ada = {"name": "Ada", "email": "ada@example.org"}
        assert "ada@example.org is registered." in page("events/1/", ada)
        assert "is registered for this event already" in page("events/1/", ada)
        assert "Username" in page("lessons/1/")
        page("login/", {"username": "demo", "password": "demo", "next": "/"})
        lesson = page("lessons/1/", {"position": "61", "notes": "By hand"})
        assert 'value="61"' in lesson
        assert "By hand" in lesson
        finished = page("lessons/1/finish/", {"position": "300", "notes": "By hand"})
        assert "“Why writes wait” is finished." in finished
        assert 'value="1:confirmed"' in page("appointments/", {"move": "1:scheduled"})
        assert "Appointment 1 is not scheduled any more" in page(
            "appointments/", {"move": "1:scheduled"}
        )
        assert "Dana" in page("profile/", {"display_name": "Dana"})
        assert "Ticket 1 is resolved" in page("tickets/1/resolve/", {})


class TestSetUp:
    def test_the_doctor_finds_nothing_but_the_dead_letters_to_mend(self, start_demo):
        demo = start_demo()
        demo.wait_for("The admin has 4 dead letters to mend.")
        log = (demo.data / "cluster.log").read_text()
        assert "processing" not in log  # no line for each job
        done = run(demo.data, "manage.py", "writebehind_doctor", "--json")
        found = [finding["id"] for finding in json.loads(done.stdout)["findings"]]
        assert {*found} == {"writebehind.W131"}
        refused = "SELECT buffer, reason FROM writebehind_deadletter ORDER BY id"
        reasons = dict(rows(demo.data, refused))
        assert "there is no auth.User" in reasons["writebehind_meta.LessonMeta"]
        assert "there is no auth.User" in reasons["writebehind_meta.UserProfile"]
        assert reasons["writebehind_meta.TicketMeta"].startswith("customer_id: Ensure")

        lessons = "writebehind_meta.LessonMeta"
        retry = run(demo.data, "manage.py", "writebehind_deadletters", "retry", lessons)
        assert retry.returncode == 0, retry.stdout + retry.stderr
        assert demo.end(signal.SIGINT) == 0
        again = start_demo()
        again.wait_for("Ctrl-C ends")
        assert again.output.count("dead letters to mend") == 1  # they are made once


class TestEnd:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_everything_is_flushed(self, start_demo, how):
        demo = start_demo()
        demo.wait_for(r"pending [1-9]")

        begun = time.monotonic()
        assert demo.end(how) == 0
        # Two seconds on a quiet machine: it does not wait for a tick of the cluster to end.
        assert time.monotonic() - begun < 6

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
        after.wait_for("entries are pending from an earlier demo")
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
