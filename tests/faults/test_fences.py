"""SCENARIOS 20, G4: writes that go around Redis, between others that wait in it or are in flight.

A process may lose Redis while others do not: so at any moment of these stories a write goes through
Redis or around it. What comes of them is what the same writes one by one come to, and nothing that
Redis still held comes back. A nightly run:

    WRITEBEHIND_EXAMPLES=2500 make test ARGS=tests/faults/test_fences.py
"""

from __future__ import annotations

import datetime
import itertools
import os
import secrets
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backdoor.batches import Claim, claim
from tests.backdoor.breaker import know_of_no_outage
from tests.integration.test_one_by_one import in_python
from tests.models import Counter, Note, Owner
from writebehind_app import Add, Max, Merge, Min
from writebehind_app.buffers.base import Buffer
from writebehind_app.exceptions import AlreadyExists

EXAMPLES = int(os.environ.get("WRITEBEHIND_EXAMPLES", "60"))
stories = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))

NUMBERS = st.integers(-50, 50)
DECIMALS = NUMBERS.map(lambda n: Decimal(n).scaleb(-2))
SPANS = NUMBERS.map(lambda n: datetime.timedelta(seconds=n))
OBJECTS = st.dictionaries(st.sampled_from("abc"), NUMBERS, max_size=2)
# Of operations on one field, those that come to the same in any order.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "small": NUMBERS | NUMBERS.map(Add),
    "big": NUMBERS | st.none() | NUMBERS.map(Max),
    "decimal": DECIMALS | DECIMALS.map(Add),
    "real": NUMBERS.map(float) | NUMBERS.map(float).map(Min),
    "span": SPANS | SPANS.map(Add),
    "extra": OBJECTS | st.none() | OBJECTS.map(Merge),
}
WRITES = st.dictionaries(st.sampled_from(sorted(FIELDS)), st.none(), max_size=3).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)
WHERE = st.sampled_from(["buffered", "buffered", "direct"])
FLUSHES = st.sampled_from(["claim", "apply", "flush"])
ROW_STORIES = st.lists(
    st.tuples(st.just("set"), WHERE, WRITES)
    | st.tuples(st.just("set"), WHERE, WRITES)
    | st.tuples(st.just("create"), WHERE, WRITES)
    | st.tuples(st.just("delete"), WHERE)
    | st.tuples(FLUSHES),
    max_size=14,
)
META_STORIES = st.lists(
    st.tuples(
        st.just("update"),
        WHERE,
        st.dictionaries(st.sampled_from("abc"), NUMBERS | NUMBERS.map(Add), min_size=1, max_size=2),
    )
    | st.tuples(st.just("clear"), WHERE)
    | st.tuples(FLUSHES),
    max_size=14,
)


class Flusher:
    """One that may fall asleep between its claim and its transaction."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.asleep: list[Claim] = []

    def act(self, verb: str) -> None:
        match verb:
            case "claim":
                self.asleep += claim(self.buffer, size=9)
            case "apply":
                for sleeper in self.asleep:
                    sleeper.flush()
                self.asleep.clear()
            case "flush":
                self.act("apply")
                assert self.buffer.flush().dead_letters == 0


@stories
@given(story=ROW_STORIES)
def test_rows(story, database, redis_server, go):
    name = secrets.token_hex(8)
    model: dict[str, Any] | None = None
    flusher = Flusher(Counter.buffered)
    for verb, *details in story:
        match verb, *details:
            case ("set" | "create") as verb, where, written:
                go(where)
                try:
                    getattr(Counter.buffered, verb)(name=name, **written)
                except AlreadyExists:  # directly, what is stored decides
                    assert model is not None or where == "direct"
                    continue
                if verb == "create":
                    assert model is None or where == "direct"
                    model = None
                row = model or dict.fromkeys(FIELDS) | {"small": 0}
                model = row | {
                    field: in_python(row[field], value, json=field == "extra")
                    for field, value in written.items()
                }
            case "delete", where:
                go(where)
                Counter.buffered.delete(name=name)
                model = None
            case (verb,):
                go("buffered")
                flusher.act(verb)
        go("buffered")
        found = Counter.buffered.get_many([name]).get(name)
        assert (found and {field: getattr(found, field) for field in FIELDS}) == model, verb
    flusher.act("flush")
    assert Counter.objects.filter(name=name).values(*FIELDS).first() == model


STEPS = ("buffered 7", "direct 50", "buffered +1", "direct +100", "flush")


def is_told_apart(story: tuple[str, ...]) -> bool:
    """Whether no pending sum has amounts of before and of after a value that was written directly:
    it has one time, that of the last."""
    before = void = False
    for step in story:
        if step in ("buffered 7", "flush"):
            before = void = False
        elif step == "direct 50":
            void = before
        elif step == "buffered +1":
            if void:
                return False
            before = True
    return True


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", ["row", "metadata"])
def test_a_process_that_knows_of_no_outage(database, redis_server, go, kind):
    """It adds to what is pending, which is void since another one wrote to the database."""
    know_of_no_outage()
    owner = Owner.objects.create(name="owner")
    for story in filter(is_told_apart, itertools.product(STEPS, repeat=3)):
        name, model = secrets.token_hex(8), 0
        for step in story:
            if step == "flush":
                go("buffered")
                flush = Counter.buffered.flush if kind == "row" else Note.buffered.flush
                assert flush().dead_letters == 0
                continue
            where, what = step.split()
            amount = int(what)
            go(where)
            value = Add(amount) if what[0] == "+" else amount
            model = model + amount if what[0] == "+" else amount
            if kind == "row":
                Counter.buffered.set(name=name, small=value)
            else:
                Note.buffered.of(page=name, owner=owner).update(n=value)
        go("buffered")
        if kind == "row":
            found = Counter.buffered.get_many([name]).get(name)
            assert (found.small if found else 0) == model, story
            Counter.buffered.flush()
            assert sum(Counter.objects.filter(name=name).values_list("small", flat=True)) == model
        else:
            assert Note.buffered.of(page=name, owner=owner).get("n", 0) == model, story
            Note.buffered.flush()
            assert sum(Note.objects.filter(page=name).values_list("value", flat=True)) == model


@stories
@given(story=META_STORIES)
def test_metadata(story, database, redis_server, go):
    owner = Owner.objects.get_or_create(name="owner")[0]
    page = secrets.token_hex(8)
    meta = Note.buffered.of(page=page, owner=owner)
    model: dict[str, Any] = {}
    flusher = Flusher(Note.buffered)
    for verb, *details in story:
        match verb, *details:
            case "update", where, values:
                go(where)
                meta.update(values)
                for key, value in values.items():
                    model[key] = in_python(model.get(key), value, json=True)
            case "clear", where:
                go(where)
                meta.clear()
                model = {}
            case (verb,):
                go("buffered")
                flusher.act(verb)
        go("buffered")
        assert dict(meta) == model, verb
    flusher.act("flush")
    assert dict(Note.objects.filter(page=page).values_list("key", "value")) == model
