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
    "doctor_examination": ("doctor", "_SECONDS"),
    "doctor_slow_redis": ("doctor.redis_server", "SLOW"),  # seconds
    "entries_of_a_search": ("store.listing", "LOOKED_AT"),
    "failures_in_a_row": ("store.breaker", "_TOLERATED"),
    "first_probe": ("store.breaker", "_FIRST"),  # seconds
    "idle_transaction": ("database.transactions", "_LEAST_IDLE"),  # seconds
    "flush_entry_patience": ("tasks", "_AT_ONCE"),  # seconds
    "keys_of_a_write": ("fields.limits", "MOST_KEYS"),
    "levels_of_json": ("fields.limits", "MOST_LEVELS"),
    "overdue_slack": ("store.overdue", "SLACK"),  # seconds
    "pause_of_pruning": ("flush.pruning", "_PAUSE"),  # seconds
    "records_of_a_page": ("store.records", "PAGE"),
    "silence_after_a_hint": ("buffers.flush_when", "_SILENCE"),  # seconds
    "tick_alive": ("tasks", "_ALIVE"),  # seconds
    "writes_of_a_call": ("store.calls", "ROWS"),
}


def limit(patch: pytest.MonkeyPatch, **values: Any) -> None:
    """`limit(monkeypatch, admin_page=3)`; see the table above for the names."""
    for name, value in values.items():
        module, constant = _LIMITS[name]
        patch.setattr(import_module(f"writebehind_app.{module}"), constant, value)


def limit_of(name: str) -> Any:
    module, constant = _LIMITS[name]
    return getattr(import_module(f"writebehind_app.{module}"), constant)
