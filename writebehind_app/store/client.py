"""A client for Redis: it sends commands over links, and tells the breaker what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import redis

from writebehind_app.store.breaker import Breaker
from writebehind_app.store.failures import is_no_master
from writebehind_app.store.link import Answers, Command, Link, packed
from writebehind_app.store.links import Links
from writebehind_app.store.loops import Loops
from writebehind_app.store.master import Master

_MOST = 100  # connections at a time, if the options of redis-py set no limit
_UNLIMITED = 2**31  # the limit in redis-py 6 and 7 if none is set


class Client(redis.Redis):
    """Sends scripts over links. The methods of redis-py are for rare calls, over its own pool.

    The `breaker` is told of each failure. If the client `is_held_back`, it makes no calls while the
    breaker is open. If Sentinel names the server, the clients of a process share a `master`.
    """

    def __init__(
        self,
        pool: redis.ConnectionPool,
        *,
        timeout: float,
        breaker: Breaker | None = None,
        is_held_back: bool = True,
        master: Master | None = None,
    ) -> None:
        super().__init__(connection_pool=pool)
        self.timeout = timeout  # seconds to wait for each answer
        self.breaker = breaker
        self.is_held_back = is_held_back
        most = pool.max_connections if pool.max_connections < _UNLIMITED else _MOST
        self.links = Links(self._new_link, most, timeout)
        self.loops = Loops(self._new_link, most, self._failed_unheard)
        self.master = master
        if master is not None:
            master.clients.add(self)

    def _new_link(self) -> Link:
        pool = self.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        link = Link(connection, self.timeout)
        if self.master is not None:
            self.master.meet(link, connection.host, connection.port)
        return link

    def exchange(
        self,
        commands: Sequence[Command],
        write: bool = False,
        again: bool = False,
        timeout: float | None = None,
        patience: float = 0,
    ) -> Answers:
        """Send commands together. Return the answers, and the error if not all of them came. Raises
        the error if nothing was sent.

        `write` says that the commands need a Redis that takes writes. `again` says that they may
        run twice: if their link breaks, as at a restart of Redis, they are sent once more; if an
        answer is late, they are not. `timeout` is the time for each answer; the last one may take
        `patience` longer.
        """
        breaker = self.breaker
        if breaker is not None and not breaker.is_calm and self.is_held_back:
            breaker.check(write=write)
        wait = self.timeout if timeout is None else timeout
        while True:
            try:
                link = self.links.take()
            except redis.RedisError as unsent:
                self._note([], unsent, write)
                raise
            try:
                replies, error = link.ask(commands, wait, patience)
            except BaseException:
                self.links.end(link)  # an answer may be on its way still
                raise
            if error is None:
                link.home.append(link)
                break
            self.links.end(link)
            if not (again and isinstance(error, redis.ConnectionError)):
                break
            again = False
        if error is not None or (breaker is not None and not breaker.is_calm):
            self._note(replies, error, write)
        else:
            for reply in replies:
                if isinstance(reply, Exception):
                    self._note(replies, None, write)
                    break
        return replies, error

    async def aexchange(
        self,
        commands: Callable[[], Sequence[Command]],
        write: bool = False,
        again: bool = False,
        timeout: float | None = None,
        patience: float = 0,
        *,
        ahead: bool = False,
    ) -> Answers:
        """The twin of `exchange()`. The commands are made when there is a link for them: they may
        have a deadline. With `ahead`, it gets a link before the tasks that wait for one."""
        wait = (self.timeout if timeout is None else timeout) + patience
        replies, error = await self._aexchange(commands, wait, write, ahead=ahead)
        if again and isinstance(error, redis.ConnectionError):
            replies, error = await self._aexchange(commands, wait, write, ahead=True)
        self._note(replies, error, write)
        return replies, error

    async def _aexchange(
        self,
        commands: Callable[[], Sequence[Command]],
        wait: float,
        write: bool,
        *,
        ahead: bool,
    ) -> Answers:
        def check() -> None:
            if self.breaker is not None and self.is_held_back:
                self.breaker.check(write=write)

        links = self.loops.current()
        try:
            link = await links.take(check, ahead=ahead)
        except redis.RedisError as error:
            self._note([], error, write)
            raise
        try:
            sent = commands()
            return await link.ask(packed(sent), len(sent), wait)
        finally:
            links.give(link)

    def servers(self) -> list[Client]:
        """A client for each Redis: mostly there is one. A cluster is one, too."""
        return [self]

    def server_of(self, key: str) -> Client:
        """The one of them that has a key."""
        return self

    def nodes(self) -> list[Client]:
        """A client for each server that takes writes. For a single server, this is the client
        itself."""
        return [self]

    def places(self, key: str) -> list[str]:
        """A key like this one for each server that takes writes."""
        return [key]

    def hang_up(self) -> None:
        """Close the connections that nobody uses. The next calls make new ones."""
        self.links.close()
        self.loops.end()
        self.connection_pool.disconnect(inuse_connections=False)

    def end(self) -> None:
        """Close the connections, and end the thread of the breaker: the settings have changed."""
        self.hang_up()
        self.connection_pool.disconnect()
        if self.breaker is not None:
            self.breaker.end()

    def _failed_unheard(self, error: Exception) -> None:
        """Note the failure of a call whose task was cancelled."""
        if self.breaker is not None:
            self.breaker.note([], error)

    def _note(self, replies: Sequence[Any], error: Exception | None, write: bool) -> None:
        if self.master is not None and any(map(is_no_master, replies)):
            self.master.leave()
        if self.breaker is not None:
            self.breaker.note(replies, error, write=write)
