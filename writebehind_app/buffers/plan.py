"""What a declaration comes to under the settings in force: worked out once, for all its writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from writebehind_app import conf
from writebehind_app.fields.entry import SIGNS
from writebehind_app.fields.writes import script_texts
from writebehind_app.store.calls import Call, Durability, Limit
from writebehind_app.store.codec import ONCE
from writebehind_app.store.keys import shard_number

if TYPE_CHECKING:
    from writebehind_app.declaration import Declaration
    from writebehind_app.fields.layout import Layout
    from writebehind_app.fields.versions import Names
    from writebehind_app.fields.writes import Write


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How writes to a buffer go, in one database."""

    settings: conf.Settings  # under which it holds, and no longer
    options: Mapping[str, Any]  # the same
    using: str
    layout: Layout
    names: Names
    shards: Sequence[str]
    limit: Limit  # of calls that make one entry
    durability: Durability | None
    max_age: int  # µs, as the next
    quiet: int
    version: int
    is_direct: bool
    # Whether a write that nothing holds back is one call of Redis, and no more.
    is_plain: bool

    def call(
        self,
        write: Write,
        void: Mapping[str, int] = {},
        *,
        max_age: int | None = None,
        once: str = "",
    ) -> Call:
        """What the script `write` is called with; `void` as in `script_texts()`."""
        fields: list[str] = []
        for pair in write.texts.items():
            if pair[1][:1] in SIGNS or pair[0][:1] == "&" or self.names.is_stamped:
                texts = script_texts(self.names, write.texts, void)
                fields = [part for pair in texts.items() for part in pair]
                break
            fields += pair
        if once:
            fields += [ONCE + once, ""]
        return (
            self.shards[shard_number(write.id, len(self.shards))],
            write.id,
            self.max_age if max_age is None else max_age,
            self.quiet,
            write.delete,
            write.guard,
            self.version,
            *fields,
        )


def plan(buffer: Declaration, using: str) -> Plan:
    """The plan of a buffer for now."""
    level = buffer.option("DURABILITY")
    settings = conf.settings()
    durability = None if level == "memory" else Durability(level, settings.DURABILITY_TIMEOUT)
    shards = buffer.shard_keys()
    return Plan(
        settings,
        buffer.options,
        using,
        buffer.layout(),
        buffer.names(),
        shards,
        Limit(shards, buffer.option("MAX_PENDING")),
        durability,
        round(buffer.option("MAX_AGE") * 1e6),
        round(buffer.option("QUIET") * 1e6),
        buffer.version,
        conf.is_direct(),
        is_plain=not conf.is_direct() and durability is None,
    )
