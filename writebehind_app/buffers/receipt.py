"""What a write returns."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from asgiref.sync import sync_to_async

from writebehind_app import registry
from writebehind_app.database.deadletters import letter_with
from writebehind_app.store.connection import client
from writebehind_app.store.keys import parts_of
from writebehind_app.store.shard import Shard, Where

if TYPE_CHECKING:
    from writebehind_app.buffers.held import HeldWrite
    from writebehind_app.declaration import Declaration
    from writebehind_app.models import DeadLetter

_ON_THE_WAY = ("held", "pending", "in_flight")


class Receipt(NamedTuple):
    """Tells where an accepted write is.

    Each question asks Redis, then the database. A write that went around Redis was in the database
    when the call returned, or in the transaction of the caller. If a `batch()` or a transaction
    holds the write back, its receipt learns the rest when the write is sent. In asynchronous code
    await the twins: `await receipt.apersisted()`, `await receipt.await_(10)`.
    """

    shard: str  # '' where the write went around Redis
    id: str
    number: int  # of the write, within its shard
    rows: tuple[str, ...] = ()  # of metadata: the ids of the rows that the write changes
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
        """'held' (by a `batch()` or a transaction), 'pending', 'in_flight', 'stored' (in the
        database), 'dead' (the database refused it), 'discarded' (also by a rollback, or by an error
        before it was sent), or 'lost': Redis lost it, or nobody knows any more."""
        if self.held:
            return self.held.where
        if self.direct:
            return "stored"
        where = self._shard().locate(self.id, self.number)
        return self._after_redis() if where == "stored" else where

    def _after_redis(self) -> Literal["stored", "dead", "discarded"]:
        """Return where a write is that has left Redis."""
        if (letter := self._letter()) is None:
            return "stored"
        return "dead" if letter.discarded_at is None else "discarded"

    @property
    def dead(self) -> str | None:
        """Why the database refused the write, while it is among the dead letters."""
        if self.held:
            return sent.dead if (sent := self.held.sent) else None
        letter = None if self.direct else self._letter()
        return letter.reason if letter and letter.discarded_at is None else None

    @property
    def persisted(self) -> bool:
        """Whether the write is in the database. With `on_missing="discard"`, this is also true if
        there was no row for it."""
        return self.where == "stored"

    def wait(self, timeout: float, *, poll: float = 0.02) -> bool:
        """Wait until the write is in the database. Return False if it is not there in `timeout`
        seconds.

        This flushes nothing. It returns at once for a write that will never arrive.
        """
        deadline = time.monotonic() + timeout
        while (where := self.where) in _ON_THE_WAY:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(poll, left))
        return where == "stored"

    async def awhere(self) -> Where | Literal["dead", "held"]:
        if self.held or self.direct:
            return await sync_to_async(lambda: self.where)()
        where = await self._shard().alocate(self.id, self.number)
        return await sync_to_async(self._after_redis)() if where == "stored" else where

    async def adead(self) -> str | None:
        return await sync_to_async(lambda: self.dead)()

    async def apersisted(self) -> bool:
        return await self.awhere() == "stored"

    async def await_(self, timeout: float, *, poll: float = 0.02) -> bool:
        """The twin of `wait()`. `await` alone is a keyword of Python."""
        deadline = time.monotonic() + timeout
        while (where := await self.awhere()) in _ON_THE_WAY:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(poll, left))
        return where == "stored"

    def _letter(self) -> DeadLetter | None:
        buffer, alias, shard = self._place()
        with buffer.in_database(alias):
            return letter_with(buffer, shard, self.id, self.number, self.rows)

    def _shard(self) -> Shard:
        buffer, *_ = self._place()
        return Shard(client(), self.shard, is_log=buffer.is_log)

    def _place(self) -> tuple[Declaration, str, int]:
        label, alias, shard = parts_of(self.shard)
        return registry.buffers()[label], alias, shard
