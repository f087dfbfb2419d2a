"""Processes that write and flush while a test takes their Redis away, and what they know of it.

`WRITEBEHIND_TEST_WRITES=100000` makes them write so often, half of it before anything happens.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.db import connections

from tests.models import Counter, Item, Line, Setting
from tests.outages import wait_for_redis
from tests.servers import RedisServer
from writebehind_app import Add, checkpoints
from writebehind_app.exceptions import (
    BufferUnavailable,
    NotDurable,
    WritebehindError,
    WriteUncertain,
)
from writebehind_app.flush.engine import flush

BUFFERS = (Counter.buffered, Item.buffered, Line.buffered, Setting.buffered)
WRITERS, KINDS = 2, 5
ROUNDS = int(os.environ.get("WRITEBEHIND_TEST_WRITES", "0")) // (WRITERS * KINDS)  # of each writer
DEFAULT = 5  # of a value of Setting, which an Add begins with


def drained() -> None:
    wait_for_redis()
    deadline = time.monotonic() + 60
    for buffer in BUFFERS:
        while True:
            try:
                buffer.flush()
                break
            except WritebehindError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert buffer.count_pending() == 0


def flush_and_kill(patch: pytest.MonkeyPatch, step: str, server: RedisServer) -> None:
    """Flush, and kill the server when the flush has come to a step."""
    reached = []

    def hook(name: str) -> None:
        if name == f"flush.{step}" and not reached:
            reached.append(name)
            server.kill()

    with patch.context() as within:
        within.setattr(checkpoints, "hook", hook)
        with suppress(BufferUnavailable):
            Item.buffered.flush()
    assert reached


class Record:
    """What a writer knows of its calls."""

    def __init__(self) -> None:
        self.sums = {"shared": [0, 0], "own": [0, 0], "meta": [0, 0]}  # acknowledged, uncertain
        self.lines: list[list[str]] = [[], []]
        self.last: dict[int, list[int]] = {}  # what may be in each row
        self.longest = 0.0  # seconds between two acknowledged writes

    def note(self, call: Callable[[], Any], taken: Callable[[bool], None]) -> bool:
        """Make a call, and note it with `taken(certain)` unless it was refused."""
        try:
            call()
        except (NotDurable, WriteUncertain):
            taken(False)
        except BufferUnavailable:
            pass
        else:
            taken(True)
            return True
        return False

    def count(self, name: str) -> Callable[[bool], None]:
        def taken(certain: bool) -> None:
            self.sums[name][not certain] += 1

        return taken


def write_on(me: int, rows: int = 1, seconds: float = 120) -> None:
    """Write until it is told to end, and the last round was acknowledged; then tell the record.
    It writes to so many rows in turn. It says when half of what it has to write is written."""
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ending.set()), daemon=True).start()
    record, n, before = Record(), 0, time.monotonic()
    deadline = before + seconds + ROUNDS / 20
    while True:
        if n == ROUNDS // 2:
            print("begun")
        n += 1
        row = n % rows

        def line_taken(certain: bool, text: str = f"{me}-{n}") -> None:
            record.lines[not certain].append(text)

        def value_taken(certain: bool, n: int = n, row: int = row) -> None:
            before = [] if certain else record.last.get(row, [0])
            record.last[row] = [*before, n]

        every = [
            record.note(
                lambda: Counter.buffered.set(name="shared", big=Add(1)), record.count("shared")
            ),
            record.note(
                lambda row=row: Counter.buffered.set(name=f"{me}-{row}", big=Add(1)),
                record.count("own"),
            ),
            record.note(
                lambda n=n, row=row: Item.buffered.set(number=100 * me + row, a=n, b=str(n)),
                value_taken,
            ),
            record.note(lambda n=n: Line.buffered.append(text=f"{me}-{n}"), line_taken),
            record.note(
                lambda row=row: Setting.buffered.of(site=100 * me + row).update(n=Add(1)),
                record.count("meta"),
            ),
        ]
        if all(every):
            now = time.monotonic()
            record.longest, before = max(record.longest, now - before), now
            if ending.is_set() and n >= max(rows, ROUNDS):
                break
        assert time.monotonic() < deadline
        if not ROUNDS:
            time.sleep(0.01 * random.random())
    connections.close_all()
    print(json.dumps(vars(record)))


def flush_on() -> None:
    """Flush until it is told to end."""
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ending.set()), daemon=True).start()
    print("begun")
    while not ending.wait(0.02):
        for buffer in BUFFERS:
            try:
                flush(buffer)
            except WritebehindError:
                break
    connections.close_all()


def assert_as_told(told: list[dict[str, Any]]) -> None:
    """What is stored is what the writers were told."""
    shared = [sum(one["sums"]["shared"][n] for one in told) for n in range(2)]
    assert shared[0] <= Counter.objects.get(name="shared").big <= sum(shared)
    stored = list(Line.objects.values_list("text", flat=True))
    assert len(stored) == len(set(stored))
    for me, one in enumerate(told, 1):
        own = range(100 * me, 100 * me + len(one["last"]))
        counters = Counter.objects.filter(name__startswith=f"{me}-")
        sure, unsure = one["sums"]["own"]
        assert sure <= sum(counter.big for counter in counters) <= sure + unsure
        sure, unsure = one["sums"]["meta"]
        settings = Setting.objects.filter(site__in=own, key="n")
        assert sure <= sum(setting.value - DEFAULT for setting in settings) <= sure + unsure
        for row, last in one["last"].items():
            item = Item.objects.get(number=own[int(row)])
            assert item.a in last
            assert item.b == str(item.a)
        lines = {text for text in stored if text.startswith(f"{me}-")}
        assert set(one["lines"][0]) <= lines <= {*one["lines"][0], *one["lines"][1]}
