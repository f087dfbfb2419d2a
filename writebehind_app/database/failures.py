"""What a failure of the database means for the batch that met it."""

from __future__ import annotations

from typing import Any, Literal

from django.core.exceptions import FieldError, ObjectDoesNotExist, ValidationError
from django.db import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
)

Kind = Literal["row", "schema", "transient", "connection"]

# row         an entry is refused for what it contains: it goes to the dead letters
# schema      a table, a column or a right is missing, or nobody knows what it is: the batch waits
# transient   somebody was in the way: again at once, a few times
# connection  the database is away, full, or takes no writes: again later, on a new connection

# What values raise on the way to the database.
_OF_VALUES = (
    ArithmeticError,
    AttributeError,
    FieldError,
    LookupError,
    ObjectDoesNotExist,
    RecursionError,  # of JSON that is nested too deep
    TypeError,
    ValidationError,
    ValueError,
)


def kind(error: BaseException) -> Kind:
    """Which kind of failure an error is, of any of the databases."""
    found = _of_driver(error.__cause__) if error.__cause__ else None
    if found is not None:
        return found
    if isinstance(error, IntegrityError | DataError):
        return "row"
    if isinstance(error, OperationalError | InterfaceError):
        return "connection"
    return "row" if isinstance(error, _OF_VALUES) else "schema"


def _of_driver(error: Any) -> Kind | None:
    """By what the database said, where it said something."""
    if error.args and isinstance(error.args[0], int):
        return next((kind for kind, numbers in _MYSQL.items() if error.args[0] in numbers), None)
    if getattr(error, "sqlstate", None):
        return _of_sqlstate(error.sqlstate)
    if name := getattr(error, "sqlite_errorname", None):
        return next((kind for start, kind in _SQLITE.items() if name.startswith(start)), "schema")
    return None


def _of_sqlstate(code: str) -> Kind:
    return _SQLSTATES.get(code) or _SQLSTATE_CLASSES.get(code[:2], "schema")


_SQLSTATES: dict[str, Kind] = {
    "25006": "connection",  # a standby, or a read-only session
    "53300": "transient",  # too many connections
    "55P03": "transient",  # a lock is not available
    "57014": "transient",  # a timeout of the statement
    "57P05": "connection",  # the session was idle for too long
    "P0001": "row",  # a trigger refuses it
}
_SQLSTATE_CLASSES: dict[str, Kind] = {
    "08": "connection",
    "22": "row",  # data
    "23": "row",  # integrity
    "40": "transient",  # serialization, deadlock
    "44": "row",  # the condition of a view
    "53": "connection",  # disk or memory is full
    "57": "connection",  # shutting down
    "58": "connection",  # the system below it
}
# The name of an extended code begins with that of its group.
_SQLITE: dict[str, Kind] = {
    "SQLITE_CONSTRAINT": "row",
    "SQLITE_MISMATCH": "row",
    "SQLITE_TOOBIG": "row",
    "SQLITE_BUSY": "transient",
    "SQLITE_LOCKED": "transient",
    "SQLITE_CANTOPEN": "connection",
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
            1169,
            1216,  # foreign keys
            1217,
            1264,  # out of range
            1265,  # truncated
            1292,  # not a value of the type
            1300,  # not a character of the character set
            1364,  # no default
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
    """What an error says, in a form that each database takes."""
    is_text = text.encode(errors="ignore").decode() == text  # without half of a pair
    return text if is_text and "\0" not in text else ascii(text)[1:-1]
