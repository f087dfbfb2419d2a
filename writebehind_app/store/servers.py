"""Several Redis as this process knows them: where a buffer names one of its own.

Each of them has its own client and its own breaker: while one is away, the others are used. All
keys of a buffer are on its Redis. Keys that belong to no buffer, as those of locks, are on the one
that the settings name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis

from writebehind_app import conf
from writebehind_app.store.client import Client
from writebehind_app.store.cluster_exchange import Make, Result, key_of, least
from writebehind_app.store.link import Answers, Command


class Servers(Client):
    """Sends each command to the client of the Redis that has its key."""

    def __init__(self, first: Client, by_label: Mapping[str, Client]) -> None:
        """`first` is the one that the settings name; by the label of their buffer, the others."""
        every = [*dict.fromkeys([first, *by_label.values()])]
        super().__init__(
            first.connection_pool,
            timeout=max(each.timeout for each in every),
            breaker=first.breaker,
            is_held_back=first.is_held_back,
        )
        self._first = first
        self._by_label = by_label
        self._every = every

    def servers(self) -> list[Client]:
        return self._every

    def server_of(self, key: str) -> Client:
        label = key.removeprefix(f"{{{conf.prefix()}:").partition(":")[0]
        return self._by_label.get(label, self._first)

    def nodes(self) -> list[Client]:
        return [node for each in self._every for node in each.nodes()]

    def exchange(
        self,
        commands: Sequence[Command],
        write: bool = False,
        again: bool = False,
        timeout: float | None = None,
        patience: float = 0,
    ) -> Answers:
        """As for one server, and as for a cluster: an answer that did not come is None, since those
        to later commands may have come from another Redis. If one of them was sent nothing, the
        error is the answer to each of its commands. Commands without a key, as WAIT, go where the
        others go; if all are without, as TIME, to the first Redis that answers.
        """
        if len(commands) == 1 and (key := key_of(commands[0])):
            return self.server_of(key).exchange(commands, write, again, timeout, patience)
        parts = self._parts(commands)
        if len(parts) == 1:
            [server] = parts
            return server.exchange(commands, write, again, timeout, patience)

        def ask(server: Client, commands: Sequence[Command]) -> Result:
            try:
                return server.exchange(commands, write, again, timeout, patience)
            except redis.RedisError as unsent:
                return unsent

        if not parts:
            for server in self._every:
                result = ask(server, commands)
                if _is_whole(result):
                    break
            return _answers_of(result)
        results = [ask(server, [commands[i] for i in own]) for server, own in parts.items()]
        return _together(commands, parts, results)

    async def aexchange(
        self,
        commands: Callable[[], Sequence[Command]],
        write: bool = False,
        again: bool = False,
        timeout: float | None = None,
        patience: float = 0,
        *,
        ahead: bool = False,
    ) -> Answers:
        """The twin of `exchange()`."""
        made = commands()
        parts = self._parts(made)
        if len(parts) == 1:
            [server] = parts
            return await server.aexchange(commands, write, again, timeout, patience, ahead=ahead)

        async def ask(server: Client, make: Make) -> Result:
            try:
                return await server.aexchange(make, write, again, timeout, patience, ahead=ahead)
            except redis.RedisError as unsent:
                return unsent

        if not parts:
            for server in self._every:
                result = await ask(server, commands)
                if _is_whole(result):
                    break
            return _answers_of(result)
        asked = [ask(server, _picking(commands, own)) for server, own in parts.items()]
        return _together(made, parts, await asyncio.gather(*asked))

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """What is rare: redis-py does it."""
        server = self.server_of(key_of(args))
        return server.execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def hang_up(self) -> None:
        for each in self._every:
            each.hang_up()

    def end(self) -> None:
        for each in self._every:
            each.end()

    def _parts(self, commands: Sequence[Command]) -> dict[Client, list[int]]:
        """What each server is sent: the indexes of the commands. Nothing if all are without a
        key."""
        parts: dict[Client, list[int]] = {}
        shared = []
        for i, command in enumerate(commands):
            if key := key_of(command):
                parts.setdefault(self.server_of(key), []).append(i)
            else:
                shared.append(i)
        return {server: sorted([*own, *shared]) for server, own in parts.items()}


def _picking(make: Make, indexes: Sequence[int]) -> Make:
    def picked() -> list[Command]:
        commands = make()
        return [commands[i] for i in indexes]

    return picked


def _is_whole(result: Result) -> bool:
    return not isinstance(result, Exception) and result[1] is None


def _answers_of(result: Result) -> Answers:
    if isinstance(result, Exception):
        raise result
    return result


def _together(
    commands: Sequence[Command], parts: Mapping[Client, Sequence[int]], results: Sequence[Result]
) -> Answers:
    """The answers of all servers, in the order of the commands. Raises an error if none of them was
    sent anything."""
    answers: list[Any] = [None] * len(commands)
    of_shared: list[dict[int, Any]] = []
    error: Exception | None = None
    for indexes, result in zip(parts.values(), results, strict=True):
        if isinstance(result, redis.RedisError):
            for i in indexes:
                answers[i] = result
            continue
        replies, lost = result
        found = dict(zip(indexes, replies, strict=False))
        of_shared.append(found)
        for i in indexes:
            answers[i] = found.get(i)
        if lost is not None and not isinstance(error, redis.TimeoutError):
            error = lost
    if not of_shared:
        return _answers_of(results[0])
    for i, command in enumerate(commands):
        if not key_of(command):
            answers[i] = least([found.get(i) for found in of_shared])
    return answers, error
