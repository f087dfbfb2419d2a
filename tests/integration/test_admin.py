"""The pages of the admin, who sees them, and what acts on what is pending."""

from __future__ import annotations

import gettext
import json
import re
import time
from pathlib import Path

import pytest
from django.contrib.admin.models import LogEntry
from django.db import OperationalError, connection, connections
from django.test import Client
from django.utils import translation

import writebehind_app
from tests.admin import ADMIN, DASHBOARD, HISTORY, LETTERS, client, entries, messages, page
from tests.backdoor.entries import id_of, make_older, plant, put_text
from tests.backdoor.flushes import refuse_batches
from tests.backdoor.limits import limit
from tests.backdoor.shards import are_paused
from tests.models import Item, Note, Owner, Pair, Setting, Visit
from writebehind_app import Add
from writebehind_app.models import AppliedBatch, DeadLetter

ITEMS = entries("tests.Item")


@pytest.fixture
def admin(plain) -> Client:
    return client(superuser=True)


def letter() -> DeadLetter:
    Pair.buffered.set(owner=404404, name="y", value=3)
    Pair.buffered.flush()
    DeadLetter.objects.update(id=1)
    return DeadLetter.objects.get()


def flushed() -> None:
    Item.buffered.set(number=1, a=2)
    Item.buffered.flush()


# Who may


HEALTH = f"{DASHBOARD}health/"  # which takes its time
VIEWS = [
    DASHBOARD,
    f"{DASHBOARD}status/",
    f"{DASHBOARD}flush/",
    ITEMS,
    f"{ITEMS}entry/?id=1",
    LETTERS,
    f"{LETTERS}1/change/",
    HISTORY,
]
ACTIONS = {
    f"{ITEMS}flush/": ("flush", {"id": "5"}),
    f"{DASHBOARD}flush/": ("flush", {"begin": "1", "buffer": "tests.Item"}),
    f"{ITEMS}discard/": ("discard", {"all": "1", "confirmation": "tests.Item"}),
    f"{DASHBOARD}pause/": ("pause", {"buffer": "tests.Item"}),
    f"{LETTERS}1/change/": ("retry", {"_retry": "1", "value": "4", "note": ""}),
}


def test_a_superuser_may_all(admin):
    assert letter().pk == 1
    assert "Dashboard" in page(admin, "/admin/")
    assert "Dashboard" in page(admin, ADMIN)
    for path in [HEALTH, *VIEWS]:
        page(admin, path)
    for path, (_, data) in ACTIONS.items():
        assert admin.post(path, data).status_code in (200, 302)


def test_who_may_only_view_sees_all_pages_and_can_do_nothing(plain):
    letter()
    viewer = client("view")
    Item.buffered.set(number=5, a=1)
    for path in set(VIEWS) - {f"{DASHBOARD}flush/"}:
        assert "formaction" not in page(viewer, path)
    for path, (_, data) in ACTIONS.items():
        assert viewer.post(path, data).status_code == 403, path
    assert "Export as CSV" in page(viewer, LETTERS)
    assert "Discard" not in page(viewer, LETTERS)
    assert viewer.post(LETTERS, {"action": "discard", "_selected_action": 1}).status_code in (
        200,
        302,
    )
    assert Item.buffered.count_pending() == 1
    assert DeadLetter.objects.get().attempts == 1
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("path", ACTIONS)
def test_each_action_has_a_permission_of_its_own(plain, path):
    letter()
    Item.buffered.set(number=5, a=1)
    needed, data = ACTIONS[path]
    others = {"flush", "discard", "retry", "pause"} - {needed}
    assert client("view", *others).post(path, data).status_code == 403
    assert client(needed).post(path, data).status_code == 403  # who sees nothing does nothing
    assert not LogEntry.objects.exists()
    assert client("view", needed).post(path, data).status_code == 302
    assert LogEntry.objects.exists()


