"""Lock stored rows in one order everywhere, so that two transactions do not deadlock.

Rows are locked in the order of the primary key, and then their fences. If a statement changes
several rows, and some of them are locked before it for their own sake, all of them are.

MariaDB and MySQL lock what they read, as they read it: by an index its entries first, then the
rows, in the order of the index. A transaction that has locked the rows before would do it the other
way round. So the primary keys are read without a lock, and the rows are found by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connections, models
from django.db.models.expressions import Expression
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.where import AND

from writebehind_app.database.statements import parts, size_of
from writebehind_app.fields.layout import Layout


def locking(
    layout: Layout, rows: models.QuerySet[Any], *, nowait: bool = False
) -> models.QuerySet[Any]:
    """The rows of a query by the key, locked. `nowait` as in Django."""
    is_by_pk = [column.field for column in layout.key] == [layout.model._meta.pk]
    if not is_by_pk and _locks_indexes(layout):
        if not _sees_what_is_committed(layout):
            # So no stored row is missed.
            return rows.select_for_update(nowait=nowait).order_by()
        rows = _by_pk(layout, [*rows.order_by().values_list("pk", flat=True)])
    return rows.select_for_update(nowait=nowait).order_by("pk")


def lock_rows(layout: Layout, pks: Iterable[Any]) -> dict[Any, Any]:
    """Lock the rows with these primary keys. Return them by these, with their keys."""
    found: dict[Any, Any] = {}
    names = [column.name for column in layout.key]
    for chunk in parts(connections[layout.using], sorted(pks), size_of):
        rows = _by_pk(layout, chunk).select_for_update().order_by("pk").only(*names)
        found |= {row.pk: row for row in rows}
    return found


@contextmanager
def locked_for_update(layout: Layout, rows: models.QuerySet[Any]) -> Iterator[None]:
    """Lock all rows that an UPDATE of a queryset will change.

    Within it, the queryset finds them by the primary key, if the database locks indexes.
    """
    query = rows.query
    if connections[layout.using].features.has_select_for_update and (
        not _locks_indexes(layout) or _sees_what_is_committed(layout)
    ):
        pks = [*rows.order_by().values_list("pk", flat=True)]
        lock_rows(layout, pks)
        # With several tables, Django itself selects the primary keys on MariaDB and MySQL.
        if _locks_indexes(layout) and query.count_active_tables() <= 1:
            found = rows.all()
            found.query.clear_where()
            found = found.filter(pk__in=pks)
            if query.where.children:
                found.query.where.add(Check(query.where), AND)
            rows.query = found.query
    try:
        yield
    finally:
        rows.query = query


class Check(Expression):
    """A condition on rows that are found by something else: no index is used for it."""

    conditional = True

    def __init__(self, condition: Any) -> None:
        super().__init__(output_field=models.BooleanField())
        self.condition = condition

    def get_source_expressions(self) -> list[Any]:
        return [self.condition]

    def set_source_expressions(self, expressions: Sequence[Any]) -> None:
        (self.condition,) = expressions

    def as_sql(self, compiler: SQLCompiler, connection: Any, **kwargs: Any) -> Any:
        sql, params = compiler.compile(self.condition)
        return (f"({sql}) IS TRUE" if connection.vendor == "mysql" else sql), params


def _by_pk(layout: Layout, pks: Sequence[Any]) -> models.QuerySet[Any]:
    return models.QuerySet(layout.model, using=layout.using).filter(pk__in=pks)


def _locks_indexes(layout: Layout) -> bool:
    return connections[layout.using].vendor == "mysql"


def _sees_what_is_committed(layout: Layout) -> bool:
    """Whether a statement without locks sees each committed row. This is Django's default."""
    connection: Any = connections[layout.using]
    return bool(connection.vendor != "mysql" or connection.isolation_level == "read committed")
