"""What a log costs: memory near the payload, work in proportion to what is asked for (G8)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.backdoor.records import bytes_of_texts
from tests.integration.test_bounded import LOOKING_FOR_WORK, calls
from tests.models import Line, Visit
from writebehind_app.flush.engine import flush

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
PENDING = 40_000


def register(n: int) -> None:
    Visit.buffered.extend(
        {"event": i % 7, "email": f"visitor{i}@example.com", "details": {"seat": i}}
        for i in range(n)
    )


@on_sqlite
def test_40_000_pending_records_take_less_than_120_bytes_each_above_their_payload(
    database, redis_server
):
    with redis_server.client(decode_responses=True) as client:
        before = client.info("memory")["used_memory"]
        register(PENDING)
        used = client.info("memory")["used_memory"] - before
    payload = bytes_of_texts(Visit.buffered)
    assert Visit.buffered.count_pending() == PENDING
    assert (used - payload) / PENDING < 120


@on_sqlite
@pytest.mark.parametrize("due_only", [False, True])
def test_a_flush_of_1_000_among_20_000(database, redis_server, configure, due_only):
    configure(MAX_AGE=0)
    Line.buffered.extend({"text": str(n)} for n in range(PENDING))
    with redis_server.client(decode_responses=True) as client:
        client.config_resetstat()
        result = flush(Line.buffered, limit=1000, due_only=due_only)
        commands = calls(client)
    assert (result.rows, result.remaining) == (1000, PENDING - 1000)
    assert sum(commands.values()) <= 4 * 1000 + 100
    assert not LOOKING_FOR_WORK & commands.keys()
    assert Line.objects.count() == 1000


@on_sqlite
def test_verbs_look_at_what_they_are_asked_for(database, redis_server):
    register(5000)
    verbs: list[tuple[Callable[[], object], int]] = [
        (lambda: Visit.buffered.append(event=1, email="new"), 20),
        (lambda: Visit.buffered.pending(limit=10), 30),
        (lambda: Visit.buffered.count_pending(), 30),
        (lambda: Visit.buffered.window(), 20),
        (lambda: Visit.buffered.discard(event=1, email="new"), 30),
    ]
    for call, _ in verbs:
        call()  # and Redis has the scripts
    with redis_server.client(decode_responses=True) as client:
        for call, most in verbs:
            client.config_resetstat()
            call()
            commands = calls(client)
            assert sum(commands.values()) <= most
            assert not LOOKING_FOR_WORK & commands.keys()


@on_sqlite
@pytest.mark.parametrize("times", [{}, {"registered_at": "2030-01-01T00:00Z"}])
def test_a_window_of_long_records_is_no_long_wait(database, redis_server, times):
    text = "x" * 60_000
    for n in range(10):
        Visit.buffered.extend(
            {"event": n, "email": f"{i}", "details": text, **times} for i in range(50)
        )
    with redis_server.client(decode_responses=True) as client:
        client.config_resetstat()
        window = Visit.buffered.window()
        pages = calls(client)["evalsha"]
    assert [visit.details for visit in window] == [text] * 500
    assert Visit.buffered.count() == 500
    assert pages > 500 * 60_000 / 2_500_000  # which is more than a page has


@on_sqlite
def test_redis_holds_after_the_drain_what_it_held_before(database, redis_server):
    """Scenario 45."""

    def held() -> int:
        with redis_server.client(decode_responses=True) as client:
            return sum(client.memory_usage(key) for key in client.scan_iter())

    def append_and_drain(turn: int) -> None:
        Visit.buffered.extend(
            {"event": turn, "email": f"{n}", "note": "x" * 100} for n in range(2000)
        )
        Visit.buffered.flush()

    append_and_drain(0)
    size = held()
    assert size < 2000 * Visit.buffered.option("SHARDS")  # counters, and empty streams
    append_and_drain(1)
    assert held() <= size + 100
