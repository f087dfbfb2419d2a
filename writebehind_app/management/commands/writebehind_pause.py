"""`manage.py writebehind_pause`: nothing is flushed any more; writes go on."""

from __future__ import annotations

from writebehind_app.management.pausing import PausingCommand
from writebehind_app.store import shard as store


class Command(PausingCommand):
    help = (
        "Lets nobody flush these buffers, or all, until writebehind_resume. Writes and reads go "
        "on. A batch that is being flushed comes to its end; one that failed, or whose flusher "
        "died, waits too."
    )
    act = staticmethod(store.pause)
    outcomes = "is paused", "was paused already"
