"""`once`: a call that comes again under its key changes nothing, wherever the first one went."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backdoor.batches import claim_and_die
from tests.backdoor.calls import Replies, memory_of_once
from tests.faults.test_fences import EXAMPLES, Flusher
from tests.models import Item, Line, Note, Owner, Visit
from tests.outages import wait_for_redis
from writebehind_app import Add
from writebehind_app.buffers.base import Buffer
from writebehind_app.exceptions import (
    AlreadyExists,
    BufferFull,
    BufferUnavailable,
    WriteUncertain,
)
from writebehind_app.models import OnceKey

TEN = range(10)


def notes(n: int = 1) -> Any:
    return Note.buffered.of(page=f"p{n}", owner=1)


# By verb: the buffer, a call with a key, and how often it was carried out.
CALLS: dict[str, tuple[Buffer, Callable[[str], Any], Callable[[], float]]] = {
    "set": (
        Item.buffered,
        lambda key: Item.buffered.set(number=1, a=Add(1), once=key),
        lambda: Item.buffered.get(number=1).a,
    ),
    "set_many": (
        Item.buffered,
        lambda key: Item.buffered.set_many([{"number": n % 3, "a": Add(1)} for n in TEN], once=key),
        lambda: sum(row.a for row in Item.buffered.get_many(TEN).values()) / 10,
    ),
    "create": (
        Item.buffered,
        lambda key: Item.buffered.create(number=2, a=1, once=key),
        lambda: Item.buffered.get(number=2).a,
    ),
    "set_if": (
        Item.buffered,
        lambda key: Item.buffered.set_if({"a": 0}, number=7, a=Add(1), once=key),
        lambda: Item.buffered.get(number=7).a,
    ),
    "append": (
        Line.buffered,
        lambda key: Line.buffered.append(text="x", once=key),
        lambda: len(Line.buffered.window()),
    ),
    "unique append": (
        Visit.buffered,
        lambda key: Visit.buffered.append(event=1, email="a", once=key),
        lambda: len(Visit.buffered.window()),
    ),
    "extend": (
        Line.buffered,
        lambda key: Line.buffered.extend([{"text": str(n)} for n in TEN], once=key),
        lambda: len(Line.buffered.window()) / 10,
    ),
    "unique extend": (
        Visit.buffered,
        lambda key: Visit.buffered.extend([{"event": n, "email": "a"} for n in TEN], once=key),
        lambda: len(Visit.buffered.window()) / 10,
    ),
    "metadata": (
        Note.buffered,
        lambda key: notes().update({"once": Add(1)}, n=Add(1), once=key),
        lambda: notes()["once"],
    ),
    "update_many": (
        Note.buffered,
        lambda key: Note.buffered.update_many(
            [({"page": f"p{n}", "owner": 1}, {"n": Add(1)}) for n in (1, 2)], once=key
        ),
        lambda: (notes(1)["n"] + notes(2)["n"]) / 2,
    ),
}
every_call = pytest.mark.parametrize("call", CALLS)
on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def stored(database):
    Owner.objects.create(pk=1, name="anna")
    Item.objects.create(number=7)


@on_valkey
@every_call
@pytest.mark.parametrize("since", ["nothing", "claimed", "flushed", "emptied", "fresh again"])
def test_a_call_comes_again(call, since, database, redis_server, configure):
    configure(SHARDS=2)
    buffer, run, times = CALLS[call]
    first = run("key")
    if since == "claimed":
        claim_and_die(buffer)
    elif since != "nothing":
        assert buffer.flush().rows
    if since == "emptied":
        with redis_server.client() as client:
            client.flushall()
    elif since == "fresh again":  # for longer than a key is remembered, of the flush too
        OnceKey.objects.update(at=0)
        buffer.flush()
        assert not OnceKey.objects.exists()
        with redis_server.client() as client:
            client.flushall()
        if call in ("create", "unique append", "unique extend"):
            with pytest.raises(AlreadyExists):
                run("key")
        elif call != "set_if":
            run("key")
            assert times() == 2
        return
    again = run("key")
    assert type(again) is type(first)
    assert again
    assert times() == 1
    if call not in ("create", "unique append", "unique extend", "set_if"):
        run("another key")
        assert times() == 2
    buffer.flush()
    assert run("key")
    assert not buffer.count_pending()


@on_sqlite
@on_valkey
@every_call
@pytest.mark.parametrize("when_down", ["direct", "raise"])
def test_redis_is_away(call, when_down, database, redis_server, configure):
    """It may hold an earlier call, so none goes around it."""
    configure(WHEN_DOWN=when_down)
    _, run, times = CALLS[call]
    redis_server.stop()
    for _ in range(3):
        with pytest.raises(WriteUncertain if when_down == "direct" else BufferUnavailable):
            run("key")
    assert not OnceKey.objects.exists()
    redis_server.start()
    wait_for_redis()
    run("key")
    run("key")
    assert times() == 1


@on_valkey
@every_call
def test_redis_has_taken_it_and_is_gone(call, database, redis_server, configure):
    """Nobody can tell, and nobody guesses, until it is stored."""
    configure(WHEN_DOWN="direct")
    buffer, run, times = CALLS[call]
    run("key")
    redis_server.stop()
    with pytest.raises(WriteUncertain, match="Repeat it when Redis is back"):
        run("key")
    redis_server.start()
    wait_for_redis()
    run("key")
    assert times() == 1
    buffer.flush()
    redis_server.stop()
    run("key")  # by now the database knows
    redis_server.start()
    wait_for_redis()
    assert times() == 1


@on_sqlite
@on_valkey
@every_call
@pytest.mark.parametrize("fault", ["lose the reply", "cut", "keep"])
def test_the_answer_is_lost_for_good(call, fault, database, proxy, configure):
    """SCENARIOS 33."""
    configure(SHARDS=1)
    buffer, run, times = CALLS[call]
    proxy.faults = [fault, fault]
    with pytest.raises(WriteUncertain):
        run("key")
    assert proxy.met == 2
    run("key")
    proxy.deliver()
    run("key")
    assert times() == 1
    buffer.flush()
    assert times() == 1


def test_a_delete_does_not_forget_it(database, redis_server):
    Item.buffered.set(number=1, a=Add(1), once="key")
    Item.buffered.delete(number=1, once="other")
    Item.buffered.flush()
    with redis_server.client() as client:
        client.flushall()
    Item.buffered.set(number=1, a=Add(1), once="key")
    Item.buffered.delete(number=1, once="other")
    assert Item.buffered.count_pending() == 0
    assert OnceKey.objects.count() == 2


def test_what_the_database_refuses_was_carried_out(database, redis_server):
    Note.buffered.of(page="p", owner=404404).update(n=1, once="key")
    assert Note.buffered.flush().dead_letters == 1
    Note.buffered.of(page="p", owner=404404).update(n=1, once="key")
    assert Note.buffered.count_pending() == 0


def test_what_was_not_taken_is_not_remembered(database, redis_server, configure):
    assert not Item.buffered.set_if({"a": 5}, number=7, a=6, once="key")
    Item.buffered.set(number=7, a=5)
    assert Item.buffered.set_if({"a": 5}, number=7, a=6, once="key")
    assert Item.buffered.set_if({"a": 5}, number=7, a=6, once="key")
    assert Item.buffered.get(number=7).a == 6
    for _ in range(2):
        with pytest.raises(AlreadyExists):
            Item.buffered.create(number=7, once="new")
    Item.buffered.delete(number=7)
    assert Item.buffered.create(number=7, a=9, once="new")
    assert Item.buffered.create(number=7, a=9, once="new")


def test_keys_are_those_of_a_row_and_of_a_buffer(database, redis_server):
    for number in (1, 2):
        Item.buffered.set(number=number, a=1, once="key")
    Item.buffered.set_many([{"number": n, "a": Add(1)} for n in (1, 3, 3)], once="key")
    assert [Item.buffered.get(number=n).a for n in (1, 2, 3)] == [1, 1, 2]
    Item.buffered.discard(number=2)
    Item.buffered.discard(number=3)
    Line.buffered.append(text="x", once="key")
    notes().update(n=1, once="key")
    assert Item.buffered.count_pending() == len(Line.buffered.window()) == len(notes()) == 1
    with pytest.raises(TypeError, match="once= takes a text that names the call, not 5"):
        Item.buffered.set(number=1, once=5)
    with pytest.raises(TypeError, match="once= takes a text"):
        Line.buffered.append(text="x", once="")


def test_the_note_goes_with_a_transaction_that_is_rolled_back(database, redis_server, configure):
    """The write is in Redis all the same, which knows the key; so does the flush."""
    configure(ON_COMMIT=False)
    with transaction.atomic(using=database):
        Item.buffered.set(number=1, a=Add(1), once="key")
        transaction.set_rollback(True, using=database)
    assert not OnceKey.objects.exists()
    Item.buffered.set(number=1, a=Add(1), once="key")
    Item.buffered.flush()
    assert OnceKey.objects.get()
    assert Item.objects.get(number=1).a == 1


def test_keys_are_remembered_for_once_days(database, redis_server, configure):
    configure(ONCE_DAYS=0.5, SHARDS=1)
    Item.buffered.set(number=1, a=Add(1), once="key")
    assert 43190 <= memory_of_once() <= 43200
    Item.buffered.flush()
    old = timezone.now() - timedelta(days=0.6)
    OnceKey.objects.update(at=int(old.timestamp() * 1e6))
    Item.buffered.flush()
    assert not OnceKey.objects.exists()


# In any order

KEYS = st.sampled_from("abcd")
STORIES = st.lists(
    st.tuples(st.sampled_from(["call", "call", "lost", "cut", "away"]), KEYS)
    | st.tuples(st.sampled_from(["claim", "apply", "flush", "emptied"])),
    max_size=16,
)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(story=STORIES)
def test_stories(story, database, redis_server, monkeypatch):
    """Sums are witnesses: each key adds to a row once. Redis loses all it knows only when nothing
    is left in it to be flushed."""
    name = secrets.randbelow(2**31)
    flusher = Flusher(Item.buffered)
    monkeypatch.setattr(Item.buffered, "options", {"WHEN_DOWN": "direct"})
    replies, keys = Replies(monkeypatch), set()
    for verb, *key in [*story, ("flush",)]:
        replies.fate = verb if verb in ("lost", "cut", "away") else "good"
        if key:
            with suppress(WriteUncertain):
                Item.buffered.set(number=name, a=Add(1), once=f"{key[0]} {name}")
            keys.add(key[0])
        elif verb != "emptied":
            flusher.act(verb)
        elif not Item.buffered.count_pending():
            with redis_server.client() as client:
                client.flushall()
    replies.fate = "good"
    for key in keys:
        Item.buffered.set(number=name, a=Add(1), once=f"{key} {name}")
    flusher.act("flush")
    assert (Item.objects.get(number=name).a if keys else 0) == len(keys)


@pytest.mark.parametrize("when_full", ["direct", "raise"])
def test_full_is_not_taken(database, redis_server, configure, when_full):
    configure(WHEN_FULL=when_full, MAX_PENDING=1, SHARDS=1)
    Item.buffered.set(number=2)
    with pytest.raises(BufferFull):
        Item.buffered.set(number=1, a=Add(1), once="key")
    Item.buffered.flush()
    for _ in range(2):
        Item.buffered.set(number=1, a=Add(1), once="key")
    assert Item.buffered.get(number=1).a == 1
