"""Tickets, through the services and the endpoint."""

from __future__ import annotations

import time

import pytest
from django.core.exceptions import FieldError, ValidationError
from django.db import OperationalError, connections, transaction

from tests.outages import wait_for_redis
from writebehind_app import Add, Merge
from writebehind_app.exceptions import AlreadyExists, BufferUnavailable
from writebehind_app.meta import services
from writebehind_app.meta.models import TicketMeta
from writebehind_app.meta.services import open_ticket, resolve_ticket, ticket, update_ticket

HEADERS = {"X-CSRFToken": "x" * 32, "Idempotency-Key": "once"}


def test_is_there_once_it_is_opened(database, redis_server, bring):
    open_ticket(5, subject="No light", extra={"floor": 3})
    bring(TicketMeta.buffered)
    found = ticket(5)
    assert (found.subject, found.status, found.extra) == ("No light", "open", {"floor": 3})
    with pytest.raises(AlreadyExists):
        open_ticket(5)


def test_only_a_ticket_that_is_there_is_updated(database, redis_server, bring):
    with pytest.raises(TicketMeta.DoesNotExist):
        update_ticket(5, status="waiting")
    with pytest.raises(TicketMeta.DoesNotExist):
        ticket(5)
    open_ticket(5, extra={"a": 1})
    bring(TicketMeta.buffered)
    update_ticket(5, status="waiting", extra=Merge({"b": 2}), customer_id=Add(3))
    found = ticket(5)
    assert (found.status, found.extra, found.customer_id) == ("waiting", {"a": 1, "b": 2}, 3)


def test_a_deleted_ticket_is_not_updated(database, redis_server, bring):
    open_ticket(5)
    TicketMeta.buffered.flush()
    TicketMeta.buffered.delete(ticket_id=5)
    bring(TicketMeta.buffered)
    with pytest.raises(TicketMeta.DoesNotExist):
        update_ticket(5, status="waiting")
    TicketMeta.buffered.flush()
    assert not TicketMeta.objects.exists()


def test_a_resolved_ticket_is_stored_at_once(database, redis_server, bring):
    open_ticket(5, subject="No light")
    bring(TicketMeta.buffered)
    update_ticket(5, assigned_to="bert")
    open_ticket(6)
    found = resolve_ticket(5, category="power")
    assert found.pk is not None
    assert (found.status, found.category, found.assigned_to) == ("resolved", "power", "bert")
    assert TicketMeta.objects.get(ticket_id=5).status == "resolved"
    assert not TicketMeta.objects.filter(ticket_id=6).exists()


def test_redis_goes_away_before_a_resolved_ticket_is_flushed(
    database, redis_server, configure, monkeypatch
):
    """What is stored does not show it: nobody is told that it is resolved."""
    configure(WHEN_DOWN="direct")
    open_ticket(5)
    TicketMeta.buffered.flush()
    update = services.update_ticket

    def update_and_stop(*args, **values):
        update(*args, **values)
        redis_server.stop()

    monkeypatch.setattr(services, "update_ticket", update_and_stop)
    with pytest.raises(BufferUnavailable):
        resolve_ticket(5)
    redis_server.start()
    wait_for_redis()
    TicketMeta.buffered.flush()
    assert TicketMeta.objects.get().status == "resolved"


def test_what_is_not_there_is_not_resolved(plain):
    with pytest.raises(TicketMeta.DoesNotExist):
        resolve_ticket(5)
    assert TicketMeta.buffered.count_pending() == 0


def test_nothing_is_resolved_inside_a_transaction(plain):
    open_ticket(5)
    with transaction.atomic(), pytest.raises(transaction.TransactionManagementError):
        resolve_ticket(5)
    assert ticket(5).status == "open"


def test_a_resolved_ticket_that_the_database_refuses_is_stored_later(plain):
    open_ticket(5)
    with connections["default"].execute_wrapper(refuse_inserts), pytest.raises(OperationalError):
        resolve_ticket(5)
    assert ticket(5).status == "resolved"
    assert not TicketMeta.objects.exists()
    TicketMeta.buffered.flush()
    assert TicketMeta.objects.get().status == "resolved"


def refuse_inserts(execute, sql, params, many, context):
    if sql.startswith("INSERT"):
        raise OperationalError("away")
    return execute(sql, params, many, context)


def test_wrong_values_and_fields_are_refused(plain):
    open_ticket(5)
    with pytest.raises(ValidationError):
        update_ticket(5, status="x" * 21)
    with pytest.raises(FieldError, match="the fields are customer_id"):
        update_ticket(5, state="open")
    assert ticket(5).status == "open"


