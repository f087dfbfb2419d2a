"""One Redis of several is away: the buffers on the others go on, and nothing is lost."""

from __future__ import annotations

import asyncio
import faulthandler
import io
import os
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest
from asgiref.sync import SyncToAsync
from django.core.management import CommandError, call_command
from django.db import connections

from tests.backdoor.connection import is_asked_at
from tests.models import Counter, Item, Place, Venue
from tests.outages import wait_for
from tests.servers import RedisServer
from tests.several import OnEach, moved, on_each
from writebehind_app import Add, batch, tasks, testing
from writebehind_app.exceptions import BufferUnavailable, WriteUncertain

pytestmark = pytest.mark.outage
ROUNDS = 50


@pytest.fixture(scope="module", params=["valkey"])
def second(request):
    with RedisServer(request.param) as server:
        yield server


@pytest.fixture
def other(plain, second, configure):
    """Has the buffers of Item and Place; `plain` has the others."""
    configure(WHEN_DOWN="direct")
    with moved(second.url, Item, Place):
        yield second
    second.clear()


def test_the_other_one_is_used(plain, other):
    other.kill()
    for n in range(5):
        assert Item.buffered.set(number=n, a=n).where == "stored"
        assert Counter.buffered.set(name=str(n), small=n).where == "pending"
    assert not is_asked_at(Item.buffered)
    assert is_asked_at(Counter.buffered)
    assert Item.objects.count() == 5
    other.start()
    wait_for(lambda: is_asked_at(Item.buffered), 5)
    assert Item.buffered.set(number=1, a=Add(5)).where == "pending"
    assert Item.buffered.get(number=1).a == 6


def test_the_one_of_the_settings_is_away(plain, other):
    plain.kill()
    for n in range(5):
        assert Item.buffered.set(number=n, a=n).where == "pending"
        assert Counter.buffered.set(name=str(n), small=n).where == "stored"
    assert Item.buffered.flush().rows == 5
    with pytest.raises(BufferUnavailable):
        Counter.buffered.flush()


def test_the_first_call_of_a_process(plain, other):
    """The time comes from any Redis that answers."""
    plain.kill()
    with moved(other.url, Item):  # which forgets the time
        assert Item.buffered.set(number=1).where == "pending"


def both():
    with batch():
        Item.buffered.set(number=1, a=Add(1))
        Counter.buffered.set(name="a", small=1)


@pytest.mark.parametrize("is_awaited", [False, True])
def test_a_batch(plain, other, is_awaited):
    def write():
        with batch():
            receipts.append(Item.buffered.set(number=1, a=1))
            receipts.append(Counter.buffered.set(name="a", small=1))

    async def awrite():
        async with batch():
            receipts.append(await Item.buffered.aset(number=1, a=1))
            receipts.append(await Counter.buffered.aset(name="a", small=1))

    receipts = []
    other.kill()
    asyncio.run(awrite()) if is_awaited else write()
    assert [receipt.where for receipt in receipts] == ["stored", "pending"]


def test_a_batch_that_may_not_go_around_it(plain, other, configure):
    configure(WHEN_DOWN="raise")
    other.kill()
    with pytest.raises(BufferUnavailable):
        both()
    assert Counter.buffered.get(name="a").small == 1
    with batch():
        while is_asked_at(Item.buffered):
            with pytest.raises(BufferUnavailable):
                Item.buffered.get(number=1)
        with pytest.raises(BufferUnavailable):  # at once: this can still be rolled back
            Item.buffered.set(number=1, a=1)
        Counter.buffered.set(name="b", small=1)
    assert Counter.buffered.count_pending() == 2


def test_a_frozen_one_keeps_nothing_of_the_other(plain, other, configure):
    configure(WHEN_DOWN="direct", SOCKET_TIMEOUT=0.3)
    Item.buffered.set(number=1, a=1)
    other.pause()
    try:
        with pytest.raises(WriteUncertain):
            both()
        assert Counter.buffered.get(name="a").small == 1
        assert Item.buffered.set(number=2, a=1).where == "stored"
    finally:
        other.resume()


@on_each
class TestFlushers(OnEach):
    @pytest.fixture(autouse=True)
    def entries(self, plain, other, configure):
        configure(MAX_AGE=0)
        Item.buffered.set(number=1, a=1)
        Counter.buffered.set(name="a", small=1)
        Venue.buffered.set(slug="hall")
        Place.buffered.set(number=1, venue_id="hall")
        other.kill()

    def assert_the_other_one_is_flushed(self):
        assert Counter.objects.exists()
        assert Venue.objects.exists()
        assert not Item.objects.exists()

    def test_a_task(self):
        with pytest.raises(BufferUnavailable):
            tasks.flush_due()
        self.assert_the_other_one_is_flushed()

    @pytest.mark.parametrize("fan_out", [False, True])
    def test_a_task_that_goes_on(self, fan_out):
        tasks.flush_due(seconds=3, fan_out=fan_out)
        self.assert_the_other_one_is_flushed()

    def test_flush_writebehind(self):
        with pytest.raises(CommandError, match=r"^Not everything can be flushed: Redis: "):
            call_command("flush_writebehind", "--all", stdout=io.StringIO())
        self.assert_the_other_one_is_flushed()

    def test_nothing_is_lost(self, other):
        other.start()
        wait_for(lambda: is_asked_at(Item.buffered), 5)
        testing.flush()
        assert Item.objects.get().a == 1
        assert Place.objects.get().venue_id == "hall"


