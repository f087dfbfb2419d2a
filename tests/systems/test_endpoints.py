"""What all endpoints have in common: who is let in, and what is refused how."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import DataError, IntegrityError, OperationalError
from django.http import Http404, HttpResponse, UnreadablePostError
from django.test import RequestFactory
from django.utils import timezone

from tests.systems.conftest import Api
from writebehind_app.exceptions import BufferFull, NotDurable, WriteUncertain
from writebehind_app.meta import services
from writebehind_app.meta.models import AppointmentMeta, LessonMeta, TicketMeta
from writebehind_app.meta.views import ProgressView

LESSON = "lessons/7/progress/"
ENDPOINTS = [
    ("GET", LESSON, None),
    ("POST", LESSON, {"a": 1}),
    ("GET", "events/9/registrations/", None),
    ("POST", "events/9/registrations/", {}),
    ("GET", "tickets/", None),
    ("POST", "tickets/", {"ticket_id": 6}),
    ("GET", "tickets/5/", None),
    ("PATCH", "tickets/5/", {"status": "open"}),
    ("GET", "appointments/", None),
    ("GET", "appointments/3/", None),
    ("PATCH", "appointments/3/", {"status": "done"}),
    ("GET", "profile/", None),
    ("PATCH", "profile/", {"bio": "x"}),
]
PERMISSIONS = {
    ("GET", "events/9/registrations/"): "view_eventregistration",
    ("GET", "tickets/"): "view_ticketmeta",
    ("POST", "tickets/"): "add_ticketmeta",
    ("GET", "appointments/"): "view_appointmentmeta",
    ("GET", "appointments/3/"): "view_appointmentmeta",
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
        if method != "GET":
            assert response.json()["error"].startswith("The CSRF token is missing or wrong: ")
            assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (LESSON, "GET, HEAD, POST"),
        ("events/9/registrations/", "GET, HEAD, POST"),
        ("tickets/", "GET, HEAD, POST"),
        ("tickets/5/", "GET, HEAD, PATCH"),
        ("appointments/", "GET, HEAD"),
        ("appointments/3/", "GET, HEAD, PATCH"),
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
        assert_nothing(api("GET", path))


def assert_nothing(response: HttpResponse) -> None:
    assert response.status_code == 404
    assert response.json() == {"error": "There is nothing here."}
    assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["", "tickets", "tickets/5", "lessons/7/", "x", "<b>/ü/"])
def test_paths_that_there_are_not(plain, nobody, path):
    for method in ("GET", "POST", "PATCH", "DELETE"):
        assert_nothing(nobody(method, path))
        assert_nothing(nobody(method, path, headers={}))


def test_rows_that_there_are_not(plain, user, api):
    """In one wording, that names no model."""
    User.objects.update(is_superuser=True)
    services.schedule(4, expires_at=timezone.now() - timedelta(days=1))
    for method, path, body in [
        ("GET", "tickets/5/", None),
        ("PATCH", "tickets/5/", {"status": "open"}),
        ("PATCH", "tickets/5/", {"status": "resolved"}),
        ("GET", "appointments/3/", None),
        ("PATCH", "appointments/3/", {"status": "done"}),
        ("GET", "appointments/4/", None),
        ("PATCH", "appointments/4/", {"status": "done"}),
    ]:
        assert_nothing(api(method, path, body))


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
    AppointmentMeta.objects.create(appointment_id=3)
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


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Http404("There is no lesson 7."), 404),
        (PermissionDenied("of the lesson"), 403),
        (SuspiciousOperation("very"), 400),
        (IntegrityError("UNIQUE constraint failed"), 409),
        (DataError("out of range"), 409),
        (OperationalError("server closed the connection"), 503),
    ],
)
def test_errors_of_a_view_of_the_project_or_of_the_database(plain, api, monkeypatch, error, status):
    """In JSON, too, and without the text of the error, which quotes what nobody is to see."""

    def fail(*args):
        raise error

    monkeypatch.setattr(services, "progress", fail)
    response = api("GET", LESSON)
    assert (response.status_code, response["Cache-Control"]) == (status, "no-store")
    assert str(error) not in response.json()["error"]
    assert response.has_header("Retry-After") == (status == 503)


def test_an_error_that_nobody_foresaw(plain, api, monkeypatch, caplog):
    """The answer is JSON. The error is told to who watches for errors, as by Django."""

    def fail(*args):
        raise LookupError("secret")

    monkeypatch.setattr(services, "progress", fail)
    with pytest.raises(LookupError):  # the client of tests watches
        api("GET", LESSON)
    api.client.raise_request_exception = False
    caplog.clear()
    response = api("GET", LESSON)
    assert response.status_code == 500
    assert response.json() == {"error": "This failed. It may have been done all the same."}
    (record,) = [r for r in caplog.records if r.name == "django.request"]
    assert record.getMessage() == "Internal Server Error: /meta/lessons/7/progress/"
    assert record.exc_info


def test_with_the_middleware_that_requires_a_login(plain, nobody, settings):
    """It redirects to a page. The endpoints refuse by themselves."""
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    assert nobody("GET", LESSON).status_code == 401
    assert_nothing(nobody("GET", "x"))


class TestLists:
    @pytest.fixture(autouse=True)
    def permissions(self, request):
        request.getfixturevalue("user")
        User.objects.update(is_superuser=True)

    @pytest.mark.parametrize("kind", ["tickets", "appointments"])
    @pytest.mark.parametrize("stored", [0, 1, 2, 3, 4, 5])
    def test_page_by_page(self, plain, api, kind, stored):
        model, key = {
            "tickets": (TicketMeta, "ticket_id"),
            "appointments": (AppointmentMeta, "appointment_id"),
        }[kind]
        numbers = [3, 7, 2**63 - 1, 9, 5][:stored]
        model.objects.bulk_create(model(**{key: number}) for number in numbers)
        seen, path = [], f"{kind}/?limit=2"
        while path:
            found = api("GET", path).json()
            assert found.keys() == {kind, "next"}
            assert len(found[kind]) <= 2
            seen += [row[key] for row in found[kind]]
            path = f"{kind}/?limit=2&after={found['next']}" if found["next"] is not None else None
        assert seen == sorted(numbers)

    def test_of_fifty_rows_where_nobody_says_how_many(self, plain, api):
        TicketMeta.objects.bulk_create(TicketMeta(ticket_id=n) for n in range(51))
        found = api("GET", "tickets/").json()
        assert (len(found["tickets"]), found["next"]) == (50, 49)

    def test_with_pending_values_and_without_what_is_deleted(
        self, database, redis_server, api, bring
    ):
        for number in (5, 6, 7):
            services.open_ticket(number, subject="No light")
        TicketMeta.buffered.flush()
        services.update_ticket(5, status="waiting")
        TicketMeta.buffered.delete(ticket_id=6)
        bring(TicketMeta.buffered)
        found = api("GET", "tickets/").json()["tickets"]
        assert [(row["ticket_id"], row["status"]) for row in found] == [(5, "waiting"), (7, "open")]
        assert found[0] == api("GET", "tickets/5/").json()

    def test_one_that_is_not_stored_has_a_page_before_it_is_in_the_list(self, plain, api):
        services.open_ticket(5)
        assert api("GET", "tickets/5/").status_code == 200
        assert api("GET", "tickets/").json() == {"tickets": [], "next": None}
        TicketMeta.buffered.flush()
        assert len(api("GET", "tickets/").json()["tickets"]) == 1

    def test_takes_two_statements(self, plain, api, django_assert_num_queries):
        TicketMeta.objects.bulk_create(TicketMeta(ticket_id=n) for n in range(20))
        with django_assert_num_queries(2 + 2):  # those of the session and of the user
            api("GET", "tickets/")

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ("limit=0", "limit"),
            ("limit=501", "limit"),
            ("limit=x", "limit"),
            ("limit=", "limit"),
            ("limit=5&limit=6", "limit"),
            ("after=-1", "after"),
            (f"after={2**63}", "after"),
            ("after=٣", "after"),
            ("afer=5", "afer"),
        ],
    )
    def test_what_a_parameter_refuses(self, plain, api, query, name):
        for kind in ("tickets", "appointments"):
            response = api("GET", f"{kind}/?{query}")
            assert response.status_code == 400
            assert list(response.json()["fields"]) == [name]


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
