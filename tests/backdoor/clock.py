"""The time by Redis' clock, as this process knows it."""

from __future__ import annotations

from writebehind_app.store import clock

now = clock.now
"""µs since 1970."""


def be_wrong_by(seconds: float) -> None:
    """Take Redis' clock to be that much ahead of what it is."""
    clock.saw(clock.now() + round(seconds * 1_000_000), clock.ticks())
