"""save() of a row under another key: what is pending under the old one belongs to the row."""

from __future__ import annotations

import pytest
from django.db import transaction
from django.db.models import F

from tests.backdoor.batches import claim
from tests.backdoor.breaker import stop_asking
from tests.backdoor.calls import round_trips
from tests.backdoor.divisions import know
from tests.backdoor.fences import fences_left
from tests.models import Item, Note, Owner, Pair, Venue
from tests.outages import wait_for_redis
from tests.router import current
from writebehind_app import Add, batch

pytestmark = pytest.mark.usefixtures("database", "redis_server")


@pytest.fixture
def item() -> Item:
    return Item.objects.create(number=1, a=1, b="open", c="x")


def rows() -> dict[int, tuple[int, str, str | None]]:
    """All rows after a flush; what is read before has to be the same."""
    before = {n: (r.a, r.b, r.c) for n, r in Item.buffered.get_many(range(10)).items()}
    assert Item.buffered.flush().dead_letters == 0
    stored = {row.number: (row.a, row.b, row.c) for row in Item.objects.all()}
    assert before == stored
    return stored


class TestRename:
    @pytest.mark.parametrize("update_fields", [None, ["number"]])
    @pytest.mark.parametrize("state", ["pending", "in flight", "committed", "both"])
    def test_what_is_pending_is_the_rows(self, item, update_fields, state):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        sleepers = claim(Item.buffered) if state != "pending" else []
        if state == "committed":
            sleepers[0].commit()
            item.refresh_from_db()
        if state == "both":
            Item.buffered.set(number=1, a=Add(10))
        item.number = 2
        item.save(update_fields=update_fields)
        for sleeper in sleepers:
            sleeper.flush()
        assert rows() == {2: (16 if state == "both" else 6, "waiting", "x")}

    def test_what_the_save_wrote_wins(self, item):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        item.number, item.b = 2, "closed"
        item.save()
        assert rows() == {2: (6, "closed", "x")}

    def test_an_expression_works_on_what_is_pending(self, item):
        Item.buffered.set(number=1, a=10, b="waiting")
        item.number, item.a = 2, F("a") * 2
        item.save()
        assert rows() == {2: (20, "waiting", "x")}

    def test_a_key_that_the_database_works_out(self, item):
        Item.buffered.set(number=1, a=Add(5))
        item.number = F("number") + 2
        item.save()
        assert rows() == {3: (6, "open", "x")}

    def test_what_is_written_after_it_makes_a_new_row(self, item):
        Item.buffered.set(number=1, a=Add(5))
        item.number = 2
        item.save()
        Item.buffered.set(number=1, a=Add(7))
        Item.buffered.set(number=2, a=Add(100))
        assert rows() == {1: (7, "", None), 2: (106, "open", "x")}

    def test_a_row_that_was_to_be_deleted(self, item):
        Item.buffered.delete(number=1)
        item.number = 2
        item.save()
        assert rows() == {2: (1, "open", "x")}

    @pytest.mark.parametrize("pending_of_old", [False, True])
    def test_what_is_pending_under_the_new_key_is_void(self, item, pending_of_old):
        if pending_of_old:
            Item.buffered.set(number=1, b="waiting")
        Item.buffered.set(number=2, a=Add(100), c="z")
        item.number = 2
        item.save()
        assert rows() == {2: (1, "waiting" if pending_of_old else "open", "x")}

    def test_two_that_change_places(self, item):
        other = Item.objects.create(number=2, a=2)
        Item.buffered.set(number=1, a=Add(10))
        Item.buffered.set(number=2, a=Add(100))
        with transaction.atomic(using=current()):
            for row, number in ((item, 3), (other, 1), (item, 2)):
                row.number = number
                row.save(update_fields=["number"])
        assert {n: row[0] for n, row in rows().items()} == {2: 11, 1: 102}

    @pytest.mark.parametrize("way", ["transaction", "batch"])
    def test_what_is_held_back(self, item, way):
        with transaction.atomic(using=current()) if way == "transaction" else batch():
            Item.buffered.set(number=1, a=Add(5), b="waiting")
            item.number, item.b = 2, "closed"
            item.save()
            assert Item.buffered.get(number=2).a == 6
        assert rows() == {2: (6, "closed", "x")}

    def test_a_rollback(self, item):
        Item.buffered.set(number=1, a=Add(5))
        try:
            with transaction.atomic(using=current()):
                item.number = 2
                item.save()
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        assert rows() == {1: (6, "open", "x")}

    def test_what_the_database_refuses_waits_for_its_flusher(self, item):
        owner = Owner.objects.create(name="o")
        Pair.objects.create(owner=owner, name="taken", note="n")
        pair = Pair.objects.create(owner=owner, name="p", value=1)
        Pair.buffered.set(owner=owner, name="p", note="n", value=7)
        pair.name = "q"
        pair.save()
        assert Pair.objects.get(name="q").value == 1
        assert Pair.buffered.flush().dead_letters == 1

    def test_without_redis_it_stays_under_the_old_key(self, item):
        Item.buffered.set(number=1, a=Add(5))
        stop_asking()
        item.number = 2
        item.save()
        wait_for_redis()
        assert rows() == {1: (5, "", None), 2: (1, "open", "x")}

    def test_a_meta_key(self):
        owner = Owner.objects.create(name="o")
        note = Note.objects.create(page="p", owner=owner, key="k", value=1)
        mapping = Note.buffered.of(page="p", owner=owner)
        mapping.update(k=Add(5), other=3)
        note.key = "new"
        note.save()
        assert dict(mapping) == {"new": 6, "other": 3}
        mapping.flush()
        assert {n.key: n.value for n in Note.objects.all()} == {"new": 6, "other": 3}

    def test_another_entity(self):
        owner = Owner.objects.create(name="o")
        note = Note.objects.create(page="p", owner=owner, key="k", value=1)
        Note.buffered.of(page="p", owner=owner).update(k=Add(5), other=3)
        note.page = "q"
        note.save()
        Note.buffered.flush()
        assert {(n.page, n.key): n.value for n in Note.objects.all()} == {
            ("q", "k"): 6,
            ("p", "other"): 3,
        }


