"""The people who use the site in the simulation. They cannot log in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX

NAMES = (
    "Amara Okafor",
    "Benoît Lefèvre",
    "Chen Wei",
    "Dilan Gül",
    "Eszter Nagy",
    "Farid Haddad",
    "Greta Lindqvist",
    "Hana Suzuki",
    "Ilya Petrov",
    "Joana Silva",
    "Kofi Mensah",
    "Lena Vogel",
)


LEARNERS = tuple(f"learner-{number}" for number in range(1, len(NAMES) + 1))
"""The user names of those who watch lessons, and are seen."""


def users(names: Iterable[str]) -> list[Any]:
    """The users with these names, made where they are not there yet."""
    wanted = list(names)
    manager = get_user_model()._default_manager
    manager.bulk_create(
        (manager.model(username=name, password=UNUSABLE_PASSWORD_PREFIX) for name in wanted),
        ignore_conflicts=True,
    )
    found = manager.in_bulk(wanted, field_name="username")
    return [found[name] for name in wanted]
