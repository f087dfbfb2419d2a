"""What is pending in a buffer: a page of it, and one entry with what it would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from django import forms
from django.core import signing
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from writebehind_app.buffers import reading
from writebehind_app.buffers.base import Buffer, PendingEntry
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.buffers.columns import Column
from writebehind_app.buffers.meta import MetaBuffer
from writebehind_app.buffers.refusals import REFUSALS
from writebehind_app.store import listing, lua
from writebehind_app.store import shard as store
from writebehind_app.store.codec import Entry, understood
from writebehind_app.store.connection import client
from writebehind_app.store.listing import Listed, Place

PAGE = 50
_SALT = "writebehind.pending"

State = Literal["waiting", "due", "in_flight", "retrying"]

STATES = {
    "waiting": _("waiting"),
    "due": _("due"),
    "in_flight": _("in flight"),
    "retrying": _("retrying"),
}


class Filters(forms.Form):
    """Which entries of a buffer are listed, and in which order."""

    state = forms.ChoiceField(
        label=_("State"),
        required=False,
        choices=[
            ("", _("Pending")),
            ("waiting", _("Waiting")),
            ("due", _("Due")),
            ("in_flight", _("In flight")),
        ],
    )
    age = forms.ChoiceField(
        label=_("Waiting for"),
        required=False,
        choices=[
            ("", _("Any time")),
            ("10", _("10 seconds and more")),
            ("60", _("1 minute and more")),
            ("600", _("10 minutes and more")),
            ("3600", _("1 hour and more")),
            ("86400", _("1 day and more")),
        ],
    )
    order = forms.ChoiceField(
        label=_("Order"),
        required=False,
        choices=[("", _("Oldest first")), ("newest", _("Newest first"))],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An entry of a page."""

    id: str
    entry: PendingEntry
    state: State
    seconds: float  # since the first write
    error: str  # of its batch, the last time
    selectable: bool  # it has an id by which it can be flushed alone


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[Row]
    after: str  # where the next page begins, or ''


def page(buffer: Buffer, given: Mapping[str, Any], after: str = "") -> Page:
    """A page of the list that cleaned filters ask for."""
    connection, keys = client(), buffer.shard_keys()
    now = lua.now(connection)
    start = _place(after)
    since = now - int(given["age"] or 0) * 1_000_000
    if given["state"] == "in_flight":
        found = listing.in_flight(connection, keys, PAGE + 1, after=start)
    else:
        is_log = not buffer.layout().key
        # A record's place is when it came; that of others is that and max_age, or earlier.
        age = round(buffer.option("MAX_AGE") * 1e6)
        due = now - age if is_log else now
        oldest = (since if is_log else since + age) if given["age"] else None
        bounds = [bound for bound in (oldest, due if given["state"] == "due" else None) if bound]
        found = listing.pending(
            connection,
            keys,
            PAGE + 1,
            least=due + 1 if given["state"] == "waiting" else None,
            greatest=min(bounds, default=None),
            newest_first=given["order"] == "newest",
            after=start,
        )
    rows = [_row(buffer, each, now, in_flight=given["state"] == "in_flight") for each in found]
    shown = [
        row for row, each in zip(rows[:PAGE], found, strict=False) if each.entry.since <= since
    ]
    return Page(
        shown, signing.dumps(found[PAGE - 1].place, salt=_SALT) if len(found) > PAGE else ""
    )


def _place(after: str) -> Place | None:
    """Where a page begins. What nobody was given begins at the beginning."""
    try:
        return Place(*signing.loads(after, salt=_SALT)) if after else None
    except signing.BadSignature:
        return None


def _row(buffer: Buffer, listed: Listed, now: int, *, in_flight: bool) -> Row:
    entry = listed.entry
    described = buffer._describe(
        entry, listed.attempts if in_flight else 0, "in_flight" if in_flight else "pending"
    )
    due = listed.place.at
    if not entry.head:  # a record
        due += round(buffer.option("MAX_AGE") * 1e6)
    if in_flight:
        state: State = "retrying" if listed.attempts else "in_flight"
    else:
        state = "due" if due <= now else "waiting"
    return Row(
        id=entry.id,
        entry=described,
        state=state,
        seconds=max(now - entry.since, 0) / 1e6 if entry.since else 0.0,
        error=listed.error if in_flight else "",
        selectable=bool(entry.head) and not in_flight,
    )


# A key


def key_columns(buffer: Buffer) -> Sequence[Column]:
    """The fields that name an entry; none of a log's, which are found by their number."""
    return buffer.key_layout().key if isinstance(buffer, CoalescingBuffer) else ()


