"""A row buffer from the call to the database, and back."""

from __future__ import annotations

import datetime
import re
import time
import unittest

import pytest
from django.core.exceptions import FieldError
from django.db import DatabaseError, ProgrammingError, connections, transaction
from django.test import TestCase
from django.utils import timezone

from tests import router
from tests.backdoor.batches import claim
from tests.backdoor.entries import id_of
from tests.backdoor.flushes import refuse_batches
from tests.backdoor.keyspace import beginning
from tests.models import Child, ExamScore, GameScore, Item, Note, Owner, Pair, Stamp, Strict
from writebehind_app import RowBuffer, checkpoints, registry, signals
from writebehind_app.database import deadletters
from writebehind_app.database.letters import letters_of
from writebehind_app.exceptions import BufferUnavailable, WriteUncertain
from writebehind_app.flush.engine import flush
from writebehind_app.models import AppliedBatch

# Which kind of Redis holds the entries makes no difference to what the database does.
on_valkey = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


def values(row: Item | None) -> dict | None:
    return row and {name: getattr(row, name) for name in "abcdef"}


def stored() -> dict[int, dict]:
    return {row.number: values(row) for row in Item.objects.all()}


class TestWriteAndFlush:
    def test_a_row_is_inserted_then_changed(self, database, redis_server):
        first = Item.buffered.set(number=5, a=1, b="x")
        assert not Item.objects.exists()
        assert Item.buffered.get(number=5).a == 1
        assert first.where == "pending"

        result = Item.buffered.flush()

        assert (result.rows, result.batches, result.remaining) == (1, 1, 0)
        assert first.persisted
        item = Item.objects.get()
        assert (item.number, item.a, item.b, item.d) == (5, 1, "x", 0.5)

        Item.buffered.set(number=5, c="later")
        Item.buffered.flush()
        item.refresh_from_db()
        assert (item.a, item.b, item.c) == (1, "x", "later")
        assert Item.buffered.count_pending() == 0
        ledger = AppliedBatch.objects.all()
        assert [batch.entries for batch in ledger] == [1, 1]


@on_valkey
class TestSet:
    def test_a_part_of_a_row_whose_other_columns_are_required(self, database, redis_server):
        Strict.objects.create(code="x", required="stays", other=1)

        Strict.buffered.set(code="x", other=2)
        Strict.buffered.flush()

        row = Strict.objects.get()
        assert (row.required, row.other) == ("stays", 2)

    def test_a_time_whose_default_is_now(self, database, redis_server):
        at = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        Strict.buffered.set(code="given", required="r", begun_at=at)
        Strict.buffered.set(code="not", required="r")
        begun = []
        for _ in range(2):
            begun.append([Strict.buffered.get(code=code).begun_at for code in ("given", "not")])
            Strict.buffered.flush()
        assert begun[0] == begun[1]
        assert begun[0][0] == at < begun[0][1]

    def test_the_key_alone_makes_a_row_of_defaults(self, database, redis_server):
        Item.buffered.set(number=1)
        assert Item.buffered.get(number=1).d == 0.5
        Item.buffered.flush()
        assert values(Item.objects.get(number=1)) == values(Item(number=1))

    def test_the_key_alone_changes_nothing_but_the_time_of_a_row(self, database, redis_server):
        before = Item.objects.create(number=1, a=7, b="x")
        Item.buffered.set(number=1)
        Item.buffered.flush()
        after = Item.objects.get()
        assert values(after) == values(before)
        assert after.updated_at > before.updated_at

    def test_a_field_set_twice_has_the_later_value(self, database, redis_server):
        Item.buffered.set(number=1, a=1, b="first")
        Item.buffered.set(number=1, a=2, c="kept")
        Item.buffered.flush()
        row = Item.objects.get()
        assert (row.a, row.b, row.c) == (2, "first", "kept")

    def test_a_key_of_several_fields_by_instance_or_by_id(self, database, redis_server):
        owner = Owner.objects.create(name="o")
        Pair.buffered.set(owner=owner, name="n", value=1)
        Pair.buffered.set(owner_id=owner.pk, name="n", note="same row")
        Pair.buffered.flush()
        pair = Pair.objects.get()
        assert (pair.owner, pair.name, pair.value, pair.note) == (owner, "n", 1, "same row")

    def test_texts_of_any_kind_and_length(self, database, redis_server):
        """Scenario 22."""
        odd = ["", " ", "ü" * 100, "日本語🎈", '"', "\\", "\n\r\t\x01", "%s {0} ?", "x" * 100]
        if connections[database].vendor == "mysql":  # takes '' and ' ' for equal
            odd.remove(" ")
        owner = Owner.objects.create(name="o")
        large = {name: "y" * 2**20 + name for name in odd}
        notes = Note.buffered.of(page="", owner=owner)
        for n, name in enumerate(odd):
            Pair.buffered.set(owner=owner, name=name, value=n)
            notes[str(n)] = large[name]
        for _ in range(2):
            found = Pair.buffered.get_many((owner, name) for name in odd)
            assert [found[owner, name].value for name in odd] == list(range(len(odd)))
            assert dict(notes) == {str(n): large[name] for n, name in enumerate(odd)}
            Pair.buffered.flush()
            Note.buffered.flush()

    def test_keys_that_look_alike_once_joined_are_told_apart(self, database, redis_server):
        """Scenario 22."""
        owners = Owner.objects.bulk_create(Owner(pk=pk, name=str(pk)) for pk in (1, 12))
        names = {1: "23", 12: "3"}
        names_too = {1: '",1,"', 12: ""}
        for value, by_owner in enumerate((names, names_too)):
            for owner in owners:
                name = by_owner[owner.pk]
                Pair.buffered.set(owner=owner, name=name, value=owner.pk * 10 + value)
        Pair.buffered.flush()
        assert {(p.owner_id, p.name): p.value for p in Pair.objects.all()} == {
            (1, "23"): 10,
            (12, "3"): 120,
            (1, '",1,"'): 11,
            (12, ""): 121,
        }

    def test_rows_that_are_there_keep_their_primary_key_and_none_is_used_up(
        self, database, redis_server
    ):
        rows = [Item.objects.create(number=n) for n in range(3)]
        for a in range(5):
            Item.buffered.set_many({"number": n, "a": a} for n in range(3))
            Item.buffered.flush()
        assert list(Item.objects.order_by("number").values_list("pk", flat=True)) == [
            row.pk for row in rows
        ]
        Item.buffered.set(number=9)
        Item.buffered.flush()
        assert Item.objects.get(number=9).pk == rows[-1].pk + 1


