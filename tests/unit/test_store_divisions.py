"""The scripts of a division, and of a change of it, one by one."""

from __future__ import annotations

import pytest

from tests.backdoor.store import KEY, Refused, Row, Store, store_on
from tests.servers import RedisServer
from writebehind_app.store import divisions, lua
from writebehind_app.store.calls import Record
from writebehind_app.store.keys import Division, division_of, parts_of, shard_key

BUFFER = "{wb:app.Model:default}"


@pytest.fixture
def store(redis_server: RedisServer) -> Store:
    with store_on(redis_server) as store:
        yield store


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(divisions, "known", divisions.Known({}, {}))


def division(store: Store, first: int = 1, longest: int = 10**9, write: str = "1") -> list[object]:
    return lua.run(store.own, "division", BUFFER, first, longest, write)


def begin(store: Store, token: str, number: int = 0) -> int:
    return divisions.begin(store.own, BUFFER, token, Division(1, number))


def open_as(store: Store, found: str) -> int:
    return lua.run(store.own, "open", KEY, found)


@pytest.mark.parametrize("division", [Division(1), Division(4), Division(4, 12)])
def test_keys_say_which_division_they_are_of(division):
    keys = [shard_key(BUFFER, number, division) for number in range(division.shards)]
    assert len({*keys}) == division.shards
    assert {division_of(key) for key in keys} == {(BUFFER, division)}
    assert [parts_of(key) for key in keys] == [
        ("app.Model", "default", n) for n in range(division.shards)
    ]


class TestDivision:
    def test_the_first_process_says_how_many_shards_there_are(self, store):
        assert division(store, 4) == [4, 0, ""]
        assert division(store, 2) == [4, 0, ""]

    def test_a_look_notes_nothing(self, store, known):
        assert division(store, 4, write="")[:3] == [4, 0, ""]
        assert divisions.renew(store.own, {BUFFER: 4}, to_write=False) == {BUFFER: ""}
        assert not store.client.exists(BUFFER)
        assert division(store, 2) == [2, 0, ""]  # the first process that writes says how many
        divisions.renew(store.own, {BUFFER: 4}, to_write=False)
        assert len(divisions.shard_keys(BUFFER, 4)) == 2

    def test_a_look_ends_no_change(self, store):
        division(store)
        begin(store, "a")
        before = store.client.hgetall(BUFFER)
        assert division(store, longest=0, write="") == [1, 0, ""]
        assert store.client.hgetall(BUFFER) == before

    def test_a_change_is_told_of(self, store):
        division(store)
        begin(store, "a")
        assert division(store) == [1, 0, "a"]

    def test_a_change_that_takes_too_long_is_over(self, store):
        division(store)
        begin(store, "a")
        assert division(store, longest=0) == [1, 0, ""]
        assert not divisions.put_in_force(store.own, BUFFER, "a", Division(4, 1))
        assert division(store) == [1, 0, ""]

    def test_what_somebody_else_wrote_is_replaced(self, store):
        store.client.hset(BUFFER, mapping={"shards": "many", "number": 3})
        assert division(store, 2) == [2, 0, ""]


class TestChange:
    def test_one_at_a_time(self, store):
        division(store)
        assert begin(store, "a") == 1
        assert begin(store, "b") == 0
        divisions.give_up(store.own, BUFFER, "b")
        assert begin(store, "b") == 0
        divisions.give_up(store.own, BUFFER, "a")
        assert begin(store, "b") == 2

    def test_one_that_takes_too_long_is_replaced(self, store, monkeypatch):
        division(store)
        begin(store, "a")
        monkeypatch.setattr(divisions, "LONGEST", -1)
        assert begin(store, "b") == 2
        assert not divisions.put_in_force(store.own, BUFFER, "a", Division(4, 1))
        assert divisions.put_in_force(store.own, BUFFER, "b", Division(3, 2))
        assert division(store) == [3, 2, ""]

    def test_of_a_division_that_is_not_in_force_any_more(self, store):
        division(store)
        begin(store, "a")
        divisions.put_in_force(store.own, BUFFER, "a", Division(4, 1))
        assert begin(store, "b", number=0) == 0
        assert begin(store, "b", number=1) == 2


