"""User profiles, through the services and the endpoint."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import FieldError, ValidationError
from django.utils import timezone

from writebehind_app import Max, Merge
from writebehind_app.meta.models import UserProfile
from writebehind_app.meta.services import profile, update_profile


def test_shows_every_update(database, redis_server, bring, user):
    update_profile(user, display_name="Anna", preferences={"theme": "dark"})
    bring(UserProfile.buffered)
    seen = timezone.now()
    update_profile(user, bio="Hello", preferences=Merge({"sound": False}), last_seen_at=Max(seen))
    found = profile(user)
    assert (found.display_name, found.bio) == ("Anna", "Hello")
    assert found.preferences == {"theme": "dark", "sound": False}
    assert (found.last_seen_at, str(found)) == (seen, "Anna")
    UserProfile.buffered.flush()
    assert UserProfile.objects.get(user=user).bio == "Hello"


def test_a_user_without_one_has_an_empty_one_that_is_not_saved(plain, user):
    found = profile(user)
    assert (found.pk, found.user, found.display_name, found.preferences) == (None, user, "", {})
    assert str(found) == "anna"
    assert UserProfile.buffered.count_pending() == 0


def test_what_is_refused(plain, user):
    with pytest.raises(FieldError):
        update_profile(user, name="Anna")
    with pytest.raises(ValidationError):
        update_profile(user, display_name="x" * 151)
    with pytest.raises(ValidationError):
        update_profile(AnonymousUser(), display_name="x")
    with pytest.raises(ValidationError):
        update_profile(get_user_model()(username="unsaved"), display_name="x")


class TestEndpoint:
    def test_shows_and_changes_the_callers_own(self, database, redis_server, bring, user, api):
        body = {"display_name": "Anna", "preferences": {"theme": "dark"}, "locale": "de"}
        response = api("PATCH", "profile/", body)
        assert (response.status_code, response.json()) == (202, {"pending": True})
        bring(UserProfile.buffered)
        assert api("PATCH", "profile/", {"preferences": {"$merge": {"a": 1}}}).status_code == 202
        shown = api("GET", "profile/").json()
        assert shown.pop("updated_at") is not None
        assert shown == {
            "display_name": "Anna",
            "bio": "",
            "locale": "de",
            "timezone": "",
            "preferences": {"theme": "dark", "a": 1},
            "last_seen_at": None,
        }
        assert profile(user).display_name == "Anna"

    def test_of_a_user_who_has_none(self, plain, api):
        response = api("GET", "profile/")
        assert (response.status_code, response.json()["display_name"]) == (200, "")

    @pytest.mark.parametrize("name", ["user", "user_id", "last_seen_at", "updated_at", "id", "pk"])
    def test_what_is_not_for_the_user_to_change(self, plain, api, name):
        response = api("PATCH", "profile/", {name: 1})
        assert (response.status_code, list(response.json()["fields"])) == (400, [name])

    @pytest.mark.parametrize("zone", ["Mars/Base", "Europe", "../../etc/passwd", "\x01"])
    def test_a_time_zone_that_there_is_not(self, plain, user, api, zone):
        response = api("PATCH", "profile/", {"timezone": zone})
        assert (response.status_code, list(response.json()["fields"])) == (400, ["timezone"])
        with pytest.raises(ValidationError, match="is not a time zone"):
            update_profile(user, timezone=zone)
        update_profile(user, timezone="Europe/Berlin")
        update_profile(user, timezone="")
