"""`buffered.save(instance)`: as Model.save(), through the buffer."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import FieldError, ValidationError
from django.db import transaction
from django.db.models import F
from django.db.models.signals import pre_save

from tests.models import Article, Item, Note, Owner, Pair, Stamp
from tests.router import current
from writebehind_app import Add, batch

pytestmark = pytest.mark.usefixtures("database", "redis_server")


@pytest.fixture
def item() -> Item:
    return Item.objects.create(number=1, a=1, b="open", c="x")


def stored() -> Item:
    assert Item.buffered.flush().dead_letters == 0
    return Item.objects.get(number=1)


class TestSave:
    def test_all_buffered_fields(self, item):
        item.a, item.b = 5, "closed"
        receipt = Item.buffered.save(item)
        assert receipt.where == "pending"
        assert Item.objects.get(number=1).b == "open"
        assert (stored().a, stored().b) == (5, "closed")

    def test_it_is_as_late_as_any_write(self, item):
        Item.buffered.set(number=1, a=7, b="waiting")
        item.a = 5
        Item.buffered.save(item)
        Item.buffered.set(number=1, a=Add(1))
        assert (stored().a, stored().b) == (6, "open")

    @pytest.mark.parametrize("kind", [list, tuple, iter])
    def test_the_named_fields(self, item, kind):
        Item.buffered.set(number=1, a=7)
        item.a, item.b = 5, "closed"
        Item.buffered.save(item, update_fields=kind(["b", "number"]))
        assert (stored().a, stored().b) == (7, "closed")

    def test_a_field_by_its_column(self):
        article = Article(number=1, owner=Owner.objects.create(name="o"))
        other = Owner.objects.create(name="p")
        article.owner = other
        Article.buffered.save(article, ["owner_id"])
        assert Article.buffered.get(number=1).owner_id == other.pk

    def test_no_field(self, item):
        assert Item.buffered.save(item, update_fields=[]).where == "stored"
        assert Item.buffered.count_pending() == 0

    def test_what_was_not_loaded_is_not_written(self, item):
        Item.buffered.set(number=1, b="waiting")
        row = Item.objects.defer("b", "number").get()
        row.a = 5
        Item.buffered.save(row)
        assert (stored().a, stored().b) == (5, "waiting")

    def test_a_named_field_that_was_not_loaded(self, item):
        Item.buffered.set(number=1, b="waiting")
        Item.buffered.save(Item.objects.only("a").get(), ["b"])
        assert stored().b == "open"

    def test_times_are_set_as_by_any_write(self, item):
        before = item.updated_at
        Item.buffered.save(item)
        row = stored()
        assert row.updated_at > before
        assert row.created_at == item.created_at

    def test_a_row_that_is_not_stored_is_made(self):
        Item.buffered.save(Item(number=1, b="new"))
        assert stored().b == "new"

    def test_or_not(self, item):
        stamp = Stamp.objects.create()
        Stamp.objects.filter(pk=stamp.pk).delete()
        Stamp.buffered.save(stamp)
        Stamp.buffered.flush()
        assert not Stamp.objects.exists()

    def test_a_key_of_several_fields(self):
        owner = Owner.objects.create(name="o")
        Pair.buffered.save(Pair(owner=owner, name="p", value=3))
        Pair.buffered.flush()
        assert Pair.objects.get(owner=owner, name="p").value == 3

    def test_it_is_held_back(self, item):
        item.b = "closed"
        with batch():
            receipt = Item.buffered.save(item)
            assert receipt.where == "held"
        with transaction.atomic(using=current()):
            item.a = 5
            assert Item.buffered.save(item, ["a"]).where == "held"
        assert (stored().a, stored().b) == (5, "closed")

    def test_once(self, item):
        for _ in range(2):
            item.a += 1
            Item.buffered.save(item, once="this")
        assert stored().a == 2

    def test_no_signal_is_sent(self, item):
        sent: list[object] = []

        def receive(**kwargs: object) -> None:
            sent.append(kwargs)

        pre_save.connect(receive, sender=Item)
        try:
            Item.buffered.save(item)
        finally:
            pre_save.disconnect(receive, sender=Item)
        assert not sent

    @pytest.mark.parametrize("names", [None, ["b"]])
    def test_on_an_event_loop(self, item, names):
        item.a, item.b = 5, "closed"
        receipt = async_to_sync(Item.buffered.asave)(item, update_fields=names)
        assert receipt.where == "pending"
        assert (stored().a, stored().b) == (1 if names else 5, "closed")

    def test_one_that_was_loaded_in_part_on_an_event_loop(self, item):
        row = Item.objects.only("a").get()
        row.a = 5
        async_to_sync(Item.buffered.asave)(row)
        assert stored().a == 5


class TestRefusals:
    def test_an_expression(self, item):
        item.a = F("a") + 1
        with pytest.raises(ValidationError, match=r"operation such as Add\(1\)"):
            Item.buffered.save(item)
        with pytest.raises(ValidationError, match=r"operation such as Add\(1\)"):
            Item.buffered.save(item, update_fields=["a"])
        Item.buffered.save(item, update_fields=["b"])

    @pytest.mark.parametrize("row", [Item(a=1), Stamp(count=1)], ids=["key", "pk"])
    def test_an_instance_without_a_key(self, row):
        with pytest.raises(ValidationError, match=r"has no (number|id), by which .* names its row"):
            type(row).buffered.save(row)
        with pytest.raises(ValidationError, match=r"has no (number|id), by which"):
            async_to_sync(type(row).buffered.asave)(row)

    def test_fields_that_are_not_buffered(self, item):
        with pytest.raises(FieldError, match="no buffered field 'created_at', 'bb'; the key is"):
            Item.buffered.save(item, update_fields=["b", "created_at", "bb"])
        assert Item.buffered.count_pending() == 0

    def test_an_instance_of_another_model(self):
        with pytest.raises(TypeError, match=r"is not a tests\.Item"):
            Item.buffered.save(Note())
        with pytest.raises(TypeError, match=r"is not a tests\.Item"):
            async_to_sync(Item.buffered.asave)(5)
