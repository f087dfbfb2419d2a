"""Locks that one process of all holds at a time. The lock of a process that died expires."""

from __future__ import annotations

from writebehind_app.store import lua
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors


def hold(client: Client, lock: str, token: str, seconds: float) -> bool:
    """Take or keep a lock for so many seconds; False if somebody else holds it."""
    with errors:
        return bool(lua.run(client, "lock", lock, token, round(seconds * 1000)))


def release(client: Client, lock: str, token: str) -> None:
    """Release a lock, if it is held under that token."""
    with errors:
        lua.run(client, "lock", lock, token, 0)


def is_taken(client: Client, lock: str) -> bool:
    """Whether anybody holds the lock."""
    with errors:
        replies, error = client.exchange([("EXISTS", lock)], again=True)
        if error:
            raise error
        return bool(replies[0] == 1)
