"""G2 and G4, over four models that refer to each other: writes through the buffers, around Redis
and by the ORM, and flushers that die, come to the same as the calls one by one.

A call is left out where one by one the database refuses it, or the database as it is refuses it
now, and where docs/explanation/limits.md says that the outcome is another one. A nightly run:

    WRITEBEHIND_EXAMPLES=2500 make test ARGS=tests/faults/test_mixed_stories.py
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.db.models import F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backdoor.batches import Claim, is_in_flight
from tests.faults.plain_rows import (
    DEFAULTS,
    Key,
    Refused,
    Rows,
    deleted,
    goes_with,
    referred,
    stored,
    written,
)
from tests.faults.test_related_stories import (
    DEATHS,
    FIELDS,
    FLUSHES,
    MODELS,
    NUMBERS,
    SLUGS,
    WRITES,
    by_buffer,
    clear,
    passing,
)
from tests.router import current
from writebehind_app import Add, BufferedQuerySet
from writebehind_app.models import DeadLetter

EXAMPLES = int(os.environ.get("WRITEBEHIND_EXAMPLES", "15"))
MOST = int(os.environ.get("WRITEBEHIND_CALLS", "12"))
NAMES = st.sampled_from([*MODELS])


def some(name: str, *, sums: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Values of some fields of a model."""
    fields = {**FIELDS[name], "points": NUMBERS.map(Add) if sums else NUMBERS}
    names = st.lists(st.sampled_from([*fields]), min_size=1, max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({n: fields[n] for n in chosen}))


def calls(verb: str, *more: st.SearchStrategy[Any], sums: bool = False) -> Any:
    """Calls with values of a model."""
    return NAMES.flatmap(
        lambda name: st.tuples(st.just(verb), st.just(name), SLUGS, some(name, sums=sums), *more)
    )


# Each verb as often as it is named.
VERBS = {
    WRITES: 6,
    st.tuples(st.just("delete"), NAMES, SLUGS): 3,
    calls("directly", sums=True): 3,
    calls("save", st.booleans()): 2,
    calls("update", NUMBERS): 1,
    st.tuples(st.sampled_from(["remove", "delete directly"]), NAMES, SLUGS): 1,
    FLUSHES: 1,
    DEATHS: 1,
}
CALLS = st.sampled_from([verb for verb, often in VERBS.items() for _ in range(often)]).flatmap(
    lambda verb: verb
)
STORIES = st.lists(CALLS.map(lambda one: [one]) | passing(), min_size=3, max_size=MOST).map(
    lambda parts: [call for part in parts for call in part][: 2 * MOST]
)
BEGINNINGS = st.lists(calls("set"), max_size=10)


class LeftOut(Exception):
    """A call is left out."""


