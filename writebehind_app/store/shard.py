"""One shard of a buffer in Redis: claim batches, give them back, acknowledge them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from writebehind_app.fields.entry import Entry
from writebehind_app.store import codec, lua
from writebehind_app.store.bases import BaseTerms
from writebehind_app.store.client import Client
from writebehind_app.store.connection import errors
from writebehind_app.store.dialogue import arun_dialogue
from writebehind_app.store.link import Command

_TOKEN = re.compile("[0-9A-Za-z]{1,32}")  # as in scripts/flight.lua
Where = Literal["pending", "in_flight", "stored", "discarded", "lost"]
# Which pending entries to claim: all if one is due, only those that are due, or all in any case.
Which = Literal["due", "ripe", "all"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries that were claimed together."""

    token: str
    attempts: int  # how often the batch has failed
    entries: list[Entry]
    error: str = ""  # its last error
    claimed: int = 0  # the number of the shard's last write at the claim
    number: int = 0  # the number of the batch: later batches of the shard have greater ones
    based: frozenset[str] = frozenset()  # the ids that had bases at the claim, if that was asked


@dataclass(frozen=True, slots=True)
class Wait:
    """Why no batch can be claimed although entries are pending."""

    reason: Literal["busy", "backoff", "paused"]
    seconds: float = 0


class Shard:
    """One shard, and what flushers do with it."""

    __slots__ = ("client", "is_log", "key")

    def __init__(self, client: Client, key: str, *, is_log: bool = False) -> None:
        self.client = client
        self.key = key
        self.is_log = is_log

    def script(self, name: str) -> str:
        """The name of the script for the entries, or the records, of this shard."""
        return f"{name}_records" if self.is_log else name

    def claim(
        self,
        token: str,
        *,
        lease: float,
        size: int,
        max_age: float,
        which: Which = "all",
        ids: Sequence[str] = (),
        ignore_backoff: bool = False,
        bases: bool = False,
    ) -> Batch | Wait | None:
        """Claim the next batch under a fresh random token; None if there is nothing to flush.

        With `ids`, only their entries are claimed. With `bases`, the batch says which of its ids
        have bases.
        """
        reply = self._run(
            self.script("claim"),
            token,
            round(lease * 1e6),
            size,
            "ids" if ids else which,
            round(max_age * 1e6),
            "1" if ignore_backoff else "",
            "1" if bases else "",
            *ids,
        )
        decode = codec.decoder(is_log=self.is_log)
        match reply:
            case ["batch", token, attempts, error, claimed, number, *entries]:
                found = [entry for id, flat, *_ in entries if (entry := decode(id, flat))]
                based = frozenset(id for id, _, *has_base in entries if has_base == [1])
                return Batch(token, attempts, found, error, codec.whole(claimed), number, based)
            case [("busy" | "backoff") as reason, micros]:
                return Wait(reason, micros / 1e6)
            case ["paused"]:
                return Wait("paused")
            case _:
                return None

    def is_behind(self, batch: Batch, *, before: int, max_age: float, ids: Sequence[str]) -> bool:
        """Whether entries that were written before the number, or entries of these ids, are pending
        outside of the batch in flight."""
        return bool(self._run(*self._extension(batch, "", 0, 1, before, max_age, ids)))

    def extend(
        self,
        batch: Batch,
        *,
        lease: float,
        size: int,
        before: int,
        max_age: float,
        ids: Sequence[str],
    ) -> Batch | None:
        """Add these entries to the batch, at most `size`; None if another batch is in flight now.

        The batch gets a new token: nothing may be applied under the old one any more.
        """
        fresh = secrets.token_hex(16)
        reply = self._run(*self._extension(batch, fresh, lease, size, before, max_age, ids))
        if reply == 0:
            return None
        decode = codec.decoder(is_log=self.is_log)
        number, found = reply
        added = {id: entry for id, flat in found if (entry := decode(id, flat))}
        every = {entry.id: entry for entry in (*batch.entries, *added.values())}
        return replace(batch, token=fresh, entries=[*every.values()], number=number or batch.number)

    def _extension(
        self,
        batch: Batch,
        fresh: str,
        lease: float,
        size: int,
        before: int,
        max_age: float,
        ids: Sequence[str],
    ) -> tuple[Any, ...]:
        args = (batch.token, fresh, round(lease * 1e6), size, before or "", round(max_age * 1e6))
        return (self.script("extend"), *args, *(() if self.is_log else ids))

    def renew(self, token: str, *, lease: float) -> bool:
        """Lengthen the lease of the batch in flight; False if another batch is in flight by now."""
        return bool(self._run("renew", token, round(lease * 1e6)))

    def release(self, token: str, *, retry_in: float = 0, error: str = "") -> bool:
        """Give the batch back, to be tried again; False if another batch is in flight by now. With
        an `error` it counts as a try that failed."""
        return bool(self._run("release", token, round(retry_in * 1e6), error))

    def revoke(self, token: str) -> str:
        """Give the batch in flight a new token, and return it; '' if it has another one by now."""
        fresh = secrets.token_hex(16)
        return fresh if self._run("revoke", token, fresh) else ""

    def ack(
        self,
        token: str,
        *,
        rows: int = 0,
        dead_letters: int = 0,
        seconds: float = 0.0,
        bases: Mapping[str, str] = {},
        terms: BaseTerms | None = None,
    ) -> bool:
        """Drop the batch in flight and count its results; False if another batch is in flight now.

        Rows that had bases get the new `bases`, or lose theirs.
        """
        args: list[str | int] = [token, rows, dead_letters, round(seconds * 1e6)]
        if terms is not None and bases:
            args += [terms.micros, terms.bytes, *(part for pair in bases.items() for part in pair)]
        return bool(self._run(self.script("ack"), *args))

    def discard(self, limit: int, ids: Sequence[str] = (), *, token: str = "") -> int:
        """Discard pending entries, at most `limit`; return how many.

        With a `token`, entries of the batch in flight are discarded too, if it has this token and
        its lease is over.
        """
        fresh = secrets.token_hex(16)
        count: int = self._run(self.script("discard"), limit, token, fresh, *ids)
        return count

    def idle_token(self) -> str:
        """The token of a batch in flight whose lease has ended; '' if there is none."""
        with errors:
            token: Any
            lease: Any
            commands: list[Command] = [("HMGET", self.key, "token", "lease"), ("TIME",)]
            (token, lease), (seconds, micros) = lua.run_commands(self.client, commands)
        ends = codec.whole(lease)
        if not token or ends > int(seconds) * 1_000_000 + int(micros):
            return ""
        # A token that somebody else wrote is in no ledger.
        return str(token) if _TOKEN.fullmatch(token) else self.revoke(token)

    def locate(self, id: str, number: int) -> Where:
        """Where the write with that number is."""
        where: Where = self._run(self.script("locate"), id, number)
        return where

    async def alocate(self, id: str, number: int) -> Where:
        with errors:
            dialogue = lua.running(self.script("locate"), self.key, id, number)
            where: Where = await arun_dialogue(self.client, dialogue)
        return where

    def _run(self, script: str, *args: str | int) -> Any:
        with errors:
            return lua.run(self.client, script, self.key, *args)


def hasten(client: Client, entries: Sequence[tuple[str, str]], *, silence: float) -> list[str]:
    """Make pending entries due at once, by shard and id. Returns the ids of the entries for which
    this was not done in the last `silence` seconds."""
    calls = [(key, id, round(silence * 1000)) for key, id in entries]
    with errors:
        replies = lua.run_many(client, "hasten", calls)
    return [id for (_, id), reply in zip(entries, replies, strict=True) if reply]
