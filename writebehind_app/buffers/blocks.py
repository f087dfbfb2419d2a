"""`with batch():` gathers the writes of a block of code."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self

from asgiref.sync import AsyncToSync, sync_to_async

from writebehind_app.buffers.held_index import HeldIndex
from writebehind_app.buffers.sending import send_calls

if TYPE_CHECKING:
    from writebehind_app.buffers.held import Held


def batch() -> Block:
    """Gather the writes of a block, over all buffers, into one round trip.

        with batch():
            Ticket.buffered.set(number=5, status="open")
            LessonMeta.buffered.of(lesson_id=7, user=user)["section"] = 3

    Reads inside see them. They are sent in their order at the end of the block. If an exception
    leaves the block, none is sent. A batch inside another one is part of it. In asynchronous code
    write `async with batch():`.
    """
    return Block()


class Block:
    """What `with batch():` enters."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.failed = False
        self.closed = True
        self.outer: Block | None = None
        self.index = HeldIndex()
        self._lock = Lock()

    def add(self, held: Iterable[Held]) -> bool:
        """Hold these calls. Return False if the block is closed by now."""
        with self._lock:
            if not self.closed:
                self.held += held
            return not self.closed

    def __enter__(self) -> Self:
        if not self.closed:
            raise RuntimeError("This batch() is entered already: call batch() again.")
        self.closed, self.failed, self.outer = False, False, current_block()
        innermost.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        self._close()
        self._end(kind is not None)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        self._close()
        await sync_to_async(self._end)(kind is not None)

    def _close(self) -> None:
        with self._lock:
            self.closed = True
        if innermost.get() is self:  # a generator may end in another context
            innermost.set(self.outer)

    def _end(self, failed: bool) -> None:
        held, self.held = self.held, []
        if failed or self.failed:
            for one in held:
                if one.state == "held":
                    one.state = "dropped"
        elif not add_to_block(self.outer, held):
            send_calls(one for one in held if one.connection is None)


# The innermost block that was entered. It may be closed by now.
innermost: ContextVar[Block | None] = ContextVar("writebehind_batch", default=None)


def current_block() -> Block | None:
    """Return the innermost open block. A task or thread that began in a block may outlive it."""
    return open_block(innermost.get())


def open_block(block: Block | None) -> Block | None:
    """Return this block, or the innermost open one around it."""
    while block is not None and block.closed:
        block = block.outer
    return block


def add_to_block(block: Block | None, held: Sequence[Held]) -> bool:
    """Hold these calls in this block, or in the innermost open one around it. Return False if there
    is none."""
    while (block := open_block(block)) is not None:
        if block.add(held):
            return True
    return False


def fail() -> None:
    """Let the current block send nothing at its end."""
    if block := current_block():
        block.failed = True


def held_in_blocks() -> list[Held]:
    """Return the calls that wait for the end of a block, and for no commit."""
    found, block = [], current_block()
    while block is not None:
        found += [held for held in block.held if held.connection is None]
        block = open_block(block.outer)
    return found


def may_hold_tasks() -> bool:
    """Return whether a write of a task may have to wait: for the end of a `batch()`, or for the
    transaction of a thread that waits for the task. Such a thread called `async_to_sync()`, as
    tests do."""
    return (
        current_block() is not None
        or getattr(AsyncToSync.executors, "current", None) is not None
        or get_running_loop() in AsyncToSync.loop_thread_executors
    )
