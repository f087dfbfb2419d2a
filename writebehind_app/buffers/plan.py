"""How writes to a buffer go under the current settings. This is worked out once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from writebehind_app import conf
from writebehind_app.declaration import KeyedDeclaration
from writebehind_app.store import divisions
from writebehind_app.store.calls import Call, Limit, Terms, cut, writes_call
from writebehind_app.store.durability import Durability
from writebehind_app.store.keys import shard_number

if TYPE_CHECKING:
    from writebehind_app.declaration import Bases, Declaration
    from writebehind_app.fields.layout import Layout
    from writebehind_app.fields.versions import Names
    from writebehind_app.fields.writes import Write


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How writes to a buffer go, for one database."""

    settings: conf.Settings  # the plan holds only while these are in force,
    known: divisions.Known  # and nothing else is known of the shards,
    options: Mapping[str, Any]  # and the options of the buffer are these
    using: str
    layout: Layout
    key: Layout  # the fields that name an id
    bases: Bases | None
    names: Names
    shards: Sequence[str]
    terms: Terms
    durability: Durability | None
    is_direct: bool
    # Whether a write is a single call of Redis, if nothing holds it back.
    is_plain: bool

    def call(self, write: Write) -> Call:
        """Return the call of a single write."""
        shard = self.shard_of(write.id)
        return writes_call(shard, [write], self.terms, is_stamped=self.names.is_stamped)

    def calls(
        self, writes: Iterable[Write], *, is_at_once: bool = False
    ) -> list[tuple[list[int], Call]]:
        """Return the calls of many writes, each with the indexes of its writes. With `is_at_once`,
        the entries are due at once."""
        terms = self.terms._replace(max_age=0) if is_at_once else self.terms
        by_shard: dict[str, list[tuple[int, Write]]] = {}
        for i, write in enumerate(writes):
            by_shard.setdefault(self.shard_of(write.id), []).append((i, write))
        found = []
        for shard, pairs in by_shard.items():
            for part in cut(pairs):
                its = [write for _, write in part]
                call = writes_call(shard, its, terms, is_stamped=self.names.is_stamped)
                found.append(([i for i, _ in part], call))
        return found

    def once_call(self, write: Write, digest: str) -> Call:
        """Return the call of a write that is taken once under this idempotency key."""
        return writes_call(
            self.shard_of(write.id),
            [write],
            self.terms,
            is_stamped=self.names.is_stamped,
            once=digest,
            once_ms=self.once_ms,
        )

    @property
    def once_ms(self) -> int:
        """How long Redis remembers an idempotency key."""
        return max(round(self.settings.ONCE_DAYS * 86_400_000), 1)

    def shard_of(self, id: str) -> str:
        shards = self.shards
        return shards[0] if len(shards) == 1 else shards[shard_number(id, len(shards))]


def plan(buffer: Declaration, using: str) -> Plan:
    """Return the plan of a buffer under the current settings."""
    level = buffer.option("DURABILITY")
    settings, known = conf.settings(), divisions.known
    durability = None if level == "memory" else Durability(level, settings.DURABILITY_TIMEOUT)
    shards = buffer.shard_keys()
    most = buffer.option("MAX_PENDING")
    terms = Terms(
        Limit(shards, most, most // len(shards)),
        buffer.version,
        round(buffer.option("MAX_AGE") * 1e6),
        round(buffer.option("QUIET") * 1e6),
    )
    return Plan(
        settings,
        known,
        buffer.options,
        using,
        buffer.layout(),
        buffer.key_layout() if isinstance(buffer, KeyedDeclaration) else buffer.layout(),
        buffer.bases(),
        buffer.names(),
        shards,
        terms,
        durability,
        conf.is_direct(),
        is_plain=not conf.is_direct() and durability is None,
    )
