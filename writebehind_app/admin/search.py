"""Search for pending entries by the fields of their key."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from json.encoder import encode_basestring as json_string
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from writebehind_app.admin.pending import record_id
from writebehind_app.buffers.log import LogBuffer
from writebehind_app.database.divided import renew
from writebehind_app.declaration import Declaration, KeyedDeclaration
from writebehind_app.fields.columns import Column, encoded
from writebehind_app.store import listing
from writebehind_app.store.connection import client


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to search for. If both are empty, nothing is searched for."""

    id: str = ""  # the id of one entry
    beginning: str = ""  # the beginning of the ids of several entries


def columns(buffer: Declaration, hidden: Container[str]) -> list[Column]:
    """The fields that the user may search by: those of the key, up to the first hidden one.

    For a log, these are the unique fields.
    """
    if isinstance(buffer, LogBuffer):
        found = buffer.unique_columns()
        return found if all(map(_shown(hidden), found)) else []
    assert isinstance(buffer, KeyedDeclaration)
    return list(takewhile(_shown(hidden), buffer.key_layout().key))


def form(columns: Sequence[Column]) -> type[forms.Form]:
    """A form class that asks for the values of these fields, as texts."""
    fields = {
        column.name: forms.CharField(
            label=capfirst(column.field.verbose_name), required=False, strip=False
        )
        for column in columns
    }
    return type("KeyForm", (forms.Form,), fields)


def search(buffer: Declaration, columns: Sequence[Column], texts: Mapping[str, str]) -> Search:
    """The search for the texts that somebody typed.

    A whole key finds one entry. If the last text ends in *, or the last fields are left out, it
    finds all entries whose keys have this beginning. A ValidationError says which field is wrong.
    """
    given = [texts[column.name] for column in columns]
    count = sum(1 for _ in takewhile(bool, given))
    if any(given[count:]):
        raise ValidationError(
            {columns[count].name: _("Fill in this field too: a later one is filled in.")}
        )
    if not count:
        return Search()
    parts = []
    for column, text in zip(columns[: count - 1], given, strict=False):
        if text.endswith("*"):
            raise ValidationError(
                {column.name: _("Only the last field that you fill in may end in *.")}
            )
        parts.append(_exact(column, text))
    column, text = columns[count - 1], given[count - 1]
    is_begun = text.endswith("*")
    parts.append(_begun(column, text[:-1]) if is_begun else _exact(column, text))
    id = ",".join(parts)
    if isinstance(buffer, LogBuffer):
        if is_begun or count < len(columns):
            message = _("A record is found only by the exact values of all these fields.")
            raise ValidationError({column.name: message})
        return Search(id=_of_record(buffer, id))
    assert isinstance(buffer, KeyedDeclaration)
    if is_begun:
        return Search(beginning=id)
    if count < len(buffer.key_layout().key):
        return Search(beginning=f"{id},")
    return Search(id=id)


def _shown(hidden: Container[str]) -> Any:
    return lambda column: column.name not in hidden and column.attname not in hidden


def _exact(column: Column, text: str) -> str:
    try:
        value = _target(column).to_python(text)
    except ValidationError as error:
        raise ValidationError({column.name: error.messages}) from None
    return encoded(column, value)


def _begun(column: Column, text: str) -> str:
    """The beginning of a value, as it stands in an id."""
    if isinstance(_target(column), models.IntegerField):
        return text
    return json_string(text)[:-1]


def _target(column: Column) -> Any:
    field: Any = column.field
    while field.remote_field:
        field = field.target_field
    return field


def _of_record(buffer: LogBuffer, unique_id: str) -> str:
    """The id of the pending record with these unique values; "-" if there is none."""
    renew([buffer])
    key = buffer.shard_key_of(unique_id)
    number = listing.record_number(client(), key, unique_id)
    return "-" if number is None else record_id(buffer.shard_keys().index(key), number)