@on_valkey
class TestSetMany:
    def test_dicts_and_instances(self, database, redis_server):
        Item.objects.create(number=3, a=3, b="stored")
        partial = Item.objects.only("number", "a").get()
        partial.a = 30

        receipts = Item.buffered.set_many(
            [{"number": 1, "a": 1}, Item(number=2, b="two"), partial, {"number": 4}]
        )

        assert [r.where for r in receipts] == ["pending"] * 4
        Item.buffered.flush()
        assert [r.persisted for r in receipts] == [True] * 4
        rows = stored()
        assert sorted(rows) == [1, 2, 3, 4]
        assert (rows[1]["a"], rows[2]["b"]) == (1, "two")
        assert (rows[3]["a"], rows[3]["b"]) == (30, "stored")

    def test_writes_of_one_key_keep_their_order(self, database, redis_server):
        Item.buffered.set_many({"number": n % 3, "a": n, "b": str(n)} for n in range(100))
        Item.buffered.flush()
        assert {n: row["a"] for n, row in stored().items()} == {0: 99, 1: 97, 2: 98}

    def test_more_than_one_round_trip(self, database, redis_server):
        receipts = Item.buffered.set_many({"number": n, "a": n} for n in range(2500))
        assert len(receipts) == Item.buffered.count_pending() == 2500
        Item.buffered.flush()
        assert {n: row["a"] for n, row in stored().items()} == {n: n for n in range(2500)}

    def test_nothing_is_sent_where_one_is_wrong(self, database, redis_server):
        with pytest.raises(FieldError, match="nonsense"):
            Item.buffered.set_many([{"number": 1, "a": 1}, {"number": 2, "nonsense": 1}])
        assert Item.buffered.count_pending() == 0

    def test_nothing_to_write(self, database, redis_server):
        assert Item.buffered.set_many([]) == []


@on_valkey
class TestDelete:
    def test_a_stored_and_a_pending_row(self, database, redis_server):
        Item.objects.create(number=1)
        Item.buffered.set(number=2, a=2)
        for number in (1, 2, 3):  # and one that never was
            Item.buffered.delete(number=number)
        Item.buffered.set(number=4)
        assert sorted(Item.buffered.get_many([1, 2, 3, 4])) == [4]
        Item.buffered.flush()
        assert sorted(stored()) == [4]

    def test_what_it_cascades_to_goes_too(self, database, redis_server):
        owner = Owner.objects.create(name="o")
        gone = Pair.objects.create(owner=owner, name="gone")
        kept = Pair.objects.create(owner=owner, name="kept")
        for pair in (gone, gone, kept):
            Child.objects.create(pair=pair)
        Pair.buffered.delete(owner=owner, name="gone")
        Pair.buffered.flush()
        assert list(Pair.objects.all()) == [kept]
        assert list(Child.objects.values_list("pair", flat=True)) == [kept.pk]

    def test_then_set_makes_a_new_row(self, database, redis_server):
        old = Item.objects.create(number=1, a=1, b="old")
        Item.buffered.delete(number=1)
        Item.buffered.set(number=1, a=2)
        for _ in range(2):
            row = Item.buffered.get(number=1)
            assert (row.a, row.b) == (2, "")
            Item.buffered.flush()
        assert Item.objects.get().pk != old.pk

    def test_a_write_that_comes_while_it_is_flushed_is_later(
        self, database, redis_server, configure
    ):
        configure(SHARDS=1)
        Item.objects.create(number=1, a=1)
        Item.buffered.delete(number=1)
        [claimed] = claim(Item.buffered)
        Item.buffered.set(number=1, a=2)
        claimed.flush()
        assert not Item.objects.exists()
        Item.buffered.flush()
        assert Item.objects.get().a == 2

    def test_the_new_row_is_as_old_as_the_write_that_made_it(self, database, redis_server):
        Item.buffered.set(number=1)
        Item.buffered.delete(number=1)
        time.sleep(0.02)
        between = timezone.now()
        time.sleep(0.02)
        Item.buffered.set(number=1)
        assert Item.buffered.get(number=1).created_at > between
        Item.buffered.flush()
        assert Item.objects.get().created_at > between