def test_staff_without_permission_sees_nothing_of_it(plain):
    letter()
    # Who may see the tables of the package as such may not see the values in them.
    for staff in (client(), client("view_deadletter")):
        for path in [HEALTH, *VIEWS]:
            assert staff.get(path).status_code == 403, path
        for path, (_, data) in ACTIONS.items():
            assert staff.post(path, data).status_code == 403, path
        assert "writebehind" not in page(staff, "/admin/")


def test_others_are_asked_to_log_in(plain):
    for nobody in (Client(), client(staff=False)):
        for path in [HEALTH, *VIEWS]:
            response = nobody.get(path)
            assert response.status_code == 302, path
            assert response["Location"].startswith("/admin/login/")
        for path, (_, data) in ACTIONS.items():
            assert nobody.post(path, data)["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("path", ACTIONS)
def test_actions_are_posts_with_a_token(plain, path):
    letter()
    admin = client(superuser=True)
    if path.endswith(("pause/", "discard/", "Item/flush/")):
        assert admin.get(path).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(admin.get("/admin/").context["user"])
    assert strict.post(path, ACTIONS[path][1]).status_code == 403


def test_another_site(plain):
    letter()
    admin = client(superuser=True)
    for path in ["/admin/", *VIEWS]:
        text = page(admin, path.replace("/admin/", "/other/"))
        assert not re.search(r'(?:href|action)="/admin/', text), path
    text = page(admin, "/other/writebehind/dashboard/")
    assert "The other site" in text
    response = admin.post("/other/writebehind/dashboard/pause/", {"buffer": "tests.Item"})
    assert response["Location"] == "/other/writebehind/dashboard/"


def test_nothing_is_inline_and_nothing_external(admin):
    letter()
    flushed()
    Item.buffered.set(number=5, a=1)
    for path in VIEWS:
        text = page(admin, path)
        assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json)", text), path
        assert "<style" not in text, path
        assert not re.search(r"\sstyle=|\son\w+=\"|(?:src|href)=\"(?:https?:)?//", text), path


# Looking


def test_the_dashboard(admin):
    Item.buffered.set(number=5, a=1)
    Item.buffered.set(number=5, a=2)
    letter()
    status = page(admin, f"{DASHBOARD}status/")
    card = re.search(r"<li class=\"wb-card[^>]*>(?:(?!</li>).)*>Items</a>.*?</li>", status, re.S)
    assert re.findall(r"<dd>(\w+)", card[0])[:2] == ["1", "0"]
    assert f'href="{LETTERS}?buffer=tests.Pair&database=default">1</a>' in status
    text = page(admin, DASHBOARD)
    assert "Rows stored, per minute" in text
    assert "Django-Q2 has no schedule that flushes." in text
    assert 'data-rate="tests.Item in" data-count="2"' in text
    assert status.split("wb-cards")[1][:50] in text


def test_how_many_writes_become_one_entry(admin):
    for number in (1, 1, 1, 2):
        Item.buffered.set(number=number, a=1)
    Item.buffered.flush(number=1)
    status = page(admin, f"{DASHBOARD}status/")
    assert re.findall(r"Writes per entry</dt><dd>(.*?)<", status) == ["2.0"]


def test_the_charts(admin):
    flushed()
    drawn = charts(page(admin, DASHBOARD))
    assert drawn["Rows stored, per minute"] == drawn["Batches, per minute"] == ["1"]
    assert len(drawn) == 4
    assert all(len(values) == 1 for values in drawn.values())
    drawn = charts(page(admin, DASHBOARD, span="day", buffer="tests.Note"))
    assert drawn["Rows stored, per hour"] == []
    assert charts(page(admin, DASHBOARD, span="nonsense", buffer="tests.Nothing"))


