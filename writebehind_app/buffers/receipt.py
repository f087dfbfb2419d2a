"""What a write returns."""

from __future__ import annotations

import time
from typing import NamedTuple

from writebehind_app.store.connection import client
from writebehind_app.store.shard import Shard, Where


class Receipt(NamedTuple):
    """Tells where an accepted write is."""

    shard: str
    id: str
    no: int  # of the entry that took the write

    @property
    def where(self) -> Where:
        """'pending', 'in_flight', 'gone' (in the database), 'discarded', or 'lost': Redis lost
        it, or does not know any more."""
        return Shard(client(), self.shard).locate(self.id, self.no)

    @property
    def persisted(self) -> bool:
        """Whether the write is in the database."""
        return self.where == "gone"

    def wait(self, timeout: float, *, poll: float = 0.02) -> bool:
        """Wait until the write is in the database; False if it is not by the end of the time.

        Nothing is flushed by it. A write that will never arrive is not waited for.
        """
        deadline = time.monotonic() + timeout
        while (where := self.where) in ("pending", "in_flight"):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(poll, left))
        return where == "gone"
