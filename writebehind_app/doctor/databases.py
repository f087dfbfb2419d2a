"""Examinations of the databases that buffers are flushed to, one at a time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.apps import apps
from django.db import Error, connections, models, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Count, Max
from django.utils import timezone

from writebehind_app import conf
from writebehind_app.buffers.log import LogBuffer
from writebehind_app.declaration import Declaration
from writebehind_app.doctor.finding import Finding, error, warning
from writebehind_app.doctor.redis_server import skewed
from writebehind_app.models import AppliedBatch, DeadLetter

_RECENT = timedelta(days=7)
_NAMES = 5  # said of many


@dataclass(frozen=True, slots=True)
class Examined:
    """A database that answers, and what is flushed to it."""

    using: str
    buffers: Sequence[Declaration]

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.using]

    def with_tables(self) -> Iterator[Declaration]:
        """The buffers whose tables are there, as `tables()` says of the others."""
        return (buffer for buffer in self.buffers if not _missing(self, buffer.model))


def own_tables(examined: Examined) -> Iterator[Finding]:
    declared = apps.get_app_config("writebehind").get_models()
    wanted = [model for model in declared if model._meta.managed]
    missing = [name for model in wanted for name in _missing(examined, model)]
    if missing:
        may = router.allow_migrate_model(examined.using, AppliedBatch)
        routed = "" if may else "First let the routers in DATABASE_ROUTERS allow it. "
        yield error(
            121,
            f"The database {examined.using!r} has no {', '.join(missing)}.",
            "Each batch enters the ledger in the transaction of its rows: without it nothing is "
            "flushed to this database.",
            f"{routed}manage.py migrate writebehind --database={examined.using}",
        )


def writing(examined: Examined) -> Iterator[Finding]:
    """Whether the ledger takes a row, which is taken back at once."""
    if _missing(examined, AppliedBatch):
        return
    row = AppliedBatch(
        token=secrets.token_hex(16),
        buffer="doctor",
        shard=0,
        entries=0,
        oldest_at=timezone.now(),
        applied_at=timezone.now(),
    )
    try:
        with transaction.atomic(using=examined.using):
            row.save(using=examined.using, force_insert=True)
            transaction.set_rollback(True, using=examined.using)
    except Error as problem:
        yield error(
            126,
            f"The database {examined.using!r} takes no writes: {str(problem).strip()}",
            "What is pending stays in Redis, which fills up.",
            "See whether it is a replica, read-only, full or locked, and what its user may do.",
        )


def tables(examined: Examined) -> Iterator[Finding]:
    missing = [name for buffer in examined.buffers for name in _missing(examined, buffer.model)]
    if missing:
        more = f" and {len(missing) - _NAMES} more" if len(missing) > _NAMES else ""
        yield error(
            122,
            f"The database {examined.using!r} has no {', '.join(missing[:_NAMES])}{more}.",
            "Batches of a buffer wait until its table and all columns of it are there.",
            f"manage.py migrate --database={examined.using}",
        )


def _missing(examined: Examined, model: type[models.Model]) -> list[str]:
    """The table, or the columns, of a model that are not in the database."""
    table, connection = model._meta.db_table, examined.connection
    with connection.cursor() as cursor:
        if table not in connection.introspection.table_names(cursor, include_views=True):
            return [f"table {table!r}"]
        described = connection.introspection.get_table_description(cursor, table)
    found = {column.name.lower() for column in described}
    wanted = [str(field.column) for field in model._meta.concrete_fields]
    return [f"column '{table}.{name}'" for name in wanted if name.lower() not in found]


def constraints(examined: Examined) -> Iterator[Finding]:
    """Whether the key of each buffer is unique in the database too."""
    for buffer in examined.with_tables():
        key = _key(buffer)
        if key and key not in _uniques(examined, buffer):
            columns = ", ".join(sorted(key))
            yield error(
                123,
                f"{buffer.label}: no unique constraint over {columns} is in the database "
                f"{examined.using!r}.",
                "Two rows of one key can come to be, or the flush fails.",
                "Run manage.py migrate; where the model has the constraint and somebody dropped "
                "it, make it again by hand.",
            )


def other_uniques(examined: Examined) -> Iterator[Finding]:
    """MySQL and MariaDB update by whichever unique key a new row meets."""
    if examined.connection.vendor != "mysql":
        return
    for buffer in examined.with_tables():
        meta = buffer.model._meta
        known = {frozenset([f.column]) for f in meta.concrete_fields if f.unique}
        groups = [*meta.unique_together, *(c.fields for c in meta.total_unique_constraints)]
        known |= {frozenset(meta.get_field(n).column for n in group) for group in groups}  # type: ignore[union-attr]
        pk = frozenset([meta.pk.column]) if meta.pk else frozenset()
        for unique in sorted(_uniques(examined, buffer) - {pk, _key(buffer)}, key=sorted):
            columns = ", ".join(sorted(unique))
            if unique not in known:
                yield error(
                    124,
                    f"{buffer.label}: the database has a unique key over {columns}, of which the "
                    "model does not say anything.",
                    "MySQL and MariaDB update by whichever unique key a new row meets: a write to "
                    "one row can change another.",
                    "Declare it in the model, or drop it.",
                )
            elif not isinstance(buffer, LogBuffer):
                yield warning(
                    121,
                    f"{buffer.label} has a second unique key, over {columns}.",
                    "MySQL and MariaDB update by whichever unique key a new row meets; so each "
                    "flush reads and locks the rows before it writes them, which takes longer.",
                    "Nothing, if that is fast enough; or drop the second one, or move its column "
                    "to another model.",
                )


def _key(buffer: Declaration) -> frozenset[str]:
    """The columns that have to be unique, if any."""
    if isinstance(buffer, LogBuffer):
        return frozenset(str(f.column) for f in buffer.written()[: len(buffer.unique)])
    return frozenset(str(column.field.column) for column in buffer.layout().key)


def _uniques(examined: Examined, buffer: Declaration) -> set[frozenset[str]]:
    """The columns of each unique constraint and index of the buffer's table."""
    connection, table = examined.connection, buffer.model._meta.db_table
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, table).values()
    return {
        frozenset(each["columns"])
        for each in found
        if (each["unique"] or each["primary_key"]) and None not in each["columns"]
    }


