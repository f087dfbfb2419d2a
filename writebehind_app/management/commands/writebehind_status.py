"""`manage.py writebehind_status`: show the state of the buffers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import close_old_connections

from writebehind_app import registry, status
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.management.arguments import (
    NO_BUFFERS,
    buffers_of,
    positive,
    stop_on_signal,
    unusable,
    unusable_database,
)
from writebehind_app.status import Look, Status
from writebehind_app.store.connection import client

_COLUMNS = ("pending", "in flight", "oldest", "in/s", "out/s", "batch", "retries", "dead letters")
_CLEAR = "\x1b[H\x1b[J"


class Command(BaseCommand):
    help = (
        "Says what waits in each buffer, how old it is, what is in flight, what was refused and "
        "what is paused. Exits with 1 when Redis or a database cannot be used."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("labels", nargs="*", metavar="app.Model", help="buffers (default: all)")
        add("--json", action="store_true", help="report as one JSON object")
        add("--watch", action="store_true", help="again and again, with rates, until Ctrl-C")
        add("--interval", type=positive(float), default=1.0, help="seconds between two looks")

    def handle(self, *args: Any, **options: Any) -> None:
        buffers = buffers_of(options["labels"])
        before: tuple[float, Mapping[str, Status]] | None = None
        with stop_on_signal() as stop:
            while True:
                seen, now = status.look(buffers), time.monotonic()
                problems = [unusable(each.problem, each.buffers) for each in seen.away]
                if seen.found or not seen.away:
                    try:
                        if options["json"]:
                            self._json(seen)
                        else:
                            self._table(seen.found, before, now, clear=options["watch"])
                    except BufferUnavailable as error:  # since a moment ago
                        problems.append(unusable(error))
                    problems += map(unusable_database, _unusable_databases(seen))
                    before = now, {one.label: one for one in seen.found}
                elif not options["watch"]:
                    raise CommandError("\n".join(problems))
                for line in problems:
                    self.stderr.write(line)
                if problems and not options["watch"]:
                    sys.exit(1)
                if not options["watch"] or stop.wait(options["interval"]):
                    break
                close_old_connections()

    def _json(self, seen: Look) -> None:
        names = ("label", "pending", "in_flight", "oldest_seconds", "dead_letters", "paused")
        buffers = [{name: getattr(one, name) for name in names} for one in seen.found]
        redis = status.of_redis(seen.answering or client().servers())
        if seen.away:
            redis["away"] = [
                {
                    "address": each.address,
                    "buffers": [buffer.label for buffer in each.buffers],
                    "problem": str(each.problem),
                }
                for each in seen.away
            ]
        self.stdout.write(json.dumps({"buffers": buffers, "redis": redis}))
        self.stdout.flush()

    def _table(
        self,
        found: Sequence[Status],
        before: tuple[float, Mapping[str, Status]] | None,
        now: float,
        *,
        clear: bool,
    ) -> None:
        rows: list[tuple[str, ...]] = [("", *_COLUMNS)]
        for one in found:
            rates = ["–", "–"]  # noqa: RUF001
            if before and one.label in before[1]:
                counters = before[1][one.label].counters
                rates = [
                    f"{(one.counters[name] - counters[name]) / (now - before[0]):,.0f}"
                    for name in ("accepted", "flushed")
                ]
            rows.append(
                (
                    one.label + (" (paused)" if one.paused else ""),
                    f"{one.pending:,}",
                    f"{one.in_flight:,}",
                    f"{one.oldest_seconds:,.1f} s" if one.oldest_seconds else "–",  # noqa: RUF001
                    *rates,
                    f"{one.seconds * 1000:,.0f} ms",
                    f"{one.counters['retries']:,}",
                    "?" if one.dead_letters is None else f"{one.dead_letters:,}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            label, *cells = (
                cell.rjust(w) if i else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join([label, *cells]).rstrip())
        head = _CLEAR if clear and self.stdout.isatty() else ""
        self.stdout.write(head + ("\n".join(lines) if found else NO_BUFFERS))
        self.stdout.flush()


def _unusable_databases(seen: Look) -> list[str]:
    buffers = registry.buffers()
    unknown = [buffers[one.label] for one in seen.found if one.dead_letters is None]
    return sorted({buffer.layout().using for buffer in unknown})
