"""How an entry looks in Redis: texts by name, each a JSON value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RESERVED = "@"  # begins the names that are not a field's: '@no', '@n', '@since', '@at', '@delete'


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is pending, or in flight, for one row."""

    id: str  # the row's key, as text
    no: int  # names this entry; a write after it was claimed begins another one
    writes: int  # how many writes are in it
    since: int  # when the first of them came, in µs since 1970
    at: int  # when the last of them came
    delete: bool  # the row that is stored goes
    keep: bool  # there is a row afterwards: the stored one or a new one, with the values in it
    texts: dict[str, str]  # by field name


def entry(id: str, flat: Sequence[str]) -> Entry | None:
    """The entry in the answer of HGETALL, None where there is none."""
    if not flat:
        return None
    texts = dict(zip(flat[::2], flat[1::2], strict=True))
    delete = texts.pop("@delete", None)
    return Entry(
        id=id,
        no=int(texts.pop("@no")),
        since=int(texts.pop("@since")),
        writes=int(texts.pop("@n")),
        at=int(texts.pop("@at")),
        delete=delete is not None,
        keep=delete != "1",
        texts=texts,
    )
