"""Between the looks of one read: in Redis, in the database, and once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from writebehind_app.buffers import reading, window
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.database import lookup, snapshot
from writebehind_app.store import lua

Moment = Literal[
    "before the database is asked",
    "after the database was asked",
    "before redis is asked",
    "after the read",
]

# Where the package does what a moment is before or after of.
_MOMENTS: dict[Moment, tuple[Any, str, bool]] = {
    "before the database is asked": (reading, "_ask_database", True),
    "after the database was asked": (reading, "_ask_database", False),
    "before redis is asked": (reading, "_read", True),
    "after the read": (reading, "rows", False),
}


def act_once(patch: pytest.MonkeyPatch, moment: Moment, act: Callable[[], object]) -> None:
    """Do that at a moment of the next read of rows."""
    module, name, first = _MOMENTS[moment]
    _around(patch, module, name, act, first=first)


def act_after_look(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do that once, between the look of a guarded write and the write."""
    _around(patch, reading, "guarded", act, first=False)


def give_up_on_flushers(patch: pytest.MonkeyPatch) -> None:
    """A guarded write whose row is in flight waits no longer, as after a lease."""
    wait = CoalescingBuffer._wait_for_others

    def wait_no_longer(buffer: CoalescingBuffer, id: str, until: float) -> None:
        wait(buffer, id, -float("inf"))

    patch.setattr(CoalescingBuffer, "_wait_for_others", wait_no_longer)


def act_before_keys(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do that once, after the rows of a queryset were read and before their keys are."""
    _around(patch, reading, "all_rows", act, first=True)


def act_amid_window(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do that once, after Redis was asked for a window and before the database is."""
    _around(patch, window.records, "window", act, first=False)


def act_after_first_page(
    patch: pytest.MonkeyPatch, act: Callable[[], object], *, page: int
) -> list[int]:
    """Do that once, after the first page of a window was read, of pages with so many records; the
    list gets how many shards are asked for each page."""
    run, pages = lua.run_many, list[int]()

    def run_and_act(client: Any, name: str, calls: Any) -> Any:
        replies = run(client, name, calls)
        if name == "window":
            pages.append(len(calls))
            if len(pages) == 1:
                act()
        return replies

    patch.setattr(window.records, "PAGE", page)
    patch.setattr(lua, "run_many", run_and_act)
    return pages


def forget_statements() -> None:
    """The SQL of reads, which is made once for a model, is made anew."""
    for made in (lookup._row, lookup.select, snapshot._text):
        made.cache_clear()


def reads_are_told_of(buffer: CoalescingBuffer) -> None:
    """The next read that shows too little is logged, whatever was logged before."""
    reading._told.pop(buffer.label, None)


def _around(
    patch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[[], object], *, first: bool
) -> None:
    call, left = getattr(module, name), [act]

    def called(*args: Any, **options: Any) -> Any:
        if left and first:
            left.pop()()
        result = call(*args, **options)
        if left:
            left.pop()()
        return result

    patch.setattr(module, name, called)
