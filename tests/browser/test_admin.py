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
    "admin-letter": f"{ADMIN}deadletter/1/change/",
    "admin-history": f"{ADMIN}appliedbatch/",
}

# The cells of tables that are beyond the edge of what their table is in.
CUT_OFF = """
    return [...document.querySelectorAll("#content :is(td, th)")].filter((cell) => {
        const edge = cell.closest(".results, .wb-scroll")?.getBoundingClientRect().right;
        const { width, right } = cell.getBoundingClientRect();
        return width && right > (edge ?? innerWidth) + 1;
    }).map((cell) => cell.innerText);
"""

# The names of buffers in the history that are broken inside of a word.
BROKEN_WORDS = """
    return [...document.querySelectorAll("#result_list .field-rows_of")].filter((cell) => {
        const text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT).nextNode();
        const range = document.createRange();
        return [...text.data.matchAll(/\\S+/g)].some(({ 0: word, index }) => {
            range.setStart(text, index);
            range.setEnd(text, index + word.length);
            return range.getClientRects().length > 1;
        });
    }).map((cell) => cell.innerText);
"""


def shell(demo: Demo, code: str) -> None:
    done = run(demo.data, "manage.py", "shell", "--no-imports", "-v", "0", "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def paused(demo: Demo) -> Iterator[None]:
    """What is pending stays so for a while."""
    run(demo.data, "manage.py", "writebehind_pause", "writebehind_meta.LessonMeta")
    yield
    run(demo.data, "manage.py", "writebehind_resume", "writebehind_meta.LessonMeta")


@pytest.fixture
def resumed(demo: Demo) -> Iterator[None]:
    """Whatever a test comes to, the next one finds nothing paused."""
    yield
    run(demo.data, "manage.py", "writebehind_resume")


def test_a_broken_foreign_key_is_seen_mended_and_stored(browser: Browser, demo: Demo) -> None:
    shell(
        demo,
        "from writebehind_app.meta.models import LessonMeta\n"
        "LessonMeta.buffered.of(lesson_id=7, user=990001)['note'] = 'lost'\n"
        "LessonMeta.buffered.of(lesson_id=7, user=990001).flush()",
    )
    browser.open(f"{ADMIN}dashboard/")
    browser.click("a[href*='deadletter/?buffer=writebehind_meta.LessonMeta']")
    browser.click("#result_list tbody tr:last-child th a")  # the demo made those before
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


def test_an_edit_of_a_pending_row_stays(
    browser: Browser, demo: Demo, resumed: None, screenshots: Callable[[str], Path]
) -> None:
    shell(
        demo,
        "from writebehind_app.meta.models import TicketMeta\n"
        "TicketMeta.buffered.set(ticket_id=990001, status='open', subject='Printer')\n"
        "TicketMeta.buffered.flush(ticket_id=990001)",
    )
    run(demo.data, "manage.py", "writebehind_pause", "writebehind_meta.TicketMeta")
    shell(
        demo,
        "from writebehind_app.meta.models import TicketMeta\n"
        "TicketMeta.buffered.set(ticket_id=990001, status='waiting')",
    )
    browser.open("admin/writebehind_meta/ticketmeta/?q=990001")
    assert browser.text("#result_list .field-status") == "waiting"
    browser.driver.save_screenshot(screenshots("ticket-list"))
    browser.click("#result_list tbody th a")
    assert browser.find("[name=status]").get_property("value") == "waiting"
    browser.driver.save_screenshot(screenshots("ticket-form"))
    browser.fill("status", "closed")
    browser.click("[name=_save]")
    browser.wait_for_text(".messagelist", "was changed successfully")
    assert browser.text("#result_list .field-status") == "closed"

    run(demo.data, "manage.py", "writebehind_resume", "writebehind_meta.TicketMeta")
    stored = "SELECT status, subject FROM writebehind_meta_ticketmeta WHERE ticket_id = 990001"
    wait_until(lambda: rows(demo.data, stored) == [("closed", "Printer")])
    browser.open("admin/writebehind_meta/ticketmeta/?q=990001")
    assert browser.text("#result_list .field-status") == "closed"


def test_a_retry_that_would_undo_an_edit_asks(
    browser: Browser, demo: Demo, screenshots: Callable[[str], Path]
) -> None:
    """Somebody edits a row by its own save() after a write to it died; the owner was away then."""
    shell(
        demo,
        "from django.contrib.auth.models import User\n"
        "from writebehind_app.meta.models import LessonMeta\n"
        "LessonMeta.buffered.of(lesson_id=7, user=990003)['note'] = 'from the buffer'\n"
        "LessonMeta.buffered.of(lesson_id=7, user=990003).flush()\n"
        "user = User.objects.create(pk=990003, username='again')\n"
        "LessonMeta.objects.create(lesson_id=7, user=user, meta_key='note', meta_value='by hand')",
    )
    stored = "SELECT meta_value FROM writebehind_meta_lessonmeta WHERE user_id = 990003"
    browser.open(f"{ADMIN}deadletter/?q=990003")
    browser.click("#result_list tbody th a")
    browser.wait_for_text("#wb-edits", "The row was edited since")
    assert browser.texts("#wb-edited td") == ["from the buffer", "no row", "by hand"]
    browser.driver.save_screenshot(screenshots("letter-asks"))
    assert browser.hurdles() == []

    browser.click("[name=_retry]")
    browser.wait_for_text(".messagelist", "1 not written: its row was edited since")
    assert rows(demo.data, stored) == [('"by hand"',)]
    browser.click("#wb-over")
    browser.click("[name=_retry]")
    browser.wait_for_text(".messagelist", "1 stored.")
    assert rows(demo.data, stored) == [('"from the buffer"',)]


def test_the_dashboard_is_live_until_it_is_stopped(browser: Browser) -> None:
    browser.open(f"{ADMIN}dashboard/")

    def cards() -> str:
        return browser.text("#wb-status")

    browser.wait_for_text("#content", "Django-Q2 has a schedule that flushes.")
    wait_until(lambda: browser.has(".wb-well, .wb-finding"))  # the health, which comes later
    assert browser.has(".wb-well, .wb-finding")
    assert not browser.find("#wb-lost").is_displayed()
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


def test_entries_are_found_by_how_their_key_begins(
    browser: Browser, demo: Demo, paused: None
) -> None:
    shell(
        demo,
        "from writebehind_app.meta.models import LessonMeta\n"
        "for user in range(3): LessonMeta.buffered.of(lesson_id=880 + user, user=1)['n'] = 1",
    )
    browser.open(LESSONS)
    browser.find("[name=key-lesson_id]").send_keys("88*\n")
    assert [cell.split(",")[0] for cell in browser.texts(".wb tbody th")] == [
        f"lesson_id={n}" for n in (880, 881, 882)
    ]
    assert browser.hurdles() == []
    browser.find("[name=key-user]").send_keys("1\n")
    browser.wait_for_text(".errorlist", "Only the last field that you fill in may end in *.")
    browser.fill("key-lesson_id", "881")
    browser.find("[name=key-user]").send_keys("\n")
    browser.wait_for_text("h1", "Lesson metadata: lesson 881, user 1")


def test_what_waits_is_paused_discarded_and_flushed_with_the_mouse(
    browser: Browser, demo: Demo, resumed: None
) -> None:
    browser.open(LESSONS)
    browser.click("[action$='pause/'] .button:not([name])")
    browser.wait_for_text(".messagelist", "Paused, and writes go on: Lesson metadata.")
    assert "paused" in browser.text("#wb-status")
    shell(
        demo,
        "from writebehind_app.meta.models import LessonMeta\n"
        "LessonMeta.buffered.of(lesson_id=77, user=1)['note'] = 'lost'\n"
        "LessonMeta.buffered.of(lesson_id=78, user=1)['note'] = 'kept'",
    )
    browser.open(f"{LESSONS}?key-lesson_id=77")
    browser.click(".wb tbody [name=id]")
    browser.click("[formaction$='discard/']:not([name])")
    browser.wait_for_text("#content", "To discard, type")
    browser.fill("confirmation", "something else")
    browser.click(".wb-danger")
    browser.wait_for_text(".errornote", "That is something else.")
    assert "lost" in browser.text(".wb tbody")
    browser.fill("confirmation", "writebehind_meta.LessonMeta")
    browser.click(".wb-danger")
    browser.wait_for_text(".messagelist", "1 entry discarded.")
    browser.open(LESSONS)
    browser.click("[action$='pause/'] [name=resume]")
    browser.wait_for_text(".messagelist", "Flushed again: Lesson metadata.")
    browser.open(LESSONS)
    browser.click("[action$='flush/'] [name=begin]")
    browser.wait_for_text("#content", "It has ended:")
    browser.open("admin/")
    assert "writebehind_meta.LessonMeta" in browser.text("#recent-actions-module")
    stored = "SELECT lesson_id FROM writebehind_meta_lessonmeta WHERE lesson_id IN (77, 78)"
    assert rows(demo.data, stored) == [(78,)]


def test_dead_letters_are_retried_exported_and_discarded_in_bulk(
    browser: Browser, demo: Demo
) -> None:
    shell(
        demo,
        "from writebehind_app.meta.models import LessonMeta\n"
        "for n in range(3): LessonMeta.buffered.of(lesson_id=n, user=990002)['note'] = 'lost'\n"
        "LessonMeta.buffered.flush()",
    )
    letters = f"{ADMIN}deadletter/?q=990002"

    def act(action: str) -> None:
        browser.open(letters)
        # Whenever the script of the admin has come to it.
        browser.run("document.querySelectorAll('.action-select').forEach(b => b.checked = true)")
        browser.run("document.querySelector('[name=action]').value = arguments[0]", action)
        browser.click("[name=index]")

    act("export_csv")
    act("retry")
    browser.wait_for_text(".messagelist", "3 refused again: see why below.")
    act("discard")
    browser.wait_for_text(".wb tbody", "user_id=990002")
    assert browser.hurdles() == []
    browser.wait_for_text("#content", "To discard, type 3:")
    browser.fill("confirmation", "3")
    browser.click(".wb-danger")
    browser.wait_for_text(".messagelist", "3 dead letters discarded.")


@pytest.fixture
def as_user(browser: Browser, demo: Demo) -> Iterator[Callable[[str, str], None]]:
    """`as_user("view", "somebody")`: log in as staff with these permissions."""

    def log_in(name: str, permissions: str) -> None:
        shell(
            demo,
            "from django.contrib.auth.models import Permission, User\n"
            f"user, _ = User.objects.get_or_create(username='{name}', is_staff=True)\n"
            "user.set_password('demo'); user.save()\n"
            "user.user_permissions.set(Permission.objects.filter("
            f"content_type__app_label='writebehind', codename__in='{permissions}'.split()))",
        )
        browser.driver.delete_all_cookies()
        browser.log_in(name)

    yield log_in
    browser.driver.delete_all_cookies()
    browser.log_in()


def test_who_may_only_look_sees_all_pages_and_no_button(
    browser: Browser, as_user: Callable[[str, str], None]
) -> None:
    as_user("looking", "view")
    for name, path in PAGES.items():
        browser.open(path)
        if name == "admin-flush":
            assert "403" in browser.text("h1")
            browser.errors()  # the console has the 403
            continue
        assert browser.text("h1"), name
        assert not browser.has("#content form[method=post] .wb-actions .button"), name
        assert not browser.has(".wb-actions .button"), name
    browser.open(f"{ADMIN}deadletter/")
    assert "Discard" not in browser.text("#content")
    browser.open("admin/")
    assert browser.has(".app-writebehind.module")


def test_who_may_nothing_and_who_is_nobody_see_nothing(
    browser: Browser, as_user: Callable[[str, str], None]
) -> None:
    as_user("idle", "")
    browser.open("admin/")
    assert not browser.has(".app-writebehind.module")
    for path in PAGES.values():
        browser.open(path)
        assert "403" in browser.text("body"), path
    browser.driver.delete_all_cookies()
    for path in PAGES.values():
        browser.open(path)
        assert browser.has("#login-form"), path
    browser.errors()  # the console has each 403


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_page_of_the_admin_fits_the_window_and_is_for_all(
    browser: Browser, screenshots: Callable[[str], Path], width: int, scheme: str
) -> None:
    with browser.seen_as(width, scheme):
        for name, path in PAGES.items():
            browser.open(path)
            browser.driver.save_screenshot(screenshots(f"{name}-{width}-{scheme}"))
            assert browser.run("return document.documentElement.scrollWidth") <= width, name
            assert browser.run(CUT_OFF) == [], name
            assert browser.hurdles() == [], name
            if name == "admin-letters":
                assert browser.find(".field-short_reason").is_displayed()
                assert browser.find(".field-refused").is_displayed()
            if name == "admin-history":
                assert browser.run(BROKEN_WORDS) == []
