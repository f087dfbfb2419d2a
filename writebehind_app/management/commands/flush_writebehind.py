"""`manage.py flush_writebehind`: bring pending writes to the database."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache, partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import close_old_connections
from django.db.transaction import TransactionManagementError

from writebehind_app import registry
from writebehind_app.database.divided import renew
from writebehind_app.database.own_tables import migrate_first
from writebehind_app.declaration import Declaration
from writebehind_app.english import be, counted
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.flush import pruning
from writebehind_app.flush.engine import FlushResult, flush, holding, logger
from writebehind_app.management.arguments import (
    NO_BUFFERS,
    Stop,
    buffers_of,
    entries_are,
    positive,
    stop_on_signal,
)
from writebehind_app.models import AppliedBatch
from writebehind_app.store import state
from writebehind_app.store.connection import client, is_logged

REPORT = ("rows", "batches", "dead_letters", "remaining", "seconds")


class Command(BaseCommand):
    help = (
        "Flushes pending writes to the database. Exits with 0 when what was due is in the "
        "database, with 1 when something is left or was refused, with 2 for bad arguments. "
        "SIGTERM ends it after the batch at hand; with --loop, after what is pending was flushed: "
        "then it exits with 1 only where something is left, or was refused or failed in that."
    )

    _away: BufferUnavailable | None = None  # why not, of buffers whose Redis is away

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("labels", nargs="*", metavar="app.Model", help="buffers to flush (default: all)")
        add("--all", action="store_true", help="also what is not due yet")
        add("--loop", action="store_true", help="go on until SIGTERM, or --max-time")
        add("--interval", type=positive(float), default=1.0, help="seconds between two passes")
        add("--max-time", type=positive(float), metavar="S", help="end after so many seconds")
        add(
            "--drain-time",
            type=positive(float),
            metavar="S",
            default=20.0,
            help="seconds that --loop goes on after SIGTERM, to flush what is pending [20]",
        )
        add("--batch-size", type=positive(int), metavar="N", help="entries in one transaction")
        add("--limit", type=positive(int), metavar="N", help="flush at most so many entries")
        add("--dry-run", action="store_true", help="only say what would be flushed")
        add("--json", action="store_true", help="report as one JSON object")
        add("--no-progress", action="store_true", help="no progress bar on a terminal")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["dry_run"] and options["loop"]:
            raise CommandError("--dry-run and --loop exclude each other.", returncode=2)
        buffers = buffers_of(options["labels"])
        try:
            if options["dry_run"]:
                self._dry_run(buffers, options)
                return
            lacking = {} if options["loop"] else _without_ledger(buffers)
            for said in {*lacking.values()}:
                self.stderr.write(self.style.ERROR(f"{said} What is pending stays in Redis."))
            waiting = sum(_to_flush(buffer, options) for buffer in lacking)
            buffers = [buffer for buffer in buffers if buffer not in lacking]
            if lacking and not buffers and not options["json"]:
                sys.exit(1)
            with stop_on_signal() as stop, _logging(options["loop"]):
                result, decisive = self._run(buffers, options, stop)
        except BufferUnavailable as error:
            raise CommandError(f"Nothing more can be flushed: {error}") from None
        except TransactionManagementError as error:
            raise CommandError(str(error)) from None
        result.remaining += waiting
        self._report(result, options, buffers)
        if self._away and not options["loop"]:
            raise CommandError(f"Not everything can be flushed: {self._away}")
        is_wished = stop.is_urgent if options["loop"] else stop.is_set()
        if (
            lacking
            or decisive.errors
            or decisive.dead_letters
            or (decisive.remaining and not is_wished)
        ):
            sys.exit(1)

    def _run(
        self, buffers: list[Declaration], options: dict[str, Any], stop: Stop
    ) -> tuple[FlushResult, FlushResult]:
        """What was flushed, and the part of it that decides the exit code.

        Mostly both are the same. But if a service is told to end, only its last drain decides: what
        was refused days ago is in the log."""
        deadline = options["max_time"] and time.monotonic() + options["max_time"]
        started = time.monotonic()
        total = decisive = FlushResult()
        limit = options["limit"]
        is_alone = len(registry.by_server(buffers)) <= 1  # no other Redis has any of them
        if options["loop"]:
            if buffers:
                logger.info("flushing %s", ", ".join(buffer.label for buffer in buffers))
            else:
                logger.warning(NO_BUFFERS)
        while True:
            with self._progress(buffers, options) as progress:
                flushed = 0

                def count(entries: int) -> None:
                    nonlocal flushed
                    flushed += entries
                    progress(flushed)

                one = FlushResult()
                for buffer, is_to_prune in self._visits(buffers, options):
                    try:
                        result = flush(
                            buffer,
                            due_only=not options["all"],
                            batch_size=options["batch_size"],
                            limit=None if limit is None else max(limit - flushed, 0),
                            deadline=deadline,
                            # What another one is at is not waited for where there is a next pass:
                            # he may be dead, and there are other shards.
                            wait=not options["loop"],
                            pruning=is_to_prune,
                            stop=stop.is_set,
                            progress=count,
                        )
                    except BufferUnavailable as error:
                        if is_alone and not options["loop"]:
                            raise
                        if options["loop"] and not is_logged(error):
                            logger.error("%s: nothing can be flushed: %s", buffer, error)
                        self._away = self._away or error
                        result = FlushResult(errors=int(options["loop"]))
                    except TransactionManagementError:  # no pass of the loop could flush it
                        raise
                    except Exception:
                        if not options["loop"]:
                            raise
                        logger.exception("%s cannot be flushed", buffer)
                        result = FlushResult(errors=1)
                    one.add(result)
            if limit is not None:
                limit = max(limit - flushed, 0)  # a batch taken over may be larger
            # What is left and what failed is the last pass's; the rest is the sum of all.
            total.remaining = total.errors = 0
            total.add(one)
            late = deadline is not None and time.monotonic() + options["interval"] > deadline
            if not options["loop"] or stop.is_set() or late or limit == 0:
                break
            close_old_connections()
            stop.wait(options["interval"])
        if options["loop"] and stop.is_set() and limit is None:
            decisive = self._drain(buffers, options, stop)
            total.remaining = total.errors = 0
            total.add(decisive)
        total.seconds = time.monotonic() - started
        return total, decisive

    def _visits(
        self, buffers: list[Declaration], options: dict[str, Any]
    ) -> list[tuple[Declaration, bool]]:
        """The buffers that a pass has to flush, and whether it prunes them. The passes of a loop
        leave out those with nothing to do."""
        if not options["loop"]:
            return [(buffer, True) for buffer in buffers]
        to_prune = {buffer for buffer in buffers if pruning.is_time(buffer)}
        try:
            held = holding(buffers)
        except BufferUnavailable:
            held = buffers  # each of them says so
        return [(b, b in to_prune) for b in buffers if b in held or b in to_prune]

    def _drain(
        self, buffers: list[Declaration], options: dict[str, Any], stop: Stop
    ) -> FlushResult:
        """Flush what is pending at the end of a service, due or not."""
        deadline = time.monotonic() + options["drain_time"]
        total = FlushResult()
        for buffer in buffers:
            try:
                size = options["batch_size"]
                urgent = partial(getattr, stop, "is_urgent")
                total.add(flush(buffer, batch_size=size, deadline=deadline, stop=urgent))
            except BufferUnavailable as error:
                logger.error("%s: what is pending stays in Redis: %s", buffer, error)
                total.errors += 1
            except Exception:  # noqa: BLE001 - the other buffers are flushed all the same
                logger.exception("%s: what is pending stays in Redis", buffer)
                total.errors += 1
        return total

    def _dry_run(self, buffers: list[Declaration], options: dict[str, Any]) -> None:
        renew(buffers, patient=True, to_write=False)
        total, paused = 0, _paused(buffers)
        for buffer in buffers:
            left = _to_flush(buffer, options)
            total += left
            if not options["json"]:
                note = ", but it is paused" if buffer.label in paused else ""
                self.stdout.write(f"{buffer.label}: {left} to flush{note}")
        if options["json"]:
            self._report(FlushResult(remaining=total), options, buffers)

    def _report(
        self, result: FlushResult, options: dict[str, Any], buffers: list[Declaration]
    ) -> None:
        if options["json"]:
            report = {name: value for name, value in asdict(result).items() if name in REPORT}
            report["seconds"] = round(result.seconds, 3)
            self.stdout.write(json.dumps(report))
        elif options["verbosity"] > 0:
            self.stdout.write(
                f"{counted(result.rows, 'row')} in {counted(result.batches, 'batch', 'batches')}, "
                f"{counted(result.statements, 'statement')}, {result.seconds:.2f} s"
            )
            if result.dead_letters:
                self.stderr.write(
                    self.style.ERROR(
                        f"{entries_are(result.dead_letters)} refused: see "
                        "`manage.py writebehind_deadletters list`."
                    )
                )
            if result.errors:
                failed = counted(result.errors, "batch", "batches")
                self.stderr.write(self.style.ERROR(f"{failed} failed: see the log."))
            if result.remaining:
                try:
                    paused = _paused(buffers)
                except BufferUnavailable:  # since then
                    paused = []
                why = f", as {', '.join(paused)} {be(len(paused))} paused" if paused else ""
                text = f"{entries_are(result.remaining)} left{why}."
                self.stderr.write(self.style.WARNING(text))

    @contextmanager
    def _progress(
        self, buffers: list[Declaration], options: dict[str, Any]
    ) -> Iterator[Callable[[int], None]]:
        """Draw a progress bar on a terminal if the flush takes long enough."""
        quiet = options["json"] or options["no_progress"] or options["loop"]
        if quiet or not self.stderr.isatty():
            yield lambda done: None
            return
        redis = client(patient=True)
        counts: list[state.Counts] = []
        with suppress(BufferUnavailable):  # the flush says so
            counts = [c for b in buffers for c in state.count(redis, b.every_shard()).values()]
        total = sum(c.in_flight + (c.pending if options["all"] else c.due) for c in counts)

        def draw(done: int) -> None:
            share = min(done / max(total, 1), 1)
            bar = "█" * round(share * 30)
            self.stderr.write(f"\r{bar:░<30} {done}/{total}", ending="")
            self.stderr.flush()

        yield draw
        if total:
            self.stderr.write("")


def _paused(buffers: list[Declaration]) -> list[str]:
    """The paused buffers that have something to flush."""
    found = {
        buffer.label: state.overview(client(patient=True), buffer.every_shard()).values()
        for buffer in buffers
    }
    return [
        label
        for label, shards in found.items()
        if any(each.paused and each.pending + each.in_flight for each in shards)
    ]


def _to_flush(buffer: Declaration, options: dict[str, Any]) -> int:
    counts = state.count(client(patient=True), buffer.every_shard()).values()
    return sum(c.in_flight + (c.pending if options["all"] else c.due) for c in counts)


def _without_ledger(buffers: list[Declaration]) -> dict[Declaration, str]:
    """The buffers that cannot be flushed, as none of their databases has a ledger, each with what
    to do."""
    say = cache(partial(migrate_first, needed=AppliedBatch))
    return {b: say(b.using()) for b in buffers if all(say(using) for using in b.databases())}


@contextmanager
def _logging(wanted: bool) -> Iterator[None]:
    """Write the log of a service to standard error, where the project does nothing with it."""
    if not wanted or logger.hasHandlers():
        yield
        return
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
