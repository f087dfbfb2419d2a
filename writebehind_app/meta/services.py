"""What an application calls instead of the ORM: writes go through the buffers of the models, and
reads show every accepted write, flushed or not.

While Redis is away they go straight to the database, or, with `WHEN_DOWN="raise"`, raise
`BufferUnavailable`; `WriteUncertain` where nobody knows whether Redis took a write that cannot
simply be repeated. Of writes with the same text as `once`, one is carried out. `ValidationError`
for a value that its field refuses, and `FieldError` for a field that is not there, name what would
be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, router
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


def _flush(buffer: RowBuffer | MetaBuffer, **key: Any) -> None:
    if buffer.flush(**key).dead_letters:
        raise IntegrityError("The database refused what was pending: it is a dead letter now.")


# Posts


def save_post_meta(
    post_id: int, /, *parts: Mapping[str, Any], once: str | None = None, **values: Any
) -> Receipt:
    """Set metadata of a post in one step: values, or operations on what is there. A value may be
    all that JSON has.

    A mapping takes keys that cannot be names in Python.
    """
    joined = {key: value for part in (*parts, values) for key, value in part.items()}
    return PostMeta.buffered.of(post_id=post_id).update(joined, once=once)


def post_meta(post_id: int) -> dict[str, Any]:
    """All metadata of a post, by key; empty for one that has none."""
    return dict(PostMeta.buffered.of(post_id=post_id).items())


def delete_post_meta(post_id: int, *keys: str) -> None:
    """Delete these keys of a post, or all there are. A key that is not there is no error."""
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
    `seconds=Add(15), position=Max(120.5)`. A value may be all that JSON has.

    A mapping takes keys that cannot be names in Python; several are written one after the other,
    after all were checked. The receipt is that of the last. A step whose sum leaves its range is
    not taken; the others are, and the `ValidationError` says how many. While Redis is away none of
    the call is.
    """
    entity = {"lesson_id": lesson_id, "user": user}
    written = [*steps, values] if values or not steps else steps
    return LessonMeta.buffered.update_many([(entity, step) for step in written], once=once)[-1]


def progress(lesson_id: int, user: AbstractBaseUser) -> dict[str, Any]:
    """How far a user is with a lesson, by key; empty for one who has not begun."""
    return dict(LessonMeta.buffered.of(lesson_id=lesson_id, user=user).items())


def finalize_lesson(lesson_id: int, user: AbstractBaseUser) -> dict[str, Any]:
    """What is stored of a user and a lesson, after what was pending of it was flushed.

    What the database raises comes out of it; what was pending is flushed later then, or is a dead
    letter after an `IntegrityError`. As every flush it has to be outside of `transaction.atomic()`.
    While Redis is away nothing is flushed; with `WHEN_DOWN="raise"` that raises.
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
    """A registration for an event. `AlreadyExists` where this address is registered for it, pending
    or stored, in upper or lower case; `ValidationError` for what is no address."""
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
    """The registrations for an event from one time up to, and without, the other, in their order;
    None for no bound."""
    return EventRegistration.buffered.window(since, until, event_id=event_id)


# Tickets


def open_ticket(ticket_id: int, **values: Any) -> Receipt:
    """A new ticket. `AlreadyExists` where there is one, pending or stored."""
    return TicketMeta.buffered.create(ticket_id=ticket_id, **values)


def update_ticket(ticket_id: int, **values: Any) -> None:
    """Change fields of a ticket: values, or operations on what is there.

    `TicketMeta.DoesNotExist` where there is no such ticket; no write makes one.
    """
    if not TicketMeta.buffered.set_if({}, ticket_id=ticket_id, **values):
        raise TicketMeta.DoesNotExist(f"There is no ticket {ticket_id}.")


def resolve_ticket(ticket_id: int, **values: Any) -> TicketMeta:
    """The ticket as it is stored, after it was resolved, with other changes if there are any, and
    flushed.

    `TicketMeta.DoesNotExist` where there is no such ticket. What the database raises comes out of
    it; the write is accepted then, and flushed later, or a dead letter after an `IntegrityError`;
    flushed later, too, after a `BufferUnavailable` of a Redis that went away in between.
    As every flush it has to be outside of `transaction.atomic()`.
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
    """Whether a row has the values of a write; what an operation came to is not known."""
    plain = {
        name: value
        for name, value in written.items()
        if name != "once" and not isinstance(value, Operation)
    }
    layout = TicketMeta.buffered.layout()
    return layout.is_as_expected(row, layout.expected(plain))


def ticket(ticket_id: int) -> TicketMeta:
    """The ticket with all its writes. `TicketMeta.DoesNotExist` where there is none."""
    found: TicketMeta = TicketMeta.buffered.get(ticket_id=ticket_id)
    return found


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
    """An appointment; one that is there already is scheduled anew, with all that is given here and
    nothing else. From `expires_at` on it is not there any more."""
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
    """Whether the status was changed, with its time: only of an appointment that is there, has not
    expired, and has the expected status, if one is given. Nobody's write comes in between."""
    return AppointmentMeta.buffered.set_if(
        lambda row: not _has_expired(row) and expected in (None, row.status),
        appointment_id=appointment_id,
        status=status,
        status_at=timezone.now(),
        once=once,
    )


def appointment(appointment_id: int) -> AppointmentMeta:
    """The appointment with all its writes. `AppointmentMeta.DoesNotExist` where there is none, or
    it has expired."""
    found: AppointmentMeta = AppointmentMeta.buffered.get(appointment_id=appointment_id)
    if _has_expired(found):
        raise AppointmentMeta.DoesNotExist(f"The appointment {appointment_id} has expired.")
    return found


def _has_expired(row: AppointmentMeta) -> bool:
    return row.expires_at is not None and row.expires_at <= timezone.now()


# Profiles


def update_profile(user: AbstractBaseUser, **values: Any) -> Receipt:
    """Change fields of the profile of a user, which comes to be if it is not there."""
    return UserProfile.buffered.set(user=user, **values)


def profile(user: AbstractBaseUser) -> UserProfile:
    """The profile of a user with all its writes; an empty one, which is not saved, for a user who
    has none yet."""
    try:
        found: UserProfile = UserProfile.buffered.get(user=user)
    except UserProfile.DoesNotExist:
        return UserProfile(user_id=user.pk)
    return found
