"""Connections to Redis: kept, bounded, and never used again once something went wrong on them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from asyncio import get_running_loop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import redis
from django.db import connections as django_connections

from tests.backdoor import links
from tests.backdoor.breaker import is_asked, outages
from tests.backdoor.links import acount_up, count_up, counted
from tests.models import Counter, Item
from tests.outages import wait_for, wait_for_redis
from tests.servers import RedisServer
from writebehind_app import Add
from writebehind_app.exceptions import BufferUnavailable, WriteUncertain
from writebehind_app.flush.engine import flush

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
KILLING = float(os.environ.get("WRITEBEHIND_TEST_KILLING", 12))  # seconds


def connections(server: RedisServer) -> int:
    """How many there are, but for the one that asks."""
    with server.client() as client:
        return len(client.client_list()) - 1


def kill_all(server: RedisServer) -> None:
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)


def in_threads(count: int, act: Callable[[], object]) -> list[Any]:
    """What each thread came to; all are there at the same time."""
    together = threading.Barrier(count)

    def run(_: int) -> object:
        together.wait()
        try:
            return act()
        finally:
            together.wait()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.fixture
def client(redis_server) -> Any:
    return links.client()


class TestThreads:
    def test_a_thread_keeps_its_connection(self, redis_server, client):
        for n in range(100):
            assert count_up(client) == n + 1
        assert connections(redis_server) == 1

    def test_each_thread_has_its_own_until_it_ends(self, redis_server, client):
        found = in_threads(50, lambda: [count_up(client), connections(redis_server)])
        assert sorted(n for n, _ in found) == list(range(1, 51))
        wait_for(lambda: connections(redis_server) == 0)

    def test_there_are_so_many_at_a_time(self, redis_server, configure):
        configure(REDIS=f"{redis_server.url}?max_connections=5")
        client = links.client()
        most = []

        def act() -> None:
            for _ in range(20):
                assert count_up(client)
                most.append(connections(redis_server))

        in_threads(20, act)
        assert counted(client) == 400
        assert max(most) <= 5 + 20  # and those of the threads that look

    def test_those_that_are_dead_without_a_word_are_one_outage(self, proxy, configure):
        """As behind a NAT that forgot them. Each thread would find out for itself."""
        configure(SOCKET_TIMEOUT=0.3, WHEN_DOWN="raise")
        there, stranded = threading.Barrier(5), threading.Event()

        def write(n: int) -> list[Any]:
            Item.buffered.set(number=n)
            there.wait()
            stranded.wait()
            found = []
            if n:
                wait_for(lambda: outages() and is_asked())
            for _ in range(3):
                try:
                    found.append(Item.buffered.set(number=n).where)
                except (BufferUnavailable, WriteUncertain) as error:
                    found.append(type(error))
                    wait_for_redis()
            return found

        with ThreadPoolExecutor(4) as pool:
            found = pool.map(write, range(4))
            there.wait()
            proxy.strand()
            stranded.set()
            first, *others = found
        assert first == [WriteUncertain, "pending", "pending"]
        assert others == [["pending"] * 3] * 3
        assert outages() == 1

    def test_one_that_is_needed_is_waited_for(self, redis_server, configure):
        configure(REDIS=f"{redis_server.url}?max_connections=1", SOCKET_TIMEOUT=0.2)
        client = links.client()
        with ThreadPoolExecutor(1) as pool:
            with links.in_use(client):
                refused = pool.submit(count_up, client).exception()
                assert isinstance(refused, redis.ConnectionError)
                assert "all connections are in use: 1" in str(refused)
                waiting = pool.submit(count_up, client)
                time.sleep(0.1)
            assert waiting.result() == 1

    def test_of_those_before_a_fork_none_is_used_after_it(self, redis_server, client):
        """SCENARIOS 42: the answers of two processes would come over one connection."""
        assert in_threads(5, lambda: count_up(client))
        assert count_up(client) == 6
        begun, begins = os.pipe()
        with links.held(client):
            pid = os.fork()

        def both_ask(name: str) -> None:
            until = time.monotonic() + 1
            while time.monotonic() < until:
                assert links.echo(client, name) == name

        if pid == 0:
            done = 1
            signal.alarm(30)
            try:
                os.write(begins, b"x")
                both_ask("child")
                done = 0
            finally:
                os._exit(done)
        os.read(begun, 1)
        both_ask("parent")
        assert os.waitpid(pid, 0)[1] == 0
        assert connections(redis_server) == 1

    def test_settings_that_change_close_them(self, redis_server, client, configure):
        count_up(client)
        asyncio.run(acount_up(client))
        configure(MAX_AGE=7)
        wait_for(lambda: connections(redis_server) == 0, seconds=5)

    def test_a_server_that_was_restarted_makes_no_call_uncertain(self, redis_server, client):
        """SCENARIOS 54."""
        threads = 20
        restarted = threading.Barrier(threads + 1)

        def act(_: int) -> list[Any]:
            before = count_up(client)
            restarted.wait()
            restarted.wait()
            return [before, count_up(client)]

        with ThreadPoolExecutor(threads) as pool:
            found = pool.map(act, range(threads))
            restarted.wait()
            redis_server.restart()
            restarted.wait()
            assert all(isinstance(n, int) for pair in found for n in pair)
        assert counted(client) == 2 * threads

    def test_an_answer_that_nobody_asked_for_is_none_of_the_next_call(self, redis_server, client):
        count_up(client)
        links.leave_an_answer_behind(client)
        assert count_up(client) == 2

    def test_an_exception_amid_a_call_leaves_no_answer_behind(self, redis_server, client):
        """As that of a timeout that the project has set by a signal."""

        class Interrupted(BaseException):
            pass

        def interrupt(*args: Any) -> None:
            raise Interrupted

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupted):
                client.exchange([("BLPOP", "nothing", 30)])
        finally:
            signal.signal(signal.SIGALRM, before)
        assert count_up(client) == 1

    def test_an_answer_takes_its_time(self, redis_server, client, configure):
        configure(SOCKET_TIMEOUT=0.2)
        client = links.client()
        started = time.monotonic()
        _, error = client.exchange([("BLPOP", "nothing", 2)])
        assert isinstance(error, redis.TimeoutError)
        assert time.monotonic() - started < 1.9
        wait_for_redis()
        wait = ("BLPOP", "nothing", 0.4)
        assert client.exchange([("ECHO", "a"), wait], patience=1) == (["a", None], None)
        assert client.exchange([wait], timeout=1) == ([None], None)
        _, error = client.exchange([wait])
        assert isinstance(error, redis.TimeoutError)

    def test_megabytes(self, redis_server, client):
        text = "ä" * 3_000_000
        assert client.exchange([("ECHO", text)] * 3) == ([text] * 3, None)


class TestLoops:
    def test_ten_thousand_at_a_time(self, redis_server, client):
        async def act() -> int:
            found = await asyncio.gather(*(acount_up(client) for _ in range(10_000)))
            assert sorted(found) == list(range(1, 10_001))
            return await asyncio.to_thread(connections, redis_server)

        assert asyncio.run(act()) <= 100
        wait_for(lambda: connections(redis_server) == 0, seconds=5)

    def test_several_loops(self, redis_server, configure):
        configure(SOCKET_TIMEOUT=20)  # four loops and their threads share a processor or two
        client = links.client()

        async def act() -> list[Any]:
            return await asyncio.gather(*(acount_up(client) for _ in range(500)))

        found = in_threads(4, lambda: asyncio.run(act()))
        assert sorted(n for one in found for n in one) == list(range(1, 2001))

    def test_one_loop_after_the_other(self, redis_server, client):
        for n in range(20):
            assert asyncio.run(acount_up(client)) == n + 1
            wait_for(lambda: connections(redis_server) == 0, seconds=5)

    def test_a_loop_that_is_only_closed(self, redis_server, client):
        for n in range(20):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(acount_up(client)) == n + 1
            loop.close()
            assert connections(redis_server) == 1
        client.end()
        wait_for(lambda: connections(redis_server) == 0, seconds=5)

    def test_cancelled_tasks_leave_no_answers_behind(self, redis_server, configure):
        """Each is carried out once, or not at all."""
        configure(REDIS=f"{redis_server.url}?max_connections=3")
        client = links.client()

        async def act() -> list[Any]:
            tasks = [asyncio.create_task(acount_up(client)) for _ in range(300)]
            for n, task in enumerate(tasks):
                if n % 3 == 0:
                    await asyncio.sleep(0)
                    task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert await asyncio.to_thread(connections, redis_server) <= 3
            return found

        found = asyncio.run(act())
        numbers = [n for n in found if isinstance(n, int)]
        cancelled = [n for n in found if isinstance(n, asyncio.CancelledError)]
        assert len(numbers) >= 200
        assert len(set(numbers)) == len(numbers)
        assert len(numbers) + len(cancelled) == 300
        assert len(numbers) <= counted(client) <= 300

    def test_a_task_gets_no_answer_of_a_cancelled_one(self, redis_server, configure):
        configure(REDIS=f"{redis_server.url}?max_connections=1")
        client = links.client()

        async def act() -> None:
            for n in range(100):
                cancelled = asyncio.create_task(links.aecho(client, f"cancelled {n}"))
                for _ in range(n % 5):  # it is sent meanwhile, mostly
                    await asyncio.sleep(0)
                cancelled.cancel()
                assert await links.aecho(client, f"{n}") == f"{n}"

        asyncio.run(act())

    def test_a_task_that_is_cancelled_as_its_answer_comes(self, redis_server, configure):
        """It gives its connection back once."""
        configure(REDIS=f"{redis_server.url}?max_connections=1")
        client = links.client()

        async def act() -> None:
            assert await links.aecho(client, "made") == "made"
            cancelled = asyncio.create_task(links.aecho(client, "cancelled"))
            await asyncio.sleep(0)
            time.sleep(0.1)  # the answer comes, and the loop does not see it yet
            await asyncio.sleep(0)
            cancelled.cancel()
            texts = ["a", "b", "c"]
            assert await asyncio.gather(*(links.aecho(client, t) for t in texts)) == texts

        asyncio.run(act())

    def test_a_cancelled_task_whose_answer_does_not_come(self, proxy, configure):
        configure(REDIS=f"{proxy.url}?max_connections=1", SOCKET_TIMEOUT=0.3)
        client = links.client()

        async def act() -> None:
            assert await acount_up(client) == 1
            proxy.freeze()
            task = asyncio.create_task(acount_up(client))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            started = time.monotonic()
            with pytest.raises(links.HeldBack):  # it waits for the connection of the other one
                await acount_up(client)
            assert time.monotonic() - started > 0.2

        asyncio.run(act())
        proxy.thaw()
        wait_for_redis()
        assert asyncio.run(acount_up(client)) == 3

    def test_tasks_that_their_callers_cancel_are_heard_of(self, proxy, configure):
        """Each is cancelled before its answer is late: nobody would learn that Redis is away."""
        configure(SOCKET_TIMEOUT=0.3)
        client = links.client()

        async def act() -> None:
            await acount_up(client)
            proxy.freeze()
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(acount_up(client), 0.05)
            await asyncio.sleep(0.3)
            with pytest.raises(links.HeldBack):
                await acount_up(client)

        asyncio.run(act())
        proxy.thaw()
        wait_for_redis()

    def test_tasks_that_wait_for_a_connection_to_be_made(self, proxy, configure):
        """Each would wait for a thread, and then for a Redis that others found frozen."""
        configure(SOCKET_TIMEOUT=0.5)
        client = links.client()

        async def act() -> list[Any]:
            get_running_loop().set_default_executor(ThreadPoolExecutor(2))
            proxy.freeze()
            return await asyncio.gather(
                *(acount_up(client) for _ in range(20)), return_exceptions=True
            )

        started = time.monotonic()
        found = asyncio.run(act())
        assert time.monotonic() - started < 2  # and not 5
        assert sum(isinstance(one, links.HeldBack) for one in found) >= 16
        proxy.thaw()
        wait_for_redis()

    def test_those_who_wait_hear_of_an_outage(self, proxy, configure):
        configure(REDIS=f"{proxy.url}?max_connections=2", SOCKET_TIMEOUT=0.3)
        client = links.client()

        async def act() -> list[Any]:
            await acount_up(client)
            proxy.freeze()
            return await asyncio.gather(
                *(acount_up(client) for _ in range(50)), return_exceptions=True
            )

        started = time.monotonic()
        found = asyncio.run(act())
        assert time.monotonic() - started < 2
        assert sum(isinstance(one, redis.TimeoutError) for one in found) == 2
        assert sum(isinstance(one, links.HeldBack) for one in found) == 48
        proxy.thaw()
        wait_for_redis()
        assert asyncio.run(acount_up(client))

    def test_a_server_that_was_restarted_makes_no_call_uncertain(self, redis_server, client):
        async def act() -> None:
            await asyncio.gather(*(acount_up(client) for _ in range(20)))
            redis_server.restart()  # the loop does not see how its connections end
            found = await asyncio.gather(*(acount_up(client) for _ in range(20)))
            assert sorted(found) == list(range(21, 41))

        asyncio.run(act())

    def test_a_connection_that_cannot_be_made(self, redis_server, client):
        redis_server.stop()

        async def act() -> list[Any]:
            calls = (acount_up(client) for _ in range(10))
            return await asyncio.gather(*calls, return_exceptions=True)

        assert all(isinstance(one, redis.ConnectionError) for one in asyncio.run(act()))
        redis_server.start()
        wait_for_redis()
        assert asyncio.run(acount_up(client)) == 1

    def test_megabytes(self, redis_server, client):
        text = "ä" * 3_000_000
        found = asyncio.run(client.aexchange(lambda: [("ECHO", text)] * 3))
        assert found == ([text] * 3, None)

    def test_a_script_that_is_not_there_is_sent(self, redis_server, client):
        assert asyncio.run(links.arun_script(client))[:2] == [0, 0]


@on_sqlite
def test_connections_are_killed_all_the_time(database, redis_server, monkeypatch):
    """Each write is carried out once, or its caller knows that nobody knows."""
    links.never_stop_asking(monkeypatch)
    Counter.buffered.set(name="n", big=Add(0))
    end = threading.Event()

    def kill() -> None:
        while not end.wait(0.005):
            kill_all(redis_server)

    killer = threading.Thread(target=kill)
    killer.start()
    told = {"taken": 0, "uncertain": 0, "not sent": 0}

    def write() -> None:
        for _ in range(100):
            try:
                Counter.buffered.set(name="n", big=Add(1))
            except WriteUncertain:
                told["uncertain"] += 1
            except BufferUnavailable:
                told["not sent"] += 1
            else:
                told["taken"] += 1

    try:
        in_threads(8, write)
    finally:
        end.set()
        killer.join()
    most = told["taken"] + told["uncertain"]
    assert told["taken"] <= Counter.buffered.get(name="n").big <= most
    assert told["taken"] > 600


def _write(me: int) -> None:
    """Adds one under a name, until Redis takes it, and goes on like this until it is told to
    end."""
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ending.set()), daemon=True).start()
    print("begun")
    calls, longest = 0, 0.0
    while not ending.is_set():
        calls += 1
        started = time.monotonic()
        while True:
            try:
                Counter.buffered.set(name="n", big=Add(1), once=f"{me} {calls}")
            except (BufferUnavailable, WriteUncertain):
                time.sleep(0.02)
            else:
                break
        longest = max(longest, time.monotonic() - started)
    print(json.dumps([calls, longest]))


def _flush() -> None:
    """Flushes until it is told to end; Redis is away for a part of the time."""
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ending.set()), daemon=True).start()
    print("begun")
    while not ending.wait(0.1):
        with suppress(BufferUnavailable):
            flush(Counter.buffered, due_only=False)
    django_connections.close_all()


@on_sqlite
def test_redis_is_killed_again_and_again(database, redis_server, configure, start_child):
    """SCENARIOS 32: whoever repeats a call under its name gets it through soon after Redis is
    back, however often it goes, and none of them is carried out twice."""
    configure(WHEN_DOWN="raise", LEASE=2)
    children = [start_child(_write, me) for me in range(3)]
    children.append(start_child(_flush))
    for child in children:
        assert child.stdout.readline() == "begun\n"
    end = time.monotonic() + KILLING
    while time.monotonic() < end:
        time.sleep(3.5)
        redis_server.kill()
        time.sleep(0.5)
        redis_server.start()
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    told = [json.loads(child.communicate(timeout=120)[0]) for child in children[:-1]]
    children[-1].wait(timeout=60)
    wait_for_redis()
    Counter.buffered.flush()
    calls, longest = (list(found) for found in zip(*told, strict=True))
    print(f"{sum(calls)} calls, of which one took {max(longest):.1f} s")
    assert Counter.objects.get(name="n").big == sum(calls)
    assert max(longest) < 4  # away for 0.5, used again within 2, and the machine may be busy


@on_sqlite
@pytest.mark.timeout(600)  # a second or two, on a machine that has nothing else to do
def test_ten_thousand_writes_of_one_loop(database, redis_server, configure):
    # On a busy machine the last of them has its turn late. It is not to go by a thread then.
    configure(REDIS=f"{redis_server.url}?max_connections=10", SOCKET_TIMEOUT=100)

    async def act() -> list[Any]:
        writes = (Item.buffered.aset(number=1, a=Add(1)) for _ in range(10_000))
        return await asyncio.gather(*writes)

    with redis_server.client() as client:
        client.script_flush()
        client.config_resetstat()
    receipts = asyncio.run(act())
    with redis_server.client() as client:
        scripts = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert scripts <= 10_000 + 100  # those of the first ten links are sent again
    assert len({(receipt.shard, receipt.number) for receipt in receipts}) == 10_000
    assert Item.buffered.get(number=1).a == 10_000
    assert connections(redis_server) <= 10 + 1