def charts(text: str) -> dict[str, list[str]]:
    """What is drawn in each chart."""
    figures = re.findall(r"<figcaption>(.*?)</figcaption>(.*?)</svg>", text, re.S)
    return {name: re.findall(r"<title>[\d:]+: (.*?)<", svg) for name, svg in figures}


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_the_charts_add_up(database, redis_server):
    for n in range(3):
        Item.buffered.set(number=n, a=2)
        Item.buffered.flush()
    text = page(client(superuser=True), DASHBOARD, span="day")
    assert sum(map(int, charts(text)["Rows stored, per hour"])) == 3
    history = page(client(superuser=True), HISTORY)
    assert history.count('title="tests.Item"') == 3


def test_the_health(admin):
    letter()
    text = page(admin, HEALTH)
    assert "writebehind.W131" in text  # there are dead letters
    assert "What to do" in text
    part = page(admin, HEALTH, part=1)
    assert "writebehind.W131" in part
    assert "<html" not in part


def test_a_finding_leads_to_the_page_that_mends_it(admin):
    letter()
    text = page(admin, HEALTH)
    assert "Warning: Pairs: 1 dead letter." in text
    assert f'href="{LETTERS}?buffer=tests.Pair&database=default">See the dead letters</a>' in text
    assert "manage.py" not in text


def test_a_finding_about_what_is_pending_leads_to_it(admin, configure):
    configure(MAX_AGE=0.001)
    Item.buffered.set(number=5)
    make_older(Item.buffered, 120)
    with pytest.MonkeyPatch.context() as patch:
        refuse_batches(patch, OperationalError("disk is full"))
        told(admin, f"{ITEMS}flush/", {"id": "5"})
    text = page(admin, HEALTH)
    assert "Warning: Items: the oldest pending entry is 2 minutes old" in text
    assert f'href="{ITEMS}">See what is pending</a>' in text
    assert f'href="{ITEMS}?state=retrying">See the batch</a>' in text


def test_titles_are_in_words(admin):
    assert "<h1>Items</h1>" in page(admin, ITEMS)
    # Nothing is pending under this key any more.
    assert "<h1>Item: number 5</h1>" in page(admin, f"{ITEMS}entry/", id="5")
    assert "<h1>Item</h1>" in page(admin, f"{ITEMS}entry/", id="no number")
    assert "<h1>Visit</h1>" in page(admin, f"{entries('tests.Visit')}entry/", id="1-0")
    assert "<h1>Discard Items</h1>" in admin.post(f"{ITEMS}discard/", {"all": "1"}).content.decode()


def test_the_history_counts_batches(admin, configure):
    configure(SHARDS=1)
    Item.buffered.set(number=1, a=2)
    Item.buffered.flush()
    assert "1 batch\n" in page(admin, HISTORY)


def test_the_pending_entries_of_a_buffer(admin):
    Owner.objects.create(pk=7, name="anna")
    Item.buffered.set(number=5, a=Add(1), b="x")
    Note.buffered.of(page="p", owner=7)["color"] = "red"
    Visit.buffered.append(event=9, email="a@b.c")
    text = page(admin, ITEMS)
    assert "number=5" in text
    assert ">waiting<" in text
    assert '<span title="b, a">2</span>' in text
    assert "page=p, owner_id=7" in page(admin, entries("tests.Note"))
    assert "event=9, email=a@b.c" in page(admin, entries("tests.Visit"))
    assert "Nothing is pending: what was written is in the database." in page(
        admin, entries("tests.Setting")
    )
    assert "No entry matches." in page(admin, entries("tests.Setting"), age="60")
    page(admin, entries("tests.Nothing"), 404)


