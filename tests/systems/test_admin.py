"""The ready-made models in the admin."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from writebehind_app.meta import services
from writebehind_app.meta.models import (
    AppointmentMeta,
    EventRegistration,
    LessonMeta,
    PostMeta,
    TicketMeta,
    UserProfile,
)

MAKE = {
    PostMeta: lambda user: services.save_post_meta(7, some_key="value"),
    LessonMeta: lambda user: services.record_progress(7, user, some_key="value"),
    EventRegistration: lambda user: services.register(7, "bert@example.org"),
    TicketMeta: lambda user: services.open_ticket(7, subject="No light"),
    AppointmentMeta: lambda user: services.schedule(7),
    UserProfile: lambda user: services.update_profile(user, display_name="7"),
}


@pytest.mark.parametrize("redis_server", ["valkey"], indirect=True)
@pytest.mark.parametrize("model", MAKE, ids=lambda model: model.__name__)
def test_rows_are_listed_found_and_changed(database, redis_server, user, model):
    User.objects.update(is_superuser=True, is_staff=True)
    client = Client()
    client.force_login(user)
    MAKE[model](user)
    model.buffered.flush()
    row = model.objects.get()

    def page(name: str, *args: object, query: str = "") -> str:
        url = reverse(f"admin:writebehind_meta_{model._meta.model_name}_{name}", args=args)
        response = client.get(url + query)
        assert response.status_code == 200
        return response.content.decode()

    change = reverse(f"admin:writebehind_meta_{model._meta.model_name}_change", args=[row.pk])
    assert change in page("changelist")
    assert change in page("changelist", query="?q=7")
    assert change not in page("changelist", query="?q=8")
    assert str(row) in page("change", row.pk)
    page("add")
