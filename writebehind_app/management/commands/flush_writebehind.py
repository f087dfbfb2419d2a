"""`manage.py flush_writebehind`: bring pending writes to the database."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import close_old_connections

from writebehind_app.buffers import registry
from writebehind_app.buffers.base import Buffer
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.flush.engine import FlushResult, flush, logger
from writebehind_app.flush.parents import parents_first
from writebehind_app.management.arguments import positive
from writebehind_app.store import shard as store
from writebehind_app.store.connection import client

REPORT = ("rows", "batches", "dead_letters", "remaining", "seconds")


class Command(BaseCommand):
    help = (
        "Flushes pending writes to the database. Exits with 0 when what was due is in the "
        "database, with 1 when something is left or was refused, with 2 for bad arguments. "
        "SIGTERM ends it after the batch at hand."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("labels", nargs="*", metavar="app.Model", help="buffers to flush (default: all)")
        add("--all", action="store_true", help="also what is not due yet")
        add("--loop", action="store_true", help="go on until SIGTERM, or --max-time")
        add("--interval", type=positive(float), default=1.0, help="seconds between two passes")
        add("--max-time", type=positive(float), metavar="S", help="end after so many seconds")
        add("--batch-size", type=positive(int), metavar="N", help="entries in one transaction")
        add("--limit", type=positive(int), metavar="N", help="flush at most so many entries")
        add("--dry-run", action="store_true", help="only say what would be flushed")
        add("--json", action="store_true", help="report as one JSON object")
        add("--no-progress", action="store_true", help="no progress bar on a terminal")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["dry_run"] and options["loop"]:
            raise CommandError("--dry-run and --loop exclude each other.", returncode=2)
        buffers = _buffers(options["labels"])
        try:
            if options["dry_run"]:
                self._dry_run(buffers, options)
                return
            with _stop_on_signal() as stop:
                result = self._run(buffers, options, stop)
        except BufferUnavailable as error:
            raise CommandError(f"Nothing more can be flushed: {error}") from None
        self._report(result, options)
        if result.errors or result.dead_letters or (result.remaining and not stop.is_set()):
            sys.exit(1)

    def _run(
        self, buffers: list[Buffer], options: dict[str, Any], stop: threading.Event
    ) -> FlushResult:
        deadline = options["max_time"] and time.monotonic() + options["max_time"]
        started = time.monotonic()
        total = FlushResult()
        limit = options["limit"]
        while True:
            with self._progress(buffers, options) as progress:
                flushed = 0

                def count(entries: int) -> None:
                    nonlocal flushed
                    flushed += entries
                    progress(flushed)

                one = FlushResult()
                for buffer in buffers:
                    try:
                        result = flush(
                            buffer,
                            due_only=not options["all"],
                            batch_size=options["batch_size"],
                            limit=None if limit is None else max(limit - flushed, 0),
                            deadline=deadline,
                            stop=stop.is_set,
                            progress=count,
                        )
                    except BufferUnavailable as error:
                        if not options["loop"]:
                            raise
                        logger.error("%s: nothing can be flushed: %s", buffer, error)
                        result = FlushResult(errors=1)
                    one.add(result)
            if limit is not None:
                limit -= flushed
            # What is left and what failed is the last pass's; the rest is the sum of all.
            total.remaining = total.errors = 0
            total.add(one)
            late = deadline is not None and time.monotonic() + options["interval"] > deadline
            if not options["loop"] or stop.is_set() or late or limit == 0:
                break
            close_old_connections()
            stop.wait(options["interval"])
        total.seconds = time.monotonic() - started
        return total

    def _dry_run(self, buffers: list[Buffer], options: dict[str, Any]) -> None:
        total = 0
        for buffer in buffers:
            counts = store.count(client(patient=True), buffer.shard_keys()).values()
            left = sum(c.in_flight + (c.pending if options["all"] else c.due) for c in counts)
            total += left
            if not options["json"]:
                self.stdout.write(f"{buffer.label}: {left} to flush")
        if options["json"]:
            self._report(FlushResult(remaining=total), options)

    def _report(self, result: FlushResult, options: dict[str, Any]) -> None:
        if options["json"]:
            report = {name: value for name, value in asdict(result).items() if name in REPORT}
            report["seconds"] = round(result.seconds, 3)
            self.stdout.write(json.dumps(report))
        elif options["verbosity"] > 0:
            self.stdout.write(
                f"{result.rows} rows in {result.batches} batches, "
                f"{result.statements} statements, {result.seconds:.2f} s"
            )
            if result.dead_letters:
                self.stderr.write(
                    self.style.ERROR(
                        f"{result.dead_letters} entries were refused: see "
                        "`manage.py writebehind_deadletters list`."
                    )
                )
            if result.errors:
                self.stderr.write(self.style.ERROR(f"{result.errors} batches failed: see the log."))
            if result.remaining:
                self.stderr.write(self.style.WARNING(f"{result.remaining} entries are left."))

    @contextmanager
    def _progress(
        self, buffers: list[Buffer], options: dict[str, Any]
    ) -> Iterator[Callable[[int], None]]:
        """Draws a bar on a terminal, as long as it is worth one."""
        quiet = options["json"] or options["no_progress"] or options["loop"]
        if quiet or not self.stderr.isatty():
            yield lambda done: None
            return
        redis = client(patient=True)
        counts = [c for b in buffers for c in store.count(redis, b.shard_keys()).values()]
        total = sum(c.in_flight + (c.pending if options["all"] else c.due) for c in counts)

        def draw(done: int) -> None:
            share = min(done / max(total, 1), 1)
            bar = "█" * round(share * 30)
            self.stderr.write(f"\r{bar:░<30} {done}/{total}", ending="")
            self.stderr.flush()

        yield draw
        if total:
            self.stderr.write("")


def _buffers(labels: list[str]) -> list[Buffer]:
    known = registry.buffers()
    by_name = {label.lower(): buffer for label, buffer in known.items()}
    for label in labels:
        if label.lower() not in by_name:
            near = get_close_matches(label.lower(), by_name, n=1)
            hint = f" Did you mean {by_name[near[0]].label}?" if near else ""
            names = ", ".join(known) or "none"
            raise CommandError(
                f"No buffer is called {label!r}.{hint} There are: {names}.", returncode=2
            )
    wanted = [by_name[label.lower()] for label in labels] if labels else list(known.values())
    return parents_first(wanted)


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, so that the batch at hand is finished first."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {
        number: signal.signal(number, lambda *args: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
