"""Event registrations, through the services and the endpoint."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import connections
from django.utils import timezone

from tests.outages import wait_for_redis
from writebehind_app.exceptions import AlreadyExists
from writebehind_app.meta.models import EventRegistration
from writebehind_app.meta.services import register, registrations_between

buffered = EventRegistration.buffered


def emails(event_id: int, since=None, until=None) -> list[str]:
    return [row.email for row in registrations_between(event_id, since, until)]


def test_are_there_in_their_order(database, redis_server, bring):
    register(9, "b@example.org", name="Bert", details={"seats": 2})
    register(9, "a@example.org")
    register(10, "c@example.org")
    bring(buffered)
    register(9, "0@example.org")
    assert emails(9) == ["b@example.org", "a@example.org", "0@example.org"]
    bert = registrations_between(9)[0]
    assert (bert.name, bert.details, str(bert)) == ("Bert", {"seats": 2}, "9 b@example.org")
    assert timezone.now() - bert.registered_at < timedelta(minutes=1)


def test_between_two_times(database, redis_server, bring):
    start = timezone.now()
    for n in range(4):
        buffered.append(
            event_id=9, email=f"{n}@example.org", registered_at=start + timedelta(hours=n)
        )
    bring(buffered)
    one, three = start + timedelta(hours=1), start + timedelta(hours=3)
    assert emails(9, one, three) == ["1@example.org", "2@example.org"]
    assert emails(9, since=three) == ["3@example.org"]
    assert emails(9, until=one) == ["0@example.org"]
    assert emails(8, one, three) == []


def test_an_address_is_registered_once(database, redis_server, bring):
    register(9, " Anna@Example.org\n")
    bring(buffered)
    for same in ("anna@example.org", "ANNA@EXAMPLE.ORG", " anna@example.org"):
        with pytest.raises(AlreadyExists, match=r"anna@example\.org"):
            register(9, same)
    register(10, "anna@example.org")
    assert emails(9) == ["anna@example.org"]
    buffered.flush()
    assert list(EventRegistration.objects.values_list("event_id", "email")) == [
        (9, "anna@example.org"),
        (10, "anna@example.org"),
    ]


def test_addresses_that_a_database_may_take_for_equal(database, redis_server):
    register(9, "anna@exämple.org")
    register(9, "anna@example.org")
    buffered.flush()
    assert emails(9) == ["anna@exämple.org", "anna@example.org"]


def test_of_many_who_register_one_address_at_once_one_does(database, redis_server):
    won = []

    def run() -> None:
        try:
            register(9, "anna@example.org")
            won.append(1)
        except AlreadyExists:
            pass
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [1]


@pytest.mark.parametrize("email", ["", "anna", "a@b", "a b@example.org", None, 5, "a\0@b.org"])
def test_what_is_no_address(plain, email):
    with pytest.raises(ValidationError) as refused:
        register(9, email)
    assert list(refused.value.message_dict) == ["email"]
    assert buffered.count_pending() == 0


class TestEndpoint:
    path = "events/9/registrations/"

    def test_registers_the_user(self, database, redis_server, bring, api):
        response = api("POST", self.path, {"name": "Anna", "details": {"seats": 2}})
        assert (response.status_code, response.json()) == (201, {"pending": True})
        bring(buffered)
        (row,) = registrations_between(9)
        assert (row.email, row.name, row.details) == ("anna@example.org", "Anna", {"seats": 2})
        response = api("POST", self.path, {"email": "ANNA@example.org "})
        assert response.status_code == 409
        assert "anna@example.org" in response.json()["error"]
        assert api("POST", "events/10/registrations/", {}).status_code == 201

    def test_an_address_that_is_registered_while_redis_is_away(
        self, database, redis_server, configure, api
    ):
        configure(WHEN_DOWN="direct")
        named = {"headers": {"X-CSRFToken": "x" * 32, "Idempotency-Key": "1"}}
        assert api("POST", self.path, {}, **named).status_code == 201
        buffered.flush()
        redis_server.stop()
        response = api("POST", self.path, {})
        assert (response.status_code, "anna@" in response.json()["error"]) == (409, True)
        assert api("POST", "events/10/registrations/", {}).status_code == 201
        # The database knows a call that is stored; of another only Redis does.
        assert api("POST", self.path, {}, **named).status_code == 201
        assert api("POST", "events/11/registrations/", {}, **named).status_code == 503
        assert emails(9) == ["anna@example.org"]
        assert emails(11) == []
        redis_server.start()
        wait_for_redis()

    def test_others_only_with_the_permission(self, plain, api, allow):
        assert api("POST", self.path, {"email": "bert@example.org"}).status_code == 403
        assert registrations_between(9) == []
        allow("add_eventregistration")
        assert api("POST", self.path, {"email": "bert@example.org"}).status_code == 201
        assert emails(9) == ["bert@example.org"]

    def pages(self, api, query=""):
        """The addresses on each page."""
        found, since = [], ""
        while len(found) < 10:
            response = api("GET", f"{self.path}?limit=2{query}{since}")
            assert response.status_code == 200
            answer = response.json()
            found.append("".join(row["email"][0] for row in answer["registrations"]))
            if answer["next"] is None:
                return found
            since = f"&since={answer['next']}"
        raise AssertionError(found)

    @pytest.mark.parametrize("flushed", [0, 1, 2, 3, 4, 5])
    def test_lists_them_page_by_page_in_their_order(
        self, database, redis_server, api, allow, flushed
    ):
        allow("view_eventregistration")
        assert self.pages(api) == [""]
        for n, name in enumerate("edcba"):
            if n == flushed:
                buffered.flush()
            register(9, f"{name}@example.org")
        if flushed == 5:
            buffered.flush()
        register(10, "x@example.org")
        assert self.pages(api) == ["ed", "cb", "a"]

    @pytest.mark.parametrize("flushed", [0, 3, 7])
    def test_lists_those_of_one_moment_on_one_page(self, plain, api, allow, flushed):
        allow("view_eventregistration")
        start = timezone.now()
        for n, (name, minutes) in enumerate(zip("abcdefg", (0, 1, 1, 1, 2, 3, 3), strict=True)):
            if n == flushed:
                buffered.flush()
            at = start + timedelta(minutes=minutes)
            buffered.append(event_id=9, email=f"{name}@example.org", registered_at=at)
        if flushed == 7:
            buffered.flush()
        assert self.pages(api) == ["a", "bcd", "e", "fg"]

    def test_lists_a_window(self, plain, api, allow):
        allow("view_eventregistration")
        start = datetime(2026, 1, 31, 12, tzinfo=UTC)
        for n, name in enumerate("abcd"):
            at = start + timedelta(hours=n)
            buffered.append(event_id=9, email=f"{name}@example.org", name=name, registered_at=at)
        assert self.pages(api, "&until=2026-01-31T15:00:00Z") == ["ab", "c"]
        response = api("GET", f"{self.path}?since=2026-01-31T15:00:00Z")
        assert response.json() == {
            "registrations": [
                {
                    "email": "d@example.org",
                    "name": "d",
                    "details": {},
                    "registered_at": "2026-01-31T15:00:00Z",
                }
            ],
            "next": None,
        }
        # Without an offset, it is of the time zone of the project.
        with timezone.override("America/Chicago"):
            response = api("GET", f"{self.path}?since=2026-01-31T09:00:00")
        assert [row["name"] for row in response.json()["registrations"]] == ["d"]

    @pytest.mark.parametrize("name", ["since", "until"])
    @pytest.mark.parametrize(
        "text", ["", "x", "2026-02-30T00:00:00Z", "0001-01-01T00:00%2B01:00", "5"]
    )
    def test_what_a_time_refuses(self, plain, api, allow, name, text):
        allow("view_eventregistration")
        response = api("GET", f"{self.path}?{name}={text}")
        assert (response.status_code, list(response.json()["fields"])) == (400, [name])

    @pytest.mark.parametrize("text", ["0001-01-01", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
    def test_times_far_away(self, database, redis_server, api, allow, text):
        allow("view_eventregistration")
        register(9, "a@example.org")
        register(9, "b@example.org")
        buffered.flush()
        register(9, "c@example.org")
        is_past = text.startswith("0")
        assert self.pages(api, f"&until={text}") == ([""] if is_past else ["ab", "c"])
        response = api("GET", f"{self.path}?since={text}")
        assert len(response.json()["registrations"]) == (3 if is_past else 0)

    def test_lists_without_time_zones(self, plain, api, allow, settings):
        settings.USE_TZ = False
        allow("view_eventregistration")
        for name in "abc":
            register(9, f"{name}@example.org")
        buffered.flush()
        assert self.pages(api) == ["ab", "c"]
        assert self.pages(api, "&until=2000-01-01T00:00:00Z") == [""]

    def test_a_user_without_an_address(self, plain, user, api):
        User.objects.update(email="")
        response = api("POST", self.path, {})
        assert (response.status_code, list(response.json()["fields"])) == (400, ["email"])

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("email", 5),
            ("email", None),
            ("email", ["anna@example.org"]),
            ("email", {"$add": 1}),
            ("name", "x" * 151),
            ("name", None),
            ("details", [1]),
            ("details", {"$merge": {"a": 1}}),
            ("event_id", 10),
            ("registered_at", "2026-01-01T00:00:00Z"),
        ],
    )
    def test_what_a_field_refuses(self, plain, user, api, name, value):
        User.objects.update(is_superuser=True)
        response = api("POST", self.path, {name: value})
        assert (response.status_code, list(response.json()["fields"])) == (400, [name])
        assert registrations_between(9) == []
