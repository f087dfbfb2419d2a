"""Whether a database has the tables of the package."""

from __future__ import annotations

from django.apps import apps
from django.db import Error, connections, models

_NAMES = 3  # the most tables that a message names


def migrate_first(using: str, *, needed: type[models.Model] | None = None) -> str:
    """Name the tables that a database lacks, and the command that makes them. Return "" if it lacks
    none, or does not answer. With `needed`, also return "" if it has the table of that model."""
    own = apps.get_app_config("writebehind").get_models()
    wanted = {model._meta.db_table for model in own if model._meta.managed}
    try:
        missing = sorted(wanted.difference(connections[using].introspection.table_names()))
    except Error:
        return ""
    if not missing or (needed and needed._meta.db_table not in missing):
        return ""
    names = ", ".join(missing if len(missing) <= _NAMES else [*missing[:_NAMES], "…"])
    option = "" if using == "default" else f" --database={using}"
    return f"The database {using!r} has no {names}: run manage.py migrate{option}."
