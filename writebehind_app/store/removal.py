"""Removes keys: of tests, and of a measurement. What a project holds is never removed like this."""

from __future__ import annotations

import re

import redis

from writebehind_app.store.connection import errors

_PAGE = 1000  # keys in one command


def remove_all(client: redis.Redis, prefix: str) -> None:
    """Remove all keys of the package under that prefix, looking through all there are."""
    pattern = "{" + re.sub(r"([\\*?\[\]^])", r"\\\1", prefix) + ":*"
    with errors:
        remove(client, list(client.scan_iter(match=pattern, count=_PAGE)))


def remove(client: redis.Redis, keys: list[str]) -> None:
    """Remove these keys, where they are there."""
    with errors:
        for start in range(0, len(keys), _PAGE):
            client.unlink(*keys[start : start + _PAGE])
