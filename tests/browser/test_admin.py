"""The admin, as somebody on call uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import Browser
from tests.demo import Demo, rows, run, wait_until

pytestmark = pytest.mark.browser

ADMIN = "admin/writebehind/"
LESSONS = f"{ADMIN}dashboard/writebehind_meta.LessonMeta/"
PAGES = {
    "admin-dashboard": f"{ADMIN}dashboard/",
    "admin-health": f"{ADMIN}dashboard/health/",
    "admin-entries": LESSONS,
    "admin-flush": f"{ADMIN}dashboard/flush/",
    "admin-letters": f"{ADMIN}deadletter/",
    "admin-history": f"{ADMIN}appliedbatch/",
}


def shell(demo: Demo, code: str) -> None:
    done = run(demo.data, "manage.py", "shell", "--no-imports", "-v", "0", "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def paused(demo: Demo) -> Iterator[None]:
    """What is pending stays so for a while."""
    run(demo.data, "manage.py", "writebehind_pause", "writebehind_meta.LessonMeta")
    yield
    run(demo.data, "manage.py", "writebehind_resume", "writebehind_meta.LessonMeta")


def test_a_broken_foreign_key_is_seen_mended_and_stored(browser: Browser, demo: Demo) -> None:
    shell(
        demo,
        "from writebehind_app.meta.models import LessonMeta\n"
        "LessonMeta.buffered.of(lesson_id=7, user=990001)['note'] = 'lost'\n"
        "LessonMeta.buffered.of(lesson_id=7, user=990001).flush()",
    )
    browser.open(f"{ADMIN}dashboard/")
    browser.click("a[href$='deadletter/?buffer=writebehind_meta.LessonMeta']")
    browser.click("#result_list tbody th a")
    browser.wait_for_text(".wb-finding", "there is no auth.User 990001")
    assert browser.hurdles() == []

    browser.run("document.querySelector('[name=meta_value]').value = '\"found\"'")
    browser.click("[name=_retry]")
    browser.wait_for_text(".messagelist", "1 refused again")
    assert browser.find("[name=meta_value]").get_property("value") == '"found"'

    shell(
        demo,
        "from django.contrib.auth.models import User\n"
        "User.objects.create(pk=990001, username='late')",
    )
    browser.click("[name=_retry]")
    browser.wait_for_text(".messagelist", "1 stored.")
    stored = "SELECT meta_value FROM writebehind_meta_lessonmeta WHERE user_id = 990001"
    assert rows(demo.data, stored) == [('"found"',)]


def test_the_dashboard_is_live_until_it_is_stopped(browser: Browser) -> None:
    browser.open(f"{ADMIN}dashboard/")

    def cards() -> str:
        return browser.text("#wb-status")

    browser.wait_for_text("#content", "Django-Q2 has a schedule that flushes.")
    wait_until(lambda: browser.has(".wb-well, .wb-finding"))  # the health, which comes later
    assert browser.has(".wb-well, .wb-finding")
    wait_until(lambda: " /s" in cards())
    assert " /s" in cards()
    before = cards()
    wait_until(lambda: cards() != before)  # the simulated people go on writing
    assert cards() != before
    browser.click("[data-pause]")
    browser.wait_for_text("[data-pause]", "Go on updating")
    browser.run("document.querySelector('#wb-status').textContent = 'as it was'")
    browser.click("[data-pause]")
    wait_until(lambda: cards() != "as it was")
    assert "TicketMeta" in cards()


def test_a_flush_of_everything_goes_on_by_itself(browser: Browser) -> None:
    browser.open(f"{ADMIN}dashboard/")
    browser.click("[name=begin]")
    browser.wait_for_text("#content", "It has ended:")
    browser.wait_for_text(".messagelist", "stored")


def test_an_entry_is_found_and_flushed_with_the_keyboard_alone(
    browser: Browser, demo: Demo, paused: None
) -> None:
    shell(
        demo,
        "from writebehind_app.meta.models import LessonMeta\n"
        "LessonMeta.buffered.of(lesson_id=8, user=1)['note'] = 'soon'",
    )
    browser.open(LESSONS)
    field = browser.find("[name=key-lesson_id]")
    field.send_keys("8")
    browser.find("[name=key-user]").send_keys("1\n")
    browser.wait_for_text(".wb table", "soon")
    assert "—" in browser.text(".wb table")
    assert browser.hurdles() == []
    browser.find("[formaction$='discard/']").send_keys("\n")
    browser.wait_for_text("#content", "To discard, type writebehind_meta.LessonMeta:")
    assert browser.hurdles() == []
    browser.driver.back()
    run(demo.data, "manage.py", "writebehind_resume", "writebehind_meta.LessonMeta")
    browser.find("[formaction$='flush/']").send_keys("\n")
    browser.wait_for_text(".messagelist", "row")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_page_of_the_admin_fits_the_window_and_is_for_all(
    browser: Browser, screenshots: Callable[[str], Path], width: int, scheme: str
) -> None:
    emulate = browser.driver.execute_cdp_cmd
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    feature = {"name": "prefers-color-scheme", "value": scheme}
    emulate("Emulation.setDeviceMetricsOverride", size)
    emulate("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        for name, path in PAGES.items():
            browser.open(path)
            browser.driver.save_screenshot(screenshots(f"{name}-{width}-{scheme}"))
            assert browser.run("return document.documentElement.scrollWidth") <= width, name
            assert browser.hurdles() == [], name
    finally:
        emulate("Emulation.clearDeviceMetricsOverride", {})
        emulate("Emulation.setEmulatedMedia", {"features": []})
