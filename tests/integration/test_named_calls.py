"""`once` where nothing is lost; what may be lost on the way is in tests/faults/test_once.py."""

from __future__ import annotations

import pytest

from tests.backdoor.reads import act_after_look
from tests.models import Item, Line
from writebehind_app import Add
from writebehind_app.exceptions import WriteUncertain
from writebehind_app.models import OnceKey


def test_a_call_that_is_repeated_in_direct_mode(database, redis_server, configure):
    configure(MODE="direct")
    for _ in range(2):
        Item.buffered.set(number=1, a=Add(1), once="key")
        Line.buffered.append(text="x", once="key")
    assert Item.objects.get(number=1).a == 1
    assert Line.objects.count() == 1


def test_a_call_that_finds_nothing_to_do_as_it_did_it_itself(plain):
    Item.buffered.set(number=1, a=1)
    for _ in range(2):
        assert Item.buffered.set_if({"a": 1}, number=1, a=2, once="key")
    assert not Item.buffered.set_if({"a": 1}, number=1, a=2, once="another key")


def test_the_same_call_is_taken_while_this_one_looks(plain, monkeypatch):
    def call() -> bool:
        return Item.buffered.set_if({"a": 1}, number=1, a=2, once="key")

    Item.buffered.set(number=1, a=1)
    act_after_look(monkeypatch, call)
    assert call()
    assert Item.buffered.get(number=1).a == 2


def test_a_redis_that_is_away_may_hold_an_earlier_call(plain, configure):
    """So the call does not go around it, as one without a name does."""
    configure(WHEN_DOWN="direct", CONNECT_TIMEOUT=0.2)
    Item.buffered.set(number=1, a=Add(1), once="key")
    plain.stop()
    try:
        assert Item.buffered.set(number=2, a=1).direct
        with pytest.raises(WriteUncertain, match="Repeat it when Redis is back"):
            Item.buffered.set(number=1, a=Add(1), once="key")
        assert not Item.objects.filter(number=1).exists()
        assert not OnceKey.objects.exists()
    finally:
        plain.start()
