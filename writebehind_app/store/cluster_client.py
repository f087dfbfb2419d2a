"""A client for a Redis Cluster.

Commands go to the nodes that have their keys. Each thread keeps one link to each node, as it does
to a single server. What is sent to several nodes is sent to all of them before the first answer is
read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from writebehind_app.store.breaker import Breaker
from writebehind_app.store.client import Client
from writebehind_app.store.cluster_exchange import Exchange, Make, Part, Result, key_of, keys_for
from writebehind_app.store.failures import is_no_master
from writebehind_app.store.link import Answers, Command, Link
from writebehind_app.store.pools import another
from writebehind_app.store.slots import COUNT, Address, Slots, slot_of

_KEPT = 10_000  # keys whose nodes are remembered
_SHORTEST = 0.01  # seconds to wait for an answer where another node has used up the time


class ClusterClient(Client):
    """Calls scripts over links to the nodes of a cluster."""

    def __init__(
        self,
        pool: redis.ConnectionPool,
        *,
        slots: Slots,
        timeout: float,
        breaker: Breaker | None = None,
        is_held_back: bool = True,
    ) -> None:
        super().__init__(pool, timeout=timeout, breaker=breaker, is_held_back=is_held_back)
        self.slots = slots
        self._nodes: dict[Address, Client] = {}
        # By key: its node, and the keys of a script. As of version `_seen` of the map.
        self._known: dict[str | int, tuple[Client, Command]] = {}
        self._seen = -1

    def exchange(
        self,
        commands: Sequence[Command],
        write: bool = False,
        again: bool = False,
        timeout: float | None = None,
        patience: float = 0,
    ) -> Answers:
        """As for one server, with two differences. An answer that did not come is None: answers to
        later commands may have come from other nodes. Commands without a key, such as WAIT, go to
        each node that the other commands go to, or to each master if all are without a key. The
        least of their answers is returned.
        """
        breaker = self.breaker
        if breaker is not None and not breaker.is_calm and self.is_held_back:
            breaker.check(write=write)
        wait = self.timeout if timeout is None else timeout
        first: tuple[Client, Result] | None = None
        if len(commands) == 1 and self._seen == self.slots.version and not self.slots.is_stale:
            # Most calls are one script on a node that is known: the same as below, in less time.
            command = commands[0]
            if command[0] == "EVALSHA" and (known := self._known.get(command[3])):
                node, keys = known
                try:
                    link = node.links.take()
                except redis.RedisError as unsent:
                    first = node, unsent
                else:
                    sent = [("EVALSHA", command[1], *keys, *command[4:])]
                    answers = _answers(node, link, sent, wait, patience)
                    if answers[0] and not isinstance(answers[0][0], Exception):
                        if breaker is not None and not breaker.is_calm:
                            self._note(*answers, write)
                        return answers
                    first = node, answers
        steps = self._exchange(lambda: commands, again).steps(wait, first)
        try:
            step = next(steps)
            while True:
                if isinstance(step, float):
                    time.sleep(step)
                    self._learn()
                    step = next(steps)
                else:
                    step = steps.send(_ask(step, wait, patience))
        except StopIteration as end:
            replies, error = end.value
        except redis.RedisError as unsent:
            self._note([], unsent, write)
            raise
        self._note(replies, error, write)
        if len(commands) == 1 and commands[0][0] == "EVALSHA":
            self._remember(str(commands[0][3]))
        return replies, error

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
        if self.breaker is not None and self.is_held_back:
            self.breaker.check(write=write)
        wait = self.timeout if timeout is None else timeout
        steps = self._exchange(commands, again).steps(wait)
        try:
            step = next(steps)
            while True:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    await asyncio.get_running_loop().run_in_executor(None, self._learn)
                    step = next(steps)
                else:
                    step = steps.send(await _aask(step, wait + patience, write, ahead))
                    ahead = True
        except StopIteration as end:
            replies, error = end.value
        except redis.RedisError as unsent:
            self._note([], unsent, write)
            raise
        self._note(replies, error, write)
        return replies, error

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command of redis-py on the node that has the key; without a key, on any master."""
        key = key_of(args)
        if self.slots.is_stale:
            self._learn()
        owner = self.slots.owners[slot_of(key)] if key else None
        node = self._node(owner or self.slots.masters()[0])
        return node.execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def nodes(self) -> list[Client]:
        if self.slots.is_stale:
            self._learn()
        return [self._node(address) for address in self.slots.masters()]

    def replicas(self) -> list[Client]:
        """A client for each replica."""
        every = self.slots.replicas.values()
        return [self._node(address) for some in every for address in sorted(some)]

    def places(self, key: str) -> list[str]:
        self._learn()
        self.slots.check_covered()
        found: dict[Address | None, str] = {}
        masters = len(self.slots.masters())
        for n in range(10 * COUNT):
            place = f"{key[:-1]}:{n}}}"
            found.setdefault(self.slots.owners[slot_of.__wrapped__(place)], place)
            if len(found) == masters:
                break
        return list(found.values())

    def hang_up(self) -> None:
        super().hang_up()
        for node in list(self._nodes.values()):
            node.hang_up()

    def _note(self, replies: Sequence[Any], error: Exception | None, write: bool) -> None:
        if any(map(is_no_master, replies)):
            self.slots.is_stale = True
        super()._note(replies, error, write)

    def _learn(self) -> None:
        """Ask for the map of the slots, and forget nodes that are not in it any more."""
        self.slots.refresh(self.slots.version)
        known = {*self.slots.masters(), *(a for some in self.slots.replicas.values() for a in some)}
        for address in {*list(self._nodes)} - known:
            if node := self._nodes.pop(address, None):
                node.hang_up()

    def _node(self, address: Address) -> Client:
        node = self._nodes.get(address)
        if node is None:
            pool = another(self.connection_pool, host=address[0], port=address[1])
            made = _Node(
                pool,
                timeout=self.timeout,
                breaker=self.breaker,
                is_held_back=self.is_held_back,
            )
            node = self._nodes.setdefault(address, made)
        return node

    def _exchange(self, make: Make, again: bool) -> Exchange:
        return Exchange(self.slots, self._node, make, again=again)

    def _remember(self, key: str) -> None:
        """Note which node has the key of a script, so that the next call finds it at once."""
        if self._seen != self.slots.version or len(self._known) >= _KEPT:
            self._known, self._seen = {}, self.slots.version
        if owner := self.slots.owners[slot_of(key)]:
            self._known[key] = self._node(owner), keys_for(key)


