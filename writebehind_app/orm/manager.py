"""A manager whose instances carry their pending values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django.core import checks
from django.db import models

from writebehind_app import registry
from writebehind_app.declaration import KeyedDeclaration
from writebehind_app.orm import bulk
from writebehind_app.orm.loading import BufferedIterable, buffer_of
from writebehind_app.orm.older import fencing

Row = TypeVar("Row", bound=models.Model, covariant=True)
_Result = TypeVar("_Result")


class BufferedQuerySet(models.QuerySet[Row]):
    """A queryset of a model with a RowBuffer or a MetaBuffer.

    The instances that it loads carry their pending values, at one round trip to Redis. A row that a
    pending write deletes is left out. Everything else sees the stored rows: `filter`, `exclude`,
    `order_by`, slices, `count()`, `exists()`, `aggregate()`, annotations, `values()`,
    `values_list()`, and what `select_related()` loads. So a row that is not stored yet is not
    found, a page may be one row short, and `first()` may return None if the first row is to be
    deleted.

    `update()`, `bulk_update()`, `bulk_create()` and `delete()` are writes like any other, later
    than all writes that were accepted before them. They match the stored rows.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._iterable_class = BufferedIterable

    def update(self, **kwargs: Any) -> int:
        self._for_write = True
        act = partial(super().update, **kwargs)
        if self.query.is_sliced or self.query.combinator:
            return act()  # Django refuses it
        return self._written(lambda buffer: bulk.update(buffer, self, kwargs, act), act)

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(
        self,
        objs: Iterable[Row],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Any = None,
        unique_fields: Any = None,
    ) -> list[Row]:
        self._for_write = True
        rows = [*objs]
        act = partial(
            super().bulk_create,
            rows,
            batch_size,
            ignore_conflicts,
            update_conflicts,
            update_fields,
            unique_fields,
        )
        fields = [*update_fields] if update_conflicts and update_fields else []
        for row in rows:
            row._prepare_related_fields_for_save(operation_name="bulk_create")  # type: ignore[attr-defined]
        return self._written(
            lambda buffer: bulk.create(buffer, rows, act, ignore=ignore_conflicts, update=fields),
            act,
        )

    bulk_create.alters_data = True  # type: ignore[attr-defined]

    def _written(
        self, buffered: Callable[[KeyedDeclaration], _Result], act: Callable[[], _Result]
    ) -> _Result:
        buffer = fencing(self.model, self.db)
        if buffer is None:
            return act()
        with buffer.in_database(self.db):
            return buffered(buffer)


class BufferedManager(models.Manager[Row]):
    """`objects = BufferedManager()`: its querysets are BufferedQuerySets.

    `refresh_from_db()`, forward relations (`lesson.owner`) and `select_related()` do not use it:
    they use Django's base manager. `prefetch_related()` and reverse relations use it if it is the
    first manager of the model.
    """

    _queryset_class = BufferedQuerySet

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        found = super().check(**kwargs)
        if buffer_of(self.model) is not None:
            return found
        label, buffer = self.model._meta.label, registry.buffer_of(self.model)
        why = f"{label} has no buffer" if buffer is None else "the records of a log never change"
        hint = f"Make {self.name} a manager of Django" + (
            f", or declare a buffer in {label}."
            if buffer is None
            else f". {buffer}.window() has the records that are pending, too."
        )
        message = f"{label}.{self.name} is a BufferedManager, and {why}: it has nothing to do."
        return [*found, checks.Error(message, hint=hint, obj=self.model, id="writebehind.E030")]

    if TYPE_CHECKING:

        def get_queryset(self) -> BufferedQuerySet[Row]: ...
