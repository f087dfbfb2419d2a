"""`manage.py flush_writebehind`: its options, its exit codes, its ways to end."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command, execute_from_command_line
from django.db import connection

from tests.backdoor.batches import claim
from tests.integration.test_doctor import without_table
from tests.keeper import keeper
from tests.models import Item, Line, Owner, Pair, Stamp, Visit
from writebehind_app import checkpoints, registry
from writebehind_app.management.commands import flush_writebehind
from writebehind_app.models import AppliedBatch, DeadLetter, Fence, OnceKey

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


# In children


def manage(*args: str, errors_too: bool = False) -> None:
    """The command line, exit code and all."""
    if errors_too:
        sys.stderr = sys.stdout
    execute_from_command_line(["manage.py", "flush_writebehind", *args])


def manage_slowly(*args: str) -> None:
    """The same, with time enough to be told to end in the middle of a batch."""

    def hook(step: str) -> None:
        if step == "flush.token":
            print("in a batch")
            time.sleep(0.5)

    checkpoints.hook = hook
    manage(*args)


# Helpers


def run(*args: str) -> tuple[int, str, str]:
    """In this process: exit code, output, and what was said about errors."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("flush_writebehind", *args, stdout=out, stderr=err)
    except SystemExit as exit:
        return exit.code, out.getvalue(), err.getvalue()
    except CommandError as error:
        return error.returncode, out.getvalue(), str(error)
    return 0, out.getvalue(), err.getvalue()


def report(*args: str) -> tuple[int, dict]:
    code, out, _ = run("--json", *args)
    (line,) = out.splitlines()
    found = json.loads(line)
    assert list(found) == ["rows", "batches", "dead_letters", "remaining", "seconds"]
    assert found.pop("seconds") >= 0
    return code, found


def counts(rows: int, batches: int, remaining: int) -> dict:
    return {"rows": rows, "batches": batches, "dead_letters": 0, "remaining": remaining}


@pytest.fixture
def ten(plain, configure):
    """Ten items, due in a minute, on one shard."""
    configure(SHARDS=1, MAX_AGE=60)
    Item.buffered.set_many({"number": n} for n in range(10))
    return plain


