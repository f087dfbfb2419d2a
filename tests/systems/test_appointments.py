"""Appointments, through the services and the endpoint."""

from __future__ import annotations

import threading
from datetime import timedelta
from functools import partial

import pytest
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from tests.backdoor.reads import act_after_look
from writebehind_app import tasks
from writebehind_app.meta.models import AppointmentMeta
from writebehind_app.meta.services import appointment, schedule, update_status


def later(**span: float):
    return timezone.now() + timedelta(**span)


def test_what_has_expired_goes_in_direct_mode(database, redis_server, configure):
    schedule(1, expires_at=later(days=-1))
    AppointmentMeta.buffered.flush()
    configure(MODE="direct")
    for flush in (
        AppointmentMeta.buffered.flush,
        tasks.prune,
        partial(call_command, "flush_writebehind", "--all", verbosity=0),
    ):
        schedule(2, expires_at=later(days=-1))
        schedule(3, expires_at=later(days=1))
        flush()
        assert [row.appointment_id for row in AppointmentMeta.objects.all()] == [3]


def test_is_there_once_it_is_scheduled(database, redis_server, bring):
    at = later(days=1)
    schedule(3, starts_at=at, patient_id=7, extra={"room": "2b"}, expires_at=later(days=2))
    bring(AppointmentMeta.buffered)
    found = appointment(3)
    assert (found.starts_at, found.patient_id, found.status) == (at, 7, "scheduled")
    assert found.extra == {"room": "2b"}
    assert found.status_at is not None


def test_scheduled_anew_nothing_is_left_of_it(database, redis_server, bring):
    schedule(3, patient_id=7, status="done", extra={"room": "2b"}, expires_at=later(seconds=-1))
    bring(AppointmentMeta.buffered)
    at = later(days=1)
    schedule(3, starts_at=at)
    AppointmentMeta.buffered.flush()
    AppointmentMeta.buffered.flush()  # which removes what has expired
    found = AppointmentMeta.objects.get(appointment_id=3)
    assert (found.starts_at, found.patient_id, found.status) == (at, None, "scheduled")
    assert (found.extra, found.expires_at) == ({}, None)


def test_the_status_changes_with_its_time(database, redis_server, bring):
    schedule(3)
    before = appointment(3).status_at
    bring(AppointmentMeta.buffered)
    assert update_status(3, "arrived")
    found = appointment(3)
    assert found.status == "arrived"
    assert before < found.status_at <= timezone.now()


def test_only_from_the_expected_status(database, redis_server, bring):
    schedule(3)
    bring(AppointmentMeta.buffered)
    assert not update_status(3, "done", expected="arrived")
    assert not update_status(3, "done", expected="")
    assert appointment(3).status == "scheduled"
    assert update_status(3, "arrived", expected="scheduled")
    assert not update_status(3, "arrived", expected="scheduled")
    assert appointment(3).status == "arrived"


def test_only_of_one_that_is_there(database, redis_server):
    assert not update_status(3, "arrived")
    with pytest.raises(AppointmentMeta.DoesNotExist):
        appointment(3)
    assert AppointmentMeta.buffered.count_pending() == 0


def test_an_expired_one_is_not_there(database, redis_server, bring):
    schedule(3, expires_at=later(seconds=-1))
    bring(AppointmentMeta.buffered)
    with pytest.raises(AppointmentMeta.DoesNotExist, match="expired"):
        appointment(3)
    assert not update_status(3, "arrived")
    AppointmentMeta.buffered.flush()
    AppointmentMeta.buffered.flush()
    assert not AppointmentMeta.objects.exists()


def test_one_that_expires_between_the_look_and_the_write_is_not_changed(plain, monkeypatch):
    schedule(3)
    act_after_look(
        monkeypatch,
        lambda: AppointmentMeta.buffered.set(appointment_id=3, expires_at=later(seconds=-1)),
    )
    assert not update_status(3, "arrived")
    assert AppointmentMeta.buffered.get(appointment_id=3).status == "scheduled"


