"""The servers that the other tests stand on are what they say, and do not outlive the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import Group
from django.db import connections

from tests import servers
from tests.servers import RedisServer, chromium
from tests.servers.process import LOCALHOST, Absent, free_port


def test_each_database_is_of_its_kind(database: str) -> None:
    connection = connections[database]
    assert connection.vendor == {"default": "sqlite", "mariadb": "mysql"}.get(database, database)
    if database == "mariadb":
        assert connection.mysql_is_mariadb


def test_each_redis_is_of_its_kind(redis_server: RedisServer) -> None:
    with redis_server.client(decode_responses=True) as client:
        info = client.info("server")
        assert info["process_id"] == redis_server.pid
        assert info.get("server_name", "redis") == redis_server.kind
        assert client.config_get("appendonly", "maxmemory-policy") == {
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
        }


@pytest.mark.parametrize("run", [1, 2])
def test_no_row_and_no_key_is_left_to_the_next_test(
    run: int, database: str, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        assert client.dbsize() == 0
        client.set("left", run)
    assert not Group.objects.exists()
    Group.objects.create(name="left")


def test_a_browser_that_is_not_installed_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Absent, match="no chromium is installed"):
        chromium.find()

    (tmp_path / "chromium").touch(mode=0o755)
    with pytest.raises(Absent, match="no chromedriver is installed"):
        chromium.find()

    (tmp_path / "chromedriver").touch(mode=0o755)
    assert chromium.find() == (str(tmp_path / "chromium"), str(tmp_path / "chromedriver"))


def test_no_two_processes_get_the_same_port() -> None:
    port = free_port()
    source = f"from tests.servers.process import _reserve; print(_reserve({port}))"
    said = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert said.stdout.strip() == "False", said.stderr
    assert port not in {free_port() for _ in range(100)}


@pytest.fixture
def valkey() -> Iterator[RedisServer]:
    with RedisServer("valkey") as server:
        yield server


def test_a_killed_server_comes_back_with_its_data(valkey: RedisServer) -> None:
    with valkey.client() as client:
        client.config_set("appendfsync", "always")
        client.set("kept", "1")
    valkey.kill()
    assert not valkey.running
    valkey.start()
    with valkey.client() as client:
        assert client.get("kept") == b"1"


def test_a_paused_server_answers_after_resume(valkey: RedisServer) -> None:
    valkey.pause()
    assert not valkey._answers()
    valkey.resume()
    assert valkey._answers()


@pytest.mark.process
def test_a_child_is_on_the_database_and_the_redis_of_its_test(
    database: str,
    redis_server: RedisServer,
    start_child: Callable[..., subprocess.Popen[str]],
) -> None:
    child = start_child(leave_a_trace, "from the child")
    assert child.wait(30) == 0
    assert Group.objects.using(database).get().name == "from the child"
    with redis_server.client() as client:
        assert client.get("trace") == b"from the child"


def leave_a_trace(text: str) -> None:
    import redis
    from django.conf import settings

    Group.objects.create(name=text)
    with redis.Redis.from_url(settings.WRITEBEHIND["REDIS"]) as client:
        client.set("trace", text)


# It sleeps in small pieces: Python handles a signal between two calls, and one that comes just
# before a call that blocks would wait for its end.
OWNER = """
import signal
import time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
from tests.servers import RedisServer
server = RedisServer("valkey")
server.start()
print(server.port, server.directory, flush=True)
for _ in range(600):
    time.sleep(0.1)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_servers_end_with_their_owner(end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        port, directory = owner.stdout.readline().split()
        assert is_open(int(port))
        owner.send_signal(end)
        owner.wait(30)
    deadline = time.monotonic() + 10
    while is_open(int(port)) or os.path.exists(directory):
        assert time.monotonic() < deadline, "the server outlives its owner"
        time.sleep(0.02)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOCALHOST, port)) == 0


def test_an_unknown_server_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITEBEHIND_TEST_DATABASES", "sqlite,oracle")
    with pytest.raises(ValueError, match="'oracle'; there are sqlite, postgresql, mariadb"):
        servers.wanted_databases()
    monkeypatch.setenv("WRITEBEHIND_TEST_REDIS_KINDS", "valkey,keydb")
    with pytest.raises(ValueError, match="'keydb'; there are valkey, redis"):
        servers.wanted_redis()
