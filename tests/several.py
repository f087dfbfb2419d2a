"""Buffers that are on a Redis of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.signals import setting_changed
from django.db import models

from tests.servers import RedisServer
from writebehind_app import conf

# The database, the kind of the Redis of the settings, and that of the second one.
on_each = pytest.mark.parametrize(
    ("database", "redis_server", "second"),
    [
        ("sqlite", "valkey", "valkey"),
        ("postgresql", "redis", "redis"),
        ("mariadb", "redis", "valkey"),
    ],
    indirect=True,
)


class OnEach:
    """Tests that say `on_each`, too."""

    @pytest.fixture
    def plain(self, database: str, redis_server: RedisServer) -> RedisServer:
        return redis_server


@contextmanager
def moved(where: Any, *buffered: type[models.Model]) -> Iterator[None]:
    """The buffers of these models have the option `redis` meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for model in buffered:
            buffer: Any = model.buffered  # type: ignore[attr-defined]
            patch.setattr(buffer, "options", {**buffer.options, "REDIS": where})
        _tell()
        yield
    _tell()


def _tell() -> None:
    """As if the settings were changed: a process reads the declarations once."""
    setting_changed.send(None, setting=conf.NAME, value=None, enter=True)


def labels_on(server: RedisServer) -> set[str]:
    """The labels of the buffers that a server has keys of."""
    with server.client(decode_responses=True) as client:
        parts = [key.partition("}")[0].strip("{").split(":") for key in client.scan_iter()]
    return {part for found in parts for part in found if part.startswith("tests.")}
