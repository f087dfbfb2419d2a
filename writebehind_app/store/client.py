"""A Redis as this process knows it: its connections, and whether it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from writebehind_app.store.breaker import Breaker, HeldBack
from writebehind_app.store.link import Answers, Command, Link, packed
from writebehind_app.store.links import Links
from writebehind_app.store.loops import Loops

_MOST = 100  # connections at a time, where the settings of redis-py do not say
_UNLIMITED = 2**31  # what redis-py 6 and 7 say for that


# What a pool of redis-py 8 gives its own connections: of RESP 3, or bound to that pool.
_OF_A_POOL = ("maint_", "orig_", "himport_", "oss_", "event_")


def options_of(pool: redis.ConnectionPool) -> dict[str, Any]:
    """What another pool for the same database of the same server is made of."""
    given = pool.connection_kwargs.items()
    return {
        **{name: value for name, value in given if not name.startswith(_OF_A_POOL)},
        "connection_class": pool.connection_class,
        "max_connections": pool.max_connections,
        # A retry of redis-py could run a command twice whose answer was lost. Whether to try again
        # is for those to say who know what the command does.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # the answers look the same in every release of redis-py
        "decode_responses": True,
        # What is no text was not written by this package; it must not keep the rest from
        # being read.
        "encoding_errors": "backslashreplace",
    }


class Client(redis.Redis):
    """Calls scripts over links, one round trip each. What is rare, redis-py does.

    A `breaker` hears of every outage. Where the client `is_held_back`, it makes no calls while the
    breaker is open.
    """

    def __init__(
        self,
        pool: redis.ConnectionPool,
        *,
        timeout: float,
        breaker: Breaker | None = None,
        is_held_back: bool = True,
    ) -> None:
        super().__init__(connection_pool=pool)
        self.timeout = timeout  # seconds to wait for each answer
        self.breaker = breaker
        self.is_held_back = is_held_back
        most = pool.max_connections if pool.max_connections < _UNLIMITED else _MOST
        self.links = Links(self._new_link, most, timeout)
        self.loops = Loops(self._new_link, most)

    def _new_link(self) -> Link:
        pool = self.connection_pool
        return Link(pool.connection_class(**pool.connection_kwargs), self.timeout)

    def exchange(
        self,
        commands: Sequence[Command],
        write: bool = False,
        again: bool = False,
        timeout: float | None = None,
        patience: float = 0,
    ) -> Answers:
        """The answers to commands that are sent together, and what kept the rest from coming.
        Raises what kept all from being sent.

        `write` if Redis has to take writes for them. `again` if the commands change nothing: they
        are sent once more where their link broke, as all do when Redis is restarted; after no
        answer in time the second wait would be as long. The last answer may take `patience` longer
        than the others.
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
        if breaker is not None:
            if error is not None or not breaker.is_calm:
                breaker.note(replies, error, write=write)
            else:
                for reply in replies:
                    if isinstance(reply, Exception):
                        breaker.note(replies, write=write)
                        break
        return replies, error

    async def aexchange(
        self,
        commands: Callable[[], Sequence[Command]],
        write: bool = False,
        again: bool = False,
        timeout: float | None = None,
        patience: float = 0,
    ) -> Answers:
        """The twin of `exchange()`. The commands are asked for once there is a link for them: they
        may have a deadline."""
        wait = (self.timeout if timeout is None else timeout) + patience
        replies, error = await self._aexchange(commands, wait, write)
        if again and isinstance(error, redis.ConnectionError):
            replies, error = await self._aexchange(commands, wait, write)
        self._note(replies, error, write)
        return replies, error

    async def _aexchange(
        self, commands: Callable[[], Sequence[Command]], wait: float, write: bool
    ) -> Answers:
        def check() -> None:
            if self.breaker is not None and self.is_held_back:
                self.breaker.check(write=write)

        links = self.loops.current()
        try:
            link = await links.take(check)
        except HeldBack:
            raise
        except redis.RedisError as error:
            self._note([], error, write)
            raise
        try:
            sent = commands()
            return await link.ask(packed(sent), len(sent), wait)
        finally:
            links.give(link)

    def end(self) -> None:
        """Close what nobody uses, as the settings have changed."""
        self.links.close()
        self.loops.end()
        self.connection_pool.disconnect()
        if self.breaker is not None:
            self.breaker.end()

    def _note(self, replies: Sequence[Any], error: Exception | None, write: bool) -> None:
        if self.breaker is not None:
            self.breaker.note(replies, error, write=write)