def test_of_many_who_change_it_at_once_one_does(database, redis_server):
    schedule(3)
    changed = []

    def change(n: int) -> None:
        try:
            if update_status(3, f"taken by {n}", expected="scheduled"):
                changed.append(n)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=change, args=[n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = changed
    assert appointment(3).status == f"taken by {winner}"


class TestEndpoint:
    path = "appointments/3/"

    @pytest.fixture(autouse=True)
    def permissions(self, allow):
        allow("view_appointmentmeta")
        allow("change_appointmentmeta")

    def test_shows_an_appointment(self, database, redis_server, bring, api):
        schedule(3, starts_at=later(seconds=60), patient_id=8, extra={"room": 2})
        bring(AppointmentMeta.buffered)
        update_status(3, "arrived")
        shown = api("GET", self.path).json()
        assert list(shown) == [
            *("appointment_id", "patient_id", "starts_at", "status", "status_at", "extra"),
            *("expires_at", "created_at", "updated_at"),
        ]
        assert (shown["appointment_id"], shown["patient_id"]) == (3, 8)
        assert (shown["status"], shown["extra"]) == ("arrived", {"room": 2})
        assert shown["expires_at"] is None

    def test_lists_those_that_have_not_expired_as_they_are_now(self, database, redis_server, api):
        for number in (3, 4, 5):
            schedule(number, expires_at=later(seconds=60))
        AppointmentMeta.buffered.flush()
        AppointmentMeta.buffered.set(appointment_id=3, expires_at=later(seconds=-1))
        update_status(5, "arrived")
        found = api("GET", "appointments/?limit=2").json()
        assert [row["appointment_id"] for row in found["appointments"]] == [4]
        found = api("GET", f"appointments/?limit=2&after={found['next']}").json()
        assert found["appointments"] == [api("GET", "appointments/5/").json()]
        assert (found["appointments"][0]["status"], found["next"]) == ("arrived", None)

    def test_a_page_whose_rows_are_all_deleted(self, plain, api):
        for number in (3, 4, 5):
            schedule(number)
        AppointmentMeta.buffered.flush()
        for number in (3, 4):
            AppointmentMeta.buffered.delete(appointment_id=number)
        assert api("GET", "appointments/?limit=2").json() == {"appointments": [], "next": 4}

    def test_changes_the_status(self, database, redis_server, bring, api):
        schedule(3)
        bring(AppointmentMeta.buffered)
        response = api("PATCH", self.path, {"status": "arrived"})
        assert (response.status_code, response.json()) == (202, {"pending": True})
        response = api("PATCH", self.path, {"status": "done", "expected": "arrived"})
        assert response.status_code == 202
        assert appointment(3).status == "done"

    def test_from_another_status_than_expected(self, database, redis_server, bring, api):
        schedule(3)
        bring(AppointmentMeta.buffered)
        response = api("PATCH", self.path, {"status": "done", "expected": "arrived"})
        assert response.status_code == 409
        assert appointment(3).status == "scheduled"

    def test_what_is_not_there_or_has_expired(self, plain, api):
        assert api("PATCH", self.path, {"status": "done"}).status_code == 404
        schedule(3, expires_at=later(seconds=-1))
        body = {"status": "done", "expected": "scheduled"}
        assert api("PATCH", self.path, body).status_code == 404

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"expected": "scheduled"}, "status"),
            ({"status": None}, "status"),
            ({"status": 1}, "status"),
            ({"status": "x" * 21}, "status"),
            ({"status": {"$add": 1}}, "status"),
            ({"status": "done", "expected": None}, "expected"),
            ({"status": "done", "expected": {"$max": 1}}, "expected"),
            ({"status": "done", "patient_id": 1}, "patient_id"),
        ],
    )
    def test_what_a_field_refuses(self, plain, api, body, field):
        schedule(3)
        response = api("PATCH", self.path, body)
        assert (response.status_code, list(response.json()["fields"])) == (400, [field])
        assert appointment(3).status == "scheduled"