@on_valkey
class TestOrder:
    @pytest.mark.parametrize("batch_size", [2, 1000])
    def test_any_writes_come_to_what_they_come_to_one_by_one(
        self, database, redis_server, configure, batch_size, rng
    ):
        configure(BATCH_SIZE=batch_size, SHARDS=2)
        expected: dict[int, dict] = {}
        for step in range(200):
            number = rng.randrange(6)
            match rng.randrange(8):
                case 0 | 1:
                    Item.buffered.delete(number=number)
                    expected.pop(number, None)
                case 2:
                    Item.buffered.flush(number=number)
                case 3 if step % 3 == 0:
                    Item.buffered.flush()
                    assert stored() == expected
                case _:
                    written = {"a": step, "b": f"b{step}", "c": None, "d": step / 2, "e": True}
                    names = rng.sample(sorted(written), rng.randrange(4))
                    changes = {name: written[name] for name in names}
                    Item.buffered.set(number=number, **changes)
                    expected.setdefault(number, values(Item(number=number))).update(changes)
            seen = Item.buffered.get_many(range(6))
            assert {n: values(row) for n, row in seen.items()} == expected
        Item.buffered.flush()
        assert stored() == expected

    @pytest.mark.parametrize("flushed", [False, True])
    def test_set_and_delete_in_turn(self, database, redis_server, flushed):
        """Scenario 16."""
        for a in range(6):
            Item.buffered.set(number=1, a=a)
            if flushed:
                Item.buffered.flush()
            Item.buffered.delete(number=1)
            if flushed and a % 2:
                Item.buffered.flush()
        Item.buffered.set(number=2, a=2)
        Item.buffered.delete(number=2)
        Item.buffered.set(number=2, b="b")
        Item.buffered.flush()
        assert {n: (row["a"], row["b"]) for n, row in stored().items()} == {2: (0, "b")}


@on_valkey
class TestGet:
    def test_a_row_that_is_not_there(self, database, redis_server):
        with pytest.raises(Item.DoesNotExist, match="number=1"):
            Item.buffered.get(number=1)

    def test_a_stored_row_with_a_pending_change(self, database, redis_server):
        row = Item.objects.create(number=1, a=1, b="stored")
        Item.buffered.set(number=1, a=2)
        seen = Item.buffered.get(number=1)
        assert (seen.pk, seen.a, seen.b) == (row.pk, 2, "stored")
        assert Item.objects.get().a == 1

    def test_many_leaves_the_missing_out(self, database, redis_server):
        Item.objects.create(number=1, a=1)
        Item.buffered.set(number=2, a=2)
        assert {k: row.a for k, row in Item.buffered.get_many([1, 2, 3]).items()} == {1: 1, 2: 2}
        assert Item.buffered.get_many([]) == {}

    def test_many_by_keys_of_several_fields(self, database, redis_server):
        owner = Owner.objects.create(name="o")
        Pair.objects.create(owner=owner, name="stored", value=1)
        Pair.buffered.set(owner=owner, name="pending", value=2)
        keys = [(owner.pk, "stored"), (owner, "pending"), (owner, "none")]
        found = Pair.buffered.get_many(keys)
        assert {key: pair.value for key, pair in found.items()} == {keys[0]: 1, keys[1]: 2}
        with pytest.raises(TypeError, match=r"owner, name"):
            Pair.buffered.get_many([("one",)])


