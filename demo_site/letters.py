"""Dead letters, for people to mend in the admin: writes that the database refuses."""

from __future__ import annotations

import logging
from typing import Any

from django.contrib.auth import get_user_model

from writebehind_app import Add
from writebehind_app.meta.models import LessonMeta, TicketMeta, UserProfile

_LATE = "late-learner"
_TICKET = 8  # one of those that the load leaves alone


def prepare() -> int:
    """Make them, once for the data of the demo. Returns how many."""
    users = get_user_model()._default_manager
    if users.filter(username=_LATE).exists():
        return 0
    logger = logging.getLogger("writebehind")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it says for each what the demo says once
    try:
        return _make(users)
    finally:
        logger.setLevel(level)


def _make(users: Any) -> int:
    late, gone = (users.create(username=name).pk for name in (_LATE, "gone"))
    users.filter(pk__in=[late, gone]).delete()
    # The account comes after the writes: a retry stores them.
    LessonMeta.buffered.of(lesson_id=1, user=late).update(position=95.5, notes="I was early")
    # The account is gone for good: to be discarded.
    UserProfile.buffered.set(user=gone, display_name="Gone")
    # The sum is greater than its column can hold: to be corrected.
    TicketMeta.buffered.set(ticket_id=_TICKET, customer_id=Add(2**63 - 1))
    buffers = (LessonMeta.buffered, UserProfile.buffered, TicketMeta.buffered)
    refused = sum(buffer.flush().dead_letters for buffer in buffers)
    users.create(pk=late, username=_LATE)
    return refused