def key_form(buffer: Buffer) -> type[forms.Form]:
    """Asks for an exact key, as text."""
    fields = {
        column.name: forms.CharField(label=column.field.verbose_name, required=False)
        for column in key_columns(buffer)
    }
    return type("KeyForm", (forms.Form,), fields)


def id_of(buffer: Buffer, texts: Mapping[str, str]) -> str:
    """The id of a key as somebody typed it; a ValidationError that says which field is wrong."""
    layout = buffer.key_layout()  # type: ignore[attr-defined]
    key = {}
    for column in layout.key:
        field: Any = column.field
        while field.remote_field:
            field = field.target_field
        try:
            key[column.name] = field.to_python(texts[column.name])
        except ValidationError as error:
            raise ValidationError({column.name: error.messages}) from None
    id: str = layout.id(key)
    return id


# One entry


class _Absent:
    def __str__(self) -> str:
        return "—"


ABSENT = _Absent()  # in place of a value of what is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A field of a row, or a meta key of an entity."""

    name: str
    stored: Any = ABSENT
    pending: Sequence[Any] = ()  # what is in flight, then what waits
    result: Any = ABSENT
    changed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """What an entry would change."""

    key: dict[str, Any]
    entries: list[PendingEntry]  # the one in flight, then the pending one
    lines: list[Line]
    stored: bool  # something is stored
    left: bool  # something will be, after the flush


def detail(buffer: Buffer, id: str) -> Detail | None:
    """The entries of an id, or of the number of a record; None where there is none any more."""
    if isinstance(buffer, CoalescingBuffer):
        return _detail_of_id(buffer, id)
    return _detail_of_record(buffer, id)


def _detail_of_id(buffer: CoalescingBuffer, id: str) -> Detail | None:
    shard = buffer.shard_key_of(id)
    found = store.read(client(), {shard: [id]})[shard]
    entries = [buffer._describe(e, found.attempts, "in_flight") for e in found.in_flight.values()]
    entries += [buffer._describe(e, 0, "pending") for e in found.pending.values()]
    if not entries:
        return None
    if not _is_understood(buffer, id, [*found.in_flight.values(), *found.pending.values()]):
        lines = [Line(name=n, pending=[v]) for e in entries for n, v in e.values.items()]
        return Detail(key=entries[0].key, entries=entries, lines=lines, stored=False, left=False)
    stored = buffer.stored([id]).get(id)
    result = reading.rows(buffer, [id]).get(id)  # which may change the rows that it reads
    before, after = _values(buffer, stored), _values(buffer, result)
    names = list(dict.fromkeys([*before, *after, *(name for e in entries for name in e.values)]))
    return Detail(
        key=entries[0].key,
        entries=entries,
        lines=[
            Line(
                name=name,
                stored=before.get(name, ABSENT),
                pending=[e.values[name] for e in entries if name in e.values],
                result=after.get(name, ABSENT),
                changed=before.get(name, ABSENT) != after.get(name, ABSENT),
            )
            for name in names
        ],
        stored=stored is not None,
        left=result is not None,
    )


def _is_understood(buffer: CoalescingBuffer, id: str, entries: Sequence[Entry]) -> bool:
    """Whether the package may have written this: a flush will say what is wrong with the rest."""
    try:
        understood(entries, records=False)
        buffer.key_layout().key_of(id)
        for entry in entries:
            buffer.described(entry)
    except REFUSALS:
        return False
    return True


def _values(buffer: CoalescingBuffer, found: Any) -> dict[str, Any]:
    """The values of a row by the names of its fields, or of an entity by its meta keys."""
    if found is None:
        return {}
    if isinstance(buffer, MetaBuffer):
        return buffer.entity_layout().values(found)
    return {c.name: getattr(found, c.attname) for c in buffer.layout().columns.values()}


def _detail_of_record(buffer: Buffer, id: str) -> Detail | None:
    if not (id.isascii() and id.isdigit() and len(id) < 19):
        return None
    found = listing.record(client(), buffer.shard_keys(), int(id))
    if found is None:
        return None
    is_flying, listed = found
    described = buffer._describe(
        listed.entry, listed.attempts if is_flying else 0, "in_flight" if is_flying else "pending"
    )
    lines = [
        Line(name=name, pending=[value], result=value, changed=True)
        for name, value in described.values.items()
    ]
    return Detail(key=described.key, entries=[described], lines=lines, stored=False, left=True)
