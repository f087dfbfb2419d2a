"""What all endpoints have in common: who is let in, and what is refused how."""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import User
from django.http import UnreadablePostError
from django.test import RequestFactory

from tests.systems.conftest import Api
from writebehind_app.exceptions import BufferFull, NotDurable, WriteUncertain
from writebehind_app.meta import services
from writebehind_app.meta.models import LessonMeta, TicketMeta
from writebehind_app.meta.views import ProgressView

LESSON = "lessons/7/progress/"
ENDPOINTS = [
    ("GET", LESSON, None),
    ("POST", LESSON, {"a": 1}),
    ("POST", "events/9/registrations/", {}),
    ("GET", "tickets/5/", None),
    ("PATCH", "tickets/5/", {"status": "open"}),
    ("PATCH", "appointments/3/", {"status": "done"}),
    ("GET", "profile/", None),
    ("PATCH", "profile/", {"bio": "x"}),
]
PERMISSIONS = {
    ("GET", "tickets/5/"): "view_ticketmeta",
    ("PATCH", "tickets/5/"): "change_ticketmeta",
    ("PATCH", "appointments/3/"): "change_appointmentmeta",
}


@pytest.mark.parametrize(("method", "path", "body"), ENDPOINTS)
class TestWhoIsLetIn:
    def test_nobody_who_is_not_logged_in(self, plain, nobody, method, path, body):
        response = nobody(method, path, body)
        assert (response.status_code, response.json()) == (401, {"error": "Log in first."})
        assert response["Cache-Control"] == "no-store"

    @pytest.mark.parametrize("backend", ["ModelBackend", "AllowAllUsersModelBackend"])
    def test_no_inactive_user(self, plain, user, settings, backend, method, path, body):
        settings.AUTHENTICATION_BACKENDS = [f"django.contrib.auth.backends.{backend}"]
        api = Api()
        api.client.force_login(user)
        User.objects.update(is_active=False)
        assert api(method, path, body).status_code == 401

    def test_who_has_the_permission(self, plain, user, api, allow, method, path, body):
        services.open_ticket(5)
        services.schedule(3)
        if permission := PERMISSIONS.get((method, path)):
            for other in PERMISSIONS.values():
                if other != permission:
                    allow(other)
            response = api(method, path, body)
            assert response.status_code == 403
            assert permission in response.json()["error"]
            allow(permission)
        assert api(method, path, body).status_code in (200, 201, 202)

    def test_no_write_without_the_csrf_token(self, plain, user, api, method, path, body):
        User.objects.update(is_superuser=True)
        response = api(method, path, body, headers={})
        assert (response.status_code == 403) == (method != "GET")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (LESSON, "GET, HEAD, POST"),
        ("events/9/registrations/", "POST"),
        ("tickets/5/", "GET, HEAD, PATCH"),
        ("appointments/3/", "PATCH"),
        ("profile/", "GET, HEAD, PATCH"),
    ],
)
def test_other_methods(plain, nobody, path, allowed):
    for method in {"GET", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"} - set(allowed.split(", ")):
        response = nobody(method, path, {})
        assert (response.status_code, response["Allow"]) == (405, allowed)
        assert method in response.json()["error"]


def test_head(plain, api):
    response = api("HEAD", LESSON)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("id", [2**63, 10**30, "9" * 5000, -1, "5.0", "1e3", "abc", "٣"])
def test_ids_that_no_row_can_have(plain, user, api, id):
    User.objects.update(is_superuser=True)
    for path in (f"lessons/{id}/progress/", f"tickets/{id}/"):
        assert api("GET", path).status_code == 404


def test_the_greatest_id(database, redis_server, api):
    path = f"lessons/{2**63 - 1}/progress/"
    assert api("POST", path, {"a": 1}).status_code == 202
    LessonMeta.buffered.flush()
    assert api("GET", path).json() == {"a": 1}


class TestBody:
    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (b" ", "This is not JSON"),
            (b"{", "This is not JSON"),
            (b"{'a': 1}", "This is not JSON"),
            (b'{"a": 1}x', "This is not JSON"),
            (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
            (b'{"a": {"b": 1, "c": 1, "b": 2}}', "the key 'b' is there twice"),
            (b'{"a": NaN}', "NaN is no number"),
            (b'{"a": [-Infinity]}', "-Infinity is no number"),
            (b'{"a": 1e400}', "1e400 is too large a number"),
            (b'{"a": ' + b"9" * 5000 + b"}", "This is not JSON"),
            (b'{"a": "\xff"}', "This is not JSON"),
            ('{"a": "ü"}'.encode("latin-1"), "This is not JSON"),
            ('{"a": 1}'.encode("utf-16"), "This is not JSON"),
            (b"\xef\xbb\xbf{}", "This is not JSON"),
            (b"[" * 60000, "lists and objects are in each other"),
            (b'{"a":' * 10000, "lists and objects are in each other"),
            (b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}", "lists and objects are in each other"),
            (b"1", "Send an object."),
            (b"null", "Send an object."),
            (b'"a"', "Send an object."),
            (b"{}", "empty"),
        ],
    )
    def test_what_is_no_object_in_json(self, plain, api, body, why):
        response = api("POST", LESSON, body)
        assert response.status_code == 400
        assert why in response.json()["error"]
        assert LessonMeta.buffered.count_pending() == 0

    @pytest.mark.parametrize(
        "kind",
        [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json; charset=latin-1",
            "application/json-patch+json",
        ],
    )
    def test_other_content_types(self, plain, api, kind):
        response = api("POST", LESSON, b'{"a": 1}', content_type=kind)
        assert response.status_code == 415

    @pytest.mark.parametrize("kind", ["application/json; charset=UTF-8", "Application/JSON"])
    def test_content_types_that_are_json(self, plain, api, kind):
        assert api("POST", LESSON, b'{"a": 1}', content_type=kind).status_code == 202

    def test_of_the_greatest_size_and_one_more(self, plain, api, configure):
        body = json.dumps({"a": "x" * 65527}).encode()
        assert len(body) == 65536
        assert api("POST", LESSON, body).status_code == 202
        response = api("POST", LESSON, body + b" ")
        assert response.status_code == 413
        assert "65536" in response.json()["error"]
        configure(META_MAX_BODY=8)
        assert api("POST", LESSON, b'{"a": 1}').status_code == 202
        assert api("POST", LESSON, b'{"a": 10}').status_code == 413

    def test_is_read_no_further_than_the_limit(self, plain, user, configure):
        configure(META_MAX_BODY=100)

        class Endless:
            given = 0

            def read(self, size):
                self.given += size
                return b" " * size

        for declared, most in (("", 101), ("101", 0)):
            stream = Endless()
            request = RequestFactory().post("/", b"{}", content_type="application/json")
            request.user, request._stream = user, stream
            request.META["CONTENT_LENGTH"] = declared
            assert ProgressView.as_view()(request, lesson_id=7).status_code == 413
            assert stream.given == most

    def test_that_ends_early(self, plain, user):
        class Broken:
            def read(self, size):
                raise UnreadablePostError("gone")

        request = RequestFactory().post("/", b"{}", content_type="application/json")
        request.user, request._stream = user, Broken()
        assert ProgressView.as_view()(request, lesson_id=7).status_code == 400