class TestEndpoint:
    @pytest.fixture(autouse=True)
    def permissions(self, allow):
        allow("view_ticketmeta")
        allow("change_ticketmeta")

    def test_shows_a_ticket(self, database, redis_server, bring, api):
        open_ticket(5, subject="No light")
        bring(TicketMeta.buffered)
        response = api("GET", "tickets/5/")
        shown = response.json()
        assert response.status_code == 200
        assert {shown.pop("created_at")[:2], shown.pop("updated_at")[:2]} == {"20"}
        assert shown == {
            "ticket_id": 5,
            "customer_id": None,
            "status": "open",
            "subject": "No light",
            "category": "",
            "assigned_to": "",
            "extra": {},
        }

    def test_changes_a_ticket(self, database, redis_server, bring, api):
        open_ticket(5, subject="No light", extra={"a": 1})
        bring(TicketMeta.buffered)
        body = {"status": "waiting", "customer_id": 9, "extra": {"$merge": {"b": 2}}}
        response = api("PATCH", "tickets/5/", body)
        assert (response.status_code, response.json()) == (202, {"pending": True})
        found = ticket(5)
        assert (found.status, found.customer_id, found.extra) == ("waiting", 9, {"a": 1, "b": 2})
        assert api("PATCH", "tickets/5/", {"customer_id": None}).status_code == 202
        assert ticket(5).customer_id is None

    def test_opens_a_ticket(self, database, redis_server, allow, api):
        allow("add_ticketmeta")
        body = {"ticket_id": 5, "subject": "No light", "extra": {"$merge": {"floor": 3}}}
        response = api("POST", "tickets/", body)
        assert (response.status_code, response.json()) == (201, {"pending": True})
        assert response["Location"] == "/meta/tickets/5/"
        assert api("GET", "tickets/5/").json()["extra"] == {"floor": 3}
        assert not TicketMeta.objects.exists()
        for _ in range(2):
            response = api("POST", "tickets/", {"ticket_id": 5})
            assert response.status_code == 409
            assert response.json() == {"error": "There is a ticket 5 already."}
            TicketMeta.buffered.flush()
        assert TicketMeta.objects.get().subject == "No light"

    @pytest.mark.parametrize("number", [None, -1, 2**63, "5", True, 5.0, {"$add": 1}])
    def test_opens_none_of_such_a_number(self, plain, allow, api, number):
        allow("add_ticketmeta")
        for body in ({"subject": "x"}, {"ticket_id": number}):
            response = api("POST", "tickets/", body)
            assert response.status_code == 400
        assert TicketMeta.buffered.count_pending() == 0

    def test_a_resolved_one_is_stored_when_it_answers(self, database, redis_server, api):
        open_ticket(5)
        response = api("PATCH", "tickets/5/", {"status": "resolved", "category": "power"})
        assert (response.status_code, response.json()) == (200, {"pending": False})
        assert TicketMeta.objects.get(ticket_id=5).category == "power"

    @pytest.mark.parametrize("outage", ["stop", "pause"])
    def test_one_is_resolved_while_redis_is_away(
        self, outage, database, redis_server, configure, api
    ):
        """The flusher's patience is not that of a request."""
        configure(WHEN_DOWN="direct", SOCKET_TIMEOUT=0.5)
        open_ticket(5, extra={"a": 1})
        TicketMeta.buffered.flush()
        getattr(redis_server, outage)()
        try:
            started = time.monotonic()
            with pytest.raises(BufferUnavailable):
                TicketMeta.buffered.flush()
            with pytest.raises(BufferUnavailable):
                TicketMeta.buffered.flush(ticket_id=5)
            body = {"status": "resolved", "category": "power", "extra": {"$merge": {"b": 2}}}
            assert api("PATCH", "tickets/5/", body, headers=HEADERS).status_code == 503
            assert TicketMeta.objects.get(ticket_id=5).category == ""
            for _ in range(2):
                response = api("PATCH", "tickets/5/", body)
                assert (response.status_code, response.json()) == (200, {"pending": False})
            assert time.monotonic() - started < 5
            stored = TicketMeta.objects.get(ticket_id=5)
            assert (stored.category, stored.extra) == ("power", {"a": 1, "b": 2})
        finally:
            redis_server.resume() if outage == "pause" else redis_server.start()
        wait_for_redis()

    def test_with_a_transaction_for_each_request(self, plain, api, monkeypatch):
        open_ticket(5)
        monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
        assert api("PATCH", "tickets/5/", {"status": "resolved"}).status_code == 200

    def test_what_is_not_there(self, plain, api):
        assert api("GET", "tickets/5/").status_code == 404
        assert api("PATCH", "tickets/5/", {"status": "open"}).status_code == 404
        assert api("PATCH", "tickets/5/", {"status": "resolved"}).status_code == 404
        assert TicketMeta.buffered.count_pending() == 0

    @pytest.mark.parametrize(
        ("name", "value", "why"),
        [
            ("status", 5, "This has to be a text."),
            ("status", ["open"], "This has to be a text."),
            ("status", {"$add": 1}, "This has to be a text."),
            ("status", None, "This field cannot be null."),
            ("status", "", "This field cannot be blank."),
            ("status", "x" * 21, "at most 20 characters"),
            ("customer_id", True, "This has to be a whole number."),
            ("customer_id", 1.0, "This has to be a whole number."),
            ("customer_id", "1", "This has to be a whole number."),
            ("customer_id", {"$add": 1}, "This has to be a whole number."),
            ("customer_id", {"$merge": {}}, "This has to be a whole number."),
            ("extra", [], "This has to be an object."),
            ("extra", {"$add": 1}, "This has to be an object."),
            ("extra", None, "This field cannot be null."),
            ("ticket_id", 6, "There is no such field; there are: customer_id, status,"),
            ("id", 6, "There is no such field"),
            ("created_at", "2026-01-01", "There is no such field"),
        ],
    )
    def test_what_a_field_refuses(self, plain, api, name, value, why):
        open_ticket(5)
        response = api("PATCH", "tickets/5/", {"subject": "new", name: value})
        assert response.status_code == 400
        assert list(response.json()["fields"]) == [name]
        assert why in response.json()["fields"][name][0]
        assert ticket(5).subject == ""
