"""A process is killed at every named step of a write and of a flush; nothing is lost, nothing
comes twice, and every read in between is right."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time

import pytest

from tests.backdoor.batches import claim
from tests.models import Item, Note, Owner
from writebehind_app import Add, Merge, checkpoints
from writebehind_app.models import AppliedBatch

FLUSH_STEPS = [step for step in checkpoints.NAMES if step.startswith("flush.")]
WRITE_STEPS = [step for step in checkpoints.NAMES if step.startswith("write.")]
AFTER_COMMIT = ("flush.committed", "flush.acked")


class Killed(BaseException):
    """No code between a step and the end of the process may run on as if nothing had happened."""


def kill_self_at(step: str) -> None:
    """In a child: die at a step of a flush, by a signal that no code can catch."""

    def hook(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.hook = hook
    Item.buffered.flush()


def write_and_die(step: str, value: int) -> None:
    """In a child: die at a step of a write."""

    def hook(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.hook = hook
    Item.buffered.set(number=1, a=value)


@pytest.fixture
def short_lease(redis_server, settings, monkeypatch):
    """All on one shard, so that one batch holds everything, and leases that end at once."""
    options = {"LEASE": 0.3, "SHARDS": 1}
    monkeypatch.setenv("WRITEBEHIND_TEST_OPTIONS", json.dumps(options))
    settings.WRITEBEHIND = {**settings.WRITEBEHIND, **options}


def write_before() -> dict[int, dict]:
    """Rows that are stored, then pending changes of each kind; says what must come of them."""
    Item.objects.create(number=1, a=1, b="stored")
    Item.objects.create(number=2, a=2, b="stored")
    Item.objects.create(number=3, a=3, b="stored")
    Item.buffered.set(number=1, a=Add(9))  # counted twice or not at all, it is not 10
    Item.buffered.delete(number=2)
    Item.buffered.delete(number=3)
    Item.buffered.set(number=3, a=30)
    Item.buffered.set(number=4, a=40, b="new")
    Item.buffered.set(number=5, a=50)
    Item.buffered.delete(number=5)
    return {
        1: {"a": 10, "b": "stored"},
        3: {"a": 30, "b": ""},
        4: {"a": 40, "b": "new"},
    }


def read() -> dict[int, dict]:
    rows = Item.buffered.get_many(range(1, 6))
    return {number: {"a": row.a, "b": row.b} for number, row in rows.items()}


def stored() -> dict[int, dict]:
    return {row.number: {"a": row.a, "b": row.b} for row in Item.objects.all()}


@pytest.mark.process
@pytest.mark.parametrize("step", FLUSH_STEPS)
def test_a_flusher_is_killed(step, database, redis_server, short_lease, start_child):
    """Scenarios 1 to 4, and 6."""
    expected = write_before()
    before = stored()

    child = start_child(kill_self_at, step)
    assert child.wait(60) == -signal.SIGKILL

    assert read() == expected
    assert stored() == (expected if step in AFTER_COMMIT else before)
    remade = Item.objects.filter(number=3).values_list("pk", flat=True)[0]

    # Written after the batch was frozen, and stronger than it whenever it is applied.
    Item.buffered.set(number=1, b="later")
    expected[1]["b"] = "later"
    assert read() == expected

    Item.buffered.flush()

    assert stored() == expected == read()
    assert Item.buffered.count_pending() == 0
    if step in AFTER_COMMIT:  # applied a second time, the row would have been made once more
        assert Item.objects.get(number=3).pk == remade
    entries = sorted(AppliedBatch.objects.values_list("entries", flat=True))
    assert entries == ([5] if step == "flush.claiming" else [1, 5])


@pytest.mark.parametrize("step", FLUSH_STEPS)
def test_a_flusher_stops_dead_and_another_one_goes_on(
    step, database, redis_server, short_lease, monkeypatch
):
    """The same in one process, with one more batch in the shard behind the first."""
    expected = write_before()

    def hook(reached: str) -> None:
        if reached == step:
            raise Killed

    monkeypatch.setattr(checkpoints, "hook", hook)
    with pytest.raises(Killed):
        Item.buffered.flush()
    monkeypatch.setattr(checkpoints, "hook", None)

    for _ in range(2):
        assert read() == expected
        Item.buffered.flush()
    assert stored() == expected
    assert Item.buffered.count_pending() == 0


@pytest.mark.parametrize("step", FLUSH_STEPS)
def test_metadata_is_there_once_after_a_flusher_stopped_dead(
    step, database, redis_server, short_lease, monkeypatch
):
    owner = Owner.objects.create(name="anna")
    notes, gone = (Note.buffered.of(page=page, owner=owner) for page in ("p", "stored"))
    notes.update(counted=1, replaced=1, deleted=1, kept=1)
    gone["old"] = 1
    Note.buffered.flush()
    notes.update(counted=Add(2), new=1, merged=Merge({"a": 1}))
    del notes["deleted"], notes["replaced"]
    notes["replaced"] = Add(5)
    gone.clear()
    gone["young"] = 1
    expected = {"counted": 3, "replaced": 5, "kept": 1, "new": 1, "merged": {"a": 1}}

    def hook(reached: str) -> None:
        if reached == step:
            raise Killed

    monkeypatch.setattr(checkpoints, "hook", hook)
    with pytest.raises(Killed):
        Note.buffered.flush()
    monkeypatch.setattr(checkpoints, "hook", None)

    for _ in range(2):
        assert dict(notes) == expected
        assert dict(gone) == {"young": 1}
        Note.buffered.flush()
    assert dict(Note.objects.filter(page="p").values_list("key", "value")) == expected
    assert dict(Note.objects.filter(page="stored").values_list("key", "value")) == {"young": 1}
    assert Note.buffered.count_pending() == 0


def test_amounts_in_every_mix_of_pending_and_in_flight(database, redis_server, short_lease):
    """Scenario 7."""
    amounts = (None, 0, 5, -5)
    mixes = list(itertools.product(amounts, repeat=2))
    expected = {n: 100 + (first or 0) + (then or 0) for n, (first, then) in enumerate(mixes)}
    Item.objects.bulk_create(Item(number=n, a=100) for n in expected)

    def add(amounts) -> None:
        writes = [{"number": n, "a": Add(a)} for n, a in enumerate(amounts) if a is not None]
        Item.buffered.set_many(writes)

    add(first for first, _ in mixes)
    (batch,) = claim(Item.buffered, lease=0.01)
    assert len(batch.ids) == 12
    add(then for _, then in mixes)

    def read() -> dict[int, int]:
        return {n: row.a for n, row in Item.buffered.get_many(expected).items()}

    assert read() == expected
    time.sleep(0.02)
    Item.buffered.flush()
    assert read() == expected == dict(Item.objects.values_list("number", "a"))


@pytest.mark.process
@pytest.mark.parametrize("step", WRITE_STEPS)
def test_a_writer_is_killed(step, database, redis_server, start_child):
    """Scenario 9."""
    Item.buffered.set(number=1, a=1)

    child = start_child(write_and_die, step, 2)
    assert child.wait(60) == -signal.SIGKILL

    expected = 2 if step == "write.accepted" else 1
    assert Item.buffered.get(number=1).a == expected
    Item.buffered.flush()
    assert Item.objects.get().a == expected


def test_the_walk_knows_every_step_that_the_code_has():
    """A step that nobody reaches, or that is not listed, would make the walk a lie."""
    from pathlib import Path

    import writebehind_app

    source = Path(writebehind_app.__file__).parent
    reached = {
        line.split('"')[1]
        for file in source.rglob("*.py")
        for line in file.read_text().splitlines()
        if line.strip().startswith('reach("')
    }
    assert reached == set(checkpoints.NAMES)
