"""Inside a transaction a write leaves with the commit, and is gone with the rollback: see
SCENARIOS 44."""

from __future__ import annotations

import gc
import unittest
import weakref
from contextlib import suppress
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import IntegrityError, connections, transaction
from django.test import Client, RequestFactory, TestCase

from tests.backdoor.breaker import is_asked
from tests.elsewhere import elsewhere
from tests.models import Counter, Item, Line, Owner, Seat, Setting
from tests.outages import wait_for_redis
from tests.router import current
from writebehind_app import Add, batch
from writebehind_app.exceptions import AlreadyExists, BufferFull, BufferUnavailable, Overtaken
from writebehind_app.meta.models import LessonMeta, TicketMeta
from writebehind_app.meta.services import open_ticket, record_progress, resolve_ticket, ticket

each_database = pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)


class Stop(Exception):
    pass


def atomic(**options: Any) -> Any:
    return transaction.atomic(using=current(), **options)


def roll_back() -> None:
    transaction.set_rollback(True, using=current())


def held() -> int:
    return len(connections[current()].run_on_commit)


class TestCommitAndRollback:
    @each_database
    def test_it_leaves_with_the_commit(self, database, redis_server, trips):
        Item.buffered.set(number=9, a=Add(1))
        Line.buffered.append(text="first")
        with atomic():
            Owner.objects.create(name="anna")
            receipt = Item.buffered.set(number=1, a=1)
            Item.buffered.set(number=1, a=Add(1))
            with atomic():
                Line.buffered.extend([{"text": "x"}, {"text": "y"}])
                assert not Item.buffered.set_if({"a": 1}, number=1, b="no")
            Item.buffered.delete(number=9)
            assert Item.buffered.get(number=1).a == 2
            assert [row.text for row in Line.buffered.window()] == ["first", "x", "y"]
            assert elsewhere(Item.buffered.count_pending) == 1
            assert receipt.where == "held"
            del trips[:]
        assert trips == [2]  # a call for the rows, and one for the log
        assert receipt.where == "pending"
        assert Item.buffered.get_many([1, 9]).keys() == {1}
        Item.buffered.flush()
        assert Item.objects.get().a == 2

    @each_database
    def test_it_is_gone_with_the_rollback(self, database, redis_server, trips):
        setting = Setting.buffered.of(site=1)
        setting["k"] = 1
        with atomic():
            del trips[:]
            receipts = [Item.buffered.set(number=1), Line.buffered.append(text="x")]
            assert trips == []
            receipts.append(Item.buffered.create(number=2))
            Item.buffered.set(number=3, a=Add(1), once="key")
            Seat.buffered.append(number=1)
            assert setting.pop("k") == 1
            setting.clear()
            assert Item.buffered.count_pending() == 3
            roll_back()
        assert {receipt.where for receipt in receipts} == {"discarded"}
        for buffer in (Item.buffered, Line.buffered, Seat.buffered):
            assert buffer.count_pending() == 0
        assert dict(setting) == {"k": 1}
        assert Item.buffered.set(number=3, a=Add(1), once="key")
        assert Item.buffered.get(number=3).a == 1

    @each_database
    def test_savepoints(self, database, redis_server, trips):
        Item.buffered.set(number=9)
        with atomic():
            Item.buffered.set(number=1, a=1)
            with suppress(Stop), atomic():
                lost = Item.buffered.set(number=1, a=2)
                with atomic():
                    Item.buffered.set(number=2)
                assert Item.buffered.get(number=1).a == 2
                raise Stop
            assert lost.where == "discarded"
            assert Item.buffered.get(number=1).a == 1
            with atomic():
                Item.buffered.set(number=1, a=Add(10))
            Item.buffered.set(number=1, a=Add(100))
            del trips[:]
        assert trips == [1]
        assert Item.buffered.get(number=1).a == 111
        assert Item.buffered.get_many([2]) == {}

    @pytest.mark.parametrize("is_written", [False, True])
    def test_a_savepoint_that_is_rolled_back_after_the_last_write(
        self, database, redis_server, trips, is_written
    ):
        Item.buffered.set(number=9)
        with atomic():
            receipts = [Item.buffered.set(number=1, a=Add(1), b=str(n)) for n in range(3)]
            with suppress(Stop), atomic():
                if is_written:
                    receipts.append(Item.buffered.set(number=1, a=3))
                raise Stop
            del trips[:]
        # Nobody tells which of them Django will call yet: each goes when it is called.
        assert trips == [1, 1, 1]
        assert [receipt.where for receipt in receipts] == ["pending"] * 3 + [
            "discarded"
        ] * is_written
        row = Item.buffered.get(number=1)
        assert (row.a, row.b) == (3, "2")

    def test_transactions_of_callbacks(self, plain):
        """Each has a list of its own."""

        def write_and_fail() -> None:
            with suppress(Stop), atomic():
                Item.buffered.set(number=1, a=-1)
                raise Stop
            with atomic():
                Item.buffered.set(number=2, a=Add(1))

        with atomic():
            Item.buffered.set(number=2, a=1)
            transaction.on_commit(write_and_fail, using=current())
            with suppress(Stop), atomic():
                raise Stop
            Item.buffered.set(number=2, a=Add(1))
        assert Item.buffered.get(number=2).a == 3
        assert Item.buffered.get_many([1]) == {}

    def test_an_inner_block_without_a_savepoint(self, plain):
        with suppress(Stop), atomic():
            Item.buffered.set(number=1)
            with suppress(Stop), atomic(savepoint=False):
                Item.buffered.set(number=2)
                raise Stop
        assert Item.buffered.count_pending() == 0

    @each_database
    def test_an_error_of_the_database(self, database, redis_server):
        Item.objects.create(number=5)
        with suppress(IntegrityError), atomic():
            Item.buffered.set(number=1)
            Item.objects.create(number=5)
        assert Item.buffered.count_pending() == 0

    def test_the_option_turns_it_off(self, plain, configure):
        configure(ON_COMMIT=False)
        with atomic():
            assert Item.buffered.set(number=1).where == "pending"
            roll_back()
        assert Item.buffered.count_pending() == 1

    def test_what_goes_directly_is_part_of_it(self, plain, configure):
        configure(MODE="direct")
        with atomic():
            assert Item.buffered.set(number=1).where == "stored"
            roll_back()
        assert not Item.objects.exists()

    def test_nothing_is_kept_of_it(self, plain):
        with atomic():
            receipt = Item.buffered.set(number=1)
            gone = weakref.ref(receipt.held[0])
            roll_back()
        del receipt
        gc.collect()
        assert gone() is None
        assert held() == 0