def test_an_entry_says_what_it_would_change(admin):
    Item.objects.create(number=5, a=10, b="old")
    Item.buffered.set(number=5, a=Add(3), c="new")
    text = page(admin, f"{ITEMS}entry/", id="5")
    rows = {
        row[0]: row[1:]
        for row in re.findall(r"<th scope=\"row\">(\w+)</th>" + r"\s*<td[^>]*>(.*?)</td>" * 3, text)
    }
    assert rows["a"] == ("10", "Add(amount=3)", "13")
    assert rows["b"] == ("old", "", "old")
    assert rows["c"] == ("NULL", "new", "new")
    Item.buffered.delete(number=5)
    text = page(admin, f"{ITEMS}entry/", id="5")
    assert "There is no row after the flush." in text
    assert Item.objects.get().a == 10


def test_an_entry_of_an_entity_and_a_record(admin):
    Owner.objects.create(pk=7, name="anna")
    Note.buffered.of(page="p", owner=7)["color"] = "red"
    Note.buffered.flush()
    Note.buffered.of(page="p", owner=7).update(color="blue", size=3)
    path = re.search(r'href="([^"]*/entry/[^"]*)"', page(admin, entries("tests.Note")))[1]
    text = re.sub(r"\s+", " ", page(admin, path))
    text = re.sub(r'<td data-label="[^"]*">', "<td>", text)
    assert '<th scope="row">color</th> <td>red</td> <td>blue</td> <td>blue</td>' in text
    assert '<th scope="row">size</th> <td>—</td> <td>3</td> <td>3</td>' in text
    Visit.buffered.append(event=9, email="a@b.c", note="hello")
    path = re.search(r'href="([^"]*/entry/[^"]*)"', page(admin, entries("tests.Visit")))[1]
    text = page(admin, path)
    assert "hello" in text
    assert "event 9, email a@b.c" in text
    for id in ("1", "x", ""):
        assert "Nothing is pending" in page(admin, f"{entries('tests.Visit')}entry/", id=id)
        assert "Nothing is pending" in page(admin, f"{ITEMS}entry/", id=id)


def test_what_somebody_else_wrote_to_redis_is_shown(admin, plain):
    Item.buffered.set(number=5, a=1)
    plant(Item.buffered, "<b>", "without a number", due="inf")
    plant(Item.buffered, "nothing", "nothing", due=1.5)
    plant(Item.buffered, "odd", "with a text that is no value", due=3)
    plant(Item.buffered, "77", "with a text that is no value", due=3)
    plant(Item.buffered, "text", "of another type", due=2)
    response = admin.get(ITEMS).content.decode()
    assert "number=5" in response
    assert "&lt;b&gt;" in response
    assert "<b>" not in response
    page(admin, f"{ITEMS}entry/", id="<b>")
    for id in ("text", "odd", "77", "nothing", "\0"):
        page(admin, f"{ITEMS}entry/", id=id)
    chosen = {"id": ["text", "odd", "77", "<b>", "nothing", "\0"]}
    assert admin.post(f"{ITEMS}discard/", chosen).status_code == 200
    for state in ("waiting", "due", "in_flight"):
        page(admin, ITEMS, state=state, age="10", order="newest")
    page(admin, ITEMS, after="nonsense", state="x", age="y", order="z")
    (message,) = told(admin, f"{ITEMS}flush/", {"id": [*chosen["id"], "5"]})
    assert message.startswith("1 row stored")
    assert told(admin, f"{ITEMS}discard/", {**chosen, "confirmation": "tests.Item"})
    assert Item.objects.get().a == 1


# Acting


def told(admin: Client, path: str, data: dict[str, object]) -> list[str]:
    return messages(admin.post(path, data, follow=True))


def test_chosen_entries_are_flushed(admin):
    for n in range(3):
        Item.buffered.set(number=n, a=n)
    assert told(admin, f"{ITEMS}flush/", {"id": ["0", "2"]}) == ["2 rows stored."]
    assert sorted(Item.objects.values_list("number", flat=True)) == [0, 2]
    assert Item.buffered.count_pending() == 1
    entry = LogEntry.objects.get()
    assert entry.object_repr == "tests.Item"
    assert "2 rows stored" in entry.change_message
    assert admin.get(entry.get_admin_url(), follow=True).request["PATH_INFO"] == ITEMS
    assert told(admin, f"{ITEMS}flush/", {}) == ["Choose what to flush."]


