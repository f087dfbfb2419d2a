"""What an error of the database means for a batch: wait, try again, or make a dead letter."""

from __future__ import annotations

import re
from typing import Any, Literal

from django.core.exceptions import FieldError, ObjectDoesNotExist, ValidationError
from django.db import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
)

from writebehind_app.exceptions import WritebehindError

Kind = Literal["row", "schema", "transient", "connection", "end", "unknown"]

# row         an entry is refused for what it contains: it becomes a dead letter
# schema      a table, a column, a right or newer code is missing: the batch waits
# transient   another transaction was in the way: try again at once, a few times
# connection  the database is away, full, or takes no writes: try later, on a new connection
# end         the process or its task is told to end: give the batch back, and end
# unknown     the package does not know the error: the batch waits; after some tries, as "row"

# Exceptions that a bad value raises in Python, before it reaches the database.
_OF_VALUES = (
    ArithmeticError,
    AttributeError,
    FieldError,
    LookupError,
    ObjectDoesNotExist,
    RecursionError,  # JSON that is nested too deep
    TypeError,
    ValidationError,
    ValueError,
)


def is_refusal(error: BaseException, *, insist: bool = False) -> bool:
    """Whether an entry is refused for what it contains. With `insist`, an unknown error counts."""
    found = kind(error)
    return found == "row" or (insist and found == "unknown")


def is_duplicate(error: BaseException) -> bool:
    """Whether the error says that another row already has a unique value."""
    cause: Any = error.__cause__
    code = cause.args[0] if cause and cause.args else None
    name = getattr(cause, "sqlite_errorname", None)
    return (
        (isinstance(code, int) and code in (1062, 1586))
        or _sqlstate(cause) == "23505"
        or name in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
    )


def is_reference(error: BaseException) -> bool:
    """Whether the error says that a row refers to one that is not there."""
    cause: Any = error.__cause__
    code = cause.args[0] if cause and cause.args else None
    return (isinstance(code, int) and code in (1216, 1217, 1451, 1452)) or (
        _sqlstate(cause) == "23503"
    )


def is_end(error: BaseException | None) -> bool:
    """Whether the error tells the process, or its task, to end.

    The time limits of RQ and Celery raise an `Exception`, at any line of the task.
    """
    return isinstance(error, SystemExit | KeyboardInterrupt) or any(
        f"{each.__module__}.{each.__name__}" in _TIME_LIMITS for each in type(error).__mro__
    )


_TIME_LIMITS = ("rq.timeouts.BaseTimeoutException", "billiard.exceptions.SoftTimeLimitExceeded")


class InTheWay(WritebehindError):
    """Another transaction was in the way: the next try may succeed."""


def kind(error: BaseException) -> Kind:
    """The kind of failure that an error of any supported database is."""
    found = _of_driver(error.__cause__) if error.__cause__ else None
    if found is not None:
        return found
    if isinstance(error, IntegrityError | DataError):
        return "row"
    if isinstance(error, OperationalError | InterfaceError | MemoryError):
        return "connection"
    if isinstance(error, WritebehindError):
        return "transient" if isinstance(error, InTheWay) else "schema"
    if isinstance(error, _OF_VALUES):
        return "row"
    return "end" if is_end(error) else "unknown"


def _of_driver(error: Any) -> Kind | None:
    """The kind by the error code of the database; None if the error has none."""
    if error.args and isinstance(error.args[0], int):
        return _of_number(error, error.args[0])
    if state := _sqlstate(error):
        return _of_sqlstate(error, state)
    if name := getattr(error, "sqlite_errorname", None):
        if name == "SQLITE_ERROR":
            return "schema" if _SQLITE_MISSING.search(str(error)) else "unknown"
        return next((kind for start, kind in _SQLITE.items() if name.startswith(start)), "unknown")
    return None


