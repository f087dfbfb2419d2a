"""Many processes register the same e-mail at once: one wins, whatever a flusher does meanwhile."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest
from django.db import OperationalError, connections

from tests.models import Visit
from tests.router import current
from writebehind_app.exceptions import AlreadyExists

PROCESSES = 50
on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


def register_at_once(count: int, events: list[int]) -> None:
    """In a child: `count` processes append a record for each event; says how often each won."""
    start = time.time() + 1.5
    readers = []
    for _ in range(count):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, json.dumps(_register(start, events)).encode())
            os._exit(0)
        os.close(writer)
        readers.append(reader)
    won = [json.loads(os.read(reader, 65536)) for reader in readers]
    print(json.dumps([sum(by_event) for by_event in zip(*won, strict=True)]))


def connect() -> None:
    """A server cuts connections where so many come at once on a busy machine."""
    for left in reversed(range(10)):
        try:
            return connections[current()].ensure_connection()
        except OperationalError:
            if not left:
                raise
            time.sleep(0.1)


def _register(start: float, events: list[int]) -> list[int]:
    """Whether this process won, for each event."""
    connect()
    time.sleep(max(start - time.time(), 0))
    won = []
    for event in events:
        try:
            Visit.buffered.append(event=event, email="all@example.com")
            won.append(1)
        except AlreadyExists:
            won.append(0)
    return won


def flush_until_closed() -> None:
    """In a child."""
    import select

    print("ready")
    while not select.select([sys.stdin], [], [], 0)[0]:
        Visit.buffered.flush()


def race(start_child, events: list[int]) -> list[int]:
    child = start_child(register_at_once, PROCESSES, events)
    return json.loads(child.stdout.readline())


@pytest.mark.process
@pytest.mark.slow
@on_valkey
def test_50_processes_register_the_same_email_at_once(
    database, redis_server, configure, start_child
):
    configure(SOCKET_TIMEOUT=20)  # 50 processes may be more than the machine has time for
    assert race(start_child, [1]) == [1]
    assert Visit.buffered.count() == 1

    # With a flusher that takes each record away as soon as it is there.
    flusher = start_child(flush_until_closed)
    assert flusher.stdout.readline() == "ready\n"
    assert race(start_child, [1, 2, 3, 4, 5]) == [0, 1, 1, 1, 1]
    flusher.stdin.close()
    assert flusher.wait(30) == 0

    Visit.buffered.flush()
    assert race(start_child, [5, 6]) == [0, 1]
    Visit.buffered.flush()
    stored = Visit.objects.order_by("event").values_list("event", flat=True)
    assert list(stored) == [1, 2, 3, 4, 5, 6]
