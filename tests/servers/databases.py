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
    install: Callable[[Path], None]
    """Makes the data of a private one, in which the first of `users` may log in."""
    command: Callable[[Path, int], list[str]]
    """Starts a private one."""
    ending: signal.Signals
    """Ends a private one at once, as a crash would."""

    def find(self) -> dict[str, Any]:
        """The entry for DATABASES, without the name."""
        if url := os.environ.get(self.url_variable):
            parts = urlsplit(url)
            login = self.login(
                parts.hostname or LOCALHOST,
                parts.port or self.port,
                unquote(parts.username or ""),
                unquote(parts.password or ""),
            )
            if refusal := self.refusal(login):
                raise Absent(f"the server in {self.url_variable} does not do: {refusal}")
            return login

        refusals = []
        for user in dict.fromkeys((*self.users, getpass.getuser())):
            login = self.login(LOCALHOST, self.port, user)
            refusal = self.refusal(login)
            if refusal is None:
                return login
            refusals.append(refusal)
        try:
            return PrivateServer(self).login
        except Absent as reason:
            raise Absent(
                f"{self.url_variable} is not set, nothing usable on port {self.port} "
                f"({refusals[-1]}), and {reason}"
            ) from reason

    def login(self, host: str, port: int, user: str, password: str = "") -> dict[str, Any]:
        return {
            "ENGINE": self.backend,
            "HOST": host,
            "PORT": port,
            "USER": user,
            "PASSWORD": password,
        }

    def refusal(self, login: dict[str, Any]) -> str | None:
        try:
            self.try_login(login)
        except Exception as error:  # noqa: BLE001 - the driver may be missing as well as the server
            return " ".join(str(error).split()) or repr(error)
        return None


class PrivateServer:
    """One that was started from the binaries, on a free port; its data outlive `kill`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.directory = keeper().directory / engine.alias
        self.directory.mkdir()
        if account := _unprivileged():
            os.chown(self.directory, account["user"], account["group"])
        engine.install(self.directory)
        self.login = engine.login(LOCALHOST, free_port(), engine.users[0])
        """The entry for DATABASES, without the name."""
        self.start()

    def start(self) -> None:
        """Returns when it lets us in."""
        command = self._engine.command(self.directory, self.login["PORT"])
        ending = self._engine.ending
        self._process = start_process(self.directory, command, ending=ending, **_unprivileged())
        wait_until(lambda: self._engine.refusal(self.login) is None, self._process, self.directory)

    def kill(self) -> None:
        """Ends it at once. It has to recover when it is started again."""
        keeper().end(self._process)


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


def _install_postgresql(directory: Path) -> None:
    arguments = "--username=postgres --auth=trust --encoding=UTF8 --no-locale --no-sync"
    data = f"--pgdata={directory / 'data'}"
    _run(directory, [str(_initdb()), data, *arguments.split()])


def _postgresql(directory: Path, port: int) -> list[str]:
    options = {
        "port": port,
        "listen_addresses": LOCALHOST,
        "unix_socket_directories": "",
        "fsync": "off",  # the data outlive the process, not the machine
    }
    command = [str(_initdb().with_name("postgres")), "-D", str(directory / "data")]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    return command


def _initdb() -> Path:
    places = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=_version_in, reverse=True)
    return _binary("initdb", *places)


def _install_mariadb(directory: Path) -> None:
    _binary("mariadbd")
    install = _binary("mariadb-install-db")
    # By default only the system's root may be the server's, and only by the socket.
    open_root = "--auth-root-authentication-method=normal"
    data = f"--datadir={directory / 'data'}"
    _run(directory, [str(install), "--no-defaults", data, open_root, "--skip-test-db"])


def _mariadb(directory: Path, port: int) -> list[str]:
    return [
        str(_binary("mariadbd")),
        "--no-defaults",
        f"--datadir={directory / 'data'}",
        f"--port={port}",
        f"--bind-address={LOCALHOST}",
        f"--socket={directory / 'socket'}",
        f"--pid-file={directory / 'pid'}",
        "--innodb-flush-log-at-trx-commit=2",  # the data outlive the process, not the machine
    ]


ENGINES = (
    Engine(
        alias="postgresql",
        backend="django.db.backends.postgresql",
        url_variable="WRITEBEHIND_TEST_POSTGRES",
        port=5432,
        users=("postgres", "root"),
        try_login=_try_postgresql,
        install=_install_postgresql,
        command=_postgresql,
        ending=signal.SIGQUIT,  # SIGKILL would leave a shared memory segment behind
    ),
    Engine(
        alias="mariadb",
        backend="django.db.backends.mysql",
        url_variable="WRITEBEHIND_TEST_MARIADB",
        port=3306,
        users=("root",),
        try_login=_try_mariadb,
        install=_install_mariadb,
        command=_mariadb,
        ending=signal.SIGKILL,
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
