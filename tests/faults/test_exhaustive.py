"""Everything that can go wrong at every named step, whoever is around, for every kind of write.

The cases are made from `checkpoints.NAMES`. In each, one thread stops at the step; its lease ends
and, but for the lone one, a second flusher comes; then the first one dies, fails, or goes on.
Whatever was acknowledged is in the database once after it, and every read in between is right. What
was not acknowledged is there once or not at all.

Numbers 1, 2, 3, 4, 5, 9, 10, 11, 12 and 19 of the scenarios, on each of the databases.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import Error, connections

from tests.backdoor.batches import end_lease
from tests.backdoor.flushes import isolate_at_once
from tests.backdoor.shards import assert_drained
from tests.faults.injection import FAULTS, NEXT, Fault
from tests.faults.kinds import BUFFERS, KINDS, Kind
from tests.models import Owner, Pair
from writebehind_app import Add
from writebehind_app.buffers.base import Buffer
from writebehind_app.checkpoints import NAMES
from writebehind_app.database.letters import described
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.models import AppliedBatch, DeadLetter

on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)

# Who is around: nobody; a second flusher that takes over while the first is still there; one that
# has finished when the first goes on. Only then there is a case in which nothing goes wrong.
AROUND = ("lone", "taken over", "sleeper")
CASES = [
    *itertools.product(NAMES, FAULTS, AROUND),
    *((step, "nothing", "sleeper") for step in NAMES),
]
WRITE_CASES = [case for case in CASES if case[0].startswith("write.")]
FLUSH_CASES = [case for case in CASES if case[0].startswith("flush.")]


@pytest.fixture(scope="module")
def threads(django_db_setup: None) -> Iterator[list[ThreadPoolExecutor]]:
    """Two processes, as far as Django and Redis can see."""
    pools = [ThreadPoolExecutor(1) for _ in range(2)]
    yield pools
    for pool in pools:
        pool.submit(connections.close_all).result()
        pool.shutdown()


@on_valkey
@pytest.mark.parametrize(("step", "how", "around"), FLUSH_CASES)
def test_a_flush(step, how, around, database, redis_server, configure, threads):
    configure(SHARDS=1)
    for buffer, kinds in BUFFERS.items():
        for kind in kinds:
            kind.prepare()
            kind.write.send()
        check_reads(kinds, [kind.after(kind.write) for kind in kinds])
        with Fault(step, how) as fault:
            first = threads[0].submit(fault.run, buffer.flush)
            assert fault.reached.wait(60)
            check_reads(kinds, [kind.after(kind.write) for kind in kinds])
            for kind in kinds:
                kind.later.send()
            expected = [kind.after(kind.write, kind.later) for kind in kinds]
            check_reads(kinds, expected)

            end_lease(buffer)
            second = None if around == "lone" else threads[1].submit(buffer.flush)
            if second and around == "sleeper":
                if fault.in_transaction:
                    fault.end_session()
                if fault.session_ended or not fault.in_transaction:
                    second.result(60)
                    assert [kind.stored() for kind in kinds] == expected
            while second and not (second.done() or fault.taken_over.wait(0.005)):
                pass
            fault.go_on()
            check_reads(kinds, expected, first, second)
            error = first.result(60)
            assert fault.met or fault.session_ended  # which may be what it meets first
            if how == "nothing":
                assert error is None or (fault.session_ended and isinstance(error, Error))
            else:
                assert isinstance(error, FAULTS[how])
            if second:
                second.result(60)
        check_reads(kinds, expected)
        end_lease(buffer)
        buffer.flush()
        check_drained(buffer, kinds, expected)
    assert_drained(BUFFERS)


@on_valkey
@pytest.mark.parametrize(("step", "how", "around"), WRITE_CASES)
def test_a_write(step, how, around, database, redis_server, configure, threads):
    configure(SHARDS=1)
    for kind in KINDS:
        kind.prepare()
        sent = [kind.write] if step == "write.accepted" else []
        with Fault(step, how) as fault:
            first = threads[0].submit(fault.run, kind.write.send)
            assert fault.reached.wait(60)
            check_reads([kind], [kind.after(*sent)])
            kind.later.send()
            check_reads([kind], [kind.after(*sent, kind.later)])
            second = None if around == "lone" else threads[1].submit(kind.buffer.flush)
            if second and around == "sleeper":
                second.result(60)
            fault.go_on()
            error = first.result(60)
            assert fault.met
            if second:
                second.result(60)

        without = kind.after(*sent, kind.later)
        with_it = kind.after(*sent, kind.later, *([] if sent else [kind.write]))
        if error is None:
            possible = [with_it]
        elif isinstance(error, AlreadyExists):
            assert kind.name == "create"
            possible = [without]
        else:  # a caller that got no answer cannot know
            assert isinstance(error, FAULTS[how])
            possible = [with_it, without]
        seen = kind.read()
        assert seen in possible
        kind.buffer.flush()
        check_drained(kind.buffer, [kind], [seen])
    assert_drained(BUFFERS)


@on_valkey
@pytest.mark.parametrize(("step", "how"), [case[:2] for case in FLUSH_CASES if case[2] == "lone"])
def test_a_flush_of_what_the_database_refuses(
    step, how, database, redis_server, configure, monkeypatch
):
    """The dead letters are there once, and the rest is stored, as if nothing had gone wrong."""
    configure(SHARDS=1)
    owner = Owner.objects.create(name="anna")
    Pair.objects.create(owner=owner, name="other", note="taken")
    # So many that parts of several, of which one is refused, are tried and divided.
    Pair.objects.bulk_create(Pair(owner=owner, name=str(n), value=n) for n in range(8))
    for n in range(8):
        note = {"note": "taken"} if n == 3 else {}
        Pair.buffered.set(owner=owner, name=str(n), value=Add(5), **note)
    Pair.buffered.set(owner=404404, name="orphan")
    with monkeypatch.context() as patch, Fault(step, how) as fault:
        # At once: the steps of a first try, which is refused as a whole, come in each batch.
        isolate_at_once(patch)
        fault.go_on()
        assert isinstance(fault.run(Pair.buffered.flush), FAULTS[how])
        assert fault.met
    end_lease(Pair.buffered)
    Pair.buffered.flush()

    stored = Pair.objects.exclude(name="other").values_list("name", "value")
    assert dict(stored) == {str(n): n if n == 3 else n + 5 for n in range(8)}
    letters = [described(letter)["key"]["name"] for letter in DeadLetter.objects.all()]
    assert sorted(letters) == ["3", "orphan"]
    assert [batch.dead_letters for batch in AppliedBatch.objects.all()] == [2]
    assert Pair.buffered.count_pending() == 0
    assert_drained([Pair.buffered])


def check_reads(kinds: Sequence[Kind], expected: list[Any], *while_running: Future | None) -> None:
    """Reads are right, and stay so while flushers run."""
    while True:
        over = all(future is None or future.done() for future in while_running)
        assert [kind.read() for kind in kinds] == expected
        if over:
            return


def check_drained(buffer: Buffer, kinds: Sequence[Kind], expected: list[Any]) -> None:
    """The database has what is expected, and neither it nor Redis anything else."""
    assert [kind.stored() for kind in kinds] == expected
    check_reads(kinds, expected)
    assert buffer.count_pending() == 0
    assert not buffer.pending()
    assert not DeadLetter.objects.exists()


def test_there_are_cases_for_every_step():
    assert list(NEXT) == list(NAMES)
    steps = {name for name in NAMES if not name.startswith("change.")}  # see test_divisions.py
    assert {step for step, _, _ in WRITE_CASES + FLUSH_CASES} == steps
