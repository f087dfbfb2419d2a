"""A shard on a real server, by itself: its scripts, and what tests do to it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoScriptError

from tests.servers import RedisServer
from writebehind_app.fields.entry import Entry
from writebehind_app.fields.writes import Write
from writebehind_app.store import lua, reads, records, state
from writebehind_app.store.calls import (
    ROWS,
    Call,
    Limit,
    Record,
    Refused,
    Terms,
    append_call,
    cut,
    writes_call,
)
from writebehind_app.store.client import Client
from writebehind_app.store.link import Command
from writebehind_app.store.server import sibling
from writebehind_app.store.shard import Batch, Shard, Wait, hasten

KEY = "{wb:app.Model:default:0/1}"
FOREVER = 2**53
PARTS = (
    *("acked", "based", "call", "claimed", "discards", "discards_end", "flight", "free", "join"),
    *("keep", "keeping", "located", "looks", "marking", "mine", "paged", "place", "rarely", "rows"),
    *("chosen", "segments", "take", "texts"),
)
"""The files that are parts of scripts, and none by themselves."""

__all__ = ["FOREVER", "KEY", "PARTS", "ROWS", "Call", "Limit", "Record", "Refused", "Row", "cut"]


class Row(NamedTuple):
    """A write to one row, or to one entity of metadata."""

    id: str
    texts: Mapping[str, str] = {}
    delete: bool = False
    guard: str = ""
    once: str = ""  # the digest of an idempotency key
    once_ms: int = 0
    stamped: bool = False  # whether meta keys have times of their own


def call_of(rows: Sequence[Row], terms: Terms) -> Call:
    stamped = any(row.stamped for row in rows)
    calls = [
        writes_call(
            KEY,
            [Write(row.id, dict(row.texts), row.delete, row.guard)],
            terms,
            is_stamped=stamped,
            once=row.once,
            once_ms=row.once_ms,
        )
        for row in rows
    ]
    script = "operate" if any(call.script == "operate" for call in calls) else "write"
    return Call(script, KEY, terms, [arg for call in calls for arg in call.args], len(rows))


@dataclass
class Sender:
    """Who sends a call at a time, as `delivery` does."""

    exchange: Any
    name: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    answered: int = 0  # the number of the last write

    def send(self, call: Call, deadline: int) -> Any:
        """The number of the first write, a refusal or an error."""
        room = call.terms.limit.most == 0
        (reply,) = self.exchange([call.command(self.name, deadline, is_roomy=room)])
        if isinstance(reply, Exception):
            return reply
        _, what, *more = reply
        if not isinstance(what, int):
            return Refused(what, more[0] if more else None)
        self.answered = what + call.size - 1
        return what

    def send_again(self, call: Call, lost: Sender, deadline: int) -> Any:
        """What became of a call whose reply another sender lost: it is taken now, unless it was
        then; None where nobody knows."""
        question = ("EVALSHA", lua.digest("again"), 1, KEY, lost.name, lost.answered, deadline)
        (reply,) = self.exchange([question])
        if isinstance(reply, Exception):
            return reply
        match reply[1]:
            case "late":
                return None
            case "no":
                return self.send(call, deadline)
            case last:
                return last - call.size + 1


@contextmanager
def store_on(server: RedisServer, *, is_log: bool = False) -> Iterator[Store]:
    """A shard on that server."""
    with server.client(decode_responses=True) as plain, sibling(plain, 10) as own:
        yield Store(plain, own, is_log)


class Store:
    """What one shard keeps: entries, or the records of a log."""

    def __init__(self, client: redis.Redis, own: Client, is_log: bool = False) -> None:
        self.client = client
        self.own = own
        self.shard = Shard(own, KEY, is_log=is_log)
        self.sender = Sender(self.exchange)

    def as_rows(self) -> Store:
        """The same shard, as it were one of entries."""
        return Store(self.client, self.own)

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        pipe = self.client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies = pipe.execute(raise_on_error=False)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            for name in ("write", "operate", "append", "again"):
                self.client.script_load(lua.source(name))
            for i, reply in zip(
                missing, self.exchange([commands[i] for i in missing]), strict=True
            ):
                replies[i] = reply
        closed = [i for i, reply in enumerate(replies) if _is_closed(reply)]
        if closed and self.client.hsetnx(KEY, "open", 1):  # as the first call of a process does
            for i, reply in zip(closed, self.exchange([commands[i] for i in closed]), strict=True):
                replies[i] = reply
        return replies

    def terms(
        self,
        *,
        room: int = 0,  # however many
        version: int = 0,
        max_age: int = 5_000_000,
        quiet: int = 0,
    ) -> Terms:
        return Terms(Limit([KEY], room, room), version, max_age, quiet)

    def call(self, *rows: Row, **options: Any) -> Call:
        return call_of(rows, self.terms(**options))

    def send(self, *rows: Row, deadline: int = FOREVER, **options: Any) -> Any:
        outcome = self.sender.send(self.call(*rows, **options), deadline)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def append_call(
        self,
        *records: Record,
        guard: str = "",
        unique: int = 1,
        once: str = "",
        once_ms: int = 0,
        **options: Any,
    ) -> Call:
        terms = self.terms(**options)
        return append_call(
            KEY, records, terms, guard=guard, unique=unique, once=once, once_ms=once_ms
        )

    def append(self, *records: Record, deadline: int = FOREVER, **options: Any) -> Any:
        outcome = self.sender.send(self.append_call(*records, **options), deadline)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def write(self, id: str, texts: Mapping[str, str] = {}, **more: Any) -> int:
        """The number of one write that is taken."""
        options = {n: more.pop(n) for n in ("max_age", "quiet", "room", "version") if n in more}
        outcome = self.send(Row(id, texts, **more), **options)
        assert isinstance(outcome, int), outcome
        return outcome

    def delete(self, id: str, **more: Any) -> int:
        return self.write(id, delete=True, **more)

    def read(self, *ids: str, guarded: bool = False) -> reads.Reading:
        return reads.read(self.own, {KEY: ids}, guarded=guarded)[KEY]

    def look(self, *ids: str) -> reads.Look:
        """Before the rows are written past Redis."""
        return reads.look(self.own, {KEY: ids})[KEY]

    def pending(self, id: str) -> Entry | None:
        return self.read(id).pending.get(id)

    def only(self, id: str) -> Entry:
        entry = self.pending(id)
        assert entry is not None
        return entry

    def guard(self, id: str) -> str:
        return self.read(id, guarded=True).guards[id]

    def claim(self, token: str = "", **options: Any) -> Batch | Wait | None:
        options = {"size": 100, "max_age": 5, "lease": 15, **options}
        return self.shard.claim(token or secrets.token_hex(16), **options)

    def batch(self, token: str = "", **options: Any) -> Batch:
        batch = self.claim(token, **options)
        assert isinstance(batch, Batch), batch
        return batch

    def is_behind(self, batch: Batch, *, before: int = 0, ids: Sequence[str] = ()) -> bool:
        return self.shard.is_behind(batch, before=before, max_age=5, ids=ids)

    def extend(
        self, batch: Batch, *, before: int = 0, ids: Sequence[str] = (), size: int = 100
    ) -> Batch | None:
        return self.shard.extend(batch, lease=15, size=size, before=before, max_age=5, ids=ids)

    def deleting(self) -> bool:
        return state.deleting(self.own, [KEY])[KEY].is_so

    def renew(self, token: str, *, lease: float) -> bool:
        return self.shard.renew(token, lease=lease)

    def release(self, token: str, *, retry_in: float = 0, error: str = "") -> bool:
        return self.shard.release(token, retry_in=retry_in, error=error)

    def revoke(self, token: str) -> str:
        return self.shard.revoke(token)

    def ack(self, token: str, **options: Any) -> bool:
        return self.shard.ack(token, **options)

    def discard(self, *ids: str, most: int = 100, token: str = "") -> int:
        return self.shard.discard(most, ids, token=token)

    def locate(self, id: str, number: int) -> str:
        return self.shard.locate(id, number)

    def count(self) -> state.Overview:
        return state.overview(self.own, [self.shard])[KEY]

    def counts(self) -> tuple[int, int, int]:
        """How many are pending, how many in flight, and how many of the pending ones due."""
        found = self.count()
        return found.pending, found.in_flight, found.due

    def hasten(self, id: str, *, silence: float) -> bool:
        return bool(hasten(self.own, [(KEY, id)], silence=silence))

    def window(self, since: int | None, until: int | None) -> list[Entry]:
        return [*records.window(self.own, [KEY], since, until)[KEY].records]

    def mend(self) -> None:
        self.client.eval(lua.source("mend"), 1, KEY)

    def state(self, name: str) -> str | None:
        return self.client.hget(KEY, name)

    def keys(self) -> set[str]:
        return {key.removeprefix(KEY) for key in self.client.scan_iter()}

    def dump(self) -> dict[str, Any]:
        """All there is, to compare."""
        return {key: self.client.dump(key) for key in self.client.scan_iter()}

    def forward(self, seconds: float) -> None:
        """Let what is there be as if it had been written and claimed so long ago: all times of due
        entries, of the lease and of the next try."""
        by = round(seconds * 1e6)
        for id in self.client.zrange(f"{KEY}:due", 0, -1):
            self.client.zincrby(f"{KEY}:due", -by, id)
        for name in ("lease", "retry_at"):
            if self.state(name):
                self.client.hincrby(KEY, name, -by)


def _is_closed(reply: Any) -> bool:
    return isinstance(reply, list) and len(reply) > 1 and reply[1] == "closed"


def ids_of(entries: Iterable[Entry]) -> list[str]:
    return [entry.id for entry in entries]
