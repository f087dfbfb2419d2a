"""`manage.py writebehind_bench`: measure what buffers cost and save on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, Error, connections

from writebehind_app.bench import calls, page, report, surroundings, tables, trials
from writebehind_app.bench.rounds import Stopped
from writebehind_app.bench.workloads import WORKLOADS
from writebehind_app.conf import is_direct
from writebehind_app.exceptions import BufferUnavailable, WritebehindError
from writebehind_app.management.arguments import positive, stop_on_signal, unusable
from writebehind_app.store import server
from writebehind_app.store.connection import client

CALLS = "calls"
_MOST = 1_000_000  # writes of a round
_LONGEST = 300  # seconds of a trial


class Command(BaseCommand):
    help = (
        "Measures the ORM against a buffer, in the database and the Redis of this project: YCSB A, "
        "B, C and F and a TPC-B by several clients at a time, and single calls; as ratios, in "
        "rounds of one run. It makes tables for that, whose names begin with writebehind_bench, "
        "and drops them at the end, also after Ctrl-C; no other row, and no other key in Redis, is "
        "touched."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        def number(name: str, kind: type, default: float, text: str) -> None:
            shown = f"{text} [{default}]"
            add(name, type=positive(kind), metavar="N", default=default, help=shown)

        add = parser.add_argument
        add(
            "--workload",
            action="append",
            choices=(*WORKLOADS, CALLS),
            help="one of YCSB, tpcb, or single calls; can be repeated [all]",
        )
        number("--seconds", float, 0.5, "of a workload, in each way, in each round")
        number("--clients", int, 4, "processes at a time, in a workload")
        number("--records", int, 1000, "of YCSB, and accounts of each branch")
        number("--rows", int, 100, "for single calls")
        number("--writes", int, 3, "to each of these rows in a round")
        number("--rounds", int, 5, "of which the medians are taken")
        add(
            "--database",
            choices=tuple(connections),
            default=DEFAULT_DB_ALIAS,
            help="in which the tables are made [default]",
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
        names = options["workload"] or [*WORKLOADS, CALLS]
        using, rounds = options["database"], options["rounds"]
        for_calls = calls.Plan(
            using=using, rows=options["rows"], writes=options["writes"], rounds=rounds
        )
        for_trials = trials.TrialPlan(
            using=using,
            workloads=tuple(name for name in WORKLOADS if name in names),
            clients=options["clients"],
            records=options["records"],
            seconds=options["seconds"],
            rounds=rounds,
        )
        self._check(for_calls, for_trials, options["report"])
        if options["interactive"]:
            self._ask(for_trials, with_calls=CALLS in names)
        with _without_debug():
            found = self._measure(for_trials, for_calls if CALLS in names else None)
        if options["json"]:
            self.stdout.write(json.dumps(report.as_json(found)))
        else:
            self.stdout.write(report.as_text(found))
        if options["report"]:
            options["report"].write_text(page.as_page(found), encoding="utf-8")
            self._say(f"The page is {options['report']}.")

    def _check(self, plan: calls.Plan, with_clients: trials.TrialPlan, page: Path | None) -> None:
        if plan.count > _MOST or with_clients.records > _MOST:
            raise CommandError(
                f"--rows times --writes, and --records, are {_MOST:,} at most.", returncode=2
            )
        if with_clients.seconds > _LONGEST:
            raise CommandError(f"--seconds is {_LONGEST} at most.", returncode=2)
        if page and not page.parent.is_dir():
            raise CommandError(f"There is no directory {page.parent}.", returncode=2)
        if is_direct():
            raise CommandError("MODE is 'direct': there is nothing to compare the ORM with.")

    def _ask(self, plan: trials.TrialPlan, *, with_calls: bool) -> None:
        connection = connections[plan.using]
        where = f"{plan.using!r} ({connection.display_name}, {connection.settings_dict['NAME']})"
        each = len(plan.workloads) * len(trials.ways()) * (plan.rounds + 1)
        load = []
        if plan.workloads:
            who = "1 client writes and reads"
            if plan.clients > 1:
                who = f"{plan.clients} clients write and read"
            load.append(f"{who} for {each * plan.seconds:.0f} s")
        if with_calls:
            load.append("a few seconds of single calls follow")
        self._say(
            f"This makes the tables {', '.join(tables.TABLES)} in the database {where}, and drops "
            f"them at the end. Meanwhile {', and '.join(load)}. Redis at "
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
        """Write progress to stderr, but not in the colour of an error."""
        self.stderr.write(text, style_func=str, ending=ending)
        self.stderr.flush()

    def _progress(self, text: str) -> None:
        if self.stderr.isatty():
            self._say(f"\r{text:50}", ending="")

    def _measure(self, plan: trials.TrialPlan, for_calls: calls.Plan | None) -> report.Found:
        rows = for_calls.rows if for_calls else 0
        try:
            with stop_on_signal() as stop, tables.made(plan.using, rows, plan.records) as hold:
                on = surroundings.of(plan.using)
                by_calls = by_trials = None
                if plan.workloads:
                    by_trials = trials.measure(
                        plan, hold, is_over=stop.is_set, progress=self._progress
                    )
                if for_calls:
                    by_calls = calls.measure(
                        for_calls, hold, is_over=stop.is_set, progress=self._progress
                    )
                self._progress("")
                return report.Found(on, by_trials, by_calls)
        except Stopped:
            raise CommandError("Ended before there was a result. The tables are dropped.") from None
        except BufferUnavailable as error:
            raise CommandError(unusable(error)) from None
        except (WritebehindError, Error) as error:  # as without the right to make a table
            raise CommandError(f"Nothing was measured: {error}") from error


@contextmanager
def _without_debug() -> Iterator[None]:
    """Without DEBUG: with it, Django keeps each statement, which makes the ORM slower."""
    debug = settings.DEBUG
    settings.DEBUG = False
    try:
        yield
    finally:
        settings.DEBUG = debug
