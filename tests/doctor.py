"""What the doctor says of several servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.conf import LazySettings

from tests.backdoor.declarations import declare_only
from tests.backdoor.limits import limit
from tests.models import Item
from tests.servers import RedisServer
from writebehind_app import doctor

LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


class AsksTheDoctor:
    def prepare(self, monkeypatch: pytest.MonkeyPatch, settings: LazySettings) -> None:
        """One buffer, and caches of which the doctor has nothing to say."""
        declare_only(monkeypatch, Item)
        settings.CACHES = {"default": LOCMEM, "writebehind": LOCMEM}
        limit(monkeypatch, doctor_slow_redis=1.0)

    def found(self) -> dict[str, str]:
        return {
            f.id.removeprefix("writebehind."): f.what for f in doctor.examine() if f.level != "ok"
        }

    @contextmanager
    def configured(self, node: RedisServer, **config: str) -> Iterator[None]:
        with node.client(decode_responses=True) as client:
            before = {name: client.config_get(name)[name] for name in config}
            for name, value in config.items():
                client.config_set(name, value)
            yield
            for name, value in before.items():
                client.config_set(name, value)
