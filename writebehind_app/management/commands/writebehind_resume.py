"""`manage.py writebehind_resume`: what was paused is flushed again."""

from __future__ import annotations

from writebehind_app.management.pausing import PausingCommand
from writebehind_app.store import shard as store


class Command(PausingCommand):
    help = "Lets these buffers, or all, be flushed again after writebehind_pause."
    act = staticmethod(store.resume)
    outcomes = "is no longer paused", "was not paused"
