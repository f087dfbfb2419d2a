"""The CPU time that servers have used, if they tell, or run on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from django.db import Error, connections

from writebehind_app.store import server
from writebehind_app.store.connection import client

_PROC = Path("/proc")


def of_redis() -> float | None:
    """The CPU seconds of Redis, or None if it does not tell."""
    found = server.info(client())
    if "used_cpu_user" not in found:
        return None
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def of_database(using: str) -> float | None:
    """The CPU seconds of the database server, or None if they are not known.

    The database tells the number of its process, and the system what that process has used. SQLite
    has no process."""
    pid = _pid(using)
    if pid is None:
        return None
    try:
        return _used(pid) + sum(
            _used(int(entry.name))
            for entry in _PROC.iterdir()
            if entry.name.isdigit() and _parent(entry) == pid
        )
    except (OSError, ValueError):
        return None


def _pid(using: str) -> int | None:
    """The main process of the database server, if it runs on this machine."""
    connection = connections[using]
    try:
        with connection.cursor() as cursor:
            match connection.vendor:
                case "postgresql":
                    cursor.execute("SELECT pg_backend_pid()")
                    session = _PROC / str(cursor.fetchone()[0])
                    return _parent(session) if _is_called(session, "postgres") else None
                case "mysql":
                    cursor.execute("SELECT @@datadir, @@pid_file")
                    file = Path(*cursor.fetchone())  # an absolute second path replaces the first
                    pid = int(file.read_text())
                    is_it = _is_called(_PROC / str(pid), "mariadbd", "mysqld")
                    return pid if is_it else None
    except (Error, OSError, ValueError):
        pass
    return None


def _fields(process: Path) -> list[str]:
    """The fields of /proc/<pid>/stat after the name, which may contain blanks."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def _is_called(process: Path, *names: str) -> bool:
    return (process / "comm").read_text().strip() in names


def _parent(process: Path) -> int | None:
    try:
        return int(_fields(process)[1])
    except OSError:  # it has ended
        return None


def _used(pid: int) -> float:
    """The CPU seconds of a process, and of its children that have ended."""
    try:
        ticks = _fields(_PROC / str(pid))[11:15]
    except OSError:
        return 0.0
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
