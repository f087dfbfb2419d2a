"""A batch goes into the database: one transaction, a few statements, exactly once."""

from __future__ import annotations

import datetime
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.fields.files import FileField
from django.db.models.sql import InsertQuery
from django.db.models.sql.compiler import SQLInsertCompiler
from django.utils import timezone

from writebehind_app.buffers.base import Buffer
from writebehind_app.buffers.keyed import all_rows, rows_by_id
from writebehind_app.buffers.layout import Layout, moment
from writebehind_app.models import AppliedBatch
from writebehind_app.steps import reach
from writebehind_app.store.codec import Entry
from writebehind_app.store.shard import Batch


class AlreadyApplied(Exception):
    """The ledger refused the token, because a flusher before this one committed the batch and did
    not acknowledge it, or for the reason given."""

    def __init__(self, reason: IntegrityError) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch came to."""

    rows: int  # written or deleted
    statements: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done to the rows of a batch."""

    delete: list[Any]  # rows that go
    update: list[Any]  # rows that were there, as they become
    changed: dict[str, list[Any]]  # which of them change in a field
    insert: list[Any]  # new rows
    upsert: list[Any]  # rows whose entries say all there is to say: stored or not, they are this


def apply(buffer: Buffer, shard: int, batch: Batch, *, one_by_one: bool = False) -> Applied:
    """Write a batch and its token to the database, or raise and leave the database as it was.

    `one_by_one`, at a few statements for each entry, the database takes what it refuses all at
    once: a unique value that moves to another row, new rows with keys that it takes for equal.
    """
    started = time.monotonic()
    layout = buffer.layout()
    parts = [batch.entries]
    if one_by_one:
        parts = [[entry] for entry in sorted(batch.entries, key=lambda entry: entry.at)]
    rows = 0
    with (
        _statements(connections[layout.using]) as count,
        transaction.atomic(using=layout.using, durable=True),
    ):
        _enter(buffer, shard, batch)
        reach("flush.token")
        for entries in parts:
            # Always in the same order, whatever the order of the writes was.
            of_rows = sorted(buffer.row_entries(entries), key=lambda entry: entry.id)
            plan = make_plan(layout, of_rows)
            if plan.delete:
                keys = [row.pk for row in plan.delete]
                all_rows(layout).filter(pk__in=keys).delete()
            reach("flush.deleted")
            _update(layout, plan)
            reach("flush.updated")
            _insert(layout, plan)
            reach("flush.inserted")
            rows += len(plan.delete) + len(plan.update) + len(plan.insert) + len(plan.upsert)
        statements, seconds = count() + 1, time.monotonic() - started
        AppliedBatch.objects.using(layout.using).filter(token=batch.token).update(
            rows=rows, statements=statements, duration=datetime.timedelta(seconds=seconds)
        )
    return Applied(rows, statements, seconds)


def make_plan(layout: Layout, entries: Sequence[Entry]) -> Plan:
    """Merge the entries into the stored rows, which stay locked until the transaction ends. Each
    record of a log is a new row."""
    if not layout.key:
        rows = [layout.merge(entry, None, to_store=True) for entry in entries]
        return Plan([], [], {}, rows, [])
    upsert, partial = [], []
    takes_whole_rows = _takes_whole_rows(layout)
    for entry in entries:
        if takes_whole_rows and _is_whole(layout, entry):
            upsert.append(layout.merge(entry, None, to_store=True))
        else:
            partial.append(entry)
    stored = rows_by_id(layout, [entry.id for entry in partial], lock=True)
    if len({row.pk for row in stored.values()}) < len(stored):
        raise IntegrityError("Two of the keys name one row to the database: one after the other.")
    delete, update, insert = [], {}, []
    changed = defaultdict(list)
    for entry in partial:
        row = stored.get(entry.id)
        if row is not None and entry.delete:
            delete.append(row)
            row = None
        merged = layout.merge(entry, row, to_store=True)
        if merged is None:
            continue
        if row is None:
            insert.append(merged)
        else:
            update[row.pk] = row
            for name in layout.fields_of(entry):
                changed[name].append(row)
    return Plan(delete, list(update.values()), changed, insert, upsert)


