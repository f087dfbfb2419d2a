"""G4, next to the ORM: save() and delete() between writes that wait in Redis or are in flight.

What comes of a story is what its writes come to one by one on a plain row, with one difference: a
full save() writes the fields that are not as they are stored. A nightly run:

    WRITEBEHIND_EXAMPLES=2500 make test ARGS=tests/faults/test_orm_stories.py
"""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from typing import Any

import pytest
from django.db import transaction
from django.db.models import F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backdoor.batches import Claim, claim
from tests.faults.stories import EXAMPLES, FIELDS, NUMBERS, writes
from tests.models import Counter
from tests.pending import in_python
from tests.router import current
from writebehind_app import Add
from writebehind_app.fields.operations import Operation

WRITES = writes(FIELDS)
VALUES = WRITES.map(lambda w: {n: v for n, v in w.items() if not isinstance(v, Operation)})
STORIES = st.lists(
    st.tuples(st.just("set"), WRITES, st.booleans())
    | st.tuples(st.just("set"), WRITES, st.booleans())
    | st.tuples(st.just("remove"))
    | st.tuples(st.just("load"))
    | st.tuples(st.just("load"))
    | st.tuples(st.just("save"), VALUES)
    | st.tuples(st.just("save"), VALUES)
    | st.tuples(st.just("save some"), VALUES)
    | st.tuples(st.just("add"), st.sampled_from(["small", "big"]), NUMBERS, st.booleans())
    | st.tuples(st.just("compute"), st.booleans())
    | st.tuples(st.just("delete"))
    | st.tuples(st.sampled_from(["claim", "apply", "flush"])),
    max_size=16,
)


class Story:
    """One row, its twin, and a flusher that may fall asleep between claim and transaction."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        self.asleep: list[Claim] = []
        # As somebody has loaded it, maybe long ago.
        self.row: Counter | None = Counter.objects.create(name=self.name, small=1, big=2)
        self.expected: dict[str, Any] | None = self.stored()  # of the plain row

    def stored(self) -> dict[str, Any] | None:
        return Counter.objects.filter(name=self.name).values(*FIELDS).first()

    def is_to_go(self) -> bool:
        """Whether the row is deleted by a write that is not in the database yet."""
        return any(e.delete for e in Counter.buffered.pending() if e.key == {"name": self.name})

    def act(self, verb: str, *details: Any) -> None:
        match verb, *details:
            case "set", written, with_save:
                # Held back, where a save is in the same transaction.
                within = transaction.atomic(using=current()) if with_save else nullcontext()
                with within:
                    Counter.buffered.set(name=self.name, **written)
                    row = self.expected or dict.fromkeys(FIELDS) | {"small": 0}
                    self.expected = row | {
                        name: in_python(row[name], value, json=name == "extra")
                        for name, value in written.items()
                    }
                    if with_save and self.row is not None and self.stored() is not None:
                        self.save_some({"small": 7})
            case ("remove",):
                Counter.buffered.delete(name=self.name)
                self.expected = None
            case ("load",):
                self.row = Counter.objects.filter(name=self.name).first()
            case "save", values:
                self.save(values)
            case "save some", values:
                if self.row is not None and values and self.stored() is not None:
                    self.save_some(values)
            case "add", name, number, in_full:
                self.compute(
                    {name: F(name) + number if number % 2 else F(name) - -number},
                    in_full,
                    {name: Add(number)},
                )
            case "compute", in_full:
                self.compute({"small": F("small") * 2 - F("small")}, in_full, {"small": Add(0)})
            case ("delete",):
                if self.row is not None and self.row.pk and self.stored() is not None:
                    self.row.delete()
                    self.row = self.expected = None
            case ("claim",):
                self.asleep += claim(Counter.buffered, size=9)
            case ("apply",):
                self.apply()
            case ("flush",):
                self.flush()

    def apply(self) -> None:
        for sleeper in self.asleep:
            sleeper.flush()
        self.asleep.clear()

    def flush(self) -> None:
        self.apply()
        assert Counter.buffered.flush().dead_letters == 0

    def save(self, values: dict[str, Any]) -> None:
        stored, is_to_go = self.stored(), self.is_to_go()
        if self.row is None:
            if stored is not None:
                return
            self.row = Counter(name=self.name)
        for name, value in values.items():
            setattr(self.row, name, value)
        own = {name: getattr(self.row, name) for name in FIELDS}
        self.row.save()
        if stored is None or is_to_go:
            self.expected = own
        else:
            assert self.expected is not None
            self.expected |= {name: v for name, v in own.items() if v != stored[name]}

    def save_some(self, values: dict[str, Any]) -> None:
        if self.expected is None:
            return
        assert self.row is not None
        for name, value in values.items():
            setattr(self.row, name, value)
        self.row.save(update_fields=values)
        self.expected = self.expected | values

    def compute(self, expressions: dict[str, Any], in_full: bool, same: dict[str, Any]) -> None:
        """Save what the database works out."""
        stored = self.stored()
        if self.row is None or stored is None or self.expected is None:
            return
        if self.is_to_go():  # it is made anew first
            stored = self.expected
        for name, expression in expressions.items():
            setattr(self.row, name, expression)
        self.row.save(update_fields=None if in_full else [*expressions])
        if in_full:
            own = {n: getattr(self.row, n) for n in FIELDS if n not in expressions}
            self.expected |= {n: v for n, v in own.items() if v != stored[n]}
        for name, operation in same.items():
            before = self.expected[name]  # NULL and a number are NULL
            after = None if before is None else in_python(before, operation, json=False)
            self.expected = self.expected | {name: after}
        self.row.refresh_from_db()

    def check(self) -> None:
        found = Counter.buffered.get_many([self.name]).get(self.name)
        row = None if found is None else {name: getattr(found, name) for name in FIELDS}
        assert row == self.expected


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(story=STORIES)
@pytest.mark.parametrize("cache_seconds", [0, 60])
def test_rows(cache_seconds, story, database, redis_server, configure):
    configure(CACHE_SECONDS=cache_seconds)
    it = Story()
    for verb, *details in story:
        it.act(verb, *details)
        it.check()
    it.flush()
    assert it.stored() == it.expected
