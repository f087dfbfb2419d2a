"""Run Lua scripts, by the names of their files, and single commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError

from writebehind_app.store.client import Client
from writebehind_app.store.dialogue import Ask, Dialogue, run_dialogue
from writebehind_app.store.link import Answers, Command, replies_in

# These may run twice.
_READ_ONLY = frozenset(
    [
        *("count", "count_records", "locate", "locate_records", "page", "page_records"),
        *("waiting", "window"),
    ]
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


def run(client: Client, name: str, key: str, *args: str | int) -> Any:
    """Run a script on one shard."""
    return run_dialogue(client, running(name, key, *args))


def run_many(
    client: Client, name: str, calls: Sequence[Command], *, again: bool = False
) -> list[Any]:
    """Run a script for each `(key, *args)`, all in one round trip; `again` as in `exchange()`."""
    return run_each(client, [(name, *call) for call in calls], again=again)


def run_each(client: Client, calls: Sequence[Command], *, again: bool = False) -> list[Any]:
    """Run a script for each `(name, key, *args)`, all in one round trip."""
    if not calls:
        return []
    again = _may_run_twice(calls, again)
    answers = client.exchange(_commands(calls), False, again)
    replies, error = answers
    if error is None and not any(isinstance(reply, Exception) for reply in replies):
        return [*replies]
    return run_dialogue(client, running_each(calls, again=again, answers=answers))


def _may_run_twice(calls: Sequence[Command], again: bool) -> bool:
    return again or all(name in _READ_ONLY for name, *_ in calls)


def _commands(calls: Sequence[Command]) -> list[Command]:
    return [("EVALSHA", digest(str(name)), 1, *args) for name, *args in calls]


def running(name: str, key: str, *args: str | int) -> Dialogue[Any]:
    [reply] = yield from running_each([(name, key, *args)])
    return reply


def running_each(
    calls: Sequence[Command], *, again: bool = False, answers: Answers | None = None
) -> Dialogue[list[Any]]:
    """The dialogue of `run_each()`.

    Redis gets the text of a script only if it does not know the script. Then the call did not run,
    and is sent again, with a SCRIPT LOAD, after the other calls: calls must not depend on their
    order. After all calls were sent, the first error is raised. `answers` are given if the calls
    were sent already.
    """
    again = _may_run_twice(calls, again)
    load: list[Command] = []
    replies: dict[int, Any] = {}
    left: Sequence[int] = range(len(calls))
    while left:
        commands = [*load, *_commands([calls[i] for i in left])]
        results, error = answers or (
            yield Ask(lambda commands=commands: commands, again=again)  # type: ignore[misc]
        )
        answers = None
        if error:
            raise error
        for loaded in results[: len(load)]:
            if isinstance(loaded, redis.ResponseError):
                raise loaded  # Redis does not take the script
        replies.update(zip(left, results[len(load) :], strict=True))
        left = [i for i in left if isinstance(replies[i], NoScriptError)]
        load = [("SCRIPT", "LOAD", source(n)) for n in {str(calls[i][0]): 0 for i in left}]
    for i, (_, key, *_args) in enumerate(calls):
        if isinstance(replies[i], Exception):
            yield from mending(str(key), replies[i])
            raise replies[i]
    return [replies[i] for i in range(len(calls))]


def run_commands(client: Client, commands: Sequence[Command], *, write: bool = False) -> list[Any]:
    """The replies to commands, or the first error; `write` as in `exchange()`."""
    return replies_in(client.exchange(commands, write=write, again=not write))


def mending(key: str, error: Exception) -> Dialogue[None]:
    """Mend a shard if its script failed: another program has written to the shard, and the next
    call should not fail for the same reason."""
    if type(error) is redis.ResponseError and "user_script" in str(error):
        with suppress(redis.RedisError):
            yield Ask(lambda: [("EVAL", source("mend"), 1, key)])


def now(client: Client, at: str) -> int:
    """The time by the clock of the Redis that has the key `at`, in µs since 1970."""
    return run_dialogue(client, asking_time(at))


def asking_time(at: str = "") -> Dialogue[int]:
    seconds, micros = yield from calling("TIME", again=True, at=at)
    return int(seconds) * 1_000_000 + int(micros)


def call(client: Client, *args: str | int, again: bool = False) -> Any:
    """The reply to one command. An error is raised. `again` as in `exchange()`."""
    return run_dialogue(client, calling(*args, again=again))


def calling(*args: str | int, again: bool = False, at: str = "") -> Dialogue[Any]:
    return replies_in((yield Ask(lambda: [args], again=again, at=at)))[0]
