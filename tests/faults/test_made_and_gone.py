"""The ORM makes a row and deletes it, while a flusher is about to insert what is older.

The flusher cannot lock a row that is not there yet.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connections, transaction

from tests.backdoor.flushes import isolate_at_once
from tests.elsewhere import elsewhere
from tests.models import Branch, Counter, Note, Owner, Pair
from tests.router import current
from writebehind_app import checkpoints

pytestmark = pytest.mark.usefixtures("redis_server")

STEPS = ["flush.claimed", "flush.token", "flush.deleted", "flush.updated"]


@pytest.fixture
def once(monkeypatch):
    """Call something at a step of the flush, once."""

    def at(step: str, act: Callable[[], None]) -> Callable[[], bool]:
        reached: list[str] = []

        def hook(name: str) -> None:
            if name == step and not reached:
                reached.append(name)
                elsewhere(act)

        monkeypatch.setattr(checkpoints, "hook", hook)
        return lambda: bool(reached)

    return at


@pytest.fixture(autouse=True)
def _several_writers(database, request):
    if connections[database].vendor == "sqlite" and "flush.claimed" not in request.node.name:
        pytest.skip("It has one writing transaction at a time.")


def _made_and_gone() -> None:
    Counter.objects.create(name="x", big=1).delete()


@pytest.mark.parametrize("is_one", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_row(database, once, step, is_one):
    Counter.buffered.set(name="x", small=22)
    Counter.buffered.set(name="y", small=1)

    def act() -> None:
        if is_one:
            with transaction.atomic(using=current()):
                _made_and_gone()
        else:
            _made_and_gone()

    was_there = once(step, act)
    result = Counter.buffered.flush()
    assert was_there()
    assert (result.errors, result.remaining, result.dead_letters) == (0, 0, 0)
    assert dict(Counter.objects.values_list("name", "small")) == {"y": 1}
    assert [row.name for row in Counter.buffered.get_many(["x", "y"]).values()] == ["y"]


@pytest.mark.parametrize("step", STEPS)
def test_that_was_made_and_deleted_before(database, once, step):
    """The row has a fence that the flusher has seen."""
    Counter.buffered.set(name="x", small=22)
    _made_and_gone()
    Counter.buffered.set(name="x", big=2)
    Counter.buffered.set(name="y", small=1)
    once(step, _made_and_gone)
    Counter.buffered.flush()
    assert [row.name for row in Counter.objects.all()] == ["y"]
    Counter.buffered.set(name="x", small=7)
    Counter.buffered.flush()
    assert Counter.objects.get(name="x").big is None


@pytest.mark.parametrize("step", STEPS)
def test_a_row_beside_one_that_is_refused(database, once, step):
    owner = Owner.objects.create(name="anna")
    Pair.buffered.set(owner=owner, name="x", value=22)
    Pair.buffered.set(owner=owner, name="y", value=1)
    Pair.buffered.set(owner=404404, name="orphan")
    once(step, lambda: Pair.objects.create(owner=owner, name="x").delete())
    result = Pair.buffered.flush()
    assert (result.errors, result.dead_letters) == (0, 1)
    assert [row.name for row in Pair.objects.all()] == ["y"]


@pytest.mark.parametrize("step", STEPS)
def test_one_of_two_that_wait_for_each_other(database, once, step, monkeypatch):
    isolate_at_once(monkeypatch)
    Branch.buffered.set(slug="x", above="y")
    Branch.buffered.set(slug="y", above="x")
    once(step, lambda: Branch.objects.create(slug="x").delete())
    result = Branch.buffered.flush()
    assert (result.errors, result.dead_letters) == (0, 0)
    assert not Branch.objects.exists()  # the other one goes with it


@pytest.mark.parametrize("step", STEPS)
def test_a_key_of_metadata(database, once, step):
    owner = Owner.objects.create(name="anna")
    Note.buffered.of(page="p", owner=owner.pk).update(a=1, b=2)

    def act() -> None:
        Note.objects.create(page="p", owner=owner, key="a", value=7).delete()

    once(step, act)
    Note.buffered.flush()
    assert dict(Note.objects.values_list("key", "value")) == {"b": 2}
    assert Note.buffered.of(page="p", owner=owner.pk) == {"b": 2}


@pytest.mark.parametrize("step", STEPS)
def test_a_fence_that_was_there_before(database, once, step):
    """It is no reason to try again."""
    Counter.buffered.set(name="x", small=22)
    _made_and_gone()
    Counter.buffered.set(name="x", big=2)
    tried = []
    once(step, lambda: tried.append(step))
    result = Counter.buffered.flush()
    assert tried
    assert (result.batches, result.errors) == (1, 0)
    assert Counter.objects.get(name="x").big == 2
