"""G1 to G4 as a story: writes, and flushers that do their work, fail, die, sleep and wake up, in
any order. What is read is what a plain dict has, at each moment, and so is the table in the end.

A nightly run: WRITEBEHIND_EXAMPLES=2500 make test ARGS=tests/faults/test_model.py
"""

from __future__ import annotations

import os
import secrets
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

from tests.integration.test_one_by_one import in_python
from tests.models import Counter, Line, Note, Owner
from writebehind_app import Add, Max, Merge, Min, steps
from writebehind_app.buffers.base import Buffer
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.flush import engine
from writebehind_app.models import DeadLetter
from writebehind_app.store.shard import Batch

EXAMPLES = int(os.environ.get("WRITEBEHIND_EXAMPLES", "30"))

FLUSH_STEPS = [step for step in steps.STEPS if step.startswith("flush.")]
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
        self.asleep: Batch | None = None  # the batch of a flusher that stands still

    def reach(self, step: str) -> None:
        """A flusher is at a step."""
        if step == "flush.claimed":
            if self.in_flight is None:  # and not one that is taken over
                self.in_flight = deepcopy(self.now)
            self.leased = True
        elif step == "flush.committed" and self.in_flight is not None:
            self.stored = self.in_flight
        elif step == "flush.acked":
            self.in_flight = None

    def flush(self, then: Callable[[str], None] = lambda step: None) -> None:
        """A flusher takes what it may; `then` is called at each step."""

        def hook(step: str) -> None:
            if step.startswith("flush."):
                self.reach(step)
                then(step)

        steps.hook = hook
        try:
            engine.flush(self.buffer, ignore_backoff=True, wait=False)
        except (Killed, OperationalError):
            pass
        finally:
            steps.hook = None

    def end_leases(self) -> None:
        """Time passes."""
        for shard in self.buffer.shards():
            if shard.client.hexists(shard.key, "token"):
                shard.client.hset(shard.key, "lease", 0)
        self.leased = False

    def fall_asleep(self) -> None:
        (shard,) = self.buffer.shards()
        batch = shard.claim(secrets.token_hex(16), lease=60, size=99, due_only=False)
        if isinstance(batch, Batch):
            self.asleep = batch
            self.reach("flush.claimed")

    def wake_up(self) -> None:
        (shard,) = self.buffer.shards()
        batch, self.asleep = self.asleep, None
        assert batch is not None
        is_its_own = shard.client.hget(shard.key, "token") == batch.token
        applied = engine._flush_batch(self.buffer, 0, shard, batch)
        assert not isinstance(applied, Exception)
        if is_its_own:
            self.reach("flush.committed")
            self.reach("flush.acked")

    def discard(self) -> None:
        self.buffer.discard()
        if self.in_flight is not None and self.leased:
            self.now = deepcopy(self.in_flight)
        else:  # nobody is at the batch in flight: it goes too, and its flusher is dead
            self.now, self.in_flight, self.asleep = deepcopy(self.stored), None, None


# What is written

NUMBERS = st.integers(-9, 9)
OBJECTS = st.dictionaries(st.sampled_from("xy"), NUMBERS, max_size=2)
BIG = st.one_of(NUMBERS, st.none(), NUMBERS.map(Add), NUMBERS.map(Max), NUMBERS.map(Min))
JSON = st.one_of(OBJECTS, OBJECTS.map(Merge), BIG)
NAMES = st.sampled_from("ab")
VALUES = st.fixed_dictionaries({}, optional={"big": BIG, "extra": JSON})
UPDATES = st.dictionaries(NAMES, JSON, min_size=1)
KINDS = st.sampled_from(["rows", "notes", "lines"])


