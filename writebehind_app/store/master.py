"""The master that Sentinel names, as this process knows it.

Redis does not tell its clients of a failover. They notice that the connections break, that the old
master answers that it is none any more, or that a new connection leads to another server. Then all
idle connections of the process are closed, and the next ones ask Sentinel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

import redis

from writebehind_app.store.link import Link

if TYPE_CHECKING:
    from writebehind_app.store.client import Client


class Master:
    """The address of the master, which the clients of a process share."""

    def __init__(self) -> None:
        self.clients: WeakSet[Client] = WeakSet()
        self._address: tuple[str, int] | None = None

    def meet(self, link: Link, host: str, port: int) -> None:
        """Check a new link. Raises an error if the server is a replica: Sentinel may be late."""
        replies, error = link.ask([("ROLE",)], link.patience)
        # If the user may not ask for the role, a refused write tells later.
        if error is None and isinstance(replies[0], list) and replies[0][0] != "master":
            error = redis.ConnectionError(
                f"Sentinel says that {host}:{port} is the master, and it is a replica"
            )
        if error is not None:
            link.close()
            raise error
        known, self._address = self._address, (host, port)
        if known not in (None, self._address):
            self.leave()

    def leave(self) -> None:
        """Close the connections that nobody uses, of all clients."""
        for client in list(self.clients):
            client.hang_up()
