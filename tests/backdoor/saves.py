"""Saves of the ORM, in the middle of which something happens."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from writebehind_app.orm import overwrite


def before_lock(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something once, between the look of a save and its lock."""
    begin, done = overwrite.begin_writing, []

    def dawdle(connection: object) -> None:
        if not done:
            done.append(True)
            act()
        begin(connection)

    monkeypatch.setattr(overwrite, "begin_writing", dawdle)
