"""Functions that an application calls instead of the ORM. Writes go through the buffers of the
models, and reads show every accepted write, flushed or not.

While Redis is away, calls go straight to the database; with `WHEN_DOWN="raise"` they raise
`BufferUnavailable`. A write that may not be repeated raises `WriteUncertain` if nobody knows
whether Redis took it. Of writes with the same text as `once`, one is carried out. The
`ValidationError` of a refused value and the `FieldError` of an unknown field say what is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, models, router
from django.utils import timezone

from writebehind_app import MetaBuffer, RowBuffer
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.database.transactions import check_outside_transaction
from writebehind_app.exceptions import BufferUnavailable
from writebehind_app.fields.operations import Operation
from writebehind_app.meta.models import (
    RESOLVED,
    AppointmentMeta,
    EventRegistration,
    LessonMeta,
    PostMeta,
    TicketMeta,
    UserProfile,
)

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser


PAGE = 50  # rows of a list, where nobody says how many


def _flush(buffer: RowBuffer | MetaBuffer, **key: Any) -> None:
    if buffer.flush(**key).dead_letters:
        raise IntegrityError("The database refused what was pending: it is a dead letter now.")


# Posts


def save_post_meta(
    post_id: int, /, *parts: Mapping[str, Any], once: str | None = None, **values: Any
) -> Receipt:
    """Set metadata of a post in one step: values, or operations on what is there. A value may be
    any JSON.

    Give keys that cannot be names in Python in a mapping.
    """
    joined = {key: value for part in (*parts, values) for key, value in part.items()}
    return PostMeta.buffered.of(post_id=post_id).update(joined, once=once)


def post_meta(post_id: int) -> dict[str, Any]:
    """Return all metadata of a post, by key; {} if it has none."""
    return dict(PostMeta.buffered.of(post_id=post_id).items())


def delete_post_meta(post_id: int, *keys: str) -> None:
    """Delete these keys of a post, or all. A key that is not there is no error."""
    meta = PostMeta.buffered.of(post_id=post_id)
    if not keys:
        meta.clear()
    for key in keys:
        meta.pop(key, None)


# Lessons


def record_progress(
    lesson_id: int,
    user: AbstractBaseUser,
    /,
    *steps: Mapping[str, Any],
    once: str | None = None,
    **values: Any,
) -> Receipt:
    """Note how far a user is with a lesson: values, or operations on what is there, as
    `seconds=Add(15), position=Max(120.5)`. A value may be any JSON.

    Give keys that cannot be names in Python in a mapping. Several mappings are all checked, then
    written one after the other; the receipt is that of the last. If a sum leaves 64 bits, the key
    becomes a dead letter at the flush; while Redis is away, a `ValidationError`: nothing is stored.
    """
    entity = {"lesson_id": lesson_id, "user": user}
    written = [*steps, values] if values or not steps else steps
    return LessonMeta.buffered.update_many([(entity, step) for step in written], once=once)[-1]


def progress(lesson_id: int, user: AbstractBaseUser) -> dict[str, Any]:
    """Return how far a user is with a lesson, by key; {} if the user has not begun."""
    return dict(LessonMeta.buffered.of(lesson_id=lesson_id, user=user).items())


def finalize_lesson(lesson_id: int, user: AbstractBaseUser) -> dict[str, Any]:
    """Flush what is pending of a user and a lesson, and return what is stored then.

    An error of the database is raised. Then what was pending is flushed later; after an
    `IntegrityError` it is a dead letter. Like every flush, this must be outside of
    `transaction.atomic()`. While Redis is away, nothing is flushed; `WHEN_DOWN="raise"` raises.
    """
    buffer = LessonMeta.buffered
    try:
        _flush(buffer, lesson_id=lesson_id, user=user)
    except BufferUnavailable:
        if buffer.option("WHEN_DOWN") != "direct":
            raise
    stored = LessonMeta.objects.using(router.db_for_write(LessonMeta))
    rows = stored.filter(lesson_id=lesson_id, user_id=user.pk)
    return dict(rows.values_list("meta_key", "meta_value"))


# Events


def register(
    event_id: int,
    email: str,
    *,
    name: str = "",
    details: Mapping[str, Any] | None = None,
    once: str | None = None,
) -> Receipt:
    """Register an address for an event. `AlreadyExists` if it is registered for it, pending or
    stored, in upper or lower case. `ValidationError` if it is no address."""
    return EventRegistration.buffered.append(
        event_id=event_id,
        email=email,
        name=name,
        details={} if details is None else details,
        once=once,
    )


def registrations_between(
    event_id: int, since: datetime | None = None, until: datetime | None = None
) -> list[EventRegistration]:
    """Return the registrations for an event with `since <= time < until`, in their order. None is
    no bound."""
    return EventRegistration.buffered.window(since, until, event_id=event_id)


def registrations(
    event_id: int,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    limit: int = PAGE,
) -> tuple[list[EventRegistration], datetime | None]:
    """Return the first `limit` registrations of `registrations_between()`, and the `since` of those
    that follow; None if none follow.

    A page ends between two times: it has more than `limit` if all of them have the same time.
    """
    stored = EventRegistration.objects.using(router.db_for_write(EventRegistration))
    stored = stored.filter(event_id=event_id).order_by("registered_at")
    if since is not None:
        stored = stored.filter(registered_at__gte=since)
    if until is not None:
        stored = stored.filter(registered_at__lt=until)
    times = stored.values_list("registered_at", flat=True)
    first, end = [*times[: limit + 1 : limit], None, None][:2]
    if end is not None and end == first:
        end = times.filter(registered_at__gt=first).first()
    # As far as a page of stored rows goes. What is pending may be among these, and make it longer.
    found = registrations_between(event_id, since, end or until)
    if len(found) > limit:
        cut = found[limit].registered_at
        if cut == found[0].registered_at:
            cut += timedelta(microseconds=1)
        rest = [row.registered_at for row in found if row.registered_at >= cut]
        found = [row for row in found if row.registered_at < cut]
        end = rest[0] if rest else end
    return found, end


# Tickets


def open_ticket(ticket_id: int, **values: Any) -> Receipt:
    """Write a new ticket. `AlreadyExists` if there is one, pending or stored."""
    return TicketMeta.buffered.create(ticket_id=ticket_id, **values)


def update_ticket(ticket_id: int, **values: Any) -> None:
    """Change fields of a ticket: values, or operations on what is there.

    `TicketMeta.DoesNotExist` if there is no such ticket; none is made.
    """
    if not TicketMeta.buffered.set_if({}, ticket_id=ticket_id, **values):
        raise TicketMeta.DoesNotExist(f"There is no ticket {ticket_id}.")


def resolve_ticket(ticket_id: int, **values: Any) -> TicketMeta:
    """Resolve a ticket, with other changes if any are given, flush it, and return it as stored.

    `TicketMeta.DoesNotExist` if there is no such ticket. An error of the database is raised. The
    write is accepted then, and flushed later; after an `IntegrityError` it is a dead letter. It is
    also flushed later after a `BufferUnavailable`, if Redis went away in between. Like every flush,
    this must be outside of `transaction.atomic()`.
    """
    using = router.db_for_write(TicketMeta)
    check_outside_transaction(using)  # before anything is written
    values["status"] = RESOLVED
    update_ticket(ticket_id, **values)
    stored = TicketMeta.objects.using(using).filter(ticket_id=ticket_id)
    try:
        _flush(TicketMeta.buffered, ticket_id=ticket_id)
    except BufferUnavailable:  # the write has gone straight to the database, or it is pending
        found = stored.first()
        if found is None or not _shows(found, values):
            raise
        return found
    return stored.get()


def _shows(row: TicketMeta, written: Mapping[str, Any]) -> bool:
    """Return whether a row has the values of a write. Operations are not compared."""
    plain = {
        name: value
        for name, value in written.items()
        if name != "once" and not isinstance(value, Operation)
    }
    layout = TicketMeta.buffered.layout()
    return layout.is_as_expected(row, layout.expected(plain))


def ticket(ticket_id: int) -> TicketMeta:
    """Return a ticket with all its writes. `TicketMeta.DoesNotExist` if there is none."""
    found: TicketMeta = TicketMeta.buffered.get(ticket_id=ticket_id)
    return found


def tickets(after: int | None = None, *, limit: int = PAGE) -> tuple[list[TicketMeta], int | None]:
    """Return the first `limit` stored tickets, or those that follow the ticket `after`, with all
    their writes; and the last one's number, after which the others come, None if there are none.
    A ticket that is not stored yet is not among them."""
    return _page(TicketMeta.buffered, TicketMeta, "ticket_id", after, limit)


def _page(
    buffer: RowBuffer, model: type[models.Model], key: str, after: int | None, limit: int
) -> tuple[list[Any], int | None]:
    stored = model._default_manager.using(router.db_for_write(model)).order_by(key)
    if after is not None:
        stored = stored.filter(**{f"{key}__gt": after})
    keys = list(stored.values_list(key, flat=True)[: limit + 1])
    rows = buffer.get_many(keys[:limit])  # not those that a pending write deletes
    return list(rows.values()), keys[limit - 1] if len(keys) > limit else None


# Appointments


def schedule(
    appointment_id: int,
    *,
    starts_at: datetime | None = None,
    patient_id: int | None = None,
    status: str = "scheduled",
    extra: Mapping[str, Any] | None = None,
    expires_at: datetime | None = None,
    once: str | None = None,
) -> Receipt:
    """Schedule an appointment, also one that is there already: it then has only what is given here.
    From `expires_at` on it does not exist any more."""
    return AppointmentMeta.buffered.set(
        appointment_id=appointment_id,
        starts_at=starts_at,
        patient_id=patient_id,
        status=status,
        status_at=timezone.now(),
        extra={} if extra is None else extra,
        expires_at=expires_at,
        once=once,
    )


def update_status(
    appointment_id: int, status: str, *, expected: str | None = None, once: str | None = None
) -> bool:
    """Change the status, and its time, of an appointment that is there, has not expired, and has
    the `expected` status, if given. No write comes in between. Return whether it was changed."""
    return AppointmentMeta.buffered.set_if(
        lambda row: not _has_expired(row) and expected in (None, row.status),
        appointment_id=appointment_id,
        status=status,
        status_at=timezone.now(),
        once=once,
    )


def appointment(appointment_id: int) -> AppointmentMeta:
    """Return an appointment with all its writes. `AppointmentMeta.DoesNotExist` if there is none,
    or it has expired."""
    found: AppointmentMeta = AppointmentMeta.buffered.get(appointment_id=appointment_id)
    if _has_expired(found):
        raise AppointmentMeta.DoesNotExist(f"The appointment {appointment_id} has expired.")
    return found


def appointments(
    after: int | None = None, *, limit: int = PAGE
) -> tuple[list[AppointmentMeta], int | None]:
    """Do the same as `tickets()` for appointments. Those that have expired are left out: a page may
    have fewer than `limit`."""
    found, end = _page(AppointmentMeta.buffered, AppointmentMeta, "appointment_id", after, limit)
    return [row for row in found if not _has_expired(row)], end


def _has_expired(row: AppointmentMeta) -> bool:
    return row.expires_at is not None and row.expires_at <= timezone.now()


# Profiles


def update_profile(user: AbstractBaseUser, **values: Any) -> Receipt:
    """Change fields of the profile of a user. It is made if it is not there."""
    return UserProfile.buffered.set(user=user, **values)


def profile(user: AbstractBaseUser) -> UserProfile:
    """Return the profile of a user with all its writes; an empty, unsaved one if there is none
    yet."""
    try:
        found: UserProfile = UserProfile.buffered.get(user=user)
    except UserProfile.DoesNotExist:
        return UserProfile(user_id=user.pk)
    return found