@on_valkey
class TestPending:
    def test_says_what_is_not_stored_yet_oldest_first(self, database, redis_server):
        before = timezone.now()
        Item.buffered.set(number=3, a=3)
        Item.buffered.set(number=1, b="b")
        Item.buffered.delete(number=2)
        Item.buffered.set(number=3, c="again")

        entries = Item.buffered.pending()

        assert [e.key for e in entries] == [{"number": 3}, {"number": 1}, {"number": 2}]
        assert [e.values for e in entries] == [{"a": 3, "c": "again"}, {"b": "b"}, {}]
        assert [e.delete for e in entries] == [False, False, True]
        assert {(e.state, e.attempts) for e in entries} == {("pending", 0)}
        assert before <= entries[0].since <= entries[1].since <= entries[2].since
        assert [e.key["number"] for e in Item.buffered.pending(limit=2)] == [3, 1]
        assert Item.buffered.count_pending() == 3

    def test_a_batch_that_failed_is_in_flight(self, database, redis_server, configure):
        configure(SHARDS=1)
        Item.buffered.set(number=1, a=1)
        with table_away(), pytest.raises(DatabaseError):
            Item.buffered.flush()
        Item.buffered.set(number=1, a=2)
        assert [(e.state, e.attempts, e.values) for e in Item.buffered.pending()] == [
            ("in_flight", 1, {"a": 1}),
            ("pending", 0, {"a": 2}),
        ]
        assert Item.buffered.count_pending() == 2


@on_valkey
class TestFlush:
    def test_one_row(self, database, redis_server):
        Item.buffered.set_many({"number": n, "a": n} for n in range(20))
        result = Item.buffered.flush(number=7)
        assert (result.rows, result.remaining) == (1, 0)
        assert sorted(stored()) == [7]
        assert Item.buffered.count_pending() == 19

    def test_one_row_that_is_not_pending(self, database, redis_server):
        Item.buffered.set(number=1)
        assert Item.buffered.flush(number=2).rows == 0
        assert Item.buffered.count_pending() == 1

    def test_one_row_behind_a_batch_that_a_dead_flusher_left(
        self, database, redis_server, configure
    ):
        configure(SHARDS=1, LEASE=0.2)
        Item.buffered.set(number=1, a=1)
        claim_and_die()
        Item.buffered.set(number=2, a=2)
        Item.buffered.flush(number=2)
        assert sorted(stored()) == [1, 2]

    @pytest.mark.parametrize("shards", [1, 7])
    def test_all_shards(self, database, redis_server, configure, shards):
        configure(SHARDS=shards)
        Item.buffered.set_many({"number": n} for n in range(100))
        result = Item.buffered.flush()
        assert (result.rows, result.batches, result.remaining) == (100, shards, 0)
        assert set(AppliedBatch.objects.values_list("shard", flat=True)) == set(range(shards))

    def test_nothing(self, database, redis_server):
        result = Item.buffered.flush()
        assert (result.rows, result.batches, result.statements) == (0, 0, 0)

    def test_the_ledger_says_what_was_done(self, database, redis_server, configure):
        configure(SHARDS=1, BATCH_SIZE=4)
        before = timezone.now()
        Item.objects.create(number=0)
        Item.buffered.set_many({"number": n} for n in range(6))
        Item.buffered.delete(number=0)
        result = Item.buffered.flush()
        ledger = list(AppliedBatch.objects.order_by("applied_at"))
        assert [b.entries for b in ledger] == [4, 2]
        assert [b.rows for b in ledger] == [4, 2]
        assert sum(b.statements for b in ledger) == result.statements
        assert all(b.statements > 2 and len(b.token) == 32 for b in ledger)
        assert all(datetime.timedelta() < b.duration < datetime.timedelta(5) for b in ledger)
        assert {(b.buffer, b.shard) for b in ledger} == {("tests.Item", 0)}
        assert all(before < b.oldest_at < b.applied_at <= timezone.now() for b in ledger)

    def test_inside_a_transaction_is_refused(self, database, redis_server):
        Item.buffered.set(number=1)
        with (
            transaction.atomic(using=database),
            pytest.raises(transaction.TransactionManagementError, match="on_commit"),
        ):
            Item.buffered.flush()
        assert Item.buffered.pending()[0].state == "pending"
        Item.buffered.flush()
        assert sorted(stored()) == [1]

    def test_inside_a_test_case(self, database, redis_server):
        class Inside(TestCase):
            databases = set(connections)

            def test_it(self):
                Item.buffered.set(number=1, a=1)
                Item.buffered.flush()
                assert Item.objects.get().a == 1

        result = unittest.TestResult()
        unittest.TestSuite([Inside("test_it")]).run(result)
        assert (result.testsRun, result.errors, result.failures) == (1, [], [])
        assert not Item.objects.exists()

    def test_signals(self, database, redis_server, configure):
        configure(SHARDS=1)
        sent = []

        def receive(signal, **kwargs):
            sent.append(kwargs)

        signals.flushed.connect(receive)
        signals.flush_failed.connect(receive)
        try:
            Item.buffered.set(number=1)
            with table_away(), pytest.raises(DatabaseError) as raised:
                Item.buffered.flush()
            Item.buffered.flush()
        finally:
            signals.flushed.disconnect(receive)
            signals.flush_failed.disconnect(receive)
        failed, flushed = sent
        assert failed == {
            "sender": Item,
            "buffer": Item.buffered,
            "shard": 0,
            "error": raised.value,
            "attempts": 1,
        }
        assert (flushed["sender"], flushed["buffer"]) == (Item, Item.buffered)
        assert (flushed["shard"], flushed["applied"].rows) == (0, 1)

    def test_a_receiver_that_fails_does_not_stop_a_flush(
        self, database, redis_server, configure, caplog
    ):
        configure(SHARDS=3, BATCH_SIZE=10)

        def receive(**kwargs):
            raise ValueError("of the receiver")

        signals.flushed.connect(receive)
        try:
            Item.buffered.set_many({"number": n} for n in range(100))
            assert Item.buffered.flush().rows == 100
        finally:
            signals.flushed.disconnect(receive)
        assert "of the receiver" in caplog.text