class TestOtherKeyInMemory:
    """The instance has another key, and its save does not write it."""

    @pytest.mark.parametrize("pending_of_other", [False, True])
    def test_the_row_keeps_its_key(self, item, pending_of_other):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        if pending_of_other:
            Item.buffered.set(number=2, a=9, b="other")
        item.number, item.b = 2, "closed"
        item.save(update_fields=["b"])
        expected = {1: (6, "closed", "x")}
        assert rows() == expected | ({2: (9, "other", None)} if pending_of_other else {})

    def test_an_expression(self, item):
        Item.buffered.set(number=1, a=10)
        Item.buffered.set(number=2, a=Add(1))
        item.number, item.a = 2, F("a") * 2
        item.save(update_fields=["a"])
        assert {n: row[0] for n, row in rows().items()} == {1: 20, 2: 1}

    @pytest.mark.parametrize("write", ["save", "delete"])
    def test_a_row_that_was_loaded_without_its_key(self, item, write):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        row = Item.objects.only("b").get()
        row.b = "closed"
        if write == "save":
            row.save()
            assert rows() == {1: (6, "closed", "x")}
        else:
            Item.objects.only("b").delete()
            assert rows() == {}


class TestCost:
    def test_a_new_row_with_a_primary_key(self, monkeypatch, django_assert_num_queries, database):
        know(Item.buffered)
        trips = round_trips(monkeypatch)
        with django_assert_num_queries(3, using=database):  # UPDATE, its key, INSERT
            Item(pk=77, number=1).save()
        assert trips == [1]

    def test_a_key_that_is_the_primary_key_is_not_looked_for(
        self, django_assert_num_queries, database
    ):
        venue = Venue.objects.create(slug="v")
        with django_assert_num_queries(1, using=database):
            venue.save()

    def test_with_nothing_pending_no_fence_is_left(self, item, monkeypatch):
        trips = round_trips(monkeypatch)
        item.number = 2
        item.save()
        assert trips == [1, 1]
        assert fences_left() == 0
