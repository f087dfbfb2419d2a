"""Somebody else, to whom nothing is known of what is held back in the thread of the test."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connections

_Result = TypeVar("_Result")


def elsewhere(act: Callable[[], _Result]) -> _Result:
    """What another thread gets."""

    def run() -> _Result:
        try:
            return act()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()