class TestShard:
    def test_it_takes_nothing_before_it_was_opened(self, store):
        sender = store.sender
        for call in (store.call(Row("1", {"a": "1"})), store.append_call(Record("", None, {}))):
            (reply,) = store.own.exchange(
                [("EVAL", lua.source(call.script), *call.command(sender.name, 2**53)[2:])], False
            )[0]
            assert reply[1:] == ["closed", "?"]
        assert store.keys() == set()
        assert open_as(store, "a") == 0
        assert open_as(store, "?") == 1
        assert isinstance(store.send(Row("1", {"a": "1"})), int)

    @pytest.mark.parametrize(
        "row", [Row("1", {"a": "1"}), Row("1", {"a": "+:1"}), Row("1", delete=True)]
    )
    def test_closed_it_takes_nothing_and_tells_why(self, store, row):
        store.write("1", {"a": "1"})
        assert divisions.close(store.own, [KEY], "a") == {}
        before = store.dump()
        assert store.send(row) == Refused("closed", "a")
        assert store.dump() == before

    def test_closed_it_is_flushed_and_read(self, store):
        store.write("1", {"a": "1"})
        divisions.close(store.own, [KEY], "a")
        reading = store.read("1")
        assert reading.closed == "a"
        assert reading.pending.keys() == {"1"}
        assert store.ack(store.batch().token)
        assert store.counts() == (0, 0, 0)

    def test_a_change_does_not_close_what_another_one_has_closed(self, store):
        store.write("1")
        divisions.close(store.own, [KEY], "a")
        assert divisions.close(store.own, [KEY], "b") == {KEY: "a"}
        assert store.send(Row("1")) == Refused("closed", "a")

    def test_it_is_opened_by_those_who_know_why_it_is_closed(self, store):
        store.write("1")
        divisions.close(store.own, [KEY], "b")
        assert open_as(store, "a") == open_as(store, "?") == 0
        assert store.send(Row("1")) == Refused("closed", "b")
        assert open_as(store, "b") == 1
        assert isinstance(store.send(Row("1")), int)

    @pytest.mark.parametrize("ask", ["read", "look"])
    def test_who_asks_it_hears_that_it_is_not_open(self, store, ask):
        found = getattr(store, ask)
        assert found("1").closed == "?"
        store.write("1")
        assert found("1").closed == ""
        divisions.close(store.own, [KEY], "a")
        assert found("1").closed == "a"


class TestWhatBecameOfAClosedShard:
    @pytest.fixture(autouse=True)
    def closed(self, store, known):
        division(store)
        store.write("1")
        begin(store, "a")
        divisions.close(store.own, [KEY], "a")

    def settled(self, store) -> str:
        return divisions.run_dialogue(store.own, divisions.settling({KEY: "a"}))[KEY]

    def test_its_change_is_under_way(self, store):
        assert self.settled(store) == "closing"
        assert store.send(Row("1")) == Refused("closed", "a")

    def test_its_change_is_over(self, store, monkeypatch):
        monkeypatch.setattr(divisions, "LONGEST", -1)
        assert self.settled(store) == "open"
        assert isinstance(store.send(Row("1")), int)

    def test_another_change_is_under_way(self, store):
        divisions.give_up(store.own, BUFFER, "a")
        begin(store, "b")
        assert self.settled(store) == "open"

    def test_another_division_is_in_force(self, store):
        divisions.put_in_force(store.own, BUFFER, "a", Division(4, 1))
        assert self.settled(store) == "moved"
        assert store.send(Row("1")) == Refused("closed", "a")
        assert divisions.shard_keys(BUFFER, 1) == [
            shard_key(BUFFER, number, Division(4, 1)) for number in range(4)
        ]
