"""The demo: a site, its load, its cluster and its Valkey, which all end with one process."""

from __future__ import annotations

import argparse
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections

from demo_site import figures, letters, proof, yardstick
from demo_site.cluster import Cluster
from demo_site.figures import Figures
from demo_site.flusher import drain
from demo_site.load import Load
from demo_site.locks import Lock
from demo_site.server import ServerError, Valkey
from demo_site.systems import SYSTEMS
from demo_site.web import PortTaken, Site
from writebehind_app.exceptions import WritebehindError

LOGIN = "demo"

_DIFFERENCES = 20  # printed at most
_LEFT = "What is not in the database is kept, and flushed when the demo is started again."


class Command(BaseCommand):
    help = (
        "Run the demo site with a Valkey of its own, simulated load and a cluster of Django-Q2 "
        "that flushes, until Ctrl-C. With --once: a bounded run, and the proof that nothing was "
        "lost."
    )
    requires_system_checks = ()  # once Valkey is there, which some may ask

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--port", type=_port, default=8000, help="of the site; 0 for any free one [8000]"
        )
        parser.add_argument(
            "--once",
            action="store_true",
            help="write to all systems, flush, compare each row of the database with what was "
            "written, do the same through the ORM, print a table; exit 1 on any difference",
        )
        parser.add_argument(
            "--writes", type=_writes, default=10_000, help="of --once [10000]", metavar="N"
        )
        parser.add_argument(
            "--database",
            choices=("sqlite", "postgresql"),
            default=settings.DATABASE,
            help="postgresql: the server that PGHOST, PGPORT, PGUSER and PGPASSWORD name, in a "
            "database of its own [sqlite]",
        )

    def handle(self, *, port: int, once: bool, writes: int, database: str, **options: Any) -> None:
        if database != settings.DATABASE:  # the settings and all processes of the demo depend on it
            os.environ["DEMO_DATABASE"] = database
            os.execv(sys.executable, [sys.executable, *sys.argv])
        logging.getLogger("django-q").setLevel(logging.WARNING)  # no line for each job
        with ExitStack() as stack:
            self.ending = _Ending(at_once=once)
            lock = Lock(settings.DATA_DIR / "demo.lock")
            if not lock.acquire():
                raise CommandError(
                    f"A demo with the same data runs already, as process {lock.owner()}. End it "
                    "first, or give this one other data: DEMO_DATA=/some/directory"
                )
            stack.callback(lock.release)
            # Before anything is started that would have to be ended again.
            site = None if once else self._site(port)
            if site:
                stack.callback(site.end)
            self._start(stack)
            try:
                if site is None:
                    self._prove(writes)
                else:
                    self._run(site)
            except (WritebehindError, DatabaseError) as error:
                raise CommandError(f"{error}\n{self._valkey_died() or _LEFT}") from error
            except KeyboardInterrupt:
                raise CommandError(f"Interrupted. {_LEFT}", returncode=130) from None

    def _site(self, port: int) -> Site:
        try:
            return Site(port)
        except PortTaken as error:
            raise CommandError(
                f"Port {port} of 127.0.0.1 cannot be used: {error}. Choose another one: "
                f"manage.py demo --port {port + 1}   (make demo ARGS='--port {port + 1}')"
            ) from error

    def _start(self, stack: ExitStack) -> None:
        """Valkey, the tables and the login."""
        self.valkey: Valkey | None = None
        if not settings.EXTERNAL_REDIS:
            self.valkey = Valkey(settings.DATA_DIR / "valkey", settings.VALKEY_SOCKET)
            try:
                self.valkey.start()
            except ServerError as error:
                raise CommandError(str(error)) from error
            stack.callback(self.valkey.stop)
            if self.valkey.replaced_stale:
                self._say("Ended the Valkey of an earlier demo that was killed; its data is kept.")
        self.check()
        if settings.DATABASE == "postgresql":
            _make_database()
        call_command("migrate", verbosity=0, interactive=False)
        users = get_user_model()._default_manager
        if not users.filter(username=LOGIN).exists():
            users.create_superuser(LOGIN, "demo@example.com", LOGIN)
        figures.begin()
        if left := figures.read().pending:
            self._say(f"{left:,} entries are pending from an earlier demo; they are flushed now.")

    # --once

    def _prove(self, writes: int) -> None:
        drain()
        self._say(
            f"{writes:,} writes on {proof.KEYS * len(SYSTEMS)} keys from {proof.THREADS} threads, "
            "buffered and one by one …"
        )
        each, rest = divmod(writes, len(SYSTEMS))
        runs = {
            system.title: proof.run(system, each + (number < rest))
            for number, system in enumerate(SYSTEMS)
        }
        self._say(f"{proof.table(runs)}\n\n{proof.reading()}\n")
        differences = [line for both in runs.values() for run in both for line in run.differences]
        if differences:
            shown = "\n".join(differences[:_DIFFERENCES])
            raise CommandError(f"{len(differences)} differences, the first of them:\n{shown}")
        if pending := figures.read().pending:
            raise CommandError(f"{pending} entries are still pending.")
        self._say("Every row of the database is what was written, and nothing is pending.")

    # Until Ctrl-C

    def _run(self, site: Site) -> None:
        cluster, load = Cluster(settings.DATA_DIR / "cluster.log"), Load()
        for system in SYSTEMS:
            system.prepare()
        drain()
        made = letters.prepare()
        measured = yardstick.measure(SYSTEMS)
        figures.begin(measured)
        cluster.start()
        try:
            site.start()
            load.start()
            self._say(
                f"\n  The site     {site.url}\n"
                f"  The admin    {site.url}admin/\n"
                f"  Login        {LOGIN}, password {LOGIN}\n\n"
                + (f"The admin has {made} dead letters to mend.\n" if made else "")
                + "Ctrl-C ends the demo.\n"
            )
            self._show_until_the_end(cluster)
        finally:
            load.end()
            site.end()
            cluster.end()
        self._say("\nFlushing the rest …")
        drain()
        last = figures.read()
        self._say(
            f"Everything is in the database: {last.accepted:,} writes were accepted, and stored as "
            f"{last.rows:,} rows with {last.statements:,} SQL statements. {last.pending:,} are "
            "pending."
        )

    def _show_until_the_end(self, cluster: Cluster) -> None:
        """One line that changes on a terminal, a line now and then elsewhere."""
        tty = self.stdout.isatty()
        every, next_line, next_minute = 0.5 if tty else 3.0, 0.0, 0.0
        while not self.ending.is_set():
            if died := self._valkey_died():
                raise CommandError(died)
            if not cluster.running:
                raise CommandError(f"The cluster has ended by itself; its log is {cluster.log}.")
            if time.monotonic() >= next_line:
                line = _line(figures.read())
                if tty:
                    line = "\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1]
                self.stdout.write(line, ending="" if tty else "\n")
                self.stdout.flush()
                next_line = time.monotonic() + every
            if time.monotonic() >= next_minute:
                for system in SYSTEMS:
                    system.tidy()
                next_minute = time.monotonic() + 60
            self.ending.wait(0.25)

    def _valkey_died(self) -> str:
        if self.valkey is None or self.valkey.running:
            return ""
        return f"Valkey has ended by itself; its log is {self.valkey.log}. {_LEFT}"

    def _say(self, message: str) -> None:
        self.stdout.write(message)
        self.stdout.flush()


