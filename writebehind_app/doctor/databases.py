"""Examinations of one database that buffers are flushed to."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.apps import apps
from django.db import Error, connections, models, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Count, Max
from django.utils import timezone

from writebehind_app import conf, registry
from writebehind_app.buffers.log import LogBuffer
from writebehind_app.declaration import Declaration
from writebehind_app.doctor.finding import Finding, error, warning
from writebehind_app.doctor.redis_server import skewed
from writebehind_app.english import counted
from writebehind_app.models import AppliedBatch, DeadLetter

_RECENT = timedelta(days=7)
_LONG_KEPT = timedelta(days=30)
_LEFT_OVER = 1000  # expired rows of the ledger from which on there is a warning
_NAMES = 5  # the most names in one finding


@dataclass(frozen=True, slots=True)
class Examined:
    """A database that answers, and the buffers that are flushed to it."""

    using: str
    buffers: Sequence[Declaration]

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.using]

    def with_tables(self) -> Iterator[Declaration]:
        """Return the buffers whose tables exist. `tables()` reports the others."""
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
            "A flush enters each batch in the ledger. Without it nothing is flushed to this "
            "database.",
            f"{routed}manage.py migrate writebehind --database={examined.using}",
        )


def writing(examined: Examined) -> Iterator[Finding]:
    """Whether the ledger takes a row. The row is rolled back."""
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
            "Pending writes stay in Redis, which fills up.",
            "See whether it is a replica, read-only, full or locked, and what its user may do.",
        )


def tables(examined: Examined) -> Iterator[Finding]:
    missing = [name for buffer in examined.buffers for name in _missing(examined, buffer.model)]
    if missing:
        more = f" and {len(missing) - _NAMES} more" if len(missing) > _NAMES else ""
        yield error(
            122,
            f"The database {examined.using!r} has no {', '.join(missing[:_NAMES])}{more}.",
            "Batches of a buffer wait until its table has all columns.",
            f"manage.py migrate --database={examined.using}",
        )


def _missing(examined: Examined, model: type[models.Model]) -> list[str]:
    """Return the table or the columns of a model that the database lacks."""
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
                "Two rows can get the same key, or the flush fails.",
                "Run manage.py migrate. If somebody dropped the constraint, create it again by "
                "hand.",
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
                    f"{buffer.label}: the database has a unique key over {columns}, which the "
                    "model does not declare.",
                    "MySQL and MariaDB update by whichever unique key a new row meets: a write to "
                    "one row can change another.",
                    "Declare it in the model, or drop it.",
                )
            elif not isinstance(buffer, LogBuffer):
                yield warning(
                    121,
                    f"{buffer.label} has a second unique key, over {columns}.",
                    "MySQL and MariaDB update by whichever unique key a new row meets. So each "
                    "flush first reads and locks the rows, which takes longer.",
                    "Nothing, if that is fast enough. Or drop the second key, or move its column "
                    "to another model.",
                )


def _key(buffer: Declaration) -> frozenset[str]:
    """Return the columns that must be unique, if any."""
    if isinstance(buffer, LogBuffer):
        return frozenset(str(f.column) for f in buffer.written()[: len(buffer.unique)])
    return frozenset(str(column.field.column) for column in buffer.layout().key)


def _uniques(examined: Examined, buffer: Declaration) -> set[frozenset[str]]:
    """Return the columns of each unique constraint and index of the buffer's table."""
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
                f"The table {table!r} has the engine {engine}, which has no transactions.",
                "If a flusher dies in the middle, half of a batch stays, and the batch is applied "
                "again.",
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
    letters = DeadLetter.objects.using(examined.using).values("buffer").order_by("buffer")
    for row in letters.annotate(count=Count("pk")):
        yield warning(
            131,
            f"{row['buffer']}: {counted(row['count'], 'dead letter')}.",
            "The database refused these writes. Nobody sees them until they are retried.",
            f"manage.py writebehind_deadletters list {row['buffer']}",
            row["buffer"],
        )


def long_batches(examined: Examined) -> Iterator[Finding]:
    lease = conf.settings().LEASE
    ledger = AppliedBatch.objects.using(examined.using)
    ledger = ledger.filter(applied_at__gte=timezone.now() - _RECENT)
    longest: timedelta | None = ledger.aggregate(longest=Max("duration"))["longest"]
    if longest and longest.total_seconds() > lease:
        yield warning(
            132,
            f"A batch took {longest.total_seconds():.0f} s in the last {_RECENT.days} days; LEASE "
            f"is {lease:g} s.",
            "If a flusher stalls for longer than its lease, another one takes its batch over. The "
            "work is done twice, and applied once.",
            "Raise LEASE, or lower BATCH_SIZE.",
        )


def ledger(examined: Examined) -> Iterator[Finding]:
    """Whether the ledger grows for ever. Only its oldest rows are read: counting is slow."""
    rows = AppliedBatch.objects.using(examined.using).order_by("applied_at")
    days = conf.settings().LEDGER_DAYS
    if not days:
        oldest = rows.values_list("applied_at", flat=True).first()
        if oldest and (age := timezone.now() - oldest) > _LONG_KEPT:
            yield warning(
                134,
                f"The ledger in {examined.using!r} has rows that are {age.days} days old: "
                "LEDGER_DAYS is 0, which keeps all.",
                "Each batch adds a row, for ever.",
                "Take LEDGER_DAYS out of WRITEBEHIND, or set it to a number of days.",
            )
        return
    since = timezone.now() - timedelta(days=max(days, 1) + 1)
    old = rows.filter(applied_at__lt=since)[:_LEFT_OVER].values_list("buffer", flat=True)
    labels = [*old]
    if len(labels) == _LEFT_OVER:
        gone = sorted(set(labels) - registry.buffers().keys())
        of_gone = f", some of buffers that are gone ({', '.join(gone[:_NAMES])})" if gone else ""
        yield warning(
            135,
            f"The ledger in {examined.using!r} has {_LEFT_OVER} rows or more that are older than "
            f"LEDGER_DAYS, {days:g}{of_gone}.",
            "A flush deletes them, but not those of buffers that are gone.",
            "Run manage.py flush_writebehind, as a service. Delete rows of buffers that are gone "
            "by hand: AppliedBatch.objects.filter(buffer=…).delete()",
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
    "ledger": ledger,
}

_NEED = {
    "writing": AppliedBatch,
    "dead letters": DeadLetter,
    "length of batches": AppliedBatch,
    "ledger": AppliedBatch,
}


def possible(examined: Examined) -> dict[str, Callable[[Examined], Iterator[Finding]]]:
    """The examinations whose tables of the package exist. `own_tables()` reports the others."""
    return {
        name: examination
        for name, examination in EXAMINATIONS.items()
        if name not in _NEED or not _missing(examined, _NEED[name])
    }
