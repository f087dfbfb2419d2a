"""Read pending entries for the admin: a page of a list, and what one entry would change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from django import forms
from django.core import signing
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_lazy as _

from writebehind_app.buffers import reading
from writebehind_app.buffers.base import Buffer, PendingEntry
from writebehind_app.buffers.coalescing import CoalescingBuffer
from writebehind_app.buffers.meta import MetaBuffer
from writebehind_app.database import divided
from writebehind_app.database.divided import renew
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.limits import REFUSALS
from writebehind_app.store import listing, lua
from writebehind_app.store.codec import understood
from writebehind_app.store.connection import client
from writebehind_app.store.listing import Listed, Place
from writebehind_app.store.reads import Reading

PAGE = 50
_ROUNDS = 3  # round trips in which a page looks for entries that match its filters
_RECORD = re.compile(r"([0-9]{1,18})-([0-9]{1,4})")
_SALT = "writebehind.pending"

State = Literal["waiting", "due", "in_flight", "retrying"]

STATES = {
    "waiting": _("waiting"),
    "due": _("due"),
    "in_flight": _("in flight"),
    "retrying": _("retrying"),
}


class Filters(forms.Form):
    """The form that chooses which entries are listed, and their order."""

    state = forms.ChoiceField(
        label=_("State"),
        required=False,
        choices=[
            ("", _("Pending")),
            ("waiting", _("Waiting")),
            ("due", _("Due")),
            ("in_flight", _("In flight")),
            ("retrying", _("Retrying")),
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
    """An entry on a page of the list."""

    id: str
    entry: PendingEntry
    state: State
    seconds: float  # since its first write
    error: str  # the last error of its batch
    is_free: bool  # whether it is not in flight


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    rows: list[Row]
    after: str  # the place after which the next page begins, signed; "" for none
    is_cut: bool  # the page is not full because the search gave up, and not at the end


def page(buffer: Buffer, given: Mapping[str, Any], after: str = "", beginning: str = "") -> Page:
    """A page of the entries that match the cleaned filters and whose ids have this beginning."""
    renew([buffer])
    connection, keys = client(), buffer.shard_keys()
    now = lua.now(connection, keys[0])
    since = now - int(given["age"] or 0) * 1_000_000
    is_flying = given["state"] in ("in_flight", "retrying")

    is_log = buffer.is_log

    def read(start: Place | None) -> listing.Page:
        if is_flying:
            failed = given["state"] == "retrying"
            return listing.in_flight(
                connection,
                keys,
                PAGE + 1,
                is_log=is_log,
                after=start,
                beginning=beginning,
                failed=failed,
            )
        # The place of a record is its time. The place of another entry is the time at which it is
        # due: at most max_age after its first write.
        age = round(buffer.option("MAX_AGE") * 1e6)
        due = now - age if is_log else now
        oldest = (since if is_log else since + age) if given["age"] else None
        bounds = [bound for bound in (oldest, due if given["state"] == "due" else None) if bound]
        return listing.pending(
            connection,
            keys,
            PAGE + 1,
            is_log=is_log,
            least=due + 1 if given["state"] == "waiting" else None,
            greatest=min(bounds, default=None),
            newest_first=given["order"] == "newest",
            after=start,
            beginning=beginning,
        )

    rows: list[Listed] = []
    place = _place(after, keys, is_keyed=not is_flying and bool(buffer.layout().key))
    for _round in range(_ROUNDS):
        found = read(place)
        rows += [each for each in found.rows if each.entry.since <= since]
        place = found.rows[-1].place if len(found.rows) > PAGE else found.stopped
        if place is None or len(rows) > PAGE:
            break
    end = rows[PAGE - 1].place if len(rows) > PAGE else place
    return Page(
        rows=[_row(buffer, each, now, in_flight=is_flying) for each in rows[:PAGE]],
        after=signing.dumps([end.at, end.shard, _alias(end.id)], salt=_SALT) if end else "",
        is_cut=end is not None and len(rows) <= PAGE,
    )


def _place(after: str, keys: Sequence[str], *, is_keyed: bool) -> Place | None:
    """The place in a signed address; None, and so the first page, if the signature is wrong."""
    try:
        at, shard, alias = signing.loads(after, salt=_SALT)
    except (signing.BadSignature, ValueError):
        return None
    if not is_keyed:  # then the place needs no id
        return Place(at, shard, alias)
    ids = listing.ids_at(client(), keys[shard], at) if shard < len(keys) else []
    return Place(at, shard, next((id for id in ids if _alias(id) == alias), ""))


def _alias(id: str) -> str:
    """A digest that stands for an id in an address: an id may contain sensitive values."""
    return salted_hmac(_SALT, id, algorithm="sha256").hexdigest()[:16]


def _row(buffer: Buffer, listed: Listed, now: int, *, in_flight: bool) -> Row:
    entry = listed.entry
    due = listed.place.at
    if buffer.is_log:
        due += round(buffer.option("MAX_AGE") * 1e6)
    if in_flight:
        state: State = "retrying" if listed.attempts else "in_flight"
    else:
        state = "due" if due <= now else "waiting"
    return Row(
        id=record_id(listed.place.shard, entry.since) if buffer.is_log else entry.id,
        entry=_described(buffer, listed, in_flight=in_flight),
        state=state,
        seconds=max(now - entry.since, 0) / 1e6 if entry.since else 0.0,
        error=listed.error if in_flight else "",
        is_free=not in_flight,
    )


def _described(buffer: Buffer, listed: Listed, *, in_flight: bool) -> PendingEntry:
    attempts = listed.attempts if in_flight else 0
    return buffer._describe(listed.entry, attempts, "in_flight" if in_flight else "pending")


# A record has no id in Redis. In the admin, its number and its shard are its id.


def record_id(shard: int, number: int) -> str:
    return f"{number}-{shard}"


def place_of_record(buffer: Buffer, id: str) -> tuple[int, int] | None:
    """The shard and the number of a record; None if this is not the id of a record."""
    found = _RECORD.fullmatch(id)
    if found is None or int(found[2]) >= len(buffer.shard_keys()):
        return None
    return int(found[2]), int(found[1])


# One entry


class _Absent:
    def __str__(self) -> str:
        return "—"


ABSENT = _Absent()  # stands for the value of a field in a row that does not exist


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A field of a row, or a meta key of an entity."""

    name: str
    stored: Any = ABSENT
    pending: Sequence[Any] = ()  # the value in flight, then the pending one
    result: Any = ABSENT
    changed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """What the entries of one id would change."""

    key: dict[str, Any]
    entries: list[PendingEntry]  # the one in flight, then the pending one
    lines: list[Line]
    stored: bool  # whether there is a stored row now
    left: bool  # whether there will be one after the flush


