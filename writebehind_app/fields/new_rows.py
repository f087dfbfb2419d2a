"""New rows of a model, as instances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.db import models
from django.db.models.base import ModelState
from django.db.models.signals import post_init, pre_init

from writebehind_app.fields.columns import default_of
from writebehind_app.fields.fold import Folded
from writebehind_app.fields.stamps import stamp


@dataclass(frozen=True, eq=False)
class NewRows:
    """How entries make new rows of a model."""

    model: type[models.Model]
    stamped: tuple[models.Field[Any, Any], ...]  # these take the time of each write
    stamped_once: tuple[models.Field[Any, Any], ...]  # these the time when the row is created

    def instance(self, folded: Folded) -> models.Model:
        """The instance of a new row."""
        assert folded.values is not None
        row = self.model(**(self._db_defaults() | folded.values))
        self._stamp(row, folded)
        return row

    def to_insert(self, folded: Folded) -> models.Model:
        """The same for an INSERT alone, made faster."""
        if not self._plain_init:
            return self.instance(folded)
        assert folded.values is not None
        row = self.model.__new__(self.model)
        row.__dict__ = {**self._defaults, **folded.values, "_state": ModelState()}
        for field in self._fields_with_calls:
            if field.attname not in folded.values:
                row.__dict__[field.attname] = field.get_default()
        self._stamp(row, folded)
        return row

    def _stamp(self, row: models.Model, folded: Folded) -> None:
        if self.stamped_once:
            assert folded.values is not None
            once = [f for f in self.stamped_once if f.attname not in folded.values]
            stamp(row, once, folded.first)
        if self.stamped:
            stamp(row, self.stamped, folded.last)

    def _db_defaults(self) -> dict[str, Any]:
        return {f.attname: default_of(f) for f in self._with_db_default}

    @cached_property
    def _with_db_default(self) -> list[models.Field[Any, Any]]:
        return [f for f in self.model._meta.concrete_fields if f.has_db_default()]

    @cached_property
    def _plain_init(self) -> bool:
        """Whether only Django's own code runs when an instance is made."""
        model = self.model
        return (
            model.__init__ is models.Model.__init__
            and model.__new__ is object.__new__
            and not any(signal.has_listeners(model) for signal in (pre_init, post_init))
            and all(type(f).get_default is models.Field.get_default for f in model._meta.fields)
        )

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {
            f.attname: f.get_default()
            for f in self.model._meta.concrete_fields
            if f not in self._fields_with_calls
        }

    @cached_property
    def _fields_with_calls(self) -> list[models.Field[Any, Any]]:
        """The fields whose default must be asked for each row."""
        return [
            f
            for f in self.model._meta.concrete_fields
            if callable(f.default) or f.has_db_default() or isinstance(f, models.ForeignKey)
        ]