def engines(examined: Examined) -> Iterator[Finding]:
    """MySQL and MariaDB have tables without transactions."""
    if examined.connection.vendor != "mysql":
        return
    own: list[type[models.Model]] = [AppliedBatch, DeadLetter]
    wanted = own + [buffer.model for buffer in examined.buffers]
    names = [model._meta.db_table for model in wanted]
    with examined.connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, t.engine FROM information_schema.tables t"
            " JOIN information_schema.engines e ON e.engine = t.engine"
            " WHERE table_schema = DATABASE() AND e.transactions <> 'YES'"
            f" AND table_name IN ({', '.join(['%s'] * len(names))})",
            names,
        )
        for table, engine in cursor.fetchall():
            yield error(
                125,
                f"The table {table!r} is kept by {engine}, which has no transactions.",
                "A flusher that dies in the middle leaves half of a batch, and it is applied once "
                "more.",
                f"ALTER TABLE {table} ENGINE=InnoDB",
            )


def clock(examined: Examined) -> Iterator[Finding]:
    query = _CLOCKS.get(examined.connection.vendor)
    if query is None:  # SQLite has the clock of this machine
        return
    with examined.connection.cursor() as cursor:
        before = time.time()
        cursor.execute(query)
        theirs = float(cursor.fetchone()[0])
    yield from skewed(theirs, before, time.time(), f"the database {examined.using!r}")


_CLOCKS = {
    "postgresql": "SELECT EXTRACT(EPOCH FROM clock_timestamp())",
    "mysql": "SELECT UNIX_TIMESTAMP(SYSDATE(6))",
}


def dead_letters(examined: Examined) -> Iterator[Finding]:
    if _missing(examined, DeadLetter):
        return
    letters = DeadLetter.objects.using(examined.using).values("buffer").order_by("buffer")
    for row in letters.annotate(count=Count("pk")):
        yield warning(
            131,
            f"{row['buffer']}: {row['count']} dead letters.",
            "These are writes that the database refused; nobody sees them until they are retried.",
            f"manage.py writebehind_deadletters list {row['buffer']}",
        )


def long_batches(examined: Examined) -> Iterator[Finding]:
    if _missing(examined, AppliedBatch):
        return
    lease = conf.settings().LEASE
    ledger = AppliedBatch.objects.using(examined.using)
    ledger = ledger.filter(applied_at__gte=timezone.now() - _RECENT)
    longest: timedelta | None = ledger.aggregate(longest=Max("duration"))["longest"]
    if longest and longest.total_seconds() > lease:
        yield warning(
            132,
            f"A batch took {longest.total_seconds():.0f} s in the last {_RECENT.days} days; LEASE "
            f"is {lease:g} s.",
            "A flusher that stalls for longer than its lease in such a batch has it taken over, "
            "and the work is done twice, though applied once.",
            "Raise LEASE, or lower BATCH_SIZE.",
        )


EXAMINATIONS = {
    "own tables": own_tables,
    "writing": writing,
    "tables": tables,
    "unique constraints": constraints,
    "other unique keys": other_uniques,
    "engines": engines,
    "clock": clock,
    "dead letters": dead_letters,
    "length of batches": long_batches,
}