def test_a_flush_has_transactions_of_its_own(admin, monkeypatch):
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    Item.buffered.set(number=5, a=1)
    assert told(admin, f"{ITEMS}flush/", {"id": "5"}) == ["1 row stored."]
    Item.buffered.set(number=5, a=2)
    data = {"all": "1", "confirmation": "tests.Item"}
    assert told(admin, f"{ITEMS}discard/", data) == ["1 entry discarded."]
    pk = letter().pk
    Owner.objects.create(pk=404404, name="anna")
    data = {"action": "retry", "_selected_action": pk}
    assert told(admin, LETTERS, data) == ["1 stored."]


def test_a_flush_says_what_was_refused(admin):
    Owner.objects.create(pk=7, name="anna")
    for n in range(5):
        Pair.buffered.set(owner=7, name=f"good {n}")
    for n in range(2):
        Pair.buffered.set(owner=404404, name=f"bad {n}")
    admin.post(f"{DASHBOARD}flush/", {"begin": "1", "buffer": "tests.Pair"})
    assert "0 / 7" in page(admin, f"{DASHBOARD}flush/")
    response = admin.post(f"{DASHBOARD}flush/", follow=True)
    (message,) = messages(response)
    assert message.startswith("5 rows stored, 2 refused: <a href=")
    assert LETTERS in message
    assert "It has ended: 5 rows stored, 2 refused. 0 entries are left." in page(
        admin, f"{DASHBOARD}flush/"
    )
    assert LogEntry.objects.count() == 2


def test_everything_is_flushed_step_by_step(admin, monkeypatch, configure):
    configure(BATCH_SIZE=1)
    Item.buffered.set_many([{"number": n, "a": n} for n in range(12)])
    Setting.buffered.of(site=1)["x"] = 2
    limit(monkeypatch, admin_flush_step=0.1)
    path, accept = f"{DASHBOARD}flush/", {"Accept": "application/json"}
    begun = admin.post(path, {"begin": "1"}, headers=accept).json()
    assert begun == {"done": 0, "total": 13, "over": False}
    deadline, dones = time.monotonic() + 120, [0]
    while time.monotonic() < deadline:
        report = admin.post(path, headers=accept).json()
        dones.append(report["done"])
        page(admin, path)  # whoever reloads sees how far it is
        if report["over"]:
            break
    assert dones == sorted(dones)
    assert dones[-1] == 13
    assert Item.objects.count() == 12
    assert Setting.objects.get().value == 2
    assert admin.post(path, headers=accept).json()["over"]


def test_a_flush_says_that_a_batch_failed(admin, monkeypatch):
    Item.buffered.set(number=5, a=1)
    with monkeypatch.context() as patch:
        refuse_batches(patch, OperationalError("no such table"))
        (message,) = told(admin, f"{ITEMS}flush/", {"id": "5"})
    assert "1 entry is left. A batch failed and waits" in message
    assert ">number=5</a>" in page(admin, ITEMS, state="in_flight")
    text = page(admin, ITEMS, state="retrying")
    assert ">retrying<" in text
    assert "OperationalError: no such table" in text
    assert "its batch failed 1 time" in page(admin, f"{ITEMS}entry/", id="5")
    told(admin, f"{ITEMS}flush/", {"id": "5"})
    assert ">retrying<" not in page(admin, ITEMS, state="retrying")
    assert "1: OperationalError: no such table" in page(admin, HISTORY, failures="some")
    assert "OperationalError" not in page(admin, HISTORY, failures="none")


