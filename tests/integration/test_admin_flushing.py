"""What somebody on call sees of a flush that does not go as it should."""

from __future__ import annotations

import time
from io import StringIO

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.core.management import call_command
from django.db import connection
from django.test import Client

from tests.admin import DASHBOARD, client, entries, messages, page
from tests.backdoor.batches import Claim, claim
from tests.backdoor.entries import plant_copy
from tests.backdoor.limits import limit
from tests.models import Item, Pair, Visit
from writebehind_app.admin import flushing
from writebehind_app.models import AppliedBatch

ITEMS, FLUSH = entries("tests.Item"), f"{DASHBOARD}flush/"
SCRIPT = {"Accept": "application/json"}


@pytest.fixture
def admin(plain) -> Client:
    return client(superuser=True)


def begin(admin: Client, *labels: str) -> None:
    admin.post(FLUSH, {"begin": "1", "buffer": labels or ["tests.Item"]})


def claimed() -> Claim:
    """A batch that somebody else is at."""
    Item.buffered.set(number=5, a=1)
    (batch,) = claim(Item.buffered)
    return batch


def test_a_flush_ends_where_another_flusher_hangs(admin, monkeypatch):
    claimed()
    limit(monkeypatch, admin_flush_step=0.1, admin_flush_idle_steps=3)
    begin(admin)
    for _ in range(2):
        assert not admin.post(FLUSH, headers=SCRIPT).json()["over"]
    assert messages(admin.post(FLUSH, follow=True)) == ["0 rows stored; 1 entry is left."]


def test_a_flush_waits_for_another_flusher(admin):
    batch = claimed()
    begin(admin)
    started = time.monotonic()
    report = admin.post(FLUSH, headers=SCRIPT).json()
    assert report == {"done": 0, "total": 1, "over": False}
    assert 1 < time.monotonic() - started < 10
    batch.acknowledge()
    assert admin.post(FLUSH, headers=SCRIPT).json() == {"done": 1, "total": 1, "over": True}


def test_a_flush_says_what_is_paused(admin):
    Item.buffered.set(number=5, a=1)
    Pair.buffered.set(owner=7, name="x")
    call_command("writebehind_pause", "tests.Item", stdout=StringIO())
    begin(admin, "tests.Item", "tests.Pair")
    (message,) = messages(admin.post(FLUSH, follow=True))
    assert message.startswith("0 rows stored, 1 refused: ")
    assert message.endswith("; 1 entry is left; paused: Items.")
    assert "Paused: Items." in page(admin, FLUSH)
    chosen = admin.post(f"{ITEMS}flush/", {"id": "5"}, follow=True)
    assert messages(chosen) == ["0 rows stored; 1 entry is left; paused: Items."]
    text = page(admin, ITEMS)
    assert ">paused<" in text
    assert ">Resume<" in text
    assert ">Pause<" not in text


def test_a_step_while_redis_is_away_says_so(admin, configure):
    Item.buffered.set(number=5, a=1)
    begin(admin)
    configure(REDIS="redis://127.0.0.1:1/0")
    response = admin.post(FLUSH, headers=SCRIPT)
    assert response.status_code == 503
    assert response.json()["problem"].startswith("Redis does not answer: ")
    (message,) = messages(admin.post(FLUSH, follow=True))
    assert message.startswith("Redis does not answer: ")


def test_chosen_entries_do_not_wait_for_a_frozen_redis(admin, plain):
    Item.buffered.set(number=5, a=1)
    started = time.monotonic()
    plain.pause()
    (message,) = messages(admin.post(f"{ITEMS}flush/", {"id": "5"}, follow=True))
    plain.resume()
    assert message.startswith("Redis does not answer: ")
    assert time.monotonic() - started < 10


