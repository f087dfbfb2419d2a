"""Buffers and keys in the words of their models, for titles and lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.html import format_html
from django.utils.text import capfirst

from writebehind_app import registry
from writebehind_app.admin.display import display
from writebehind_app.declaration import Declaration


def plural(buffer: Declaration) -> str:
    """The name of the rows of a buffer, as "Tickets"."""
    return str(capfirst(buffer.model._meta.verbose_name_plural))


def named(label: str) -> str:
    """HTML: the name of the rows of a buffer, and its label as a tooltip. The label alone if there
    is no such buffer any more."""
    buffer = registry.buffers().get(label)
    if buffer is None:
        return label
    return format_html('<span title="{}">{}</span>', label, plural(buffer))


def title(buffer: Declaration, key: Mapping[str, Any]) -> str:
    """The name of one entry, as "Lesson metadata: lesson 3, user 7" or "Ticket 5"."""
    name = str(buffer.model._meta.verbose_name)
    words = ", ".join(f"{_word(buffer, part)} {display(key[part], 80)}" for part in key)
    if words and not words.startswith(f"{name} "):
        words = f"{name}: {words}"
    return str(capfirst(words or name))


def _word(buffer: Declaration, name: str) -> str:
    for field in buffer.model._meta.fields:
        if name in (field.name, field.attname):
            return str(field.verbose_name)
    return name
