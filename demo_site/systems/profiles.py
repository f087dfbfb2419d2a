"""Users who are seen on every page, and now and then say something about themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

from django.contrib.auth import get_user_model
from django.db import models, transaction
from django.utils import timezone

from demo_site.systems.base import System, Write
from demo_site.systems.people import LEARNERS, NAMES, users
from writebehind_app import Merge
from writebehind_app.meta import services
from writebehind_app.meta.models import UserProfile

LOCALES = ("de", "en", "fr", "ja", "pt", "tr")
_ABOUT = ("", "Learns in the evening.", "Here for the certificate.", "Says hello 👋")


class Profiles(System):
    title = "Profile"
    view = "profile"
    model = UserProfile
    compared = ("display_name", "bio", "locale", "timezone", "preferences", "last_seen_at")
    dated = ("updated_at",)
    rate = 30

    def busy(self) -> Sequence[Any]:
        return users(LEARNERS)

    def openings(self, keys: Sequence[Any]) -> Iterable[Write]:
        for number, user in enumerate(keys):
            yield user, {"display_name": NAMES[number % len(NAMES)]}

    def changes(self, rng: Random, keys: Sequence[Any]) -> Iterator[Write]:
        while True:
            values: dict[str, Any] = {"last_seen_at": timezone.now()}
            match rng.randrange(8):
                case 0:
                    values["bio"] = rng.choice(_ABOUT)
                case 1:
                    values["locale"] = rng.choice(LOCALES)
                case 2:
                    values["preferences"] = {rng.choice(("theme", "digest")): rng.randint(1, 9)}
            yield rng.choice(keys), values

    def write(self, key: Any, values: dict[str, Any]) -> None:
        operations = (
            {"preferences": Merge(values["preferences"])} if "preferences" in values else {}
        )
        services.update_profile(key, **values | operations)

    def write_directly(self, key: Any, values: dict[str, Any]) -> None:
        with transaction.atomic():
            row, _ = UserProfile.objects.select_for_update().get_or_create(user=key)
            for name, value in values.items():
                merged = row.preferences | value if name == "preferences" else value
                setattr(row, name, merged)
            row.save(update_fields=[*values, "updated_at"])

    def fresh(self, count: int) -> Sequence[Any]:
        last = get_user_model()._default_manager.aggregate(last=models.Max("pk"))["last"] or 0
        return users(f"visitor-{last + number}" for number in range(1, count + 1))

    def expected(self, writes: Iterable[Write]) -> dict[str, dict[str, Any]]:
        new = {name: UserProfile._meta.get_field(name).get_default() for name in self.compared}
        profiles: dict[str, dict[str, Any]] = {}
        for user, values in writes:
            row = profiles.setdefault(f"profile of user {user.pk}", dict(new))
            preferences = row["preferences"] | values.get("preferences", {})
            row.update({**values, "preferences": preferences})
        return profiles

    def rows(self, keys: Sequence[Any]) -> models.QuerySet[Any]:
        return UserProfile.objects.filter(user__in=keys)

    def name(self, row: UserProfile) -> str:
        return f"profile of user {row.user_id}"

    def remove(self, keys: Sequence[Any]) -> None:
        get_user_model()._default_manager.filter(pk__in=[user.pk for user in keys]).delete()