class table_away:
    """The table of Item is not there for a while."""

    def __enter__(self):
        self._rename("tests_item", "tests_item_away")

    def __exit__(self, *exception):
        self._rename("tests_item_away", "tests_item")

    def _rename(self, old: str, new: str) -> None:
        with connections[router.current()].cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")


class Stopped(BaseException):
    """Nothing that ends a flush in good order runs after it."""


def claim_and_die() -> None:
    """What a flusher leaves that is killed after it claimed a batch."""

    def hook(step: str) -> None:
        if step == "flush.claimed":
            raise Stopped

    checkpoints.hook = hook
    try:
        with pytest.raises(Stopped):
            Item.buffered.flush()
    finally:
        checkpoints.hook = None


@on_valkey
class TestFailure:
    def test_the_batch_stays_and_waits_longer_each_time(
        self, database, redis_server, configure, caplog
    ):
        """Scenario 27."""
        configure(SHARDS=1, BACKOFF=5, MAX_BACKOFF=18)
        Item.buffered.set(number=1, a=1)
        Item.buffered.set(number=2, a=2)
        with table_away():
            for attempts in (1, 2, 3):
                with pytest.raises(DatabaseError):
                    Item.buffered.flush()
                assert [e.attempts for e in Item.buffered.pending()] == [attempts] * 2
        messages = [r.getMessage() for r in caplog.records if r.name == "writebehind"]
        assert all("a table, a column or a right may be missing" in text for text in messages)
        waits = [float(re.search(r"try is in (.*) s:", text)[1]) for text in messages]
        for wait, longest in zip(waits, [5, 10, 18], strict=True):
            assert longest / 2 <= wait <= longest

        waiting = flush(Item.buffered)  # as the command does
        assert (waiting.rows, waiting.remaining, stored()) == (0, 2, {})
        assert Item.buffered.get(number=1).a == 1

        assert Item.buffered.flush().rows == 2
        assert sorted(stored()) == [1, 2]
        assert AppliedBatch.objects.get().entries == 2

    def test_the_wait_ends(self, database, redis_server, configure):
        configure(SHARDS=1, BACKOFF=1)
        Item.buffered.set(number=1)
        with table_away(), pytest.raises(DatabaseError):
            Item.buffered.flush()
        assert flush(Item.buffered).rows == 0
        time.sleep(1.02)
        assert flush(Item.buffered).rows == 1

    def test_a_newer_write_wins_over_the_failed_batch(self, database, redis_server, configure):
        """Scenario 17."""
        configure(SHARDS=1)
        Item.buffered.set(number=1, a=1, b="old")
        Item.buffered.set(number=2, a=1)
        with table_away(), pytest.raises(DatabaseError):
            Item.buffered.flush()
        Item.buffered.set(number=1, a=2)
        Item.buffered.delete(number=2)
        assert values(Item.buffered.get(number=1))["a"] == 2
        Item.buffered.flush()
        assert {n: (r["a"], r["b"]) for n, r in stored().items()} == {1: (2, "old")}

    def test_other_shards_are_flushed_all_the_same(
        self, database, redis_server, configure, monkeypatch
    ):
        configure(SHARDS=4)
        owner = Owner.objects.create(name="o")
        Pair.buffered.set_many({"owner": owner, "name": str(n)} for n in range(100))
        bad = id_of(Pair.buffered, owner=owner, name="5")
        refuse_batches(
            monkeypatch, ProgrammingError("no such table"), only_with=(Pair.buffered, bad)
        )
        with pytest.raises(ProgrammingError):
            Pair.buffered.flush()
        assert {entry.state for entry in Pair.buffered.pending()} == {"in_flight"}
        assert Pair.objects.count() == 100 - Pair.buffered.count_pending() > 50

    @pytest.mark.parametrize("new", [False, True])
    def test_a_value_that_another_row_has_leaves_that_row_alone(
        self, database, redis_server, configure, new
    ):
        """On MariaDB, a conflict with any unique key turns an insert into an update."""
        configure(SHARDS=1)
        owner = Owner.objects.create(name="o")
        other = Pair.objects.create(owner=owner, name="other", value=1, note="taken")
        if not new:
            Pair.objects.create(owner=owner, name="mine", value=2, note="free")
        Pair.buffered.set(owner=owner, name="mine", value=3, note="taken")
        Pair.buffered.set(owner=owner, name="third", value=4)

        Pair.buffered.flush()
        pairs = {p.name: (p.value, p.note) for p in Pair.objects.all()}
        third = {"third": (4, None)}
        assert pairs == third | {"other": (1, "taken")} | ({} if new else {"mine": (2, "free")})

        (letter,) = letters_of(Pair.buffered)
        assert deadletters.retry(Pair.buffered, [letter.pk]) == (0, 1)
        other.note = "given up"
        other.save()
        assert deadletters.retry(Pair.buffered, [letter.pk]) == (1, 0)
        assert {p.name: (p.value, p.note) for p in Pair.objects.all()} == {
            "other": (1, "given up"),
            "mine": (3, "taken"),
            "third": (4, None),
        }

    def test_a_unique_value_moves_from_one_row_to_another(self, database, redis_server, configure):
        configure(SHARDS=1)
        owner = Owner.objects.create(name="o")
        Pair.objects.create(owner=owner, name="a")
        Pair.objects.create(owner=owner, name="b", note="x")
        Pair.buffered.set(owner=owner, name="b", note=None)
        Pair.buffered.set(owner=owner, name="a", note="x")
        Pair.buffered.flush()
        assert {p.name: p.note for p in Pair.objects.all()} == {"a": "x", "b": None}

    def test_of_two_that_want_a_unique_value_the_first_one_gets_it(
        self, database, redis_server, configure
    ):
        configure(SHARDS=1)
        owner = Owner.objects.create(name="o")
        Pair.buffered.set(owner=owner, name="b", note="x")
        Pair.buffered.set(owner=owner, name="a", note="x")
        assert Pair.buffered.flush().dead_letters == 1
        assert [p.name for p in Pair.objects.all()] == ["b"]

    @pytest.mark.parametrize("exists", [False, True])
    def test_keys_that_the_database_takes_for_equal(
        self, database, redis_server, configure, exists
    ):
        """MariaDB does with upper and lower case; they are two rows elsewhere."""
        configure(SHARDS=1)
        if exists:
            Strict.objects.create(code="abc", other=1)
        Strict.buffered.set(code="abc", required="small")
        Strict.buffered.set(code="ABC", other=5)
        Strict.buffered.flush()
        assert Strict.buffered.count_pending() == 0
        rows = {row.code: (row.required, row.other) for row in Strict.objects.all()}
        if connections[database].vendor == "mysql":
            assert rows == {"abc": ("small", 5)}
        else:
            assert rows == {"abc": ("small", 1 if exists else 7), "ABC": ("", 5)}