@pytest.mark.parametrize(("method", "path", "body"), ENDPOINTS)
def test_while_redis_is_away(plain, user, api, method, path, body):
    User.objects.update(is_superuser=True)
    TicketMeta.objects.create(ticket_id=5)
    plain.stop()
    response = api(method, path, body)
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert response.json() == {"error": "This cannot be done at the moment. Try again later."}


@pytest.mark.parametrize(
    "error", [WriteUncertain("?"), NotDurable("It is in memory."), BufferFull("It is full.")]
)
def test_other_ways_for_a_write_to_fail(plain, api, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(services, "record_progress", fail)
    response = api("POST", LESSON, {"a": 1})
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    may_be_done = "It may have been done all the same." in response.json()["error"]
    assert may_be_done != isinstance(error, BufferFull)


class TestIdempotencyKey:
    def post(self, api, key="a key", path=LESSON, method="POST", body=None):
        headers = {"X-CSRFToken": "x" * 32, "Idempotency-Key": key}
        body = {"seconds": {"$add": 5}} if body is None else body
        return api(method, path, body, headers=headers)

    def test_a_call_that_comes_again_changes_nothing(self, database, redis_server, user, api):
        for _ in range(3):
            assert self.post(api).status_code == 202
        LessonMeta.buffered.flush()
        assert self.post(api).status_code == 202
        assert services.progress(7, user) == {"seconds": 5}

    def test_it_is_that_of_a_user_a_path_and_a_method(self, plain, user, api):
        other = User.objects.create_user("bert")
        self.post(api)
        self.post(api, path="lessons/8/progress/")
        self.post(Api(other))
        assert services.progress(8, user) == services.progress(7, other) == {"seconds": 5}

    def test_of_each_endpoint(self, plain, user, api):
        User.objects.update(is_superuser=True)
        services.open_ticket(5)
        services.schedule(3)
        for method, path, body in ENDPOINTS:
            if method != "GET":
                answers = [self.post(api, "k", path, method, body) for _ in range(2)]
                assert [answer.status_code for answer in answers] in ([202, 202], [201, 201])

    @pytest.mark.parametrize("key", ["", "x" * 256])
    def test_one_that_is_none(self, plain, user, api, key):
        assert self.post(api, key).status_code == 400
        assert services.progress(7, user) == {}
