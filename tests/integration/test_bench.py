"""`manage.py writebehind_bench`: what it reports, and that it leaves nothing behind."""

from __future__ import annotations

import io
import json
import operator
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

from tests.backdoor.bench import counting
from tests.backdoor.connection import ping
from tests.backdoor.keyspace import of_measurement, without_probe
from tests.backdoor.locks import free
from tests.models import Item
from tests.outages import wait_for
from writebehind_app import checkpoints, registry
from writebehind_app.bench import report, tables, trials, usage
from writebehind_app.bench.calls import RATIOS, WAYS, Measured, Plan, Result
from writebehind_app.bench.rounds import Spread
from writebehind_app.bench.tables import BUFFER, BUFFERS, TABLES, Account, Row, User
from writebehind_app.bench.trials import TrialPlan, TrialResult, Trials
from writebehind_app.bench.workloads import WORKLOADS, Order, fill
from writebehind_app.models import AppliedBatch

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
CALLS = ("--workload=calls", "--rows=4", "--writes=2", "--rounds=2")
CLIENTS = ("--clients=2", "--records=20", "--seconds=0.3", "--rounds=1")


def run(*args: str, ask: bool = False, small: tuple[str, ...] = CALLS) -> str:
    out = io.StringIO()
    args = args if ask else ("--no-input", *args)
    call_command("writebehind_bench", *small, *args, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def made(alias: str = "default") -> set[str]:
    """The tables of a measurement that are there."""
    with connections[alias].cursor() as cursor:
        return {*TABLES} & {*connections[alias].introspection.table_names(cursor)}


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

        assert found.keys() == {"workloads", "calls", "on"}
        assert found["workloads"] is None
        found = found["calls"]
        assert found.keys() == {"ratios", "ways", "rows", "writes", "rounds"}
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

        assert not made(database)
        assert keys(redis_server) == before
        assert not AppliedBatch.objects.exists()
        assert Item.buffered.count_pending() == 1

    def test_for_people(self, plain):
        lines = run().splitlines()
        assert lines[0].startswith(
            "Calls:     rows that are there: 4, writes to each in each way: 2"
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
        monkeypatch.setattr(BUFFER, "flush", lambda: seen.append(django_settings.DEBUG))
        with pytest.raises(CommandError, match="differs from what was written"):
            run()
        assert seen == [False, False]
        assert django_settings.DEBUG


@pytest.mark.process
class TestWorkloads:
    @on_valkey
    def test_of_each_database(self, database, redis_server, page):
        Item.buffered.set(number=1)
        before = keys(redis_server)
        names = ("--workload=F", "--workload=tpcb", "--workload=C")
        args = (*names, "--json", f"--report={page}", f"--database={database}")
        found = json.loads(run(*args, small=CLIENTS))

        assert found["calls"] is None
        found = found["workloads"]
        ways = trials.ways()
        assert [(t["workload"], t["way"]) for t in found["trials"]] == [
            (workload, way) for workload in ("C", "F", "tpcb") for way in ways
        ]
        by_place = {(t["workload"], t["way"]): t for t in found["trials"]}
        assert by_place["C", "orm"]["statements"] == 1
        assert by_place["tpcb", "orm"]["statements"] == 5
        assert 1.3 < by_place["F", "orm"]["statements"] < 1.7
        assert by_place["C", "orm"]["round_trips"] == 0 < by_place["C", "buffer"]["round_trips"]
        for (workload, way), trial in by_place.items():
            assert trial["operations"] > 0
            assert trial["operations_per_second"]["median"] > 0
            us = trial["us"]
            for kind in {"C": ["read"], "F": ["read", "write"], "tpcb": ["write"]}[workload]:
                assert 0 < us[f"{kind}_p50"]["median"] <= us[f"{kind}_p99"]["median"]
            assert us["cpu_clients"]["median"] > 0
            assert (us["cpu_flusher"]["median"] > 0) == (way != "orm")
            assert us["cpu_redis"]["median"] >= 0
            assert ("cpu_database" in us) == (usage.of_database(database) is not None)
        assert {(r["workload"], r["way"]) for r in found["ratios"]} == {
            place for place in by_place if place[1] != "orm"
        }
        text = page.read_text()
        assert "YCSB F" in text
        assert "<script" not in text
        assert re.findall(r"""(?:src|href|url\()=?["']?([^"'> )]*)""", text) == ["data:,"]

        assert not made(database)
        assert keys(redis_server) == before
        assert not AppliedBatch.objects.exists()
        assert Item.buffered.count_pending() == 1

    def test_for_people(self, plain):
        text = run("--workload=B", small=CLIENTS)
        assert "clients: 2, records: 20, rounds: 1, each of 0.3 s and the drain" in text
        assert re.search(r"YCSB B, cache_seconds=0 +[\d.]+", text)
        assert "YCSB B: 95% reads, 5% updates" in text

    def test_a_process_that_fails(self, plain, monkeypatch):
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "nowhere.at_all")
        with pytest.raises(CommandError, match=r"(?s)process .* failed.*No module named 'nowhere'"):
            run("--workload=C", small=CLIENTS)
        assert not made()

    def test_a_process_that_ends(self, plain, monkeypatch):
        monkeypatch.setattr(trials, "begin", operator.ne)
        with pytest.raises(CommandError, match="A process of the measurement has ended"):
            run("--workload=C", small=CLIENTS)
        assert not made()


class TestChecks:
    """What is not stored was not measured."""

    @pytest.fixture
    def table(self, plain):
        with tables.made("default", 0, 10):
            fill("default", 10)
            yield

    @pytest.mark.parametrize("cache_seconds", [None, 0])
    @pytest.mark.parametrize("name", ["A", "F", "tpcb"])
    def test_what_two_clients_did(self, table, name, cache_seconds):
        workload = WORKLOADS[name]
        before = workload.prepare("default")
        done = []
        for client in (1, 2):
            order = Order(name, cache_seconds, 1, client, "default", 10, 1.0, is_counted=False)
            acts = workload.acts(order)
            for _ in range(30):
                acts.write()
            done.append(acts.done)
        if cache_seconds is not None:
            with pytest.raises(CommandError, match="differs from what was written"):
                workload.check("default", before, done)
            for buffer in workload.buffers():
                buffer.flush()
        workload.check("default", before, done)
        with pytest.raises(CommandError, match="differs from what was written"):
            workload.check("default", before, done[:1])

    def test_one_text_that_is_not_stored(self, table):
        workload = WORKLOADS["A"]
        acts = workload.acts(Order("A", None, 1, 1, "default", 10, 1.0, is_counted=False))
        acts.write()
        workload.check("default", 0, [acts.done])
        [(key, name)] = acts.done
        User.objects.using("default").filter(ycsb_key=key).update(**{name: "other"})
        with pytest.raises(CommandError, match="differs from what was written"):
            workload.check("default", 0, [acts.done])

    @pytest.mark.parametrize("name", ["A", "tpcb"])
    def test_rows_that_are_read_once_before(self, table, name):
        with counting("default") as counts:
            tables.fill_bases(WORKLOADS[name].models, 10, 60)
        assert counts.statements == {"A": 1, "tpcb": 3}[name]
        tables.remove_bases(10)

    def test_a_sum(self, table):
        workload = WORKLOADS["tpcb"]
        before = workload.prepare("default")
        acts = workload.acts(Order("tpcb", None, 1, 1, "default", 10, 1.0, is_counted=False))
        acts.write()
        Account.objects.using("default").filter(number=3).update(balance=10**6)
        with pytest.raises(CommandError, match="differs from what was written"):
            workload.check("default", before, [acts.done])


class TestCompared:
    PLAN = TrialPlan(using="default", workloads=("A",), clients=1, records=1, seconds=1, rounds=3)

    def result(self, **figures: list[float]) -> TrialResult:
        orm = Trials(figures={"operations": [10.0, 20.0, 40.0], "write_p99": [1.0, 1.0, 1.0]})
        return TrialResult(self.PLAN, {"A": {"orm": orm, "buffer": Trials(figures=figures)}})

    def test_with_the_same_round(self):
        result = self.result(operations=[20.0, 20.0, 20.0])
        assert result.ratio("A", "buffer", "operations") == Spread(1.0, 0.5, 2.0)
        assert result.ratio("A", "buffer", "write_p99") is None

    def test_more_operations_and_less_time_are_better(self):
        found = report.Found({}, self.result(operations=[9.0] * 3, write_p99=[0.5] * 3), None)
        assert report.worse(found) == [
            "YCSB A, cache_seconds=0: operations/s × 0.45"  # noqa: RUF001
        ]
        found = report.Found({}, self.result(operations=[90.0] * 3, write_p99=[2.0] * 3), None)
        assert report.worse(found) == ["YCSB A, cache_seconds=0: write p99 × 2.00"]  # noqa: RUF001


class TestLeavesNothing:
    @pytest.mark.process
    def test_where_it_is_ended_in_the_middle(self, plain, start_child):
        before = keys(plain)
        child = start_child(bench_without_end)
        assert child.stdout.readline() == "writing\n"
        assert made()
        assert keys(plain) > before
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 1
        assert "The tables are dropped." in child.stdout.read()
        assert not made()
        assert keys(plain) == before

    @pytest.mark.process
    def test_nor_where_clients_are_at_work(self, plain, start_child):
        before = keys(plain)
        child = start_child(workload_without_end)
        with plain.client() as redis:
            wait_for(lambda: of_measurement(redis), 60)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 1
        assert "The tables are dropped." in child.stdout.read()
        assert not made()
        assert keys(plain) == before
        assert not AppliedBatch.objects.exists()

    @pytest.mark.process
    def test_and_finds_what_a_killed_one_left(self, plain, start_child):
        child = start_child(bench_without_end)
        assert child.stdout.readline() == "writing\n"
        with pytest.raises(CommandError, match="Another writebehind_bench is under way"):
            run()
        assert made()
        child.kill()
        child.wait(20)
        free("bench")  # instead of waiting until it expires
        run()
        assert not made()
        assert not AppliedBatch.objects.exists()
        with plain.client() as redis:
            assert not of_measurement(redis)

    def test_but_a_table_of_somebody_else(self, plain):
        with connections["default"].cursor() as cursor:
            cursor.execute(f"CREATE TABLE {Row._meta.db_table} (id integer)")
        try:
            with pytest.raises(CommandError, match="none of a measurement: it is left as it is"):
                run()
            assert made()
        finally:
            with connections["default"].cursor() as cursor:
                cursor.execute(f"DROP TABLE {Row._meta.db_table}")

    def test_and_is_no_buffer_of_the_project(self):
        assert not {buffer.label for buffer in BUFFERS} & registry.buffers().keys()
        assert not {*BUFFERS} & {*registry.declared()}


def bench_without_end() -> None:
    """In a child; says when it has begun, and stands still for a moment with an entry pending."""

    def hook(step: str) -> None:
        if step == "write.accepted":
            checkpoints.hook = None
            print("writing")
            time.sleep(2)

    checkpoints.hook = hook
    sys.stderr = sys.stdout
    execute_from_command_line(
        ["manage.py", "writebehind_bench", "--no-input", *CALLS, "--rows=20", "--rounds=9999"]
    )


def workload_without_end() -> None:
    """In a child."""
    sys.stderr = sys.stdout
    execute_from_command_line(
        ["manage.py", "writebehind_bench", "--no-input", *CLIENTS, "--workload=tpcb", "--rounds=99"]
    )


class TestRefuses:
    def test_to_begin_without_a_yes(self, plain, monkeypatch):
        monkeypatch.setattr("builtins.input", lambda: "no")
        with pytest.raises(CommandError, match=r"Nothing was done\."):
            run(ask=True)
        assert not made()

    def test_to_ask_nobody(self, plain, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO())
        with pytest.raises(CommandError, match="With --no-input nobody is asked"):
            run(ask=True)
        assert not made()

    def test_after_a_yes_it_begins(self, plain, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
        assert run(ask=True).startswith("Calls: ")

    def test_to_measure_what_goes_around_redis(self, plain, configure):
        configure(MODE="direct")
        with pytest.raises(CommandError, match="MODE is 'direct'"):
            run()
        configure(MODE="buffered", WHEN_DOWN="direct")
        plain.stop()
        with pytest.raises(CommandError, match="Redis cannot be used: "):
            run()
        assert not made()

    def test_what_other_processes_cannot_see(self, plain, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(connections["default"], "is_in_memory_db", lambda: True)
            with pytest.raises(CommandError, match="in memory is there for no other process"):
                run("--workload=C", small=CLIENTS)
        monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
        with pytest.raises(CommandError, match="DJANGO_SETTINGS_MODULE does not say which"):
            run("--workload=C", small=CLIENTS)
        assert not made()

    def test_too_much_and_nowhere(self, plain, tmp_path):
        with pytest.raises(CommandError, match="--seconds is 300 at most"):
            run("--seconds=301")
        with pytest.raises(CommandError, match="1,000,000 at most"):
            run("--rows=1000001")
        with pytest.raises(CommandError, match="There is no directory"):
            run(f"--report={tmp_path}/nowhere/bench.html")
        assert ping()