@on_valkey
class TestDiscard:
    def test_one_or_all(self, database, redis_server, configure):
        configure(BATCH_SIZE=10)
        Item.objects.create(number=1, a=1)
        receipts = Item.buffered.set_many({"number": n, "a": -1} for n in range(50))
        assert Item.buffered.discard(number=1) == 1
        assert Item.buffered.discard(number=1) == 0
        assert Item.buffered.get(number=1).a == 1
        assert Item.buffered.count_pending() == 49
        assert receipts[1].where == "discarded"
        assert receipts[2].where == "pending"
        assert Item.buffered.discard() == 49
        assert {r.where for r in receipts} == {"discarded"}
        assert Item.buffered.flush().rows == 0
        assert {n: row["a"] for n, row in stored().items()} == {1: 1}

    def test_a_write_after_it_counts(self, database, redis_server):
        Item.buffered.set(number=1, a=1, b="discarded")
        Item.buffered.discard(number=1)
        Item.buffered.set(number=1, a=2)
        Item.buffered.flush()
        assert values(Item.objects.get()) == {**values(Item(number=1)), "a": 2}

    def test_a_batch_in_flight_stays(self, database, redis_server, configure):
        configure(SHARDS=1, LEASE=0.1)
        receipt = Item.buffered.set(number=1, a=1)
        claim_and_die()
        assert Item.buffered.discard() == 0
        assert receipt.where == "in_flight"
        Item.buffered.flush()
        assert sorted(stored()) == [1]


class TestReceipt:
    def test_wait(self, database, redis_server):
        receipt = Item.buffered.set(number=1)
        started = time.monotonic()
        assert not receipt.wait(0.1)
        assert 0.1 <= time.monotonic() - started < 5
        assert not receipt.persisted
        Item.buffered.flush()
        assert receipt.wait(0)

    def test_each_write_of_a_row_has_its_own(self, database, redis_server):
        first = Item.buffered.set(number=1, a=1)
        Item.buffered.flush()
        second = Item.buffered.set(number=1, a=2)
        third = Item.buffered.delete(number=1)
        assert [r.where for r in (first, second, third)] == ["stored", "pending", "pending"]
        Item.buffered.flush()
        assert third.persisted

    @pytest.mark.parametrize("written_again", [False, True])
    def test_a_redis_that_lost_its_data_has_not_flushed_it(self, plain, written_again):
        receipt = Item.buffered.set(number=1)
        plain.clear()
        if written_again:
            Item.buffered.set(number=1)
            Item.buffered.flush()
        assert receipt.where == "lost"
        assert not receipt.persisted
        assert not receipt.wait(5)