def wait_for(condition, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


class TestOptions:
    def test_only_what_is_due(self, ten, configure):
        """What else waits in a shard of which something is due goes along."""
        Line.buffered.append(text="x")
        assert report() == (0, counts(0, 0, 0))
        configure(MAX_AGE=0)
        Item.buffered.set(number=99)
        configure(MAX_AGE=60)
        assert report() == (0, counts(11, 1, 0))
        assert Line.buffered.count_pending() == 1

    def test_with_quiet_only_what_is_due_itself(self, ten, configure):
        configure(MAX_AGE=60, QUIET=0.01)
        Item.buffered.set(number=99)
        time.sleep(0.05)
        assert report() == (0, counts(1, 1, 0))
        assert list(Item.objects.values_list("number", flat=True)) == [99]
        assert Item.buffered.count_pending() == 10

    def test_all(self, ten):
        assert report("--all") == (0, counts(10, 1, 0))
        assert Item.objects.count() == 10

    def test_the_buffers_that_are_named_in_any_case(self, ten):
        stamp = Stamp.objects.create()
        Stamp.buffered.set(pk=stamp.pk, count=1)
        assert report("--all", "tests.stamp") == (0, counts(1, 1, 0))
        assert report("--all", "tests.Item", "tests.Pair") == (0, counts(10, 1, 0))

    def test_batch_size(self, ten):
        assert report("--all", "--batch-size", "4") == (0, counts(10, 3, 0))
        assert sorted(AppliedBatch.objects.values_list("entries", flat=True)) == [2, 4, 4]

    def test_limit(self, ten):
        Stamp.buffered.set(pk=1, count=1)
        code, found = report("--all", "--limit", "3", "tests.Item")
        assert (code, found) == (1, counts(3, 1, 7))
        assert Item.buffered.count_pending() == 7
        assert report("--all", "--limit", "7", "tests.Item") == (0, counts(7, 1, 0))

    def test_limit_over_all_buffers(self, ten, configure):
        configure(SHARDS=3)
        Item.buffered.discard()
        Item.buffered.set_many({"number": n} for n in range(100))
        owner = Owner.objects.create(name="o")
        Pair.buffered.set_many({"owner": owner, "name": str(n)} for n in range(100))
        code, found = report("--all", "--limit", "130")
        assert (code, found["rows"], found["remaining"]) == (1, 130, 70)
        assert Item.objects.count() + Pair.objects.count() == 130

    def test_max_time(self, ten, monkeypatch):
        monkeypatch.setattr(
            checkpoints, "hook", lambda step: time.sleep(0.3 * (step == "flush.token"))
        )
        started = time.monotonic()
        code, found = report("--all", "--batch-size", "1", "--max-time", "0.75")
        assert 0.75 <= time.monotonic() - started < 3
        assert code == 1
        assert found["batches"] <= 3  # a busy machine comes to fewer
        assert found == counts(found["batches"], found["batches"], 10 - found["batches"])

    def test_loop_for_a_time(self, ten, configure):
        configure(MAX_AGE=0.2)
        Item.buffered.set(number=99)
        started = time.monotonic()
        code, found = report("--loop", "--interval", "0.05", "--max-time", "1.5")
        assert 1.4 <= time.monotonic() - started < 6
        assert (code, found) == (0, counts(11, found["batches"], 0))

    def test_loop_until_the_limit(self, ten):
        code, found = report("--loop", "--all", "--interval", "0.01", "--limit", "10")
        assert (code, found) == (0, counts(10, 1, 0))

    @pytest.mark.timeout(30)
    def test_loop_until_the_limit_although_a_batch_that_is_taken_over_is_larger(
        self, ten, configure
    ):
        configure(LEASE=0.05)
        claim(Item.buffered)
        time.sleep(0.1)
        Item.buffered.set(number=99)
        code, found = report("--loop", "--all", "--interval", "0.01", "--limit", "5")
        assert (code, found) == (1, counts(10, 1, 1))

    def test_dry_run(self, ten):
        code, out, _ = run("--dry-run", "--all", "tests.Item")
        assert (code, out) == (0, "tests.Item: 10 to flush\n")
        assert run("--dry-run", "tests.Item")[1] == "tests.Item: 0 to flush\n"
        assert report("--dry-run", "--all") == (0, counts(0, 0, 10))
        assert not Item.objects.exists()
        assert Item.buffered.pending()[0].state == "pending"

    def test_what_it_says_to_people(self, ten):
        code, out, err = run("--all", "--limit", "4", "--no-progress", "tests.Item")
        assert code == 1
        assert re.fullmatch(r"4 rows in 1 batch, \d+ statements, \d+\.\d\d s\n", out)
        assert "6 entries are left." in err
        assert run("--all", "--verbosity", "0") == (0, "", "")

    def test_what_it_says_of_one(self, plain):
        Item.buffered.set_many([{"number": n} for n in range(2)])
        _, out, err = run("--all", "--limit", "1", "--no-progress", "tests.Item")
        assert out.startswith("1 row in 1 batch, ")
        assert err.startswith("1 entry is left.")

    def test_what_it_says_of_one_batch_that_fails(self, plain):
        Item.buffered.set(number=1)
        with without_table("default", Item):
            _, out, err = run("--all", "--no-progress", "tests.Item")
        assert out.startswith("0 rows in 0 batches, ")
        assert "1 batch failed: see the log." in err

    def test_what_it_says_of_a_pause(self, ten):
        Visit.buffered.append(event=1, email="a")
        call_command("writebehind_pause", "tests.Item", stdout=io.StringIO())
        both = ["--all", "tests.Item", "tests.Visit"]
        code, out, _ = run("--dry-run", *both)
        assert (code, sorted(out.splitlines())) == (
            0,
            ["tests.Item: 10 to flush, but it is paused", "tests.Visit: 1 to flush"],
        )
        code, _, err = run(*both)
        assert code == 1
        assert "10 entries are left, as tests.Item is paused." in err
        assert Visit.objects.exists()

    def test_without_buffers(self, plain, monkeypatch, caplog):
        monkeypatch.setattr(registry, "buffers", dict)
        assert run("--loop", "--interval", "0.05", "--max-time", "0.1", "--verbosity", "0")[0] == 0
        assert "No model declares a buffer." in caplog.text
        assert run("--dry-run") == (0, "", "")
        for command in ("status", "pause", "resume"):
            out = io.StringIO()
            call_command(f"writebehind_{command}", stdout=out)
            assert out.getvalue() == "No model declares a buffer.\n"


class TestExitCodes:
    @pytest.mark.process
    def test_of_the_process(self, ten, start_child):
        for args, code in (
            (["--all", "--limit", "1"], 1),
            (["--all"], 0),
            (["--limit", "0"], 2),
            (["tests.Nothing"], 2),
        ):
            child = start_child(manage, *args, errors_too=True)
            child.communicate(timeout=60)
            assert child.returncode == code, args

    def test_an_unknown_label_gets_the_nearest_name(self, plain):
        code, _, message = run("tests.Itme")
        assert code == 2
        assert message.startswith("No buffer is called 'tests.Itme'. Did you mean tests.Item?")
        assert "tests.Pair" in message
        code, _, message = run("zzz")
        assert (code, "Did you mean" in message) == (2, False)

    @pytest.mark.parametrize(
        "args",
        [
            ["--limit", "-1"],
            ["--limit", "x"],
            ["--limit", "1.5"],
            ["--batch-size", "0"],
            ["--interval", "0"],
            ["--interval", "nan"],
            ["--max-time", "-3"],
            ["--max-time", "inf"],
        ],
    )
    def test_bad_numbers(self, plain, args):
        code, _, message = run(*args)
        assert isinstance(code, int)
        assert f"argument {args[0]}: invalid positive" in message
        assert repr(args[1]) in message

    def test_options_that_exclude_each_other(self, plain):
        code, _, message = run("--dry-run", "--loop")
        assert (code, "exclude" in message) == (2, True)

    def test_the_database_refuses(self, ten, caplog):
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE tests_item RENAME TO tests_item_away")
        try:
            assert report("--all") == (1, counts(0, 0, 10))
            assert "a batch of 10 entries failed" in caplog.text
            # It is in its backoff now, and that is something left.
            assert report("--all") == (1, counts(0, 0, 10))
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE tests_item_away RENAME TO tests_item")
        Item.buffered.flush()
        assert Item.objects.count() == 10

    @on_valkey
    def test_before_migrate(self, database, redis_server, caplog):
        """One line for all buffers, without a traceback, that names the command."""
        Item.buffered.set(number=1)
        Line.buffered.append(text="a")
        with ExitStack() as tables:
            for model in (AppliedBatch, DeadLetter, Fence, OnceKey):
                tables.enter_context(without_table(database, model))
            for args in (["--all"], ["--all", "--loop", "--max-time", "1"]):
                code, *_ = run(*args)
                assert code == 1
            own = f" --database={database}" if database != "default" else ""
            (said,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
            assert said == (
                f"The database {database!r} has no writebehind_appliedbatch, "
                f"writebehind_deadletter, writebehind_fence, …: run manage.py migrate{own}. "
                "Nothing is flushed to it, and what is pending waits meanwhile."
            )
            assert "Traceback" not in caplog.text
        Item.buffered.flush()
        Line.buffered.flush()
        assert (Item.objects.count(), Line.objects.count()) == (1, 1)

    def test_a_service_goes_on_while_redis_is_down(self, ten, caplog):
        ten.stop()
        code, *_ = run("--loop", "--max-time", "0.1")
        assert code == 1
        (said,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert "is away" in said.getMessage()  # for the outage, and not for each buffer or pass
        assert "Traceback" not in caplog.text

    def test_a_service_goes_on_after_an_error_that_nobody_foresaw(self, ten, monkeypatch, caplog):
        flush, failed = flush_writebehind.flush, []

        def fail_once(buffer, **options):
            if not failed:
                failed.append(buffer)
                raise LookupError("odd")
            return flush(buffer, **options)

        monkeypatch.setattr(flush_writebehind, "flush", fail_once)
        code, *_ = run("--all", "--loop", "--max-time", "0.5", "--interval", "0.1")
        assert code == 0
        assert f"{failed[0]} cannot be flushed" in caplog.text
        assert Item.objects.count() == 10

    def test_redis_is_down(self, ten):
        ten.stop()
        for args in ([], ["--dry-run"]):
            code, _, message = run(*args)
            assert code == 1
            assert message.startswith("Nothing more can be flushed: ")


class TestEnding:
    @pytest.mark.process
    @on_valkey
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_lets_the_batch_at_hand_end(
        self, database, redis_server, configure, start_child, how
    ):
        """Scenario 39."""
        configure(SHARDS=1)
        Item.buffered.set_many({"number": n} for n in range(30))
        child = start_child(manage_slowly, "--all", "--batch-size", "10", "--json")
        assert child.stdout.readline() == "in a batch\n"
        child.send_signal(how)
        (said,) = child.stdout.read().splitlines()
        assert child.wait(20) == 0
        assert json.loads(said)["rows"] == Item.objects.count() == 10
        assert AppliedBatch.objects.get().entries == 10
        assert {e.state for e in Item.buffered.pending()} == {"pending"}
        assert Item.buffered.count_pending() == 20

    @pytest.mark.process
    def test_a_signal_ends_the_wait_between_two_passes(self, ten, start_child):
        child = start_child(manage, "--loop", "--interval", "3600", "--all")
        wait_for(lambda: Item.objects.count() == 10)
        time.sleep(0.2)
        child.send_signal(signal.SIGTERM)
        assert child.wait(5) == 0

    @pytest.mark.process
    def test_a_loop_goes_on_when_redis_comes_back(self, plain, configure, start_child):
        configure(MAX_AGE=0, SOCKET_TIMEOUT=0.2)
        Item.buffered.set(number=1)
        child = start_child(manage, "--loop", "--interval", "0.05")
        wait_for(lambda: Item.objects.filter(number=1).exists())
        plain.stop()
        time.sleep(0.4)
        assert child.poll() is None
        plain.start()
        Item.buffered.set(number=2)
        wait_for(lambda: Item.objects.filter(number=2).exists())
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0

    @pytest.mark.process
    def test_a_loop_ends_in_time_while_redis_is_down(self, plain, configure, start_child):
        configure(MAX_AGE=0, SOCKET_TIMEOUT=0.2)
        Item.buffered.set(number=1)
        child = start_child(manage, "--loop", "--interval", "0.05")
        wait_for(lambda: Item.objects.filter(number=1).exists())
        plain.stop()
        time.sleep(0.2)
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) in (0, 1)

    @pytest.mark.process
    def test_a_killed_one_leaves_nothing_that_the_next_does_not_finish(
        self, plain, configure, start_child
    ):
        """Scenarios 6 and 8."""
        configure(SHARDS=1, LEASE=0.3)
        Item.buffered.set_many({"number": n} for n in range(10))
        child = start_child(manage_slowly, "--all")
        assert child.stdout.readline() == "in a batch\n"
        child.kill()
        child.wait()
        assert not Item.objects.exists()
        assert report("--all") == (0, counts(10, 1, 0))


class TestProgress:
    def on_a_terminal(self, *args: str) -> str:
        """What is drawn on a terminal as standard error."""
        ours, theirs = pty.openpty()
        child = keeper().start(
            [
                *(sys.executable, "-m", "tests.child", __name__, "manage"),
                json.dumps([["--all", *args], {}]),
            ],
            cwd=Path(__file__).parents[2],
            stdout=-3,  # DEVNULL
            stderr=theirs,
        )
        os.close(theirs)
        drawn = b""
        try:
            while part := os.read(ours, 10_000):
                drawn += part
        except OSError:  # how a terminal says that the other side is closed
            pass
        os.close(ours)
        assert child.wait(20) == 0
        keeper().end(child)
        return drawn.decode()

    @pytest.mark.process
    def test_a_bar(self, ten):
        drawn = self.on_a_terminal("--batch-size", "5")
        bars = [bar.strip() for bar in re.split(r"[\r\n]+", drawn) if bar.strip()]
        assert bars == [f"{'█' * 15}{'░' * 15} 5/10", f"{'█' * 30} 10/10"]
        assert drawn.endswith("\r\n")

    @pytest.mark.process
    @pytest.mark.parametrize("option", ["--no-progress", "--json"])
    def test_none_where_it_is_not_wanted(self, ten, option):
        assert self.on_a_terminal(option) == ""
        assert Item.objects.count() == 10

    @pytest.mark.process
    def test_none_where_there_is_nothing_to_flush(self, plain):
        assert self.on_a_terminal() == ""

    def test_none_in_a_file(self, ten):
        assert run("--all")[2] == ""
