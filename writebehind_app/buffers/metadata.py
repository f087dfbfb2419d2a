"""The metadata of one entity, as a mapping."""

from __future__ import annotations

import sys
from collections.abc import (
    Callable,
    Coroutine,
    ItemsView,
    Iterator,
    KeysView,
    MutableMapping,
    ValuesView,
)
from contextlib import suppress
from types import CodeType
from typing import TYPE_CHECKING, Any

from writebehind_app.buffers.base import PendingEntry, asynchronous
from writebehind_app.buffers.receipt import Receipt
from writebehind_app.fields.entity import Rows
from writebehind_app.fields.limits import as_dict
from writebehind_app.fields.writes import Write

if TYPE_CHECKING:
    from writebehind_app.buffers.meta import MetaBuffer
    from writebehind_app.flush.engine import FlushResult

_NONE_GIVEN: Any = object()


def _caller() -> tuple[int, CodeType, int]:
    """Return which instruction of the calling code asks."""
    frame = sys._getframe(2)
    return id(frame), frame.f_code, frame.f_lasti


class _Keys(KeysView[str]):
    """The keys of an entity, which remembers their values for `dict(meta)`.

    Python makes a dict of a mapping in two steps: it lists `keys()`, then asks for the value of
    each key. Both are done by one instruction of the calling code. A new read for each key would
    cost a round trip. So that instruction gets the values that were read with the keys, each once.
    """

    def __init__(self, meta: Metadata, values: dict[str, Any], caller: Any) -> None:
        super().__init__(values)
        self._meta = meta
        self._values = values
        self._caller = caller

    def __iter__(self) -> Iterator[str]:
        yield from self._values
        if self._caller == _caller():
            self._meta._listed = self._caller, dict(self._values)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._values)

    def __repr__(self) -> str:
        return repr(self._values.keys())


class Metadata(MutableMapping[str, Any]):
    """The metadata of one entity.

    Each call reads anew, and sees every accepted write. `keys()`, `items()`, `values()` and
    `dict(meta)` read all keys at once. A writing call is one round trip.
    """

    def __init__(self, buffer: MetaBuffer, id: str) -> None:
        self._buffer = buffer
        self._id = id
        self._listed: tuple[Any, dict[str, Any]] = None, {}  # by whom, and what is left of it

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._buffer.label} ({self._id})>"

    # Reading

    def _read(self) -> dict[str, Any]:
        rows = self._buffer._row(self._buffer.plan(), self._id)
        return self._buffer.entity_layout().values(rows)

    def __getitem__(self, key: str) -> Any:
        caller, values = self._listed
        if key in values and caller == _caller():
            return values.pop(key)
        self._listed = None, {}
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def keys(self) -> KeysView[str]:
        return _Keys(self, self._read(), _caller())

    def items(self) -> ItemsView[str, Any]:
        return self._read().items()

    def values(self) -> ValuesView[Any]:
        return self._read().values()

    # Writing

    def update(  # type: ignore[override]
        self, values: Any = (), /, *, once: str | None = None, **more: Any
    ) -> Receipt:
        """Write many meta keys in one step: values, or operations on what is there. Of calls with
        the same text as `once`, one is carried out. A meta key of that name goes into the
        mapping."""
        return self._write(self._buffer._checked(self._id, {**as_dict(values), **more}), once)

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a meta key. If there is none, set it to the default first. All who
        call it at once get the same value."""
        values: dict[str, Any] = {}

        def write_for(rows: Rows | None) -> Write | None:
            nonlocal values
            values = {key: default} | self._buffer.entity_layout().values(rows)
            absent = key not in (rows or {})
            return self._buffer._checked(self._id, {key: default}) if absent else None

        self._buffer._write_if(self._id, write_for)
        return values[key]

    def pop(self, key: str, default: Any = _NONE_GIVEN) -> Any:
        """Delete a meta key and return its value, or the default if it is not there. If several
        callers pop a key at once, one of them gets the value."""
        layout = self._buffer.entity_layout()
        value: Any = None

        def write_for(rows: Rows | None) -> Write | None:
            nonlocal value
            value = layout.values(rows).get(key)
            return Write(self._id, {layout.name(key): "!"}) if key in (rows or {}) else None

        def answer(rows: Rows | None) -> Any:
            return layout.values(rows).get(key)

        if self._buffer._write_if(self._id, write_for, answer=answer):
            return value
        if default is _NONE_GIVEN:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[str, Any]:
        """Delete some meta key, and return it with its value. Of all who call it at once, one gets
        it."""
        for key in self:
            with suppress(KeyError):  # somebody else had it
                return key, self.pop(key)
        raise KeyError("There is no metadata.")

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def clear(self, *, once: str | None = None) -> None:
        """Delete all metadata of the entity."""
        self._write(Write(self._id, {}, delete=True), once)

    def _write(self, write: Write, once: str | None = None) -> Receipt:
        return self._buffer._write_one(self._buffer.plan(), write, once)

    # Acting

    def pending(self) -> list[PendingEntry]:
        """Return the unflushed entries: one in flight, one pending, both or none."""
        return self._buffer._pending_of(self._id)

    def flush(self) -> FlushResult:
        """Flush what is pending, and return when it is in the database."""
        return self._buffer._flush([self._id])

    def discard(self) -> int:
        """Throw away what is pending, unless a flusher has it. Return how many entries went."""
        return self._buffer._discard([self._id])

    def asks_redis_alone(self) -> bool:
        return self._buffer.asks_redis_alone()

    async def _aupdate(self, values: Any = (), /, *, once: None = None, **more: Any) -> Receipt:
        buffer = self._buffer
        write = buffer._checked(self._id, {**as_dict(values), **more})
        return await buffer._awrite_one(buffer.plan(), write)

    aget: Callable[..., Coroutine[Any, Any, Any]] = asynchronous(MutableMapping.get)
    aitems = asynchronous(items)
    aupdate = asynchronous(update, _aupdate)
    apop = asynchronous(pop)
    asetdefault = asynchronous(setdefault)
    aclear = asynchronous(clear)
    apending = asynchronous(pending)
    aflush = asynchronous(flush)
    adiscard = asynchronous(discard)
