"""Divide work into statements that are no larger than the database takes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from django.db import DataError
from django.db.backends.base.base import BaseDatabaseWrapper

_Item = TypeVar("_Item")

_KEYS = 2000  # keys in one statement
_BYTES = 16_000_000  # bytes in one statement, even where the database takes more: to save memory
_PARAMS = 30_000  # parameters in one statement; SQLite takes at least 32,766 today
_SURE = 16_000  # bytes that any server takes
_PLAIN = 40  # bytes of a number, a time or the like, with its separators

_packets: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # by the connection of the driver


def parts(
    connection: BaseDatabaseWrapper,
    items: Sequence[_Item],
    size: Callable[[_Item], int] | int,
    count: int = _KEYS,
) -> Iterator[Sequence[_Item]]:
    """Divide items into parts of at most `count` items, and of the bytes that one statement takes.

    `size` gives the size of an item, or is the size of each. A larger item is a part of its own.
    """
    sizes = [size] * len(items) if isinstance(size, int) else [*map(size, items)]
    most = _most_bytes(connection) if len(items) > 1 and sum(sizes) > _SURE else _SURE
    start = total = 0
    for i, own in enumerate(sizes):
        if i > start and (total + own > most or i - start >= count):
            yield items[start:i]
            start, total = i, 0
        total += own
    if start < len(items):
        yield items[start:]


def check_row(connection: BaseDatabaseWrapper, values: Iterable[Any]) -> None:
    """Refuse a row that is larger than the server takes. The server would close the connection, and
    no row of the batch would be written."""
    if excess := too_large(connection, values):
        raise DataError(f"The row {excess}: raise max_allowed_packet, or store less in one row.")


def too_large(connection: BaseDatabaseWrapper, values: Iterable[Any], share: int = 1) -> str:
    """How these values outgrow the packets of the server, or a share of them; "" if they do not.

    Only MariaDB and MySQL have packets.
    """
    if connection.vendor != "mysql":
        return ""
    size = sum(map(_quoted, values))
    if size <= (packet := _packet(connection)) // share:
        return ""
    return f"takes about {size:,} bytes in a statement, and the server takes {packet:,}"


def _quoted(value: Any) -> int:
    text = json.dumps(value) if isinstance(value, dict | list) else value
    given = text.encode() if isinstance(text, str) else text
    if not isinstance(given, bytes):
        return _PLAIN
    return _PLAIN + len(given) + sum(map(given.count, (b"\\", b"'", b'"', b"\n", b"\r", b"\0")))


def size_of(value: Any) -> int:
    """About how many bytes a value takes in a statement, rounded up."""
    if isinstance(value, dict | list):
        value = repr(value)
    if isinstance(value, str):
        return _PLAIN + (len(value) if value.isascii() else 4 * len(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return _PLAIN + len(value)
    return _PLAIN


def most_rows(connection: BaseDatabaseWrapper, params: int) -> int:
    """How many rows one statement may hold, if each row has this many parameters."""
    most = _PARAMS
    if connection.vendor == "sqlite":
        connection.ensure_connection()
        most = connection.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    elif connection.vendor == "postgresql":
        return _PARAMS  # the parameters are arrays, or literals
    return max(most // max(params, 1), 1)


def placeholders(count: int) -> str:
    """The placeholders of a list of parameters."""
    return ", ".join(["%s"] * count)


def _most_bytes(connection: BaseDatabaseWrapper) -> int:
    """How many bytes of text one statement may hold. Where a driver quotes, it may write two bytes
    for one."""
    return min(_packet(connection) // 2, _BYTES) if connection.vendor == "mysql" else _BYTES


def _packet(connection: BaseDatabaseWrapper) -> int:
    """The `max_allowed_packet` of MariaDB or MySQL, asked for once for each connection."""
    connection.ensure_connection()
    packet = _packets.get(connection.connection)
    if packet is None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@max_allowed_packet")
            packet = _packets[connection.connection] = cursor.fetchone()[0]
    return packet
