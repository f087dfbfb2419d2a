"""Querysets whose instances carry what is pending, and whose writes are later than it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.db import IntegrityError, connections, models, transaction
from django.db.models import Case, Count, F, Prefetch, Value, When
from django.db.models.functions import Concat, Upper

from tests.backdoor.batches import claim
from tests.backdoor.breaker import stop_asking
from tests.backdoor.calls import intercept, round_trips
from tests.backdoor.divisions import know
from tests.backdoor.fences import fences_left
from tests.models import Counter, Item, Note, Owner, Pair, Place, Stamp, Venue, Visit, Ware
from tests.outages import wait_for_redis
from tests.router import current
from writebehind_app import (
    Add,
    BufferedManager,
    BufferedQuerySet,
    BufferUnavailable,
    Max,
    Merge,
    RowBuffer,
    batch,
    register,
    registry,
)

pytestmark = pytest.mark.usefixtures("database", "redis_server")


def manager(model: type[models.Model]) -> BufferedManager:
    """As if it were declared in the model."""
    found = BufferedManager()
    found.model, found.name = model, "objects"
    return found


def run(verb, *args, **kwargs):
    """What a verb comes to on an event loop."""

    async def act() -> object:
        return await verb(*args, **kwargs)

    return async_to_sync(act)()


ITEMS, NOTES, STAMPS, PAIRS, COUNTERS = map(manager, (Item, Note, Stamp, Pair, Counter))


@pytest.fixture
def items() -> list[Item]:
    rows = [Item(number=n, a=n, b="open", c="x") for n in (1, 2, 3)]
    Item.objects.bulk_create(rows)
    return list(Item.objects.order_by("number"))


def stored() -> dict[int, tuple[int, str, str | None]]:
    """All rows after a flush; what is read before has to be the same."""
    before = {n: (r.a, r.b, r.c) for n, r in Item.buffered.get_many(range(10)).items()}
    assert Item.buffered.flush().dead_letters == 0
    after = {row.number: (row.a, row.b, row.c) for row in Item.objects.all()}
    assert before == after
    return after


class TestLoading:
    @pytest.mark.parametrize(
        ("stored", "pending"),
        [(1, True), ([1.5, 0], [1.5, False]), ({"done": 0}, {"done": False})],
    )
    def test_json_that_python_takes_for_equal(self, stored, pending):
        Counter.objects.create(name="x", extra=stored)
        Counter.buffered.set(name="x", extra=pending)
        row = COUNTERS.get(name="x")
        assert repr(row.extra) == repr(pending)
        row.save(update_fields=["extra"])
        assert repr(Counter.objects.get(name="x").extra) == repr(pending)

    @pytest.mark.parametrize("state", ["pending", "in flight", "committed", "both"])
    def test_instances_carry_what_is_pending(self, items, state):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        sleepers = claim(Item.buffered) if state != "pending" else []
        if state == "committed":
            sleepers[0].commit()
        if state == "both":
            Item.buffered.set(number=1, a=Add(10))
        Item.buffered.delete(number=2)
        row, other = ITEMS.order_by("number")
        assert (row.a, row.b) == (16 if state == "both" else 6, "waiting")
        assert (other.number, other.b) == (3, "open")

    def test_each_way_to_load(self, items):
        Item.buffered.set(number=1, b="waiting")
        Item.buffered.set(number=3, b="last")
        ways = {
            "get": ITEMS.get(number=1),
            "first": ITEMS.order_by("number").first(),
            "last": ITEMS.order_by("-number").last(),
            "earliest": ITEMS.earliest("number"),
            "in_bulk": ITEMS.in_bulk([1], field_name="number")[1],
            "index": ITEMS.order_by("number")[0],
            "slice": ITEMS.order_by("number")[:2][0],
            "iterator": next(ITEMS.order_by("number").iterator()),
            "lock": "",
            "union": ITEMS.filter(number=1).union(ITEMS.filter(number=1)).get(),
            "pickled": pickle.loads(pickle.dumps(ITEMS.filter(number=1)))[0],
        }
        with transaction.atomic(using=current()):
            ways["lock"] = ITEMS.select_for_update().get(number=1)
        assert {name: row.b for name, row in ways.items()} == dict.fromkeys(ways, "waiting")
        assert ITEMS.latest("number").b == "last"

    def test_on_an_event_loop(self, items):
        Item.buffered.set(number=1, b="waiting")

        async def act() -> list[str]:
            rows = ITEMS.filter(number=1)
            return [
                (await rows.aget()).b,
                (await rows.afirst()).b,
                *[row.b async for row in rows],
                *[row.b async for row in rows.aiterator()],
                (await ITEMS.ain_bulk([1], field_name="number"))[1].b,
            ]

        assert async_to_sync(act)() == ["waiting"] * 5

    def test_what_is_as_it_is_stored(self, items):
        Item.buffered.set(number=1, a=100, b="waiting")
        Item.buffered.delete(number=2)
        Item.buffered.set(number=9, b="new")
        assert ITEMS.filter(b="waiting").count() == 0
        assert ITEMS.count() == 3
        assert ITEMS.filter(number=2).exists()
        assert {*ITEMS.values_list("b", flat=True)} == {"open"}
        assert ITEMS.values("b").first() == {"b": "open"}
        assert ITEMS.aggregate(n=models.Sum("a")) == {"n": 6}
        row = ITEMS.annotate(up=Upper("b")).get(number=1)
        assert (row.b, row.up) == ("waiting", "OPEN")
        assert [*ITEMS.dates("created_at", "year")]

    def test_a_row_that_is_deleted_and_made_anew(self, items):
        Item.buffered.delete(number=1)
        Item.buffered.set(number=1, a=Add(5))
        row = ITEMS.get(number=1)
        assert (row.pk, row.a, row.b) == (items[0].pk, 5, "")

    def test_what_the_transaction_holds_back(self, items):
        with transaction.atomic(using=current()):
            Item.buffered.set(number=1, b="waiting")
            Item.buffered.delete(number=2)
            assert [row.b for row in ITEMS.order_by("number")] == ["waiting", "open"]

    def test_in_chunks(self, items, monkeypatch):
        Item.buffered.set(number=1, b="1")
        Item.buffered.delete(number=2)
        Item.buffered.set(number=3, b="3")
        rows = ITEMS.order_by("number").iterator(chunk_size=2)
        assert [row.b for row in rows] == ["1", "3"]

    @pytest.mark.parametrize("fields", [["a"], ["b"], ["number"]], ids=str)
    @pytest.mark.parametrize("way", ["only", "defer"])
    def test_deferred_fields(self, items, fields, way):
        Item.buffered.set(number=1, a=5, b="waiting")
        row = getattr(ITEMS.filter(pk=items[0].pk), way)(*fields).get()
        deferred = row.get_deferred_fields()
        assert (fields[0] in deferred) == (way == "defer" and fields != ["number"])
        if "a" not in deferred:
            assert row.a == 5
        if "b" not in deferred:
            assert row.b == "waiting"

    def test_related_rows_are_as_they_are_stored(self):
        one, other = Venue.objects.create(slug="a"), Venue.objects.create(slug="b")
        place = Place.objects.create(number=1, venue=one)
        Venue.buffered.set(slug="b", name="waiting")
        Place.buffered.set(number=1, venue=other)
        row = manager(Place).select_related("venue").get()
        assert row.venue_id == "b"
        assert row.venue == other
        assert row.venue.name == ""
        assert place.venue == one

    @pytest.mark.parametrize("how", ["name", "queryset", "one by one"])
    def test_reverse_relations(self, how, monkeypatch):
        venues = [Venue.objects.create(slug=slug) for slug in "abc"]
        for number, venue in enumerate((*venues, *venues)):
            Ware.objects.create(code=f"{number}", venue=venue)
        Ware.buffered.set(code="0", venue=venues[1])  # moves among those that are asked for
        Ware.buffered.set(code="1", venue=venues[2])  # and to one that is not
        Ware.buffered.set(code="3", price=Add(5))
        Ware.buffered.delete(code="4")
        found = Venue.objects.filter(slug__in="ab").order_by("slug")
        if how == "name":
            found = found.prefetch_related("ware_set")
        elif how == "queryset":
            found = found.prefetch_related(
                Prefetch("ware_set", queryset=Ware.objects.order_by("code"))
            )
        wares = {v.slug: {w.code: w.price for w in v.ware_set.order_by("code")} for v in found}
        prefetched = {v.slug: sorted(w.code for w in v.ware_set.all()) for v in found}
        # Which there are is what is stored.
        assert wares == {"a": {"0": 0, "3": 5}, "b": {"1": 0}}
        assert prefetched == (
            {"a": ["0", "3"], "b": ["1"]} if how == "one by one" else {"a": ["3"], "b": ["0"]}
        )
        ware = venues[0].ware_set.get(code="0")
        assert (ware.venue_id, ware.venue) == ("b", venues[1])

    def test_writes_of_a_reverse_relation(self):
        venue = Venue.objects.create(slug="a")
        ware = Ware.objects.create(code="x", venue=venue)
        Ware.buffered.set(code="x", price=5)
        venue.ware_set.update(price=F("price") + 1)
        assert ware.venue.ware_set.get().price == 6
        Ware.buffered.flush()
        assert Ware.objects.get().price == 6

    def test_metadata(self):
        owner = Owner.objects.create(name="o")
        for key in "klm":
            Note.objects.create(page="p", owner=owner, key=key, value=1)
        Note.objects.create(page="q", owner=owner, key="k", value=7)
        mapping = Note.buffered.of(page="p", owner=owner)
        mapping.update(k=Add(5), new=3)
        del mapping["l"]
        assert [(n.page, n.key, n.value) for n in NOTES.order_by("page", "key")] == [
            ("p", "k", 6),
            ("p", "m", 1),
            ("q", "k", 7),
        ]

    def test_a_key_that_is_the_primary_key(self):
        stamps = [Stamp.objects.create() for _ in range(3)]
        Stamp.buffered.set(pk=stamps[1].pk, count=Add(5))
        assert [row.count for row in STAMPS.order_by("pk")] == [0, 5, 0]

    def test_a_key_of_several_fields(self):
        owner = Owner.objects.create(name="o")
        for name in "pq":
            Pair.objects.create(owner=owner, name=name)
        Pair.buffered.set(owner=owner, name="q", value=5)
        assert [row.value for row in PAIRS.order_by("name")] == [0, 5]

    def test_what_is_flushed_while_a_queryset_runs(self, items, monkeypatch):
        list(ITEMS.all())  # this process hears of the last batch
        Item.buffered.set(number=1, b="waiting")

        def around(name, call):
            if name == "waiting":  # the rows were read
                Item.buffered.flush()
            return call()

        intercept(monkeypatch, around)
        assert ITEMS.get(number=1).b == "waiting"

    def test_a_model_without_a_buffer(self):
        owner = Owner.objects.create(name="o")
        assert manager(Owner).get() == owner
        assert manager(Owner).filter(name="o").update(name="p") == 1
        manager(Owner).bulk_create([Owner(name="q")])
        assert manager(Owner).count() == 2

    def test_records_are_as_they_are_stored(self, monkeypatch):
        Visit.buffered.append(event=1, email="a")
        Visit.buffered.flush()
        Visit.buffered.append(event=1, email="b")
        trips = round_trips(monkeypatch)
        assert [v.email for v in manager(Visit).all()] == ["a"]
        assert manager(Visit).update(note="n") == 1
        assert trips == []

    def test_rows_of_a_child(self):
        class Box(models.Model):
            code = models.CharField(max_length=20, unique=True)
            state = models.CharField(max_length=20)
            objects = BufferedManager()

            class Meta:
                app_label = "tests"

        class Crate(Box):
            weight = models.IntegerField(default=0)

            class Meta:
                app_label = "tests"

        alias = current()
        try:
            register(Box, RowBuffer(key="code"), name="behind")
            with connections[alias].schema_editor() as editor:
                editor.create_model(Box)
                editor.create_model(Crate)
            Crate.objects.create(code="a", state="here", weight=3)
            Box.behind.set(code="a", state="on its way")
            row = Crate.objects.get()
            assert (row.state, row.weight) == ("on its way", 3)
            assert isinstance(Crate.objects, BufferedManager)
        finally:
            registry.remove(Box.behind)
            with connections[alias].schema_editor() as editor:
                editor.delete_model(Crate)
                editor.delete_model(Box)
            for model in (Box, Crate):
                del apps.all_models["tests"][model._meta.model_name]
            apps.clear_cache()

    @pytest.mark.parametrize("away", ["direct", "away"])
    def test_without_redis(self, items, go, away, monkeypatch):
        Item.buffered.set(number=1, b="waiting")
        if away == "direct":
            go("direct")
            assert ITEMS.get(number=1).b == "open"
            go("buffered")
        else:
            monkeypatch.setitem(Item.buffered.options, "WHEN_DOWN", "direct")
            stop_asking()
            assert ITEMS.get(number=1).b == "open"
            monkeypatch.setitem(Item.buffered.options, "WHEN_DOWN", "raise")
            with pytest.raises(BufferUnavailable):
                ITEMS.get(number=1)
            wait_for_redis()
        assert ITEMS.get(number=1).b == "waiting"


class TestLoadedAndSaved:
    """What an instance was loaded with is not written by a save that nobody changed it for."""

    def test_a_sum_that_grew_since(self, items):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        row = ITEMS.get(number=1)
        Item.buffered.set(number=1, a=Add(10), b="newer")
        row.c = "subject"
        row.save()
        assert stored()[1] == (16, "newer", "subject")

    def test_what_was_changed_is_written(self, items):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        row = ITEMS.get(number=1)
        Item.buffered.set(number=1, a=Add(10))
        row.a = 7
        row.save()
        assert stored()[1] == (7, "waiting", "x")

    def test_what_was_changed_back_is_written(self, items):
        Item.buffered.set(number=1, b="waiting")
        row = ITEMS.get(number=1)
        row.b = "open"
        row.save()
        assert stored()[1][1] == "open"

    def test_what_is_named_is_written(self, items):
        Item.buffered.set(number=1, b="waiting")
        row = ITEMS.get(number=1)
        Item.buffered.set(number=1, b="newer")
        row.save(update_fields=["b"])
        assert stored()[1] == (1, "waiting", "x")

    @pytest.mark.parametrize(
        ("before", "after"),
        [(1, True), (0, False), ({"done": 0}, {"done": False}), ([1], [1.5]), ({"a": 1}, None)],
    )
    @pytest.mark.parametrize("is_pending", [False, True])
    def test_json(self, before, after, is_pending):
        """In Python `True` is equal to 1. In JSON it is not."""
        Counter.objects.create(name="x", extra=None if is_pending else before)
        Counter.buffered.set(name="x", small=7, **({"extra": before} if is_pending else {}))
        row = COUNTERS.get(name="x")
        assert repr(row.extra) == repr(before)
        row.extra = after
        row.save()
        Counter.buffered.flush()
        assert repr(Counter.objects.get(name="x").extra) == repr(after)

    def test_json_with_its_keys_in_another_order(self):
        Counter.objects.create(name="x", extra={"b": {"d": 1.5, "c": None}, "a": 1})
        row = Counter.objects.get(name="x")
        Counter.buffered.set(name="x", extra=Merge({"b": 2}))
        row.extra = {"a": 1, "b": {"c": None, "d": 1.5}}
        row.save()
        Counter.buffered.flush()
        assert Counter.objects.get(name="x").extra == {"a": 1, "b": 2}

    @pytest.mark.parametrize("fields", [None, ["a", "b"]])
    def test_what_was_loaded_once_more_is_not(self, items, fields):
        Item.buffered.set(number=1, a=Add(5), b="waiting", c="newer")
        row = ITEMS.get(number=1)
        row.refresh_from_db(fields=fields)
        assert (row.a, row.b) == (1, "open")
        row.save()
        assert stored()[1] == (6, "waiting", "newer")

    def test_but_it_is_if_others_were_loaded_once_more(self, items):
        Item.buffered.set(number=1, b="waiting", c="newer")
        row = ITEMS.get(number=1)
        row.refresh_from_db(fields=["c"])
        row.b = "open"
        row.save()
        assert stored()[1] == (1, "open", "newer")

    def test_after_a_save_it_is_a_value_like_any_other(self, items):
        Item.buffered.set(number=1, a=10)
        row = ITEMS.get(number=1)
        row.a = 20
        row.save()
        Item.buffered.set(number=1, a=30)
        row.a = 10
        row.save()
        assert stored()[1][0] == 10

    def test_update_or_create(self, items):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        row, is_new = ITEMS.update_or_create(number=1, defaults={"b": "closed"})
        assert (is_new, row.a, row.b) == (False, 6, "closed")
        row, is_new = ITEMS.update_or_create(number=4, defaults={"b": "new"})
        assert is_new
        assert stored() == {
            1: (6, "closed", "x"),
            2: (2, "open", "x"),
            3: (3, "open", "x"),
            4: (0, "new", None),
        }

    @pytest.mark.parametrize("way", ["get_or_create", "update_or_create", "aget_or_create"])
    @pytest.mark.parametrize("claimed", [False, True])
    def test_one_that_is_about_to_go_is_made_anew(self, items, way, claimed):
        Item.buffered.set(number=1, a=Add(5))
        Item.buffered.delete(number=1)
        sleepers = claim(Item.buffered) if claimed else []
        act = getattr(ITEMS, way)
        given = {"number": 1, "defaults": {"b": "new"}}
        row, is_new = run(act, **given) if way[0] == "a" else act(**given)
        assert is_new
        for sleeper in sleepers:
            sleeper.flush()
        assert stored()[1] == (0, "new", None)
        assert Item.objects.get(number=1).pk == row.pk

    def test_but_not_one_that_was_made_anew_since(self, items):
        Item.buffered.delete(number=1)
        Item.buffered.set(number=1, a=5)
        with pytest.raises(IntegrityError):
            ITEMS.create(number=1, b="new")
        row, is_new = ITEMS.get_or_create(number=1, defaults={"b": "new"})
        assert (is_new, row.a) == (False, 5)
        assert stored()[1] == (5, "", None)


def _get() -> Item:
    return ITEMS.get(number=1)


def _save(row: Item, **values: Any) -> None:
    for name, value in values.items():
        setattr(row, name, value)
    row.save()


def _bulk_update(row: Item, **values: Any) -> None:
    for name, value in values.items():
        setattr(row, name, value)
    ITEMS.bulk_update([row], [*values])


class TestARowThatIsMadeAnew:
    """Something pending deletes a stored row and makes it anew."""

    @pytest.fixture(autouse=True)
    def pending(self, database, redis_server):
        Item.objects.create(number=1, a=1, b="open")
        Item.buffered.delete(number=1)
        Item.buffered.set(number=1, a=7)

    @pytest.mark.parametrize(("a", "expected"), [(F("a") + 1, 8), (9, 9)])
    @pytest.mark.parametrize(
        "write",
        [
            lambda **values: ITEMS.filter(number=1).update(**values),
            lambda **values: _save(_get(), **values),
            lambda **values: _bulk_update(_get(), **values),
            lambda **values: ITEMS.update_or_create(number=1, defaults=values),
        ],
        ids=["update", "save", "bulk_update", "update_or_create"],
    )
    def test_a_write(self, write, a, expected):
        write(a=a)
        assert stored() == {1: (expected, "", None)}

    @pytest.mark.parametrize(
        "delete",
        [
            lambda: ITEMS.filter(number=1).delete(),
            lambda: _get().delete(),
        ],
        ids=["queryset", "row"],
    )
    def test_a_delete(self, delete):
        delete()
        assert stored() == {}


class TestUpdate:
    @pytest.mark.parametrize("claimed", [False, True])
    def test_what_was_pending_does_not_come_over_it(self, items, claimed):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        sleepers = claim(Item.buffered) if claimed else []
        assert ITEMS.filter(number__lt=3).update(b="closed") == 2
        assert ITEMS.get(number=1).b == "closed"
        for sleeper in sleepers:
            sleeper.flush()
        assert stored() == {1: (6, "closed", "x"), 2: (2, "closed", "x"), 3: (3, "open", "x")}

    def test_what_is_written_after_it_counts(self, items):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        ITEMS.update(a=10, b="closed")
        Item.buffered.set(number=1, a=Add(1), b="open")
        assert stored()[1] == (11, "open", "x")

    def test_rows_that_do_not_match_are_left_alone(self, items):
        Item.buffered.set_many([{"number": n, "b": "waiting"} for n in (1, 2, 9)])
        ITEMS.filter(number=1).update(b="closed")
        assert fences_left() == 1
        assert stored() == {
            1: (1, "closed", "x"),
            2: (2, "waiting", "x"),
            3: (3, "open", "x"),
            9: (0, "waiting", None),
        }

    @pytest.mark.parametrize(
        ("pending", "expected"), [(10, 11), (Add(10), 12), (Max(10), 11)], ids=str
    )
    def test_a_sum(self, items, pending, expected):
        Item.buffered.set(number=1, a=pending)
        ITEMS.update(a=F("a") + 1)
        Item.buffered.set(number=1, a=Add(100))
        assert {n: row[0] for n, row in stored().items()} == {1: expected + 100, 2: 3, 3: 4}

    def test_any_other_expression_works_on_what_is_pending(self, items):
        Item.buffered.set(number=1, a=Add(9), b="waiting", c="y")
        ITEMS.update(b=Concat(F("b"), Value("!")), d=F("a") * 2)
        assert stored()[1] == (10, "waiting!", "y")
        assert Item.objects.get(number=1).d == 20

    def test_one_that_names_an_annotation(self, items):
        Item.buffered.set(number=1, a=Add(9))
        ITEMS.annotate(twice=F("a") * 2).update(d=F("twice"))
        assert Item.objects.get(number=1).d == 20
        assert stored()[1][0] == 10

    @pytest.mark.parametrize("verb", ["once", "set_if"])
    def test_what_is_held_back_of_a_call_that_is_sent_alone(self, items, verb):
        with transaction.atomic(using=current()):
            if verb == "once":
                Item.buffered.set(number=1, b="earlier", d=7, once="name")
            else:
                assert Item.buffered.set_if({"a": 1}, number=1, b="earlier", d=7)
            ITEMS.filter(number=1).update(a=9, b="later")
        assert stored()[1] == (9, "later", "x")
        assert Item.objects.get(number=1).d == 7

    @pytest.mark.parametrize("how", ["update", "bulk_update"])
    def test_a_row_that_is_held_anew(self, items, how):
        with transaction.atomic(using=current()) if how == "update" else batch():
            Item.buffered.delete(number=1)
            Item.buffered.set(number=1, a=Add(5))
            item = ITEMS.get(number=1)
            item.b = "later"
            if how == "update":
                assert ITEMS.filter(pk=item.pk).update(b="later") == 1
            else:
                assert ITEMS.bulk_update([item], ["b"]) == 1
            Item.buffered.set(number=1, c="y")
        assert stored()[1] == (5, "later", "y")

    def test_what_is_held_back(self, items):
        with transaction.atomic(using=current()):
            receipt = Item.buffered.set(number=1, b="waiting")
            Item.buffered.set(number=2, a=Add(5))
            ITEMS.update(b="closed")
            assert ITEMS.get(number=1).b == "closed"
        assert receipt.where == "discarded"
        assert stored()[1] == (1, "closed", "x")
        assert stored()[2] == (7, "closed", "x")

    def test_a_rollback(self, items):
        Item.buffered.set(number=1, b="waiting")
        try:
            with transaction.atomic(using=current()):
                ITEMS.update(b="closed")
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        assert fences_left() == 0
        assert stored()[1][1] == "waiting"

    def test_a_row_that_is_about_to_go(self, items):
        Item.buffered.delete(number=1)
        Item.buffered.delete(number=2)
        Item.buffered.set(number=2, a=Add(5))
        assert ITEMS.update(b="closed") == 2
        assert stored() == {2: (5, "closed", None), 3: (3, "closed", "x")}

    @pytest.mark.parametrize("how", ["update", "bulk_update"])
    def test_a_row_that_is_made_anew(self, items, how):
        """It has its old primary key until that is stored."""
        Item.buffered.delete(number=1)
        Item.buffered.set(number=1, a=Add(5))
        item = ITEMS.get(number=1)
        if how == "update":
            assert ITEMS.filter(pk=item.pk).update(b="closed") == 1
        else:
            item.b = "closed"
            assert ITEMS.bulk_update([item], ["b"]) == 1
        Item.buffered.set(number=1, a=Add(1))
        assert stored()[1] == (6, "closed", None)

    def test_a_key(self, items):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        ITEMS.filter(number=1).update(number=7, b="closed")
        assert stored() == {7: (6, "closed", "x"), 2: (2, "open", "x"), 3: (3, "open", "x")}

    def test_keys_that_the_database_works_out(self, items):
        Item.buffered.set(number=3, a=Add(5))
        ITEMS.filter(number=3).update(number=F("number") + 3)
        assert stored()[6] == (8, "open", "x")

    def test_metadata(self):
        owner = Owner.objects.create(name="o")
        for key in "kl":
            Note.objects.create(page="p", owner=owner, key=key, value=1)
        mapping = Note.buffered.of(page="p", owner=owner)
        mapping.update(k=2, l=3, new=4)
        NOTES.filter(key="k").update(value=9)
        mapping.flush()
        assert dict(mapping) == {"k": 9, "l": 3, "new": 4}

    def test_on_an_event_loop(self, items):
        Item.buffered.set(number=1, b="waiting")
        assert run(ITEMS.filter(number=1).aupdate, b="closed") == 1
        assert stored()[1][1] == "closed"

    @pytest.mark.parametrize("many", [False, True])
    def test_among_many_entries(self, items, many, monkeypatch):
        Item.buffered.set_many([{"number": n, "b": "w"} for n in range(100, 1300 if many else 200)])
        Item.buffered.set(number=1, b="waiting")
        trips = round_trips(monkeypatch)
        ITEMS.update(b="closed")
        assert trips == [1, 1, 1]
        assert fences_left() == 1
        assert Item.objects.get(number=1).b == "closed"
        Item.buffered.flush()
        assert Item.objects.get(number=1).b == "closed"

    @pytest.mark.parametrize("away", ["direct", "away"])
    def test_without_redis(self, items, go, away):
        Item.buffered.set(number=1, a=10, b="waiting")
        go("direct") if away == "direct" else stop_asking()
        ITEMS.filter(number=1).update(b="closed", a=F("a") + 1)
        go("buffered")
        wait_for_redis()
        assert stored()[1] == (11, "closed", "x")

    def test_other_fields_ask_nothing(self, items, monkeypatch):
        trips = round_trips(monkeypatch)
        now = items[0].created_at
        ITEMS.update(created_at=now)
        assert trips == []

    def test_nothing_pending_is_one_question(
        self, items, monkeypatch, django_assert_num_queries, database
    ):
        know(Item.buffered)
        trips = round_trips(monkeypatch)
        with django_assert_num_queries(1, using=database):
            ITEMS.update(b="closed")
        assert trips == [1]
        assert fences_left() == 0

    def test_what_django_refuses(self, items):
        with pytest.raises(TypeError, match="Cannot update a query once a slice"):
            ITEMS.all()[:1].update(b="c")
        with pytest.raises(Exception, match=r"Calling QuerySet\.update"):
            ITEMS.filter(number=1).union(ITEMS.filter(number=2)).update(b="c")

    def test_a_buffer_may_ignore_the_orm(self, items, monkeypatch):
        monkeypatch.setitem(Item.buffered.options, "ORM", "ignore")
        Item.buffered.set(number=1, b="waiting")
        trips = round_trips(monkeypatch)
        ITEMS.update(b="closed")
        assert trips == []
        assert stored()[1][1] == "waiting"


class TestBulk:
    def test_bulk_update(self, items):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        Item.buffered.set(number=2, b="waiting")
        for row in items[:2]:
            row.b = f"closed {row.number}"
        items[1].a = F("a") + 100
        ITEMS.bulk_update(items[:2], ["b", "a"])
        assert stored() == {
            1: (1, "closed 1", "x"),
            2: (102, "closed 2", "x"),
            3: (3, "open", "x"),
        }

    def test_bulk_update_of_one_field(self, items):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        items[0].b = "closed"
        assert run(ITEMS.abulk_update, items[:1], ["b"]) == 1
        assert stored()[1] == (6, "closed", "x")

    def test_an_expression_that_looks_at_others(self, items):
        Item.buffered.set(number=1, a=Add(5), b="waiting")
        ITEMS.update(c=Case(When(b="waiting", then=Value("yes")), default=Value("no")))
        assert {n: row[2] for n, row in stored().items()} == {1: "yes", 2: "no", 3: "no"}

    def test_new_rows_are_later(self, items):
        Item.buffered.set(number=4, a=Add(5), b="waiting")
        ITEMS.bulk_create([Item(number=4, a=1), Item(number=5, a=2)])
        assert ITEMS.get(number=4).a == 1
        assert stored()[4] == (1, "", None)
        assert stored()[5] == (2, "", None)

    def test_a_row_that_was_to_go(self, items):
        Item.buffered.delete(number=1)
        ITEMS.bulk_create([Item(number=1, b="new")])
        assert stored()[1] == (0, "new", None)

    @pytest.mark.parametrize("claimed", [False, True])
    @pytest.mark.parametrize("deleted", [False, True])
    @pytest.mark.parametrize("number", [1, 4])
    def test_those_that_are_there_are_ignored(self, items, claimed, deleted, number):
        Item.buffered.set(number=number, a=Add(5), c="waiting")
        if deleted:
            Item.buffered.delete(number=number)
        sleepers = claim(Item.buffered) if claimed else []
        ITEMS.bulk_create([Item(number=number, b="new")], ignore_conflicts=True)
        for sleeper in sleepers:
            sleeper.flush()
        there = (6, "open", "waiting") if number == 1 else (5, "", "waiting")
        assert stored()[number] == ((0, "new", None) if deleted else there)

    @pytest.mark.parametrize("number", [1, 4])
    @pytest.mark.parametrize("claimed", [False, True])
    def test_or_some_fields_are_written(self, items, claimed, number, database):
        Item.buffered.set(number=number, a=Add(5), c="waiting")
        sleepers = claim(Item.buffered) if claimed else []
        unique = {} if database == "mariadb" else {"unique_fields": ["number"]}
        ITEMS.bulk_create(
            [Item(number=number, b="new", a=0)],
            update_conflicts=True,
            update_fields=["b"],
            **unique,
        )
        for sleeper in sleepers:
            sleeper.flush()
        assert stored()[number] == (6 if number == 1 else 5, "new", "waiting")

    def test_what_cannot_be_stored_before(self, items, go, database):
        Item.buffered.set(number=1, b="waiting", c="y")
        go("direct")
        unique = {} if database == "mariadb" else {"unique_fields": ["number"]}
        ITEMS.bulk_create(
            [Item(number=1, b="new")], update_conflicts=True, update_fields=["b"], **unique
        )
        go("buffered")
        assert stored()[1] == (1, "new", "y")

    def test_what_is_held_back(self, items):
        with batch():
            Item.buffered.set(number=4, b="waiting")
            ITEMS.bulk_create([Item(number=4, b="new")])
        assert stored()[4] == (0, "new", None)

    def test_many_rows_are_one_question(self, items, monkeypatch):
        Item.buffered.set(number=1, b="waiting")
        trips = round_trips(monkeypatch)
        run(ITEMS.abulk_create, [Item(number=n) for n in range(100, 600)])
        assert trips == [1]
        assert fences_left() == 0

    def test_rows_without_a_key_yet(self, monkeypatch):
        trips = round_trips(monkeypatch)
        STAMPS.bulk_create([Stamp(), Stamp()])
        assert trips == []

    def test_rows_that_refer_to_others(self):
        owner = Owner(name="o")
        pair = Pair(owner=owner, name="p", value=3)
        owner.save()
        Pair.buffered.set(owner=owner, name="p", value=2)
        PAIRS.bulk_create([pair])
        Pair.buffered.flush()
        assert Pair.objects.get().value == 3


class TestDelete:
    @pytest.mark.parametrize("claimed", [False, True])
    def test_what_was_pending_does_not_make_the_rows_anew(self, items, claimed):
        Item.buffered.set_many([{"number": n, "a": Add(1)} for n in (1, 2, 4)])
        sleepers = claim(Item.buffered) if claimed else []
        ITEMS.filter(number__in=[1, 3]).delete()
        for sleeper in sleepers:
            sleeper.flush()
        assert stored() == {2: (3, "open", "x"), 4: (1, "", None)}

    def test_one_that_is_about_to_go_is_not_counted(self, items):
        Item.buffered.delete(number=1)
        assert run(ITEMS.all().adelete) == (2, {"tests.Item": 2})
        assert stored() == {}

    def test_merged_keys(self):
        row = Counter.objects.create(name="n", extra={"a": 1})
        Counter.buffered.set(name="n", extra=Merge({"b": 2}))
        assert manager(Counter).get().extra == {"a": 1, "b": 2}
        manager(Counter).filter(pk=row.pk).update(extra={"c": 3})
        Counter.buffered.flush()
        assert Counter.objects.get().extra == {"c": 3}


class TestCost:
    @pytest.fixture(autouse=True)
    def hear(self, database, redis_server, items) -> None:
        """This process hears of the last batch, and Redis gets to know the script."""
        assert len(ITEMS.all()) == 3

    def test_a_queryset_is_one_round_trip(
        self, items, monkeypatch, django_assert_num_queries, database
    ):
        trips = round_trips(monkeypatch)
        with django_assert_num_queries(1, using=database):
            assert len(ITEMS.all()) == 3
        assert trips == [1]

    def test_no_row_asks_nothing(self, monkeypatch):
        trips = round_trips(monkeypatch)
        assert not ITEMS.filter(number=9)
        assert not ITEMS.none()
        assert trips == []

    def test_a_chunk_is_one_round_trip(self, items, monkeypatch):
        trips = round_trips(monkeypatch)
        assert len([*ITEMS.iterator(chunk_size=2)]) == 3
        assert trips == [1, 1]

    def test_what_is_pending_of_others_costs_nothing(
        self, items, monkeypatch, django_assert_num_queries, database
    ):
        Item.buffered.set_many([{"number": n, "b": "waiting"} for n in range(100, 200)])
        trips = round_trips(monkeypatch)
        with django_assert_num_queries(1, using=database):
            assert ITEMS.annotate(n=Count("pk"))[0].b == "open"
        assert trips == [1]


class TestCheck:
    def test_a_model_with_a_buffer(self):
        assert [manager(model).check() for model in (Item, Note, Ware)] == [[], [], []]

    @pytest.mark.parametrize(
        ("model", "why", "hint"),
        [
            (Owner, "tests.Owner has no buffer", "or declare a buffer in tests.Owner"),
            (Visit, "the records of a log never change", "tests.Visit.buffered.window()"),
        ],
    )
    def test_one_without(self, model, why, hint):
        (error,) = manager(model).check()
        assert error.id == "writebehind.E030"
        assert why in error.msg
        assert hint in error.hint

    def test_a_manager_with_a_queryset_of_ones_own(self):
        class Cheap(BufferedQuerySet):
            def cheap(self):
                return self.filter(price__lt=5)

        venue = Venue.objects.create(slug="a")
        Ware.objects.create(code="x", venue=venue, price=1)
        Ware.buffered.set(code="x", price=Add(7))
        own = BufferedManager.from_queryset(Cheap)()
        own.model, own.name = Ware, "own"
        assert own.cheap().get().price == 8
        assert own.check() == []
        own.model = Owner
        assert len(own.check()) == 1