def test_two_tabs_count_what_was_stored_once(admin, monkeypatch, configure):
    """The second one waits while the first is at a step, and sees what it did."""
    configure(BATCH_SIZE=1)
    limit(monkeypatch, admin_flush_step=0.05)
    Item.buffered.set_many([{"number": n, "a": n} for n in range(12)])
    begin(admin)
    session = admin.session
    with flushing.alone(session) as is_alone:
        assert is_alone
        before = admin.post(FLUSH, headers=SCRIPT).json()
        assert before == {"done": 0, "total": 12, "over": False}
        assert Item.objects.count() == 0
    for _ in range(50):
        if admin.post(FLUSH, headers=SCRIPT).json()["over"]:
            break
    assert "It has ended: 12 rows stored" in page(admin, FLUSH)
    assert LogEntry.objects.filter(change_message__startswith="Flush has ended").count() == 1


def test_a_flush_that_another_release_began_is_none(admin):
    session = admin.session
    session["writebehind.flush"] = {"labels": ["tests.Item"], "total": 1, "what": "else"}
    session.save()
    assert "Nobody has begun a flush in this session." in page(admin, FLUSH)
    begin(admin)
    page(admin, FLUSH)


def test_after_an_action_one_is_where_one_was(admin):
    Item.buffered.set(number=5, a=1)
    back = "state=due&key-number=5*"
    response = admin.post(f"{ITEMS}flush/", {"back": back})
    assert response["Location"] == f"{ITEMS}?state=due&key-number=5%2A"
    data = {"id": "5", "confirmation": "tests.Item", "back": "//example.com"}
    response = admin.post(f"{ITEMS}discard/", data)
    assert response["Location"].startswith(f"{ITEMS}?")


def test_what_is_in_flight_is_not_said_to_be_discarded(admin):
    claimed()
    assert (
        "0 entries would be lost" in admin.post(f"{ITEMS}discard/", {"all": "1"}).content.decode()
    )
    text = admin.post(f"{ITEMS}discard/", {"id": ["5", "77"]}).content.decode()
    assert "0 entries would be lost" in text
    assert "and 1 more" not in text


def test_where_the_log_of_the_admin_links_to(admin):
    label = "writebehind_meta.LessonMeta"
    path = f"{DASHBOARD}{quote(label)}/change/"
    assert path != f"{entries(label)}change/"
    assert admin.get(path)["Location"] == entries(label)
    page(admin, f"{DASHBOARD}tests/Item/change/", 404)


def test_an_entry_of_a_table_that_is_missing(admin):
    """And one whose key is none for the database."""
    Item.buffered.set(number=5, a=1)
    table = Item._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO away")
        try:
            text = page(admin, f"{ITEMS}entry/", id="5")
        finally:
            cursor.execute(f"ALTER TABLE away RENAME TO {table}")
    assert "This cannot be shown: OperationalError: no such table" in text
    big = str(10**30)
    plant_copy(Item.buffered, "5", big)
    page(admin, f"{ITEMS}entry/", id=big)


def test_a_discard_that_the_database_does_not_take_says_so(admin):
    claimed().release(error="no")
    table = AppliedBatch._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO away")
        try:
            data = {"all": "1", "confirmation": "tests.Item"}
            response = admin.post(f"{ITEMS}discard/", data, follow=True)
        finally:
            cursor.execute(f"ALTER TABLE away RENAME TO {table}")
    (message,) = messages(response)
    assert message.startswith("The database refused it: OperationalError")
    assert Item.buffered.count_pending() == 1


def test_a_long_value_is_there_as_a_whole(admin):
    Item.buffered.set(number=5, c="x" * 100)
    assert "wb-long" not in page(admin, f"{ITEMS}entry/", id="5")
    Visit.buffered.append(event=1, email="a@b.c", note="z" * 900)
    listed = page(admin, entries("tests.Visit"))
    path = listed.split("/entry/?id=")[1].split('"')[0]
    text = page(admin, f"{entries('tests.Visit')}entry/?id={path}")
    assert "z" * 300 + "…</summary>" + "z" * 900 in text
