"""How the buffers are doing, for people, for monitors and for load balancers; and their pauses."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.core.management import CommandError, call_command, execute_from_command_line
from django.db import DatabaseError, connections
from django.test import Client

from tests.backdoor.batches import claim
from tests.backdoor.breaker import forget_calls_past_redis
from tests.backdoor.entries import make_older, put_text
from tests.backdoor.shards import counters_of, spoil_counter
from tests.child import process
from tests.cluster import cluster_that_runs
from tests.integration.test_doctor import without_table
from tests.keeper import keeper
from tests.models import Item, Visit
from writebehind_app import Add, schedules, tasks
from writebehind_app.exceptions import BufferPaused
from writebehind_app.meta.models import TicketMeta
from writebehind_app.meta.services import open_ticket
from writebehind_app.models import AppliedBatch, DeadLetter

LABELS = ["tests.Item", "tests.Visit"]


def run(command: str, *args: str) -> str:
    out = io.StringIO()
    call_command(command, *args, stdout=out, no_color=True)
    return out.getvalue()


def report(*labels: str) -> dict[str, Any]:
    return json.loads(run("writebehind_status", "--json", *labels))


def of_item() -> dict[str, Any]:
    (found,) = report("tests.Item")["buffers"]
    return found


class TestStatus:
    def test_has_the_keys_that_monitors_read(self, database, redis_server):
        found = report()
        assert found.keys() == {"buffers", "redis"}
        assert {tuple(one) for one in found["buffers"]} == {
            ("label", "pending", "in_flight", "oldest_seconds", "dead_letters", "paused")
        }
        assert [one["label"] for one in found["buffers"] if one["label"] in LABELS] == LABELS
        assert found["redis"]["used_memory"] > 0

    def test_says_what_waits(self, database, redis_server, configure):
        configure(SHARDS=2)
        assert of_item() == {
            "label": "tests.Item",
            "pending": 0,
            "in_flight": 0,
            "oldest_seconds": 0,
            "dead_letters": 0,
            "paused": False,
        }
        Item.buffered.set_many({"number": n} for n in range(5))
        make_older(Item.buffered, 100)
        claim(Item.buffered, size=1, batches=1)
        found = of_item()
        assert (found["pending"], found["in_flight"]) == (4, 1)
        assert 100 <= found["oldest_seconds"] < 110

    def test_of_a_log(self, plain):
        Visit.buffered.append(event=1, email="a")
        time.sleep(0.01)
        (found,) = report("tests.visit")["buffers"]
        assert found["pending"] == 1
        assert 0 < found["oldest_seconds"] < 10

    def test_says_what_was_refused(self, database, redis_server):
        Visit.buffered.append(event=1, email="a", owner=404404)
        Visit.buffered.flush()
        (found,) = report("tests.Visit")["buffers"]
        assert found["dead_letters"] == 1

    def test_without_its_tables(self, plain):
        with without_table("default", DeadLetter):
            out, err = io.StringIO(), io.StringIO()
            with pytest.raises(SystemExit, match="1"):
                call_command("writebehind_status", "tests.Item", "--json", stdout=out, stderr=err)
            assert err.getvalue() == (
                "The database 'default' has no writebehind_deadletter: run manage.py migrate.\n"
            )
            (found,) = json.loads(out.getvalue())["buffers"]
            assert found["dead_letters"] is None

    def test_redis_is_away(self, plain):
        plain.stop()
        with pytest.raises(CommandError, match="Redis cannot be used: "):
            report()

    def test_tells_no_password(self, plain, configure):
        with plain.client() as redis:
            redis.config_set("requirepass", "secret-one")
        try:
            configure(REDIS=plain.url.replace("//", "//:secret-one@"))
            assert "secret-one" not in run("writebehind_status", "--json")
        finally:
            with plain.client(password="secret-one") as redis:
                redis.config_set("requirepass", "")

    def test_a_refused_password(self, plain, configure):
        configure(REDIS=plain.url.replace("//", "//nobody:wrong@"))
        for command in ("writebehind_status", "writebehind_pause"):
            with pytest.raises(CommandError) as refused:
                run(command)
            assert str(refused.value).startswith("Redis cannot be used: ")
            assert "Redis: " not in str(refused.value)
            assert "wrong@" not in str(refused.value)

    def test_for_people(self, plain):
        Item.buffered.set_many({"number": n} for n in range(1500))
        head, line = run("writebehind_status", "tests.Item").splitlines()
        assert head.split("  ")[-1].strip() == "dead letters"
        assert line.split()[:3] == ["tests.Item", "1,500", "0"]

    def test_what_somebody_else_wrote_does_no_harm(self, plain, configure):
        configure(SHARDS=1)
        Item.buffered.set(number=1)
        spoil_counter(Item.buffered, "flushed", "many")
        assert of_item()["pending"] == 1


def watch(*args: str) -> None:
    """In a child."""
    execute_from_command_line(["manage.py", "writebehind_status", "--watch", *args])


class TestWatch:
    def test_is_drawn_anew_until_a_signal(self, plain):
        ours, theirs = pty.openpty()
        child = process(watch, ["tests.Item", "--interval", "0.2"], stdout=theirs, stderr=theirs)
        os.close(theirs)
        drawn = b""
        while drawn.count(b"\x1b[H\x1b[J") < 2:
            drawn += os.read(ours, 10_000)
        Item.buffered.set(number=1)
        while b"  1 " not in drawn:
            drawn += os.read(ours, 10_000)
        child.send_signal(signal.SIGINT)
        with suppress(OSError):
            while os.read(ours, 10_000):
                pass
        os.close(ours)
        assert child.wait(10) == 0
        keeper().end(child)

    @pytest.mark.process
    def test_is_a_line_of_json_each_time_elsewhere(self, plain, start_child):
        child = start_child(watch, "--json", "--interval", "0.1", "tests.Item")
        lines = [json.loads(child.stdout.readline()) for _ in range(3)]
        assert {line["buffers"][0]["label"] for line in lines} == {"tests.Item"}
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0


class TestCounters:
    def test_of_what_was_done(self, database, redis_server, configure):
        configure(SHARDS=1)
        for n in range(4):
            Item.buffered.set(number=1, a=Add(n))
        Item.buffered.set(number=2)
        Item.buffered.flush()
        with without_table(database, AppliedBatch):
            Item.buffered.set(number=3)
            with pytest.raises(DatabaseError):
                Item.buffered.flush()
        connections[database].close_if_unusable_or_obsolete()
        Item.buffered.flush()
        Item.buffered.set(number=4)
        put_text(Item.buffered, "4", "a", "[]")
        Item.buffered.flush()
        counters, seconds = counters_of(Item.buffered)
        assert counters == {
            "accepted": 7,
            "flushed": 4,
            "rows": 3,
            "batches": 3,
            "retries": 1,
            "buried": 1,
            "fallbacks": 0,
        }
        assert seconds > 0

    def test_of_what_went_around_redis(self, plain, configure):
        configure(WHEN_DOWN="direct", SHARDS=1)
        forget_calls_past_redis()
        plain.stop()
        for n in range(3):
            Item.buffered.set(number=n)
        plain.start()

        def is_buffered() -> bool:
            return not Item.buffered.set(number=9).direct

        deadline = time.monotonic() + 20
        while not is_buffered():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        counters, _ = counters_of(Item.buffered)
        assert counters["fallbacks"] >= 3

    def test_cost_no_round_trip(self, plain, configure, trips):
        configure(SHARDS=1)
        Item.buffered.set(number=1)
        trips.clear()
        Item.buffered.set(number=1)
        assert trips == [1]


class TestPause:
    def test_writes_go_on_and_nothing_is_flushed(self, database, redis_server, configure):
        configure(MAX_AGE=0)
        Item.buffered.set(number=1)
        for outcome in ("is paused", "was paused already"):
            assert run("writebehind_pause", "tests.item") == (
                f"tests.Item {outcome}; 1 entry is pending, 0 in flight\n"
            )
        Item.buffered.set(number=2)
        Visit.buffered.append(event=1, email="a")
        assert tasks.flush_due()["rows"] == 1  # of the other buffer
        with pytest.raises(SystemExit) as exit:
            call_command("flush_writebehind", "--all", verbosity=0)
        assert exit.value.code == 1
        assert [of_item()["paused"], of_item()["pending"]] == [True, 2]
        assert Item.buffered.get(number=2).number == 2
        assert not Item.objects.exists()

        for outcome in ("is no longer paused", "was not paused"):
            assert run("writebehind_resume", "tests.Item") == (
                f"tests.Item {outcome}; 2 entries are pending, 0 in flight\n"
            )
        assert tasks.flush_due()["rows"] == 2
        assert not of_item()["paused"]

    def test_of_all(self, plain):
        run("writebehind_pause")
        assert {one["paused"] for one in report()["buffers"]} == {True}
        run("writebehind_resume")
        assert {one["paused"] for one in report()["buffers"]} == {False}

    def test_a_flush_on_demand_says_that_it_cannot_be(self, database, redis_server):
        Item.buffered.set(number=1)
        run("writebehind_pause", "tests.Item")
        for key in ({}, {"number": 1}):
            with pytest.raises(BufferPaused, match=r"tests\.Item\.buffered is paused"):
                Item.buffered.flush(**key)
        assert Item.buffered.count_pending() == 1
        run("writebehind_resume", "tests.Item")
        assert Item.buffered.flush().rows == 1

    def test_a_flush_on_demand_of_what_is_not_pending_has_nothing_to_say(self, plain, configure):
        configure(SHARDS=1)
        Item.buffered.set(number=1)
        run("writebehind_pause", "tests.Item")
        found = Item.buffered.flush(number=2)
        assert (found.batches, found.remaining) == (0, 0)
        run("writebehind_resume", "tests.Item")
        claim(Item.buffered)
        run("writebehind_pause", "tests.Item")
        with pytest.raises(BufferPaused):  # it is in flight, and stays there
            Item.buffered.flush(number=1)

    def test_a_batch_in_flight_comes_to_its_end(self, plain, configure):
        configure(SHARDS=1)
        Item.buffered.set(number=1)
        (batch,) = claim(Item.buffered)
        run("writebehind_pause", "tests.Item")
        assert batch.acknowledge()
        assert Item.buffered.count_pending() == 0

    def test_one_that_a_dead_flusher_left_waits(self, plain, configure):
        configure(SHARDS=1, LEASE=0.05)
        Item.buffered.set(number=1)
        claim(Item.buffered, lease=0.05)
        run("writebehind_pause", "tests.Item")
        time.sleep(0.1)
        assert tasks.flush_due()["batches"] == 0
        run("writebehind_resume", "tests.Item")
        assert tasks.flush_due()["rows"] == 1

    def test_an_endpoint_that_has_to_flush_comes_later(self, plain, admin_client_of_all):
        open_ticket(5)
        run("writebehind_pause")
        response = admin_client_of_all.patch(
            "/meta/tickets/5/", {"status": "resolved"}, "application/json"
        )
        assert response.status_code == 503
        run("writebehind_resume")
        TicketMeta.buffered.flush()
        assert TicketMeta.objects.get().status == "resolved"

    def test_redis_is_away(self, plain):
        plain.stop()
        for command in ("writebehind_pause", "writebehind_resume"):
            with pytest.raises(CommandError, match="Redis cannot be used: "):
                run(command)

    def test_an_unknown_buffer(self, plain):
        with pytest.raises(CommandError, match=r"Did you mean tests\.Item"):
            run("writebehind_pause", "tests.Itme")


@pytest.fixture
def admin_client_of_all(plain: Any) -> Client:
    from django.contrib.auth.models import User

    browser = Client()
    browser.force_login(User.objects.create_superuser("root"))
    return browser


class TestHealth:
    @pytest.fixture
    def get(self) -> Callable[[], tuple[int, dict[str, Any]]]:
        def get() -> tuple[int, dict[str, Any]]:
            response = Client().get("/health/")
            assert "no-store" in response["Cache-Control"]
            return response.status_code, response.json()

        return get

    def test_all_is_well(self, database, redis_server, get):
        Item.buffered.set(number=1)
        code, found = get()
        assert (code, found["status"], found["problems"]) == (200, "ok", [])
        (item,) = [one for one in found["buffers"] if one["label"] == "tests.Item"]
        assert (item["pending"], item["counters"]["accepted"]) == (1, 1)

    def test_an_old_entry(self, plain, configure, get):
        Item.buffered.set(number=1)
        make_older(Item.buffered, 64)
        assert get()[0] == 200
        make_older(Item.buffered, 2)
        code, found = get()
        assert (code, found["status"]) == (503, "failing")
        assert found["problems"] == ["tests.Item: the oldest entry has waited for 66 s."]
        configure(MAX_AGE=10)
        assert get()[0] == 200
        configure(MAX_AGE=5)
        run("writebehind_pause", "tests.Item")  # somebody wants it so
        assert get()[0] == 200

    def test_a_cluster_that_flushes_nothing(self, plain, settings, get):
        schedules.make()
        Item.buffered.set(number=1)
        make_older(Item.buffered, 26)
        assert get()[0] == 200
        with cluster_that_runs(plain, settings):
            assert get()[1]["problems"] == [
                "A cluster of Django-Q2 runs, and has flushed nothing for longer than two ticks."
            ]
            run("writebehind_pause", "tests.Item")
            assert get()[0] == 200
            run("writebehind_resume", "tests.Item")
            schedules.remove()  # somebody else flushes
            assert get()[0] == 200

    def test_many_entries(self, plain, configure, get):
        Item.buffered.set_many({"number": n} for n in range(3))
        configure(HEALTH_PENDING=3)
        assert get()[0] == 200
        configure(HEALTH_PENDING=2)
        code, found = get()
        assert code == 503
        assert found["problems"] == ["tests.Item: 3 entries wait."]

    def test_dead_letters(self, plain, configure, get):
        for email in ("a", "b"):
            Visit.buffered.append(event=1, email=email, owner=404404)
        Visit.buffered.flush()
        assert get()[0] == 200
        configure(HEALTH_DEAD_LETTERS=1)
        assert get()[1]["problems"] == ["tests.Visit: there are 2 dead letters."]

    def test_redis_is_away(self, plain, configure, get):
        plain.stop()
        assert get() == (
            503,
            {"status": "failing", "problems": ["Redis cannot be used."], "buffers": []},
        )
        configure(MODE="direct")
        assert get()[0] == 200

    def test_the_database_is_away(self, plain, get):
        with without_table("default", DeadLetter):
            code, found = get()
        assert code == 503
        assert (
            "tests.Item: its database cannot be used, or lacks the tables of writebehind, which "
            "manage.py migrate makes."
        ) in found["problems"]

    def test_nothing_in_it_is_secret(self, plain, configure, get):
        Item.buffered.set(number=1, b="very private")
        text = json.dumps(get())
        assert "private" not in text
        assert str(plain.port) not in text

    def test_is_only_read(self, plain):
        assert Client().post("/health/").status_code == 405
