"""What is left after something outside went wrong: nothing hidden, nothing stuck, nothing lost."""

from __future__ import annotations

import time

import pytest
from django.db import IntegrityError, ProgrammingError, connection, connections

from tests.backdoor.batches import claim, claim_and_die
from tests.backdoor.entries import remove
from tests.backdoor.flushes import (
    refuse_token_once,
    say_that_the_token_is_there,
    stop_before_new_token,
)
from tests.backdoor.keyspace import beginning
from tests.models import Hidden, Item, KeyOnly, Seat, Strict
from tests.router import current
from writebehind_app import checkpoints
from writebehind_app.flush.engine import flush
from writebehind_app.models import AppliedBatch, DeadLetter


class Stopped(BaseException):
    """Nothing runs on after it."""


class TestRefusedBatch:
    @pytest.fixture
    def no_ledger(self, monkeypatch):
        """Its table is missing, for one flush."""

        refuse_token_once(monkeypatch, ProgrammingError("no such table"))

    def test_can_be_discarded(self, database, redis_server, configure, no_ledger):
        configure(SHARDS=1)
        refused = Item.buffered.set(number=1)
        with pytest.raises(ProgrammingError):
            Item.buffered.flush()
        assert refused.where == "in_flight"

        assert Item.buffered.discard(number=1) == 1

        assert refused.where == "discarded"
        Item.buffered.set(number=2)
        Item.buffered.flush()
        assert Item.objects.get().number == 2

    def test_is_discarded_with_the_rest(self, plain, configure, no_ledger):
        configure(SHARDS=1)
        Item.buffered.set(number=1)
        with pytest.raises(ProgrammingError):
            Item.buffered.flush()
        Item.buffered.set(number=1, a=1)
        assert Item.buffered.discard() == 2
        assert Item.buffered.count_pending() == 0

    def test_is_not_discarded_while_a_flusher_is_at_it(self, plain, configure):
        configure(SHARDS=1)
        Item.buffered.set(number=1)
        claim(Item.buffered)
        assert Item.buffered.discard() == 0
        assert Item.buffered.count_pending() == 1


class TestDiscardOfABatch:
    """Whose flusher may have been stopped, or not have heard of its commit."""

    @pytest.fixture(autouse=True)
    def one_shard(self, configure):
        configure(SHARDS=1, LEASE=0.05)

    def stop_at(self, step: str, monkeypatch, act=None) -> None:
        """The flusher stops there; what others do then; whether it goes on."""

        def hook(reached: str) -> None:
            if reached == step:
                monkeypatch.setattr(checkpoints, "hook", None)
                time.sleep(0.1)
                if act is None:
                    raise Stopped
                act()

        monkeypatch.setattr(checkpoints, "hook", hook)

    def test_its_flusher_wakes_up_and_brings_nothing_back(
        self, database, redis_server, monkeypatch
    ):
        receipts = Item.buffered.set_many([{"number": n, "a": 1} for n in (5, 6)])

        def act() -> None:
            assert Item.buffered.discard(number=5) == 1
            assert [receipt.where for receipt in receipts] == ["discarded", "in_flight"]
            Item.buffered.set(number=5, a=2)
            assert {n: r.a for n, r in Item.buffered.get_many([5, 6]).items()} == {5: 2, 6: 1}
            Item.buffered.flush()

        self.stop_at("flush.claimed", monkeypatch, act)
        Item.buffered.flush()
        assert dict(Item.objects.values_list("number", "a")) == {5: 2, 6: 1}
        assert [receipt.where for receipt in receipts] == ["discarded", "stored"]
        assert Item.buffered.count_pending() == 0

    def test_a_record_of_a_log_is_gone_for_good(self, database, redis_server, monkeypatch):
        def act() -> None:
            assert Seat.buffered.discard(number=1) == 1
            Seat.buffered.append(number=1)

        Seat.buffered.extend([{"number": 1}, {"number": 2}])
        self.stop_at("flush.claimed", monkeypatch, act)
        Seat.buffered.flush()
        Seat.buffered.flush()
        assert [seat.number for seat in Seat.objects.order_by("pk")] == [2, 1]
        assert not DeadLetter.objects.exists()

    def test_that_is_in_the_database_is_not_discarded(self, database, redis_server, monkeypatch):
        receipt = Item.buffered.set(number=5, a=1)
        self.stop_at("flush.committed", monkeypatch)
        with pytest.raises(Stopped):
            Item.buffered.flush()
        time.sleep(0.1)  # the lease ends: it was renewed until then
        assert Item.buffered.discard() == 0
        assert receipt.where == "stored"
        assert Item.objects.get().a == 1
        assert Item.buffered.count_pending() == 0

    def test_that_is_given_up_half_is_flushed(self, database, redis_server, monkeypatch):
        """The process died when the ledger had the token as void, and Redis no other one yet."""
        Item.buffered.set(number=5, a=1)
        self.stop_at("flush.claimed", monkeypatch)
        with pytest.raises(Stopped):
            Item.buffered.flush()

        with monkeypatch.context() as patch:
            stop_before_new_token(patch, Stopped())
            with pytest.raises(Stopped):
                Item.buffered.discard()
        assert Item.buffered.get(number=5).a == 1
        Item.buffered.flush()
        assert Item.objects.get().a == 1


