"""What goes wrong with Redis, told apart."""

from __future__ import annotations

import re

import redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)

# Answers by which a Redis takes no writes, whatever is written.
_AWAY = (
    redis.ConnectionError,  # LOADING, NOAUTH and WRONGPASS are such
    redis.TimeoutError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
# Those of which the client makes no class; before Redis 7 the errors of scripts, too.
_AWAY_TEXT = re.compile(r"(?:^|-)(?:BUSY|MISCONF|NOREPLICAS|OOM|READONLY) ")


def is_away(error: Exception) -> bool:
    """Whether Redis is of no use at the moment: not this call is to blame."""
    return isinstance(error, _AWAY) or bool(_AWAY_TEXT.search(str(error)))


def is_answer(error: Exception) -> bool:
    """Whether Redis said so, and did not do what it was asked for."""
    return isinstance(error, redis.ResponseError | BusyLoadingError | AuthenticationError)


def reason(error: Exception) -> str:
    """For people, in one line. redis-py's texts name host and port, and no password."""
    return " ".join(str(error).split()) or type(error).__name__
