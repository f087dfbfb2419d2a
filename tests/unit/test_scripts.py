"""The Lua scripts do what their headers say, on a Redis and on a Valkey."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from redis.exceptions import NoScriptError

from tests.servers import lasting_keys
from writebehind_app.store import lua, server, shard
from writebehind_app.store.client import Client
from writebehind_app.store.delivery import deliver
from writebehind_app.store.keys import shard_key
from writebehind_app.store.shard import Batch, Shard, Wait

KEY = shard_key("wb", "app.Model", 0)
TOKEN = "a" * 32


@pytest.fixture
def one(redis_server) -> Iterator[Shard]:
    with redis_server.client() as plain, server.sibling(plain, 5.0) as client:
        yield Shard(client, KEY)


def write(
    one: Shard, id: str, *, max_age: float = 0, quiet: float = 0, version: int = 0, **texts: str
) -> int:
    fields = [part for pair in texts.items() for part in pair]
    return delivered(one, id, round(max_age * 1e6), round(quiet * 1e6), "", "", version, *fields)


def delete(one: Shard, id: str) -> int:
    return delivered(one, id, 0, 0, "1", "", 0)


def delivered(one: Shard, *args: str | int) -> int:
    (outcome,) = deliver(one.client, "write", [(KEY, *args)])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome[0]


def named(n: int) -> str:
    """The nth call of one that waits for ever."""
    return f"9999999999999999 0000000000000001 0 me {n} - -"


def claim(one: Shard, token: str = TOKEN, **options):
    return one.claim(token, **{"lease": 60, "size": 10, "due_only": False, **options})


def only(one: Shard, id: str):
    reading = shard.read(one.client, {KEY: [id]})[KEY]
    return reading.pending.get(id)


def test_writes_of_an_id_are_one_entry(one):
    first = write(one, "1", a="1", b='"x"')
    before = only(one, "1")
    assert write(one, "1", a="2") == first
    entry = only(one, "1")
    assert (entry.no, entry.writes, entry.texts()) == (first, 2, {"a": "2", "b": '"x"'})
    assert before.since == before.last == entry.since < entry.last
    assert (entry.deleted, entry.exists) == (0, True)
    assert abs(entry.since / 1e6 - time.time()) < 5
    assert write(one, "2") == first + 1


def test_a_delete_forgets_the_fields_before_it_and_a_write_after_it_makes_a_new_row(one):
    no = write(one, "1", a="1")
    assert delete(one, "1") == no
    entry = only(one, "1")
    assert (entry.texts(), entry.exists, entry.writes) == ({}, False, 2)
    for b in ("2", "3"):
        write(one, "1", b=b)
    entry = only(one, "1")
    assert (entry.texts(), entry.exists) == ({"b": "3"}, True)
    assert entry.since <= entry.deleted < entry.first < entry.last
    delete(one, "1")
    assert not only(one, "1").exists


class TestVersions:
    def test_each_change_between_two_begins_a_layer(self, one):
        numbers = {write(one, "1", version=v, a=a) for v, a in ((0, "1"), (0, "2"), (7, "3"))}
        numbers |= {write(one, "1", version=v, b=b) for v, b in ((7, "4"), (0, "5"))}
        entry = only(one, "1")
        assert numbers == {entry.no}
        assert entry.writes == 5
        layers = [(layer.version, layer.texts()) for layer in (*entry.older, entry)]
        assert layers == [(0, {"a": "2"}), (7, {"a": "3", "b": "4"}), (0, {"b": "5"})]
        assert [layer.writes for layer in entry.older] == [2, 4]
        first, second = entry.older
        assert first.since == second.since == entry.since
        assert first.last < second.last < entry.last

    def test_a_delete_ends_all_layers(self, one):
        for version in (0, 1, 2):
            write(one, "1", version=version, a="1")
        delete(one, "1")
        write(one, "1", version=2, a="2")
        entry = only(one, "1")
        assert (entry.version, entry.older, entry.texts()) == (2, (), {"a": "2"})
        assert entry.deleted

    def test_an_operation_meets_no_value_of_another_version(self, one):
        write(one, "1", a="5")
        write(one, "1", version=1, a="+#1,,-9,9")
        write(one, "1", version=1, a="+#2,,-9,9")
        entry = only(one, "1")
        assert entry.texts() == {"a": "=#:3,,,3"}
        assert entry.apart == {}
        assert [layer.texts() for layer in entry.older] == [{"a": "5"}]

    @pytest.mark.parametrize("name", ["<1:@", "<1:a", "<2:@"])
    def test_one_that_is_not_whole_is_broken(self, one, name):
        for version in (0, 1, 2):
            write(one, "1", version=version, a="1")
        one.client.hset(f"{KEY}:e:1", name, "else")
        assert only(one, "1").broken
        one.client.hdel(f"{KEY}:e:1", name)
        entry = only(one, "1")
        assert entry.broken or name == "<1:a"  # of which nobody knows

    def test_layers_of_layers_are_broken(self, one):
        write(one, "1", a="1")
        write(one, "1", version=1, a="1")
        head = one.client.hget(f"{KEY}:e:1", "@")
        one.client.hset(f"{KEY}:e:1", mapping={f"{'<1:' * n}@": head for n in range(3000)})
        assert only(one, "1").broken


def test_ids_and_texts_are_taken_as_they_are(one):
    for id in ('"é"', '"a b",1', '"' + "x" * 1_000_000 + '"', "null", '"\\u0000"', '"}{"'):
        write(one, id, a=id)
        assert only(one, id).texts() == {"a": id}
    assert one.client.zcard(f"{KEY}:due") == 6
    assert all(key.startswith(KEY) for key in one.client.scan_iter())


def test_a_claim_freezes_what_it_takes(one):
    write(one, "1", a="1")
    batch = claim(one)
    assert (batch.token, batch.attempts) == (TOKEN, 0)
    assert [(e.id, e.texts()) for e in batch.entries] == [("1", {"a": "1"})]
    later = write(one, "1", b="2")
    assert later == batch.entries[0].no + 1
    reading = shard.read(one.client, {KEY: ["1"]})[KEY]
    assert reading.token == TOKEN
    assert reading.in_flight["1"].texts() == {"a": "1"}
    assert reading.pending["1"].texts() == {"b": "2"}


def test_a_claim_takes_the_earliest_and_no_more_than_asked_for(one):
    for n in range(5):
        write(one, str(n), max_age=5 - n)
    assert [e.id for e in claim(one, size=3).entries] == ["4", "3", "2"]
    assert shard.count(one.client, [KEY])[KEY] == shard.Counts(2, 3, 0)


def test_a_claim_of_what_is_due(one):
    write(one, "later", max_age=60)
    assert claim(one, due_only=True) is None
    write(one, "now")
    assert [e.id for e in claim(one, due_only=True).entries] == ["now"]


def test_a_claim_of_ids(one):
    for n in range(3):
        write(one, str(n))
    assert claim(one, ids=["9"]) is None
    assert [e.id for e in claim(one, ids=["2", "9"]).entries] == ["2"]


@pytest.mark.parametrize("count", [999, 1000, 1001, 9000])
def test_a_batch_of_any_size_comes_and_goes_whole(one, count):
    with one.client.pipeline(transaction=False) as pipeline:
        for n in range(count):
            pipeline.eval(
                lua.source("write"), 1, KEY, named(n), str(n), 0, 0, "", "", 0, "a", str(n)
            )
        pipeline.execute()
    batch = claim(one, size=count)
    assert {e.id: e.texts()["a"] for e in batch.entries} == {str(n): str(n) for n in range(count)}
    assert shard.count(one.client, [KEY])[KEY] == shard.Counts(0, count, 0)
    assert one.ack(TOKEN)
    assert lasting_keys(one.client) == {KEY}


def test_a_batch_in_flight_is_busy_until_its_lease_ends(one):
    write(one, "1", a="1")
    taken = claim(one, lease=0.1)
    match claim(one, "b" * 32):
        case Wait(reason="busy", seconds=seconds):
            assert 0 < seconds <= 0.1
        case other:
            pytest.fail(f"{other}")
    time.sleep(0.11)
    assert claim(one, "b" * 32) == taken
    assert isinstance(claim(one, "c" * 32), Wait)


def test_only_the_batch_of_that_token_is_acknowledged(one):
    write(one, "1")
    claim(one)
    write(one, "1", a="later")
    assert not one.ack("b" * 32)
    assert one.ack(TOKEN)
    assert not one.ack(TOKEN)
    assert only(one, "1").texts() == {"a": "later"}
    state = one.client.hgetall(KEY)
    assert (state["batches"], state["flushed"]) == ("1", "1")
    assert "token" not in state


def test_a_batch_given_back_waits_unless_the_wait_is_ignored(one):
    write(one, "1")
    claim(one)
    one.release("b" * 32, retry_in=60, error="not mine")
    assert claim(one, "b" * 32).reason == "busy"
    one.release(TOKEN, retry_in=60, error="why")
    waiting = claim(one, "b" * 32)
    assert waiting.reason == "backoff"
    assert 59 < waiting.seconds <= 60
    assert one.client.hget(KEY, "error") == "why"
    again = claim(one, "b" * 32, ignore_backoff=True)
    assert isinstance(again, Batch)
    assert (again.token, again.attempts) == (TOKEN, 1)
    # A new batch begins anew.
    one.ack(TOKEN)
    write(one, "2")
    assert claim(one, "c" * 32).attempts == 0
    assert one.client.hget(KEY, "error") is None


def test_a_receipt_finds_its_entry(one):
    no = write(one, "1")
    assert one.locate("1", no) == "pending"
    claim(one)
    assert one.locate("1", no) == "in_flight"
    one.ack(TOKEN)
    assert one.locate("1", no) == "gone"
    second = write(one, "1")
    assert one.discard(1, ["1"]) == 1
    assert (one.locate("1", second), one.locate("1", no)) == ("discarded", "gone")
    one.client.delete(KEY)
    assert one.locate("1", no) == "lost"
    write(one, "1")
    assert one.locate("1", no) == "lost"


def test_moves_tells_of_claims_acknowledgements_and_discards(one):
    def moves() -> int:
        return shard.read(one.client, {KEY: []})[KEY].moves

    seen = [moves()]
    write(one, "1")
    assert moves() == seen[-1]
    for act in (lambda: claim(one), lambda: one.ack(TOKEN)):
        act()
        seen.append(moves())
    write(one, "1")
    one.discard(1)
    seen.append(moves())
    assert len(set(seen)) == 4


def test_pending_lists_those_in_flight_first_and_no_more_than_asked_for(one):
    for n in range(4):
        write(one, str(n))
    claim(one, size=2)
    for limit in (1, 2, 3, 10):
        attempts, flying, pending = one.pending(limit)
        assert attempts == 0
        assert [e.id for e in (*flying, *pending)] == ["0", "1", "2", "3"][:limit]
        assert len(flying) == min(limit, 2)


def test_calls_are_sent_again_where_the_script_cache_is_flushed_among_them(one, monkeypatch):
    one.client.script_load(lua.source("write"))
    exchange, sizes = Client.exchange, []

    def flush_amid(client, commands, *options):
        sizes.append(len(commands))
        if len(sizes) > 1:
            return exchange(client, commands, *options)
        somebody = ("SCRIPT", "FLUSH")
        replies, error = exchange(client, [*commands[:5], somebody, *commands[5:]])
        return replies[:5] + replies[6:], error

    monkeypatch.setattr(Client, "exchange", flush_amid)
    calls = [(KEY, named(n), str(n), 0, 0, "", "", 0, "a", str(n)) for n in range(10)]
    numbers = [no for _, no in lua.run_many(one.client, "write", calls)]
    assert sizes == [10, 6]
    assert sorted(numbers) == list(range(min(numbers), min(numbers) + 10))
    assert {only(one, str(n)).writes for n in range(10)} == {1}


def test_a_script_that_is_not_there_is_sent_once(one):
    one.client.script_flush()
    with pytest.raises(NoScriptError):
        one.client.evalsha(lua.digest("write"), 1, KEY)
    write(one, "1")
    assert one.client.script_exists(lua.digest("write")) == [True]


class TestDelivery:
    """What `write` and `append` have in common."""

    def send(self, one: Shard, *, seq: int = 1, index: int = 0, **options) -> list:
        options = {"deadline": 9999999999999999, "again": 0, "room": "-", "guard": "", **options}
        call = f"{options['deadline']} {seq:016} {options['again']} me {index} {options['room']} -"
        call += f" {options['after']}" if "after" in options else ""
        guard = options["guard"]
        return lua.run(one.client, "write", KEY, call, "1", 0, 0, "", guard, 0, "a", "+#1,,-9,99")[
            1:
        ]

    def sent(self, one: Shard) -> int:
        entry = only(one, "1")
        return entry.writes if entry else 0

    def test_a_call_that_comes_twice_is_carried_out_once_and_answered_twice(self, one):
        first = self.send(one)
        assert self.send(one) == self.send(one, again=1) == first
        assert self.sent(one) == 1

    def test_calls_are_told_apart_by_their_index_and_their_round(self, one):
        self.send(one)
        self.send(one, index=1)
        self.send(one, seq=2)
        assert self.sent(one) == 3

    def test_a_call_that_comes_after_the_next_round_is_not_carried_out(self, one):
        self.send(one, seq=10)
        self.send(one, seq=9)
        assert self.sent(one) == 1

    def test_a_call_that_comes_after_its_time_is_not_carried_out(self, one):
        now = int(time.time() * 1e6)
        assert self.send(one, deadline=now - 1_000_000) == ["late"]
        assert self.sent(one) == 0
        assert self.send(one, deadline=now + 5_000_000) != ["late"]
        assert self.send(one, deadline=now - 1_000_000) != ["late"]  # it was carried out before

    def test_what_was_refused_when_it_was_sent_again_is_not_carried_out_later(self, one):
        assert self.send(one, again=1, guard="something else") == [0]
        self.send(one)
        assert self.sent(one) == 0
        assert self.send(one, seq=2, room=0) == ["full"]
        self.send(one, seq=2)
        assert self.sent(one) == 1

    def test_a_call_is_not_carried_out_without_the_one_before_it(self, one):
        assert self.send(one, index=1, after=0, again=1) == ["after"]
        assert self.send(one) != ["after"]
        assert self.send(one, index=1, after=0) == [0]  # it was refused, and may come late
        assert self.send(one, index=2, after=0) != ["after"]
        assert self.send(one, seq=2, index=1, after=0) == ["after"]  # of another round
        assert self.send(one, seq=2, again=1, guard="something else") == [0]
        assert self.send(one, seq=2, index=1, after=0) == ["after"]
        assert self.sent(one) == 2

    def test_it_is_remembered_for_so_long_after_the_last_call(self, one):
        memory = f"{KEY}:w:me"
        self.send(one)
        assert 595 <= one.client.ttl(memory) <= 600
        one.client.expire(memory, 400)
        self.send(one, seq=2)
        assert one.client.ttl(memory) <= 400
        seq, renew, outcome = one.client.hget(memory, "0").split()
        one.client.hset(memory, "0", f"{seq} {int(renew) - 300_000_000} {outcome}")
        self.send(one, seq=3)
        assert 595 <= one.client.ttl(memory) <= 600

    def test_a_full_shard_takes_writes_to_what_is_pending(self, one):
        assert self.send(one, room=0) == ["full"]
        assert self.send(one, room=1) != ["full"]
        assert self.send(one, seq=2, room=1) != ["full"]
        assert self.sent(one) == 2
        claim(one)
        assert self.send(one, seq=3, room=1) == ["full"]  # what is in flight counts


class TestLog:
    """The same scripts on a shard that holds a log."""

    def append(self, one: Shard, *records: str, guard: str = "", **options):
        """Records of a unique field `id`, which may be followed by `@` and a time."""
        parts = [record.partition("@") for record in records]
        given = [
            shard.Record(id, int(time) if time else None, {"id": id, "a": "1"})
            for id, _, time in parts
        ]
        options = {"max_age": 0, "quiet": 0, "unique": 1, **options}
        return shard.append(one.client, KEY, given, guard=guard, **options)

    def ids(self, entries) -> list[str]:
        return [entry.texts()["id"] for entry in entries]

    def test_records_get_numbers_in_a_row(self, one):
        first = self.append(one, "1", "2", "3")
        assert abs(first / 1e6 - time.time()) < 5
        assert self.append(one, "4") >= first + 3
        entries = claim(one).entries
        assert [e.no for e in entries[:3]] == [first, first + 1, first + 2]
        assert entries[0].texts() == {"id": "1", "a": "1"}
        assert entries[0].id == str(first)
        assert (entries[0].since, entries[0].last, entries[0].writes) == (first, first, 1)
        assert (entries[0].exists, entries[0].deleted) == (True, 0)

    def test_numbers_rise_where_the_clock_goes_back(self, one):
        ahead = self.append(one, "1") + 10**12
        one.client.hset(KEY, "no", ahead)
        assert self.append(one, "2", "3") == ahead + 1
        assert self.append(one, "4") == ahead + 3

    def test_a_record_of_no_fields(self, one):
        shard.append(
            one.client,
            KEY,
            [shard.Record("", None, {})],
            guard="",
            max_age=0,
            quiet=0,
            unique=0,
        )
        assert claim(one).entries[0].texts() == {}
        assert one.ack(TOKEN)

    def test_all_or_none(self, one):
        self.append(one, "1")
        assert self.append(one, "2", "1", "3") == shard.Taken(1)
        assert shard.count(one.client, [KEY])[KEY].pending == 1
        assert isinstance(self.append(one, "2", "3"), int)

    @pytest.mark.parametrize("leave", ["ack", "discard"])
    def test_a_guard_holds_until_a_record_leaves(self, one, leave):
        assert self.append(one, "1", guard="unknown") == shard.Moved("0 0")
        no = self.append(one, "1", guard="0 0")
        guard = self.append(one, "2", guard="0 0").guard
        assert guard == f"{no - 1} 0"
        assert isinstance(self.append(one, "2", guard=guard), int)
        if leave == "ack":
            claim(one)
            assert isinstance(self.append(one, "3", guard=guard), int)  # all are in Redis still
            one.ack(TOKEN)
        else:
            one.discard(1)
        assert self.append(one, "4", guard=guard) == shard.Moved(f"{no - 1} 1")

    def test_a_batch_is_the_records_that_were_there_in_their_order(self, one):
        self.append(one, "1", "2", "3")
        taken = claim(one, size=2, lease=0.05)
        assert self.ids(taken.entries) == ["1", "2"]
        self.append(one, "4")
        assert claim(one, "b" * 32).reason == "busy"
        assert shard.count(one.client, [KEY])[KEY] == shard.Counts(2, 2, 2)
        time.sleep(0.06)
        assert claim(one, "b" * 32) == taken
        assert not one.ack("b" * 32)
        assert one.ack(TOKEN)
        assert self.ids(claim(one, "c" * 32).entries) == ["3", "4"]

    def test_an_ack_leaves_counters_and_an_empty_stream(self, one):
        self.append(one, "1", "2@5")
        assert len(lasting_keys(one.client)) == 5
        claim(one)
        one.ack(TOKEN)
        assert lasting_keys(one.client) == {KEY, f"{KEY}:log"}
        assert one.client.xlen(f"{KEY}:log") == 0
        state = one.client.hgetall(KEY)
        assert (state["batches"], state["flushed"], state["accepted"]) == ("1", "2", "2")
        assert not state.keys() & {"token", "to", "flying", "lease"}
        assert all(key.startswith(KEY) for key in one.client.scan_iter())

    def test_it_is_due_by_its_oldest_or_its_newest_record(self, one):
        def due() -> int:
            found = shard.count(one.client, [KEY])[KEY].due
            assert bool(found) == bool(claim(one, due_only=True))
            one.release(TOKEN, retry_in=0, error="")
            return found

        assert due() == 0
        self.append(one, "1", max_age=60)
        assert due() == 0
        self.append(one, "2", max_age=0.5)
        assert due() == 0
        time.sleep(0.5)
        assert due() == 2
        one.discard(2, token=one.revoke(TOKEN))
        self.append(one, "1", max_age=60, quiet=0.5)
        assert due() == 0
        time.sleep(0.5)
        assert due() == 1

    def test_what_was_claimed_is_not_the_oldest_pending(self, one):
        self.append(one, "1", max_age=0.5)
        time.sleep(0.5)
        claim(one)
        self.append(one, "2", max_age=0.5)
        assert shard.count(one.client, [KEY])[KEY] == shard.Counts(1, 1, 0)

    def test_a_window_is_of_numbers_and_of_times_that_are_given(self, one):
        first = self.append(one, "1", "2@50", "3@7", "4")
        assert self.ids(shard.window(one.client, [KEY], None, None)[0]) == ["1", "2", "3", "4"]
        assert self.ids(shard.window(one.client, [KEY], 7, 50)[0]) == ["3"]
        assert self.ids(shard.window(one.client, [KEY], 7, 51)[0]) == ["2", "3"]
        assert self.ids(shard.window(one.client, [KEY], first, first + 1)[0]) == ["1"]
        assert self.ids(shard.window(one.client, [KEY], -5, 0)[0]) == []
        assert self.ids(shard.window(one.client, [KEY], first + 3, None)[0]) == ["4"]
        claim(one)
        assert len(shard.window(one.client, [KEY], None, None)[0]) == 4

    @pytest.mark.parametrize("page", [1, 2, 3, 5])
    def test_a_window_of_several_pages(self, one, monkeypatch, page):
        monkeypatch.setattr(shard, "PAGE", page)
        first = self.append(one, "1", "2@50", "3", "4@50")
        for bounds, expected in (
            ((None, None), "1234"),
            ((50, 51), "24"),
            ((first + 1, first + 3), "23"),
            ((first, first + 2), "12"),
        ):
            assert self.ids(shard.window(one.client, [KEY], *bounds)[0]) == [*expected]

    @pytest.mark.parametrize("size", [1, 50, 300, 10_000])
    def test_a_window_of_pages_of_so_many_bytes(self, one, monkeypatch, size):
        ids = [f"{n:0{2 if n < 50 else 60}}{'@50' if n % 3 else ''}" for n in range(10, 90)]
        monkeypatch.setattr(shard, "PAGE_BYTES", size)
        first = self.append(one, *ids)
        expected = [id.partition("@")[0] for id in ids]
        assert self.ids(shard.window(one.client, [KEY], None, None)[0]) == expected
        given = [id for id, text in zip(expected, ids, strict=True) if text.endswith("@50")]
        assert self.ids(shard.window(one.client, [KEY], 50, 51)[0]) == given
        some = [id for n, id in enumerate(expected) if n < 30 or id in given]
        assert self.ids(shard.window(one.client, [KEY], 50, first + 30)[0]) == some

    def test_a_discard_of_unique_ids(self, one):
        self.append(one, "1", "2", "3")
        claim(one, size=1)
        assert one.discard(1, ["1"]) == 0  # in work
        assert one.discard(1, ["2"]) == 1
        assert one.discard(1, ["2"]) == 0
        assert one.discard(1, ["9"]) == 0
        one.release(TOKEN, retry_in=0, error="")
        assert one.discard(1, ["1"]) == 0  # nobody works on it, but the token may be used still
        fresh = one.revoke(one.idle_token())
        assert one.revoke(TOKEN) == ""
        assert one.discard(1, ["1"], token=fresh) == 1
        assert one.client.hget(KEY, "token") is None
        assert self.ids(claim(one, "b" * 32).entries) == ["3"]

    def test_pending_lists_those_in_flight_first(self, one):
        self.append(one, *"1234")
        claim(one, size=2)
        for limit in (1, 2, 3, 10):
            _, flying, pending = one.pending(limit)
            assert self.ids([*flying, *pending]) == [*"1234"][:limit]
            assert len(flying) == min(limit, 2)


def test_a_batch_is_claimed_by_one_of_many(one):
    """All at once: whoever comes second sees that it is busy."""
    for n in range(10):
        write(one, str(n))
    calls = [(KEY, f"token{n}", 60_000_000, 10, "all", "") for n in range(20)]
    replies = lua.run_many(one.client, "claim", calls)
    assert sorted(reply[0] for reply in replies) == ["batch"] + ["busy"] * 19
