"""G2 and G3 of a log: random sequences come to what they mean one by one, at every step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.test_one_by_one import act, sequences
from tests.models import Seat
from writebehind_app.exceptions import AlreadyExists

NUMBERS = st.integers(1, 5)
STEPS = st.one_of(
    st.tuples(st.just("append"), NUMBERS),
    st.tuples(st.just("extend"), st.lists(NUMBERS, max_size=4)),
    st.tuples(st.sampled_from(["discard", "delete"]), NUMBERS),
    st.tuples(st.sampled_from(["claim", "flush"]), st.none()),
)


class Log:
    """What must be there."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.waiting: list[int] = []

    def append(self, numbers: list[int]) -> bool:
        taken = {*self.stored, *self.waiting}
        free = len({*numbers}) == len(numbers) and taken.isdisjoint(numbers)
        self.waiting += numbers if free else []
        return free

    def flush(self) -> None:
        self.stored, self.waiting = self.stored + self.waiting, []


def append(verb: str, what: Any) -> bool:
    try:
        if verb == "append":
            Seat.buffered.append(number=what)
        else:
            Seat.buffered.extend({"number": number} for number in what)
    except AlreadyExists:
        return False
    return True


@sequences
@given(st.lists(STEPS, min_size=1, max_size=15))
def play(steps: list[tuple[str, Any]]) -> None:
    Seat.buffered.discard()
    Seat.objects.all().delete()
    log = Log()
    for verb, what in steps:
        match verb:
            case "append" | "extend":
                numbers = what if verb == "extend" else [what]
                assert append(verb, what) == log.append(numbers)
            case "discard":
                assert Seat.buffered.discard(number=what) == log.waiting.count(what)
                log.waiting = [number for number in log.waiting if number != what]
            case "delete":
                Seat.objects.filter(number=what).delete()
                log.stored = [number for number in log.stored if number != what]
            case _:
                act(Seat.buffered, verb)
                if verb == "flush":
                    log.flush()
        assert [seat.number for seat in Seat.buffered.window()] == log.stored + log.waiting
        assert Seat.buffered.count() == len(log.stored + log.waiting)
        assert Seat.buffered.count_pending() == len(log.waiting)
        stored = Seat.objects.order_by("pk").values_list("number", flat=True)
        assert list(stored) == log.stored


@pytest.mark.slow
def test_random_sequences(database, redis_server):
    play()