def _make_database() -> None:
    """Make the database on PostgreSQL, unless it is there."""
    connection = connections[DEFAULT_DB_ALIAS]
    try:
        connection.ensure_connection()
    except DatabaseError:
        name = connection.settings_dict["NAME"]
        server = type(connection)({**connection.settings_dict, "NAME": "postgres"}, "postgres")
        try:
            with server.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {server.ops.quote_name(name)}")
        except DatabaseError as error:
            raise CommandError(
                f"PostgreSQL cannot be used: {error}\nStart a server, or say where one is with "
                "PGHOST, PGPORT, PGUSER and PGPASSWORD. The user has to be allowed to make a "
                "database."
            ) from None
        finally:
            server.close()


class _Ending(threading.Event):
    """Set by the first Ctrl-C, SIGTERM or SIGHUP. A later one interrupts what is going on: what is
    pending then stays in Valkey for the next start."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        # A wrapper may pass on what the terminal has sent to us too: that is no second wish.
        self._interrupt_from = 0.0 if at_once else math.inf
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *args: object) -> None:
        now = time.monotonic()
        if now >= self._interrupt_from:
            raise KeyboardInterrupt
        if not self.is_set():
            self._interrupt_from = now + 1
        self.set()


def _line(now: Figures) -> str:
    return (
        f"accepted {now.accepted:,} writes   pending {now.pending:,} entries   "
        f"stored {now.rows:,} rows in {now.statements:,} SQL statements "
        f"(the ORM: about {now.orm_statements:,})"
    )


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def _writes(text: str) -> int:
    if not text.isdigit() or int(text) < proof.KEYS * len(SYSTEMS):
        raise argparse.ArgumentTypeError(
            f"it takes {proof.KEYS * len(SYSTEMS)} or more, so that each key is written, "
            f"not {text!r}"
        )
    return int(text)