def _sqlstate(error: Any) -> str | None:
    """The error code of PostgreSQL, from psycopg or psycopg2."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def _of_sqlstate(error: Any, code: str) -> Kind:
    if code == "42501":
        # The code is the same for a missing right and for a policy that refuses a row.
        function = getattr(getattr(error, "diag", None), "source_function", None) or ""
        return "schema" if function.startswith("aclcheck") else "row"
    found = _SQLSTATES.get(code) or _SQLSTATE_CLASSES.get(code[:2])
    if found is None:  # a trigger may raise a code of its own
        found = "unknown" if code[:2] in _OTHER_CLASSES else "row"
    return found


def _of_number(error: Any, number: int) -> Kind | None:
    found = next((kind for kind, numbers in _MYSQL.items() if number in numbers), None)
    is_of_server = not 2000 <= number < 3000
    if found is None and is_of_server and type(error).__name__ not in _OF_ROWS:
        found = "unknown"
    return found


_OF_ROWS = ("IntegrityError", "DataError")
_SQLITE_MISSING = re.compile("no such (table|column)|has no column named|syntax error")
_SQLSTATES: dict[str, Kind] = {
    "25006": "connection",  # a standby, or a read-only session
    "25P02": "connection",  # the transaction was aborted before
    "25P03": "connection",  # the transaction was idle for too long
    "3D000": "schema",  # the database is missing
    "3F000": "schema",  # the schema is missing
    "42601": "schema",  # a syntax error
    "42703": "schema",  # a column is missing
    "42P01": "schema",  # a table is missing
    "53300": "transient",  # too many connections
    "55P03": "transient",  # a lock is not available
    "57014": "transient",  # a timeout of the statement
    "57P05": "connection",  # the session was idle for too long
}
_SQLSTATE_CLASSES: dict[str, Kind] = {
    "08": "connection",
    "09": "row",  # a trigger fails
    "20": "row",
    "21": "row",  # two spellings of one key
    "22": "row",  # data
    "23": "row",  # integrity
    "27": "row",  # a trigger changes the row that is being changed
    "28": "schema",  # the login is refused
    "2F": "row",  # a function
    "38": "row",
    "39": "row",
    "40": "transient",  # serialization, deadlock
    "44": "row",  # the condition of a view
    "53": "connection",  # disk or memory is full
    "54": "row",  # too long for an index, or nested too deep
    "57": "connection",  # shutting down
    "58": "connection",  # an error of the operating system
    "P0": "row",  # PL/pgSQL, the language of triggers
}
_OTHER_CLASSES = frozenset(
    {
        *("00", "01", "02", "03", "0A", "0B", "0F", "0L", "0P", "0Z", "24", "25", "26", "2B"),
        *("2D", "34", "3B", "3D", "3F", "42", "55", "72", "F0", "HV", "XX"),
    }
)
# The name of an extended code begins with that of its group.
_SQLITE: dict[str, Kind] = {
    "SQLITE_CONSTRAINT": "row",
    "SQLITE_MISMATCH": "row",
    "SQLITE_TOOBIG": "row",
    "SQLITE_BUSY": "transient",
    "SQLITE_LOCKED": "transient",
    "SQLITE_AUTH": "schema",
    "SQLITE_CANTOPEN": "connection",
    "SQLITE_CORRUPT": "connection",
    "SQLITE_FULL": "connection",
    "SQLITE_INTERRUPT": "connection",
    "SQLITE_IOERR": "connection",
    "SQLITE_NOMEM": "connection",
    "SQLITE_PROTOCOL": "connection",
    "SQLITE_READONLY": "connection",
}
_MYSQL: dict[Kind, frozenset[int]] = {
    "row": frozenset(
        {
            1048,  # a column cannot be null
            1062,  # duplicate
            1153,  # larger than a packet
            1169,
            1216,  # foreign keys
            1217,
            1264,  # out of range
            1265,  # truncated
            1292,  # not a value of the type
            1300,  # not a character of the character set
            1364,  # no default
            1365,  # divided by zero
            1366,  # not a value of the type
            1367,
            1406,  # too long
            1411,
            1441,
            1451,  # foreign keys
            1452,
            1525,
            1586,  # duplicate
            1644,  # a trigger refuses it
            1690,  # out of range
            3140,  # not JSON
            3819,  # a check
            4025,  # a check, of MariaDB
        }
    ),
    "transient": frozenset(
        {
            1020,  # changed since it was read
            1040,  # too many connections
            1203,
            1205,  # a lock took too long
            1206,
            1213,  # deadlock
            1226,
            1969,  # a timeout of the statement
            3024,
        }
    ),
    "connection": frozenset(
        {
            1021,  # disk full
            1023,
            1026,
            1030,
            1037,  # out of memory
            1038,
            1041,
            1053,  # shutting down
            1077,
            1079,
            1080,
            1114,  # the table is full
            1152,
            1158,
            1159,
            1160,
            1161,
            1184,
            1290,  # read-only
            1792,
            1836,
            1927,  # killed
            2002,
            2003,
            2006,
            2013,
            2055,
        }
    ),
    "schema": frozenset({1044, 1045, 1049, 1054, 1064, 1136, 1142, 1143, 1146, 1305, 1356}),
}


def storable(text: str) -> str:
    """A text, such as that of an error, in a form that each database can store."""
    is_text = text.encode(errors="ignore").decode() == text  # no half of a surrogate pair
    return text if is_text and "\0" not in text else ascii(text)[1:-1]
