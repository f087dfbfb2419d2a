"""PostgreSQL and MariaDB: one that is there, or a private one."""

from __future__ import annotations

import getpass
import glob
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.keeper import keeper
from tests.servers.process import LOCALHOST, Absent, free_port, start_process, wait_until


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
        port = free_port()
        process, user = self.start(directory, port)
        login = self._login(LOCALHOST, port, user)
        wait_until(lambda: self._refusal(login) is None, process, directory)
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
    return start_process(directory, command, ending=signal.SIGQUIT, **_unprivileged()), "postgres"


def _start_mariadb(directory: Path, port: int) -> tuple[subprocess.Popen[Any], str]:
    server = _binary("mariadbd")
    install = _binary("mariadb-install-db")
    data = f"--datadir={directory / 'data'}"
    # By default only the system's root may be the server's, and only by the socket.
    open_root = "--auth-root-authentication-method=normal"
    _run(directory, [str(install), "--no-defaults", data, open_root, "--skip-test-db"])
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
    return start_process(directory, command, **_unprivileged()), "root"


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
