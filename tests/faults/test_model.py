"""G1 to G4 as a story: writes, and flushers that do their work, fail, die, sleep and wake up, in
any order. What is read is what a plain dict has, at each moment, and so is the table in the end.

A nightly run: WRITEBEHIND_EXAMPLES=2500 make test ARGS=tests/faults/test_model.py
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from django.db import OperationalError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.backdoor.batches import Claim, claim, end_lease, is_in_flight
from tests.backdoor.entries import id_of
from tests.backdoor.reads import give_up_on_flushers
from tests.integration.test_one_by_one import in_python
from tests.models import Counter, Line, Note, Owner
from writebehind_app import Add, Max, Merge, Min, checkpoints
from writebehind_app.buffers.base import Buffer
from writebehind_app.exceptions import AlreadyExists, Overtaken
from writebehind_app.flush import engine
from writebehind_app.models import DeadLetter

EXAMPLES = int(os.environ.get("WRITEBEHIND_EXAMPLES", "30"))

FLUSH_STEPS = [step for step in checkpoints.NAMES if step.startswith("flush.")]
BETWEEN = ("flush.claiming", "flush.claimed", "flush.committed", "flush.acked")


class Killed(BaseException):
    """No code after it runs, as after a SIGKILL."""


class Model:
    """What a buffer should show, and what it goes back to when what is pending is thrown away."""

    def __init__(self, buffer: Buffer, nothing: Any) -> None:
        self.buffer = buffer
        self.now = nothing
        self.in_flight: Any = None  # as it was when the batch in flight was claimed
        self.stored = deepcopy(nothing)
        self.leased = False  # whether the batch in flight is somebody's
        self.asleep: list[Claim] = []  # the batches of flushers that stand still
        self.only: str | None = None  # the one key that is flushed

    def reach(self, step: str) -> None:
        """A flusher is at a step."""
        if step == "flush.claimed":
            if self.in_flight is None:  # and not one that is taken over
                self.in_flight = deepcopy(self.now if self.only is None else self.stored)
                if self.only is not None:
                    _copy(self.only, self.now, self.in_flight)
            self.leased = True
        elif step == "flush.committed" and self.in_flight is not None:
            self.stored = self.in_flight
        elif step == "flush.acked":
            self.in_flight = None

    def flush(
        self,
        then: Callable[[str], None] = lambda step: None,
        *,
        late: bool,
        only: str | None = None,
    ) -> None:
        """A flusher takes what it may, or one key `only`; `late`, also what another one had. `then`
        is called at each step."""
        if late:
            self.end_leases()

        def hook(step: str) -> None:
            if step.startswith("flush."):
                self.reach(step)
                then(step)

        self.only = only
        ids = [id_of(self.buffer, name=only)] if only else []
        checkpoints.hook = hook
        try:
            engine.flush(self.buffer, ids=ids, ignore_backoff=True, wait=False)
        except (Killed, OperationalError):
            pass
        finally:
            checkpoints.hook = None

    def end_leases(self) -> None:
        """Time passes."""
        end_lease(self.buffer)
        self.leased = False

    def fall_asleep(self, *, late: bool) -> None:
        if late:
            self.end_leases()
        self.only = None
        for sleeper in claim(self.buffer):
            self.asleep.append(sleeper)
            self.reach("flush.claimed")

    def wake_up(self) -> None:
        sleeper = self.asleep.pop(0)
        is_its_own = sleeper.is_held()
        sleeper.flush()
        if is_its_own:
            self.reach("flush.committed")
            self.reach("flush.acked")

    def discard(self) -> None:
        self.buffer.discard()
        if self.in_flight is not None and self.leased:
            self.now = deepcopy(self.in_flight)
        else:  # nobody is at the batch in flight: it goes too, whoever wakes up
            self.now, self.in_flight = deepcopy(self.stored), None

    def discard_one(self, key: str) -> None:
        self.buffer.discard(name=key)  # type: ignore[attr-defined]
        if self.in_flight is not None and not self.leased:
            _copy(key, self.stored, self.in_flight)
        _copy(key, self.stored if self.in_flight is None else self.in_flight, self.now)
        if not is_in_flight(self.buffer):
            self.in_flight = None


def _copy(key: str, source: dict[str, Any], target: dict[str, Any]) -> None:
    """What a key has, or that it is not there."""
    target.pop(key, None)
    if key in source:
        target[key] = deepcopy(source[key])


# What is written

NUMBERS = st.integers(-9, 9)
OBJECTS = st.dictionaries(st.sampled_from("xy"), NUMBERS, max_size=2)
ADDED = NUMBERS.map(Add)
BIG = st.one_of(ADDED, NUMBERS, NUMBERS.map(Max), ADDED, NUMBERS.map(Min), st.none())
JSON = st.one_of(OBJECTS, OBJECTS.map(Merge), BIG)
NAMES = st.sampled_from("ab")
VALUES = st.fixed_dictionaries({}, optional={"big": BIG, "extra": JSON})
UPDATES = st.dictionaries(NAMES, JSON, min_size=1)
LATE = st.booleans()
ANY_STEP = st.sampled_from(FLUSH_STEPS)


class Story(RuleBasedStateMachine):
    """What happens to any buffer; the writes are those of its kind."""

    def __init__(self, buffer: Buffer, nothing: Any) -> None:
        super().__init__()
        buffer.model.objects.all().delete()
        self.model = Model(buffer, nothing)
        self.model.end_leases()
        buffer.discard()

    @rule(late=LATE)
    def flush(self, late: bool) -> None:
        self.model.flush(late=late)

    @rule(step=ANY_STEP, late=LATE)
    def flusher_dies(self, step: str, late: bool) -> None:
        def die(reached: str) -> None:
            if reached == step:
                raise Killed

        self.model.flush(die, late=late)

    @rule(step=ANY_STEP, late=LATE)
    def database_goes_away(self, step: str, late: bool) -> None:
        def fail(reached: str) -> None:
            if reached == step:
                if step not in BETWEEN:
                    self.model.leased = False  # the batch is given back
                raise OperationalError("stored")

        self.model.flush(fail, late=late)

    @rule(step=st.sampled_from(["flush.claimed", "flush.committed"]))
    def flusher_is_overtaken(self, step: str) -> None:
        """While it stands still its lease ends, and another one takes its batch."""
        overtaken = False

        def overtake(reached: str) -> None:
            nonlocal overtaken
            if reached == step and not overtaken:
                overtaken = True
                hook = checkpoints.hook
                self.model.flush(late=True)
                checkpoints.hook = hook

        self.model.flush(overtake, late=True)

    @rule(late=LATE)
    def flusher_falls_asleep(self, late: bool) -> None:
        self.model.fall_asleep(late=late)

    @precondition(lambda self: self.model.asleep)
    @rule()
    def sleeper_wakes_up(self) -> None:
        self.model.wake_up()

    @rule()
    def discard(self) -> None:
        self.model.discard()

    def assert_in_flight(self, **key: Any) -> None:
        """What is decided by the row waits for a flusher, and with reason."""
        entries = self.model.buffer.pending()
        assert any(e.state == "in_flight" and key.items() <= e.key.items() for e in entries)

    # What has to be so

    @abstractmethod
    def read(self) -> Any:
        """What the buffer shows."""

    @abstractmethod
    def table(self) -> Any:
        """What the database has."""

    @invariant()
    def reads_are_right(self) -> None:
        assert self.read() == self.model.now

    def teardown(self) -> None:
        self.model.end_leases()
        self.model.buffer.flush()  # type: ignore[attr-defined]
        assert self.model.buffer.count_pending() == 0
        assert self.table() == self.model.now
        while self.model.asleep:
            self.model.wake_up()
        assert self.table() == self.model.now
        assert not DeadLetter.objects.exists()


class Rows(Story):
    def __init__(self) -> None:
        super().__init__(Counter.buffered, {})

    def write(self, name: str, values: dict[str, Any]) -> None:
        row = self.model.now.setdefault(name, {"big": None, "extra": None})
        for field, value in values.items():
            row[field] = in_python(row[field], value, json=field == "extra")

    @rule(name=NAMES, values=VALUES)
    def set(self, name: str, values: dict[str, Any]) -> None:
        Counter.buffered.set(name=name, **values)
        self.write(name, values)

    @rule(rows=st.dictionaries(NAMES, VALUES, min_size=2))
    def set_many(self, rows: dict[str, dict[str, Any]]) -> None:
        Counter.buffered.set_many({"name": name, **values} for name, values in rows.items())
        for name, values in rows.items():
            self.write(name, values)

    @rule(name=NAMES, big=NUMBERS)
    def create(self, name: str, big: int) -> None:
        try:
            Counter.buffered.create(name=name, big=big)
        except AlreadyExists:
            assert name in self.model.now
        except Overtaken:
            self.assert_in_flight(name=name)
        else:
            assert name not in self.model.now
            self.write(name, {"big": big})

    @rule(name=NAMES, expected=st.none() | NUMBERS, values=VALUES)
    def set_if(self, name: str, expected: int | None, values: dict[str, Any]) -> None:
        try:
            done = Counter.buffered.set_if({"big": expected}, name=name, **values)
        except Overtaken:
            self.assert_in_flight(name=name)
            return
        assert done is (name in self.model.now and self.model.now[name]["big"] == expected)
        if done:
            self.write(name, values)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        Counter.buffered.delete(name=name)
        self.model.now.pop(name, None)

    @rule(name=NAMES, late=LATE)
    def flush_one(self, name: str, late: bool) -> None:
        self.model.flush(late=late, only=name)

    @rule(name=NAMES)
    def discard_one(self, name: str) -> None:
        self.model.discard_one(name)

    def read(self) -> Any:
        return {name: _fields(row) for name, row in Counter.buffered.get_many("ab").items()}

    def table(self) -> Any:
        return {row.name: _fields(row) for row in Counter.objects.all()}


def _fields(row: Counter) -> dict[str, Any]:
    return {"big": row.big, "extra": row.extra}


class Metadata(Story):
    def __init__(self) -> None:
        super().__init__(Note.buffered, {})
        owner, _ = Owner.objects.get_or_create(name="anna")
        self.metadata = Note.buffered.of(page="p", owner=owner)

    @rule(values=UPDATES)
    def update(self, values: dict[str, Any]) -> None:
        self.metadata.update(values)
        for key, value in values.items():
            self.model.now[key] = in_python(self.model.now.get(key), value, json=True)

    @rule(key=NAMES)
    def pop(self, key: str) -> None:
        try:
            found = self.metadata.pop(key, "missing")
        except Overtaken:
            self.assert_in_flight(page="p")
            return
        assert found == self.model.now.pop(key, "missing")

    @rule()
    def clear(self) -> None:
        self.metadata.clear()
        self.model.now.clear()

    def read(self) -> Any:
        return dict(self.metadata.items())

    def table(self) -> Any:
        return dict(Note.objects.values_list("key", "value"))


class Records(Story):
    def __init__(self) -> None:
        super().__init__(Line.buffered, [])
        self.written = 0

    @rule(count=st.integers(1, 3))
    def append(self, count: int) -> None:
        texts = [f"line {self.written + n}" for n in range(count)]
        self.written += count
        Line.buffered.extend({"text": text} for text in texts)
        self.model.now += texts

    def read(self) -> Any:
        return [line.text for line in Line.buffered.window()]

    def table(self) -> Any:
        return [line.text for line in Line.objects.order_by("pk")]


@pytest.mark.timeout(1200)  # for a story that fails: to make it short takes its time
@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize(
    ("story", "cache_seconds"),
    [(Rows, 0), (Rows, 60), (Metadata, 0), (Metadata, 60), (Records, 0)],
)
def test_a_story(story, cache_seconds, database, redis_server, configure, monkeypatch):
    """Scenarios 1 to 6, 11, 12, 16 to 19 and 48."""
    give_up_on_flushers(monkeypatch)  # the sleepers would not wake up meanwhile
    configure(SHARDS=1, LEASE=60, CACHE_SECONDS=cache_seconds)
    run_state_machine_as_test(
        story,
        settings=settings(
            max_examples=EXAMPLES if database == "default" else max(EXAMPLES // 5, 5),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
