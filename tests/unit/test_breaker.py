"""What a breaker makes of calls and probes, without a Redis."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from redis._parsers.base import BaseParser

from tests.outages import hearing, wait_for
from writebehind_app import signals
from writebehind_app.store import breaker as module
from writebehind_app.store import connection
from writebehind_app.store.breaker import Breaker, HeldBack


@pytest.fixture
def heard():
    """What the signals told, as (name, arguments)."""
    with hearing() as told:
        yield told


@pytest.fixture
def made(monkeypatch):
    """Makes a breaker; Redis answers its probes while there is something in `.answers`."""
    monkeypatch.setattr(module, "_FIRST", 0.01)
    monkeypatch.setattr(module, "_LONGEST", 0.08)
    ends = []

    def make() -> Breaker:
        def probe() -> None:
            one.probed.append(time.monotonic())
            if not one.answers:
                raise one.error

        one = Breaker("here", probe)
        one.probed, one.answers, one.error = [], False, redis.ConnectionError("no")
        ends.append(one.end)
        return one

    yield make
    for end in ends:
        end()


def holds(breaker: Breaker, *, write: bool = False) -> bool:
    try:
        breaker.check(write=write)
    except HeldBack:
        return True
    return False


class TestOpening:
    def test_one_call_without_an_answer_in_time(self, made):
        breaker = made()
        breaker.note([], redis.TimeoutError("slow"))
        assert holds(breaker)
        assert holds(breaker, write=True)

    def test_three_failures_in_a_row(self, made):
        breaker = made()
        for error in (redis.ConnectionError("a"), redis.ConnectionError("b")):
            breaker.note([], error)
        assert not holds(breaker)
        breaker.note(["an answer"])
        for error in (redis.ConnectionError("a"), redis.ConnectionError("b")):
            breaker.note([], error, write=True)
        assert not holds(breaker)
        breaker.note([], redis.ConnectionError("c"))
        assert holds(breaker)
        assert holds(breaker, write=True)

    @pytest.mark.parametrize(
        ("answer", "is_read"),
        [
            ("OOM command not allowed when used memory > 'maxmemory'.", True),
            ("READONLY You can't write against a read only replica.", True),
            ("ERR Error running script (call to f_1): @user_script:1: -READONLY You can't.", True),
            ("MISCONF Redis is configured to save RDB snapshots, but it cannot.", True),
            ("NOREPLICAS Not enough good replicas to write.", True),
            ("LOADING Redis is loading the dataset in memory", False),
            ("NOAUTH Authentication required.", False),
            ("WRONGPASS invalid username-password pair or user is disabled.", False),
            ("CLUSTERDOWN The cluster is down", False),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is 'no'.", False),
        ],
    )
    def test_answers_of_a_redis_that_takes_no_writes(self, made, answer, is_read):
        """Reads find out themselves what they get. A read that writes a mark is no sign that they
        get nothing."""
        error = BaseParser.parse_error(answer)
        breaker = made()
        for _ in range(3):
            assert not holds(breaker, write=True)
            breaker.note(["read"])  # a read that works says nothing of writes
            breaker.note(["NOSCRIPT", error], write=True)
        assert holds(breaker, write=True)
        assert not holds(breaker)
        for _ in range(3):
            breaker.note([error])
        assert holds(breaker) is not is_read
        breaker.note([], redis.TimeoutError())
        assert holds(breaker)
        breaker.error = error
        if is_read:
            wait_for(lambda: not holds(breaker))
        else:
            wait_for(lambda: len(breaker.probed) > 3)
            assert holds(breaker)
        assert holds(breaker, write=True)
        breaker.answers = True
        wait_for(lambda: not holds(breaker, write=True))

    @pytest.mark.parametrize(
        "answer", ["NOSCRIPT No matching script.", "WRONGTYPE Operation against", "ERR user_script"]
    )
    def test_what_a_call_is_to_blame_for(self, made, answer):
        breaker = made()
        for _ in range(10):
            breaker.note([BaseParser.parse_error(answer)], write=True)
        assert not holds(breaker, write=True)

    def test_a_write_that_works_ends_the_row(self, made):
        breaker = made()
        for _ in range(5):
            breaker.note([BaseParser.parse_error("OOM full")], write=True)
            breaker.note([BaseParser.parse_error("OOM full")], write=True)
            breaker.note(["written"], write=True)
        assert not holds(breaker, write=True)


class TestClosing:
    def test_probes_come_less_and_less_often(self, made):
        breaker = made()
        breaker.note([], redis.TimeoutError())
        wait_for(lambda: len(breaker.probed) >= 6)
        pauses = [b - a for a, b in zip(breaker.probed, breaker.probed[1:], strict=False)][:5]
        for pause, least in zip(pauses, (0.02, 0.04, 0.08, 0.08, 0.08), strict=True):
            assert pause >= least
        breaker.answers = True
        wait_for(lambda: not breaker.is_open)
        assert not holds(breaker)
        assert not holds(breaker, write=True)
        assert breaker.outages == 1

    def test_one_that_comes_and_goes_is_asked_less_and_less_often(self, made):
        breaker = made()
        breaker.answers = True
        for _ in range(5):
            breaker.note([], redis.TimeoutError())
            wait_for(lambda: not breaker.is_open)
        started = time.monotonic()
        breaker.note([], redis.TimeoutError())
        wait_for(lambda: not breaker.is_open)
        assert time.monotonic() - started >= 0.08

    def test_it_is_asked_within_two_seconds_however_often_it_goes(self, made, monkeypatch):
        monkeypatch.undo()
        breaker = made()
        breaker.answers = True
        for _ in range(4):
            breaker.note([], redis.TimeoutError())
            started = time.monotonic()
            wait_for(lambda: not breaker.is_open)
            assert time.monotonic() - started < 2

    def test_after_a_calm_time_it_is_asked_soon_again(self, made, monkeypatch):
        monkeypatch.setattr(module, "_CALM", 0)
        monkeypatch.setattr(module, "_LONGEST", 30)
        breaker = made()
        breaker.answers = True
        for _ in range(20):  # doubled each time that were hours
            breaker.note([], redis.TimeoutError())
            wait_for(lambda: not breaker.is_open)

    def test_one_thread_waits_whoever_calls(self, made):
        breaker = made()
        before = threading.active_count()

        def call(_: int) -> None:
            breaker.note([], redis.TimeoutError())
            assert holds(breaker)

        with ThreadPoolExecutor(20) as pool:
            list(pool.map(call, range(200)))
        assert threading.active_count() == before + 1
        assert (breaker.outages, breaker.failures) == (1, 400)

    def test_a_thread_that_died_is_replaced(self, made, monkeypatch):
        breaker = made()
        monkeypatch.setattr(threading, "excepthook", lambda args: None)
        probe, breaker._probe = breaker._probe, lambda: 1 / 0
        breaker.note([], redis.TimeoutError())
        wait_for(lambda: not breaker._thread.is_alive())
        breaker._probe, breaker.answers = probe, True
        assert holds(breaker)
        wait_for(lambda: not breaker.is_open)

    def test_the_thread_ends_with_its_settings(self, plain, configure):
        plain.stop()
        before = threading.active_count()
        connection.breaker().note([], redis.TimeoutError())
        assert threading.active_count() == before + 1
        configure(MAX_AGE=7)
        wait_for(lambda: threading.active_count() == before, seconds=5)
        assert not connection.breaker().is_open


class TestTelling:
    def test_once_not_with_each_call(self, made, heard, caplog):
        breaker = made()
        for _ in range(5):
            breaker.note([], redis.TimeoutError("Timeout reading from socket"))
            assert holds(breaker)
        breaker.answers = True
        wait_for(lambda: len(heard) == 2)
        (started, reason), (ended, end) = heard
        assert (started, ended) == ("started", "ended")
        for told in (reason, end):
            assert told["sender"] is Breaker
            assert (told["redis"], told["reason"]) == ("here", "Timeout reading from socket")
        assert 0 < end["seconds"] < 10
        lines = [r.message for r in caplog.records if r.name == "writebehind"]
        assert lines[0] == (
            "Redis at here is away: Timeout reading from socket. Until it is back, calls do what "
            "WHEN_DOWN says. manage.py writebehind_doctor may know what is wrong."
        )
        assert lines[1].startswith("Redis at here is back, after ")
        assert len(lines) == 2

    def test_a_receiver_that_fails_harms_nobody(self, made, caplog):
        def fail(**arguments):
            raise ValueError

        signals.fallback_started.connect(fail)
        signals.fallback_ended.connect(fail)
        try:
            breaker = made()
            breaker.note([], redis.TimeoutError())
            breaker.answers = True
            wait_for(lambda: sum("fail" in r.message for r in caplog.records) == 2)
        finally:
            signals.fallback_started.disconnect(fail)
            signals.fallback_ended.disconnect(fail)
        assert not breaker.is_open