class Story:
    def __init__(self, go: Callable[[str], None]) -> None:
        self.go = go
        self.rows: Rows = {}  # as they are one by one
        self.asleep: list[Claim] = []
        # Since the last time when nothing was pending:
        self.gone: set[Key] = set()  # rows that went; a sum that goes on over that counts after it
        self.along: set[Key] = set()  # those that went with another one
        self.moved: set[tuple[Key, str]] = set()  # references that moved before their row went

    def act(self, call: tuple[Any, ...]) -> None:
        try:
            match call:
                case ("set", name, slug, values):
                    self.check_moved((name, slug), values)
                    rows = written(self.rows, (name, slug), values)
                    by_buffer(call, self.asleep)
                    self.rows = rows
                case ("delete", name, slug):
                    self.delete((name, slug))
                case ("directly", name, slug, values):
                    rows = self.after_write((name, slug), values)
                    self.past_redis(
                        lambda: MODELS[name].buffered.set(slug=slug, **values), direct=True
                    )
                    self.rows = rows
                case ("save", name, slug, values, is_full):
                    self.save((name, slug), values, is_full)
                case ("update", name, slug, values, amount):
                    self.update((name, slug), {**values, "points": Add(amount)})
                case ("remove", name, slug):
                    self.remove(
                        (name, slug), lambda: [row.delete() for row in self.one((name, slug))]
                    )
                case ("delete directly", name, slug):
                    self.remove(
                        (name, slug), lambda: MODELS[name].buffered.delete(slug=slug), direct=True
                    )
                case _:
                    by_buffer(call, self.asleep)
                    self.compare()
        except (Refused, LeftOut):
            pass

    # Through the buffer

    def delete(self, key: Key) -> None:
        pending, now = self.pending(), stored()
        if any(entry.delete for entry in pending.get(key, ())):
            raise LeftOut  # Redis keeps the last deletion of a row
        gone, _ = goes_with(self.rows, key)
        rows = deleted(self.rows, key)
        by_buffer(("delete", *key), self.asleep)
        self.gone |= gone
        self.along |= gone - {key}
        # What had been moved away from these rows, or was moved to them, must not move once more.
        below, found = {key}, True
        while found:
            found = False
            for other, row in now.items():
                for field, parent, how in referred(other, row):
                    if parent in below:
                        self.moved |= {(other, field)} if other in rows else set()
                        if how == "cascade" and other not in below:
                            below, found = below | {other}, True
        for other, row in self.rows.items():
            for field, parent, _ in referred(other, row):
                if parent in gone and any(field in e.values for e in pending.get(other, ())):
                    self.moved.add((other, field))
        self.rows = rows

    # Past Redis

    def past_redis(self, act: Callable[[], object], *, direct: bool = False) -> None:
        self.go("direct" if direct else "buffered")
        try:
            with transaction.atomic(using=current()):
                act()
        except DatabaseError:  # it refuses what depends on pending rows
            raise LeftOut from None
        finally:
            self.go("buffered")

    def one(self, key: Key) -> BufferedQuerySet[Any]:
        return BufferedQuerySet(MODELS[key[0]], using=current()).filter(pk=key[1])

    def after_write(self, key: Key, values: Mapping[str, Any]) -> Rows:
        """The rows after a write past Redis. Nobody knows of what is to go in Redis."""
        going = self.along | {
            other for other, entries in self.pending().items() if any(e.delete for e in entries)
        }
        parents = (parent for _, parent, _ in referred(key, values))
        if key in going or not going.isdisjoint(parents):
            raise LeftOut
        self.check_moved(key, values)
        return written(self.rows, key, values)

    def save(self, key: Key, values: dict[str, Any], is_full: bool) -> None:
        now, model = stored(), MODELS[key[0]]
        own = values
        if key not in now:
            own = {**DEFAULTS[key[0]], **values}  # of a new instance
        elif is_full:
            own = {name: value for name, value in values.items() if value != now[key][name]}
        if not (key in self.rows if key in now else is_full):
            raise LeftOut
        rows = self.after_write(key, own)
        row = model.objects.get(pk=key[1]) if key in now else model(slug=key[1])
        for name, value in values.items():
            setattr(row, model._meta.get_field(name).attname, value)
        self.past_redis(lambda: row.save(update_fields=None if is_full else [*values]))
        self.rows = rows

    def update(self, key: Key, values: dict[str, Any]) -> None:
        if key not in stored() or key not in self.rows:
            raise LeftOut
        rows = self.after_write(key, values)
        points = F("points") + values["points"].amount
        self.past_redis(lambda: self.one(key).update(**{**values, "points": points}))
        self.rows = rows

    def remove(self, key: Key, act: Callable[[], object], *, direct: bool = False) -> None:
        """Delete a row past Redis: that goes by what is stored."""
        pending, now = self.pending(), stored()
        gone, nulls = goes_with(self.rows, key)
        if (gone, nulls) != goes_with(now, key) or not gone:
            raise LeftOut
        for other, entries in pending.items():
            if other in gone and (other in self.along or any(e.delete for e in entries)):
                raise LeftOut
            for entry in entries:
                values = {n: getattr(v, "pk", v) for n, v in entry.values.items()}
                if other not in gone and any(p in gone for _, p, _ in referred(other, values)):
                    raise LeftOut
        rows = deleted(self.rows, key)
        self.past_redis(act, direct=direct)
        self.gone |= gone
        self.rows = rows

    # What is there

    def pending(self) -> dict[Key, list[Any]]:
        found: dict[Key, list[Any]] = {}
        for name, model in MODELS.items():
            for entry in model.buffered.pending():
                found.setdefault((name, entry.key["slug"]), []).append(entry)
        return found

    def check_moved(self, key: Key, names: Iterable[str]) -> None:
        if any((key, name) in self.moved for name in names):
            raise LeftOut

    def compare(self) -> None:
        assert [letter.reason for letter in DeadLetter.objects.all()] == []
        if self.pending():
            return
        now = stored()
        for key in self.gone & now.keys() & self.rows.keys():
            self.rows[key] = {**self.rows[key], "points": now[key]["points"]}
        self.gone, self.along, self.moved = set(), set(), set()
        assert now == self.rows

    def end(self) -> None:
        for call in (("wake",), ("flush",), ("flush",)):
            by_buffer(call, self.asleep)
        assert not self.pending()
        assert not any(is_in_flight(model.buffered) for model in MODELS.values())
        self.compare()


@pytest.fixture(params=[(1, 5), (3, 2)], ids=str, autouse=True)
def sizes(request, configure) -> None:
    """Before `go`, which takes the settings as they are."""
    shards, size = request.param
    configure(SHARDS=shards, BATCH_SIZE=size)


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(beginning=BEGINNINGS, story=STORIES)
def test_stories(database, redis_server, go, beginning, story):
    it = Story(go)
    try:
        for verb, *details in beginning:
            it.act(("save", *details, True) if verb == "set" else (verb, *details))
        for call in story:
            it.act(call)
        it.end()
    finally:
        redis_server.clear()
        clear()
        DeadLetter.objects.all().delete()
