"""Every read is explained by some order of the writes, while a flusher runs."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections

from tests.backdoor.declarations import redeclare
from tests.backdoor.flushes import BROKEN
from tests.faults.histories import Event, inexplicable
from tests.models import Counter
from writebehind_app import Add, checkpoints
from writebehind_app.models import AppliedBatch


class TestChecker:
    """Times are those at which the events are called and return."""

    @pytest.mark.parametrize(
        "history",
        [
            [],
            [("set", 1, 0, 1), ("get", 1, 2, 3)],
            [("get", None, 0, 1), ("set", 1, 2, 3), ("add", 2, 4, 5), ("get", 3, 6, 7)],
            # While a write is under way, a read sees it or not; and once it was seen, it is there.
            [("set", 1, 0, 9), ("get", None, 1, 2), ("get", 1, 3, 4), ("get", 1, 5, 6)],
            [("set", 1, 0, 9), ("set", 2, 0, 9), ("get", 2, 10, 11), ("get", 2, 12, 13)],
            [("add", 1, 0, 9), ("add", 2, 0, 9), ("get", 2, 1, 2), ("get", 3, 3, 4)],
            # No answer came: it happened later, or never.
            [("add", 1, 0, math.inf), ("get", None, 1, 2), ("get", 1, 3, 4)],
            [("add", 1, 0, math.inf), ("get", None, 1, 2), ("set", 5, 3, 4), ("get", 5, 5, 6)],
            [("set", 1, 0, 1), ("set", None, 2, 3), ("get", None, 4, 5)],
        ],
    )
    def test_takes_what_has_an_order(self, history):
        assert inexplicable(_events(history)) == []

    @pytest.mark.parametrize(
        ("history", "stuck"),
        [
            ([("set", 1, 0, 1), ("get", None, 2, 3)], 1),  # missed
            ([("set", 1, 0, 1), ("set", 2, 2, 3), ("get", 1, 4, 5)], 2),  # gone back
            ([("set", 1, 0, 1), ("add", 1, 2, 3), ("get", 3, 4, 5)], 2),  # counted twice
            ([("set", 1, 0, 9), ("get", 1, 1, 2), ("get", None, 3, 4)], 2),  # seen, then not
            ([("set", 1, 0, math.inf), ("get", 1, 1, 2), ("get", None, 3, 4)], 2),
            # Each alone has an order, and they have none together.
            (
                [
                    *(("set", 1, 0, 1), ("set", 2, 0, 1)),
                    *(("get", 1, 2, 3), ("get", 2, 4, 5), ("get", 1, 6, 7)),
                ],
                3,
            ),
        ],
    )
    def test_finds_what_has_none(self, history, stuck):
        events = _events(history)
        assert events[stuck] in inexplicable(events)

    def test_is_done_with_a_long_history(self):
        choose = random.Random(1)
        events, value = [], 0
        for n in range(3000):
            begin, end = n - choose.random() * 3, n + choose.random() * 3
            if n % 2:
                value += n
                events.append(Event("writer", begin, end, "add", n))
            else:
                events.append(Event("reader", begin, end, "get", value or None))
        assert inexplicable(events) == []
        events[1501] = events[1501]._replace(value=7)
        assert inexplicable(events) != []


def _events(history: list[tuple[Any, ...]]) -> list[Event]:
    return [
        Event("client", called, returned, operation, value)
        for operation, value, called, returned in history
    ]


# Clients


@contextmanager
def in_background(*loops: Callable[[], None]) -> Iterator[None]:
    """Runs each again and again while the block runs; what one of them raises, it raises."""
    done = threading.Event()
    errors: list[BaseException] = []

    def run(loop: Callable[[], None]) -> None:
        try:
            while not done.is_set():
                loop()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[loop]) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


NAMES = ["a", "b", "c"]
READS: dict[str, Callable[[], dict[str, int | None]]] = {
    "get": lambda: {name: _get(name) for name in NAMES[:1]},
    "get_many": lambda: {name: row.big for name, row in Counter.buffered.get_many(NAMES).items()},
    "overlay": lambda: {row.name: row.big for row in Counter.buffered.overlay(_queryset())},
}


def _get(name: str) -> int | None:
    try:
        return Counter.buffered.get(name=name).big
    except Counter.DoesNotExist:
        return None


def _queryset() -> Any:
    return Counter.objects.filter(name__in=NAMES)


class Recorder:
    """Clients that note what they do, by name of the row."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.histories: dict[str, list[Event]] = defaultdict(list)
        self.numbers = itertools.count(1)

    def writer(self, client: str) -> Callable[[], None]:
        choose = random.Random(client)

        def write() -> None:
            name, n = choose.choice(NAMES), next(self.numbers)
            called = time.monotonic()
            match choose.randrange(10):
                case 0 if self.how != "overlay":  # which has only rows that are stored
                    Counter.buffered.delete(name=name)
                    done = "set", None
                case 1 | 2:
                    Counter.buffered.set(name=name, big=10**6 * n)
                    done = "set", 10**6 * n
                case _:
                    Counter.buffered.set(name=name, big=Add(n))  # no other adds as much
                    done = "add", n
            self.histories[name].append(Event(client, called, time.monotonic(), *done))
            time.sleep(0.008)

        return write

    def reader(self, client: str) -> Callable[[], None]:
        def read() -> None:
            called = time.monotonic()
            values = READS[self.how]()
            returned = time.monotonic()
            names = NAMES[:1] if self.how == "get" else NAMES
            for name in names:
                seen = Event(client, called, returned, "get", values.get(name))
                self.histories[name].append(seen)
            time.sleep(0.001)

        return read

    def record(self, seconds: float) -> None:
        clients = [self.writer("w1"), self.writer("w2"), self.reader("r1"), self.reader("r2")]
        with in_background(*clients, Counter.buffered.flush):
            time.sleep(seconds)

    def inexplicable(self) -> dict[str, list[Event]]:
        found = {name: inexplicable(history, 0) for name, history in self.histories.items()}
        return {name: events for name, events in found.items() if events}


