"""Where autocommit is off, a flush cannot commit: it is refused before it claims anything.

So is a write that would wait for a commit of which Django does not tell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections, transaction
from django.db.transaction import TransactionManagementError

from tests.backdoor.batches import claim_and_die
from tests.models import Item, Owner, Visit
from writebehind_app import Add, batch, tasks
from writebehind_app.models import AppliedBatch

OFF = r"autocommit is off for the database '\w+': call transaction\.set_autocommit\(True"


@pytest.fixture
def manual(database: str, redis_server: object) -> Iterator[str]:
    """Autocommit is off, until the end of the test."""
    transaction.set_autocommit(False, using=database)
    yield database
    transaction.rollback(using=database)
    transaction.set_autocommit(True, using=database)


@pytest.fixture
def hundred(manual: str, configure: Callable[..., None]) -> None:
    configure(MAX_AGE=0)
    Item.buffered.set_many({"number": n, "a": n} for n in range(100))


def nothing_is_lost(database: str) -> None:
    """All are pending still, and stored once autocommit is on."""
    transaction.rollback(using=database)
    assert Item.buffered.pending(limit=1)[0].state == "pending"
    assert Item.buffered.count_pending() == 100
    assert (Item.objects.count(), AppliedBatch.objects.count()) == (0, 0)
    transaction.rollback(using=database)
    transaction.set_autocommit(True, using=database)
    assert Item.buffered.flush().rows == 100
    assert Item.objects.count() == 100


def test_flush(manual, hundred):
    for flush in (Item.buffered.flush, lambda: Item.buffered.flush(number=1)):
        with pytest.raises(TransactionManagementError, match=OFF):
            flush()
    nothing_is_lost(manual)


@pytest.mark.parametrize("arguments", [[], ["--loop", "--max-time", "5"]])
def test_the_command(manual, hundred, arguments):
    with pytest.raises(CommandError, match=OFF) as error:
        call_command("flush_writebehind", "--all", *arguments)
    assert error.value.returncode == 1
    nothing_is_lost(manual)


@pytest.mark.parametrize("seconds", [0, 5])
def test_the_tasks(manual, hundred, seconds):
    with pytest.raises(TransactionManagementError, match=OFF):
        tasks.flush_due(seconds=seconds)
    with pytest.raises(TransactionManagementError, match=OFF):
        tasks.flush_entry("tests.Item", "1")
    nothing_is_lost(manual)


def test_by_the_settings(database, redis_server, monkeypatch):
    """Before the database is asked for the first time, too."""
    Item.buffered.set(number=1)
    connection = connections[database]
    connection.close()
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "AUTOCOMMIT", False)
        for _ in range(2):
            with pytest.raises(TransactionManagementError, match=OFF):
                Item.buffered.flush()
            connection.ensure_connection()
        connection.close()
    assert Item.buffered.flush().rows == 1


def test_within_atomic_it_is_refused_as_well(manual):
    Item.buffered.set(number=1)
    with (
        transaction.atomic(using=manual),
        pytest.raises(TransactionManagementError, match=r"outside of transaction\.atomic"),
    ):
        Item.buffered.flush()
    assert Item.buffered.pending()[0].state == "pending"


def test_a_discard_of_what_a_flusher_has_left_throws_nothing_away(database, redis_server):
    """A discard enters the batch of such a flusher into the ledger, and has to commit that."""
    Item.buffered.set(number=1)
    claim_and_die(Item.buffered)
    Item.buffered.set_many({"number": n} for n in range(2, 10))
    with transaction.atomic(using=database):
        Item.buffered.set(number=10)
        for call in (Item.buffered.discard, lambda: Item.buffered.discard(number=1)):
            with pytest.raises(TransactionManagementError, match=r"^discard\(\) .* outside of tr"):
                call()
        assert Item.buffered.count_pending() == 10
    transaction.set_autocommit(False, using=database)
    with pytest.raises(TransactionManagementError, match=OFF):
        Item.buffered.discard()
    transaction.set_autocommit(True, using=database)
    assert Item.buffered.count_pending() == 10
    assert Item.buffered.discard() == 10


def test_a_discard_of_what_is_pending_needs_no_transaction(manual):
    Item.buffered.set_many({"number": n} for n in range(10))
    assert Item.buffered.discard(number=1) == 1
    assert Item.buffered.discard() == 9


class TestWritesInsideAtomic:
    """Django would not say when the project commits them."""

    @pytest.mark.parametrize(
        "write",
        [
            lambda: Item.buffered.set(number=1),
            lambda: Item.buffered.create(number=1, once="call"),
            lambda: Visit.buffered.append(event=1, email="a@b.c"),
        ],
        ids=["set", "create", "append"],
    )
    @pytest.mark.parametrize("outer", [nullcontext, batch], ids=["alone", "in a batch"])
    def test_are_refused(self, manual, outer, write):
        with (
            outer(),
            transaction.atomic(using=manual),
            pytest.raises(TransactionManagementError, match=OFF),
        ):
            write()
        assert (Item.buffered.count_pending(), Visit.buffered.count_pending()) == (0, 0)

    def test_go_at_once_with_the_option(self, manual, configure):
        configure(ON_COMMIT=False)
        with transaction.atomic(using=manual):
            assert Item.buffered.set(number=1).where == "pending"

    def test_outside_they_are_sent_at_once(self, manual):
        with transaction.atomic(using=manual):
            pass
        assert Item.buffered.set(number=1).where == "pending"

    def test_are_held_once_autocommit_is_on(self, manual):
        with transaction.atomic(using=manual):
            pass
        transaction.commit(using=manual)
        transaction.set_autocommit(True, using=manual)
        with transaction.atomic(using=manual):
            receipt = Item.buffered.set(number=1)
            assert receipt.where == "held"
        assert receipt.where == "pending"
        transaction.set_autocommit(False, using=manual)

    def test_a_test_case_of_django_holds_what_is_outside_of_them(self, manual):
        """What the project writes inside its own atomic() is refused there as well."""
        test_case = transaction.atomic(using=manual)
        test_case._from_testcase = True
        with test_case:
            assert Item.buffered.set(number=1).where == "held"
            with (
                transaction.atomic(using=manual),
                pytest.raises(TransactionManagementError, match=OFF),
            ):
                Item.buffered.set(number=2)


class TestDirectWrites:
    """They are part of the transaction of the caller, who commits."""

    @pytest.fixture(autouse=True)
    def direct(self, configure):
        configure(MODE="direct")

    def test_go_with_a_rollback_and_stay_with_a_commit(self, manual):
        Owner.objects.create(name="gone")
        Item.buffered.set(number=1, a=Add(1))
        transaction.rollback(using=manual)
        Owner.objects.create(name="stays")
        Item.buffered.create(number=2)
        transaction.commit(using=manual)
        assert list(Owner.objects.values_list("name", flat=True)) == ["stays"]
        assert list(Item.objects.values_list("number", flat=True)) == [2]

    def test_a_deadlock_is_told(self, manual):
        """MariaDB has rolled back all that the caller did before: to try again would hide that."""
        if connections[manual].vendor != "mysql":  # the others keep what was before the savepoint
            return
        Item.objects.bulk_create(Item(number=n) for n in range(200))
        transaction.commit(using=manual)
        is_locked = threading.Event()

        def other() -> None:
            try:
                with transaction.atomic(using=manual):
                    Item.objects.exclude(number=0).update(a=1)  # so much that it is no victim
                    is_locked.set()
                    Item.objects.filter(number=0).update(a=1)
            finally:
                connections.close_all()

        Owner.objects.create(name="before")
        Item.objects.filter(number=0).update(a=2)
        thread = threading.Thread(target=other)
        thread.start()
        is_locked.wait()
        with pytest.raises(OperationalError, match="Deadlock"):
            Item.buffered.set(number=1, a=2)
        thread.join()
        transaction.rollback(using=manual)
        assert not Owner.objects.exists()
