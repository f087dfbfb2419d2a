"""What a write returns."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from asgiref.sync import sync_to_async

from writebehind_app import registry
from writebehind_app.database.deadletters import is_discarded, letters_of, readable
from writebehind_app.store.connection import client
from writebehind_app.store.keys import label_and_number
from writebehind_app.store.shard import Shard, Where

if TYPE_CHECKING:
    from writebehind_app.buffers.outbox import HeldWrite
    from writebehind_app.declaration import Declaration

_ON_THE_WAY = ("held", "pending", "in_flight")


class Receipt(NamedTuple):
    """Tells where an accepted write is.

    What is asked of it asks Redis, then the database. One that went around Redis was in the
    database, or in the transaction around it, when the call returned. In asynchronous code await
    its twins: `await receipt.apersisted()`, `await receipt.await_(10)`. That of a write which was
    held back, by a `batch()` or a transaction, knows the rest once it was sent.
    """

    shard: str  # '' where the write went around Redis
    id: str
    no: int  # of the entry that took the write
    rows: tuple[str, ...] = ()  # of metadata: the ids of the rows it wrote, of those of the entity
    held: HeldWrite | None = None  # of a write that is held back, or was

    @property
    def direct(self) -> bool:
        """Whether the write went straight to the database."""
        if self.held:
            sent = self.held.sent
            return sent is not None and sent.direct
        return not self.shard

    @property
    def where(self) -> Where | Literal["dead", "held"]:
        """'held' (by a `batch()` or a transaction), 'pending', 'in_flight', 'gone' (in the
        database), 'dead' (the database refused it), 'discarded' (by a rollback too, or an error
        when it was to be sent), or 'lost': Redis lost it, or nobody knows any more."""
        if self.held:
            return self.held.where
        if self.direct:
            return "gone"
        where = Shard(client(), self.shard).locate(self.id, self.no)
        return self._after_redis() if where == "gone" else where

    def _after_redis(self) -> Literal["gone", "dead", "discarded"]:
        """Where it is that Redis does not have any more."""
        if self.dead is not None:
            return "dead"
        return "discarded" if self._discarded() else "gone"

    @property
    def dead(self) -> str | None:
        """Why the database refused the write, as long as that is among the dead letters."""
        if self.held:
            return sent.dead if (sent := self.held.sent) else None
        if self.direct:
            return None
        buffer, shard = self._place()
        for letter in letters_of(buffer).filter(shard=shard, number=self.no):
            entry = readable(letter) if self.rows else None
            if entry is None or entry.id in (self.id, *self.rows):
                return letter.reason
        return None

    @property
    def persisted(self) -> bool:
        """Whether the write is in the database: as far as there is a row for it, where the buffer
        has `on_missing="discard"`."""
        return self.where == "gone"

    def wait(self, timeout: float, *, poll: float = 0.02) -> bool:
        """Wait until the write is in the database; False if it is not by the end of the time.

        Nothing is flushed by it. A write that will never arrive is not waited for.
        """
        deadline = time.monotonic() + timeout
        while (where := self.where) in _ON_THE_WAY:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(poll, left))
        return where == "gone"

    async def awhere(self) -> Where | Literal["dead", "held"]:
        if self.held or self.direct:
            return await sync_to_async(lambda: self.where)()
        where = await Shard(client(), self.shard).alocate(self.id, self.no)
        return await sync_to_async(self._after_redis)() if where == "gone" else where

    async def adead(self) -> str | None:
        return await sync_to_async(lambda: self.dead)()

    async def apersisted(self) -> bool:
        return await self.awhere() == "gone"

    async def await_(self, timeout: float, *, poll: float = 0.02) -> bool:
        """The twin of `wait()`. `await` by itself is a word of Python's."""
        deadline = time.monotonic() + timeout
        while (where := await self.awhere()) in _ON_THE_WAY:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(poll, left))
        return where == "gone"

    def _discarded(self) -> bool:
        buffer, shard = self._place()
        return is_discarded(buffer, shard, self.no, (self.id, *self.rows) if self.rows else ())

    def _place(self) -> tuple[Declaration, int]:
        label, shard = label_and_number(self.shard)
        return registry.buffers()[label], shard
