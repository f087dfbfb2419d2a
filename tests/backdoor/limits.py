"""What a process waits for, or counts up to: a test that would take minutes has it shorter."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

# By the name that tests use, where the package has it.
_LIMITS = {
    "admin_flush_step": ("admin.flushing", "_STEP"),  # seconds
    "admin_flush_idle_steps": ("admin.flushing", "_IDLE"),
    "admin_page": ("admin.pending", "PAGE"),  # entries
    "admin_search_rounds": ("admin.pending", "_ROUNDS"),
    "calls_in_a_round_trip": ("store.delivery", "PIPELINE"),
    "doctor_examination": ("doctor", "_SECONDS"),
    "doctor_old_entry": ("doctor.backlog", "_MINUTE"),  # seconds
    "doctor_slow_redis": ("doctor.redis_server", "SLOW"),  # seconds
    "entries_of_a_search": ("store.listing", "LOOKED_AT"),
    "failures_in_a_row": ("store.breaker", "_TOLERATED"),
    "first_probe": ("store.breaker", "_FIRST"),  # seconds
    "flush_entry_patience": ("tasks", "_AT_ONCE"),  # seconds
    "records_of_a_page": ("store.shard", "PAGE"),
    "silence_after_a_hint": ("buffers.urgency", "_SILENCE"),  # seconds
    "tick_alive": ("tasks", "_ALIVE"),  # seconds
}


def limit(patch: pytest.MonkeyPatch, **values: Any) -> None:
    """`limit(monkeypatch, admin_page=3)`; see the table above for the names."""
    for name, value in values.items():
        module, constant = _LIMITS[name]
        patch.setattr(import_module(f"writebehind_app.{module}"), constant, value)


def limit_of(name: str) -> Any:
    module, constant = _LIMITS[name]
    return getattr(import_module(f"writebehind_app.{module}"), constant)
