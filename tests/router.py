"""Sends every query to the database that the running test is about, but for models that have a
database of their own in it."""

from __future__ import annotations

import os
from typing import Any

# An environment variable, so that processes which a test starts are on the same one.
_ENVIRONMENT = "WRITEBEHIND_TEST_ALIAS"

own_database: dict[str, str] = {}
"""By the label of a model: the database that its rows are in, whatever the test is about."""
replica: dict[str, str] = {}
"""By the label of a model: the database that its rows are read from."""
may_migrate: dict[tuple[str, str], bool] = {}
"""By the label of a model, and a database: whether it may have the model; if not here, it may."""


def use(alias: str) -> None:
    os.environ[_ENVIRONMENT] = alias


def current() -> str:
    return os.environ.get(_ENVIRONMENT, "default")


class CurrentDatabase:
    def db_for_read(self, model: Any, **hints: Any) -> str:
        return replica.get(model._meta.label) or self.db_for_write(model)

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return own_database.get(model._meta.label) or current()

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        model = hints.get("model")
        return may_migrate.get((model._meta.label, db)) if model else None

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        return True
