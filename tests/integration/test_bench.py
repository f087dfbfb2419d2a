"""`manage.py writebehind_bench`: what it reports, and that it leaves nothing behind."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command, execute_from_command_line
from django.db import connections

from tests.backdoor.connection import ping
from tests.backdoor.keyspace import of_measurement, without_probe
from tests.backdoor.places import free
from tests.models import Item
from writebehind_app import registry, steps
from writebehind_app.bench import table
from writebehind_app.bench.measure import RATIOS, WAYS, Measured, Plan, Result, Spread
from writebehind_app.models import AppliedBatch

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
SMALL = ("--rows=4", "--writes=2", "--rounds=2")


def run(*args: str, ask: bool = False) -> str:
    out = io.StringIO()
    args = args if ask else ("--no-input", *args)
    call_command("writebehind_bench", *SMALL, *args, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def tables(alias: str = "default") -> list[str]:
    with connections[alias].cursor() as cursor:
        return connections[alias].introspection.table_names(cursor)


def keys(server: Any) -> set[bytes]:
    """What lasts, but for the mark by which a process finds a Redis that was away."""
    with server.client() as redis:
        return without_probe(redis)


@pytest.fixture
def page(tmp_path) -> Path:
    return tmp_path / "bench.html"


class TestReport:
    @on_valkey
    def test_of_each_database(self, database, redis_server, page):
        Item.buffered.set(number=1)
        before = keys(redis_server)
        found = json.loads(run("--json", f"--report={page}", f"--database={database}"))

        assert found.keys() == {"ratios", "ways", "rows", "writes", "rounds", "on"}
        ways = {way["name"]: way for way in found["ways"]}
        assert list(ways) == list(WAYS)
        sql = {name: way["statements"] for name, way in ways.items()}
        assert (sql["update_or_create"], sql["bulk_create"], sql["orm_get"]) == (2, 1 / 4, 1)
        assert (sql["set"], sql["set_many"], sql["hset"], sql["get_stored"]) == (0, 0, 0, 1)
        trips = {name: way["round_trips"] for name, way in ways.items()}
        assert (trips["set"], trips["set_many"], trips["hset"], trips["get_stored"]) == (
            1,
            0.25,
            1,
            1,
        )
        assert trips["update_or_create"] == trips["bulk_create"] == trips["orm_get"] == 0
        assert (ways["set"]["calls"], ways["set_many"]["calls"], ways["flush"]["calls"]) == (
            16,
            4,
            2,
        )
        for way in ways.values():
            assert 0 < way["us"]["least"] <= way["us"]["median"] <= way["us"]["greatest"]
            assert 0 < way["p50_us"] <= way["p99_us"]
        assert [(r["slow"], r["fast"]) for r in found["ratios"]] == [
            ([*one], [*other]) for one, other in RATIOS
        ]
        assert page.exists()

        assert table.TABLE not in tables(database)
        assert keys(redis_server) == before
        assert not AppliedBatch.objects.exists()
        assert Item.buffered.count_pending() == 1

    def test_for_people(self, plain):
        lines = run().splitlines()
        assert lines[0].startswith(
            "Writes:    2 to each of 4 rows that are there, in each way, in "
        )
        assert any(re.match(r"set\(\) +[\d.,]+ +[\d.,]+ – .* 1$", line) for line in lines)  # noqa: RUF001
        assert any(re.match(r"update_or_create\(\) +set\(\) and flush\(\) +\d", ln) for ln in lines)

    def test_the_page_needs_nothing_else_and_tells_no_address(self, plain, page):
        run(f"--report={page}")
        text = page.read_text()
        assert re.findall(r"""(?:src|href|url\()=?["']?([^"'> )]*)""", text) == ["data:,"]
        assert "<script" not in text
        assert text.count("<svg") == 12
        assert "prefers-color-scheme: dark" in text
        assert str(plain.port) not in text
        assert connections["default"].settings_dict["NAME"] not in text

    def test_ratios_are_of_the_same_round(self):
        ways = {name: Measured(rounds=[1.0, 1.0, 1.0]) for name in WAYS}
        ways["update_or_create"].rounds = [2.0, 40.0, 9.0]
        ways["set"].rounds = [0.5, 10.0, 3.0]
        ways["flush"].rounds = [0.5, 10.0, 0.0]
        result = Result(Plan(using="default", rows=1, writes=1, rounds=3), ways)
        assert result.ratio(["update_or_create"], ["set"]) == Spread(4.0, 3.0, 4.0)
        assert result.ratio(["update_or_create"], ["set", "flush"]) == Spread(2.0, 2.0, 3.0)
        assert result.seconds("set", "flush") == Spread(3.0, 1.0, 20.0)

    def test_percentiles(self):
        way = Measured(calls=[n / 100 for n in range(100, 0, -1)])
        assert (way.percentile(0.5), way.percentile(0.99)) == (0.5, 0.99)
        assert Measured(calls=[7.0]).percentile(0.99) == 7.0

    def test_django_keeps_no_statements_meanwhile(self, plain, settings, monkeypatch):
        settings.DEBUG = True
        seen = []
        monkeypatch.setattr(table.BUFFER, "flush", lambda: seen.append(django_settings.DEBUG))
        with pytest.raises(CommandError, match="differs from what was written"):
            run()
        assert seen == [False, False]
        assert django_settings.DEBUG


class TestLeavesNothing:
    @pytest.mark.process
    def test_where_it_is_ended_in_the_middle(self, plain, start_child):
        before = keys(plain)
        child = start_child(bench_without_end)
        assert child.stdout.readline() == "writing\n"
        assert table.TABLE in tables()
        assert keys(plain) > before
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 1
        assert "The table is dropped." in child.stdout.read()
        assert table.TABLE not in tables()
        assert keys(plain) == before

    @pytest.mark.process
    def test_and_finds_what_a_killed_one_left(self, plain, start_child):
        child = start_child(bench_without_end)
        assert child.stdout.readline() == "writing\n"
        with pytest.raises(CommandError, match="Another writebehind_bench is under way"):
            run()
        assert table.TABLE in tables()
        child.kill()
        child.wait(20)
        free("bench")  # instead of waiting until it expires
        run()
        assert table.TABLE not in tables()
        assert not AppliedBatch.objects.exists()
        with plain.client() as redis:
            assert not of_measurement(redis)

    def test_but_a_table_of_somebody_else(self, plain):
        with connections["default"].cursor() as cursor:
            cursor.execute(f"CREATE TABLE {table.TABLE} (id integer)")
        try:
            with pytest.raises(CommandError, match="none of a measurement: it is left as it is"):
                run()
            assert table.TABLE in tables()
        finally:
            with connections["default"].cursor() as cursor:
                cursor.execute(f"DROP TABLE {table.TABLE}")

    def test_and_is_no_buffer_of_the_project(self):
        assert table.BUFFER.label not in registry.buffers()
        assert table.BUFFER not in registry.declared()


def bench_without_end() -> None:
    """In a child; says when it has begun, and stands still for a moment with an entry pending."""

    def hook(step: str) -> None:
        if step == "write.accepted":
            steps.hook = None
            print("writing")
            time.sleep(2)

    steps.hook = hook
    sys.stderr = sys.stdout
    execute_from_command_line(
        ["manage.py", "writebehind_bench", "--no-input", "--rows=20", "--rounds=9999"]
    )


class TestRefuses:
    def test_to_begin_without_a_yes(self, plain, monkeypatch):
        monkeypatch.setattr("builtins.input", lambda: "no")
        with pytest.raises(CommandError, match=r"Nothing was done\."):
            run(ask=True)
        assert table.TABLE not in tables()

    def test_to_ask_nobody(self, plain, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO())
        with pytest.raises(CommandError, match="With --no-input nobody is asked"):
            run(ask=True)
        assert table.TABLE not in tables()

    def test_after_a_yes_it_begins(self, plain, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
        assert run(ask=True).startswith("Writes: ")

    def test_to_measure_what_goes_around_redis(self, plain, configure):
        configure(MODE="direct")
        with pytest.raises(CommandError, match="MODE is 'direct'"):
            run()
        configure(MODE="buffered", WHEN_DOWN="direct")
        plain.stop()
        with pytest.raises(CommandError, match="Redis cannot be used: "):
            run()
        assert table.TABLE not in tables()

    def test_too_much_and_nowhere(self, plain, tmp_path):
        with pytest.raises(CommandError, match="1,000,000 at most"):
            run("--rows=1000001")
        with pytest.raises(CommandError, match="There is no directory"):
            run(f"--report={tmp_path}/nowhere/bench.html")
        assert ping()
