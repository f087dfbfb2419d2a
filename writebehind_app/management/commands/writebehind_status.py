"""`manage.py writebehind_status`: how the buffers are doing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import close_old_connections

from writebehind_app import status
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.management.arguments import (
    NO_BUFFERS,
    buffers_of,
    positive,
    stop_on_signal,
    unusable,
)
from writebehind_app.status import Status
from writebehind_app.store.connection import client

_COLUMNS = ("pending", "in flight", "oldest", "in/s", "out/s", "batch", "retries", "dead letters")
_CLEAR = "\x1b[H\x1b[J"


class Command(BaseCommand):
    help = (
        "Says what waits in each buffer, how old it is, what is in flight, what was refused and "
        "what is paused."
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
                try:
                    found = status.read(client(), buffers)
                except BufferUnavailable as error:
                    if not options["watch"]:
                        raise CommandError(unusable(error)) from None
                    self.stderr.write(unusable(error))
                else:
                    now = time.monotonic()
                    if options["json"]:
                        self._json(found)
                    else:
                        self._table(found, before, now, clear=options["watch"])
                    for one in found:
                        if one.dead_letters is None:
                            self.stderr.write(status.no_database(one))
                    before = now, {one.label: one for one in found}
                if not options["watch"] or stop.wait(options["interval"]):
                    break
                close_old_connections()

    def _json(self, found: Sequence[Status]) -> None:
        names = ("label", "pending", "in_flight", "oldest_seconds", "dead_letters", "paused")
        buffers = [{name: getattr(one, name) for name in names} for one in found]
        self.stdout.write(json.dumps({"buffers": buffers, "redis": status.of_redis(client())}))
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