class TestSeveralDatabases:
    @pytest.mark.parametrize("database", ["postgresql"], indirect=True)
    @pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
    def test_the_transaction_that_counts_is_that_of_the_rows(self, database, redis_server):
        with transaction.atomic(using="default"):
            assert Item.buffered.set(number=1).where == "pending"
            with atomic():
                assert Item.buffered.set(number=2).where == "held"
            assert Item.buffered.get_many([1, 2]).keys() == {1, 2}
            transaction.set_rollback(True, using="default")
        assert Item.buffered.count_pending() == 2


class TestCallbacksOfTheProject:
    def test_see_what_was_written_before_them(self, plain):
        seen = []

        def look() -> None:
            seen.append((Item.buffered.get(number=1).a, Item.buffered.flush(number=1).rows))

        with atomic():
            Item.buffered.set(number=1, a=1)
            transaction.on_commit(look)
            Item.buffered.set(number=1, a=2)
        assert seen == [(2, 1)]

    @pytest.mark.parametrize("is_rolled_back", [False, True])
    def test_one_that_raises_after_the_writes(self, plain, is_rolled_back):
        def fail() -> None:
            raise Stop

        def commit() -> None:
            with atomic():
                Item.buffered.set(number=1)
                transaction.on_commit(fail)
                if is_rolled_back:
                    with suppress(KeyError), atomic():
                        raise KeyError
                Item.buffered.set(number=2)

        with pytest.raises(Stop):
            commit()
        assert Item.buffered.get_many([1, 2]).keys() == {1, 2}


