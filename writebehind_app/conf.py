"""The settings: one dict, `WRITEBEHIND`. Every key has a default."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

NAME = "WRITEBEHIND"

Address = str | Mapping[str, Any]  # of Redis: see docs/redis.md


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `WRITEBEHIND` says, with the defaults filled in. Times are in seconds."""

    # A URL, the alias of a django-redis cache, a dict for Sentinel, or the path of a function: what
    # shows settings must not show a password in it.
    REDIS: Address = field(default="default", repr=False)
    PREFIX: str = "wb"  # what every key in Redis begins with, after a brace
    ON_COMMIT: bool = True  # a write inside atomic() is sent with the commit; or at once
    MODE: str = "buffered"  # "direct": every call goes straight to the database
    WHEN_DOWN: str = "direct"  # what calls do while Redis is away; or "raise"
    WHEN_FULL: str = "direct"  # what writes do that would make one entry too many; or "raise"
    ORM: str = "fence"  # what save() and delete() of a row do to older writes: "ignore", nothing
    DURABILITY: str | int = "memory"  # a write is on disk: "fsync"; or on so many replicas
    DURABILITY_TIMEOUT: float = 1.0  # wait so long for that
    MAX_PENDING: int = 1_000_000  # entries of one buffer in Redis, those in flight included
    MAX_AGE: float = 5.0  # flushed at the latest this long after the first unflushed write
    QUIET: float = 0.0  # flushed once no write came for so long; 0: only MAX_AGE counts
    CACHE_SECONDS: float = 0.0  # for so long reads may be answered from bases in Redis; 0: never
    CACHE_BYTES: int = 64 * 1024**2  # of Redis' memory that the bases of one buffer may take
    BATCH_SIZE: int = 1000  # entries in one transaction
    SHARDS: int = 1  # batches of one buffer that can be in flight at a time
    LEASE: float = 15.0  # a batch whose flusher was silent for so long is taken over
    BACKOFF: float = 1.0  # wait after a failed batch; doubles with each failure
    MAX_BACKOFF: float = 60.0  # the longest such wait
    MAX_VALUE_BYTES: int = 4 * 1024**2  # of the text of one value
    MAX_ENTRY_BYTES: int = 16 * 1024**2  # of all texts of one write
    POISON_LIMIT: int = 20  # a whole batch of this size that is refused waits: see docs/flushing.md
    DEAD_LETTER_DAYS: float = 0.0  # dead letters are deleted after so long; 0: never
    LEDGER_DAYS: float = 7.0  # the same for rows of the ledger; at least a day
    FENCE_DAYS: float = 7.0  # fences are deleted after so long, if nothing older is pending
    ONCE_DAYS: float = 1.0  # a key given as `once` is remembered for so long
    CONNECT_TIMEOUT: float = 0.5  # for a connection to Redis
    SOCKET_TIMEOUT: float = 1.0  # for an answer of Redis to a read or a write
    HEALTH_OLDEST: float = (
        60.0  # the health view fails once an entry is older than max_age by so much
    )
    HEALTH_PENDING: int = 0  # and once more entries of a buffer wait; 0: however many
    HEALTH_DEAD_LETTERS: int = 0  # and once a buffer has more of them; 0: however many
    META_MAX_KEYS: int = 64  # in an object that the endpoints take, and objects in a list
    META_MAX_KEY_LENGTH: int = 64  # characters of such a key
    META_MAX_BODY: int = 65536  # bytes of a request


