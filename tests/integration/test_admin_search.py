"""Pending entries are searched for by their key, as a whole or by how it begins."""

from __future__ import annotations

import base64
import re

import pytest
from django.test import Client

from tests.admin import client, entries, page
from tests.backdoor.batches import claim
from tests.backdoor.entries import id_of, pending_ids, set_due
from tests.backdoor.limits import limit
from tests.models import Everything, Item, Note, Owner, Pair, Tick, Visit

ITEMS, PAIRS = entries("tests.Item"), entries("tests.Pair")


@pytest.fixture
def admin(plain) -> Client:
    return client(superuser=True)


def rows(text: str) -> list[str]:
    return re.findall(r"<th scope=\"row\">(?:<a [^>]*>)?(.*?)<", text)


def keys(**texts: str) -> dict[str, str]:
    return {f"key-{name}": text for name, text in texts.items()}


def test_an_entry_is_found_by_its_key(admin):
    Pair.buffered.set(owner=7, name='a "b"', value=3)
    response = admin.get(PAIRS, keys(owner="7", name='a "b"'))
    assert 'name a "b"' in page(admin, response["Location"])
    response = admin.get(PAIRS, keys(owner="7", name="c"))
    assert "Nothing is pending under this key" in page(admin, response["Location"])


def test_entries_are_found_by_how_their_key_begins(admin):
    for owner, name in ((7, "anna"), (7, 'an"na'), (7, "bert"), (71, "anna")):
        Pair.buffered.set(owner=owner, name=name, value=3)
    assert rows(page(admin, PAIRS, **keys(owner="7"))) == [
        "owner_id=7, name=anna",
        'owner_id=7, name=an"na',
        "owner_id=7, name=bert",
    ]
    assert rows(page(admin, PAIRS, **keys(owner="7*")))[-1] == "owner_id=71, name=anna"
    found = rows(page(admin, PAIRS, order="newest", **keys(owner="7", name="an*")))
    assert found == ['owner_id=7, name=an"na', "owner_id=7, name=anna"]
    assert rows(page(admin, PAIRS, **keys(owner="7", name='an"*'))) == ['owner_id=7, name=an"na']
    assert rows(page(admin, PAIRS, age="10", **keys(owner="7"))) == []
    Note.buffered.of(page="ä1", owner=7)["color"] = "red"
    assert rows(page(admin, entries("tests.Note"), **keys(page="ä*"))) == ["page=ä1, owner_id=7"]
    key = "12345678-0000-0000-0000-000000000001"
    Everything.buffered.set(key=key, integer=1)
    assert rows(page(admin, entries("tests.Everything"), **keys(key="1234*"))) == [f"key={key}"]


def test_what_is_in_flight_is_found_too(admin):
    for n in (1, 12, 2):
        Item.buffered.set(number=n, a=1)
    claim(Item.buffered)
    found = rows(page(admin, ITEMS, state="in_flight", **keys(number="1*")))
    assert sorted(found) == ["number=1", "number=12"]


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_search_stops_and_goes_on(admin, configure, monkeypatch, newest_first):
    """Of many entries a part is looked at with each page: none is missed, and none comes twice, or
    out of order, however differently the shards are filled."""
    configure(SHARDS=4)
    limit(monkeypatch, entries_of_a_search=1000, admin_search_rounds=1)
    Item.buffered.set_many([{"number": n, "a": n} for n in range(10_000)])
    wanted = []
    for number, ids in enumerate(pending_ids(Item.buffered)):
        due = {id: 1_700_000_000_000_000 + rank * 10**number for rank, id in enumerate(ids)}
        set_due(Item.buffered, due)
        wanted += [(at, number, f"number={id}") for id, at in due.items() if id.startswith("99")]
    order = "newest" if newest_first else ""
    path, query, found, pages = ITEMS, {"order": order, **keys(number="99*")}, [], 0
    while path:
        text = page(admin, path, **query)
        found += rows(text)
        pages += 1
        further = re.search(r'href="(\?[^"]*)">(Look further|Next page)', text)
        path, query = (ITEMS + further[1], {}) if further else ("", {})
    assert len(wanted) == 111
    assert found == [name for _, _, name in sorted(wanted, reverse=newest_first)]
    assert pages > 4


