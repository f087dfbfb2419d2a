"""Examinations of a Redis Cluster: its slots, and each of its nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

import redis

from writebehind_app.declaration import Declaration
from writebehind_app.doctor import redis_server
from writebehind_app.doctor.finding import Finding, error, warning
from writebehind_app.doctor.redis_server import Examination, Examined
from writebehind_app.english import counted
from writebehind_app.store import server
from writebehind_app.store.client import Client
from writebehind_app.store.cluster_client import ClusterClient
from writebehind_app.store.failures import reason
from writebehind_app.store.slots import COUNT

AWAY = "writebehind.E118"


def slots(client: ClusterClient, buffers: Collection[Declaration]) -> Iterator[Finding]:
    """Whether each slot has a node that serves it."""
    nodes = client.nodes()  # which asks for the map
    served = COUNT - client.slots.owners.count(None)
    for node in nodes:
        with suppress(redis.RedisError):  # masters() says so
            served = min(served, redis_server.served_slots(Examined(node, {}, buffers)))
    yield from redis_server.not_served(served)


def masters(client: ClusterClient, buffers: Collection[Declaration]) -> Iterator[Finding]:
    """Whether each master is a safe Redis, with enough replicas."""
    wanted = redis_server.wanted_replicas(Examined(client, {}, buffers))
    alone, scarce = [], []
    for node in client.nodes():
        name = f"The master {_address(node)}"
        try:
            found = Examined(node, server.info(node), buffers, name)
            yield from _carried_out(_OF_MASTERS, found)
        except redis.RedisError as problem:
            yield error(
                118,
                f"{name} cannot be used: {_why(problem)}.",
                "While one master is away, the package uses none of them: calls do what WHEN_DOWN "
                "says.",
                "Start it, or a replica that takes its place; or let it announce an address that "
                "all machines reach (cluster-announce-ip).",
            )
        else:
            replicas = found.info.get("connected_slaves")
            if replicas == 0:
                alone.append(_address(node))
            elif wanted and replicas == wanted:
                scarce.append(_address(node))
    if alone:
        yield warning(
            116,
            f"Masters without a replica: {', '.join(alone)}.",
            "If such a master dies, Redis is away until somebody starts it again, and what it did "
            "not write to disk is lost.",
            "Give each master a replica.",
        )
    if scarce:
        yield warning(
            112,
            f"Masters with {counted(wanted, 'replica')}, for which a buffer waits: "
            f"{', '.join(scarce)}.",
            "After a failover the new master has one replica less: then each write of the buffer "
            "to it raises NotDurable, and none of its batches is flushed, until there is another "
            "one.",
            "Start one more replica for each.",
        )


def replicas(client: ClusterClient, buffers: Collection[Declaration]) -> Iterator[Finding]:
    """Whether each replica could be a master."""
    for node in client.replicas():
        name = f"The replica {_address(node)}"
        try:
            found = Examined(node, server.info(node), buffers, name)
            yield from _carried_out(_OF_REPLICAS, found)
        except redis.RedisError as problem:
            yield warning(
                114,
                f"{name} cannot be examined: {_why(problem)}.",
                "It may become a master. Then this machine has to reach it, with the same user and "
                "password.",
                "Start it, or let it announce an address that all machines reach "
                "(cluster-announce-ip).",
            )


def _carried_out(examinations: Mapping[str, Examination], examined: Examined) -> Iterator[Finding]:
    for name, examination in examinations.items():
        if examined.info or name not in redis_server.BY_INFO:
            yield from examination(examined)


def _address(node: Client) -> str:
    options = node.connection_pool.connection_kwargs
    return f"{options['host']}:{options['port']}"


def _why(problem: Exception) -> str:
    return reason(problem).rstrip(".")


_OF_REPLICAS = {
    name: redis_server.EXAMINATIONS[name] for name in ("eviction", "persistence", "clock")
}
_OF_MASTERS = {
    name: redis_server.EXAMINATIONS[name]
    for name in ("eviction", "persistence", "durability", "memory", "clock")
}
EXAMINATIONS = {"slots": slots, "masters": masters, "replicas": replicas}
# These examinations of a Redis are for the cluster as a whole.
OF_REDIS = ("latency", "rights", "INFO", "version", "caches")
