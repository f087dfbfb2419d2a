"""The demo site, as people use it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Browser
from tests.demo import Demo, rows, run, wait_until

pytestmark = pytest.mark.browser

PAGES = {
    "lessons": "lessons/",
    "lesson": "lessons/2/",
    "events": "events/",
    "event": "events/1/?last=hour",
    "tickets": "tickets/",
    "ticket": "tickets/2/",
    "appointments": "appointments/",
    "profile": "profile/",
    "login": "login/",
}


def test_the_position_in_a_lesson_is_back_after_a_reload(browser: Browser, demo: Demo) -> None:
    browser.open("lessons/1/")
    browser.click("[data-seek='60']")
    browser.click("#play")
    browser.fill("notes", "Ask about this.")
    wait_until(lambda: browser.text("#clock") >= "1:03")
    browser.click("#play")
    browser.wait_for_text("#saved", "saved, pending")
    position = browser.run("return position")
    browser.wait_for_text("#saved", "stored in the database")
    stored = lesson(demo, 1)
    browser.open("lessons/1/")

    assert browser.run("return position") == pytest.approx(position, abs=0.1)
    assert browser.text("#clock") == browser.run("return clock(arguments[0])", position)
    assert browser.find("#notes").get_property("value") == "Ask about this."
    assert stored["position"] == stored["furthest"] == pytest.approx(position, abs=0.1)
    assert stored["seconds"] in (2, 3, 4)
    assert stored["notes"] == "Ask about this."


def test_a_lesson_is_saved_once_the_connection_is_back(browser: Browser) -> None:
    browser.open("lessons/3/")
    browser.go_offline(True)
    try:
        browser.click("[data-seek='80']")
        browser.fill("notes", "Written on a train")
        browser.wait_for_text("#saved", "not saved: no connection")
    finally:
        browser.go_offline(False)
    browser.wait_for_text("#saved", "saved, pending")
    errors = browser.errors()
    browser.open("lessons/3/")

    assert browser.text("#clock") == "1:20"
    assert browser.find("#notes").get_property("value") == "Written on a train"
    assert errors
    assert all("ERR_INTERNET_DISCONNECTED" in error for error in errors)


def test_what_was_watched_last_arrives_when_the_page_is_left(browser: Browser) -> None:
    browser.open("lessons/3/")
    browser.click("[data-seek='0']")
    browser.wait_for_text("#saved", "saved")
    browser.run("seek(77)")
    browser.open("tickets/")

    wait_until(lambda: browser.open("lessons/3/") or browser.run("return position") == 77)
    assert browser.run("return position") == 77


def test_a_finished_lesson_is_in_the_database(browser: Browser, demo: Demo) -> None:
    browser.open("lessons/2/")
    browser.click("[data-seek='270']")
    browser.fill("notes", "Done")
    browser.click("#finish")

    browser.wait_for_text(".notice", "“Nothing is lost” is finished.")
    stored = lesson(demo, 2)
    assert stored["done"] is True
    assert stored["furthest"] == 270
    assert stored["notes"] == "Done"


def lesson(demo: Demo, id: int) -> dict[str, Any]:
    """What the database has for the user of the tests."""
    query = (
        "SELECT meta_key, meta_value FROM writebehind_meta_lessonmeta JOIN auth_user"
        f" ON user_id = auth_user.id WHERE username = 'demo' AND lesson_id = {id}"
    )
    return {key: json.loads(value) for key, value in rows(demo.data, query)}


def test_a_second_registration_of_an_address_is_refused(browser: Browser, demo: Demo) -> None:
    for name, email in (("Ada", "ada@example.org"), ("Somebody else", "Ada@Example.org")):
        browser.open("events/3/")
        browser.fill("name", name)
        browser.fill("email", email)
        browser.click("form.stack button")
        browser.wait_for_text("main", "is registered")

    assert "Ada@Example.org is registered for this event already." in browser.text(".errorlist")
    assert browser.find("#id_email").get_attribute("aria-invalid") == "true"
    browser.open("events/3/")
    assert "Ada" in browser.text("#registrations")
    assert "Somebody else" not in browser.text("#registrations")
    names = "SELECT name FROM writebehind_meta_eventregistration WHERE email = 'ada@example.org'"
    wait_until(lambda: rows(demo.data, names))
    assert rows(demo.data, names) == [("Ada",)]
    shown = r"Ada\s+[\d:]+\s+stored\s+ada@example.org"
    wait_until(lambda: re.search(shown, browser.text("#registrations")))
    assert re.search(shown, browser.text("#registrations"))


def test_a_resolved_ticket_is_in_the_database(browser: Browser, demo: Demo) -> None:
    browser.open("tickets/1/")
    browser.click("[action$='resolve/'] button")

    browser.wait_for_text(".notice", "Ticket 1 is resolved, and stored in the database.")
    status = "SELECT status FROM writebehind_meta_ticketmeta WHERE ticket_id = 1"
    assert rows(demo.data, status) == [("resolved",)]


def test_a_click_moves_an_appointment(browser: Browser, demo: Demo) -> None:
    browser.open("appointments/")
    browser.click("button[value='1:scheduled']")
    wait_until(lambda: browser.has("button[value='1:confirmed']"))
    browser.click("button[value='1:confirmed']")
    wait_until(lambda: browser.has("button[value='1:arrived']"))

    # Still the latest card of that column: what is pending is shown, then stored.
    assert "pending" in browser.text("#appointment-1")
    browser.wait_for_text("#appointment-1", "stored")
    status = "SELECT status FROM writebehind_meta_appointmentmeta WHERE appointment_id = 1"
    assert rows(demo.data, status) == [("arrived",)]


def test_an_appointment_that_somebody_else_moved_stays_where_it_is(browser: Browser) -> None:
    browser.open("appointments/")
    browser.run(
        """
        const button = document.querySelector("button[value='2:scheduled']");
        button.focus();  // the page does not replace what has the focus
        const form = new FormData(button.form, button);
        return fetch("", {method: "POST", body: form}).then(() => button.click());
        """
    )

    browser.wait_for_text(".notice", "Appointment 2 is not scheduled any more")
    assert browser.has("button[value='2:confirmed']")


def test_a_walk_in_is_shown_at_once_and_gone_after_its_time(browser: Browser, demo: Demo) -> None:
    browser.open("appointments/")
    browser.fill("walk_in", "Wendy Walker")
    browser.click(".walk-in button")
    browser.wait_for_text("#appointment-17", "Wendy Walker")
    assert "pending" in browser.text("#appointment-17")
    walk_in = "SELECT expires_at FROM writebehind_meta_appointmentmeta WHERE appointment_id = 17"
    wait_until(lambda: rows(demo.data, walk_in))
    assert rows(demo.data, walk_in)
    # Nobody waits here for its time to pass.
    passed = run(
        demo.data,
        "manage.py",
        "shell",
        "-c",
        "from django.utils.timezone import now\n"
        "from writebehind_app.meta.models import AppointmentMeta\n"
        "AppointmentMeta.buffered.set(appointment_id=17, expires_at=now())\n"
        "AppointmentMeta.buffered.flush(appointment_id=17)",
    )
    assert passed.returncode == 0, passed.stderr

    wait_until(lambda: not browser.has("#appointment-17"))
    assert not browser.has("#appointment-17")
    wait_until(lambda: not rows(demo.data, walk_in), timeout=90)  # a process looks once a minute
    assert not rows(demo.data, walk_in)


def test_a_profile_is_changed(browser: Browser, demo: Demo) -> None:
    browser.open("profile/")
    browser.fill("display_name", "Dana <b>Demo</b>")
    browser.fill("bio", "First line\nsecond line")
    browser.click("[name=digest]")
    browser.click("form.stack button")

    # It joins a write of when one was last seen, and may be stored at once.
    browser.wait_for_text("#write", "Your write")
    browser.wait_for_text("#write", "stored in the database")
    assert "Dana <b>Demo</b>" in browser.text("#state")
    assert browser.find("[name=digest]").is_selected()
    profile = (
        "SELECT display_name, bio, preferences, last_seen_at FROM writebehind_meta_userprofile"
        " WHERE user_id = (SELECT id FROM auth_user WHERE username = 'demo')"
    )
    name, bio, preferences, seen = rows(demo.data, profile)[0]
    assert name == "Dana <b>Demo</b>"
    assert bio.split() == ["First", "line", "second", "line"]
    assert json.loads(preferences) == {"digest": True}
    assert (
        timedelta(0) < datetime.now(UTC) - datetime.fromisoformat(f"{seen}Z") < timedelta(minutes=1)
    )


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_the_window(
    browser: Browser, screenshots: Callable[[str], Path], width: int, scheme: str
) -> None:
    with browser.seen_as(width, scheme):
        for name, path in PAGES.items():
            browser.open(path)
            browser.driver.save_screenshot(screenshots(f"{name}-{width}-{scheme}"))
            dark = browser.run("return matchMedia('(prefers-color-scheme: dark)').matches")
            assert dark == (scheme == "dark")
            assert browser.run("return document.documentElement.scrollWidth") <= width, name
