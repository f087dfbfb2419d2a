"""The links of event loops to one Redis: each loop has its own.

If a task is cancelled after its command was sent, Redis may still run the command. The link stays
busy until the answer comes, and is given back then. If the answer is late, the link is closed.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import weakref
from asyncio import AbstractEventLoop, Future, TimerHandle, get_running_loop
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

import redis

from writebehind_app.store.link import PIECE, Answers, Link, ended, lost

_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class LoopLink:
    """A link whose calls are awaited, in the loop that made it."""

    def __init__(self, link: Link, links: LoopLinks) -> None:
        self._link = link
        self._links = links
        self._unsent = memoryview(b"")
        self._missing = 0  # answers
        self._answers: list[Any] = []
        self._waiter: Future[Answers] | None = None
        self._timer: TimerHandle | None = None
        self.is_closed = False
        self.is_lent = True  # to a task, which has to give it back
        link.socket.settimeout(0)
        get_running_loop().add_reader(link.socket, self._readable)

    @property
    def is_busy(self) -> bool:
        """Whether answers are missing to what was sent."""
        return self._waiter is not None

    def is_dead(self) -> bool:
        return self.is_closed or self._link.is_dead()

    async def ask(self, request: bytes, count: int, patience: float) -> Answers:
        """Send a request and return its answers, which are `count`."""
        loop = get_running_loop()
        waiter: Future[Answers] = loop.create_future()
        self._waiter = waiter
        self._missing, self._answers = count, []
        self._timer = loop.call_later(patience, self._late)
        self._unsent = memoryview(request)
        if self._write():
            loop.add_writer(self._link.socket, self._writable)
        try:
            return await waiter
        except BaseException:
            waiter.cancel()  # then `_end` gives the link back
            raise

    def abandon(self) -> None:
        """Close the link of a loop that is closed already."""
        self.is_closed = True
        self._link.close()

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        loop = get_running_loop()
        loop.remove_reader(self._link.socket)
        loop.remove_writer(self._link.socket)
        self._link.close()
        self._links.closed(self)

    def _write(self) -> bool:
        """Send what can be sent now; return whether anything is left."""
        try:
            sent = self._link.socket.send(self._unsent)
        except _NOT_YET:
            return True
        except OSError as error:
            self._end(lost(error))
            return False
        self._unsent = self._unsent[sent:]
        return bool(self._unsent)

    def _writable(self) -> None:
        if not self._write() and not self.is_closed:
            get_running_loop().remove_writer(self._link.socket)

    def _readable(self) -> None:
        link = self._link
        try:
            link.feed(link.socket.recv(PIECE) or ended())
            while self._missing and (answer := link.gets()) is not False:
                self._answers.append(answer)
                self._missing -= 1
        except _NOT_YET:
            return
        except OSError as error:
            self._end(lost(error))
        except redis.RedisError as error:
            self._end(error)
        else:
            if not self._missing:
                self._end()

    def _late(self) -> None:
        self._end(redis.TimeoutError("Timeout reading from socket"))

    def _end(self, error: Exception | None = None) -> None:
        """End the exchange: all answers have come, or there is an error."""
        waiter, self._waiter = self._waiter, None
        is_awaited = waiter is not None and not waiter.done()
        if waiter is not None:
            assert self._timer
            self._timer.cancel()
            self._timer = None  # it would keep the loop alive
            self._missing = 0
            if is_awaited:
                waiter.set_result((self._answers, error))  # before others hear of it
            elif error:
                self._links.failed(error)
        if error or waiter is None:  # an answer that nobody asked for is an error too
            self.close()
        elif not is_awaited:
            self._links.give(self)


class LoopLinks:
    """The links of one loop, `most` at a time. Tasks get a link in the order in which they came; a
    task in the middle of a dialogue comes first."""

    def __init__(
        self, make: Callable[[], Link], most: int, failed: Callable[[Exception], None]
    ) -> None:
        self._make = make
        self._most = most
        self.failed = failed  # called with an error that no task awaits any more
        self._made = 0
        self._unused: list[LoopLink] = []
        self._waiting: deque[Future[LoopLink | None]] = deque()
        self._is_ended = False
        self._until_end: AsyncGenerator[None] | None = None

    async def take(self, check: Callable[[], None], *, ahead: bool = False) -> LoopLink:
        """A link for one exchange. Give it back after that. `check` raises an error if to wait for
        a link is useless. With `ahead`, the task gets one before all that wait already."""
        while True:
            try:
                check()
            except redis.RedisError:
                self._wake()
                raise
            while self._unused:
                link = self._unused.pop()
                if not link.is_dead():
                    link.is_lent = True
                    return link
                link.close()
            if self._made < self._most:
                return await self._open(check)
            waiter: Future[LoopLink | None] = get_running_loop().create_future()
            if ahead:
                self._waiting.appendleft(waiter)
            else:
                self._waiting.append(waiter)
            try:
                given = await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():
                    self._pass_on(waiter.result())
                raise
            if given is not None:
                self._unused.append(given)

    def give(self, link: LoopLink) -> None:
        """Take a link back. A busy link is not taken: it comes back when its answer comes. If the
        answer comes just as the task is cancelled, the link comes back twice. The second time is
        ignored, as another task may have the link by then."""
        if link.is_closed or link.is_busy or not link.is_lent:
            return
        link.is_lent = False
        if self._is_ended:
            link.close()
        else:
            self._pass_on(link)

    def end(self) -> None:
        """Close the links that nobody uses. Those in use are closed when they are given back."""
        self._is_ended = True
        while self._unused:
            self._unused.pop().close()

    def abandon(self) -> None:
        """Close the links of a loop that is closed."""
        while self._unused:
            self._unused.pop().abandon()

    def closed(self, link: LoopLink) -> None:
        self._made -= 1
        with suppress(ValueError):
            self._unused.remove(link)
        self._wake()

    def _pass_on(self, link: LoopLink | None) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(link)
                return
        if link is not None:
            self._unused.append(link)

    def _wake(self) -> None:
        if self._unused or self._made < self._most:
            self._pass_on(None)

    async def _open(self, check: Callable[[], None]) -> LoopLink:
        def make() -> Link:
            check()  # again: it may have waited for a thread
            return self._make()

        if self._until_end is None:
            self._until_end = _until_end(self)
            await anext(self._until_end)
        self._made += 1
        connecting = get_running_loop().run_in_executor(None, make)
        try:
            return LoopLink(await asyncio.shield(connecting), self)
        except BaseException:
            connecting.add_done_callback(_close)
            self._made -= 1
            self._wake()
            raise


async def _until_end(links: LoopLinks) -> AsyncGenerator[None]:
    """Close the links when the loop closes its asynchronous generators. `asyncio.run()` gives no
    other sign that the loop ends."""
    try:
        yield
    finally:
        links.end()


def _close(connecting: Future[Link]) -> None:
    """Close a link that was made after its task was cancelled."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


