"""Read dead letters: the entry in a letter, and its key and values today."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha1
from typing import Any

from django.conf import settings
from django.core.exceptions import FieldError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections, models
from django.utils import timezone

from writebehind_app import registry
from writebehind_app.database.failures import kind, storable
from writebehind_app.database.statements import too_large
from writebehind_app.declaration import Declaration
from writebehind_app.exceptions import NewerVersion
from writebehind_app.fields.entry import Entry, dumped, loaded
from writebehind_app.fields.fold import described as described_entry
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.fields.stamps import moment
from writebehind_app.fields.versions import current
from writebehind_app.models import DeadLetter


class UnreadableLetter(FieldError):
    """The letter holds no entry, or the entry of a newer release."""


def letters_of(buffer: Declaration) -> models.QuerySet[DeadLetter]:
    """The dead letters of a buffer, in the database of its rows."""
    return DeadLetter.objects.using(buffer.layout().using).filter(buffer=buffer.label)


def entry_in(letter: DeadLetter) -> Entry:
    """The refused entry, without what was overwritten since. Raises `UnreadableLetter`."""
    try:
        return loaded(letter.entry)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnreadableLetter(f"The letter cannot be read: {type(error).__name__}.") from error


def readable(letter: DeadLetter) -> Entry | None:
    """The refused entry, as `entry_in` returns it; None if the letter cannot be read."""
    try:
        return entry_in(letter)
    except UnreadableLetter:
        return None


def refused_deletions(buffer: Declaration, ids: Iterable[str]) -> set[str]:
    """Those of these ids whose deletion the database refused: a dead letter has it."""
    digests = [digest(buffer.entry_id(id)) for id in ids]
    entries = map(readable, letters_of(buffer).filter(digest__in=digests))
    return {entry.id for entry in entries if entry and entry.deleted and not entry.exists}


def text_of(buffer: Declaration, entry: Entry) -> str:
    """An entry as the text of a letter.

    This is ASCII, which each database stores: what it refuses may be the characters. A text that is
    long for MariaDB or MySQL has its characters as they are: ASCII takes up to seven bytes of each.
    """
    text = dumped(entry)
    if too_large(connections[buffer.layout().using], [text], share=2):
        short = dumped(entry, ensure_ascii=False)
        text = short if storable(short) == short else text
    return text


def as_now(buffer: Declaration, entry: Entry) -> Entry:
    """The entry after `upgrade()`; unchanged if that fails, or makes other rows of it."""
    if entry.version != buffer.version or entry.older:
        try:
            rows = buffer.row_entries(current(buffer, [buffer.whole(entry)]))
        except Exception as error:
            if kind(error) != "row" and not isinstance(error, NewerVersion):
                raise
            return entry
        if [row.id for row in rows] == [entry.id]:
            return rows[0]
    return entry


def described(letter: DeadLetter) -> dict[str, Any]:
    """A letter as a mapping, for people and for JSON."""
    entry = readable(letter)
    key: Any = entry.id if entry else ""
    values: Any = entry.texts() if entry else {"entry": letter.entry}
    buffer = registry.buffers().get(letter.buffer)
    if buffer is not None and entry is not None:
        key, values = key_and_values(buffer, entry) or (key, values)
    return {
        "id": letter.pk,
        "buffer": letter.buffer,
        "key": key,
        "values": values,
        "delete": entry is not None and entry.deleted > 0,
        "superseded": letter.superseded,
        "error": letter.error,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "first_seen": letter.first_seen,
        "last_seen": letter.last_seen,
    }


def key_and_values(
    buffer: Declaration, entry: Entry
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The key and the values of an entry; None if they cannot be read."""
    layout = buffer.layout()
    try:
        key, values = layout.key_of(entry.id), described_entry(layout, entry)
    except Exception as error:  # the model may have changed
        if kind(error) != "row":
            raise
        return None
    if layout.time is None:
        return key, values
    # A record has no key: its unique values stand in for it, or its time. A record without a time
    # has the time of its append.
    at = moment(entry.since) if settings.USE_TZ else timezone.make_naive(moment(entry.since))
    values.setdefault(layout.time, at)
    with suppress(*REFUSALS):
        key, _ = buffer.described(entry)
    return key or {layout.time: values[layout.time]}, values


class Encoder(DjangoJSONEncoder):
    """Writes operations and other values that JSON does not know as their repr()."""

    def default(self, value: Any) -> Any:
        try:
            return super().default(value)
        except TypeError:
            return repr(value)


def digest(id: str) -> str:
    return sha1(id.encode(errors="backslashreplace"), usedforsecurity=False).hexdigest()
