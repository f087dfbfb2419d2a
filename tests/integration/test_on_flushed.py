"""The hook `on_flushed`: what a batch wrote, once it is in the database for good."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections

from tests.models import Item, Note, Owner, Pair, Seat, Stamp
from tests.router import current
from writebehind_app import Add, checkpoints
from writebehind_app.buffers.base import Buffer
from writebehind_app.declaration import FlushedRow


class Died(BaseException):
    pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]) -> Any:
    """`told(buffer)`: the list into which its batches go from now on."""
    configure(SHARDS=1)

    def listen(buffer: Buffer) -> list[list[FlushedRow]]:
        batches: list[list[FlushedRow]] = []

        class Listening(type(buffer)):  # type: ignore[misc]
            def on_flushed(self, rows: list[FlushedRow]) -> None:
                assert not connections[current()].in_atomic_block
                assert self.count_pending() == 0  # it is acknowledged
                batches.append(rows)

        monkeypatch.setattr(buffer, "__class__", Listening)
        return batches

    return listen


def shown(rows: list[FlushedRow]) -> list[tuple[dict, dict, bool]]:
    return [(row.key, row.values, row.delete) for row in rows]


def test_it_is_given_what_was_written_row_by_row(database, redis_server, told):
    batches = told(Item.buffered)
    Item.objects.create(number=1, a=1)
    Item.objects.create(number=2)
    Item.buffered.set(number=1, a=Add(2))
    Item.buffered.delete(number=2)
    Item.buffered.set(number=3, b="new")
    Item.buffered.set(number=3, a=7)
    Item.buffered.flush()
    Item.buffered.flush()  # nothing: no call
    (rows,) = batches
    assert shown(rows) == [
        ({"number": 1}, {"a": Add(2)}, False),
        ({"number": 2}, {}, True),
        ({"number": 3}, {"a": 7, "b": "new"}, False),
    ]
    assert abs(rows[0].at.timestamp() - time.time()) < 60


def test_of_metadata_a_row_is_a_meta_key(plain, told):
    batches = told(Note.buffered)
    owner = Owner.objects.create(name="anna")
    Note.buffered.of(page="p", owner=owner).update(section=3)
    Note.buffered.flush()
    (rows,) = batches
    key = {"page": "p", "owner_id": owner.pk, "key": "section"}
    assert shown(rows) == [(key, {"value": 3}, False)]


def test_of_a_log_a_row_is_a_record(plain, told):
    batches = told(Seat.buffered)
    Seat.buffered.extend([{"number": 2}, {"number": 1}])
    Seat.buffered.flush()
    (rows,) = batches
    assert shown(rows) == [({}, {"number": 2}, False), ({}, {"number": 1}, False)]
    assert [row.at for row in rows] == [seat.at for seat in Seat.objects.order_by("pk")]


def test_what_the_database_refuses_is_not_among_it(database, redis_server, told):
    batches = told(Pair.buffered)
    owner = Owner.objects.create(name="anna")
    Pair.objects.create(owner=owner, name="there", note="taken")
    Pair.buffered.set(owner=owner, name="a", note="taken")
    Pair.buffered.set(owner=owner, name="b", value=1)
    assert Pair.buffered.flush().dead_letters == 1
    (rows,) = batches
    assert shown(rows) == [({"owner_id": owner.pk, "name": "b"}, {"value": 1}, False)]


def test_it_may_fail(plain, monkeypatch, caplog):
    class Failing(type(Stamp.buffered)):
        def on_flushed(self, rows):
            raise RuntimeError("the search engine is away")

    monkeypatch.setattr(Stamp.buffered, "__class__", Failing)
    stamp = Stamp.objects.create()
    receipt = Stamp.buffered.set(pk=stamp.pk, count=1)
    with caplog.at_level(logging.ERROR, "writebehind"):
        assert Stamp.buffered.flush().errors == 0
    assert receipt.persisted
    assert "on_flushed failed" in caplog.text
    assert "the search engine is away" in caplog.text


@pytest.mark.parametrize("step", ["flush.token", "flush.committed", "flush.acked"])
def test_it_is_called_once_at_most_however_the_flusher_ends(
    step, database, redis_server, told, configure, monkeypatch
):
    configure(LEASE=0.05)
    batches = told(Item.buffered)
    Item.buffered.set(number=1, a=1)

    def die(reached: str) -> None:
        if reached == step:
            raise Died

    monkeypatch.setattr(checkpoints, "hook", die)
    with pytest.raises(Died):
        Item.buffered.flush()
    monkeypatch.setattr(checkpoints, "hook", None)
    time.sleep(0.06)
    Item.buffered.flush()
    Item.buffered.flush()
    assert Item.objects.get().a == 1
    # Whoever takes over a batch that is committed already does not know what is new of it.
    assert len(batches) == (1 if step == "flush.token" else 0)


def test_a_time_limit_within_it_ends_the_task(plain, monkeypatch):
    error = pytest.importorskip("rq.timeouts").JobTimeoutException

    class Failing(type(Stamp.buffered)):
        def on_flushed(self, rows):
            raise error

    monkeypatch.setattr(Stamp.buffered, "__class__", Failing)
    stamp = Stamp.objects.create()
    receipt = Stamp.buffered.set(pk=stamp.pk, count=1)
    with pytest.raises(error):
        Stamp.buffered.flush()
    assert receipt.persisted
