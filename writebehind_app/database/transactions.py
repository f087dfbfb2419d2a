"""Whether what is written now is committed by itself."""

from __future__ import annotations

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper


def check_outside_transaction(
    using: str,
    why: str = "flush() commits by itself, so that Redis can forget what the database has",
) -> None:
    """Refuse to flush where nothing is committed before the caller's own transaction is."""
    if connections[using].in_atomic_block:
        if not _in_test_case(using):
            raise transaction.TransactionManagementError(
                f"{why}: call it outside of transaction.atomic(), or with transaction.on_commit()."
            )
    elif not autocommits(connections[using]):
        raise transaction.TransactionManagementError(
            f"{why}, and autocommit is off for the database {using!r}: call "
            f"transaction.set_autocommit(True, using={using!r}) before, and leave AUTOCOMMIT out "
            f"of DATABASES[{using!r}]."
        )


def check_commit_is_told(using: str) -> None:
    """Refuse to hold a write back inside an atomic() that does not commit at its end: where
    autocommit is off, the project commits, and Django tells nobody."""
    if not connections[using].commit_on_exit and not _in_test_case(using):
        raise transaction.TransactionManagementError(
            "A write inside atomic() is sent when Django says that the transaction is committed. "
            f"It does not, as autocommit is off for the database {using!r}: call "
            f"transaction.set_autocommit(True, using={using!r}) before atomic(), and leave "
            f"AUTOCOMMIT out of DATABASES[{using!r}]; or write outside of atomic(), or set "
            "ON_COMMIT=False: then a write is sent at once."
        )


def autocommits(connection: BaseDatabaseWrapper) -> bool:
    """Whether a statement outside of atomic() is committed at once."""
    if connection.connection is None:  # it begins as the settings say
        return bool(connection.settings_dict["AUTOCOMMIT"])
    return connection.autocommit


def _in_test_case(using: str) -> bool:
    blocks = connections[using].atomic_blocks
    return bool(blocks) and bool(getattr(blocks[-1], "_from_testcase", False))
