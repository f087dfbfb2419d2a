"""How an entry looks in Redis: its head, and a JSON text for each field. A record of a log has no
head; its number says all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

HEAD = "@"  # no field of a model can be called that
NOTHING = ""  # stands in a record without fields, as a stream takes none without


class Entry(NamedTuple):
    """What is pending, or in flight, for one row; or one record of a log."""

    id: str  # the row's key, as text; of a record, its number
    head: str  # differs from what it was once anything was written to the entry
    no: int  # names this entry; a write after it was claimed begins another one
    writes: int  # how many writes are in it
    since: int  # when the first of them came, in µs since 1970
    at: int  # when the last of them came
    born: int  # when the row came to be, if these writes make it
    delete: bool  # the row that is stored goes
    keep: bool  # there is a row afterwards: the stored one or a new one, with the values in it
    relative: bool  # some texts are operations on what is stored
    texts: dict[str, str]  # by field name


def entry(id: str, flat: Sequence[str]) -> Entry | None:
    """The entry in the answer of HGETALL, None where there is none; or the record of a stream."""
    if not flat:
        return None
    texts = dict(zip(flat[::2], flat[1::2], strict=True))
    head = texts.pop(HEAD, None)
    if head is None:
        return _record(int(id.partition("-")[0]), texts)
    no, writes, since, at, row, relative = head.split()
    return Entry(
        id,
        head,
        int(no),
        int(writes),
        int(since),
        int(at),
        int(since if row in ("1", "2") else row),
        row != "1",
        row != "2",
        relative == "1",
        texts,
    )


def _record(no: int, texts: dict[str, str]) -> Entry:
    texts.pop(NOTHING, None)
    return Entry(str(no), "", no, 1, no, no, no, False, True, False, texts)
