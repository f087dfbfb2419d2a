from __future__ import annotations

import pytest

from tests.backdoor.calls import round_trips


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands went in each round trip to Redis."""
    return round_trips(monkeypatch)