@on_valkey
class TestOnMissing:
    def test_by_primary_key_no_row_is_made(self, database, redis_server):
        stamp = Stamp.objects.create()
        Stamp.buffered.set(pk=stamp.pk, count=5)
        missing = Stamp.buffered.set(pk=stamp.pk + 1, count=6)
        assert sorted(Stamp.buffered.get_many([stamp.pk, stamp.pk + 1])) == [stamp.pk]
        assert Stamp.buffered.flush().rows == 1
        assert list(Stamp.objects.values_list("pk", "count")) == [(stamp.pk, 5)]
        assert (missing.where, Stamp.buffered.count_pending()) == ("stored", 0)

    def test_a_row_deleted_in_the_meantime_does_not_come_back(self, database, redis_server):
        stamp = Stamp.objects.create()
        Stamp.buffered.set(pk=stamp.pk, count=5)
        Stamp.objects.all().delete()
        Stamp.buffered.flush()
        assert not Stamp.objects.exists()

    def test_unless_it_says_insert(self, database, redis_server, monkeypatch):
        buffer = RowBuffer(key="pk", fields=["count"], on_missing="insert")
        buffer.contribute_to_class(Stamp, "inserting")
        registry.remove(buffer)
        try:
            Stamp.inserting.set(pk=77, count=5)
            assert Stamp.inserting.get(pk=77).count == 5
            Stamp.inserting.flush()
        finally:
            del Stamp.inserting
        assert list(Stamp.objects.values_list("pk", "count")) == [(77, 5)]


def test_a_row_that_is_false_has_its_pending_values(plain, monkeypatch):
    monkeypatch.setattr(Item, "__bool__", lambda row: False, raising=False)
    Item.objects.create(number=1, a=1)
    Item.buffered.set(number=1, a=2)
    assert Item.buffered.get(number=1).a == 2


@on_valkey
class TestTimes:
    """`auto_now` and `auto_now_add` are the times of the writes, not of the flush."""

    @pytest.mark.parametrize("use_tz", [True, False])
    def test_as_save_would_set_them(self, database, redis_server, settings, use_tz):
        settings.USE_TZ = use_tz
        times = [timezone.now()]
        Item.buffered.set(number=1, a=1)
        times.append(timezone.now())
        time.sleep(0.02)
        Item.buffered.set(number=1, b="x")
        times.append(timezone.now())
        time.sleep(0.02)
        pending = Item.buffered.get(number=1)
        Item.buffered.flush()
        row = Item.objects.get()
        assert times[0] <= row.created_at <= times[1] < row.updated_at <= times[2]
        assert (pending.created_at, pending.updated_at) == (row.created_at, row.updated_at)
        assert (row.created_at.tzinfo is not None) == use_tz

        Item.buffered.set(number=1, a=2)
        written = timezone.now()
        time.sleep(0.02)
        Item.buffered.flush()
        changed = Item.objects.get()
        assert changed.created_at == row.created_at
        assert row.updated_at < changed.updated_at <= written

    def test_a_time_of_day_goes_back_at_midnight(self, database, redis_server):
        Strict.objects.create(code="a", required="x")
        Strict.objects.update(clock=datetime.time.max)  # as of yesterday
        Strict.buffered.set(code="a", other=1)
        pending = Strict.buffered.get(code="a").clock
        Strict.buffered.flush()
        assert Strict.objects.get().clock == pending < datetime.time.max

    def test_those_of_rows_next_to_it_stay(self, database, redis_server, configure):
        configure(SHARDS=1)
        others = [Item.objects.create(number=n) for n in range(3)]
        Item.buffered.set(number=0, a=1)
        Item.buffered.set(number=9, a=1)
        Item.buffered.flush()
        for other in others[1:]:
            assert Item.objects.get(pk=other.pk).updated_at == other.updated_at

    def test_dates_and_times_of_day(self, database, redis_server):
        Strict.buffered.set(code="x", other=1)
        Strict.buffered.flush()
        row, saved = Strict.objects.get(), Strict(code="y")
        saved.save()
        assert row.day == saved.day
        assert row.clock <= saved.clock


class TestAbstract:
    def test_each_child_has_a_buffer_of_its_own(self, database, redis_server):
        ExamScore.buffered.set(code="x", points=1)
        GameScore.buffered.set(code="x", points=2)
        assert ExamScore.buffered.get(code="x").points == 1
        assert GameScore.buffered.flush().rows == 1
        assert not ExamScore.objects.exists()
        ExamScore.buffered.flush()
        assert (ExamScore.objects.get().points, GameScore.objects.get().points) == (1, 2)


