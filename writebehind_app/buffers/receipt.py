"""What a write returns."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

from writebehind_app.buffers import registry
from writebehind_app.store.connection import client
from writebehind_app.store.keys import label_and_number
from writebehind_app.store.shard import Shard, Where


class Receipt(NamedTuple):
    """Tells where an accepted write is."""

    shard: str
    id: str
    no: int  # of the entry that took the write

    @property
    def where(self) -> Where | Literal["dead"]:
        """'pending', 'in_flight', 'gone' (in the database), 'dead' (the database refused it),
        'discarded', or 'lost': Redis lost it, or does not know any more."""
        where = Shard(client(), self.shard).locate(self.id, self.no)
        return "dead" if where == "gone" and self.dead is not None else where

    @property
    def dead(self) -> str | None:
        """Why the database refused the write, as long as that is among the dead letters."""
        from writebehind_app.flush.deadletters import letters_of

        label, shard = label_and_number(self.shard)
        letters = letters_of(registry.buffers()[label]).filter(shard=shard, number=self.no)
        return letters.values_list("reason", flat=True).first()

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
