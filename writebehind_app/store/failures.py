"""The kinds of errors that Redis and its client raise."""

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
from redis.sentinel import MasterNotFoundError

# Errors that do not depend on the call: Redis takes no writes.
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
# The same for errors without a class in redis-py; before Redis 7 also for errors in scripts.
_AWAY_TEXT = re.compile(r"(?:^|-)(?:BUSY|MISCONF|NOREPLICAS|OOM|READONLY) ")
_NO_WRITES_TEXT = re.compile(r"(?:^|-)(?:MISCONF|NOREPLICAS|OOM|READONLY) ")
_NO_MASTER_TEXT = re.compile(r"(?:^|-)(?:NOREPLICAS|READONLY) ")


def is_away(error: Exception) -> bool:
    """Whether Redis cannot be used at the moment, whatever the call is."""
    return isinstance(error, _AWAY) or bool(_AWAY_TEXT.search(str(error)))


def is_answer(error: Exception) -> bool:
    """Whether Redis itself answered with the error, and so did nothing."""
    return isinstance(error, redis.ResponseError | BusyLoadingError | AuthenticationError)


def is_about_writes(error: Exception) -> bool:
    """Whether Redis itself answered that it takes no writes. It can be read."""
    return isinstance(error, OutOfMemoryError | ReadOnlyError) or (
        isinstance(error, redis.ResponseError) and bool(_NO_WRITES_TEXT.search(str(error)))
    )


def is_no_master(reply: object) -> bool:
    """Whether the server answered that it is not the master, or is cut off from its replicas."""
    return isinstance(reply, ReadOnlyError | MasterDownError) or (
        isinstance(reply, Exception) and bool(_NO_MASTER_TEXT.search(str(reply)))
    )


def reason(error: Exception) -> str:
    """The error in one line, for people. The texts of redis-py name host and port, no password."""
    if isinstance(error, MasterNotFoundError):  # the rest is for people who debug redis-py
        return f"Sentinel: {str(error).partition(' : ')[0]}"
    return " ".join(str(error).split()) or type(error).__name__