class TestSettings:
    def test_prefix(self, plain, configure):
        configure(PREFIX="mine")
        Item.buffered.set(number=1)
        with plain.client(decode_responses=True) as client:
            keys = client.keys()
        assert keys
        assert all(key.startswith(beginning("tests.Item:", prefix="mine")) for key in keys)
        configure(PREFIX="other")
        assert Item.buffered.count_pending() == 0

    def test_max_age(self, plain, configure):
        configure(MAX_AGE=1)  # a busy machine may take long to say that it is not due
        Item.buffered.set(number=1)
        assert flush(Item.buffered, due_only=True).rows == 0
        time.sleep(0.9)
        Item.buffered.set(number=1)  # does not put it off
        time.sleep(0.11)
        assert flush(Item.buffered, due_only=True).rows == 1

    def test_quiet(self, plain, configure):
        configure(MAX_AGE=60, QUIET=1)
        Item.buffered.set(number=1)
        time.sleep(0.9)
        Item.buffered.set(number=1)
        time.sleep(0.11)
        assert flush(Item.buffered, due_only=True).rows == 0
        time.sleep(0.9)
        assert flush(Item.buffered, due_only=True).rows == 1

    def test_a_key_without_a_quiet_moment_is_due_by_its_age(self, plain, configure):
        configure(MAX_AGE=0.3, QUIET=0.2)
        started = time.monotonic()
        while flush(Item.buffered, due_only=True).rows == 0:
            Item.buffered.set(number=1)
            assert time.monotonic() - started < 2
            time.sleep(0.01)
        assert time.monotonic() - started >= 0.3

    def test_options_of_a_declaration_go_before(self, plain, configure):
        configure(MAX_AGE=60, SHARDS=4)
        buffer = RowBuffer(key="number", max_age=0, shards=1)
        assert (buffer.option("MAX_AGE"), buffer.option("SHARDS")) == (0, 1)
        assert buffer.option("BATCH_SIZE") == 1000

    def test_batch_size(self, plain, configure):
        configure(SHARDS=1, BATCH_SIZE=30)
        Item.buffered.set_many({"number": n} for n in range(100))
        assert Item.buffered.flush().batches == 4
        assert sorted(AppliedBatch.objects.values_list("entries", flat=True)) == [10, 30, 30, 30]

    def test_redis_by_alias_is_the_one_by_url(self, plain, configure):
        Item.buffered.set(number=1, a=1)
        configure(REDIS="writebehind")
        assert Item.buffered.get(number=1).a == 1
        Item.buffered.set(number=1, b="x")
        assert Item.buffered.flush().rows == 1
        assert Item.objects.get().b == "x"


def flush_scripts(server) -> None:
    with server.client() as client:
        client.script_flush()


class TestRedis:
    def test_the_script_cache_is_flushed_between_calls(self, plain):
        """Scenario 34."""
        for n in range(3):
            flush_scripts(plain)
            Item.buffered.set(number=n, a=n)
            flush_scripts(plain)
            Item.buffered.set_many([{"number": n, "b": "x"}, {"number": n + 10}])
            flush_scripts(plain)
            assert Item.buffered.get(number=n).b == "x"
            flush_scripts(plain)
            assert Item.buffered.flush().rows == 2
        assert Item.objects.count() == 6

    @pytest.mark.parametrize("how", ["stopped", "frozen"])
    def test_out_of_reach_every_verb_says_so(self, plain, configure, how):
        configure(SOCKET_TIMEOUT=0.05, LEASE=0.1)
        Item.objects.create(number=1)
        receipt = Item.buffered.set(number=1, a=1)
        if how == "stopped":
            plain.stop()
        else:
            plain.pause()
        buffered = Item.buffered
        for call in (
            lambda: buffered.set(number=1, a=2),
            lambda: buffered.set_many([{"number": 1}, {"number": 2}]),
            lambda: buffered.delete(number=1),
            lambda: buffered.get(number=1),
            lambda: buffered.get_many([1, 2]),
            lambda: buffered.overlay(Item.objects.all()),
            lambda: buffered.pending(),
            lambda: buffered.count_pending(),
            lambda: buffered.flush(),
            lambda: buffered.flush(number=1),
            lambda: buffered.discard(),
            lambda: buffered.discard(number=1),
            lambda: receipt.where,
        ):
            with pytest.raises((BufferUnavailable, WriteUncertain)):
                call()

    def test_back_from_its_file_it_has_what_it_acknowledged(self, plain):
        Item.buffered.set_many({"number": n, "a": n} for n in range(100))
        plain.restart()
        receipt = Item.buffered.set(number=0, b="later")
        assert Item.buffered.count_pending() == 100
        Item.buffered.flush()
        assert receipt.persisted
        assert {n: row["a"] for n, row in stored().items()} == {n: n for n in range(100)}