def _is_whole(layout: Layout, entry: Entry) -> bool:
    """Whether nothing needs to be known of the stored row: the entry has each of its fields."""
    return (
        entry.keep
        and not entry.delete
        and not entry.relative
        and len(entry.texts) == len(layout.columns)
    )


@cache
def _takes_whole_rows(layout: Layout) -> bool:
    """Whether a row that has all buffered fields can be written by its key, stored or not."""
    meta = layout.model._meta
    key = {c.field for c in layout.key}
    given = {*key, *(c.field for c in layout.columns.values())}
    given |= {*layout.stamped, *layout.stamped_once}
    others = {field for field in meta.concrete_fields if not field.generated} - given - {meta.pk}
    # MariaDB updates by whichever unique key the new row meets. Only one may be there to meet.
    uniques = [{f} for f in meta.concrete_fields if f.unique and f is not meta.pk]
    groups = [*meta.unique_together, *(c.fields for c in meta.total_unique_constraints)]
    uniques += [{f for f in meta.concrete_fields if f.name in group} for group in groups]
    partial = len(meta.total_unique_constraints) < sum(
        isinstance(c, models.UniqueConstraint) for c in meta.constraints
    )
    # An upsert takes a number of the sequence even where it changes a row. There are enough of 64
    # bits, not of 32.
    pk = meta.pk
    numbers = (
        pk in key or isinstance(pk, models.BigAutoField) or not isinstance(pk, models.AutoField)
    )
    own = any(type(f).pre_save not in _PLAIN_PRE_SAVE for f in meta.concrete_fields)
    unique_else = partial or any(unique != key for unique in uniques)
    something = layout.columns or layout.stamped  # an upsert has to update something
    return bool(layout.insert and numbers and something) and not (others or own or unique_else)


def _update(layout: Layout, plan: Plan) -> None:
    """Write the changed rows: one statement for all fields that can be written back as they were
    read where a row did not change, as it is locked; one for each other field. The primary key is
    what rows are found by on each of the databases."""
    if not plan.update:
        return
    _call_pre_save(layout, plan.update, add=False)
    for field in layout.model._meta.concrete_fields:
        if isinstance(field, models.JSONField) and not field.null:
            for row in plan.update:
                if getattr(row, field.attname) is None:  # a null of JSON: it cannot be another
                    setattr(row, field.attname, models.Value(None, models.JSONField()))
    pk = layout.model._meta.pk
    assert pk is not None
    exact = [c.name for c in layout.columns.values() if c.exact and c.name in plan.changed]
    exact += [field.name for field in layout.stamped]
    if exact:
        _upsert(layout, plan.update, exact, [pk.name])
    for name, rows in plan.changed.items():
        if not layout.columns[name].exact:
            _upsert(layout, rows, [name], [pk.name])


def _insert(layout: Layout, plan: Plan) -> None:
    """Write the rows that were not read."""
    if plan.upsert:
        fields = [*layout.columns, *(field.name for field in layout.stamped)]
        _upsert(layout, plan.upsert, fields, [c.name for c in layout.key])
    if plan.insert:
        # Plainly: a row that someone else inserts in this moment has to end the transaction,
        # whose next try finds it and changes only what was written.
        _call_pre_save(layout, plan.insert, add=True)
        with _large_statements(connections[layout.using]):
            _AsGiven(layout.model, using=layout.using).bulk_create(plan.insert)


def _upsert(layout: Layout, rows: Sequence[Any], fields: list[str], unique: list[str]) -> None:
    connection = connections[layout.using]
    by_target = connection.features.supports_update_conflicts_with_target
    with _large_statements(connection):
        _AsGiven(layout.model, using=layout.using).bulk_create(
            rows,
            update_conflicts=True,
            update_fields=fields,
            unique_fields=unique if by_target else None,
        )


class _AsGiven(models.QuerySet[Any]):
    """Inserts what instances hold. Usually a pre_save() of each field comes in between, by which
    `auto_now` would say when the batch was flushed instead of when the row was written. Nothing
    is read back, as the instances are not used any more."""

    def _insert(
        self, objs: Any, fields: Any, returning_fields: Any = None, **conflicts: Any
    ) -> list[tuple[()]]:
        connection = connections[conflicts.pop("using")]
        query = InsertQuery(self.model, **conflicts)
        query.insert_values(fields, objs, raw=True)
        compiler = _compiler(connection)(query, connection, connection.alias)
        compiler.execute_sql()
        return [()] * len(objs)


