"""What looks at metadata and writes to it is one step, whoever else does the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections

from tests.models import Note, Owner


@pytest.fixture
def notes(request) -> MutableMapping[str, Any]:
    request.getfixturevalue("database" if "database" in request.fixturenames else "plain")
    return Note.buffered.of(page="p", owner=Owner.objects.create(name="anna"))


THREADS = 8


def together(act: Callable[[int], Any]) -> list[Any]:
    """What each of some threads got from it, or its KeyError."""
    ready = threading.Barrier(THREADS)

    def run(n: int) -> Any:
        try:
            ready.wait()
            return act(n)
        except KeyError as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


@pytest.mark.parametrize("stored_before", [False, True])
def test_one_of_many_pops_gets_the_value(database, redis_server, notes, stored_before):
    for turn in range(5):
        notes.update(a=turn, b=turn)
        if stored_before:
            notes.flush()
        found = together(lambda n: notes.pop("a"))
        assert [value for value in found if not isinstance(value, KeyError)] == [turn]
        assert dict(notes) == {"b": turn}


def test_one_of_many_deletions_finds_it(plain, notes):
    notes.update(a=1)
    found = together(lambda n: notes.__delitem__("a"))
    assert found.count(None) == 1


def test_each_gets_an_item_of_its_own(plain, notes):
    notes.update({str(n): n for n in range(THREADS - 2)})
    found = together(lambda n: notes.popitem())
    items = [item for item in found if not isinstance(item, KeyError)]
    assert sorted(items) == [(str(n), n) for n in range(THREADS - 2)]
    assert dict(notes) == {}


@pytest.mark.parametrize("flushed", [False, True])
def test_all_defaults_are_the_first_one(database, redis_server, notes, flushed):
    for _ in range(5):
        notes.clear()
        if flushed:
            notes.flush()
        found = together(lambda n: notes.setdefault("a", n))
        assert found == [notes["a"]] * THREADS


def test_what_is_not_there(plain, notes):
    notes["b"] = 1
    notes.flush()
    for act in (lambda: notes.pop("a"), lambda: notes.pop(5), lambda: notes.__delitem__("a")):
        with pytest.raises(KeyError):
            act()
    assert notes.pop("a", None) is notes.pop(5, default=None) is None
    assert notes.setdefault("b", object()) == 1  # which is not even looked at
    assert notes.pending() == []
    notes.clear()
    with pytest.raises(KeyError):
        notes.popitem()
