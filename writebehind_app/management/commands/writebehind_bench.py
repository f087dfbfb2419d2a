"""`manage.py writebehind_bench`: what the buffers cost and save, where this project runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, Error, connections

from writebehind_app.bench import report, table
from writebehind_app.bench.measure import Plan, Result, Stopped, measure
from writebehind_app.conf import is_direct
from writebehind_app.exceptions import BufferUnavailable, WritebehindError
from writebehind_app.management.arguments import positive, stop_on_signal, unusable
from writebehind_app.store import server
from writebehind_app.store.connection import client

_MOST = 1_000_000  # writes of a round


class Command(BaseCommand):
    help = (
        "Measures the same writes and reads through the ORM and through a buffer, in the database "
        "and the Redis of this project: as ratios, in rounds of one run. It makes the table "
        f"{table.TABLE} for that and drops it at the end, also after Ctrl-C; no other row, and no "
        "other key in Redis, is touched."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--rows", type=positive(int), metavar="N", default=100, help="rows [100]")
        add(
            "--writes",
            type=positive(int),
            metavar="N",
            default=3,
            help="writes to each of them in a round [3]",
        )
        add("--rounds", type=positive(int), metavar="N", default=7, help="rounds [7]")
        add(
            "--database",
            choices=tuple(connections),
            default=DEFAULT_DB_ALIAS,
            help="in which the table is made [default]",
        )
        add("--json", action="store_true", help="report as one JSON object")
        add("--report", type=Path, metavar="FILE.html", help="write a page with charts, too")
        add(
            "--no-input",
            "--noinput",
            action="store_false",
            dest="interactive",
            help="do not ask before",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        plan = Plan(
            using=options["database"],
            rows=options["rows"],
            writes=options["writes"],
            rounds=options["rounds"],
        )
        self._check(plan, options["report"])
        if options["interactive"]:
            self._ask(plan)
        debug = settings.DEBUG
        settings.DEBUG = False  # with it Django keeps each statement, which would not be our merit
        try:
            result, on = self._measure(plan)
        finally:
            settings.DEBUG = debug
        if options["json"]:
            self.stdout.write(json.dumps(report.as_json(result, on)))
        else:
            self.stdout.write(report.as_text(result, on))
        if options["report"]:
            options["report"].write_text(report.as_page(result, on), encoding="utf-8")
            self._say(f"The page is {options['report']}.")

    def _check(self, plan: Plan, page: Path | None) -> None:
        if plan.count > _MOST:
            raise CommandError(f"--rows times --writes is {_MOST:,} at most.", returncode=2)
        if page and not page.parent.is_dir():
            raise CommandError(f"There is no directory {page.parent}.", returncode=2)
        if is_direct():
            raise CommandError("MODE is 'direct': there is nothing to compare the ORM with.")

    def _ask(self, plan: Plan) -> None:
        connection = connections[plan.using]
        where = f"{plan.using!r} ({connection.display_name}, {connection.settings_dict['NAME']})"
        self._say(
            f"This makes a table {table.TABLE} in the database {where}, writes {plan.rows:,} rows "
            f"to it, each {4 * plan.writes * (plan.rounds + 1):,} times, and drops it. Redis at "
            f"{server.address(client())} gets as many writes. What else runs there has to share "
            "with it for so long."
        )
        try:
            self._say("Go on? [y/N] ", ending="")  # input() would write it into the JSON
            answer = input()
        except EOFError:
            raise CommandError("Nobody answered. With --no-input nobody is asked.") from None
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was done.")

    def _say(self, text: str, ending: str = "\n") -> None:
        """Beside the report, and not in the colour of an error."""
        self.stderr.write(text, style_func=str, ending=ending)
        self.stderr.flush()

    def _measure(self, plan: Plan) -> tuple[Result, dict[str, Any]]:
        try:
            with stop_on_signal() as stop, table.made(plan.using, plan.rows) as hold:
                on = report.surroundings(plan.using)

                def progress(number: int) -> None:
                    name = f"round {number} of {plan.rounds}" if number else "warming up"
                    if self.stderr.isatty():
                        self._say(f"\r{name:20}", ending="")

                result = measure(plan, hold, is_over=stop.is_set, progress=progress)
                if self.stderr.isatty():
                    self._say("\r" + " " * 20 + "\r", ending="")
                return result, on
        except Stopped:
            raise CommandError("Ended before there was a result. The table is dropped.") from None
        except BufferUnavailable as error:
            raise CommandError(unusable(error)) from None
        except (WritebehindError, Error) as error:  # as without the right to make a table
            raise CommandError(f"Nothing was measured: {error}") from error