class _Node(Client):
    """The client of one node. The client of the cluster notes the outcomes of its calls."""

    def _note(self, replies: Sequence[Any], error: Exception | None, write: bool) -> None:
        pass


def _ask(parts: Sequence[Part], wait: float, patience: float) -> list[Result]:
    """Send the parts, each to its node, and wait for their answers."""
    results: list[Result] = []
    taken: list[tuple[int, Client, Link]] = []  # of links, and which part they are for
    is_sent = len(parts) > 1
    until = time.monotonic() + wait
    try:
        for node, commands, _ in parts:
            try:
                link = node.links.take()
            except redis.RedisError as unsent:
                results.append(unsent)
                continue
            taken.append((len(results), node, link))
            results.append(([], None))
            if is_sent:
                link.send(commands(), wait)
        for i, node, link in [*taken]:
            taken.pop(0)
            answers = _answers(node, link, parts[i].commands(), wait, patience, is_sent)
            results[i] = answers
            if answers[1] is not None:  # the others have no more time than is left
                wait = min(wait, max(until - time.monotonic(), _SHORTEST))
    except BaseException:
        for _, node, link in taken:
            node.links.end(link)  # an answer may be on its way still
        raise
    return results


def _answers(
    node: Client,
    link: Link,
    commands: Sequence[Command],
    wait: float,
    patience: float,
    is_sent: bool = False,
) -> Answers:
    """The answers to commands over a link. The link is given back, or closed if one is missing."""
    try:
        answers = link.ask(commands, wait, patience, is_sent)
    except BaseException:
        node.links.end(link)  # an answer may be on its way still
        raise
    if answers[1] is None:
        link.home.append(link)
    else:
        node.links.end(link)
    return answers


async def _aask(parts: Sequence[Part], wait: float, write: bool, ahead: bool) -> list[Result]:
    """The twin of `_ask()`."""
    asked = (node._aexchange(commands, wait, write, ahead=ahead) for node, commands, _ in parts)
    results: list[Result] = []
    for result in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, redis.RedisError):
            raise result
        results.append(result)
    return results
