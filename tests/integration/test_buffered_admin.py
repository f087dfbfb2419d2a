"""BufferedAdmin: pages that show rows with what is pending, and write through the buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from html.parser import HTMLParser
from threading import Thread
from typing import Any

import pytest
from django import forms
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.sites import all_sites
from django.test import Client
from django.urls import path
from django.utils import timezone

from tests import admin as people
from tests.backdoor.batches import claim
from tests.backdoor.declarations import redeclare
from tests.models import Counter, Everything, Item, Note, Owner, Pair, Venue
from writebehind_app import Add, BufferedAdmin, BufferedInline, Merge

pytestmark = pytest.mark.usefixtures("database", "redis_server")


_before: list[Callable[[], Any]] = []  # what comes in before a form is saved


@contextmanager
def before_saving(act: Callable[[], Any]) -> Iterator[None]:
    _before.append(act)
    yield
    _before.clear()


class ItemAdmin(BufferedAdmin, admin.ModelAdmin):
    list_display = ("number", "b", "a")
    list_editable = ("b", "a")
    actions = ("delete_selected",)

    def save_model(self, request: Any, obj: Any, form: Any, change: bool) -> None:
        for act in _before:
            elsewhere = Thread(target=act)
            elsewhere.start()
            elsewhere.join()
        if obj.b == "escalated":
            obj.e = True
        super().save_model(request, obj, form, change)

    def get_exclude(self, request: Any, obj: Any = None) -> list[str]:
        return ["e"]


class PlainAdmin(BufferedAdmin, admin.ModelAdmin):
    pass


class TidyForm(forms.ModelForm):
    """Fills in a field that nobody touched."""

    def clean(self) -> dict[str, Any]:
        if self.cleaned_data.get("b") == "closed":
            self.cleaned_data["c"] = "tidy"
        return self.cleaned_data


class CounterAdmin(BufferedAdmin, admin.ModelAdmin):
    fields = ("name", "small", "big")
    readonly_fields = ("big",)
    save_as = True

    def save_model(self, request: Any, obj: Any, form: Any, change: bool) -> None:
        if obj.extra:
            obj.extra["by"] = "the project"
        super().save_model(request, obj, form, change)


class PairInline(BufferedInline, admin.TabularInline):
    model = Pair
    extra = 1


class OwnerAdmin(admin.ModelAdmin):
    """Knows nothing of buffers."""

    inlines = [PairInline]


VALUES: dict[str, Any] = {
    "integer": 1,
    "char": "c",
    "datetime": timezone.now(),
    "date": timezone.now().date(),
    "time": timezone.now().time(),
    "duration": timedelta(hours=1),
    "decimal": "1.50",
    "float": 1.5,
    "json": {"a": [1, None]},
    "owner": None,
    "color": "red",
    "level": 1,
    "boolean": False,
}


@pytest.fixture
def site(settings):
    site = admin.AdminSite(name="admin")
    site.register(Item, ItemAdmin)
    site.register([Note, Venue], PlainAdmin)
    site.register(Counter, CounterAdmin)
    site.register(Owner, OwnerAdmin)
    site.register(Everything, PlainAdmin, fields=["key", *VALUES])

    class Urls:
        urlpatterns = [path("admin/", site.urls)]

    settings.ROOT_URLCONF = Urls
    yield site
    all_sites.discard(site)


@pytest.fixture
def client(site) -> Client:
    return people.client(superuser=True)


@pytest.fixture
def item() -> Item:
    return Item.objects.create(number=1, a=1, b="open", c="x")


def place(row: Any, page: str = "change") -> str:
    meta = row._meta
    return f"/admin/{meta.app_label}/{meta.model_name}/{row.pk}/{page}/"


class Sent(HTMLParser):
    """What a browser sends of the form on a page, or of the list."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self._inside = False
        self._select = self._area = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        name = given.get("name", "")
        if tag == "form":
            self._inside = str(given.get("id", "")).endswith("form")
        if not self._inside or (tag != "option" and not name):
            return
        if tag == "input" and given.get("type") not in ("submit", "file"):
            if given.get("type") != "checkbox" or "checked" in given:
                self.values[name] = given.get("value", "on" if "checked" in given else "")
        elif tag == "select":
            self._select = name
        elif tag == "option" and "selected" in given:
            self.values[self._select] = given["value"]
        elif tag == "textarea":
            self._area, self.values[name] = name, ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.values[self._area] += data.removeprefix("\n").removeprefix("\r\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = ""


def fields(response: Any) -> dict[str, str]:
    sent = Sent()
    sent.feed(response.content.decode())
    return {name: v for name, v in sent.values.items() if name != "_selected_action"}


def change(client: Client, row: Any, **values: Any) -> Any:
    """Open the form, change some of it, and save it."""
    response = client.get(place(row))
    assert response.status_code == 200
    return save(client, row, fields(response), **values)


def save(client: Client, row: Any, shown: dict[str, Any], **values: Any) -> Any:
    response = client.post(place(row), {**shown, **values, "_continue": "1"})
    assert response.status_code == 302, response.context["errors"]
    return response


def shown(client: Client, row: Any) -> dict[str, Any]:
    return fields(client.get(place(row)))


def stored(model: Any, **key: Any) -> Any:
    assert model.buffered.flush().dead_letters == 0
    return model.objects.get(**key)


class TestForm:
    def test_it_shows_what_is_pending(self, client, item):
        Item.buffered.set(number=1, b="waiting", a=Add(4))
        claim(Item.buffered)
        Item.buffered.set(number=1, a=Add(1))
        assert shown(client, item).items() >= {"b": "waiting", "a": "6", "c": "x"}.items()

    def test_what_was_changed_in_it_stays(self, client, item):
        Item.buffered.set(number=1, b="waiting", a=Add(1))
        change(client, item, b="closed")
        assert Item.buffered.get(number=1).b == "closed"
        row = stored(Item, number=1)
        assert (row.a, row.b) == (2, "closed")

    def test_what_was_changed_back_stays(self, client, item):
        Item.buffered.set(number=1, b="waiting")
        change(client, item, b="open")
        assert stored(Item, number=1).b == "open"

    def test_it_goes_through_the_buffer(self, client, item):
        change(client, item, b="closed")
        assert Item.objects.get(number=1).b == "open"
        (entry,) = Item.buffered.pending()
        assert entry.values == {"b": "closed"}

    def test_who_edit_at_once_lose_nothing_that_one_of_them_did_not_touch(self, client, item):
        Item.buffered.set(number=1, b="waiting")
        first, second = shown(client, item), shown(client, item)
        save(client, item, first, b="closed")
        Item.buffered.set(number=1, a=Add(5))
        save(client, item, second, c="y")
        row = stored(Item, number=1)
        assert (row.a, row.b, row.c) == (6, "closed", "y")

    def test_nothing_that_was_not_changed_is_written(self, client):
        owner = Owner.objects.create(name="o")
        row = Everything.objects.create(**{**VALUES, "owner": owner})
        assert "initial-json" in shown(client, row)
        change(client, row, integer="2")
        (entry,) = Everything.buffered.pending()
        assert entry.values == {"integer": 2}

    def test_a_mistake_is_shown_and_the_rest_is_not_forgotten(self, client, item):
        Item.buffered.set(number=1, b="waiting")
        data = {**shown(client, item), "a": "x"}
        Item.buffered.set(number=1, b="closed")
        response = client.post(place(item), data)
        assert response.status_code == 200
        again = fields(response)
        assert again["initial-b"] == "waiting"

    def test_what_code_of_the_project_changes_is_written_too(self, client, item):
        change(client, item, b="escalated")
        assert Item.buffered.get(number=1).e

    def test_what_code_of_the_project_changes_in_place_is_written_too(self, client):
        row = Counter.objects.create(name="x", extra={"a": 1})
        Counter.buffered.set(name="x", extra=Merge({"b": 2}))
        change(client, row, small="5")
        found = Counter.buffered.get(name="x")
        assert (found.small, found.extra) == (5, {"a": 1, "b": 2, "by": "the project"})

    def test_what_code_changes_in_a_field_of_the_form_is_written_too(
        self, client, item, monkeypatch
    ):
        monkeypatch.setattr(ItemAdmin, "form", TidyForm)
        Item.buffered.set(number=1, c="pending")
        change(client, item, b="closed")
        (entry,) = Item.buffered.pending()
        assert entry.values == {"b": "closed", "c": "tidy"}

    def test_what_is_shown_only_is_shown_with_what_is_pending(self, client):
        row = Counter.objects.create(name="x", small=1, big=2)
        Counter.buffered.set(name="x", big=Add(40), small=3)
        text = client.get(place(row)).content.decode()
        assert '<div class="readonly">42</div>' in text
        change(client, row, small="4")
        row = stored(Counter, name="x")
        assert (row.small, row.big) == (4, 42)

    def test_saved_as_new(self, client):
        """What is pending is in the new row, and the old one stays."""
        row = Counter.objects.create(name="x", small=1, big=2)
        Counter.buffered.set(name="x", small=3)
        data = {**shown(client, row), "name": "y", "_saveasnew": "1"}
        assert client.post(place(row), data).status_code == 302
        assert Counter.objects.get(name="y").small == 3
        assert stored(Counter, name="x").small == 3

    def test_in_a_popup(self, client, item):
        Item.buffered.set(number=1, b="waiting")
        data = fields(client.get(f"{place(item)}?_popup=1"))
        response = client.post(f"{place(item)}?_popup=1", {**data, "b": "closed", "_popup": "1"})
        assert "popup_response" in response.content.decode()
        assert stored(Item, number=1).b == "closed"

    @pytest.mark.parametrize("page", ["add", "change"])
    def test_a_key_that_is_pending_is_taken(self, client, item, page):
        Item.buffered.set(number=5, b="pending")
        path = "/admin/tests/item/add/" if page == "add" else place(item)
        data = fields(client.get(path))
        response = client.post(path, {**data, "number": "5", "b": "mine", "c": "c"})
        assert response.status_code == 200
        assert "Item with this Number already exists." in response.content.decode()
        assert stored(Item, number=5).b == "pending"

    def test_a_key_that_is_stored_is_refused_once(self, client, item):
        data = fields(client.get("/admin/tests/item/add/"))
        response = client.post("/admin/tests/item/add/", {**data, "number": "1", "c": "c"})
        text = response.content.decode()
        assert text.count("Item with this Number already exists.") == 1

    def test_a_primary_key_names_another_row(self, client):
        hall = Venue.objects.create(slug="hall", name="Hall")
        Venue.buffered.set(slug="hall", name="Great Hall")
        change(client, hall, slug="room")
        assert stored(Venue, slug="hall").name == "Great Hall"
        assert Venue.objects.get(slug="room").name == "Great Hall"

    def test_without_redis_it_shows_and_saves_what_is_stored(self, client, item, go):
        go("direct")
        change(client, item, b="closed")
        assert Item.objects.get(number=1).b == "closed"

    def test_the_history_names_what_was_changed(self, client, item):
        Item.buffered.set(number=1, b="waiting")
        change(client, item, b="closed")
        assert LogEntry.objects.get().get_change_message() == "Changed B."

    def test_a_row_that_is_to_be_deleted_is_not_there(self, client, item):
        Item.buffered.delete(number=1)
        assert client.get(place(item)).status_code == 302

    def test_a_new_row_goes_to_the_database(self, client):
        data = fields(client.get("/admin/tests/item/add/"))
        values = {**data, "number": "5", "b": "new", "c": "c"}
        response = client.post("/admin/tests/item/add/", values)
        assert response.status_code == 302
        assert Item.objects.get(number=5).b == "new"

    def test_a_key(self, client, item):
        Item.buffered.set(number=1, b="waiting", a=Add(1))
        change(client, item, number="2", c="y")
        assert Item.buffered.flush().dead_letters == 0
        (row,) = Item.objects.all()
        assert (row.pk, row.number, row.a, row.b, row.c) == (item.pk, 2, 2, "waiting", "y")

    def test_what_comes_in_while_a_key_is_changed(self, client, item):
        data = shown(client, item)
        write = partial(Item.buffered.set, number=1, b="waiting")
        with before_saving(write):
            save(client, item, data, number="2")
        assert Item.buffered.flush().dead_letters == 0
        assert Item.objects.get().b == "waiting"

    def test_fields_that_are_not_buffered(self, client, monkeypatch, item):
        redeclare(monkeypatch, Item.buffered, fields=("a", "b"))
        before = item.updated_at
        change(client, item, b="closed", c="y")
        row = Item.objects.get(number=1)
        assert (row.b, row.c) == ("open", "y")
        assert row.updated_at > before
        assert stored(Item, number=1).b == "closed"

    def test_a_row_of_metadata(self, client):
        owner = Owner.objects.create(name="o")
        note = Note.objects.create(page="p", owner=owner, key="k", value=1)
        mapping = Note.buffered.of(page="p", owner=owner)
        mapping.update(k=2, other=3)
        assert shown(client, note)["value"] == "2"
        change(client, note, value="5")
        assert dict(mapping) == {"k": 5, "other": 3}
        assert stored(Note, key="k").value == 5


class TestDelete:
    def test_a_row(self, client, item):
        Item.buffered.set(number=1, b="waiting")
        client.post(place(item, "delete"), {"post": "yes"})
        assert Item.objects.exists()
        assert client.get(place(item)).status_code == 302
        Item.buffered.flush()
        assert not Item.objects.exists()

    def test_some_rows(self, client, item):
        second, third = Item.objects.create(number=2), Item.objects.create(number=3)
        data = {"action": "delete_selected", "_selected_action": [item.pk, second.pk]}
        client.post("/admin/tests/item/", {**data, "post": "yes"})
        Item.buffered.flush()
        assert Item.objects.get() == third

    def test_a_row_of_metadata(self, client):
        owner = Owner.objects.create(name="o")
        note = Note.objects.create(page="p", owner=owner, key="k:1", value=1)
        Note.buffered.of(page="p", owner=owner)["other"] = 3
        client.post(place(note, "delete"), {"post": "yes"})
        Note.buffered.flush()
        assert Note.objects.get().key == "other"


class TestList:
    @pytest.mark.parametrize("editable", [True, False])
    def test_it_shows_what_is_pending(self, client, item, monkeypatch, editable):
        monkeypatch.setattr(ItemAdmin, "list_editable", ("b",) if editable else ())
        Item.objects.create(number=2, b="second")
        Item.objects.create(number=3, b="third")
        Item.buffered.set(number=1, b="waiting")
        Item.buffered.delete(number=2)
        page = client.get("/admin/tests/item/")
        assert [row.b for row in page.context["cl"].result_list] == ["third", "waiting"]

    def test_what_was_changed_in_it_is_written_and_no_more(self, client, item):
        Item.objects.create(number=2, b="second")
        Item.buffered.set(number=1, b="waiting")
        data = fields(client.get("/admin/tests/item/"))
        (name,) = (
            n for n, v in data.items() if n.endswith("-b") and v == "waiting" and "initial" not in n
        )
        Item.buffered.set(number=1, a=Add(5))
        response = client.post("/admin/tests/item/", {**data, name: "closed", "_save": "1"})
        assert response.status_code == 302
        row = stored(Item, number=1)
        assert (row.a, row.b) == (6, "closed")
        assert Item.objects.get(number=2).b == "second"

    def test_what_code_of_the_project_changes_is_written_too(self, client, item):
        data = fields(client.get("/admin/tests/item/"))
        (name,) = (n for n in data if n.endswith("-b") and not n.startswith("initial"))
        client.post("/admin/tests/item/", {**data, name: "escalated", "_save": "1"})
        assert Item.buffered.get(number=1).e
        assert not Item.objects.get().e


class TestInline:
    """Of pairs, on the page of their owner, which is not buffered."""

    @pytest.fixture
    def owner(self) -> Owner:
        return Owner.objects.create(name="anna")

    @pytest.fixture
    def pair(self, owner) -> Pair:
        return Pair.objects.create(owner=owner, name="x", value=1, note="old")

    def test_it_shows_what_is_pending(self, client, owner, pair):
        Pair.objects.create(owner=owner, name="gone")
        Pair.buffered.set(owner=owner, name="x", value=5)
        Pair.buffered.delete(owner=owner, name="gone")
        data = shown(client, owner)
        assert (data["pair_set-INITIAL_FORMS"], data["pair_set-0-value"]) == ("1", "5")

    def test_what_was_changed_in_it_is_written_through_the_buffer(self, client, owner, pair):
        Pair.buffered.set(owner=owner, name="x", value=5)
        change(client, owner, **{"pair_set-0-note": "new"})
        assert Pair.objects.get(name="x").note == "old"
        (entry,) = Pair.buffered.pending()
        assert entry.values == {"value": 5, "note": "new"}
        (log,) = LogEntry.objects.all()
        assert log.get_change_message() == f"Changed Note for pair \u201c{pair}\u201d."

    def test_who_edit_at_once_lose_nothing(self, client, owner, pair):
        first, second = shown(client, owner), shown(client, owner)
        save(client, owner, first, **{"pair_set-0-note": "new"})
        Pair.buffered.set(owner=owner, name="x", value=Add(6))
        save(client, owner, second, name="berta")
        save(client, owner, second, **{"pair_set-0-value": "9"})
        row = stored(Pair, name="x")
        assert (row.value, row.note) == (9, "new")

    def test_a_row_is_added_at_once(self, client, owner, pair):
        row = {"name": "y", "value": "3", "note": "y"}
        change(client, owner, **{f"pair_set-1-{name}": value for name, value in row.items()})
        assert Pair.objects.get(name="y").value == 3

    def test_a_row_that_is_pending_is_not_added(self, client, owner):
        Pair.buffered.set(owner=owner, name="y", value=7)
        data = {**shown(client, owner), "pair_set-0-name": "y", "pair_set-0-note": "y"}
        response = client.post(place(owner), data)
        assert "Pair with this Owner and Name already exists." in response.content.decode()
        assert stored(Pair, name="y").value == 7

    def test_a_row_is_deleted_through_the_buffer(self, client, owner, pair):
        Pair.buffered.set(owner=owner, name="x", value=5)
        change(client, owner, **{"pair_set-0-DELETE": "on"})
        assert Pair.objects.exists()
        assert shown(client, owner)["pair_set-INITIAL_FORMS"] == "0"
        Pair.buffered.flush()
        assert not Pair.objects.exists()

    def test_a_key_is_changed_at_once(self, client, owner, pair):
        Pair.buffered.set(owner=owner, name="x", value=5)
        change(client, owner, **{"pair_set-0-name": "y"})
        Pair.buffered.flush()
        assert Pair.objects.values_list("name", "value").get() == ("y", 5)

    def test_who_saves_the_rows_by_himself_saves_what_was_shown(
        self, client, owner, pair, monkeypatch
    ):
        """With commit=False, as the documents of Django say; and he deletes none."""

        def save_formset(self, request, form, formset, change):
            for row in formset.save(commit=False):
                row.save()

        monkeypatch.setattr(OwnerAdmin, "save_formset", save_formset)
        Pair.objects.create(owner=owner, name="y", note="y")
        Pair.buffered.set(owner=owner, name="x", value=5)
        change(client, owner, **{"pair_set-0-note": "new", "pair_set-1-DELETE": "on"})
        row = stored(Pair, name="x")
        assert (row.value, row.note) == (5, "new")
        assert Pair.objects.filter(name="y").exists()
