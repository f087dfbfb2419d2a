"""Examinations of the Sentinels, and of the servers that they may make the master."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.sentinel import SentinelConnectionPool

from writebehind_app.doctor.finding import Finding, error, warning
from writebehind_app.doctor.redis_server import (
    Examined,
    clock,
    eviction,
    persistence,
    wanted_replicas,
)
from writebehind_app.english import counted
from writebehind_app.store import server
from writebehind_app.store.client import Client
from writebehind_app.store.failures import reason
from writebehind_app.store.pools import node

_ANSWER = 1.0  # seconds, for each answer of a replica
NO_MASTER = "writebehind.E116"


def quorum(examined: Examined) -> Iterator[Finding]:
    """Whether each Sentinel answers, and enough of them can choose another master."""
    pool = _pool(examined)
    too_few = []
    for sentinel in pool.sentinel_manager.sentinels:
        try:
            sentinel.execute_command("SENTINEL CKQUORUM", pool.service_name)
        except redis.RedisError as problem:
            where, why = server.sentinel_address(sentinel), _why(problem)
            if "NOQUORUM" in why:
                too_few.append(f"{where}: {why}")
                continue
            yield warning(
                113,
                f"The Sentinel at {where} is of no use: {why}.",
                "It is one less that can say who the master is, and choose another one.",
                "Start it, or correct SENTINELS and MASTER_NAME in WRITEBEHIND['REDIS'].",
            )
    if too_few:
        yield error(
            117,
            f"The Sentinels cannot choose another master ({too_few[0]}).",
            "If the master dies now, Redis is away until somebody starts it again.",
            "Start Sentinels until most of them run, and as many as the quorum says.",
        )


def master(examined: Examined) -> Iterator[Finding]:
    """Whether all Sentinels name the same server, and it is a master."""
    pool = _pool(examined)
    named: dict[tuple[str, int], list[str]] = {}
    for sentinel in pool.sentinel_manager.sentinels:
        try:
            state = sentinel.sentinel_masters().get(pool.service_name)
        except redis.RedisError:
            continue  # quorum() says so
        if state:
            address = (state["ip"], int(state["port"]))
            named.setdefault(address, []).append(server.sentinel_address(sentinel))
    why = "A replica takes no writes. Two masters take writes that only one of them keeps."
    do = "See `sentinel masters` and the logs of the Sentinels, and let all monitor the one master."
    for (host, port), by in named.items():
        try:
            with _node(pool, host, port) as client:
                role = server.info(client).get("role", "master")
        except redis.RedisError:
            continue  # it does not answer: another finding
        if role != "master":
            what = f"{host}:{port}, the master by the Sentinel at {', '.join(by)}, is a replica."
            yield error(116, what, why, do)
    if len(named) > 1:
        each = "; ".join(f"{host}:{port} by {', '.join(by)}" for (host, port), by in named.items())
        yield error(116, f"The Sentinels name different masters: {each}.", why, do)


def replicas(examined: Examined) -> Iterator[Finding]:
    """Whether each replica could be the master."""
    alone = [examined.name] if _takes_writes_alone(examined) else []
    for host, port in _replicas(examined):
        try:
            with _node(_pool(examined), host, port) as client:
                name = f"The replica {host}:{port}"
                found = Examined(client, server.info(client), examined.buffers, name)
                if found.info:
                    yield from eviction(found)
                    yield from persistence(found)
                yield from clock(found)
                if _takes_writes_alone(found):
                    alone.append(name)
        except redis.RedisError as problem:
            yield warning(
                114,
                f"The replica {host}:{port} cannot be examined: {_why(problem)}.",
                "Sentinel may make it the master. Then this machine has to reach it, with the same "
                "user and password.",
                "Start it, or let it announce an address that all machines reach "
                "(replica-announce-ip).",
            )
    if alone:
        yield warning(
            115,
            f"{' and '.join(alone)}: min-replicas-to-write is 0.",
            "A master that the network has cut off from the others goes on taking writes, after "
            "another one was chosen. When it is back, they are lost.",
            "Set min-replicas-to-write 1 on each server. What such a master refuses does what "
            "WHEN_DOWN says.",
        )


def spare(examined: Examined) -> Iterator[Finding]:
    """Whether there are enough replicas for `durability` after a failover, too."""
    wanted = wanted_replicas(examined)
    if wanted and examined.info.get("connected_slaves") == wanted:
        yield warning(
            112,
            f"Redis has {counted(wanted, 'replica')}, and a buffer waits for as many.",
            "After a failover the new master has one replica less: then each write of the buffer "
            "raises NotDurable, and none of its batches is flushed, until there is another one.",
            "Start one more replica.",
        )


def _why(problem: Exception) -> str:
    return reason(problem).rstrip(".")


def _pool(examined: Examined) -> SentinelConnectionPool:
    pool = examined.client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    return pool


def _replicas(examined: Examined) -> list[tuple[str, int]]:
    """The replicas that a Sentinel knows, those included that are away."""
    pool = _pool(examined)
    for sentinel in pool.sentinel_manager.sentinels:
        try:
            found: list[dict[str, Any]] = sentinel.sentinel_slaves(pool.service_name)
        except redis.RedisError:
            continue
        return sorted((each["ip"], int(each["port"])) for each in found)
    return []


@contextmanager
def _node(pool: SentinelConnectionPool, host: str, port: int) -> Iterator[Client]:
    changes = {"socket_connect_timeout": _ANSWER, "socket_timeout": _ANSWER}
    client = Client(node(pool, host, port, **changes), timeout=_ANSWER)
    try:
        yield client
    finally:
        client.end()


def _takes_writes_alone(examined: Examined) -> bool:
    """Whether the server takes writes without any replica; False where that is not known."""
    return server.config(examined.client, "min-replicas-to-write") == "0"


EXAMINATIONS = {
    "quorum": quorum,
    "master": master,
    "replicas": replicas,
    "replicas to spare": spare,
}
