"""The Lua scripts, by the name of their file."""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha1
from importlib.resources import files

# Those that are run; the others are parts of them.
NAMES = (
    *("write", "operate", "again"),
    *("claim", "renew", "release", "revoke", "ack", "discard"),
    *("read", "locate", "count", "hasten", "page"),
    *("append", "claim_records", "ack_records", "discard_records"),
    *("locate_record", "count_records", "window", "page_records"),
    "mend",
)

_INCLUDE = re.compile(r"^ *-- include (\w+)\.lua$", re.MULTILINE)


@cache
def source(name: str) -> str:
    """The text of a script, with the files that it includes."""
    text = files(__package__).joinpath("scripts", f"{name}.lua").read_text()
    return _INCLUDE.sub(lambda found: source(found[1]), text)


@cache
def digest(name: str) -> str:
    return sha1(source(name).encode(), usedforsecurity=False).hexdigest()