def test_a_search_that_was_cut_off_says_so(admin, monkeypatch):
    limit(monkeypatch, entries_of_a_search=1000, admin_search_rounds=1)
    Item.buffered.set_many([{"number": n, "a": n} for n in range(5000)])
    text = page(admin, ITEMS, **keys(number="4999*"))
    assert "No entry matches, as far as was looked." in text
    assert "Look further" in text


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        (keys(owner="x", name="y"), "must be an integer"),
        (keys(name="anna"), "Fill in this field too: a later one is filled in."),
        (keys(owner="7*", name="anna"), "Only the last field that you fill in may end in *."),
    ],
)
def test_a_search_says_what_is_wrong(admin, texts, error):
    Pair.buffered.set(owner=7, name="anna", value=3)
    assert "errorlist" not in page(admin, PAIRS)
    text = page(admin, PAIRS, **texts)
    assert error in text
    assert rows(text) == ["owner_id=7, name=anna"]


def test_a_record_is_found_by_its_unique_values(admin):
    Visit.buffered.append(event=9, email="a@b.c", note="hello")
    visits = entries("tests.Visit")
    response = admin.get(visits, keys(event="9", email="a@b.c"))
    assert "hello" in page(admin, response["Location"])
    response = admin.get(visits, keys(event="9", email="b@b.c"))
    assert "Nothing is pending under this key" in page(admin, response["Location"])
    assert "A record is found only by the exact values" in page(admin, visits, **keys(event="9"))
    assert "A record is found" in page(admin, visits, **keys(event="9", email="a*"))
    assert "key-" not in page(admin, entries("tests.Tick"))
    assert Tick.buffered.count_pending() == 0


def test_a_hidden_key_is_not_to_be_guessed(plain, monkeypatch):
    """Neither by a search, nor by the address of an entry."""
    monkeypatch.setattr(Pair.buffered, "sensitive", ("name",))
    monkeypatch.setattr(Visit.buffered, "sensitive", ("email",))
    Owner.objects.create(pk=7, name="anna")
    Pair.buffered.set(owner=7, name="secret", value=3)
    Visit.buffered.append(event=9, email="secret@b.c")
    viewer = client("view", "flush", "discard")
    text = page(viewer, PAIRS, **keys(owner="7", name="sec*"))
    assert "owner_id=7, name=•••" in text
    assert 'name="key-name"' not in text
    assert rows(page(viewer, PAIRS, **keys(owner="8"))) == []
    assert "secret" not in text
    for data in ({"id": '7,"secret"'}, {"id": '7,"no such"'}):
        page(viewer, f"{PAIRS}entry/", 403, **data)
        assert viewer.post(f"{PAIRS}flush/", data).status_code == 403
        assert viewer.post(f"{PAIRS}discard/", data).status_code == 403
    assert viewer.post(f"{PAIRS}discard/", {"all": "1"}).status_code == 200
    text = page(viewer, entries("tests.Visit"))
    assert "email=•••" in text
    assert "key-" not in text
    assert "secret" in page(client("view", "reveal"), PAIRS, **keys(owner="7"))


def test_the_address_of_a_further_page_says_nothing_of_a_hidden_key(plain, monkeypatch):
    limit(monkeypatch, admin_page=2)
    monkeypatch.setattr(Pair.buffered, "sensitive", ("name",))
    for n in range(7):
        Pair.buffered.set(owner=7, name=f"secret{n}", value=n)
        id = id_of(Pair.buffered, owner=7, name=f"secret{n}")
        set_due(Pair.buffered, {id: 1_700_000_000_000_000})  # all at one time
    viewer, path, values = client("view"), PAIRS, 0
    while path:
        text = page(viewer, path)
        values += len(rows(text))
        following = re.search(r'href="(\?after=(\w+)[^"]*)">Next page', text)
        if following:
            told = base64.urlsafe_b64decode(following[2] + "==").decode(errors="replace")
            assert "secret" not in told
        path = PAIRS + following[1] if following else ""
    assert values == 7
