"""An exchange with the nodes of a cluster: which commands go to which node, and how often.

A node that does not have a slot answers MOVED, or ASK while the slot is on its way to another node.
A node whose slot moves, and that has a part of the keys only, answers TRYAGAIN. One that knows
that a slot has no node answers CLUSTERDOWN. With each of them, nothing was carried out. So the
command is sent again: to the other node, or after a pause.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import redis
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from writebehind_app.store.client import Client
from writebehind_app.store.link import Answers, Command
from writebehind_app.store.slots import Address, Slots, slot_of

_PAUSE = 0.02  # seconds until a node is asked again
_LONGEST = 2.0  # seconds for which nodes are asked again, if the call has so much time
_ELSEWHERE = (AskError, TryAgainError, ClusterDownError)  # MOVED is an AskError too
_ASKING = -1  # stands for the index of the command ASKING, which precedes a command after ASK

Make = Callable[[], Sequence[Command]]  # the commands: some have a deadline, and are made anew


class Part(NamedTuple):
    """What is sent to one node."""

    node: Client
    commands: Make
    indexes: Sequence[int]  # of the commands in the whole exchange


# The answers of a node, or the error if nothing was sent to it.
Result = Answers | redis.RedisError

# The next step for the thread or the event loop: send these parts; or wait for these seconds, then
# ask for the map of the slots.
Step = list[Part] | float


def key_of(command: Sequence[Any]) -> str:
    """The key of a command, or "". All keys of the package begin with a hash tag."""
    at = 3 if command[0] in ("EVALSHA", "EVAL") else 1
    key = command[at] if len(command) > at else ""
    return key if isinstance(key, str) and key[:1] == "{" else ""


class Exchange:
    """Commands that are sent together, and the answers so far."""

    def __init__(
        self, slots: Slots, node: Callable[[Address], Client], make: Make, *, again: bool
    ) -> None:
        """`node` returns the client of an address. `again` as in `Client.exchange()`."""
        self._slots = slots
        self._node = node
        self._make = make
        self._again = again
        commands = make()
        self._keys = [key_of(command) for command in commands]
        self._shared = [i for i, key in enumerate(self._keys) if not key]  # for all nodes
        self._answers: list[Any] = [None] * len(commands)
        self._answers_of_shared: list[dict[int, Any]] = []  # by node
        self._error: Exception | None = None
        self._is_first = True  # of the rounds
        self._is_sent = False  # whether a node got anything
        # The next round:
        self._left = [i for i, key in enumerate(self._keys) if key]
        self._asking: dict[int, Address] = {}  # where ASK sent commands
        self._moved: dict[int, Address] = {}  # by slot, where MOVED sent commands
        self._pause: float | None = None  # before it

    def steps(
        self, wait: float, first: tuple[Client, Result] | None = None
    ) -> Generator[Step, list[Result], Answers]:
        """Send the commands until all have their final answers. Raises an error if none was sent.

        `first` is for a single command that was sent before: its node and the result.
        """
        until = time.monotonic() + min(wait, _LONGEST) - _PAUSE
        if first is not None:
            node, result = first
            self._left = []
            self._sort([Part(node, self._make, [0])], [result])
        else:
            if self._slots.is_stale:
                yield 0.0
            if not self._left:
                return (yield from self._everywhere())
        while self._left:
            if not self._is_first:
                if time.monotonic() > until:
                    break
                if self._pause is not None:
                    yield self._pause
                    for slot, owner in self._moved.items():
                        self._slots.move(slot, owner)
            parts = self._parts()
            self._sort(parts, (yield parts) if parts else [])
        for i in self._shared:
            self._answers[i] = least([each.get(i) for each in self._answers_of_shared])
        if not self._is_sent:
            for answer in self._answers:
                if isinstance(answer, redis.RedisError):
                    raise answer
        return self._answers, self._error

    def _everywhere(self) -> Generator[Step, list[Result], Answers]:
        """Send commands without a key to each master. Raises an error if none was reached."""
        masters = self._slots.masters()
        results = yield [Part(self._node(each), self._make, self._shared) for each in masters]
        unsent = [result for result in results if isinstance(result, Exception)]
        sent = [result for result in results if not isinstance(result, Exception)]
        whole = [replies for replies, error in sent if error is None]
        self._slots.is_stale = len(whole) < len(masters)
        if whole:
            return [least(replies) for replies in zip(*whole, strict=True)], None
        if sent:
            return [], sent[0][1]
        raise unsent[0] if unsent else ClusterDownError("No hash slot is served")

    def _parts(self) -> list[Part]:
        """The parts of the next round. Commands whose slots have no node get CLUSTERDOWN."""
        by_node: dict[tuple[Address, bool], list[int]] = {}
        homeless = []
        for i in self._left:
            owner = self._asking.get(i) or self._slots.owners[slot_of(self._keys[i])]
            if owner is None:
                self._answers[i] = ClusterDownError("Hash slot not served")
                homeless.append(i)
            else:
                by_node.setdefault((owner, i in self._asking), []).append(i)
        self._left, self._asking, self._moved, self._pause = homeless, {}, {}, None
        if homeless:
            self._pause = _PAUSE
        parts = []
        # All threads take links in this order. Otherwise two could wait for each other for ever.
        for (owner, is_asking), own in sorted(by_node.items()):
            indexes = sorted([*own, *self._shared]) if self._shared else own
            if is_asking:
                indexes = [n for i in indexes for n in ([_ASKING, i] if self._keys[i] else [i])]
            parts.append(Part(self._node(owner), _picking(self._make, indexes), indexes))
        return parts

    def _sort(self, parts: Sequence[Part], results: Sequence[Result]) -> None:
        """Note the answers, and which commands to send again."""
        for part, result in zip(parts, results, strict=True):
            own = [i for i in part.indexes if i != _ASKING and self._keys[i]]
            if isinstance(result, redis.RedisError):
                for i in own:
                    self._answers[i] = result
                if self._is_first:  # another node may have the slots by now
                    self._repeat(own, 0.0)
            else:
                self._sort_answers(part, own, *result)
        self._left.sort()
        self._is_first = False

    def _sort_answers(
        self, part: Part, own: Sequence[int], replies: Sequence[Any], lost: Exception | None
    ) -> None:
        self._is_sent = True
        answers = dict(zip(part.indexes, replies, strict=False))
        is_taken = False  # any of the commands that belong to this node
        for i in own:
            self._answers[i] = reply = answers.get(i)
            if isinstance(reply, MovedError):
                self._moved[reply.slot_id] = _address(part, reply)
                self._repeat([i], 0.0 if self._is_first else _PAUSE)
            elif isinstance(reply, AskError):
                self._asking[i] = _address(part, reply)
                self._repeat([i], None)
            elif isinstance(reply, _ELSEWHERE):
                self._repeat([i], _PAUSE)
            elif i in answers:
                is_taken = True
        if is_taken and self._shared:
            self._answers_of_shared.append(answers)
        if lost is None:
            return
        missing = [i for i in own if i not in answers]
        if self._again and self._is_first and isinstance(lost, redis.ConnectionError):
            self._repeat(missing, 0.0)
        elif not isinstance(self._error, redis.TimeoutError):
            self._error = lost

    def _repeat(self, indexes: Sequence[int], pause: float | None) -> None:
        self._left += indexes
        if pause is not None:
            self._pause = max(self._pause or 0.0, pause)


def _address(part: Part, error: AskError) -> Address:
    """The node that MOVED or ASK names. A node that does not know its own host leaves it out."""
    host = error.host or part.node.connection_pool.connection_kwargs["host"]
    return host, error.port


def _picking(make: Make, indexes: Sequence[int]) -> Make:
    def picked() -> list[Command]:
        commands = make()
        return [("ASKING",) if i == _ASKING else _sent(commands[i]) for i in indexes]

    return picked


def _sent(command: Command) -> Command:
    """The command as a node gets it."""
    if command[0] in ("EVALSHA", "EVAL"):
        name, script, _, key, *args = command
        return (name, script, *keys_for(str(key)), *args)
    return command


def keys_for(key: str) -> Command:
    """How many keys a script on this key has, and which.

    While a slot moves, some keys of a shard are on one node and some are on the other. A script
    that ran there would find half of the shard. So each script names a key that there never is:
    then a node whose slot moves answers TRYAGAIN, and does not run the script.
    """
    return (2, key, f"{key}:none")


def least(answers: Sequence[Any]) -> Any:
    """The answer of several nodes: an error, None if one is missing, or the least one."""
    for answer in answers:
        if isinstance(answer, Exception):
            return answer
    return None if not answers or None in answers else min(answers)
