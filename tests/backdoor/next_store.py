"""A shard of the new store on a real server, and what tests do to it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis
from redis.exceptions import NoScriptError

from writebehind_app.fields.entry import Entry
from writebehind_app.store.next import shard
from writebehind_app.store.next.calls import FOREVER, Call, Command, Row, Sender, Taken
from writebehind_app.store.next.scripts import NAMES, source
from writebehind_app.store.next.shard import Batch, Claim, Wait

KEY = "{wb:app.Model:default:1.0}"


class Store:
    """What one shard keeps."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.sender = Sender(self.exchange)

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        pipe = self.client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies = pipe.execute(raise_on_error=False)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            for name in NAMES:
                self.client.script_load(source(name))
            for i, reply in zip(
                missing, self.exchange([commands[i] for i in missing]), strict=True
            ):
                replies[i] = reply
        return replies

    def call(self, *rows: Row, **options: Any) -> Call:
        return Call(KEY, rows, **{"max_age": 5_000_000, **options})

    def send(self, *rows: Row, deadline: int = FOREVER, **options: Any) -> Any:
        (outcome,) = self.sender.send([self.call(*rows, **options)], deadline)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def write(self, id: str, texts: Mapping[str, str] = {}, **more: Any) -> int:
        """The number of one write that is taken."""
        options = {n: more.pop(n) for n in ("max_age", "quiet", "room", "version") if n in more}
        outcome = self.send(Row(id, texts, **more), **options)
        assert isinstance(outcome, Taken), outcome
        return outcome.first

    def delete(self, id: str, **more: Any) -> int:
        return self.write(id, delete=True, **more)

    def read(self, *ids: str, fresh: str = "") -> shard.Reading:
        return shard.read(self.exchange, KEY, ids, fresh=fresh)

    def pending(self, id: str) -> Entry | None:
        return self.read(id).pending.get(id)

    def only(self, id: str) -> Entry:
        entry = self.pending(id)
        assert entry is not None
        return entry

    def guard(self, id: str) -> str:
        return self.read(id, fresh=secrets.token_hex(8)).guard(id)

    def claim(self, token: str = "", **options: Any) -> Batch | Wait | None:
        token = token or secrets.token_hex(16)
        records = options.pop("records", False)
        asked = Claim(token, **{"size": 100, "max_age": 5_000_000, **options})
        return shard.claim(self.exchange, KEY, asked, records=records)

    def batch(self, token: str = "", **options: Any) -> Batch:
        batch = self.claim(token, **options)
        assert isinstance(batch, Batch), batch
        return batch

    def ack(self, token: str, **options: Any) -> bool:
        return shard.ack(self.exchange, KEY, token, **options)

    def discard(self, *ids: str, most: int = 100, **options: Any) -> int:
        fresh = secrets.token_hex(8)
        return shard.discard(self.exchange, KEY, most, fresh, ids, **options)

    def locate(self, id: str, number: int) -> str:
        return shard.locate(self.exchange, KEY, id, number)

    def count(self, *names: str, **options: Any) -> shard.Counts:
        return shard.count(self.exchange, KEY, names, **options)

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


def ids_of(entries: Iterable[Entry]) -> list[str]:
    return [entry.id for entry in entries]
