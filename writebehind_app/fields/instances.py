"""Make instances of stored rows, as `Model.from_db()` does, but faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.db import models
from django.db.models.base import ModelState
from django.db.models.fields.files import FileDescriptor
from django.db.models.query_utils import DeferredAttribute
from django.db.models.signals import post_init, pre_init

# These descriptors keep the value of a new instance unchanged in its __dict__.
_KEEPING = (DeferredAttribute, FileDescriptor, models.ForeignKey.descriptor_class)


def maker(
    model: type[models.Model], using: str, names: Sequence[str]
) -> Callable[[Sequence[Any]], Any]:
    """A function that makes an instance from values. `names` are all fields of the model, in its
    order."""
    from_db: Callable[..., Any] = model.from_db
    if not _is_plain(model):
        return lambda values: from_db(using, names, values)
    new: Callable[..., Any] = object.__new__

    def make(values: Sequence[Any]) -> Any:
        if pre_init.receivers or post_init.receivers:  # perhaps for this model
            return from_db(using, names, values)
        row, state = new(model), ModelState()
        state.adding, state.db = False, using
        attributes = row.__dict__
        attributes["_state"] = state
        attributes.update(zip(names, values, strict=True))
        return row

    return make


def _is_plain(model: type[models.Model]) -> bool:
    """Whether only Django's own code makes and fills an instance. Then the attributes can be set at
    once. Django sets one after the other, which takes several times as long."""
    after = model.__mro__[model.__mro__.index(models.Model) + 1 :]
    return (
        getattr(model.from_db, "__func__", None) is vars(models.Model)["from_db"].__func__
        and model.__init__ is models.Model.__init__
        and not any("__init__" in vars(kind) for kind in after if kind is not object)
        and model.__new__ is object.__new__
        and model.__setattr__ is object.__setattr__
        and all(
            type(getattr(model, field.attname, None)) in _KEEPING
            for field in model._meta.concrete_fields
        )
    )
