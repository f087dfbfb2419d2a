"""What somebody who can write to Redis leaves there.

Entries are planted by spoiling what a buffer wrote itself, so that nothing here knows how a good
one looks. The client of each function reads bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis

from tests.backdoor.entries import FIRST, LAST, TIME, digest, place
from writebehind_app.buffers.base import Buffer
from writebehind_app.database.letters import entry_in
from writebehind_app.models import DeadLetter

DEEP = 20_000

# None of these is the text of a value of any field, nor an operation.
GARBAGE = [
    b"",
    b" ",
    b"{",
    b"[",
    b'"',
    b"]",
    b"\xff\xfe",
    b'"\xc3\x28"',
    b"\x00",
    b"nonsense",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    b"@",
    b"!!",
    b"&",
    b"^",
    b"#",
    b"#1",
    b"#,,,,",
    b"#a,b,c,d,e",
    b"#1,2,3,4,5,6,7",
    b"#" + b"9" * 5000 + b",,,0,",
    b"$1e999,,,,",
    b"$[],[],[],[],",
    b"~,,",
    b"~x,y,z",
    b"%nan,nan,nan",
    b"+#1,,0,9",
    b">",
    b"<~",
    b"__import__('os').abort()",
    b"cos\nsystem\n(S'true'\ntR.",  # a pickle
]

# None of these is the number of a write.
NUMBERS = [
    b"",
    b" ",
    b"0",
    b"-1",
    b"a",
    b"1e9",
    b"nan",
    b"1.5",
    b"0x1",
    b"999999999999999999",
    b"9" * 30,
    b"9" * 5000,
    b"\xff",
    "\N{ARABIC-INDIC DIGIT ONE} x".encode(),
    b"1 1",
    b"1\n1",
]

NAMES = [
    b"",
    b"&",
    b"&a",
    b"&a:",
    b"&a:x",
    b'&:"x"',
    b'&no:"x"',
    b"@@",
    b'@"',
    b"*",
    b"*\x00",
    b"*" + b"0" * 41,
    b"no such field",
    b"id",
    b"pk",
    b"__class__",
    b"\xff",
    b"\x00",
    b'"',
    b'"a',
    b"[" * DEEP,
    b"9" * 5000,
    b"5",
    b"null",
    b"x" * 5000,
]

IDS = [
    b"",
    b" ",
    b"x",
    b"{",
    b"[1]",
    b'{"a": 1}',
    b'"a',
    b"null,null,null,null",
    b"1,,2",
    b",",
    b"1e999",
    b"NaN",
    b"9" * 5000,
    b"9" * 25,
    b"[" * DEEP,
    b"\xff",
    b"\x00",
    b'"\xff","\xff"',
    b"../../etc/passwd",
    b":e:1",
    b"}:due",
]


def integers(rng: random.Random) -> bytes:
    return str(rng.choice([-1, 0, 1, 2**63, -(2**64), rng.randrange(10**20)])).encode()


def bytes_of(rng: random.Random) -> bytes:
    """Anything; it begins so that it is no value."""
    return b"\\" + rng.randbytes(rng.randrange(30))


def put_other_type(client: redis.Redis, key: bytes, rng: random.Random) -> None:
    client.delete(key)
    match rng.randrange(5):
        case 0:
            client.set(key, rng.choice(GARBAGE) or b"x")
        case 1:
            client.rpush(key, b"x", b"\xff")
        case 2:
            client.sadd(key, b"x")
        case 3:
            client.zadd(key, {b"x": 1})
        case 4:
            client.xadd(key, {b"x": b"y"})


def entry_keys(client: redis.Redis, buffer: Buffer, id: str) -> tuple[bytes, bytes]:
    """The keys of the shard and of a pending entry."""
    shard, key = buffer.shard_key_of(id).encode(), place(buffer, id).encode()
    assert client.exists(key)
    return shard, key


def put_guard(client: redis.Redis, buffer: Buffer, id: str, name: bytes, value: bytes) -> None:
    """Spoil what a guard of that id is made of: a number of its entry, or the guard of shards."""
    if name == b"guard":
        for shard in buffer.shard_keys():
            client.hset(shard, name, value)
        return
    _, key = entry_keys(client, buffer, id)
    if name == b"!":
        client.hdel(key, LAST)
    client.hset(key, name, value)


def is_dead(id: bytes, text: str = "") -> bool:
    """Whether there is a dead letter of the entry that has that id, or of a row of it, and it has
    that text."""
    letters = DeadLetter.objects.filter(entry__contains=text)
    return letters.filter(digest=digest(id)).exists() or any(
        id.decode() in entry_in(letter).id for letter in letters
    )


# Each spoils the pending entry of an id; returns the id that it has then.
Spoil = Callable[[redis.Redis, Buffer, str, random.Random], bytes]


def spoil_number(client: redis.Redis, buffer: Buffer, id: str, rng: random.Random) -> bytes:
    _, key = entry_keys(client, buffer, id)
    name = rng.choice([FIRST, LAST, "!"])
    if rng.random() < 0.2 and name == FIRST:
        client.hdel(key, name)
    else:
        client.hset(key, name, rng.choice([*NUMBERS, bytes_of(rng)]))
    return id.encode()


def spoil_text(client: redis.Redis, buffer: Buffer, id: str, rng: random.Random) -> bytes:
    _, key = entry_keys(client, buffer, id)
    names: Any = client.hkeys(key)
    name = rng.choice(
        [name for name in names if name[:1] not in (b"#", b"@", b"!", b"^", b"&", b"*")]
    )
    spoil_one(client, key, name, rng)
    return id.encode()


def spoil_one(client: redis.Redis, key: bytes, name: bytes, rng: random.Random) -> None:
    """In place of a text, or only of what follows its time."""
    before: Any = client.hget(key, name)
    kept = before[:TIME] if rng.random() < 0.8 else b""
    client.hset(key, name, kept + rng.choice([*GARBAGE, bytes_of(rng)]))


def spoil_name(client: redis.Redis, buffer: Buffer, id: str, rng: random.Random) -> bytes:
    _, key = entry_keys(client, buffer, id)
    # What is older than a value is as void as what the package leaves there itself.
    text = rng.choice([b"", b"5" * TIME]) + rng.choice([b"1", b'"x"', b"[1]", b""])
    client.hset(key, rng.choice([*NAMES, bytes_of(rng)]), text)
    return id.encode()


def spoil_type(client: redis.Redis, buffer: Buffer, id: str, rng: random.Random) -> bytes:
    _, key = entry_keys(client, buffer, id)
    put_other_type(client, key, rng)
    return id.encode()


def spoil_id(client: redis.Redis, buffer: Buffer, id: str, rng: random.Random) -> bytes:
    shard, key = entry_keys(client, buffer, id)
    other = rng.choice([*IDS, bytes_of(rng)])
    client.rename(key, shard + b":e:" + other)
    client.zrem(shard + b":due", id)
    score = rng.choice(["-inf", "+inf", 0, 1, 10**15, 1e300])
    client.zadd(shard + b":due", {other: score})
    return other


SPOILS: list[Spoil] = [spoil_number, spoil_text, spoil_name, spoil_type, spoil_id]

# Records


def spoil_log(client: redis.Redis, buffer: Buffer, rng: random.Random) -> None:
    """Records that no append made, numbers of none, times of none; in any shard."""
    shard = rng.choice(buffer.shard_keys()).encode()
    fields = {b"event": b"1", b"email": b'"x"'}
    match rng.randrange(6):
        case 0:
            fields = {rng.choice(NAMES) or b"x": b"1", b"": b""}
        case 1:
            fields[rng.choice(list(fields))] = rng.choice(GARBAGE)
        case 2:
            fields = {b"=": rng.choice(NUMBERS)}
        case 3:
            fields = {b"email": b'"x"', b"event": b"1"}
        case 4:
            names = [b"", b"x", b"-1", b"\xff", b"9" * 30, b"1", b"18446744073709551615"]
            client.zadd(shard + b":times", {rng.choice(names): rng.choice([0, "inf", 1e15])})
            return
        case 5:
            client.hset(shard + b":taken:" + rng.randbytes(1).hex().encode() + b"0", b"x", b"y")
            return
    number = rng.choice(["*", "5-7", "18446744073709551615-0", f"{10**17}-1", f"{3 * 10**15}-0"])
    with suppress(redis.ResponseError):  # there is a greater one
        client.xadd(shard + b":log", fields, id=number)


# Shards

STATE_KEYS = [
    *(
        "",
        ":due",
        ":flight",
        ":senders",
        ":log",
        ":times",
        ":discarded",
        ":taken:000",
        ":taken:fff",
    ),
]
STATE_FIELDS = [
    *("last", "first", "forgot", "closed", "crowded", "version", "batches", "accepted", "flushed"),
    *("discarded", "lease", "attempts", "retry_at", "claimed", "flying", "max_age", "quiet"),
    *("unique", "to", "token", "error", "guard", "acked", "took", "rows", "buried", "retries"),
]
STATE_VALUES = [
    *(b"", b"x", b"-1", b"0", b"1", b"1.5", b"nan", b"inf", b"-inf", b"1e300", b"\xff\x00"),
    *(b"9" * 16, b"9" * 19, b"9" * 30, b"9" * 5000, b"0" * 16, b"-" + b"9" * 18, b"1e15"),
]


def spoil_state(client: redis.Redis, buffer: Buffer, rng: random.Random) -> Any:
    """Spoils what any shard keeps next to its entries; says how."""
    shard = rng.choice(buffer.shard_keys()).encode()
    match rng.randrange(5):
        case 0:
            put_other_type(client, key := shard + rng.choice(STATE_KEYS).encode(), rng)
            return key, client.type(key)
        case 1:
            if client.type(shard + b":due") in (b"zset", b"none"):
                client.zadd(shard + b":due", {rng.choice([*IDS, bytes_of(rng)]): rng.random()})
        case 2:
            if client.type(shard + b":flight") in (b"list", b"none"):
                client.rpush(shard + b":flight", rng.choice([*IDS, bytes_of(rng)]))
        case _:
            name, value = rng.choice(STATE_FIELDS), rng.choice(STATE_VALUES)
            if client.type(shard) in (b"hash", b"none"):
                client.hset(shard, name, value)
            return shard, name, value
