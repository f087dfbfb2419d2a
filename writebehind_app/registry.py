"""All buffers of the project."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from django.db import models

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration

_Each = TypeVar("_Each", bound="Declaration")

_buffers: dict[str, list[Declaration]] = {}
_watchers: list[Callable[[type[models.Model]], None]] = []


def register(model: type[models.Model], buffer: Declaration, *, name: str = "buffered") -> None:
    """Give a buffer to a model of another app, as if it were declared in it. Raises `ValueError` if
    the model has an attribute of that name."""
    if isinstance(buffer, type):
        kind = buffer.__name__
        raise TypeError(f"register() takes a buffer, not the class {kind}: call {kind}(…).")
    if hasattr(model, name):
        raise ValueError(f"{model.__name__} has an attribute {name!r} already: choose another name")
    buffer.contribute_to_class(model, name)


def add(buffer: Declaration) -> None:
    """Remember a buffer that got its model."""
    _buffers.setdefault(buffer.label, []).append(buffer)
    for act in _watchers:
        act(buffer.model)


def watch(act: Callable[[type[models.Model]], None]) -> None:
    """Call `act` with each buffered model, also with those of buffers that are declared later."""
    for buffer in declared():
        act(buffer.model)
    _watchers.append(act)


def remove(buffer: Declaration) -> None:
    """Forget a buffer, for tests that declare models of their own."""
    _buffers[buffer.label].remove(buffer)


def declared() -> list[Declaration]:
    """Every declaration, also a second one of the same model, which a check reports."""
    return [buffer for label in sorted(_buffers) for buffer in _buffers[label]]


def buffers() -> dict[str, Declaration]:
    """The buffers by the label of their model."""
    return {label: found[0] for label, found in sorted(_buffers.items()) if found}


def by_server(buffers: Iterable[_Each]) -> list[list[_Each]]:
    """The buffers, those together that are on the same Redis."""
    groups: list[tuple[object, list[_Each]]] = []
    for buffer in buffers:
        where = buffer.option("REDIS")
        its = next((group for address, group in groups if address == where), None)
        if its is None:
            groups.append((where, its := []))
        its.append(buffer)
    return [group for _, group in groups]


def buffer_of(model: type[models.Model]) -> Declaration | None:
    """The buffer of a model, or of the model that it is a proxy of; None where there is none."""
    concrete = model._meta.concrete_model
    found = _buffers.get((concrete or model)._meta.label)
    return found[0] if found else None
