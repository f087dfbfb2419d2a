"""Remove the keys of tests and of a measurement. Keys of a project are never removed so."""

from __future__ import annotations

import re

from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.link import Command
from writebehind_app.store.lua import run_commands

_PAGE = 1000  # keys in one command


def remove_all(client: Client, prefix: str) -> None:
    """Remove all keys of the package under a prefix. This scans all keys of the server."""
    pattern = "{" + re.sub(r"([\\*?\[\]^])", r"\\\1", prefix) + ":*"
    with errors:
        for each in client.servers():
            for node in each.nodes():
                remove(each, list(node.scan_iter(match=pattern, count=_PAGE)))


def remove(client: Client, keys: list[str]) -> None:
    """Remove these keys if they exist."""
    with errors:
        for start in range(0, len(keys), _PAGE):
            commands: list[Command] = [("UNLINK", key) for key in keys[start : start + _PAGE]]
            run_commands(client, commands, write=True)
