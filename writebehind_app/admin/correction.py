"""The form that corrects the values of a dead letter."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from django import forms
from django.db import models
from django.utils.choices import flatten_choices
from django.utils.functional import cached_property
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from writebehind_app.admin.display import display
from writebehind_app.declaration import Declaration
from writebehind_app.fields.columns import Column
from writebehind_app.fields.operations import are_operations

_LONGEST = 100_000  # characters; longer values are not in the form


def rendered(field: forms.Field, value: Any) -> str:
    """The text that a browser sends back for a value that nobody changed."""
    found: Any = field.widget.format_value(field.prepare_value(value))
    if isinstance(found, list):  # a select gives a list
        found = next(iter(found), "")
    return "" if found is None else str(found)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


class _Correction(forms.Form):
    """A form in which only the changed fields are checked: the others may hold wrong values."""

    left_out: Sequence[str] = ()  # fields whose values are too long for the form

    @cached_property
    def changed_data(self) -> list[str]:
        """The fields whose text is not the one that was shown.

        Texts are compared, not values: a field may read its own text as another value, such as a
        time in the hour that the end of summer time repeats.
        """
        return [
            name
            for name, field in self.fields.items()
            if name in self.data
            and _lines(self.data[name])
            != _lines(rendered(field, self.get_initial_for_field(field, name)))
        ]

    def clean(self) -> dict[str, Any]:
        for name in self.fields.keys() - set(self.changed_data):
            self._errors.pop(name, None)  # type: ignore[attr-defined]
        return self.cleaned_data


def correction(
    buffer: Declaration,
    values: Mapping[str, Any],
    hidden: Container[str],
    data: Mapping[str, Any] | None,
) -> forms.Form:
    """A form with the values of a letter, for all fields of the model that are not hidden."""
    fields: dict[str, forms.Field] = {}
    initial = {}
    left_out: list[str] = []
    for column in buffer.layout().columns.values():
        field = None if column.name in hidden else _form_field(column, buffer.layout().using)
        if field is None:
            continue
        value = values.get(column.name)
        if len(str(value)) > _LONGEST:
            left_out.append(column.name)
            continue
        fields[column.name] = field
        if isinstance(field, forms.ChoiceField) and not are_operations(value):
            choices: Any = field.choices
            flat: Any = flatten_choices(choices)
            known = [str(choice) for choice, _name in flat]
            if value is not None and str(value) not in known:
                field.choices = [*choices, (value, str(value))]
        if are_operations(value):
            field.help_text = _("Now: %s. A value that you enter replaces it.") % display(value)
        elif column.name in values:
            initial[column.name] = value
        else:
            field.help_text = _("Not written by this letter.")
    kind: type[forms.Form] = type("Correction", (_Correction,), {**fields, "left_out": left_out})
    return kind(data, initial=initial)


def _form_field(column: Column, using: str) -> forms.Field | None:
    """A form field for the values of a column; None if nobody can type them."""
    field: Any = column.field
    match field:
        case models.BinaryField():
            return None
        case models.BooleanField():
            found: Any = forms.NullBooleanField()
        case models.FileField() | models.FilePathField():
            found = forms.CharField()
        case models.URLField():
            found = field.formfield(assume_scheme="https")
        case models.ForeignKey():
            found = field.formfield(using=using, widget=forms.TextInput)
        case _:
            found = field.formfield()
    if found is None:  # for an AutoField
        return None
    if isinstance(found.widget, forms.Select) and not isinstance(field, models.BooleanField):
        choices = [choice for choice in found.choices if choice[0] not in ("", None)]
        found.choices = [("", "---------"), *choices]
    label = capfirst(field.verbose_name)
    says_it = field.verbose_name == field.name.replace("_", " ")
    found.label = label if says_it else f"{label} ({field.name})"
    found.required = False
    if isinstance(found, forms.CharField):
        found.strip = False
    return found  # type: ignore[no-any-return]
