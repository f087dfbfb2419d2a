from __future__ import annotations

from typing import Any

import pytest

from writebehind_app.store import lua


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands went in each round trip to Redis."""
    found: list[int] = []
    exchange = lua._exchange

    def counted(client: Any, commands: Any, *args: Any) -> Any:
        found.append(len(commands))
        return exchange(client, commands, *args)

    monkeypatch.setattr(lua, "_exchange", counted)
    return found
