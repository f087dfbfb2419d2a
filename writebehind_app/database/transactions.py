"""Transactions of the package, and checks of the caller's."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import ceil
from typing import TypeVar

from django.db import Error, IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from writebehind_app import conf
from writebehind_app.database.failures import kind
from writebehind_app.models import Fence

_Result = TypeVar("_Result")
_TRIES = 6  # of one transaction, if another one was in the way
_PATIENCE = 5.0  # seconds; more tries within them, but not of a row that another one has inserted
_PAUSE = 0.005  # seconds before the second try, at most; doubled each time, up to the next one
_LONGEST_PAUSE = 0.1


def check_outside_transaction(
    using: str,
    why: str = "flush() commits by itself, so that Redis can forget what the database has",
) -> None:
    """Refuse to go on inside a transaction of the caller, as nothing could be committed."""
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


def check_commit_is_announced(using: str) -> None:
    """Refuse to hold a write back until the commit if Django will not announce the commit.

    With autocommit off, atomic() does not commit at its end: the project commits by itself.
    """
    if not connections[using].commit_on_exit and not _in_test_case(using):
        raise transaction.TransactionManagementError(
            "A write inside atomic() is sent when Django says that the transaction is committed. "
            f"It does not, as autocommit is off for the database {using!r}: call "
            f"transaction.set_autocommit(True, using={using!r}) before atomic(), and leave "
            f"AUTOCOMMIT out of DATABASES[{using!r}]; or write outside of atomic(), or set "
            "ON_COMMIT=False: then a write is sent at once."
        )


def committed(using: str, act: Callable[[], _Result]) -> _Result:
    """Act in a transaction. Try again if another transaction held a lock or inserted the row.

    After a deadlock it is not tried again inside a transaction of the caller, or with autocommit
    off: the deadlock has rolled back what the caller did before, too.
    """
    connection = connections[using]
    attempt, pause, until = 1, _PAUSE, time.monotonic() + _PATIENCE
    while True:
        try:
            with transaction.atomic(using=using):
                begin_writing(connection)
                return act()
        except Exception as error:
            transient = kind(error) == "transient" and shows_what_is_committed(using)
            if not (transient or isinstance(error, IntegrityError)):
                raise
            if attempt >= _TRIES and not (transient and time.monotonic() < until):
                raise
            time.sleep(random.uniform(0, pause))
            attempt, pause = attempt + 1, min(2 * pause, _LONGEST_PAUSE)


def begin_writing(connection: BaseDatabaseWrapper) -> None:
    """Take the write lock of SQLite at the start of a transaction.

    If the transaction read first, SQLite would refuse its write after any other write.
    """
    if connection.vendor == "sqlite":
        Fence.objects.using(connection.alias).filter(pk=0).update(at=0)


def shows_what_is_committed(using: str) -> bool:
    """Whether a statement sees everything that is committed now: no transaction is open."""
    connection = connections[using]
    return not connection.in_atomic_block and autocommits(connection)


def may_be_repeated(using: str) -> bool:
    """Whether the open transaction is that of `committed()`, and not part of one of the caller."""
    connection = connections[using]
    return len(connection.atomic_blocks) == 1 and connection.commit_on_exit


_LEAST_WAIT = 1.0  # seconds for a lock
_LEAST_IDLE = 10.0  # seconds that a flusher may take between two statements


@contextmanager
def transaction_of_batch(using: str) -> Iterator[None]:
    """The transaction of a flusher.

    It is READ COMMITTED: fences are read after the locks, and must be seen. It waits for a lock
    about a lease at most, so that the other shards need not wait. If the flusher freezes, the
    database ends the transaction.

    SQLite waits as long as `timeout` in DATABASES says. MySQL never ends an idle transaction.
    """
    connection, lease = connections[using], conf.settings().LEASE
    wait, idle = max(lease, _LEAST_WAIT), max(2 * lease, _LEAST_IDLE)
    if connection.vendor == "mysql":
        own: dict[str, int | str] = {"innodb_lock_wait_timeout": ceil(wait)}
        if connection.mysql_is_mariadb:  # type: ignore[attr-defined]
            own |= {"tx_isolation": "'READ-COMMITTED'", "idle_transaction_timeout": ceil(idle)}
        else:
            own["transaction_isolation"] = "'READ-COMMITTED'"
        with _session(connection, own), transaction.atomic(using=using, durable=True):
            yield
        return
    with transaction.atomic(using=using, durable=True):
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;"
                    f"SET LOCAL lock_timeout = {wait * 1000:.0f};"
                    f"SET LOCAL idle_in_transaction_session_timeout = {idle * 1000:.0f}"
                )
        yield


@contextmanager
def _session(connection: BaseDatabaseWrapper, own: Mapping[str, int | str]) -> Iterator[None]:
    """Set variables of the session of MariaDB or MySQL, and set them back at the end: the process
    may use the session for other things."""
    keep = [f"@writebehind_{name} = @@SESSION.{name}" for name in own]
    change = [f"SESSION {name} = {value}" for name, value in own.items()]
    with connection.cursor() as cursor:
        cursor.execute(f"SET {', '.join([*keep, *change])}")
    session = connection.connection
    try:
        yield
    finally:
        if connection.connection is session:  # it was not closed
            back = ", ".join(f"SESSION {name} = @writebehind_{name}" for name in own)
            with suppress(Error), connection.cursor() as cursor:
                cursor.execute(f"SET {back}")


def autocommits(connection: BaseDatabaseWrapper) -> bool:
    """Whether a statement outside of atomic() is committed at once."""
    if connection.connection is None:  # not connected yet: as the settings say
        return bool(connection.settings_dict["AUTOCOMMIT"])
    return connection.autocommit


def _in_test_case(using: str) -> bool:
    blocks = connections[using].atomic_blocks
    return bool(blocks) and bool(getattr(blocks[-1], "_from_testcase", False))
