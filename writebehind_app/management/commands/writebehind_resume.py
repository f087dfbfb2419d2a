"""`manage.py writebehind_resume`: flush paused buffers again."""

from __future__ import annotations

from writebehind_app.management.pausing import PausingCommand
from writebehind_app.store import state


class Command(PausingCommand):
    help = "Lets these buffers, or all, be flushed again after writebehind_pause."
    act = staticmethod(state.resume)
    outcomes = "is no longer paused", "was not paused"
