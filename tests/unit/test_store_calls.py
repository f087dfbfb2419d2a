"""Calls that write to a shard: numbers, entries, refusals, lost replies, guards."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.backdoor.store import FOREVER, KEY, ROWS, Row, Sender, Store, cut, store_on
from writebehind_app.fields.entry import Segment


@pytest.fixture
def store(redis_server) -> Iterator[Store]:
    with store_on(redis_server) as store:
        yield store


def values(entry) -> dict[str, str]:
    return {name: text[16:] for name, text in entry.values.items()}


def lose(store: Store, *rows: Row, **options) -> Sender:
    """Send a call of which the reply is lost; says by whom."""
    sender = Sender(store.exchange)
    assert isinstance(sender.send(store.call(*rows, **options), FOREVER), int)
    sender.answered = 0
    return sender


def again(store: Store, lost: Sender, *rows: Row, **options):
    return store.sender.send_again(store.call(*rows, **options), lost, FOREVER)


class TestNumbers:
    def test_a_number_is_the_time_by_redis_clock(self, store):
        before = time.time_ns() // 1000
        number = store.write("1", {"a": "1"})
        assert before - 10**6 < number < before + 10**7
        assert store.state("first") == str(number - 1)

    def test_rows_of_a_call_have_numbers_in_its_order(self, store):
        rows = [Row(str(i % 7), {"a": str(i)}) for i in range(20)]
        taken = store.send(*rows)
        assert [store.only(str(i)).last for i in range(7)] == [
            taken + max(n for n in range(20) if n % 7 == i) for i in range(7)
        ]
        assert store.write("x") > taken + 19
        assert store.state("accepted") == "21"

    @pytest.mark.parametrize("texts", [{"a": "1"}, {"a": "+i:1"}])
    def test_they_grow_when_the_clock_stands_still_or_goes_back(self, store, texts):
        ahead = store.write("1", texts) + 3_600_000_000
        store.client.hset(KEY, "last", ahead)
        assert [store.write("1", texts) for _ in range(3)] == [ahead + 1, ahead + 2, ahead + 3]
        assert store.only("1").last == ahead + 3
        assert store.state("last") == str(ahead + 3)


class TestEntries:
    def test_writes_of_an_id_are_one_entry(self, store):
        first = store.write("1", {"a": "1", "b": '"x"'})
        last = store.write("1", {"a": "2"})
        entry = store.only("1")
        assert values(entry) == {"a": "2", "b": '"x"'}
        assert (entry.first, entry.last, entry.since) == (first, last, first)
        assert entry.values["b"].startswith(str(first))
        assert store.client.zscore(f"{KEY}:due", "1") == first + 5_000_000

    def test_ids_and_texts_are_taken_as_they_are(self, store):
        for id in (
            '"é"',
            '"a b",1',
            '"' + "x" * 1_000_000 + '"',
            "null",
            '"\\u0000"',
            '"}{"',
            "%d",
        ):
            store.write(id, {"a": id})
            assert values(store.only(id)) == {"a": id}
        assert store.client.zcard(f"{KEY}:due") == 7
        assert all(key.startswith(KEY) for key in store.client.scan_iter())

    @pytest.mark.parametrize("texts", [{"a": "2"}, {"a": "+i:1"}, {}])
    def test_a_delete_forgets_what_was_before_it_and_a_write_makes_a_new_row(self, store, texts):
        first = store.write("1", {"a": "1", "b": "+i:2"})
        deleted = store.delete("1")
        entry = store.only("1")
        assert (entry.first, entry.last, entry.deleted, entry.since) == (*[deleted] * 3, first)
        assert not entry.exists
        assert not entry.names()
        born = store.write("1", texts)
        last = store.write("1", texts)
        entry = store.only("1")
        assert (entry.first, entry.last, entry.deleted) == (born, last, deleted)
        assert entry.exists
        assert entry.since == first
        assert {*entry.names()} == {*texts}
        assert store.delete("1") == store.only("1").deleted
        assert not store.only("1").exists

    def test_a_new_entry_that_is_a_delete(self, store):
        deleted = store.delete("1")
        entry = store.only("1")
        assert (entry.first, entry.last, entry.deleted) == (deleted, deleted, deleted)

    def test_all_this_in_one_call(self, store):
        taken = store.send(
            Row("1", {"a": "1", "n": "+i:1"}),
            Row("1", delete=True, texts={}),
            Row("1", {"n": "+i:2"}),
            Row("1", {"n": "+i:3", "b": "4"}),
            Row("2", delete=True, texts={}),
        )
        n = taken
        entry = store.only("1")
        assert (entry.first, entry.last, entry.deleted) == (n + 2, n + 3, n + 1)
        assert values(entry) == {"b": "4"}
        assert entry.operations == {"n": (Segment(n + 2, n + 3, "+", "i", "5"),)}
        assert not store.only("2").exists

    def test_a_value_of_many_names_is_whole(self, store):
        texts = {f"field{i}": str(i) for i in range(1700)}
        store.write("1", texts)
        assert values(store.only("1")) == texts

    @pytest.mark.parametrize("texts", [{"a": "1"}, {"a": "+i:1"}, {'"k"': "1"}, {'"k"': "!"}])
    def test_what_is_no_hash_is_put_aside(self, store, texts):
        store.write("1", texts, stamped=True)
        store.client.set(f"{KEY}:e:1", "else")
        store.client.hset(KEY, "crowded", 1)
        number = store.write("1", texts, stamped=True)
        assert (store.only("1").first, store.only("1").last) == (number, number)
        assert store.client.get(f"{KEY}:aside:1") == "else"

    @pytest.mark.parametrize("name", ["last", "accepted", "version", "closed", "crowded", "guard"])
    @pytest.mark.parametrize("text", ["x", "", "1" * 400, "nan", "-5"])
    @pytest.mark.parametrize("texts", [{"a": "1"}, {"a": "+i:1"}])
    def test_a_state_that_is_no_number_changes_no_number(self, store, name, text, texts):
        before = store.write("1", texts)
        store.client.hset(KEY, name, text)
        number = store.write("1", texts)
        assert before < number < before + 60_000_000
        assert not store.only("1").broken


class TestOperations:
    @pytest.mark.parametrize(
        ("texts", "kept"),
        [
            (["+i:5", "+i:-7"], "-2"),
            (["+d2:150", "+d2:5"], "155"),
            ([">t:1800000000000001", ">t:1800000000000000"], "1800000000000001"),
            (["<D:739000", "<D:738999"], "738999"),
            ([">f:1.5", ">f:-2e3"], "1.5"),
            (["<j:2", "<j:2.0"], "2"),
            (["&", "&"], ""),
        ],
    )
    def test_neighbours_of_a_kind_become_one(self, store, texts, kept):
        numbers = [store.write("1", {"n": text}) for text in texts]
        (segment,) = store.only("1").operations["n"]
        assert (segment.first, segment.last, segment.operand) == (*numbers, kept)

    @pytest.mark.parametrize(
        "texts",
        [
            ["+i:1", ">i:1"],
            ["+d2:1", "+d3:1"],
            ["+i:9007199254740991", "+i:1"],
            ["+i:-9007199254740991", "+i:-1"],
            ["+i:9007199254740993", "+i:-9007199254740993"],
            [">i:9007199254740993", ">i:9007199254740992"],
            [">f:1e300", ">f:2"],
            [">j:x", ">j:1"],
            ["&", "+j:1"],
        ],
    )
    def test_what_is_of_two_kinds_or_no_number_of_53_bits_stays_apart(self, store, texts):
        for text in texts:
            store.write("1", {"n": text})
        segments = store.only("1").operations["n"]
        assert [f"{s.sign}{s.kind}:{s.operand}".removesuffix(":") for s in segments] == texts
        assert segments[0].last < segments[1].first

    def test_operations_before_a_value_go_and_later_ones_stay(self, store):
        store.write("1", {"n": "+i:1", "m": "+i:1"})
        set_at = store.write("1", {"n": "5"})
        assert store.only("1").operations.keys() == {"m"}
        added = store.write("1", {"n": "+i:2"})
        entry = store.only("1")
        assert entry.operations["n"] == (Segment(added, added, "+", "i", "2"),)
        assert entry.values["n"] == f"{set_at}5"
        assert store.client.hget(f"{KEY}:e:1", "+n").count(",") == 3

    def test_keys_of_a_merge(self, store):
        store.write("1", {"x": "&", '&x:"a"': "[1]", '&x:"b"': "[1]"})
        store.write("1", {"x": "[{}]"})
        last = store.write("1", {"x": "&", '&x:"a"': "[2]"})
        entry = store.only("1")
        assert entry.merges == {"x": {'"a"': f"{last}[2]"}}
        assert len(entry.operations["x"]) == 1

    def test_meta_keys_and_when_they_came_to_be(self, store):
        row = {"stamped": True}
        first = store.write("1", {'"k"': "1", '"l"': "2"}, **row)
        store.write("1", {'"k"': "+i:1"}, **row)
        assert store.only("1").firsts == {'"k"': first, '"l"': first}
        deleted = store.write("1", {'"k"': "!"}, **row)
        entry = store.only("1")
        assert (entry.tombstones, entry.operations, {*entry.values}) == (
            {'"k"': deleted},
            {},
            {'"l"'},
        )
        assert entry.firsts == {'"l"': first}
        added = store.write("1", {'"k"': "+i:5"}, **row)
        store.write("1", {'"k"': "+i:6"}, **row)
        entry = store.only("1")
        assert entry.firsts == {'"k"': added, '"l"': first}
        assert [s.operand for s in entry.operations['"k"']] == ["11"]

    def test_a_million_writes_take_no_more_room(self, store):
        texts = [{"n": "+i:3"}, {"m": ">t:1800000000000000"}, {"a": '"text"'}]
        texts += [{"x": "&", f'&x:"key{i}"': "[1]"} for i in range(100)]
        rows = [Row("1", texts[i % len(texts)]) for i in range(ROWS)]
        for _ in range(20):
            store.send(*rows)
        size = store.client.memory_usage(f"{KEY}:e:1", samples=0)
        for _ in range(20):
            store.send(*rows)
        # Numbers have as many digits for centuries: a million come to what four thousand come to.
        assert store.client.memory_usage(f"{KEY}:e:1", samples=0) <= size + 64 < 16_384


class TestVersions:
    def test_what_was_written_in_turn_is_in_layers_of_its_order(self, store):
        for version, a in ((0, "1"), (0, "2"), (7, "3"), (7, "4"), (0, "5")):
            last = store.write("1", {"a": a, f"b{version}": a}, version=version)
        entry = store.only("1")
        layers = [(layer.version, values(layer)) for layer in (*entry.older, entry)]
        assert layers == [(7, {"a": "4", "b7": "4"}), (0, {"a": "5", "b0": "5"})]
        assert entry.last == last

    def test_no_sum_goes_on_over_a_write_of_another_version(self, store):
        for version, text in ((0, "+i:1"), (3, "10"), (0, "+i:2"), (0, "+i:4")):
            store.write("1", {"n": text}, version=version)
        entry = store.only("1")
        layers = [*entry.older, entry]
        assert [layer.version for layer in layers] == [0, 3, 0]
        assert [s.operand for layer in layers for s in layer.operations.get("n", ())] == ["1", "6"]

    def test_a_delete_is_of_all_versions(self, store):
        for version in (0, 1, 2):
            store.write("1", {"a": "1"}, version=version)
        deleted = store.delete("1")
        store.write("1", {"a": "2"}, version=2)
        entry = store.only("1")
        assert (entry.version, entry.older, values(entry)) == (2, (), {"a": "2"})
        assert entry.deleted == deleted

    def test_a_delete_goes_with_the_first_layer(self, store):
        deleted = store.delete("1")
        first = store.write("1", {"a": "1"})
        store.write("1", {"a": "2"}, version=1)
        entry = store.only("1")
        assert [(e.version, e.deleted) for e in (*entry.older, entry)] == [(0, deleted), (1, 0)]
        assert entry.older[0].first == first


class TestRefusals:
    ROWS = (
        (Row("1", {"a": "2"}), Row("new", {"a": "2"})),
        (Row("1", {"a": "+i:2"}), Row("new", {"a": "2"}), Row("newer", {}, delete=True)),
    )

    @pytest.mark.parametrize("rows", ROWS)
    def test_what_comes_after_its_deadline_changes_nothing(self, store, rows):
        number = store.write("1", {"a": "1"})
        before = store.dump()
        assert store.send(*rows, deadline=number).why == "late"
        assert store.dump() == before

    @pytest.mark.parametrize("rows", ROWS)
    def test_a_full_shard_takes_no_new_entry_and_keeps_nothing_of_the_call(self, store, rows):
        store.write("1", {"a": "1"})
        before = store.dump()
        assert store.send(*rows, room=len(rows) - 1).why == "full"
        assert store.dump() == before
        assert isinstance(store.send(*rows, room=len(rows)), int)
        assert isinstance(store.send(rows[0], room=1), int)  # it makes no new entry

    def test_what_is_in_flight_takes_room(self, store):
        store.write("1")
        store.batch()
        assert store.send(Row("2", {}), room=1).why == "full"

    def test_operations_on_a_field_that_are_too_many(self, store):
        kinds = ["+i:1", ">i:1"]
        outcomes = [store.send(Row("1", {"n": kinds[i % 2]})) for i in range(200)]
        taken = sum(isinstance(outcome, int) for outcome in outcomes)
        assert 50 < taken < 200
        assert {outcome.why for outcome in outcomes[taken:]} == {"full"}
        assert len(store.client.hget(f"{KEY}:e:1", "+n")) < 5000
        before = store.dump()
        assert store.send(Row("2", {"a": "1"}), Row("1", {"n": "+i:1"})).why == "full"
        assert store.dump() == before
        assert isinstance(store.send(Row("1", {"n": "1"})), int)
        store.batch()
        assert isinstance(store.send(Row("1", {"n": "+i:1"})), int)

    @pytest.mark.parametrize("void", ["1", "!"])
    def test_operations_that_a_later_write_made_void_take_no_room(self, store, void):
        name = "n" if void == "1" else '"n"'
        texts = {name: "+i:1"}, {name: ">i:1"}
        while isinstance(store.send(Row("1", texts[0]), Row("1", texts[1])), int):
            pass
        assert store.send(Row("1", texts[0])).why == "full"
        assert isinstance(store.send(Row("1", {name: void, "b": "+i:1"})), int)
        assert isinstance(store.send(Row("1", texts[0])), int)
        assert [segment.operand for segment in store.only("1").operations[name]] == ["1"]

    @pytest.mark.parametrize("name", ['"key{}"', '&x:"key{}"'])
    def test_names_of_an_entry_that_are_too_many(self, store, name):
        texts = [{name.format(i): "1" for i in range(n, n + 1000)} for n in range(0, 4000, 1000)]
        for part in texts:
            store.write("1", part)
        before = store.dump()
        more = {name.format(i): "1" for i in range(4000, 4200)}
        assert store.send(Row("2", {"a": "1"}), Row("1", more)).why == "full"
        assert store.dump() == before

    def test_the_sender_of_a_call_that_was_refused_may_go_on(self, store):
        assert store.send(Row("1", {}), deadline=1).why == "late"
        assert store.write("1")


class TestLostReplies:
    @pytest.mark.parametrize("rows", TestRefusals.ROWS)
    def test_a_call_that_was_taken_is_known_by_its_numbers(self, store, rows):
        lost = lose(store, *rows)
        before = store.dump()
        outcome = again(store, lost, *rows)
        assert outcome == int(store.state("last")) - len(rows) + 1
        assert store.dump() == before

    @pytest.mark.parametrize("rows", TestRefusals.ROWS)
    def test_a_call_that_did_not_arrive_is_taken_and_its_original_refused(self, store, rows):
        lost = Sender(store.exchange)
        outcome = again(store, lost, *rows)
        assert isinstance(outcome, int)
        assert store.sender.answered == outcome + len(rows) - 1
        before = store.dump()
        assert lost.send(store.call(*rows), FOREVER).why == "late"
        assert store.dump() == before

    def test_an_earlier_note_of_the_sender_is_not_taken_for_the_call(self, store):
        lost = store.sender
        for _ in range(3):
            store.write("1", {"n": "+i:1"})
        store.sender = Sender(store.exchange)
        assert isinstance(again(store, lost, Row("1", {"n": "+i:1"})), int)
        assert [s.operand for s in store.only("1").operations["n"]] == ["4"]

    def test_notes_of_others_do_not_count(self, store):
        lost = Sender(store.exchange)
        store.write("2")
        again(store, lost, Row("1", {"n": "+i:1"}))
        assert store.only("1")

    def test_after_the_deadline_nobody_knows(self, store):
        row = Row("1", {"n": "+i:1"})
        lost = lose(store, row)
        before = store.dump()
        deadline = int(store.state("last"))
        assert store.sender.send_again(store.call(row), lost, deadline) is None
        assert store.dump() == before

    def test_who_was_disowned_and_who_wrote_last_is_forgotten_after_ten_minutes(self, store):
        senders = f"{KEY}:senders"
        lost = Sender(store.exchange)
        again(store, lost, Row("1", {}))
        store.ack(store.batch().token)
        assert {*store.client.zrange(senders, 0, -1)} == {lost.name, store.sender.name}
        for name, score in store.client.zrange(senders, 0, -1, withscores=True):
            store.client.zadd(senders, {name: score - 601_000_000})
        store.sender = Sender(store.exchange)
        store.write("2")
        store.batch()
        assert store.client.zrange(senders, 0, -1) == [store.sender.name]

    def test_who_was_disowned_just_now_is_not_forgotten(self, store):
        lost = Sender(store.exchange)
        again(store, lost, Row("1", {}))
        store.ack(store.batch().token)
        assert lost.send(store.call(Row("1", {})), FOREVER).why == "late"

    def test_who_wrote_just_now_is_not_forgotten(self, store):
        row = Row("1", {"n": "+i:1"})
        lost = lose(store, row)
        store.ack(store.batch().token)
        assert again(store, lost, row) == int(store.state("last"))
        assert store.pending("1") is None


class TestGuards:
    def test_a_write_is_taken_while_nothing_has_changed(self, store):
        guard = store.guard("1")
        store.write("2")
        assert isinstance(store.send(Row("1", {"a": "1"}, guard=guard)), int)
        before = store.dump()
        assert store.send(Row("1", {"a": "2"}, guard=guard)).why == "stale"
        assert store.dump() == before
        assert isinstance(store.send(Row("1", {"a": "2"}, guard=store.guard("1"))), int)

    def test_after_a_write_and_a_delete(self, store):
        guards = []
        for change in (store.write, store.delete, store.delete, store.write):
            guards.append(store.guard("1"))
            change("1")
            for guard in guards:
                assert store.send(Row("1", {}, guard=guard)).why == "stale"
        assert len({*guards}) == 4

    @pytest.mark.parametrize("how", ["claim", "ack", "discard", "flushall"])
    def test_after_what_moves_entries(self, store, how):
        store.write("2")
        if how == "ack":
            store.write("3")
            batch = store.batch(ids=["3"])
        guard = store.guard("1")
        match how:
            case "claim":
                store.batch()
            case "ack":
                assert store.ack(batch.token)
            case "discard":
                assert store.discard("2") == 1
            case "flushall":
                store.client.flushall()
                store.guard("1")  # somebody else looks
        assert store.send(Row("1", {}, guard=guard)).why == "stale"

    def test_of_an_empty_shard_repeats_after_no_loss(self, store):
        guards = set()
        for _ in range(3):
            store.client.flushall()
            guards.add(store.guard("1"))
        assert len(guards) == 3
        store.client.flushall()
        assert store.send(Row("1", {}, guard=guards.pop())).why == "stale"

    def test_of_a_redis_that_lost_everything_and_did_the_same_again(self, store):
        guards = set()
        for _ in range(3):
            store.client.flushall()
            store.write("1")
            store.ack(store.batch().token)
            guards.add(store.guard("1"))
        assert len(guards) == 3

    def test_of_an_entry_that_came_back_after_batches(self, store):
        store.write("1")
        guard = store.guard("1")
        for _ in range(2):
            store.ack(store.batch().token)
            store.write("1")
            assert store.send(Row("1", {}, guard=guard)).why == "stale"


class TestOnce:
    def test_the_second_call_is_told_the_number_of_the_first(self, store):
        row = Row("1", {"n": "+i:1"}, once="d1", once_ms=60_000)
        number = store.send(row)
        before = store.dump()
        outcome = store.send(row)
        assert (outcome.why, outcome.more) == ("known", number)
        assert store.dump() == before
        assert store.only("1").once == ("d1",)
        assert 0 < store.client.pttl(f"{KEY}:once:d1") <= 60_000

    def test_after_a_flush_and_a_delete(self, store):
        row = Row("1", {"n": "+i:1"}, once="d1", once_ms=60_000)
        number = store.send(row)
        store.delete("1")
        assert store.only("1").once == ("d1",)
        batch = store.batch()
        assert batch.entries[0].once == ("d1",)
        store.ack(batch.token)
        assert store.send(row).more == number

    def test_one_that_was_refused_may_come_again(self, store):
        row = Row("1", {"n": "+i:1"}, once="d1", once_ms=60_000)
        store.write("2")
        assert store.send(row, room=1).why == "full"
        assert isinstance(store.send(row), int)


class TestQuiet:
    def test_it_is_due_when_no_write_came_for_so_long_or_at_max_age(self, store):
        def due_in() -> int:
            return round(store.client.zscore(f"{KEY}:due", "1") - last)

        first = last = store.write("1", quiet=2_000_000)
        assert due_in() == pytest.approx(2_000_000, abs=10_000)
        store.client.hset(f"{KEY}:e:1", "#", first - 1_000_000)
        last = store.write("1", quiet=2_000_000)
        assert due_in() == pytest.approx(2_000_000, abs=10_000)
        store.client.hset(f"{KEY}:e:1", "#", first - 4_000_000)
        last = store.write("1", {"n": "+i:1"}, quiet=2_000_000)
        assert store.client.zscore(f"{KEY}:due", "1") == first + 1_000_000

    @pytest.mark.parametrize("texts", [{"a": "1"}, {"a": "+i:1"}])
    def test_a_write_does_not_put_off_what_is_to_be_flushed_at_once(self, store, texts):
        store.write("1", quiet=2_000_000)
        assert store.hasten("1", silence=60)
        store.write("1", texts, quiet=2_000_000)
        assert store.count().due == 1
        store.ack(store.batch(which="ripe").token)
        store.write("1", texts, quiet=2_000_000)
        assert store.count().due == 0


class TestLooks:
    """Before a row is written past Redis."""

    def test_where_nothing_is_there_it_changes_nothing(self, store):
        store.write("2")
        before = store.dump()
        look = store.look("1")
        assert (look.number, look.pending, look.in_flight) == (0, {}, {})
        assert store.dump() == before

    def test_its_number_is_between_those_of_writes(self, store):
        before = store.write("1", {"a": "1"})
        look = store.look("0", "1")
        assert before < look.number < store.write("1")
        assert (look.pending["1"].last, {*look.pending}) == (before, {"1"})
        assert store.look("1").number > look.number

    def test_its_number_grows_when_the_clock_goes_back(self, store):
        ahead = store.write("1") + 3_600_000_000
        store.client.hset(KEY, "last", ahead)
        assert store.look("1").number == ahead + 1
        assert store.write("1") == ahead + 2

    def test_it_tells_what_is_in_flight(self, store):
        store.write("1", {"a": "1"})
        batch = store.batch()
        look = store.look("1")
        assert (look.token, look.in_flight["1"].values) == (batch.token, batch.entries[0].values)
        assert look.number > batch.entries[0].last
        assert not look.pending
        assert store.pending("1") is None
        store.ack(batch.token)
        assert store.look("1").number == 0

    @pytest.mark.parametrize("kind", ["+i:1", "&"])
    def test_no_operation_goes_on_over_it(self, store, kind):
        first = store.write("1", {"n": kind})
        number = store.look("1").number
        later = [store.write("1", {"n": kind}) for _ in range(2)]
        segments = store.only("1").operations["n"]
        assert [(s.first, s.last) for s in segments] == [(first, first), (later[0], later[1])]
        assert first < number < later[0]

    def test_a_row_that_was_deleted_is_as_new_after_the_next_write(self, store):
        store.delete("1")
        store.look("1")
        first = store.write("1", {"n": "+i:1"})
        store.write("1", {"n": "+i:1"})
        assert store.only("1").first == first

    def test_what_somebody_else_wrote_is_older_too(self, store):
        store.client.set(f"{KEY}:e:1", "x")
        look = store.look("1")
        assert look.number
        assert look.pending["1"].broken


def test_rows_are_cut_into_calls():
    rows = [Row(str(i), {}) for i in range(2 * ROWS + 1)]
    assert [len(part) for part in cut(rows)] == [ROWS, ROWS, 1]
    assert [row for part in cut(rows) for row in part] == rows


@pytest.mark.parametrize(
    ("row", "script"),
    [
        (Row("1", {"a": "1", "b": '"+"'}), "write"),
        (Row("1", {}), "write"),
        (Row("1", {"a": "+i:1"}), "operate"),
        (Row("1", {"a": "&", '&a:"x"': "[1]"}), "operate"),
        (Row("1", {'&a:"x"': "[1]"}), "operate"),
        (Row("1", {'"a"': "!"}), "operate"),
        (Row("1", {'"a"': "1"}), "operate"),
        (Row("1", {"a": "1"}, delete=True), "operate"),
        (Row("1", {"a": "1"}, guard="g"), "operate"),
        (Row("1", {"a": "1"}, once="d"), "operate"),
    ],
)
@pytest.mark.parametrize("version", [0, 3])
def test_a_call_of_plain_values_alone_is_the_cheap_one(store, row, script, version):
    plain = Row("2", {"a": "1"})
    for rows in ([row], [row, plain], [plain, row]):
        assert store.call(*rows, version=version).script == script
