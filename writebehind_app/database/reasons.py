"""The reason of a refusal, as a text that may be stored and shown."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import Error

from writebehind_app.database.failures import storable
from writebehind_app.database.letters import key_and_values
from writebehind_app.declaration import MASK, Declaration
from writebehind_app.fields.entry import Entry

LONGEST = 2000  # characters of a reason


def reason_of(buffer: Declaration, entry: Entry, error: Exception) -> str:
    """Why an entry was refused. Databases quote values: sensitive ones are left out."""
    if not buffer.sensitive:
        return storable(_words(error)[:LONGEST])
    if entry.version != buffer.version or entry.older:
        return "upgrade() refused it. The error is not shown, as it may quote sensitive values."
    if key_and_values(buffer, entry) is None:
        return "It cannot be read. The error is not shown, as it may quote sensitive values."
    if isinstance(error, Error) and not hasattr(error.__cause__, "sqlite_errorname"):
        return storable(_facts(error)[:LONGEST])
    reason = _words(error)
    for secret in _secrets(buffer, entry):
        reason = reason.replace(secret, MASK)
    return storable(reason[:LONGEST])


def _words(error: Exception) -> str:
    """What an error says; of a ValidationError, each field and what is wrong with it."""
    if not isinstance(error, ValidationError):
        return str(error)
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    return " ".join(f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items())


def _facts(error: Error) -> str:
    """The parts of an error of PostgreSQL or MariaDB that quote no values.

    Its text quotes values, also of the stored row, and cuts and escapes them: it cannot be masked.
    """
    cause: Any = error.__cause__
    diag = getattr(cause, "diag", None)
    facts = {
        "error": next((arg for arg in getattr(cause, "args", ()) if isinstance(arg, int)), None),
        "SQLSTATE": getattr(cause, "sqlstate", None),
        "constraint": getattr(diag, "constraint_name", None),
        "column": getattr(diag, "column_name", None),
    }
    shown = ", ".join(f"{name} {fact}" for name, fact in facts.items() if fact)
    why = type(cause or error).__name__
    return f"{why}{shown and ': '}{shown}. The rest is not shown, as it may quote values."


def _secrets(buffer: Declaration, entry: Entry) -> list[str]:
    """The texts of the sensitive values of a readable entry, the longest first."""
    key, values = key_and_values(buffer, entry) or ({}, {})
    names = buffer.secret_names(key)
    secret = [value for name, value in {**key, **values}.items() if name in names]
    found = {str(value) for value in secret} | {repr(str(value))[1:-1] for value in secret}
    return sorted(found - {"", "None"}, key=len, reverse=True)
