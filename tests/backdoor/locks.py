"""Locks that one process of all holds at a time, as that of the tick."""

from __future__ import annotations

from writebehind_app import conf
from writebehind_app.store import locks
from writebehind_app.store.connection import client
from writebehind_app.store.keys import shared_key


def take(name: str, seconds: float) -> bool:
    """As a process that dies with the lock: nobody else gets it for so long."""
    return locks.hold(client(), shared_key(conf.prefix(), name), "dead", seconds)


def free(name: str) -> None:
    """The time of whoever held the lock is over."""
    client().delete(shared_key(conf.prefix(), name))
