"""SCENARIOS 20, G4: writes that go around Redis, between others that wait in it or are in flight.

A process may lose Redis while others do not: so at any moment of these stories a write goes through
Redis or around it. What comes of them is what the same writes one by one come to, and nothing that
Redis still held comes back; but for the sums that `Sums` tells of. A nightly run:

    WRITEBEHIND_EXAMPLES=2500 make test ARGS=tests/faults/test_fences.py
"""

from __future__ import annotations

import datetime
import itertools
import secrets
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backdoor import clock
from tests.backdoor.batches import Claim, claim
from tests.backdoor.reads import give_up_on_flushers
from tests.faults.stories import EXAMPLES, NUMBERS, writes
from tests.faults.stories import FIELDS as COMMON
from tests.integration.test_one_by_one import in_python
from tests.models import Counter, Note, Owner
from writebehind_app import Add, Max, Merge, Min
from writebehind_app.buffers.base import Buffer
from writebehind_app.exceptions import AlreadyExists, Overtaken

stories = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))

SPANS = NUMBERS.map(lambda n: datetime.timedelta(seconds=n))
FIELDS = COMMON | {"span": SPANS | SPANS.map(Add)}
WRITES = writes(FIELDS)
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

    def act(self, verb: str) -> bool:
        """Says whether what was pending is so no more."""
        match verb:
            case "claim":
                claims = claim(self.buffer, size=9)
                self.asleep += claims
                return bool(claims)
            case "apply":
                for sleeper in self.asleep:
                    sleeper.flush()
                self.asleep.clear()
            case "flush":
                self.act("apply")
                assert self.buffer.flush().dead_letters == 0
        return verb == "flush"


class Sums:
    """What the entry of one row keeps as one sum, or one maximum or minimum, by field.

    It has one number, that of the last write in it. Who writes a value past Redis cannot close it:
    so where a later write joins it, what was added before that value counts once more.
    """

    def __init__(self) -> None:
        self.pending: dict[str, Any] = {}
        self.void: set[str] = set()

    def write(self, where: str, field: str, value: Any) -> list[Any]:
        """What a write of a field comes to, as writes one by one."""
        is_one = isinstance(value, Add | Max | Min)
        if where == "direct":
            if not (is_one or isinstance(value, Merge)):
                self.void |= {field} & self.pending.keys()
            return [value]
        if not is_one:
            if not isinstance(value, Merge):  # of which each key has a number of its own
                self.end(field)
            return [value]
        before = self.pending.get(field)
        again = [before] if field in self.void else []
        self.void.discard(field)
        self.pending[field] = value if before is None else joined(before, value)
        return [*again, value]

    def delete(self, where: str) -> None:
        if where == "direct":
            self.void |= self.pending.keys()
        else:
            self.end()

    def end(self, *fields: str) -> None:
        """Nothing is pending any more, of these fields, or of all."""
        for field in fields or tuple(self.pending):
            self.pending.pop(field, None)
            self.void.discard(field)


def joined(one: Any, other: Any) -> Any:
    match one:
        case Add():
            return Add(one.amount + other.amount)
        case Max():
            return Max(max(one.value, other.value))
        case _:
            return Min(min(one.value, other.value))


def after(before: Any, writes: list[Any], *, json: bool) -> Any:
    for value in writes:
        before = in_python(before, value, json=json)
    return before


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flushers that are asleep do not wake up meanwhile."""
    give_up_on_flushers(monkeypatch)


@stories
@given(story=ROW_STORIES)
def test_rows(story, database, redis_server, go):
    name = secrets.token_hex(8)
    model: dict[str, Any] | None = None
    flusher, sums = Flusher(Counter.buffered), Sums()
    for verb, *details in story:
        match verb, *details:
            case ("set" | "create") as verb, where, written:
                go(where)
                try:
                    getattr(Counter.buffered, verb)(name=name, **written)
                except AlreadyExists:  # directly, what is stored decides
                    assert model is not None or where == "direct"
                    continue
                except Overtaken:
                    assert (verb, where) == ("create", "buffered")
                    assert flusher.asleep
                    continue
                if verb == "create":
                    assert model is None or where == "direct"
                    model = None
                    sums.delete(where)
                row = model or dict.fromkeys(FIELDS) | {"small": 0}
                model = row | {
                    field: after(row[field], sums.write(where, field, value), json=field == "extra")
                    for field, value in written.items()
                }
            case "delete", where:
                go(where)
                Counter.buffered.delete(name=name)
                model = None
                sums.delete(where)
            case (verb,):
                go("buffered")
                if flusher.act(verb):
                    sums.end()
        go("buffered")
        found = Counter.buffered.get_many([name]).get(name)
        assert (found and {field: getattr(found, field) for field in FIELDS}) == model, verb
    flusher.act("flush")
    assert Counter.objects.filter(name=name).values(*FIELDS).first() == model


STEPS = ("buffered 7", "direct 50", "buffered +1", "direct +100", "flush")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", ["row", "metadata"])
def test_values_and_sums_past_redis(database, redis_server, go, kind):
    """All stories of three steps: among them a sum that is added to what is pending, and void since
    a value was written past Redis."""
    owner = Owner.objects.create(name="owner")
    for story in itertools.product(STEPS, repeat=3):
        name, model, sums = secrets.token_hex(8), 0, Sums()
        for step in story:
            if step == "flush":
                go("buffered")
                flush = Counter.buffered.flush if kind == "row" else Note.buffered.flush
                assert flush().dead_letters == 0
                sums.end()
                continue
            where, what = step.split()
            amount = int(what)
            go(where)
            value = Add(amount) if what[0] == "+" else amount
            model = after(model, sums.write(where, "n", value), json=True)
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
    flusher, sums = Flusher(Note.buffered), Sums()
    for verb, *details in story:
        match verb, *details:
            case "update", where, values:
                go(where)
                meta.update(values)
                for key, value in values.items():
                    writes = sums.write(where, key, value)
                    model[key] = after(model.get(key), writes, json=True)
            case "clear", where:
                go(where)
                meta.clear()
                model = {}
                sums.delete(where)
            case (verb,):
                go("buffered")
                if flusher.act(verb):
                    sums.end()
        go("buffered")
        assert dict(meta) == model, verb
    flusher.act("flush")
    assert dict(Note.objects.filter(page=page).values_list("key", "value")) == model


@pytest.mark.parametrize("behind", ["Redis", "its answers"])
@pytest.mark.parametrize("write", ["set", "set_many", "update"])
def test_what_waits_is_older_though_its_number_is_ahead(database, redis_server, go, behind, write):
    """Redis' clock was put back; or its quickest answer, which told of it, was not quick."""
    mapping = Note.buffered.of(page="p", owner=Owner.objects.create(name="x"))

    def give(value: int) -> None:
        match write:
            case "set":
                Counter.buffered.set(name="x", small=value)
            case "set_many":
                Counter.buffered.set_many({"name": n, "small": value} for n in "xyz")
            case "update":
                mapping.update(x=value)

    give(1)
    if behind == "Redis":
        clock.was_ahead(redis_server, Note.buffered if write == "update" else Counter.buffered)
    give(2)
    if behind == "its answers":
        clock.be_wrong_by(-1)
    go("direct")
    give(3)
    go("buffered")
    Counter.buffered.flush()
    Note.buffered.flush()
    found = mapping["x"] if write == "update" else Counter.objects.get(name="x").small
    assert found == 3