# What a value must be: (type, least value, whether that value itself is allowed).
_NUMBERS: dict[str, tuple[type, float, bool]] = {
    "DURABILITY_TIMEOUT": (float, 0, False),
    "MAX_PENDING": (int, 1, True),
    "MAX_AGE": (float, 0, True),
    "QUIET": (float, 0, True),
    "CACHE_SECONDS": (float, 0, True),
    "CACHE_BYTES": (int, 1, True),
    "BATCH_SIZE": (int, 1, True),
    "SHARDS": (int, 1, True),
    "LEASE": (float, 0, False),
    "BACKOFF": (float, 0, False),
    "MAX_BACKOFF": (float, 0, False),
    "MAX_VALUE_BYTES": (int, 1, True),
    "MAX_ENTRY_BYTES": (int, 1, True),
    "POISON_LIMIT": (int, 2, True),
    "DEAD_LETTER_DAYS": (float, 0, True),
    "LEDGER_DAYS": (float, 0, True),
    "FENCE_DAYS": (float, 0, False),
    "ONCE_DAYS": (float, 0, False),
    "CONNECT_TIMEOUT": (float, 0, False),
    "SOCKET_TIMEOUT": (float, 0, False),
    "HEALTH_OLDEST": (float, 0, False),
    "HEALTH_PENDING": (int, 0, True),
    "HEALTH_DEAD_LETTERS": (int, 0, True),
    "META_MAX_KEYS": (int, 1, True),
    "META_MAX_KEY_LENGTH": (int, 1, True),
    "META_MAX_BODY": (int, 1, True),
}
_LONGEST = 36_500  # days. So long before now there is a date; not so 800_000 days before
_CHOICES = {
    "MODE": ("buffered", "direct"),
    "WHEN_DOWN": ("direct", "raise"),
    "WHEN_FULL": ("direct", "raise"),
    "ORM": ("fence", "ignore"),
}
NAMES = tuple(field.name for field in fields(Settings))


def problem(name: str, value: Any) -> str | None:
    """What is wrong with the value of a setting, or None."""
    if name == "ON_COMMIT":
        return None if isinstance(value, bool) else f"{name} must be True or False, not {value!r}."
    if name in _CHOICES:
        choices = " or ".join(map(repr, _CHOICES[name]))
        return None if value in _CHOICES[name] else f"{name} must be {choices}, not {value!r}."
    if name == "DURABILITY":
        is_number = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if is_number or value in ("memory", "fsync"):
            return None
        return f"{name} must be 'memory', 'fsync' or a number of replicas, not {value!r}."
    if name == "REDIS" and isinstance(value, Mapping):
        return None  # store/sentinel.py or store/cluster.py looks into it
    if name not in _NUMBERS:
        if not isinstance(value, str) or not value:
            return f"{name} must be a non-empty string, not {redacted(value)}."
        if name == "PREFIX" and not {"{", "}"}.isdisjoint(value):  # they mark what is hashed
            return f"PREFIX must be without braces, not {value!r}."
        return None
    kind, least, included = _NUMBERS[name]
    good = isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
    most = _LONGEST if name.endswith("_DAYS") else math.inf
    is_enough = good and (value > least or (included and value == least))
    if is_enough and value < math.inf and value <= most:
        return None
    noun = "a number" if kind is float else "a whole number"
    bound = f"at least {least}" if included else f"greater than {least}"
    if most < math.inf:
        bound += f" and at most {most}"
    return f"{name} must be {noun}, {bound}, not {value!r}."


def redacted(value: object) -> str:
    """The text of a value that may be an address of Redis, without its password."""
    text = re.sub(r"(?i)(password=)[^&'\"]*", r"\1***", repr(value))
    return re.sub(r"""(['"](?:\w+:?//)?).*@""", r"\1***@", text)


def raw() -> Any:
    """The dict as the project wrote it."""
    return getattr(django_settings, NAME, {})


@cache
def settings() -> Settings:
    """The settings in force."""
    given = raw()
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"{NAME} must be a dict, not {redacted(given)}.")
    known = {name: value for name, value in given.items() if name in NAMES}
    for name, value in known.items():
        if message := problem(name, value):
            raise ImproperlyConfigured(f"{NAME}: {message}")
    return Settings(**known)


def prefix() -> str:
    """What keys in Redis begin with, after a brace. The tests of a project have keys of their own.
    Else they would flush the pending writes of the project into the test database, and roll them
    back with it."""
    return f"{settings().PREFIX}:test" if is_tested() else settings().PREFIX


def is_direct() -> bool:
    """Whether nothing goes through Redis."""
    return settings().MODE == "direct"


def is_tested() -> bool:
    """Whether a test runner is at work: whether setup_test_environment() was called."""
    # Not imported: outside of tests nothing needs it.
    utils: Any = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(utils._TestState, "saved_data")


def _reset(*, setting: str, **kwargs: Any) -> None:
    if setting == NAME:
        settings.cache_clear()


setting_changed.connect(_reset, dispatch_uid="writebehind.conf")