class TestErrorsAfterTheCommit:
    def test_redis_is_away(self, plain):
        """The transaction cannot be undone: who has committed it is told."""
        receipts = []

        def commit() -> None:
            with atomic():
                Owner.objects.create(name="anna")
                receipts.append(Item.buffered.set(number=1))
                plain.stop()

        with pytest.raises(BufferUnavailable):
            commit()
        assert Owner.objects.exists()
        assert receipts[0].where == "discarded"
        plain.start()

    def test_redis_is_known_to_be_away(self, plain):
        """The call is refused, so that the transaction can be rolled back."""
        plain.stop()
        while is_asked():
            with suppress(BufferUnavailable):
                Item.buffered.count_pending()
        with pytest.raises(BufferUnavailable), atomic():  # noqa: PT012
            Owner.objects.create(name="anna")
            Item.buffered.set(number=1)
        assert not Owner.objects.exists()
        plain.start()
        wait_for_redis()

    def test_redis_is_away_and_what_may_goes_around_it(self, plain, configure):
        configure(WHEN_DOWN="direct")
        with atomic():
            receipt = Item.buffered.set(number=1, a=1)
            Line.buffered.append(text="x")
            plain.stop()
        assert (Item.objects.get().a, Line.objects.get().text) == (1, "x")
        assert receipt.direct
        with atomic():  # while it is away
            Item.buffered.set(number=1, a=Add(1))
            assert Item.buffered.get(number=1).a == 2
            roll_back()
        assert Item.objects.get().a == 1
        plain.start()

    def test_one_call_is_refused_and_the_others_are_taken(self, plain, configure):
        configure(MAX_PENDING=250, WHEN_FULL="raise")
        receipts = []

        def commit() -> None:
            with atomic():
                receipts.extend(Counter.buffered.set_many({"name": str(n)} for n in range(300)))
                Line.buffered.append(text="x")

        with pytest.raises(BufferFull, match="200 of 300 writes were taken"):
            commit()
        assert [r.where for r in receipts] == ["pending"] * 200 + ["discarded"] * 100
        assert Counter.buffered.count_pending() == 200
        assert Line.buffered.count() == 1

    @pytest.mark.parametrize("verb", ["create", "set_if"])
    def test_somebody_else_came_first(self, plain, verb):
        Item.buffered.set(number=5)

        def commit() -> None:
            with atomic():
                if verb == "create":
                    Item.buffered.create(number=1, a=1)
                    elsewhere(lambda: Item.buffered.create(number=1, a=2))
                else:
                    assert Item.buffered.set_if({"a": 0}, number=5, a=1)
                    elsewhere(lambda: Item.buffered.set(number=5, a=2))

        with pytest.raises(AlreadyExists if verb == "create" else Overtaken):
            commit()
        assert Item.buffered.get(number=1 if verb == "create" else 5).a == 2


class TestWithABatch:
    def test_a_transaction_inside_one(self, plain, trips):
        """It leaves with the commit, and what the batch has of the same rows goes ahead."""
        Item.buffered.set(number=9, a=Add(1))
        with pytest.raises(Stop), batch():  # noqa: PT012
            Item.buffered.set(number=1, a=1)
            lost = Item.buffered.set(number=2, a=1)
            with atomic():
                Item.buffered.set(number=1, a=Add(1))
                assert Item.buffered.get(number=1).a == 2
                del trips[:]
            assert trips == [1]
            assert elsewhere(lambda: Item.buffered.get(number=1).a) == 2
            assert lost.where == "held"
            with suppress(Stop), atomic():
                Item.buffered.set(number=2, a=Add(1))
                raise Stop
            assert Item.buffered.get(number=2).a == 1
            raise Stop
        assert lost.where == "discarded"
        assert Item.buffered.get_many([1, 2]).keys() == {1}

    def test_one_inside_a_transaction(self, plain):
        with atomic():
            with batch():
                Item.buffered.set(number=1)
            with suppress(Stop), batch():
                lost = Item.buffered.set(number=2)
                raise Stop
            assert lost.where == "discarded"
            assert Item.buffered.get_many([1, 2]).keys() == {1}
            assert elsewhere(Item.buffered.count_pending) == 0
        assert Item.buffered.count_pending() == 1

    def test_a_request(self, plain, settings, monkeypatch, trips):
        """With ATOMIC_REQUESTS, the transaction is within the batch of the middleware."""
        settings.ROOT_URLCONF = "tests.integration.test_batch"
        settings.MIDDLEWARE = ["writebehind_app.middleware.BatchMiddleware"]
        monkeypatch.setitem(connections[current()].settings_dict, "ATOMIC_REQUESTS", True)
        Item.buffered.set(number=9, a=Add(1))
        Line.buffered.append(text="first")
        client = Client(raise_request_exception=False)
        assert client.get("/fail").status_code == 500
        del trips[:]
        assert client.get("/write").content == b"held held"
        assert trips == [2]
        assert Item.buffered.count_pending() + Line.buffered.count_pending() == 5

    def test_a_flush_is_refused_before_anything_is_sent(self, plain):
        with batch():
            Item.buffered.set(number=1)
            with atomic(), pytest.raises(transaction.TransactionManagementError):
                Item.buffered.flush()
            assert elsewhere(Item.buffered.count_pending) == 0


