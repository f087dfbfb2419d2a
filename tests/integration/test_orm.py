"""A buffered model goes on being a Django model: save() and delete() are writes like any other, and
later than what was accepted before them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.core import serializers
from django.db import DatabaseError, IntegrityError, connections, models, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat
from django.db.models.signals import post_save, pre_delete, pre_save
from django.utils import timezone

from tests.backdoor import clock
from tests.backdoor.batches import claim
from tests.backdoor.breaker import stop_asking
from tests.backdoor.calls import round_trips
from tests.backdoor.fences import fences_left
from tests.backdoor.shards import begin_numbers_at
from tests.elsewhere import elsewhere
from tests.models import Article, Counter, Item, Note, Owner, Pair, Seat, Setting, Stamp, Strict
from tests.outages import wait_for_redis
from tests.router import current
from writebehind_app import Add, Max, Merge, RowBuffer, batch, register, registry
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.exceptions import Overtaken

pytestmark = pytest.mark.usefixtures("database", "redis_server")


class SavedItem(Item):
    class Meta:
        proxy = True
        app_label = "tests"


def atomic() -> transaction.Atomic:
    return transaction.atomic(using=current())


class Rollback(Exception):
    pass


@contextmanager
def rolled_back() -> Iterator[None]:
    with suppress(Rollback), atomic():
        yield
        raise Rollback


@pytest.fixture
def item() -> Item:
    return Item.objects.create(number=1, a=1, b="open", c="x")


def flushed(buffer=Item.buffered, **key):
    """The row after a flush; a read before it has to say the same."""
    before = buffer.get(**key or {"number": 1})
    assert buffer.flush().dead_letters == 0
    row = buffer.model.objects.get(**key or {"number": 1})
    seen, stored = (
        {f.attname: getattr(each, f.attname) for f in each._meta.concrete_fields}
        for each in (before, row)
    )
    unknown = {"updated_at", "id"} if before.pk is None else {"updated_at"}
    assert {name for name in seen if seen[name] != stored[name]} <= unknown
    return row


class TestSave:
    @pytest.mark.parametrize("update_fields", [None, ["b"]])
    def test_what_was_pending_does_not_come_over_it(self, item, update_fields):
        Item.buffered.set(number=1, b="waiting")
        item.b = "closed"
        item.save(update_fields=update_fields)
        assert Item.buffered.get(number=1).b == "closed"
        assert flushed().b == "closed"

    def test_what_is_in_flight_does_not_come_over_it(self, item):
        Item.buffered.set(number=1, b="waiting")
        (sleeper,) = claim(Item.buffered)
        item.b = "closed"
        item.save()
        assert Item.buffered.get(number=1).b == "closed"
        sleeper.flush()
        assert flushed().b == "closed"

    def test_what_is_written_after_it_counts(self, item):
        Item.buffered.set(number=1, b="waiting", a=Add(1))
        item.b = "closed"
        item.a = 10
        item.save()
        Item.buffered.set(number=1, b="open", a=Add(5))
        row = flushed()
        assert (row.b, row.a) == ("open", 15)

    def test_a_sum_that_was_pending_before_it_is_void_and_a_later_one_counts(self, item):
        Item.buffered.set(number=1, a=Add(100))
        item.a = 10
        item.save()
        Item.buffered.set(number=1, a=Add(5))
        Item.buffered.set(number=1, a=Add(5))
        assert flushed().a == 20

    def test_keys_that_were_merged_before_it_are_void_and_later_ones_count(self):
        row = Counter.objects.create(name="n", extra={})
        Counter.buffered.set(name="n", extra=Merge({"a": 1}))
        row.extra = {"b": 2}
        row.save()
        Counter.buffered.set(name="n", extra=Merge({"c": 3}))
        assert flushed(Counter.buffered, name="n").extra == {"b": 2, "c": 3}

    def test_a_full_save_leaves_alone_what_it_did_not_change(self, item):
        Item.buffered.set(number=1, b="waiting", a=Add(1))
        item.c = "subject"
        item.save()
        row = flushed()
        assert (row.a, row.b, row.c) == (2, "waiting", "subject")

    def test_named_fields_were_written_even_if_they_are_as_stored(self, item):
        Item.buffered.set(number=1, b="waiting")
        item.save(update_fields=["b"])
        assert flushed().b == "open"

    def test_a_row_without_some_fields_is_saved_in_full(self, item):
        Item.buffered.set(number=1, b="waiting")
        partly = Item.objects.defer("d").get(number=1)
        partly.c = "subject"
        partly.save()
        assert flushed().b == "waiting"

    def test_a_row_without_some_fields_that_was_to_be_made_anew(self):
        """The save does not make it: it leaves alone what it did not load."""
        owner = Owner.objects.create(name="anna")
        values = {"slug": "a", "low": 10, "owner": owner}
        Article.objects.create(number=1, body="old", **values)
        Article.buffered.delete(number=1)
        Article.buffered.set(number=1, body="new", **values)
        partly = Article.objects.defer("body").get(number=1)
        partly.likes = 1
        partly.save()
        assert Article.buffered.flush().dead_letters == 0
        row = Article.objects.get()
        assert (row.body, row.likes) == ("new", 1)

    def test_a_row_without_some_fields_that_refers_to_another_is_saved_in_full(self):
        """And it has a field that the database computes."""
        owner = Owner.objects.create(name="anna")
        Article.objects.create(number=1, slug="a", body="long", low=10, owner=owner)
        Article.buffered.set(number=1, slug="waiting", views=Add(7))
        for without in ("body", "span"):
            partly = Article.objects.defer(without).get(number=1)
            partly.likes += 1
            partly.save()
        row = flushed(Article.buffered)
        assert (row.slug, row.views, row.likes) == ("waiting", 7, 2)

    @pytest.mark.parametrize("stored", [1.5, 10**15 + 0.3])
    @pytest.mark.parametrize("json", [None, {"b": [1, True], "a": None}])
    def test_any_value_is_known_again_that_was_not_changed(self, stored, json):
        Counter.objects.create(name="n", real=stored, extra=json, decimal="1.50")
        Counter.buffered.set(name="n", real=2.0, extra=Merge({"c": 1}), decimal=Add(1))
        row = Counter.objects.get(name="n")
        row.small = 5
        row.save()
        row = flushed(Counter.buffered, name="n")
        assert (row.small, row.real, row.extra["c"], row.decimal) == (5, 2.0, 1, 2.5)

    def test_a_new_row_is_later_than_all_that_was_pending(self):
        Item.buffered.set(number=1, b="waiting", c="x", a=Add(1))
        Item.objects.create(number=1, a=5)
        row = flushed()
        assert (row.a, row.b, row.c) == (5, "", None)

    def test_a_row_that_was_to_be_deleted_is_saved_anew(self, item):
        Item.buffered.delete(number=1)
        item.c = "y"
        item.save()
        row = flushed()
        assert (row.a, row.b, row.c) == (1, "open", "y")

    @pytest.mark.parametrize("twice", [False, True])
    def test_saves_one_after_the_other(self, item, twice):
        Item.buffered.set(number=1, b="1", c="1")
        item.b = "2"
        item.save(update_fields=["b"])
        if twice:
            Item.buffered.set(number=1, b="3")
        item.c = "4"
        item.save(update_fields=["c"])
        row = flushed()
        assert (row.b, row.c) == ("3" if twice else "2", "4")

    def test_a_proxy(self, item):
        Item.buffered.set(number=1, b="waiting")
        row = SavedItem.objects.get(number=1)
        row.b = "closed"
        row.save()
        assert flushed().b == "closed"

    def test_asave(self, item):
        async def story() -> None:
            await Item.buffered.aset(number=1, b="waiting")
            item.b = "closed"
            await item.asave()
            assert (await Item.buffered.aget(number=1)).b == "closed"

        async_to_sync(story)()
        assert flushed().b == "closed"

    def test_update_or_create(self, item):
        Item.buffered.set(number=1, b="waiting", c="y")
        Item.objects.update_or_create(number=1, defaults={"b": "closed"})
        row = flushed()
        assert (row.b, row.c) == ("closed", "y")

    def test_a_key_of_several_fields(self):
        owner = Owner.objects.create(name="o")
        pair = Pair.objects.create(owner=owner, name="p", value=1)
        Pair.buffered.set(owner=owner, name="p", value=2)
        pair.value = 3
        pair.save()
        assert flushed(Pair.buffered, owner=owner, name="p").value == 3

    def test_a_row_named_by_its_primary_key(self):
        stamp = Stamp.objects.create()
        Stamp.buffered.set(pk=stamp.pk, count=Add(5))
        stamp.count = 2
        stamp.save()
        assert flushed(Stamp.buffered, pk=stamp.pk).count == 2

    def test_one_that_fails_leaves_nothing(self, item):
        Item.objects.create(number=2)
        Item.buffered.set(number=1, b="waiting")
        Item.buffered.set(number=2, b="waiting")
        with pytest.raises(IntegrityError):
            Item(pk=item.pk, number=2, b="closed").save(force_insert=True)
        assert Item.buffered.get(number=2).b == "waiting"
        assert flushed().b == "waiting"

    def test_a_fixture_is_loaded_past_it(self, item):
        item.b = "closed"
        text = serializers.serialize("json", [item])
        Item.buffered.set(number=1, b="waiting")
        for each in serializers.deserialize("json", text):
            each.save()
        assert flushed().b == "waiting"


class TestMeta:
    """Rows of metadata: what is pending is of the entity."""

    @pytest.fixture
    def note(self) -> Note:
        owner = Owner.objects.create(name="o")
        return Note.objects.create(page="p", owner=owner, key="k", value=1)

    def stored(self, note: Note) -> dict[str, object]:
        mapping = Note.buffered.of(page="p", owner=note.owner)
        before = dict(mapping)
        assert mapping.flush().dead_letters == 0
        assert dict(mapping) == before
        assert {n.key: n.value for n in Note.objects.all()} == before
        return before

    def test_a_save_of_a_meta_key(self, note):
        Note.buffered.of(page="p", owner=note.owner).update(k=2, other=3)
        note.value = 4
        note.save()
        Note.buffered.of(page="p", owner=note.owner).update(k=Add(1))
        assert self.stored(note) == {"k": 5, "other": 3}

    def test_a_meta_key_that_was_to_be_deleted(self, note):
        del Note.buffered.of(page="p", owner=note.owner)["k"]
        note.save()
        assert self.stored(note) == {"k": 1}

    def test_what_is_pending_of_another_meta_key_is_no_matter(self, note):
        Note.buffered.of(page="p", owner=note.owner)["other"] = 3
        note.save()
        assert fences_left() == 0

    @pytest.mark.parametrize("held", [False, True])
    def test_a_delete(self, note, held):
        with batch() if held else nullcontext():
            Note.buffered.of(page="p", owner=note.owner).update(k=2, other=3)
            note.delete()
        assert self.stored(note) == {"other": 3}

    def test_what_is_held_of_it(self, note):
        with atomic():
            Note.buffered.of(page="p", owner=note.owner).update(k=Merge({"a": 1}), other=3)
            note.value = 4
            note.save()
        assert self.stored(note) == {"k": 4, "other": 3}


class TestDelete:
    @pytest.mark.parametrize("claimed", [False, True])
    @pytest.mark.parametrize("of", ["row", "queryset", "proxy"])
    def test_what_was_pending_does_not_make_the_row_anew(self, item, claimed, of):
        Item.objects.create(number=2)
        Item.buffered.set_many([{"number": 1, "b": "waiting"}, {"number": 2, "a": Add(1)}])
        sleepers = claim(Item.buffered) if claimed else []
        if of == "row":
            for row in Item.objects.all():
                row.delete()
        else:
            {"queryset": Item, "proxy": SavedItem}[of].objects.all().delete()
        for sleeper in sleepers:
            sleeper.flush()
        Item.buffered.flush()
        assert not Item.objects.exists()

    def test_what_is_written_after_it_makes_a_new_row(self, item):
        Item.buffered.set(number=1, a=Add(1), c="y")
        item.delete()
        Item.buffered.set(number=1, a=Add(10))
        row = flushed()
        assert (row.a, row.b, row.c) == (10, "", None)

    def test_it_cascades(self):
        owner = Owner.objects.create(name="o")
        Pair.objects.create(owner=owner, name="p", value=1)
        Pair.buffered.set(owner=owner, name="p", value=2)
        owner.delete()
        assert Pair.buffered.flush().dead_letters == 0
        assert not Pair.objects.exists()

    def test_many_rows_are_one_look(self, monkeypatch):
        Item.objects.bulk_create([Item(number=n) for n in range(150)])
        Item.buffered.set_many([{"number": n, "b": "x"} for n in range(100, 300)])
        trips = round_trips(monkeypatch)
        Item.objects.all().delete()
        assert trips == [1]
        assert fences_left() == 50
        Item.buffered.flush()
        assert set(Item.objects.values_list("number", flat=True)) == {*range(150, 300)}

    def test_of_many_rows_those_are_looked_at_of_which_something_is_pending(self, monkeypatch):
        Item.objects.bulk_create([Item(number=n) for n in range(450)])
        Item.buffered.set_many([{"number": n, "b": "x"} for n in (1, 449)])
        trips = round_trips(monkeypatch)
        Item.objects.all().delete()
        assert trips == [1, 1]
        Item.buffered.flush()
        assert not Item.objects.exists()

    def test_a_signal_that_somebody_sends_alone(self, item):
        Item.buffered.set(number=1, b="waiting")
        pre_delete.send(Item, instance=item, using=current(), origin=item)
        Item.objects.all()._raw_delete(current())
        Item.buffered.flush()
        assert not Item.objects.exists()

    def test_one_that_is_rolled_back_leaves_nothing(self, item):
        Item.buffered.set(number=1, b="waiting")
        with rolled_back():
            item.delete()
        assert flushed().b == "waiting"


class TestTransactions:
    def test_a_rollback_leaves_nothing(self, item):
        Item.buffered.set(number=1, b="waiting", a=Add(1))
        with rolled_back():
            item.b, item.a = "closed", 5
            item.save()
        Item.buffered.set(number=1, a=Add(1))
        assert fences_left() == 0
        row = flushed()
        assert (row.a, row.b) == (3, "waiting")

    def test_the_rollback_of_a_savepoint_leaves_nothing(self, item):
        Item.buffered.set(number=1, b="waiting")
        with atomic():
            with rolled_back():
                item.b = "closed"
                item.save()
            item.c = "y"
            item.save(update_fields=["c"])
        row = flushed()
        assert (row.b, row.c) == ("waiting", "y")

    @pytest.mark.parametrize("full", [False, True])
    def test_what_the_transaction_held_back_goes(self, item, full):
        with atomic():
            receipt = Item.buffered.set(number=1, b="waiting")
            other = Item.buffered.set(number=1, b="waiting", c="y")
            item.b = "closed"
            item.save(update_fields=None if full else ["b"])
            assert Item.buffered.get(number=1).b == "closed"
            assert Item.buffered.count_pending() == 1
            Item.buffered.set(number=1, a=9)
        assert (receipt.where, other.where) == ("discarded", "pending")
        row = flushed()
        assert (row.a, row.b, row.c) == (9, "closed", "y")

    @pytest.mark.parametrize("block", [lambda: atomic(), batch], ids=["atomic", "batch"])
    @pytest.mark.parametrize("full", [False, True], ids=["some", "full"])
    @pytest.mark.parametrize(
        "write",
        [
            lambda: Item.buffered.set(number=1, b="earlier", d=7, once="name"),
            lambda: Item.buffered.set_many([{"number": 1, "b": "earlier", "d": 7}], once="name"),
            lambda: Item.buffered.set_if({"b": "open"}, number=1, b="earlier", d=7),
            lambda: Item.buffered.set_if(lambda row: row.b == "open", number=1, b="earlier", d=7),
        ],
        ids=["set", "set_many", "set_if", "set_if by a function"],
    )
    def test_of_a_call_that_is_sent_alone(self, item, write, full, block):
        with block():
            write()
            item.b = "later"
            item.save(update_fields=None if full else ["b"])
            row = Item.buffered.get(number=1)
            assert (row.b, row.d) == ("later", 7)
        row = flushed()
        assert (row.b, row.d) == ("later", 7)

    @pytest.mark.parametrize("block", [lambda: atomic(), batch], ids=["atomic", "batch"])
    def test_a_name_is_remembered_if_nothing_is_left_of_its_call(self, item, block):
        def call() -> Receipt:
            return Item.buffered.set(number=1, b="earlier", once="name")

        with block():
            receipt = call()
            assert Item.buffered.set_if({"b": "earlier"}, number=1, b="earlier", once="name")
            item.b = "later"
            item.save()
            call()
            Item.buffered.set_if({"b": "earlier"}, number=1, b="earlier", once="name")
            assert Item.buffered.get(number=1).b == "later"
            Item.buffered.discard(number=7)
        call()
        assert Item.buffered.set_if({"b": "earlier"}, number=1, b="earlier", once="name")
        assert receipt.where == "discarded"
        assert flushed().b == "later"

    def test_what_is_decided_counts_what_others_wrote_meanwhile(self, item):
        def commit() -> None:
            with atomic():
                assert Item.buffered.set_if({"b": "open", "a": 1}, number=1, c="earlier")
                elsewhere(lambda: Item.buffered.set(number=1, a=9))
                item.b = "later"
                item.save(update_fields=["b"])

        with pytest.raises(Overtaken):
            commit()
        row = flushed()
        assert (row.a, row.b, row.c) == (9, "later", "x")

    def test_what_is_decided_is_held_again_after_the_rollback_of_a_savepoint(self, item):
        with atomic():
            assert Item.buffered.set_if({"b": "open"}, number=1, b="earlier")
            with rolled_back():
                item.b = "later"
                item.save()
        assert flushed().b == "earlier"

    def test_a_new_row_that_the_orm_makes(self):
        with atomic():
            Item.buffered.create(number=1, a=5, b="earlier")
            Item(number=1, b="later").save()
        row = flushed()
        assert (row.a, row.b) == (0, "later")

    def test_a_meta_key_that_is_deleted(self):
        for key in "kl":
            Setting.objects.create(site=1, key=key, value=1)
        meta = Setting.buffered.of(site=1)
        with atomic():
            assert meta.pop("k") == 1
            meta.update({"k": 2, "l": 2}, once="name")
            row = Setting.objects.get(key="k")
            row.value = 3
            row.save()
        assert dict(meta) == {"k": 3, "l": 2}
        Setting.buffered.flush()
        assert dict(Setting.objects.values_list("key", "value")) == {"k": 3, "l": 2}

    def test_a_savepoint_is_rolled_back_after_the_save(self, item):
        with atomic():
            Item.buffered.set(number=3)
            receipt = Item.buffered.set(number=1, b="waiting")
            other = Item.buffered.set(number=1, b="waiting", c="y")
            item.b = "closed"
            item.save()
            with rolled_back():
                item.b = "lost"
                item.save()
            with rolled_back():
                Item.objects.create(number=2)
        assert (receipt.where, other.where) == ("discarded", "pending")
        row = flushed()
        assert (row.b, row.c) == ("closed", "y")

    def test_it_is_held_again_after_the_rollback_of_a_savepoint(self, item):
        with atomic():
            receipt = Item.buffered.set(number=1, b="waiting")
            with rolled_back():
                item.b = "closed"
                item.save()
                assert Item.buffered.get(number=1).b == "closed"
            assert Item.buffered.get(number=1).b == "waiting"
        assert receipt.where == "pending"
        assert flushed().b == "waiting"

    @pytest.mark.parametrize("fails", [False, True])
    def test_what_a_batch_held_back_goes_with_the_commit(self, item, fails):
        with batch():
            Item.buffered.set(number=1, b="waiting")
            with rolled_back() if fails else atomic():
                item.b = "closed"
                item.save()
        assert flushed().b == ("waiting" if fails else "closed")

    def test_of_a_batch_in_autocommit(self, item):
        with batch():
            Item.buffered.set(number=1, b="waiting", a=Add(1))
            item.b = "closed"
            item.save()
            Item.buffered.set(number=1, c="y")
        row = flushed()
        assert (row.a, row.b, row.c) == (2, "closed", "y")

    def test_an_expression_works_on_what_was_decided(self, item):
        with atomic():
            assert Item.buffered.set_if({"b": "open"}, number=1, a=10)
            item.a = F("a") + 1
            item.save()
            assert Item.buffered.get(number=1).a == 11
        assert flushed().a == 11

    @pytest.mark.parametrize("pending", [10, Add(9)], ids=str)
    def test_an_expression_works_on_what_is_held(self, item, pending):
        with atomic():
            Item.buffered.set(number=1, a=pending, b="waiting")
            item.a = F("a") + 1
            item.save()
            Item.buffered.set(number=1, a=Add(100))
            assert Item.buffered.get(number=1).a == 111
        row = flushed()
        assert (row.a, row.b) == (111, "waiting")

    @pytest.mark.parametrize("verb", ["set", "once", "set_if"])
    def test_a_delete_drops_what_is_held(self, item, verb):
        with atomic():
            if verb == "set_if":
                assert Item.buffered.set_if({"b": "open"}, number=1, b="waiting")
            else:
                Item.buffered.set(number=1, b="waiting", once="name" if verb == "once" else None)
            item.delete()
        Item.buffered.flush()
        assert not Item.objects.exists()

    def test_a_held_delete_comes_before_the_save(self, item):
        with atomic():
            Item.buffered.delete(number=1)
            item.save()
            assert Item.buffered.get(number=1).b == "open"
        assert flushed().b == "open"

    @pytest.mark.parametrize("block", [lambda: atomic(), batch], ids=["atomic", "batch"])
    def test_a_row_that_is_held_anew_comes_before_the_save(self, item, block):
        with block():
            Item.buffered.delete(number=1)
            Item.buffered.set(number=1, b="new")
            item.c = "later"
            item.save(update_fields=["c"])
            Item.buffered.set(number=1, d=9)
        row = flushed()
        assert (row.b, row.c, row.d) == ("new", "later", 9)

    def test_a_save_of_some_fields_makes_the_row_anew(self, item):
        with atomic():
            Item.buffered.delete(number=1)
            item.c = "later"
            item.save(update_fields=["c"])
        row = flushed()
        assert (row.b, row.c) == ("", "later")

    @pytest.mark.parametrize("commits", [False, True])
    def test_it_is_sent_once_more_only_after_a_commit(self, item, commits, configure):
        configure(ON_COMMIT=False)
        with batch():
            Item.buffered.delete(number=1)
            Item.buffered.set(number=1, b="new")
            with atomic() if commits else rolled_back():
                item.c = "later"
                item.save(update_fields=["c"])
        row = flushed()
        assert (row.b, row.c) == ("new", "later" if commits else None)

    @pytest.mark.parametrize("full", [False, True])
    def test_metadata_that_is_cleared_before_the_save(self, full):
        for key in "kl":
            Setting.objects.create(site=1, key=key, value=1)
        meta = Setting.buffered.of(site=1)
        with atomic():
            meta.clear()
            meta["m"] = 2
            row = Setting.objects.get(key="k")
            row.value = 3
            row.save(update_fields=None if full else ["value"])
        assert dict(meta) == {"k": 3, "m": 2}
        Setting.buffered.flush()
        assert dict(Setting.objects.values_list("key", "value")) == {"k": 3, "m": 2}

    @pytest.mark.parametrize("block", [atomic, batch, nullcontext])
    def test_an_expression_on_a_meta_key_that_is_deleted_and_written(self, block):
        row = Setting.objects.create(site=1, key="k", value=1)
        meta = Setting.buffered.of(site=1)
        with block():
            del meta["k"]
            meta["k"] = 7
            row.value = F("value") * 2
            row.save(update_fields=["value"])
        assert dict(meta) == {"k": 14}
        Setting.buffered.flush()
        assert Setting.objects.values_list("pk", "key", "value").get() == (row.pk, "k", 14)

    def test_in_a_test_case(self, item, django_capture_on_commit_callbacks):
        with atomic(), django_capture_on_commit_callbacks(execute=True):
            Item.buffered.set(number=1, b="waiting", c="y")
            item.b = "closed"
            item.save()
        row = flushed()
        assert (row.b, row.c) == ("closed", "y")

    @pytest.mark.parametrize("direct", [False, True])
    def test_receivers_of_the_save_run_where_django_runs_them(self, item, direct, go):
        go("direct" if direct else "buffered")
        Item.buffered.set(number=1, b="waiting")
        inside: list[bool] = []
        connection = transaction.get_connection(current())

        def receive(**kwargs: object) -> None:
            inside.append(connection.in_atomic_block)

        pre_save.connect(receive, sender=Item)
        post_save.connect(receive, sender=Item)
        try:
            item.save()
        finally:
            pre_save.disconnect(receive, sender=Item)
            post_save.disconnect(receive, sender=Item)
        assert inside == [False, False]

    def test_what_a_receiver_changes_was_written(self, item):
        def receive(instance: Item, **kwargs: object) -> None:
            instance.b = "closed"

        Item.buffered.set(number=1, b="waiting")
        pre_save.connect(receive, sender=Item)
        try:
            item.save()
        finally:
            pre_save.disconnect(receive, sender=Item)
        assert flushed().b == "closed"


class TestWithoutRedis:
    """Redis cannot be asked; what it holds is older all the same."""

    @pytest.fixture(params=["direct", "away"])
    def lose_redis(self, request, go):
        def lose() -> None:
            if request.param == "direct":
                go("direct")
            else:
                stop_asking()

        return lose

    def come_back(self, go) -> None:
        go("buffered")
        wait_for_redis()

    def test_a_save(self, item, lose_redis, go):
        Item.buffered.set(number=1, b="waiting", c="y", a=10)
        lose_redis()
        item.b = "closed"
        item.a = F("a") + 1
        item.save()
        self.come_back(go)
        row = flushed()
        assert (row.a, row.b, row.c) == (11, "closed", "y")

    def test_a_new_row(self, lose_redis, go):
        Item.buffered.delete(number=1)
        lose_redis()
        item = Item.objects.create(number=1, b="open")
        self.come_back(go)
        assert flushed() == item

    def test_a_delete(self, item, lose_redis, go):
        Item.buffered.set(number=1, b="waiting")
        lose_redis()
        item.delete()
        self.come_back(go)
        Item.buffered.flush()
        assert not Item.objects.exists()

    def test_its_number_is_greater_than_any_that_is_known(self, item, lose_redis, go):
        begin_numbers_at(Item.buffered, clock.now() + 60_000_000)
        Item.buffered.set(number=1, b="waiting")
        lose_redis()
        item.b = "closed"
        item.save()
        self.come_back(go)
        assert flushed().b == "closed"


class TestOtherModels:
    def test_a_buffer_may_ignore_the_orm(self, item, monkeypatch):
        monkeypatch.setitem(Item.buffered.options, "ORM", "ignore")
        trips = round_trips(monkeypatch)
        item.save()
        Item.objects.all().delete()
        assert trips == []

    def test_a_log_has_no_rows_to_look_for(self, monkeypatch):
        trips = round_trips(monkeypatch)
        Seat.objects.create(number=1, at=timezone.now()).delete()
        assert trips == []

    def test_a_model_that_is_registered_and_one_that_inherits_from_it(self, item):
        class Parcel(models.Model):
            code = models.CharField(max_length=20, unique=True)
            state = models.CharField(max_length=20)

            class Meta:
                app_label = "tests"

        class Heavy(Parcel):
            weight = models.IntegerField(default=0)

            class Meta:
                app_label = "tests"

        alias = current()
        try:
            register(Parcel, RowBuffer(key="code"), name="behind")
            with connections[alias].schema_editor() as editor:
                editor.create_model(Parcel)
                editor.create_model(Heavy)
            row = Heavy.objects.create(code="a", state="here")
            Parcel.behind.set(code="a", state="on its way")
            row.state = "there"
            row.save()
            assert flushed(Parcel.behind, code="a").state == "there"
            Parcel.behind.set(code="a", state="on its way")
            row.delete()
            Parcel.behind.flush()
            assert not Parcel.objects.exists()
        finally:
            registry.remove(Parcel.behind)
            with connections[alias].schema_editor() as editor:
                editor.delete_model(Heavy)
                editor.delete_model(Parcel)
            for model in (Parcel, Heavy):
                del apps.all_models["tests"][model._meta.model_name]
            apps.clear_cache()


class TestExpressions:
    @pytest.mark.parametrize(
        ("pending", "expected"), [(10, 11), (Add(10), 12), (Max(10), 11)], ids=str
    )
    def test_a_sum_is_added_to_what_is_pending(self, item, pending, expected):
        Item.buffered.set(number=1, a=pending)
        item.a = F("a") + 1
        item.save()
        row = flushed()
        assert (row.a, row.b) == (expected, "open")

    @pytest.mark.parametrize("update_fields", [None, ["a"]])
    @pytest.mark.parametrize("claimed", [False, True])
    def test_a_difference(self, item, claimed, update_fields):
        Item.buffered.set(number=1, a=10)
        sleepers = claim(Item.buffered) if claimed else []
        item.a = F("a") - 3
        item.save(update_fields=update_fields)
        Item.buffered.set(number=1, a=Add(100))
        for sleeper in sleepers:
            sleeper.flush()
        assert flushed().a == 107

    @pytest.mark.parametrize("applied", ["", "claimed", "committed"])
    @pytest.mark.parametrize("pending", [10, Add(9)], ids=str)
    def test_before_any_other_what_is_pending_is_stored(self, item, pending, applied):
        Item.buffered.set(number=1, a=pending, b="waiting", c="y")
        sleepers = claim(Item.buffered) if applied else []
        if applied == "committed":
            sleepers[0].commit()
        Item.buffered.set(number=1, a=Add(1))
        item.refresh_from_db()
        item.b = Concat(F("b"), Value("!"))
        item.d = F("a") * 2
        item.save(update_fields=["b", "d"])
        Item.buffered.set(number=1, a=Add(1))
        for sleeper in sleepers:
            sleeper.flush()
        row = flushed()
        assert (row.a, row.b, row.c, row.d) == (12, "waiting!", "y", 22)

    @pytest.mark.parametrize("update_fields", [None, ["a"]])
    @pytest.mark.parametrize("expression", [F("a") + 1, F("a") * 2 - 9], ids=["sum", "other"])
    @pytest.mark.parametrize("held", [False, True])
    def test_a_row_that_is_deleted_and_made_anew(self, item, update_fields, expression, held):
        Item.buffered.delete(number=1)
        with atomic() if held else nullcontext():
            Item.buffered.set(number=1, a=Max(10), b="open")
            item.a = expression
            item.save(update_fields=update_fields)
            assert Item.objects.get(pk=item.pk).a == 11
        row = flushed()
        assert (row.pk, row.a) == (item.pk, 11)
        assert row.c == ("x" if update_fields is None else None)

    def test_a_row_that_is_deleted(self, item):
        Item.buffered.delete(number=1)
        item.a = F("a") * 2
        with pytest.raises(DatabaseError, match="did not affect any rows"):
            item.save(update_fields=["a"])
        assert Item.buffered.get_many([1]) == {}
        Item.buffered.flush()
        assert not Item.objects.exists()

    def test_null_and_one_are_null(self):
        row = Counter.objects.create(name="n", big=5)
        Counter.buffered.set(name="n", big=None)
        row.big = F("big") + 1
        row.save()
        assert flushed(Counter.buffered, name="n").big is None


class TestCost:
    def test_a_save_with_nothing_pending_is_a_look(
        self, item, monkeypatch, django_assert_num_queries, database
    ):
        trips = round_trips(monkeypatch)
        item.b = "closed"
        with django_assert_num_queries(1, using=database):
            item.save()
        assert trips == [1]
        assert fences_left() == 0

    def test_a_save_of_other_fields_asks_nothing(self, monkeypatch):
        strict = Strict.objects.create(code="c", required="r")
        trips = round_trips(monkeypatch)
        strict.save(update_fields=["day"])
        assert trips == []

    def test_nothing_is_pending_for_a_row_that_has_no_key_yet(self, monkeypatch):
        trips = round_trips(monkeypatch)
        Stamp.objects.create()
        assert trips == []