@on_each
class TestBoth(OnEach):
    def test_a_child_waits_for_the_redis_of_its_parent(self, plain, other):
        Venue.buffered.set(slug="hall")
        Place.buffered.set(number=1, venue_id="hall")
        plain.kill()
        with pytest.raises(BufferUnavailable):
            Place.buffered.flush()
        plain.start()
        wait_for(lambda: is_asked_at(Venue.buffered), 5)
        Place.buffered.flush()
        assert Place.objects.get().venue_id == "hall"

    def test_what_was_acknowledged_is_there_once(self, plain, other):
        """Threads count up on both, while one of them is killed and started again."""
        end = threading.Event()
        sums = {"item": [0, 0], "counter": [0, 0]}  # acknowledged, uncertain
        lock = threading.Lock()

        def note(name, call):
            try:
                call()
            except WriteUncertain:
                which = 1
            else:
                which = 0
            with lock:
                sums[name][which] += 1

        def write():
            while not end.is_set():
                note("item", lambda: Item.buffered.set(number=1, a=Add(1)))
                note("counter", lambda: Counter.buffered.set(name="a", small=Add(1)))
            connections.close_all()

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            end.wait(0.5)
            other.kill()
            end.wait(0.5)
            other.start()
            end.wait(1.5)
        end.set()
        for thread in threads:
            thread.join()
        wait_for(lambda: is_asked_at(Item.buffered), 5)
        testing.flush()
        for (sure, unsure), stored in (
            (sums["item"], Item.objects.get().a),
            (sums["counter"], Counter.objects.get().small),
        ):
            assert sure <= stored <= sure + unsure
        assert sums["counter"][1] == 0


def forked(act):
    """Do something in a forked process, and return its pid. The process says what goes wrong. It
    ends by itself, and says where it was, if it waits for what only its parent has: the thread of
    asgiref would be that."""
    pid = os.fork()
    if pid == 0:
        failed = 1
        try:
            faulthandler.dump_traceback_later(120, exit=True, file=sys.__stderr__)
            SyncToAsync.single_thread_executor = ThreadPoolExecutor(1)
            act()
            failed = 0
        except Exception:
            traceback.print_exc(file=sys.__stderr__)
            raise
        finally:
            os._exit(failed)
    return pid


class TestAFork:
    """The process has used both before it, also in threads and event loops."""

    def write(self, me):
        async def in_a_loop(n):
            await asyncio.gather(
                Item.buffered.aset(number=0, a=Add(1)),
                Counter.buffered.aset(name="all", small=Add(1)),
                Item.buffered.aset(number=me + n, b="loop"),
            )

        for n in range(1, ROUNDS + 1):
            assert Item.buffered.set(number=me + n, a=n).id == str(me + n)
            assert Counter.buffered.set(name=str(me + n), small=n).id == f'"{me + n}"'
            with batch():
                receipts = Item.buffered.set(number=0, a=Add(1)), Counter.buffered.set(name="all")
            assert [receipt.where for receipt in receipts] == ["pending", "pending"]
            Counter.buffered.set(name="all", small=Add(1))
            if n % 10 == 0:
                asyncio.run(in_a_loop(n))

    def write_on_both_sides(self):
        pid = forked(partial(self.write, 20_000))
        self.write(10_000)
        assert os.waitpid(pid, 0)[1] == 0

    def assert_all_is_stored(self, *writers):
        testing.flush()
        sums = len(writers) * ROUNDS * 11 // 10
        expected = {me + n: n for me in writers for n in range(1, ROUNDS + 1)}
        assert dict(Item.objects.values_list("number", "a")) == {**expected, 0: sums}
        assert dict(Counter.objects.values_list("name", "small")) == {
            **{str(number): n for number, n in expected.items()},
            "all": sums,
        }

    def test_both_sides_go_on_with_both(self, plain, other, configure):
        configure(SOCKET_TIMEOUT=20)  # a busy machine is not an outage
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.write, 30_000).result()
        self.write(40_000)
        self.write_on_both_sides()
        self.assert_all_is_stored(10_000, 20_000, 30_000, 40_000)

    def test_while_one_of_them_was_away(self, plain, other, configure):
        """The thread that waits for it is the parent's."""
        configure(WHEN_DOWN="raise")
        with moved(other.url, Item, Place):
            Item.buffered.set(number=0)
            other.kill()
            while is_asked_at(Item.buffered):
                with pytest.raises(BufferUnavailable):
                    Item.buffered.set(number=0)

            def write():
                Counter.buffered.set(name="child")
                with suppress(BufferUnavailable):
                    Item.buffered.set(number=1)
                wait_for(lambda: is_asked_at(Item.buffered), 60)
                Item.buffered.set(number=1)

            pid = forked(write)
            Counter.buffered.set(name="parent")
            other.start()
            wait_for(lambda: is_asked_at(Item.buffered), 60)
            Item.buffered.set(number=2)
            assert os.waitpid(pid, 0)[1] == 0
            assert Item.buffered.count_pending() == 3
            assert Counter.buffered.count_pending() == 2
