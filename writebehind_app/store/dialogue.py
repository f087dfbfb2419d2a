"""What is asked of Redis in turn, whoever waits for the answers: a thread or an event loop.

def last_number(key: str) -> Dialogue[int]:
    replies, error = yield Ask(lambda: [("HGET", key, "no")], again=True)
    ...

hold(client, last_number(key))
await ahold(client, last_number(key))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

import redis

from writebehind_app.store.client import Client
from writebehind_app.store.link import Answers, Command

Result = TypeVar("Result")


class Ask(NamedTuple):
    """Commands that are sent together; the rest as in `Client.exchange()`."""

    commands: Callable[[], Sequence[Command]]  # made when they can be sent: some have a deadline
    write: bool = False
    again: bool = False
    timeout: float | None = None
    patience: float = 0


# Is given what was answered to each `Ask`; what kept all of it from being sent is raised in it.
Dialogue = Generator[Ask, Answers, Result]


def hold(client: Client, dialogue: Dialogue[Result]) -> Result:
    """The result of a dialogue."""
    try:
        ask = next(dialogue)
        while True:
            commands, write, again, timeout, patience = ask
            try:
                exchanged = client.exchange(commands(), write, again, timeout, patience)
            except redis.RedisError as unsent:
                ask = dialogue.throw(unsent)
            else:
                ask = dialogue.send(exchanged)
    except StopIteration as end:
        result: Result = end.value
        return result


async def ahold(client: Client, dialogue: Dialogue[Result]) -> Result:
    """The same, for an event loop."""
    try:
        ask = next(dialogue)
        while True:
            commands, write, again, timeout, patience = ask
            try:
                exchanged = await client.aexchange(commands, write, again, timeout, patience)
            except redis.RedisError as unsent:
                ask = dialogue.throw(unsent)
            else:
                ask = dialogue.send(exchanged)
    except StopIteration as end:
        result: Result = end.value
        return result
