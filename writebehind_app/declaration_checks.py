"""What the checks of every kind of declaration have in common."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from django.core import checks
from django.core.exceptions import FieldDoesNotExist
from django.db import models, router

from writebehind_app.fields.columns import NOT_FOR_KEYS, Unsupported, column
from writebehind_app.fields.layout import may_be_written

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration


def error(number: int, message: str, hint: str, obj: Any = None) -> checks.Error:
    return checks.Error(message, hint=hint, obj=obj, id=f"writebehind.E{number:03}")


def nearest(name: str, names: Sequence[str]) -> str:
    """What may be meant by a name, and all the names there are."""
    near = get_close_matches(name, names, n=1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"There are: {', '.join(names)}."


def named_fields(
    buffer: Declaration, names: Iterable[str], option: str
) -> Generator[checks.CheckMessage, None, list[models.Field[Any, Any]]]:
    """The fields of these names, with an error for each name that there is none for."""
    meta = buffer.model._meta
    concrete = [field.name for field in meta.concrete_fields]
    found: list[models.Field[Any, Any]] = []
    for name in names:
        field: Any = meta.pk if name == "pk" else None
        if field is None:
            with suppress(FieldDoesNotExist):
                field = meta.get_field(name)
        if field not in meta.concrete_fields:
            yield error(
                14,
                f"`{option}` names {name!r}, which is not a field with a column.",
                nearest(str(name), concrete),
                buffer,
            )
        else:
            found.append(field)
    return found


def names_a_row(
    buffer: Declaration, key: Sequence[models.Field[Any, Any]], option: str
) -> Iterator[checks.CheckMessage]:
    """An error for what keeps the fields of an option from naming one row."""
    for field in key:
        if isinstance(field, NOT_FOR_KEYS) or field.null:
            why = "can be NULL" if field.null else f"is a {type(field).__name__}"
            yield error(
                15,
                f"The {option} field {field.name!r} {why}: it cannot name a row.",
                "Choose fields that are never NULL and whose values compare exactly.",
                buffer,
            )
    names = {field.name for field in key}
    if len(key) == 1 and (key[0].unique or key[0].primary_key):
        return
    meta = buffer.model._meta
    plain = [set(group) for group in meta.unique_together]
    plain += [
        set(c.fields)
        for c in meta.constraints
        if isinstance(c, models.UniqueConstraint)
        and not (c.condition or c.expressions or c.deferrable)
    ]
    if names not in plain:
        fields = ", ".join(repr(field.name) for field in key)
        yield error(
            15,
            f"The {option} ({', '.join(field.name for field in key)}) has no plain unique "
            "constraint.",
            f"Add models.UniqueConstraint(fields=[{fields}], name=…) to the model, without a "
            "condition, an expression or `deferrable`; or `unique=True` for a single field.",
            buffer,
        )


def supported(
    buffer: Declaration,
    fields: Iterable[models.Field[Any, Any]],
    hint: str,
    *,
    takes_names: bool = True,
) -> Iterator[checks.CheckMessage]:
    """An error for each field whose values cannot travel. `takes_names` for a buffer whose calls
    name the fields that they write."""
    using = router.db_for_write(buffer.model)
    for field in dict.fromkeys(fields):
        if field.name == "once" and takes_names:
            message = "The field 'once' cannot be given in a call: there, `once` names the call."
            yield error(22, message, hint, buffer)
        try:
            column(field, using)
        except Unsupported as reason:
            message = f"The field {field.name!r} cannot be buffered: {reason}."
            yield error(18, message, hint, buffer)


def left_out(
    buffer: Declaration, given: Sequence[models.Field[Any, Any]], hint: str
) -> Iterator[checks.CheckMessage]:
    """An error for each field without which there can be no row, and which gets no value."""
    for field in buffer.model._meta.concrete_fields:
        may_be_left_out = field.null or field.generated or field.has_db_default()
        if (
            not (field in given or field.primary_key or may_be_left_out)
            and may_be_written(field)
            and field.get_default() is None
        ):
            yield error(
                21,
                f"The field {field.name!r} has no value in a row that the buffer makes.",
                hint,
                buffer,
            )


def sets_itself(field: models.Field[Any, Any]) -> bool:
    return bool(getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False))
