"""Which node of a cluster serves which slot, as this process knows it.

A cluster does not tell its clients when a slot moves, or when a replica becomes the master. They
notice that a node answers MOVED, or not at all. Then the map is asked for again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import redis
from redis.crc import key_slot
from redis.exceptions import ClusterDownError

from writebehind_app import conf
from writebehind_app.store.link import Link, replies_in

COUNT = 16384

Address = tuple[str, int]

_lock = threading.Lock()  # of all maps, while one is asked for


def _unlocked() -> None:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may be asking


os.register_at_fork(after_in_child=_unlocked)


@lru_cache(maxsize=10_000)
def slot_of(key: str) -> int:
    found: int = key_slot(key.encode())
    return found


class Slots:
    """The map of the slots, which the clients of a process share. The settings name the `seeds`."""

    def __init__(self, pool: redis.ConnectionPool, seeds: Sequence[Address]) -> None:
        self.seeds = tuple(seeds)
        self.owners: list[Address | None] = []  # by slot
        self.replicas: dict[Address, list[Address]] = {}  # by their master
        self.version = 0  # of the map: it grows with each change
        self.is_stale = True  # whether the map has to be asked for before its next use
        self._pool = pool

    def masters(self) -> list[Address]:
        """The nodes that have slots."""
        return sorted({owner for owner in self.owners if owner is not None})

    def refresh(self, seen: int) -> None:
        """Ask for the map, unless another thread has done so since version `seen`. Raises an error
        if no node answers, and nothing is known from before."""
        with _lock:
            if self.version != seen:
                return
            error: Exception | None = None
            best: tuple[list[Address | None], dict[Address, list[Address]]] | None = None
            nodes = [*dict.fromkeys([*self.masters(), *self.seeds])]
            start = self.version % len(nodes)  # not always the same: its own map may be old
            for address in nodes[start:] + nodes[:start]:
                try:
                    found = _map_of(address, self._ask(address))
                except redis.RedisError as failure:
                    error = error or failure
                    continue
                if best is None or found[0].count(None) < best[0].count(None):
                    best = found
                if None not in found[0]:
                    break
            self.version += 1
            if best is not None:
                self.owners, self.replicas = best
                self.is_stale = False
            elif not self.owners and error:
                raise error

    def move(self, slot: int, owner: Address) -> None:
        """Note what a node answered about one slot."""
        self.owners[slot] = owner
        self.version += 1

    def check_covered(self) -> None:
        """Raise an error if a slot has no node."""
        if missing := self.owners.count(None):
            raise ClusterDownError(f"{missing} of the {COUNT} hash slots are not served")

    def _ask(self, address: Address) -> list[Any]:
        """The answer of a node to CLUSTER SLOTS. It has to come within CONNECT_TIMEOUT."""
        patience = conf.settings().CONNECT_TIMEOUT
        options = {
            **self._pool.connection_kwargs,
            "host": address[0],
            "port": address[1],
            "socket_timeout": patience,
        }
        link = Link(self._pool.connection_class(**options), patience)
        try:
            found: list[Any] = replies_in(link.ask([("CLUSTER", "SLOTS")], patience))[0]
        finally:
            link.close()
        return found


def _map_of(
    source: Address, ranges: Sequence[Any]
) -> tuple[list[Address | None], dict[Address, list[Address]]]:
    """The master of each slot, and the replicas of each master, by an answer to CLUSTER SLOTS."""
    owners: list[Address | None] = [None] * COUNT
    replicas: dict[Address, list[Address]] = {}
    for first, last, *nodes in ranges:
        # A node that does not know its own host leaves it out.
        master, *others = [(host or source[0], int(port)) for host, port, *_ in nodes]
        owners[first : last + 1] = [master] * (last + 1 - first)
        replicas[master] = others
    return owners, replicas