def test_a_discard_is_confirmed_by_the_name_of_the_buffer(admin):
    for n in range(3):
        Item.buffered.set(number=n, b=f"value {n}")
    path = f"{ITEMS}discard/"
    response = admin.post(path, {"id": ["1"]})
    text = response.content.decode()
    assert "1 entry would be lost" in text
    assert "value 1" in text
    assert "value 2" not in text
    wrong = admin.post(path, {"id": ["1"], "confirmation": "Item"}).content.decode()
    assert "Nothing was discarded" in wrong
    assert Item.buffered.count_pending() == 3
    data = {"id": ["1"], "confirmation": "tests.Item"}
    assert told(admin, path, data) == ["1 entry discarded."]
    assert Item.buffered.count_pending() == 2
    assert "value 2" in admin.post(path, {"all": "1"}).content.decode()
    data = {"all": "1", "confirmation": "tests.Item"}
    assert told(admin, path, data) == ["2 entries discarded."]
    assert Item.buffered.count_pending() == 0
    assert LogEntry.objects.count() == 2
    assert told(admin, path, {}) == ["Choose what to discard."]


def test_chosen_records_are_discarded(admin):
    for n in range(12):
        Visit.buffered.append(event=n, email="a@b.c")
    visits = entries("tests.Visit")
    ids = re.findall(
        r'name="id" value="([^"]+)" aria-label="Choose event=([147]),', page(admin, visits)
    )
    assert len(ids) == 3
    assert (
        "Records are flushed in their order" in told(admin, f"{visits}flush/", {"id": ids[0][0]})[0]
    )
    data = {"id": [*(id for id, _ in ids), "1-0", "nonsense", "9-99"]}
    assert "event=4, email=a@b.c" in admin.post(f"{visits}discard/", data).content.decode()
    assert told(admin, f"{visits}discard/", {**data, "confirmation": "tests.Visit"}) == [
        "3 entries discarded."
    ]
    left = [each.key["event"] for each in Visit.buffered.pending()]
    assert sorted(left) == [n for n in range(12) if n not in (1, 4, 7)]
    Visit.buffered.append(event=4, email="a@b.c")  # its unique values are free


def test_a_buffer_is_paused_and_resumed(admin):
    path = f"{DASHBOARD}pause/"
    assert told(admin, path, {"buffer": "tests.Item"}) == ["Paused, and writes go on: Items."]
    assert page(admin, DASHBOARD).count(">paused<") == 1
    assert are_paused(Item.buffered)
    data = {"buffer": "tests.Item", "resume": ""}
    assert told(admin, path, data) == ["Flushed again: Items."]
    assert ">paused<" not in page(admin, DASHBOARD)
    assert admin.post(path, {"buffer": "tests.Nothing"}).status_code == 404


# The history


