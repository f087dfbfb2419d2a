"""The links of a process to one Redis: each thread has its own."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable

import redis

from writebehind_app.store.link import Link

_PAUSE = 0.001  # seconds between two looks for a link that nobody uses


class Links:
    """A thread's link stays for its next call, and ends with the thread.

    `most` are open at a time. A thread that would need one more takes one that another thread does
    not use at the moment.
    """

    def __init__(self, make: Callable[[], Link], most: int, patience: float) -> None:
        self._make = make
        self._most = most
        self._patience = patience  # seconds to wait for a link
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._own = threading.local()
        self._kept: weakref.WeakSet[_Kept] = weakref.WeakSet()  # of all threads
        self._open: weakref.WeakSet[Link] = weakref.WeakSet()  # also those in use
        self._opening = 0

    def take(self) -> Link:
        """A link for one exchange. If the exchange is complete, put the link back into its `home`;
        otherwise `end()` it."""
        try:
            link: Link = self._own.kept.links.pop()
        except (AttributeError, IndexError):
            return self._another()
        if link.poll(0) and link.is_dead():
            self.end(link)
            return self._another()
        return link

    def end(self, link: Link) -> None:
        """Close a link that was taken."""
        link.close()
        self._open.discard(link)

    def close(self) -> None:
        """Close the links that nobody uses."""
        with self._lock:
            for kept in list(self._kept):
                kept.close()

    def _another(self) -> Link:
        if not hasattr(self._own, "kept"):
            kept = self._own.kept = _Kept()
            with self._lock:
                self._kept.add(kept)
        link = self._made_or_found()
        link.home = self._own.kept.links
        return link

    def _made_or_found(self) -> Link:
        deadline = time.monotonic() + self._patience
        while not self._may_open():
            if link := self._unused():
                return link
            if time.monotonic() > deadline:
                raise redis.ConnectionError(f"all connections are in use: {self._most}")
            time.sleep(_PAUSE)
        try:
            link = self._make()
            self._open.add(link)
        finally:
            with self._lock:
                self._opening -= 1
        return link

    def _may_open(self) -> bool:
        with self._lock:
            if len(self._open) + self._opening >= self._most:
                return False
            self._opening += 1
            return True

    def _unused(self) -> Link | None:
        with self._lock:
            every = list(self._kept)
        for kept in every:
            try:
                link = kept.links.pop()
            except IndexError:
                continue
            if not link.is_dead():
                return link
            self.end(link)
        return None

    def forget(self) -> None:
        """Begin anew in a forked process: the parent goes on using the links, and one of its
        threads may have held the lock."""
        for link in list(self._open):
            link.close()  # for this process alone
        self._begin()


class _Kept:
    """What a thread keeps for its next call: one link, or none while it uses it."""

    def __init__(self) -> None:
        self.links: list[Link] = []

    def close(self) -> None:
        while self.links:
            self.links.pop().close()

    __del__ = close  # the thread has ended


_all: weakref.WeakSet[Links] = weakref.WeakSet()


def _forked() -> None:
    for links in list(_all):
        links.forget()


os.register_at_fork(after_in_child=_forked)
