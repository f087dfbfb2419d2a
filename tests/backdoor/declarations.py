"""Buffers that are declared otherwise from here on, as after a deploy."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import models

from writebehind_app import registry, schedules
from writebehind_app.buffers.base import Buffer


def declare_only(patch: pytest.MonkeyPatch, *declared: type[models.Model]) -> None:
    """A project that has the buffers of these models and no others."""
    patch.setattr(registry, "_buffers", {m._meta.label: [m.buffered] for m in declared})


def declare_too(patch: pytest.MonkeyPatch, model: type[models.Model]) -> None:
    patch.setitem(registry._buffers, model._meta.label, [model.buffered])


def redeclare(
    patch: pytest.MonkeyPatch, buffer: Buffer, kind: type[Buffer] | None = None, **options: Any
) -> None:
    """Give a buffer another class, or other options."""
    if kind is not None:
        patch.setattr(buffer, "__class__", kind)
    for name, value in options.items():
        patch.setattr(buffer, name, value)
    patch.setattr(buffer, "_layouts", {})  # which were worked out of the earlier ones, as these
    patch.setattr(buffer, "_plans", {})


def kind_of(buffer: Buffer) -> Any:
    """The class of the package that a buffer is of, to be derived from."""
    return next(k for k in type(buffer).__mro__ if k.__module__.startswith("writebehind_app"))


def hide_table(patch: pytest.MonkeyPatch, hidden: type[models.Model]) -> None:
    """As if the table of a model were not made yet, where schedules look for it."""
    patch.setattr(schedules, "_is_there", lambda model: model is not hidden)


def forget_looks(patch: pytest.MonkeyPatch, buffer: Buffer) -> None:
    """A log asks the database for unique values as in its first call."""
    patch.setattr(buffer._appending, "_guards", {})