def test_the_history(admin):
    flushed()
    letter()
    assert page(admin, HISTORY).count('class="field-applied"') == 2
    assert page(admin, HISTORY, buffer="tests.Item").count('class="field-applied"') == 1
    assert page(admin, HISTORY, letters="some").count('class="field-applied"') == 1
    assert page(admin, HISTORY, letters="none").count('class="field-applied"') == 1
    pk = AppliedBatch.objects.first().pk
    assert admin.post(f"{HISTORY}{pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin.get(f"{HISTORY}add/").status_code == 403


# Without Redis


def test_without_redis_dead_letters_and_the_history_work(admin, configure):
    flushed()
    pk = letter().pk
    configure(REDIS="redis://127.0.0.1:1/0")
    for path in VIEWS:
        page(admin, path)
    for path in (DASHBOARD, ITEMS, f"{ITEMS}entry/?id=5"):
        assert "Redis does not answer" in page(admin, path)
    assert page(admin, HISTORY).count('class="field-applied"') == 2
    assert ">1</a>" in page(admin, DASHBOARD)  # dead letter
    assert "writebehind.E101" in page(admin, HEALTH)
    for path, (_, data) in ACTIONS.items():
        if "deadletter" not in path:
            (message,) = told(admin, path, data)
            assert message.startswith("Redis does not answer: "), path
    Owner.objects.create(pk=404404, name="anna")
    data = {"_retry": "1", "value": "3"}
    assert told(admin, f"{LETTERS}{pk}/change/", data) == ["1 stored."]
    assert Pair.objects.get().value == 3


def test_without_buffering_nothing_is_amiss(admin, configure):
    configure(MODE="direct", REDIS="redis://127.0.0.1:1/0")
    assert "Redis does not answer" not in page(admin, DASHBOARD)


# Sensitive values


@pytest.fixture
def secret(monkeypatch) -> None:
    monkeypatch.setattr(Pair.buffered, "sensitive", ("note", "value"))
    monkeypatch.setattr(Note.buffered, "sensitive", ("color",))


def test_sensitive_values_are_masked(plain, secret):
    Owner.objects.create(pk=7, name="anna")
    Pair.objects.create(owner_id=7, name="x", note="stored secret")
    Pair.buffered.set(owner=7, name="x", note="pending secret")
    Pair.buffered.set(owner=404404, name="y", note="dead secret")
    Pair.buffered.flush(owner=404404, name="y")
    DeadLetter.objects.update(id=1)
    Note.buffered.of(page="p", owner=7).update(color="meta secret", size=3)
    viewer = client("view", "discard", "retry")
    paths = [entries("tests.Pair"), LETTERS, f"{LETTERS}1/change/"]
    for label in ("tests.Pair", "tests.Note"):
        listed = page(viewer, entries(label))
        paths += re.findall(r'href="([^"]*/entry/[^"]*)"', listed)
    assert len(paths) == 5
    for path in paths:
        assert "secret" not in page(viewer, path), path
    for label in ("tests.Pair", "tests.Note"):
        text = viewer.post(f"{entries(label)}discard/", {"all": "1"}).content.decode()
        assert "secret" not in text
        assert "•••" in text
    for action in ("export_csv", "export_json", "discard"):
        data = {"action": action, "_selected_action": 1}
        assert "secret" not in viewer.post(LETTERS, data).content.decode()
    assert "pending secret" in page(client("view", "reveal"), paths[3])
    assert "stored secret" in page(client("view", "reveal"), paths[3])
    exported = client("view", "reveal").post(
        LETTERS, {"action": "export_json", "_selected_action": 1}
    )
    assert json.loads(exported.content)[0]["values"]["note"] == "dead secret"


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_the_reason_of_a_letter_has_no_sensitive_values(database, redis_server, secret, caplog):
    """Databases quote the values that they refuse."""
    Owner.objects.create(pk=7, name="anna")
    Pair.objects.create(owner_id=7, name="x", note="top secret")
    Pair.buffered.set(owner=7, name="y", note="top secret")
    Pair.buffered.flush()
    found = DeadLetter.objects.get()
    said = {"sqlite": "UNIQUE", "postgresql": "constraint tests_pair", "mysql": "error 1062"}
    assert said[connections[database].vendor] in found.reason
    assert "secret" not in found.reason
    assert "secret" not in caplog.text
    assert messages(
        client("view", "retry").post(f"{LETTERS}{found.pk}/change/", {"_retry": ""}, follow=True)
    ) == ["1 refused again: see why below."]
    assert "secret" not in DeadLetter.objects.get().reason


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
def test_the_reason_of_a_letter_quotes_no_part_of_a_sensitive_value(database, redis_server, secret):
    """Databases cut long values and escape quotes."""
    note = "O'Brien \\ " + "S" * 80
    Owner.objects.create(pk=7, name="anna")
    Pair.objects.create(owner_id=7, name="x", note=note)
    Pair.buffered.set(owner=7, name="y", note=note)
    Pair.buffered.flush()
    reason = DeadLetter.objects.get().reason
    assert "SSSS" not in reason
    assert "Brien" not in reason


def test_what_is_not_understood_is_masked_as_a_whole(plain, monkeypatch):
    Pair.buffered.set(owner=404404, name="Anna", value=3, note="ill")
    Pair.buffered.flush()
    monkeypatch.setattr(Pair.buffered, "sensitive", ("name", "note"))
    letter = DeadLetter.objects.get()
    entry = json.loads(letter.entry)
    entry["values"]["gone"] = '0000000000000001"x"'  # a field that a deploy removed
    letter.entry = json.dumps(entry)
    for label in ("tests.Pair", "tests.Gone"):
        letter.buffer = label
        letter.save()
        for who, sees in ((client("view"), False), (client("view", "reveal"), True)):
            exported = {"action": "export_json", "_selected_action": letter.pk}
            for text in (
                page(who, LETTERS),
                page(who, f"{LETTERS}{letter.pk}/change/"),
                who.post(LETTERS, exported).content.decode(),
            ):
                assert ("Anna" in text) is sees
    Pair.buffered.set(owner=1, name="Anna", note="ill")
    put_text(Pair.buffered, id_of(Pair.buffered, owner=1, name="Anna"), "value", "nonsense")
    text = page(client("view"), entries("tests.Pair"))
    assert "Anna" not in text
    assert "•••" in text


def test_why_a_batch_failed_is_told_without_sensitive_values(admin, secret, monkeypatch):
    """It is kept in Redis and, once the batch was applied, in the ledger."""

    Pair.buffered.set(owner=7, name="x", note="top secret")
    with monkeypatch.context() as patch:
        refuse_batches(patch, OperationalError("could not write 'top secret'"))
        with pytest.raises(OperationalError):
            Pair.buffered.flush()
    text = page(client("view"), entries("tests.Pair"), state="retrying")
    assert "OperationalError" in text
    assert "secret" not in text
    assert "secret" not in page(admin, HEALTH)
    Owner.objects.create(pk=7, name="anna")
    Pair.buffered.flush()
    assert AppliedBatch.objects.get().error == "OperationalError"


# Languages


def test_german(admin):
    letter()
    Item.buffered.set(number=5, a=1)
    with translation.override("de"):
        # It says where it may be broken, for the titles of narrow columns.
        assert "Zurückgewiesene Einträge" in page(admin, "/admin/").replace("\u00ad", "")
        assert "Alles übertragen" in page(admin, DASHBOARD)
        assert "1 ausstehend, davon 0 fällig; 0 unterwegs." in page(admin, ITEMS)
        assert "Nach der Übertragung" in page(admin, f"{ITEMS}entry/", id="5")
        assert "Einmal zurückgewiesen, am" in page(admin, f"{LETTERS}1/change/")
        assert told(admin, f"{ITEMS}flush/", {"id": "5"}) == ["1 Zeile gespeichert."]
        # Numbers of a drawing are written as SVG has them.
        svg = re.search(r"<svg viewBox.*?</svg>", page(admin, DASHBOARD), re.S)[0]
        assert not re.search(r'(?:x|y|width|height)="\d+,', svg)


def test_the_translation_is_complete_and_compiled():
    directory = Path(writebehind_app.__file__).parent / "locale" / "de" / "LC_MESSAGES"
    source = (directory / "django.po").read_text()
    assert "fuzzy" not in source
    assert not re.search(r'msgstr(?:\[\d\])? ""\n\n', source.partition("\n\n")[2])
    with (directory / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    ids = re.findall(r'^msgid "(.+)"$', source, re.M)
    plurals = set(re.findall(r'^msgid "(.+)"\nmsgid_plural', source, re.M))
    same = {"Write-behind", "Filter", "ticket", "tickets", "Ticket", "name", "status", "patient"}
    for id in {*ids} - plurals:
        translated = compiled.gettext(id)
        assert translated != id or id in same or id.startswith("%d "), id
    for id in plurals:
        assert compiled.ngettext(id, "-", 1) != "-", id
