"""A process is killed at every named step of an append and of a flush of a log; each record is
there once, in its order, and in every window in between."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.test_steps import AFTER_COMMIT, FLUSH_STEPS, WRITE_STEPS
from tests.models import Seat
from writebehind_app import checkpoints
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.models import AppliedBatch


def die_at(step: str) -> None:
    def hook(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.hook = hook


def flush_and_die(step: str) -> None:
    """In a child."""
    die_at(step)
    Seat.buffered.flush()


def append_and_die(step: str) -> None:
    """In a child."""
    die_at(step)
    Seat.buffered.extend({"number": n} for n in (2, 3))


def shown() -> list[int]:
    numbers = [seat.number for seat in Seat.buffered.window()]
    assert Seat.buffered.count() == len(numbers)
    return numbers


def stored() -> list[int]:
    return list(Seat.objects.order_by("pk").values_list("number", flat=True))


def assert_taken(numbers: list[int]) -> None:
    for number in numbers:
        with pytest.raises(AlreadyExists):
            Seat.buffered.append(number=number)


@pytest.mark.process
@pytest.mark.parametrize("step", FLUSH_STEPS)
def test_a_flusher_is_killed(step, database, redis_server, configure, start_child):
    """Scenarios 1 to 4."""
    configure(LEASE=0.3)
    Seat.buffered.extend({"number": n} for n in (3, 1))
    Seat.buffered.flush()
    Seat.buffered.extend({"number": n} for n in (4, 2))

    child = start_child(flush_and_die, step)
    assert child.wait(60) == -signal.SIGKILL

    assert shown() == [3, 1, 4, 2]
    assert stored() == ([3, 1, 4, 2] if step in AFTER_COMMIT else [3, 1])
    assert_taken([1, 2, 3, 4])
    Seat.buffered.append(number=0)  # after the batch was frozen
    assert shown() == [3, 1, 4, 2, 0]

    Seat.buffered.flush()

    assert stored() == shown() == [3, 1, 4, 2, 0]
    assert Seat.buffered.count_pending() == 0
    assert_taken([0, 1, 2, 3, 4])
    entries = AppliedBatch.objects.order_by("upto").values_list("entries", flat=True)
    assert list(entries) == ([2, 3] if step == "flush.claiming" else [2, 2, 1])


@pytest.mark.process
@pytest.mark.parametrize("step", WRITE_STEPS)
def test_a_writer_is_killed(step, database, redis_server, start_child):
    Seat.buffered.append(number=1)

    child = start_child(append_and_die, step)
    assert child.wait(60) == -signal.SIGKILL

    expected = [1, 2, 3] if step == "write.accepted" else [1]
    assert shown() == expected
    Seat.buffered.flush()
    assert stored() == shown() == expected
