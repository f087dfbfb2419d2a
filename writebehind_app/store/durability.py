"""How safe a write is when its call returns: in memory, on disk, or on replicas."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple
from weakref import WeakSet

import redis
from django.core.exceptions import ImproperlyConfigured

from writebehind_app.english import counted
from writebehind_app.store import lua
from writebehind_app.store.client import Client
from writebehind_app.store.dialogue import Ask, Dialogue
from writebehind_app.store.failures import is_away, reason
from writebehind_app.store.link import Command, replies_in


class Durability(NamedTuple):
    """How durable a write must be before its call returns."""

    level: str | int  # 'fsync', or how many replicas have it
    timeout: float

    @property
    def command(self) -> Command:
        """The command that waits. It is sent after the call, over the same connection."""
        ms = max(round(self.timeout * 1000), 1)  # 0 would be for ever
        return ("WAITAOF", 1, 0, ms) if self.level == "fsync" else ("WAIT", self.level, ms)

    def missing(self, reply: Any) -> str:
        """Why the requested durability was not reached, by the reply to the command; "" if it
        was."""
        match reply:
            case Exception():
                return reason(reply)
            case None:
                return "the answer was lost"
            case [on_disk, _]:
                return "" if on_disk else f"it was not on disk after {self.timeout:g} s"
        if reply >= self.level:
            return ""
        return f"{reply} of {counted(int(self.level), 'replica')} had it after {self.timeout:g} s"


_with_waitaof: WeakSet[Client] = WeakSet()  # the clients whose server has it, and an AOF


def check_waitaof(client: Client, shards: Iterable[str]) -> Dialogue[None]:
    """Raise an error if a server of these shards cannot tell when a write is on disk; then no write
    is sent. Each server is asked once."""
    servers = {client.server_of(shard): shard for shard in shards}
    for server, shard in servers.items():
        if server not in _with_waitaof:
            yield from _check_waitaof(server, shard)


def _check_waitaof(server: Client, shard: str) -> Dialogue[None]:
    with suppress(redis.RedisError):  # the call that follows will report it
        replies, _ = yield Ask(lambda: [("WAITAOF", 1, 0, 1)], at=shard)
        for reply in replies:
            if isinstance(reply, Exception) and not is_away(reply):
                raise ImproperlyConfigured(
                    f"Redis cannot give the durability 'fsync': {reason(reply)!r}. It needs "
                    "`appendonly yes`, on a Redis of 7.2 or later or a Valkey. Otherwise set "
                    "DURABILITY to 'memory'."
                )
            if isinstance(reply, list):
                _with_waitaof.add(server)


def batch_shortfall(client: Client, shard: str, token: str, lease: float, wait: Durability) -> str:
    """Why the claim of a batch is not as durable as its writes; "" if it is.

    If the claim was lost but the writes were not, the next flusher would claim them again under
    another token. A replica gets writes in their order. So this renews the lease, and waits until
    the renewal is on the replicas: then the claim is there too.
    """
    renew = ("EVAL", lua.source("renew"), 1, shard, token, round(lease * 1e6))
    is_mine, waited = replies_in(
        client.exchange([renew, wait.command], again=True, patience=wait.timeout)
    )
    return wait.missing(waited) if is_mine else "Redis does not have the batch any more"
