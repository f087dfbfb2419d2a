"""A batch goes into the database: one transaction, a few statements, exactly once."""

from __future__ import annotations

import datetime
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.fields.files import FileField
from django.utils import timezone

from writebehind_app.buffers.keyed import rows_by_id
from writebehind_app.buffers.layout import Layout, moment
from writebehind_app.models import AppliedBatch
from writebehind_app.steps import reach
from writebehind_app.store.codec import Entry
from writebehind_app.store.shard import Batch


class AlreadyApplied(Exception):
    """The token is in the ledger: a flusher before this one committed and did not acknowledge."""


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
    insert: list[Any]  # new rows
    update_fields: list[str]  # what may have changed in any of the rows to update


def apply(layout: Layout, label: str, shard: int, batch: Batch) -> Applied:
    """Write a batch and its token to the database, or raise and leave the database as it was."""
    started = time.monotonic()
    # Always in the same order, whatever the order of the writes was.
    entries = sorted(batch.entries, key=lambda entry: entry.id)
    with (
        _statements(connections[layout.using]) as count,
        transaction.atomic(using=layout.using, durable=True),
    ):
        _enter(layout, label, shard, batch)
        reach("flush.token")
        plan = make_plan(layout, entries)
        if plan.delete:
            keys = [row.pk for row in plan.delete]
            layout.model._base_manager.using(layout.using).filter(pk__in=keys).delete()
        reach("flush.deleted")
        _update(layout, plan)
        reach("flush.updated")
        _insert(layout, plan)
        reach("flush.inserted")
        rows = len({id(row) for row in (*plan.delete, *plan.update, *plan.insert)})
        statements, seconds = count() + 1, time.monotonic() - started
        AppliedBatch.objects.using(layout.using).filter(token=batch.token).update(
            rows=rows, statements=statements, duration=datetime.timedelta(seconds=seconds)
        )
    return Applied(rows, statements, seconds)


def make_plan(layout: Layout, entries: Sequence[Entry]) -> Plan:
    """Merge the entries into the stored rows, which stay locked until the transaction ends."""
    stored = rows_by_id(layout, [entry.id for entry in entries], lock=True)
    delete, update, insert = [], {}, []
    changed: set[str] = set()
    for entry in entries:
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
            changed.update(entry.texts)
    fields = [name for name in layout.columns if name in changed]
    if update:
        fields += [field.name for field in layout.stamped]
    return Plan(delete, list(update.values()), insert, fields)


def _update(layout: Layout, plan: Plan) -> None:
    """Write the changed rows whole, in one statement: they are locked, so what did not change is
    what is stored. The primary key is what they are found by on each of the databases."""
    if not plan.update or not plan.update_fields:
        return
    _call_pre_save(layout, plan.update, add=False)
    connection = connections[layout.using]
    by_target = connection.features.supports_update_conflicts_with_target
    pk = layout.model._meta.pk
    assert pk is not None
    with _large_statements(connection):
        _AsGiven(layout.model, using=layout.using).bulk_create(
            plan.update,
            update_conflicts=True,
            update_fields=plan.update_fields,
            unique_fields=[pk.name] if by_target else None,
        )


def _insert(layout: Layout, plan: Plan) -> None:
    """Insert the missing rows, plainly: one that someone else inserts in this moment has to end
    the transaction, whose next try finds it and changes only what was written."""
    if plan.insert:
        _call_pre_save(layout, plan.insert, add=True)
        with _large_statements(connections[layout.using]):
            _AsGiven(layout.model, using=layout.using).bulk_create(plan.insert)


class _AsGiven(models.QuerySet[Any]):
    """Inserts what instances hold. Usually a pre_save() of each field comes in between, by which
    `auto_now` would say when the batch was flushed instead of when the row was written."""

    def _insert(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["raw"] = True
        return super()._insert(*args, **kwargs)  # type: ignore[misc]


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


def _enter(layout: Layout, label: str, shard: int, batch: Batch) -> None:
    """Put the token into the ledger. Whoever else does waits here for the end of this
    transaction, and then finds it there."""
    oldest = min((entry.since for entry in batch.entries), default=0)
    record = AppliedBatch(
        token=batch.token,
        buffer=label,
        shard=shard,
        entries=len(batch.entries),
        oldest_at=_stored(moment(oldest)),
        applied_at=timezone.now(),
    )
    try:
        record.save(using=layout.using, force_insert=True)
    except IntegrityError:
        raise AlreadyApplied(batch.token) from None


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
