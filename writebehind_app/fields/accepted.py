"""Check values by the choices and the validators of their fields.

The ORM leaves that to forms. A write is checked at the call, as nobody sees the error of a flush.
Fields without choices and validators cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from contextlib import suppress
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.choices import CallableChoiceIterator

Check = Callable[[Any], None]  # raises a ValidationError


def check_of(field: models.Field[Any, Any]) -> Check | None:
    """The check of the values of a field; None if every value is accepted.

    It comes after the codec, which checks the limits of the type, such as `max_length`.
    """
    if isinstance(field, models.ForeignKey):
        return None
    validators = [*field.default_validators, *getattr(field, "_validators", ())]
    if isinstance(field, models.GenericIPAddressField):
        validators = validators[len(field.default_validators) :]  # the codec has called them
    choices = _choices(field)
    if not validators and choices is None:
        return None

    def check(value: Any) -> None:
        if isinstance(value, models.Value):  # of JSON
            value = value.value
        value = field.to_python(value)
        if value is None or value in field.empty_values:
            return  # as in Django: null and blank are not checked here
        if choices is not None and value not in choices():
            message = field.error_messages["invalid_choice"]
            raise ValidationError(message, code="invalid_choice", params={"value": value})
        for validate in validators:
            validate(value)

    return check


def _choices(field: models.Field[Any, Any]) -> Callable[[], Container[Any]] | None:
    """A function that gives the choices of a field. It asks again each time if the choices are a
    function."""
    if not field.choices:
        return None
    if isinstance(field.choices, CallableChoiceIterator):
        return lambda: [value for value, _ in field.flatchoices]
    values: Any = [value for value, _ in field.flatchoices]
    with suppress(TypeError):  # a choice is not hashable: look through the list
        values = frozenset(values)
    return lambda: values
