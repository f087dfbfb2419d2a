"""Whatever is sent, no endpoint fails, and what it accepts can be stored as it is."""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import User
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from writebehind_app.meta import services
from writebehind_app.meta.models import (
    AppointmentMeta,
    EventRegistration,
    LessonMeta,
    TicketMeta,
    UserProfile,
)

# Each with the names it knows, and a body that it accepts.
SYSTEMS = {
    "lessons/7/progress/": (
        "POST",
        LessonMeta,
        ["a", "A", "@", "&a:", ""],
        {"a": 1},
    ),
    "events/9/registrations/": (
        "POST",
        EventRegistration,
        ["email", "name", "details"],
        {"email": "a@b.org"},
    ),
    "tickets/5/": (
        "PATCH",
        TicketMeta,
        ["customer_id", "status", "subject", "extra"],
        {"subject": "a"},
    ),
    "appointments/3/": (
        "PATCH",
        AppointmentMeta,
        ["status", "expected"],
        {"status": "confirmed"},
    ),
    "profile/": (
        "PATCH",
        UserProfile,
        ["display_name", "bio", "locale", "preferences"],
        {"display_name": "a"},
    ),
}

texts = st.text(st.characters(codec=None), max_size=25) | st.sampled_from(
    ["open", "resolved", "a@b.org", "A@b.org ", "\0", "\\", '"', "$add", "null", "-0", "1e5"]
)
numbers = (
    st.integers(-(2**70), 2**70)
    | st.integers(-3, 3)
    | st.sampled_from([2**63 - 1, -(2**63), 2**63, 10**400])
    | st.floats()
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
operations = st.builds(
    lambda name, operand: {name: operand},
    st.sampled_from(["$add", "$max", "$min", "$merge", "$other"]),
    numbers | values,
)


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize("path", SYSTEMS)
def test_is_answered_and_can_be_stored(database, redis_server, user, api, path):
    User.objects.update(is_superuser=True)
    method, model, names, accepted = SYSTEMS[path]
    services.open_ticket(5)
    services.schedule(3)
    statuses = set()
    known = st.sampled_from(names)
    objects = st.dictionaries(known, texts | values | operations, min_size=1, max_size=2)
    odd_objects = st.dictionaries(known | texts, values | operations, max_size=3)
    # Most bodies are refused for one of their values, so some have no more than one odd one.
    nearly_accepted = objects.map(lambda odd: {**accepted, **dict([*odd.items()][:1])})

    @hypothesis_settings(max_examples=100)
    @example(accepted)
    @example(None)
    @given(nearly_accepted | objects | odd_objects | st.lists(objects, max_size=3) | values)
    def send(body):
        response = api(method, path, json.dumps(body).encode())
        statuses.add(response.status_code)
        assert "error" in response.json() or response.status_code in (200, 201, 202)
        if response.status_code < 300:
            pending = shown(api, path)
            model.buffered.flush()  # raises what the database refuses
            assert shown(api, path) == pending

    send()
    assert {400} < statuses  # and one of those that say that it was accepted
    assert statuses <= {200, 201, 202, 400, 404, 409}


def shown(api, path):
    # PostgreSQL makes whole numbers of large floats.
    return json.loads(api("GET", path).content, parse_int=float)
