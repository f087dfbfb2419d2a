"""The demo site, as people use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.conftest import Browser
from tests.demo import Demo, rows

pytestmark = pytest.mark.browser

PAGES = {
    "tickets": "tickets/",
    "ticket": "tickets/2/",
    "login": "login/",
}


def test_a_resolved_ticket_is_in_the_database(browser: Browser, demo: Demo) -> None:
    browser.open("tickets/1/")
    browser.click("[action$='resolve/'] button")

    browser.wait_for_text(".notice", "Ticket 1 is resolved, and stored in the database.")
    status = "SELECT status FROM writebehind_meta_ticketmeta WHERE ticket_id = 1"
    assert rows(demo.data, status) == [("resolved",)]


def test_a_changed_ticket_is_pending_then_stored(browser: Browser, demo: Demo) -> None:
    browser.open("tickets/3/")
    browser.fill("subject", "Typed by hand")
    browser.click("form.stack button")

    browser.wait_for_text("#write", "Your write was accepted")
    browser.wait_for_text("#write", "stored in the database")
    subject = "SELECT subject FROM writebehind_meta_ticketmeta WHERE ticket_id = 3"
    assert rows(demo.data, subject) == [("Typed by hand",)]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_the_window(
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
            dark = browser.run("return matchMedia('(prefers-color-scheme: dark)').matches")
            assert dark == (scheme == "dark")
            assert browser.run("return document.documentElement.scrollWidth") <= width, name
    finally:
        emulate("Emulation.clearDeviceMetricsOverride", {})
        emulate("Emulation.setEmulatedMedia", {"features": []})
