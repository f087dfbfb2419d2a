"""G4, next to the ORM: children, their metadata and their owners, in transactions and out of them.

Rows and metadata are written through the buffer, saved, updated by querysets, deleted, and go with
their owner. Some of it happens inside `atomic()` blocks, which are kept or rolled back, and some in
another thread. What comes of a story is what comes of it on a plain model. A nightly run:

    WRITEBEHIND_EXAMPLES=2500 make test ARGS=tests/faults/test_orm_families.py
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction
from django.db.models import F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backdoor.batches import Claim, claim
from tests.elsewhere import elsewhere
from tests.faults.stories import EXAMPLES, NUMBERS
from tests.models import Everything, Note, Owner
from tests.pending import in_python
from tests.router import current
from writebehind_app import Add, BufferedQuerySet, Max
from writebehind_app.models import DeadLetter

TRACKED = ("integer", "char", "big", "owner_id")
KEYS, OWNERS = (0, 1, 2), (0, 1)
TEXTS = st.sampled_from(["open", "waiting", "closed", None])
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "integer": NUMBERS | st.none(),
    "char": TEXTS,
    "big": NUMBERS,
}
OPERATIONS = PLAIN | {
    "integer": NUMBERS | NUMBERS.map(Add),
    "big": NUMBERS | st.none() | NUMBERS.map(Max),
}


def some(values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.lists(st.sampled_from(sorted(values)), unique=True, min_size=1, max_size=2)
    return names.flatmap(lambda found: st.fixed_dictionaries({n: values[n] for n in found}))


def acts(operations: bool) -> st.SearchStrategy[tuple[Any, ...]]:
    """What may be done in a transaction as well as outside."""
    key, owner = st.sampled_from(KEYS), st.sampled_from(OWNERS)
    written = some(OPERATIONS if operations else PLAIN)
    number = NUMBERS | NUMBERS.map(Add) if operations else NUMBERS
    found = (
        st.tuples(st.just("set"), key, written)
        | st.tuples(st.just("set"), key, written)
        | st.tuples(st.just("remove"), key)
        | st.tuples(
            st.just("note"), owner, st.dictionaries(st.sampled_from("ab"), number, min_size=1)
        )
        | st.tuples(st.just("clear"), owner)
        | st.tuples(st.just("load"), key)
        | st.tuples(st.just("save"), key, some(PLAIN))
        | st.tuples(st.just("save some"), key, some(PLAIN))
        | st.tuples(st.just("update"), st.sets(key, min_size=1), some(PLAIN))
        | st.tuples(st.just("delete"), key)
        | st.tuples(st.just("delete many"), st.sets(key, min_size=1))
        | st.tuples(st.just("owner goes"), owner)
    )
    if operations:
        found |= st.tuples(st.just("add"), st.sets(key, min_size=1), NUMBERS)
    return found


def stories(*, operations: bool, outage: bool) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    act = acts(operations)
    block = st.tuples(st.just("block"), st.lists(act, max_size=4), st.booleans())
    nested = st.tuples(st.just("block"), st.lists(act | block, max_size=4), st.booleans())
    found = (
        act
        | st.tuples(st.just("elsewhere"), act)
        | nested
        | st.tuples(st.sampled_from(["claim", "apply", "flush"]))
    )
    if outage:
        found |= st.tuples(st.sampled_from(["away", "back"]))
    return st.lists(found, max_size=14)


class RolledBack(Exception):
    pass


class Story:
    def __init__(self, go: Callable[[str], None]) -> None:
        self.go = go
        self.keys = [uuid.uuid4() for _ in KEYS]
        self.owners = [self.new_owner() for _ in OWNERS]
        for n, key in enumerate(self.keys[:2]):
            Everything.objects.create(key=key, owner=self.owners[n], integer=n, char="open")
        self.loaded = {n: self.row(n) for n in KEYS}  # as somebody has them, maybe long ago
        self.rows: dict[int, dict[str, Any] | None] = {n: self.stored(n) for n in KEYS}
        self.notes: dict[int, dict[str, Any]] = {n: {} for n in OWNERS}
        self.asleep: list[Claim] = []
        self.is_away = False

    @staticmethod
    def new_owner() -> Owner:
        return Owner.objects.create(name=str(uuid.uuid4()))

    def row(self, n: int) -> Everything | None:
        return Everything.objects.filter(key=self.keys[n]).first()

    def stored(self, n: int) -> dict[str, Any] | None:
        return Everything.objects.filter(key=self.keys[n]).values(*TRACKED).first()

    def mapping(self, n: int) -> Any:
        return Note.buffered.of(page="p", owner=self.owners[n])

    def querysets(self, chosen: set[int]) -> Any:
        every = BufferedQuerySet(Everything, using=current())
        return every.filter(key__in=[self.keys[n] for n in chosen])

    def there(self, chosen: set[int]) -> list[int]:
        """The rows that a queryset finds and nobody is about to delete."""
        return [n for n in sorted(chosen) if self.stored(n) and self.rows[n] is not None]

    def act(self, verb: str, *details: Any) -> None:
        match verb, *details:
            case "set", n, written:
                Everything.buffered.set(key=self.keys[n], **written)
                row = self.rows[n] or dict.fromkeys(TRACKED)
                self.rows[n] = row | {
                    name: in_python(row[name], value, json=False) for name, value in written.items()
                }
            case "remove", n:
                Everything.buffered.delete(key=self.keys[n])
                self.rows[n] = None
            case "note", n, values:
                self.mapping(n).update(values)
                notes = self.notes[n]
                for name, value in values.items():
                    notes[name] = in_python(notes.get(name), value, json=True)
            case "clear", n:
                self.mapping(n).clear()
                self.notes[n] = {}
            case "load", n:
                self.loaded[n] = self.row(n)
            case "save", n, values:
                self.save(n, values)
            case "save some", n, values:
                row = self.loaded[n]
                if row is not None and self.stored(n) and self.rows[n] is not None:
                    for name, value in values.items():
                        setattr(row, name, value)
                    row.save(update_fields=values)
                    self.rows[n] = self.rows[n] | values
            case "update", chosen, values:
                found = self.there(chosen)
                self.querysets(chosen).update(**values)
                for n in found:
                    self.rows[n] = self.rows[n] | values
            case "add", chosen, amount:
                found = self.there(chosen)
                self.querysets(chosen).update(integer=F("integer") + amount)
                for n in found:
                    before = self.rows[n]["integer"]  # NULL and a number are NULL
                    after = None if before is None else before + amount
                    self.rows[n] = self.rows[n] | {"integer": after}
            case "delete", n:
                if (row := self.row(n)) is not None:
                    row.delete()
                    self.rows[n] = None
            case "delete many", chosen:
                found = [n for n in chosen if self.stored(n)]
                self.querysets(chosen).delete()
                for n in found:
                    self.rows[n] = None
            case "owner goes", n:
                gone = self.owners[n]
                for k in KEYS:
                    if (stored := self.stored(k)) and stored["owner_id"] == gone.pk:
                        self.rows[k] = None
                Owner.objects.get(pk=gone.pk).delete()
                self.owners[n], self.notes[n] = self.new_owner(), {}
            case "block", inner, is_kept:
                self.block(inner, is_kept)
            case "elsewhere", (inner_verb, *inner):
                elsewhere(lambda: self.act(inner_verb, *inner))
            case ("away",):
                self.is_away = True
                self.go("direct")
            case ("back",):
                self.is_away = False
                self.go("buffered")
            case _:
                self.flush(verb)

    def save(self, n: int, values: dict[str, Any]) -> None:
        row, stored, before = self.loaded[n], self.stored(n), self.rows[n]
        if row is None:
            if stored is not None:
                return
            row = self.loaded[n] = Everything(key=self.keys[n])
        if row.owner_id and not Owner.objects.filter(pk=row.owner_id).exists():
            return
        if row.pk and stored is None:
            row = self.loaded[n] = Everything(key=self.keys[n])
        if stored is not None and row.pk != Everything.objects.get(key=self.keys[n]).pk:
            return  # it was made anew since it was loaded
        for name, value in values.items():
            setattr(row, name, value)
        own = {name: getattr(row, name) for name in TRACKED}
        row.save()
        if stored is None or before is None:
            self.rows[n] = own
        else:
            self.rows[n] = before | {name: v for name, v in own.items() if v != stored[name]}

    def block(self, inner: list[tuple[Any, ...]], is_kept: bool) -> None:
        saved = copy.deepcopy((self.rows, self.notes)), [*self.owners], copy.deepcopy(self.loaded)
        try:
            with transaction.atomic(using=current()):
                for verb, *details in inner:
                    self.act(verb, *details)
                    self.check()
                if not is_kept:
                    raise RolledBack
        except RolledBack:
            (self.rows, self.notes), self.owners, self.loaded = saved

    def flush(self, verb: str) -> None:
        if self.is_away:
            return
        if verb == "claim":
            self.asleep += [*claim(Everything.buffered, size=9), *claim(Note.buffered, size=9)]
            return
        for sleeper in self.asleep:
            sleeper.flush()
        self.asleep.clear()
        if verb == "flush":
            Everything.buffered.flush()
            Note.buffered.flush()
            self.check_letters()

    @staticmethod
    def check_letters() -> None:
        """Of metadata that a transaction held back when it deleted the owner."""
        reasons = [*DeadLetter.objects.values_list("reason", flat=True)]
        assert all("there is no tests.Owner" in reason for reason in reasons), reasons

    def check(self) -> None:
        if self.is_away:
            return  # what is pending is not to be seen
        found = Everything.buffered.get_many(self.keys)
        rows = {
            n: {name: getattr(row, name) for name in TRACKED} if (row := found.get(key)) else None
            for n, key in enumerate(self.keys)
        }
        assert rows == self.rows
        assert {n: dict(self.mapping(n)) for n in OWNERS} == self.notes

    def end(self) -> None:
        self.act("back")
        self.act("flush")
        self.check()
        assert {n: self.stored(n) for n in KEYS} == self.rows
        for n in OWNERS:
            notes = Note.objects.filter(owner=self.owners[n]).values_list("key", "value")
            assert dict(notes) == self.notes[n]


def play(story: list[tuple[Any, ...]], go: Callable[[str], None]) -> None:
    go("buffered")
    it = Story(go)
    for verb, *details in story:
        it.act(verb, *details)
        it.check()
    it.end()
    DeadLetter.objects.all().delete()


tells = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


@tells
@given(story=stories(operations=True, outage=False))
def test_families(story, database, redis_server, go):
    play(story, go)


@pytest.fixture
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.backdoor.reads import give_up_on_flushers

    give_up_on_flushers(monkeypatch)


@tells
@given(story=stories(operations=False, outage=True))
def test_families_while_redis_comes_and_goes(story, database, redis_server, go, nobody_waits):
    """Of plain values alone: a sum that goes on over a write past Redis is kept whole."""
    play(story, go)
