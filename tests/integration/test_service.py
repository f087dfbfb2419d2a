"""`manage.py flush_writebehind --loop` as a service: several, one that dies, and how they end."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import execute_from_command_line
from django.db import connections

from tests import child
from tests.backdoor.batches import claim
from tests.integration.test_doctor import without_table
from tests.keeper import keeper
from tests.models import Item, Stamp, Visit
from writebehind_app import checkpoints
from writebehind_app.models import AppliedBatch, DeadLetter

pytestmark = pytest.mark.process

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
LINE = re.compile(
    r"INFO batch buffer=tests\.Item shard=\d token=\w{32} entries=(\d+) rows=\d+ dead_letters=0 "
    r"statements=\d+ seconds=\d+\.\d+ attempts=\d+"
)


# In children


def serve(*args: str) -> None:
    execute_from_command_line(["manage.py", "flush_writebehind", "--loop", *args])


def serve_until_the_first_batch(*args: str) -> None:
    """And hang in the middle of it."""

    def hook(step: str) -> None:
        if step == "flush.token":
            print("in a batch")
            time.sleep(3600)

    checkpoints.hook = hook
    serve(*args)


def serve_with_an_odd_buffer(*args: str) -> None:
    """It cannot be pruned."""

    def expire(size: int) -> int:
        raise LookupError("odd")

    Item.buffered.expire = expire  # type: ignore[method-assign]
    serve(*args)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    services = []

    def start(function: Callable[..., None] = serve) -> subprocess.Popen[str]:
        args = ["--interval", "0.1", "--json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        services.append(child.process(function, args, **pipes))
        assert " INFO flushing tests." in services[-1].stderr.readline()
        return services[-1]

    yield start
    for service in services:
        keeper().end(service)
        service.stdout.close()
        service.stderr.close()


def end(service: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM) -> tuple[int, Any]:
    """Its exit code, and the entries of each batch, by the log."""
    service.send_signal(how)
    _, log = service.communicate(timeout=30)
    return service.returncode, [int(entries) for entries in LINE.findall(log)]


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "it did not happen"
        time.sleep(0.02)
    return time.monotonic() - started


@on_valkey
class TestSeveral:
    def test_the_shards_of_a_dead_one_move(self, database, redis_server, configure, start):
        """Scenario 8."""
        lease = 2.0
        configure(MAX_AGE=0, LEASE=lease, SHARDS=4)
        dying = start(serve_until_the_first_batch)
        Item.buffered.set_many({"number": n} for n in range(200))
        assert dying.stdout.readline() == "in a batch\n"
        others = [start(), start()]
        if database != "default":  # SQLite has one writer at a time, and that one hangs
            wait_for(lambda: Item.objects.count() > 50)
        keeper().end(dying)  # with SIGKILL
        assert wait_for(lambda: Item.objects.count() == 200) < 2 * lease
        assert [end(other)[0] for other in others] == [0, 0]

    def test_all_take_part_and_each_entry_is_flushed_once(
        self, database, redis_server, configure, start
    ):
        configure(MAX_AGE=0, SHARDS=4)
        services = [start() for _ in range(3)]
        written = 0
        while AppliedBatch.objects.count() < 30:
            Item.buffered.set_many({"number": written + n} for n in range(20))
            written += 20
            time.sleep(0.02)
        wait_for(lambda: not Item.buffered.count_pending())
        ends = [end(service) for service in services]
        assert [code for code, _ in ends] == [0, 0, 0]
        assert sum(sum(entries) for _, entries in ends) == written
        assert Item.objects.count() == written
        assert sum(bool(entries) for _, entries in ends) >= 2


class TestEnd:
    """Scenario 39."""

    @on_valkey
    def test_sigterm_drains(self, database, redis_server, configure, start):
        configure(MAX_AGE=3600)
        service = start()
        Item.buffered.set(number=-1)
        stamp = Stamp.objects.create()
        Stamp.buffered.set(pk=stamp.pk, count=5)
        Item.buffered.set_many({"number": n} for n in range(50))
        configure(MAX_AGE=0)
        Item.buffered.set(number=51)
        wait_for(lambda: Item.objects.exists())  # it is at work
        code, entries = end(service)
        assert (code, sum(entries)) == (0, 52)
        assert Item.objects.count() == 52
        assert Stamp.objects.get().count == 5
        assert Item.buffered.count_pending() == 0

    def test_what_was_refused_before_the_signal_makes_no_failure(self, plain, configure, start):
        configure(MAX_AGE=0)
        service = start()
        Visit.buffered.append(event=1, email="a", owner=404404)
        wait_for(lambda: DeadLetter.objects.exists())
        wait_for(lambda: not Visit.buffered.count_pending())
        time.sleep(0.2)  # it is in the next pass
        assert end(service)[0] == 0

    def test_what_is_refused_while_it_drains_makes_one(self, plain, configure, start):
        configure(MAX_AGE=3600)
        service = start()
        Visit.buffered.append(event=1, email="a", owner=404404)
        assert end(service)[0] == 1
        assert DeadLetter.objects.exists()

    def test_an_error_that_nobody_foresaw_keeps_no_other_buffer(self, plain, configure, start):
        configure(MAX_AGE=3600)
        Item.buffered.set(number=1)
        Stamp.buffered.set(pk=(stamp := Stamp.objects.create()).pk, count=5)
        service = start(serve_with_an_odd_buffer)
        assert end(service)[0] == 1
        assert Item.buffered.count_pending() == 1
        stamp.refresh_from_db()
        assert stamp.count == 5

    @on_valkey
    def test_with_the_database_away_it_ends_and_loses_nothing(
        self, database, redis_server, configure, start
    ):
        configure(MAX_AGE=0)
        service = start()
        Item.buffered.set(number=0)
        wait_for(lambda: Item.objects.exists())
        with without_table(database, AppliedBatch):
            Item.buffered.set_many({"number": n} for n in range(1, 21))
            time.sleep(0.3)
            started = time.monotonic()
            code, _ = end(service)
            assert time.monotonic() - started < 10
            assert code == 1
            assert Item.buffered.count_pending() == 20
        connections[database].close()
        Item.buffered.flush()
        assert Item.objects.count() == 21

    def test_with_redis_away_it_ends(self, plain, configure, start):
        configure(MAX_AGE=0)
        service = start()
        Item.buffered.set(number=0)
        wait_for(lambda: Item.objects.exists())
        plain.stop()
        started = time.monotonic()
        code, _ = end(service)
        assert (code, time.monotonic() - started < 10) == (1, True)

    def test_a_second_signal_ends_it_after_the_batch_at_hand(self, plain, configure, start):
        configure(MAX_AGE=3600, SHARDS=1)
        Item.buffered.set(number=1)
        claim(Item.buffered)  # which it waits for
        Item.buffered.set(number=2)
        service = start()
        service.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert service.poll() is None
        code, _ = end(service)
        assert code == 0
        assert Item.buffered.count_pending() == 2
