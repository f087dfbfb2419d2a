"""Whether what is written now is committed by itself."""

from __future__ import annotations

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper


def check_outside_transaction(using: str) -> None:
    """Refuse to flush where nothing is committed before the caller's own transaction is."""
    why = "flush() commits by itself, so that Redis can forget what the database has"
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


def autocommits(connection: BaseDatabaseWrapper) -> bool:
    """Whether a statement outside of atomic() is committed at once."""
    if connection.connection is None:  # it begins as the settings say
        return bool(connection.settings_dict["AUTOCOMMIT"])
    return connection.autocommit


def _in_test_case(using: str) -> bool:
    blocks = connections[using].atomic_blocks
    return bool(blocks) and bool(getattr(blocks[-1], "_from_testcase", False))