class TestLedger:
    def test_that_refuses_for_another_reason_keeps_the_batch(self, plain, monkeypatch):
        Item.buffered.set(number=1, a=5)

        with monkeypatch.context() as patch:
            say_that_the_token_is_there(patch, "a column of a later migration")
            with pytest.raises(IntegrityError, match="later migration"):
                Item.buffered.flush()
        assert Item.buffered.get(number=1).a == 5
        Item.buffered.flush()
        assert Item.objects.get().a == 5


class TestRedis:
    def test_an_entry_that_is_missing_hides_no_other(self, database, redis_server, configure):
        configure(SHARDS=1)
        Item.buffered.set_many([{"number": n, "a": n} for n in range(20)])
        remove(Item.buffered, "7")
        assert len(Item.buffered.get_many(range(20))) == 19
        Item.buffered.flush()
        assert sorted(Item.objects.values_list("a", flat=True)) == [*range(7), *range(8, 20)]
        assert Item.buffered.count_pending() == 0

    def test_that_is_full_is_drained_after_a_flusher_died(self, database, redis_server):
        Item.buffered.set_many([{"number": n, "a": n} for n in range(50)])
        claim_and_die(Item.buffered)
        Item.buffered.set_many([{"number": n, "b": "more"} for n in range(50)])
        with redis_server.client() as client:
            try:
                client.config_set("maxmemory", 100_000)
                Item.buffered.flush()
                Item.buffered.flush()
            finally:
                client.config_set("maxmemory", 0)
        assert sum(Item.objects.values_list("a", flat=True)) == sum(range(50))
        assert set(Item.objects.values_list("b", flat=True)) == {"more"}

    def test_a_receipt_of_many_discarded_writes_never_says_persisted(self, plain, configure):
        configure(SHARDS=1)
        receipts = Item.buffered.set_many([{"number": n} for n in range(1500)])
        Item.buffered.discard()
        assert not any(receipt.persisted for receipt in receipts)
        stored = Item.buffered.set(number=1)
        Item.buffered.flush()
        assert stored.persisted


class TestLimit:
    def test_counts_what_was_taken_over(self, plain, configure):
        configure(SHARDS=2)
        Item.buffered.set_many([{"number": n} for n in range(100)])
        claim_and_die(Item.buffered)
        Item.buffered.set_many([{"number": n, "a": 1} for n in range(100)])
        result = flush(Item.buffered, limit=10)
        assert result.batches == 1
        assert Item.objects.count() == result.rows < 100


class TestModels:
    def test_with_nothing_but_a_key(self, database, redis_server):
        KeyOnly.buffered.set(name="a")
        KeyOnly.buffered.flush()
        KeyOnly.buffered.set(name="a")
        KeyOnly.buffered.flush()
        assert [row.name for row in KeyOnly.objects.all()] == ["a"]

    def test_whose_managers_hide_rows(self, database, redis_server):
        Hidden(name="a", hidden=True).save()
        assert not Hidden.objects.exists()
        Hidden.buffered.set(name="a", value=3)
        assert Hidden.buffered.get(name="a").hidden
        Hidden.buffered.flush()
        with connections[current()].cursor() as cursor:
            cursor.execute("SELECT value FROM tests_hidden")
            assert list(cursor.fetchall()) == [(3,)]

    def test_keys_that_differ_only_in_case_on_mariadb(self, database, redis_server, configure):
        configure(SHARDS=1)
        Strict.objects.create(code="abc", required="r")
        Strict.buffered.set(code="abc", other=1)
        Strict.buffered.delete(code="ABC")
        Strict.buffered.flush()
        left = Strict.objects.filter(code="abc").exists()
        assert left is (connections[current()].vendor != "mysql")


def test_tests_have_keys_of_their_own(plain):
    assert connection.settings_dict["NAME"]
    Item.buffered.set(number=1)
    with plain.client(decode_responses=True) as client:
        assert all(key.startswith(beginning()) for key in client.scan_iter())
    assert not AppliedBatch.objects.exists()
