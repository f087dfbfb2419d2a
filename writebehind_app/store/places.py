"""Places that one process of all has at a time. Who dies in one loses it by the clock."""

from __future__ import annotations

from writebehind_app.store import lua
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors


def hold(client: Client, place: str, token: str, seconds: float) -> bool:
    """Take or keep the place for so long; False where somebody else has it."""
    with errors:
        return bool(lua.run(client, "hold", place, token, round(seconds * 1000)))


def leave(client: Client, place: str, token: str) -> None:
    """Give the place up, if it is held under that token."""
    with errors:
        lua.run(client, "hold", place, token, 0)


def is_taken(client: Client, place: str) -> bool:
    """Whether anybody has the place."""
    with errors:
        replies, error = client.exchange([("EXISTS", place)], again=True)
        if error:
            raise error
        return bool(replies[0] == 1)