@cache
def _compiler(connection: BaseDatabaseWrapper) -> type[SQLInsertCompiler]:
    """The compiler of the database, quick where all rows are alike.

    Django asks for the placeholder of each single value. PostgreSQL's compiler has a way around
    it of its own; the others spend a third of an insert on it.
    """
    plain: type[SQLInsertCompiler] = connection.ops.compiler("SQLInsertCompiler")  # type: ignore[assignment]
    if plain.assemble_as_sql is not SQLInsertCompiler.assemble_as_sql:
        return plain

    class Quick(plain):  # type: ignore[misc, valid-type]
        def assemble_as_sql(self, fields: Any, value_rows: Any) -> Any:
            if any(f is None or hasattr(f, "get_placeholder") for f in fields) or any(
                hasattr(value, "as_sql") for row in value_rows for value in row
            ):
                return super().assemble_as_sql(fields, value_rows)
            return [("%s",) * len(fields)] * len(value_rows), value_rows

    return Quick


_PLAIN_PRE_SAVE = {
    kind.pre_save
    for kind in (
        models.Field,
        models.DateField,
        models.DateTimeField,
        models.TimeField,
        FileField,
    )
}


def _call_pre_save(layout: Layout, rows: Sequence[models.Model], *, add: bool) -> None:
    """Let fields of the project's own set their value as save() would."""
    for field in layout.model._meta.concrete_fields:
        if type(field).pre_save not in _PLAIN_PRE_SAVE:
            for row in rows:
                setattr(row, field.attname, field.pre_save(row, add))


def _enter(buffer: Buffer, shard: int, batch: Batch) -> None:
    """Put the token into the ledger. Whoever else does waits here for the end of this
    transaction, and then finds it there."""
    layout = buffer.layout()
    oldest = min((entry.since for entry in batch.entries), default=0)
    record = AppliedBatch(
        token=batch.token,
        buffer=buffer.label,
        shard=shard,
        entries=len(batch.entries),
        oldest_at=_stored(moment(oldest)),
        upto=None if layout.key or not batch.entries else batch.entries[-1].no,
        applied_at=timezone.now(),
    )
    try:
        record.save(using=layout.using, force_insert=True)
    except IntegrityError as error:
        raise AlreadyApplied(error) from None


def is_applied(layout: Layout, batch: Batch) -> bool:
    """Whether the token is in the ledger."""
    return AppliedBatch.objects.using(layout.using).filter(token=batch.token).exists()


def _stored(at: datetime.datetime) -> datetime.datetime:
    return at if settings.USE_TZ else timezone.make_naive(at)


def check_outside_transaction(using: str) -> None:
    """Refuse to flush where nothing is committed before the caller's own transaction is."""
    if connections[using].in_atomic_block and not _in_test_case(using):
        raise transaction.TransactionManagementError(
            "flush() commits by itself, so that Redis can forget what the database has: call it "
            "outside of transaction.atomic(), or with transaction.on_commit()."
        )


def _in_test_case(using: str) -> bool:
    blocks = connections[using].atomic_blocks
    return bool(blocks) and bool(getattr(blocks[-1], "_from_testcase", False))


@contextmanager
def _statements(connection: BaseDatabaseWrapper) -> Iterator[Callable[[], int]]:
    """Counts the statements that are executed."""
    statements = 0

    def count(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        nonlocal statements
        statements += 1
        return execute(sql, params, many, context)

    with connection.execute_wrapper(count):
        yield lambda: statements


@contextmanager
def _large_statements(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Lets SQLite take as many parameters as it can, where Django assumes the least."""
    if connection.vendor != "sqlite":
        yield
        return
    connection.ensure_connection()
    most = connection.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    features: Any = connection.features
    least = features.max_query_params
    if least >= most:  # from Django 6.1 on it asks SQLite itself, and cannot be set
        yield
        return
    features.max_query_params = most
    try:
        yield
    finally:
        features.max_query_params = least