class Story(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        for model in (Counter, Note, Line):
            model.objects.all().delete()
        owner, _ = Owner.objects.get_or_create(name="anna")
        self.notes_of_anna = Note.buffered.of(page="p", owner=owner)
        self.rows = Model(Counter.buffered, {})
        self.notes = Model(Note.buffered, {})
        self.lines = Model(Line.buffered, [])
        self.models = {"rows": self.rows, "notes": self.notes, "lines": self.lines}
        self.written = 0
        for each in self.models.values():
            each.end_leases()
            each.buffer.discard()

    # Rows

    def _write(self, name: str, values: dict[str, Any]) -> None:
        row = self.rows.now.setdefault(name, {"big": None, "extra": None})
        for field, value in values.items():
            row[field] = in_python(row[field], value, json=field == "extra")

    @rule(name=NAMES, values=VALUES)
    def set(self, name: str, values: dict[str, Any]) -> None:
        Counter.buffered.set(name=name, **values)
        self._write(name, values)

    @rule(rows=st.dictionaries(NAMES, VALUES, min_size=2))
    def set_many(self, rows: dict[str, dict[str, Any]]) -> None:
        Counter.buffered.set_many({"name": name, **values} for name, values in rows.items())
        for name, values in rows.items():
            self._write(name, values)

    @rule(name=NAMES, big=NUMBERS)
    def create(self, name: str, big: int) -> None:
        try:
            Counter.buffered.create(name=name, big=big)
        except AlreadyExists:
            assert name in self.rows.now
        else:
            assert name not in self.rows.now
            self._write(name, {"big": big})

    @rule(name=NAMES, expected=st.none() | NUMBERS, values=VALUES)
    def set_if(self, name: str, expected: int | None, values: dict[str, Any]) -> None:
        done = Counter.buffered.set_if({"big": expected}, name=name, **values)
        assert done is (name in self.rows.now and self.rows.now[name]["big"] == expected)
        if done:
            self._write(name, values)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        Counter.buffered.delete(name=name)
        self.rows.now.pop(name, None)

    # Metadata

    @rule(values=UPDATES)
    def update(self, values: dict[str, Any]) -> None:
        self.notes_of_anna.update(values)
        for key, value in values.items():
            self.notes.now[key] = in_python(self.notes.now.get(key), value, json=True)

    @rule(key=NAMES)
    def pop(self, key: str) -> None:
        assert self.notes_of_anna.pop(key, "no") == self.notes.now.pop(key, "no")

    @rule()
    def clear(self) -> None:
        self.notes_of_anna.clear()
        self.notes.now.clear()

    # Logs

    @rule()
    def append(self) -> None:
        self.written += 1
        Line.buffered.append(text=f"line {self.written}")
        self.lines.now.append(f"line {self.written}")

    # Flushers

    @rule(kind=KINDS)
    def flush(self, kind: str) -> None:
        self.models[kind].flush()

    @rule(kind=KINDS, step=st.sampled_from(FLUSH_STEPS))
    def flusher_dies(self, kind: str, step: str) -> None:
        def die(reached: str) -> None:
            if reached == step:
                raise Killed

        self.models[kind].flush(die)

    @rule(kind=KINDS, step=st.sampled_from(FLUSH_STEPS))
    def database_goes_away(self, kind: str, step: str) -> None:
        def fail(reached: str) -> None:
            if reached == step:
                if step not in BETWEEN:
                    model.leased = False  # the batch is given back
                raise OperationalError("gone")

        model = self.models[kind]
        model.flush(fail)

    @rule(kind=KINDS, step=st.sampled_from(["flush.claimed", "flush.committed"]))
    def flusher_is_overtaken(self, kind: str, step: str) -> None:
        """While it stands still its lease ends, and another one takes its batch."""
        model, overtaken = self.models[kind], False

        def overtake(reached: str) -> None:
            nonlocal overtaken
            if reached == step and not overtaken:
                overtaken = True
                hook = steps.hook
                model.end_leases()
                model.flush()
                steps.hook = hook

        model.flush(overtake)

    @rule(kind=KINDS)
    def leases_end(self, kind: str) -> None:
        self.models[kind].end_leases()

    @rule(kind=KINDS)
    def flusher_falls_asleep(self, kind: str) -> None:
        self.models[kind].fall_asleep()

    @precondition(lambda self: any(model.asleep for model in self.models.values()))
    @rule()
    def sleepers_wake_up(self) -> None:
        for model in self.models.values():
            if model.asleep:
                model.wake_up()

    @rule(kind=KINDS)
    def discard(self, kind: str) -> None:
        self.models[kind].discard()

    # What has to be so

    @invariant()
    def reads_are_right(self) -> None:
        rows = Counter.buffered.get_many("ab")
        assert {n: {"big": r.big, "extra": r.extra} for n, r in rows.items()} == self.rows.now
        assert dict(self.notes_of_anna.items()) == self.notes.now
        assert [line.text for line in Line.buffered.window()] == self.lines.now

    def teardown(self) -> None:
        steps.hook = None
        for model in self.models.values():
            model.end_leases()
            model.buffer.flush()
            assert model.buffer.count_pending() == 0
        self.tables_are_right()
        for model in self.models.values():
            if model.asleep:
                model.wake_up()
        self.tables_are_right()
        assert not DeadLetter.objects.exists()

    def tables_are_right(self) -> None:
        rows = Counter.objects.all()
        assert {r.name: {"big": r.big, "extra": r.extra} for r in rows} == self.rows.now
        assert dict(Note.objects.values_list("key", "value")) == self.notes.now
        assert [line.text for line in Line.objects.order_by("pk")] == self.lines.now


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_a_story(database, redis_server, configure):
    configure(SHARDS=1, LEASE=60)
    run_state_machine_as_test(
        Story,
        settings=settings(
            max_examples=EXAMPLES if database == "default" else max(EXAMPLES // 5, 5),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
