"""For the tests of projects that use the package, with unittest and with pytest.

`buffered()` and `direct()` say how writes go while a test runs; each is a context manager and a
decorator. `BufferedMixin` is the first for a test case. Where there is pytest, this module is a
plugin of it with the fixtures `writebehind` and `writebehind_direct`. pytest may import a plugin
before Django is set up: so what imports models is imported within the functions.
"""

from __future__ import annotations

import os
import unittest
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from django.db.transaction import TransactionManagementError
from django.test import override_settings, runner

from writebehind_app import conf, registry
from writebehind_app.fields.limits import excerpt
from writebehind_app.fields.operations import DELETED
from writebehind_app.fields.writes import Write
from writebehind_app.store import clock
from writebehind_app.store.connection import client
from writebehind_app.store.removal import remove_all

if TYPE_CHECKING:
    from writebehind_app.buffers.base import Buffer, PendingEntry
    from writebehind_app.buffers.metadata import Metadata
    from writebehind_app.flush.engine import FlushResult

_RECORDS = 10_000  # of a log that are looked through
_SHOWN = 5  # entries in a failure


# How writes go


@contextmanager
def buffered() -> Iterator[None]:
    """Within it writes go to Redis, whatever the settings of the tests say. The keys are those of
    this process alone, and are removed before and after."""
    with override_settings(**{conf.NAME: _options("buffered")}), _emptied():
        yield


@contextmanager
def direct() -> Iterator[None]:
    """Within it writes go straight to the database, in the transaction of the test. No Redis is
    needed."""
    with override_settings(**{conf.NAME: _options("direct")}):
        yield


def _options(mode: Literal["buffered", "direct"]) -> dict[str, Any]:
    options = {**conf.raw(), "MODE": mode}
    # Each process of a parallel run has a database of its own, and so must have keys of its own.
    number = getattr(runner, "_worker_id", None)  # of Django's runner, or 0
    worker = os.environ.get("PYTEST_XDIST_WORKER") or number
    if worker and mode == "buffered":
        options["PREFIX"] = f"{conf.settings().PREFIX}:{worker}"
    return options


@contextmanager
def _emptied() -> Iterator[None]:
    if not conf.is_tested():
        raise RuntimeError(
            "Pending entries are only removed in tests, and no test runner is at work: call "
            "django.test.utils.setup_test_environment() first, or install pytest-django."
        )
    redis, prefix = client(), conf.prefix()
    remove_all(redis, prefix)
    try:
        yield
    finally:
        remove_all(redis, prefix)


def flush() -> FlushResult:
    """Bring everything that is pending to the database, parents first. Returns the sum of the
    results of all buffers."""
    from writebehind_app.buffers.base import Buffer
    from writebehind_app.database.parents import parents_first
    from writebehind_app.flush.engine import FlushResult

    total = FlushResult()
    for buffer in parents_first(list(registry.buffers().values())):
        # A test may not ask each database.
        if isinstance(buffer, Buffer) and buffer.count_pending():
            total.add(buffer._flush())
    return total


# What is pending


def assertBuffered(buffer: Buffer | Metadata, /, **values: Any) -> PendingEntry:
    """Assert that values are pending, as `set(**values)`, `append(**values)` or, for the metadata
    of an entity, `update(**values)` would leave them. Other fields may have any value. Returns the
    entry. An `AssertionError` says what is pending instead.

    With the key of a row alone, it asserts that anything is pending for the row. `DELETED` stands
    for a meta key that goes.
    """
    from writebehind_app.buffers import outbox
    from writebehind_app.buffers.metadata import Metadata

    __tracebackhide__ = True
    owner = buffer._buffer if isinstance(buffer, Metadata) else buffer
    label = owner.label
    with suppress(TransactionManagementError):  # within a transaction of the test's own it is held
        outbox.send(owner)
    key, expected, entries = _look(buffer, values)
    for entry in reversed(entries):  # what is in flight comes first, and is older
        if _has(entry.values, expected):
            return entry
    lines = [f"{label}: this is not pending: {_shown(key, expected)}"]
    if conf.settings().MODE == "direct":
        lines.append("MODE is 'direct': all goes straight to the database, and nothing is pending.")
    elif entries:
        lines.append("This is, for that key:" if key else "This is:")
        lines += _lines(entries)
    else:
        others = owner.pending(_SHOWN)
        lines.append("Nothing is, for that key." if others else "Nothing is pending in the buffer.")
        lines += ["For others there is:", *_lines(others)] if others else []
    raise AssertionError("\n".join(lines))


class BufferedMixin(unittest.TestCase):
    """Runs each test of a case within `buffered()`, and gives it the method `assertBuffered`.

    It comes first among the bases: `class TicketTests(BufferedMixin, TestCase)`.
    """

    def setUp(self) -> None:
        super().setUp()
        self.enterContext(buffered())

    assertBuffered = staticmethod(assertBuffered)


def _look(
    buffer: Buffer | Metadata, values: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[PendingEntry]]:
    """The key and the values that are expected, and the entries that may have them."""
    from writebehind_app.buffers.log import LogBuffer
    from writebehind_app.buffers.metadata import Metadata
    from writebehind_app.buffers.row import RowBuffer

    match buffer:
        case Metadata():
            layout = buffer._buffer.entity_layout()
            texts = layout.encode({k: v for k, v in values.items() if v is not DELETED})
            texts |= {layout.name(k): "!" for k, v in values.items() if v is DELETED}
            write = Write(buffer._id, texts)
            key, expected = buffer._buffer.described(write.entry(clock.now()))
            return key, expected, buffer.pending()
        case RowBuffer():
            write = Write(*buffer.layout().split(values))
            key, expected = buffer.described(write.entry(clock.now()))
            return key, expected, buffer._pending_of(write.id)
        case LogBuffer():
            columns = buffer.layout().columns
            texts = buffer.layout().expected(values)
            names = {columns[name].attname: name for name in buffer.unique}
            entries = [
                replace(entry, values={names[n]: v for n, v in entry.key.items()} | entry.values)
                for entry in buffer.pending(_RECORDS)
            ]
            return {}, {name: columns[name].decode(text) for name, text in texts.items()}, entries
    raise TypeError(
        f"{buffer!r} is not what assertBuffered() takes: the buffer of rows or of a log, as "
        "Ticket.buffered, or the metadata of an entity, as LessonMeta.buffered.of(…)."
    )


def _has(values: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return all(name in values and values[name] == value for name, value in expected.items())


def _shown(key: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    named = {**key, **{name: value for name, value in values.items() if name not in key}}
    return ", ".join(f"{name}={excerpt(value)}" for name, value in named.items())


def _lines(entries: Sequence[PendingEntry]) -> Iterator[str]:
    for entry in entries[:_SHOWN]:
        deleted = " (what is stored is deleted first)" if entry.delete else ""
        yield f"  {_shown(entry.key, entry.values)}{deleted}"
    if len(entries) > _SHOWN:
        yield f"  and {len(entries) - _SHOWN} more"


# pytest

try:
    import pytest
except ModuleNotFoundError:  # unittest needs none
    pass
else:

    @pytest.fixture
    def writebehind(settings: Any) -> Iterator[None]:
        """As `buffered()`, for pytest-django."""
        # Its own way to change settings: another one beside it would be undone in the wrong order
        # where a test uses both.
        settings.WRITEBEHIND = _options("buffered")
        with _emptied():
            yield

    @pytest.fixture
    def writebehind_direct(settings: Any) -> None:
        """As `direct()`, for pytest-django."""
        settings.WRITEBEHIND = _options("direct")
