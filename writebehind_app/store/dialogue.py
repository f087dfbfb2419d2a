"""Several exchanges with Redis as one generator, which a thread or an event loop runs.

def last_number(key: str) -> Dialogue[int]:
    replies, error = yield Ask(lambda: [("HGET", key, "no")], again=True)
    ...

run_dialogue(client, last_number(key))
await arun_dialogue(client, last_number(key))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

import redis

from writebehind_app.store.client import Client
from writebehind_app.store.link import Answers, Command

Result = TypeVar("Result")


class Ask(NamedTuple):
    """Commands that are sent together. The other fields are arguments of `Client.exchange()`."""

    commands: Callable[[], Sequence[Command]]  # made when they can be sent: some have a deadline
    write: bool = False
    again: bool = False
    timeout: float | None = None
    patience: float = 0
    at: str = ""  # a key: commands without one are for the Redis that has it


class Pause(NamedTuple):
    """A wait of some seconds."""

    seconds: float


# It yields an `Ask` and gets the answers. If nothing was sent, the error is raised in the dialogue.
Dialogue = Generator[Ask | Pause, Answers, Result]


_NOTHING: Answers = ([], None)


def run_dialogue(client: Client, dialogue: Dialogue[Result]) -> Result:
    """Run a dialogue, and return its result."""
    try:
        ask = next(dialogue)
        while True:
            if isinstance(ask, Pause):
                time.sleep(ask.seconds)
                ask = dialogue.send(_NOTHING)
                continue
            commands, write, again, timeout, patience, at = ask
            server = client.server_of(at) if at else client
            try:
                exchanged = server.exchange(commands(), write, again, timeout, patience)
            except redis.RedisError as unsent:
                ask = dialogue.throw(unsent)
            else:
                ask = dialogue.send(exchanged)
    except StopIteration as end:
        result: Result = end.value
        return result


async def arun_dialogue(client: Client, dialogue: Dialogue[Result]) -> Result:
    """Run a dialogue in an event loop. A dialogue that has begun goes ahead of those that wait to
    begin: otherwise each of these would find out by itself that Redis does not know a script."""
    has_begun = False
    try:
        ask = next(dialogue)
        while True:
            if isinstance(ask, Pause):
                await asyncio.sleep(ask.seconds)
                ask = dialogue.send(_NOTHING)
                continue
            commands, write, again, timeout, patience, at = ask
            server = client.server_of(at) if at else client
            try:
                exchanged = await server.aexchange(
                    commands, write, again, timeout, patience, ahead=has_begun
                )
            except redis.RedisError as unsent:
                ask = dialogue.throw(unsent)
            else:
                ask = dialogue.send(exchanged)
            has_begun = True
    except StopIteration as end:
        result: Result = end.value
        return result
