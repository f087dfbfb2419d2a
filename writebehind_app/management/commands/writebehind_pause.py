"""`manage.py writebehind_pause`: stop flushing; writes go on."""

from __future__ import annotations

from writebehind_app.management.pausing import PausingCommand
from writebehind_app.store import state


class Command(PausingCommand):
    help = (
        "Lets nobody flush these buffers, or all, until writebehind_resume. Writes and reads go "
        "on. A batch that is being flushed comes to its end; one that failed, or whose flusher "
        "died, waits too."
    )
    act = staticmethod(state.pause)
    outcomes = "is paused", "was paused already"
