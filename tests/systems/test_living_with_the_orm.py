"""The recipes of docs/living-with-the-orm.md, carried out as they are written."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import pytest
from django.db import connections
from django.http import HttpResponse
from django.test import RequestFactory
from rest_framework.test import APIRequestFactory

from tests import models
from tests.backdoor.batches import claim
from tests.documents import ROOT, blocks
from tests.models import Ticket
from tests.router import current
from writebehind_app import Add
from writebehind_app.models import AppliedBatch

pytestmark = pytest.mark.usefixtures("database", "redis_server")
PAGE = ROOT / "docs" / "living-with-the-orm.md"


def recipe(heading: str) -> dict[str, Any]:
    """What the code below a heading defines."""
    [(language, code)] = blocks(PAGE, heading)
    assert language == "python"
    defined: dict[str, Any] = {"Ticket": Ticket, "__name__": models.__name__}
    exec(code, defined)
    return defined


@pytest.fixture
def ticket() -> Ticket:
    return Ticket.objects.create(number=5, subject="Printer", status="open")


def stored() -> Any:
    assert Ticket.buffered.flush().dead_letters == 0
    return Ticket.objects.values("subject", "status", "views").get(number=5)


def test_the_model_is_the_one_of_the_tests():
    """But for its types and its docstring."""
    [(_, code), *_] = blocks(PAGE, "Call by call")
    said = code[code.index("class Ticket") :].split()
    ours = re.sub(r'"""[^"]*"""|: ClassVar\S+(?= =)', "", inspect.getsource(Ticket)).split()
    assert said == ours


class TestForms:
    @pytest.fixture
    def page(self) -> Any:
        defined = recipe("Forms")
        defined["render"] = lambda request, template, context: HttpResponse(context["form"])
        defined["redirect"] = lambda path: HttpResponse(status=302)
        return lambda request: defined["edit"](request, number=5)

    def shown(self, page: Any) -> dict[str, str]:
        text = page(RequestFactory().get("/edit/")).content.decode()
        return dict(re.findall(r'name="([\w-]+)" value="([^"]*)"', text))

    def send(self, page: Any, data: dict[str, str]) -> None:
        assert page(RequestFactory().post("/edit/", data)).status_code == 302

    def test_it_shows_what_is_pending_and_writes_what_was_changed(self, page, ticket):
        Ticket.buffered.set(number=5, status="waiting", views=Add(1))
        shown = self.shown(page)
        assert shown["status"] == "waiting"
        self.send(page, shown | {"status": "closed"})
        (entry,) = Ticket.buffered.pending()
        assert entry.values.keys() == {"status", "views"}
        assert stored() == {"subject": "Printer", "status": "closed", "views": 1}

    def test_two_who_edit_at_once(self, page, ticket):
        first, second = self.shown(page), self.shown(page)
        self.send(page, first | {"status": "closed"})
        self.send(page, second | {"subject": "Screen"})
        assert stored() == {"subject": "Screen", "status": "closed", "views": 0}

    def test_a_new_row(self):
        form = recipe("Forms")["TicketForm"]({"subject": "New", "status": "open"})
        form.instance.number = 5
        form.save()
        assert Ticket.objects.get(number=5).subject == "New"


class TestRestFramework:
    @pytest.fixture
    def call(self) -> Any:
        views = recipe("Django REST framework")["TicketViewSet"]

        def call(method: str, action: str, data: Any = None, **kwargs: Any) -> Any:
            request = getattr(APIRequestFactory(), method)("/", data, format="json")
            response = views.as_view({method: action})(request, **kwargs)
            response.accepted_renderer, response.accepted_media_type = JSON, "application/json"
            response.renderer_context = {}
            return response.status_code, json.loads(response.render().content or "null")

        from rest_framework.renderers import JSONRenderer

        JSON = JSONRenderer()
        return call

    def test_reads_show_what_is_pending(self, call, ticket):
        Ticket.buffered.set(number=5, status="waiting")
        row = {"number": 5, "subject": "Printer", "status": "waiting", "views": 0}
        assert call("get", "retrieve", number=5) == (200, row)
        assert call("get", "list") == (200, [row])
        assert call("get", "retrieve", number=6)[0] == 404

    def test_a_patch_writes_what_it_names(self, call, ticket):
        Ticket.buffered.set(number=5, status="waiting")
        status, row = call("patch", "partial_update", {"subject": "Screen"}, number=5)
        assert (status, row["status"], row["subject"]) == (200, "waiting", "Screen")
        assert Ticket.objects.values("subject").get() == {"subject": "Printer"}
        assert stored() == {"subject": "Screen", "status": "waiting", "views": 0}

    def test_a_put_writes_all(self, call, ticket):
        Ticket.buffered.set(number=5, status="waiting", views=Add(3))
        data = {"number": 5, "subject": "Screen", "status": "closed", "views": 0}
        assert call("put", "update", data, number=5) == (200, data)
        assert stored() == {"subject": "Screen", "status": "closed", "views": 0}

    def test_a_wrong_value_is_refused(self, call, ticket):
        status, errors = call("patch", "partial_update", {"views": "x"}, number=5)
        assert (status, [*errors]) == (400, ["views"])

    def test_new_and_gone(self, call):
        data = {"number": 5, "subject": "New", "status": "open", "views": 0}
        assert call("post", "create", data)[0] == 201
        assert Ticket.objects.values("subject").get() == {"subject": "New"}
        assert call("delete", "destroy", number=5)[0] == 204
        assert call("get", "retrieve", number=5)[0] == 404
        Ticket.buffered.flush()
        assert not Ticket.objects.exists()


def test_a_command(ticket):
    Ticket.buffered.set(number=5, status="waiting", subject="Screen")
    recipe("Management commands and raw SQL")["Command"]().handle()
    assert stored() == {"subject": "SCREEN", "status": "closed", "views": 0}


def test_a_list_that_filters_by_what_is_pending(ticket):
    with_status = recipe("Lists that filter by a field that may be pending")["with_status"]
    for n in (6, 7):
        Ticket.objects.create(number=n, subject="x", status="waiting")
    Ticket.buffered.set(number=5, status="waiting")
    claim(Ticket.buffered)
    Ticket.buffered.set(number=6, status="closed")
    Ticket.buffered.set(number=8, subject="new", status="waiting")
    Ticket.buffered.delete(number=7)
    assert sorted(ticket.number for ticket in with_status("waiting")) == [5, 8]
    assert [ticket.number for ticket in with_status("closed")] == [6]


class Backup:
    """The rows of two tables, which go back into the database with their primary keys."""

    def __init__(self) -> None:
        self.rows = {model: [*model._base_manager.all()] for model in (AppliedBatch, Ticket)}

    def restore(self) -> None:
        with connections[current()].cursor() as cursor:
            for model in self.rows:
                cursor.execute(f"DELETE FROM {model._meta.db_table}")
        for model, rows in self.rows.items():
            model._base_manager.bulk_create(rows)


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_database_that_was_restored(ticket, in_flight):
    """Of what came after the backup, what was stored is lost. What waits in Redis is not, nor what
    a flusher had stored and not acknowledged."""
    restored_from = recipe("A database that was restored from a backup")["restored_from"]
    backup = Backup()
    Ticket.buffered.set(number=5, subject="Lost")
    Ticket.buffered.flush()
    Ticket.buffered.set(number=5, views=Add(2))
    if in_flight:
        (found,) = claim(Ticket.buffered, lease=0.01)
        found.commit()
    Ticket.buffered.set(number=5, status="waiting")
    restored_from(backup)
    assert stored() == {"subject": "Printer", "status": "waiting", "views": 2}
