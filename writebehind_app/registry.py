"""All buffers of the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration

_buffers: dict[str, list[Declaration]] = {}


def register(model: type[models.Model], buffer: Declaration, *, name: str = "buffered") -> None:
    """Give a buffer to a model of another app, as if it were declared in it."""
    if isinstance(buffer, type):
        kind = buffer.__name__
        raise TypeError(f"register() takes a buffer, not the class {kind}: call {kind}(…).")
    if hasattr(model, name):
        raise ValueError(f"{model.__name__} has an attribute {name!r} already: choose another name")
    buffer.contribute_to_class(model, name)


def add(buffer: Declaration) -> None:
    """Remember a buffer that got its model."""
    _buffers.setdefault(buffer.label, []).append(buffer)


def remove(buffer: Declaration) -> None:
    """Forget a buffer, for tests that declare models of their own."""
    _buffers[buffer.label].remove(buffer)


def declared() -> list[Declaration]:
    """Every declaration, also a second one of the same model, which a check reports."""
    return [buffer for label in sorted(_buffers) for buffer in _buffers[label]]


def buffers() -> dict[str, Declaration]:
    """The buffers by the label of their model."""
    return {label: found[0] for label, found in sorted(_buffers.items()) if found}