class Loops:
    """The links of all loops to one Redis."""

    def __init__(
        self, make: Callable[[], Link], most: int, failed: Callable[[Exception], None]
    ) -> None:
        self._make = make
        self._most = most
        self._failed = failed
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """Begin anew in a forked process. To close the links would also end those of the parent."""
        self._lock = threading.Lock()
        self._links: weakref.WeakKeyDictionary[AbstractEventLoop, LoopLinks]
        self._links = weakref.WeakKeyDictionary()

    def current(self) -> LoopLinks:
        """The links of the running loop."""
        loop = get_running_loop()
        links = self._links.get(loop)
        if links is None:
            links = LoopLinks(self._make, self._most, self._failed)
            with self._lock:
                for other in [one for one in self._links if one.is_closed()]:
                    self._links.pop(other).abandon()
                self._links[loop] = links
        return links

    def end(self) -> None:
        with self._lock:
            every = list(self._links.items())
            self._links.clear()
        for loop, links in every:
            try:
                loop.call_soon_threadsafe(links.end)
            except RuntimeError:  # it is closed
                links.abandon()


_all: weakref.WeakSet[Loops] = weakref.WeakSet()


def _forked() -> None:
    for loops in list(_all):
        loops.forget()


os.register_at_fork(after_in_child=_forked)