def detail(buffer: Buffer, id: str) -> Detail | None:
    """What the entries of an id, or of a record, would change; None if there are none any more."""
    if isinstance(buffer, CoalescingBuffer):
        return _detail_of_id(buffer, id)
    return _detail_of_record(buffer, id)


def entries_of(buffer: Buffer, ids: Sequence[str]) -> list[PendingEntry]:
    """The entries of these ids, in flight and pending."""
    if isinstance(buffer, CoalescingBuffer):
        readings = divided.read(buffer, ids)
        return [entry for id in ids for entry in _read(buffer, id, readings[id])]
    places = [place for id in ids if (place := place_of_record(buffer, id))]
    found = listing.records(client(), buffer.shard_keys(), places)
    return [_described(buffer, each, in_flight=is_flying) for is_flying, each in found]


def _read(buffer: CoalescingBuffer, id: str, reading: Reading) -> list[PendingEntry]:
    found = []
    if id in reading.in_flight:
        found.append(buffer._describe(reading.in_flight[id], reading.attempts, "in_flight"))
    if id in reading.pending:
        found.append(buffer._describe(reading.pending[id], 0, "pending"))
    return found


def _detail_of_id(buffer: CoalescingBuffer, id: str) -> Detail | None:
    found = divided.read(buffer, [id])[id]
    entries = _read(buffer, id, found)
    if not entries:
        return None
    if not _is_understood(buffer, id, [*found.in_flight.values(), *found.pending.values()]):
        lines = [Line(name=n, pending=[v]) for e in entries for n, v in e.values.items()]
        return Detail(key=entries[0].key, entries=entries, lines=lines, stored=False, left=False)
    stored = buffer.stored([id]).get(id)
    result = reading.rows(buffer, [id]).get(id)  # a second read: this one may change its rows
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
    """Whether all these entries can be read. If not, a flush makes a dead letter that says why."""
    try:
        understood(entries)
        buffer.key_layout().key_of(id)
        for entry in entries:
            buffer.description(entry)
    except REFUSALS:
        return False
    return True


def _values(buffer: CoalescingBuffer, found: Any) -> dict[str, Any]:
    """The values of a row by field name, or of an entity by meta key."""
    if found is None:
        return {}
    if isinstance(buffer, MetaBuffer):
        return buffer.entity_layout().values(found)
    return {c.name: getattr(found, c.attname) for c in buffer.layout().columns.values()}


def _detail_of_record(buffer: Buffer, id: str) -> Detail | None:
    found = entries_of(buffer, [id])
    if not found:
        return None
    (described,) = found
    lines = [
        Line(name=name, pending=[value], result=value, changed=True)
        for name, value in described.values.items()
    ]
    return Detail(key=described.key, entries=[described], lines=lines, stored=False, left=True)