@pytest.fixture
def dawdling(configure, monkeypatch) -> None:
    """A flusher that takes its time between Redis and the database, so that readers look then."""
    configure(SHARDS=2, BATCH_SIZE=2)

    def hook(step: str) -> None:
        if step in ("flush.claimed", "flush.committed"):
            time.sleep(0.006)

    monkeypatch.setattr(checkpoints, "hook", hook)


def store_rows() -> None:
    Counter.objects.bulk_create(Counter(name=name, big=0) for name in NAMES)


every_way = pytest.mark.parametrize("how", READS)


@every_way
@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize("cache_seconds", [0, 0.2, 60])
def test_every_read_is_explained_by_an_order_of_the_writes(
    how, database, redis_server, dawdling, monkeypatch, cache_seconds
):
    """Scenarios 15, 21 and 48."""
    redeclare(monkeypatch, Counter.buffered, options={"CACHE_SECONDS": cache_seconds})
    store_rows()
    recorder = Recorder(how)
    recorder.record(1)
    while len(recorder.histories["a"]) <= 50 or AppliedBatch.objects.count() <= 5:
        recorder.record(0.3)  # a busy machine comes to little in a second
    Counter.buffered.flush()
    stored = dict(Counter.objects.values_list("name", "big"))
    for name, history in recorder.histories.items():  # the table, as a read after all others
        end = time.monotonic()
        history.append(Event("table", end, end, "get", stored.get(name)))
    assert recorder.inexplicable() == {}


class TestBrokenPackage:
    """What the checker has to notice."""

    def is_noticed(self, how: str) -> bool:
        store_rows()
        recorder = Recorder(how)
        for _ in range(100):  # a busy machine may take long to come to a wrong read
            recorder.record(0.3)
            if recorder.inexplicable():
                return True
        return False

    @every_way
    @pytest.mark.parametrize("broken", BROKEN)
    def test_is_noticed(self, broken, how, plain, dawdling, monkeypatch):
        BROKEN[broken](monkeypatch)
        assert self.is_noticed(how)
