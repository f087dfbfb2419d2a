"""Places that one process of all has at a time, as that of the tick."""

from __future__ import annotations

from writebehind_app import conf
from writebehind_app.store import places
from writebehind_app.store.connection import client
from writebehind_app.store.keys import place_key


def take(name: str, seconds: float) -> bool:
    """As a process that dies with the place: nobody else gets it for so long."""
    return places.hold(client(), place_key(conf.prefix(), name), "dead", seconds)


def free(name: str) -> None:
    """The time of whoever had the place is over."""
    client().delete(place_key(conf.prefix(), name))