class TestInATestCase:
    """Its transaction never commits."""

    def run(self, test: Any, **attributes: Any) -> None:
        case = type(
            "Inside", (TestCase,), {"databases": set(connections), "test_it": test, **attributes}
        )
        result = unittest.TestResult()
        unittest.TestSuite([case("test_it")]).run(result)
        assert result.wasSuccessful(), (result.errors, result.failures)

    @each_database
    def test_reads_see_the_write_and_the_next_test_does_not(self, database, redis_server):
        def test_it(self: TestCase) -> None:
            Item.buffered.set(number=1, a=1)
            with atomic():
                Item.buffered.set(number=1, a=Add(1))
                Line.buffered.append(text="x")
            assert Item.buffered.get(number=1).a == 2
            assert Line.buffered.count() == 1
            assert elsewhere(Item.buffered.count_pending) == 0

        self.run(test_it)
        self.run(lambda self: None)
        assert Item.buffered.count_pending() == Line.buffered.count_pending() == 0

    @each_database
    def test_a_flush_brings_it_to_the_database(self, database, redis_server):
        def test_it(self: TestCase) -> None:
            with atomic():
                receipt = Item.buffered.set(number=1, a=1)
            assert Item.buffered.flush().rows == 1
            assert Item.objects.get().a == 1
            assert receipt.where == "stored"
            assert Item.buffered.get(number=1).a == 1

        self.run(test_it)
        assert Item.buffered.count_pending() == 0

    @each_database
    def test_captured_callbacks_send_it(self, database, redis_server):
        def test_it(self: TestCase) -> None:
            before = Item.buffered.set(number=0)
            ahead = Item.buffered.set(number=1, a=5)
            with self.captureOnCommitCallbacks(using=current(), execute=True) as callbacks:
                receipts = [Item.buffered.set(number=1, a=Add(1)) for _ in range(3)]
            assert len(callbacks) == 3
            assert {receipt.where for receipt in receipts} == {"pending"}
            assert (before.where, ahead.where) == ("held", "pending")
            assert Item.buffered.get(number=1).a == 8

        self.run(test_it)
        assert Item.buffered.get(number=1).a == 8


class TestServices:
    def test_those_that_flush_send_what_is_held(self, plain):
        with batch():
            open_ticket(5, subject="s")
            assert resolve_ticket(5, category="c").status == "resolved"
            assert TicketMeta.objects.get().category == "c"

    def test_within_a_transaction(self, plain):
        user = get_user_model().objects.create(username="anna")
        with atomic():
            open_ticket(5)
            record_progress(7, user, {"n": Add(1)}, {"n": Add(1)})
            with pytest.raises(transaction.TransactionManagementError):
                resolve_ticket(5)
            assert ticket(5).status == "open"
            roll_back()
        assert TicketMeta.buffered.count_pending() == LessonMeta.buffered.count_pending() == 0

    def test_an_endpoint_answers_when_it_is_taken(self, plain):
        """Also in a batch() of the request, and whatever ATOMIC_REQUESTS says."""
        from writebehind_app.meta.views import ProgressView

        user = get_user_model().objects.create(username="anna")
        view = ProgressView.as_view()
        assert {*connections} <= view._non_atomic_requests

        def post() -> int:
            body = '{"n": {"$add": 1}}'
            request = RequestFactory().post("/", data=body, content_type="application/json")
            request.user = user
            return view(request, lesson_id=7).status_code

        with batch():
            assert post() == 202
            assert elsewhere(LessonMeta.buffered.count_pending) == 1
            plain.stop()
            assert post() == 503
        plain.start()
