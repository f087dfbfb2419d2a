"""Three masters and three replicas of a Redis Cluster that a test may kill, freeze and reshard."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import redis

from tests.servers.process import LOCALHOST, Absent, free_port
from tests.servers.redis import RedisServer

SLOTS = 16384
_QUICK: dict[str, Any] = {"socket_timeout": 1, "retry": None}  # of a client
_TIMEOUT = "1000"  # ms until a node that does not answer counts as failed


class ClusterGroup:
    """They are on free ports of this machine, with their own data."""

    def __init__(self, kind: str, **config: str) -> None:
        config = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": _TIMEOUT,
            "cluster-replica-validity-factor": "0",  # a replica may lag on a busy machine
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",  # CLUSTER SLOTS shows a replica after the first one
            **config,
        }
        self.kind = kind
        self._config = config
        self.nodes = [self._new_node() for _ in range(6)]
        self._servers = ExitStack()

    @property
    def has_waitaof(self) -> bool:
        return self.kind == "valkey"  # Redis has it since 7.2

    @property
    def setting(self) -> dict[str, Any]:
        """What WRITEBEHIND["REDIS"] has to be."""
        return {"CLUSTER": [f"redis://{LOCALHOST}:{node.port}" for node in self.nodes]}

    def ids(self) -> dict[str, RedisServer]:
        """The nodes that run, by the ids that they have in the cluster."""
        found = {}
        for node in self.nodes:
            if node.running:
                with node.client(decode_responses=True) as client:
                    found[client.execute_command("CLUSTER MYID")] = node
        return found

    def masters(self) -> dict[RedisServer, list[RedisServer]]:
        """The nodes that have slots, by the first node that says so, and the replicas of each."""
        by_port = {node.port: node for node in self.nodes}
        for slots in map(_slots, self.nodes):
            if slots is not None:
                found: dict[RedisServer, list[RedisServer]] = {}
                for _, _, master, *replicas in slots:
                    found[by_port[master[1]]] = [by_port[each[1]] for each in replicas]
                return found
        return {}

    def owner(self, slot: int) -> RedisServer:
        """The master that has the slot."""
        for slots in map(_slots, self.nodes):
            for first, last, master, *_ in slots or ():
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"Nobody has the slot {slot}.")

    def other(self, slot: int) -> RedisServer:
        """A master that does not have the slot."""
        owner = self.owner(slot)
        return next(node for node in self.masters() if node is not owner)

    def is_whole(self) -> bool:
        """Whether all nodes run, and three masters have all slots, and a replica each."""
        if not all(_is_ok(node) for node in self.nodes) or not self.is_served():
            return False
        masters = self.masters()
        return len(masters) == 3 and all(masters.values()) and all(map(self._is_well, self.nodes))

    def is_served(self) -> bool:
        """Whether all nodes that answer say that all slots are served, by the same nodes."""
        views = {node: view for node in self.nodes if (view := _slots(node)) is not None}
        owners = [
            sorted((first, last, master[1]) for first, last, master, *_ in view)
            for view in views.values()
        ]
        return all(each == owners[0] for each in owners) and all(map(_is_ok, views))

    def fail_over(self, slot: int) -> RedisServer:
        """Make a replica the master of the slot, as somebody does before an upgrade. Returns it."""
        before = self.owner(slot)
        after = self.masters()[before][0]
        asked = 0.0

        def happened() -> bool:
            nonlocal asked
            if self.owner(slot) is after:
                return self.is_served()
            # A server gives it up after five seconds, and tells nobody.
            if time.monotonic() - asked > 6:
                with after.client() as client, suppress(redis.ResponseError):
                    client.execute_command("CLUSTER FAILOVER")
                asked = time.monotonic()
            return False

        self._until(happened)
        return after

    def migrate(self, slot: int, to: RedisServer, *, keys: int | None = None) -> None:
        """Begin to move a slot, as `redis-cli --cluster reshard` does, and so many of its keys."""
        source = self.owner(slot)
        ids = {node: id for id, node in self.ids().items()}
        with to.client() as there, source.client() as here:
            there.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
            here.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[to])
        self.move_keys(slot, source, to, keys)

    def move_keys(
        self, slot: int, source: RedisServer, to: RedisServer, most: int | None = None
    ) -> None:
        with source.client() as here:
            while most is None or most > 0:
                keys = here.execute_command("CLUSTER GETKEYSINSLOT", slot, most or 100)
                if not keys:
                    break
                here.execute_command("MIGRATE", LOCALHOST, to.port, "", 0, 10_000, "KEYS", *keys)
                if most is not None:
                    break

    def finish(self, slot: int, source: RedisServer, to: RedisServer) -> None:
        """End a move: all of the keys are there, and each node knows it."""
        self.move_keys(slot, source, to)
        ids = {node: id for id, node in self.ids().items()}
        for node in dict.fromkeys([to, source, *self.masters()]):
            with node.client() as client:
                try:
                    client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[to])
                except redis.ResponseError:  # it was its last slot: it has become a replica
                    if node is not source:
                        raise

    @contextmanager
    def joined(self) -> Iterator[RedisServer]:
        """A further master with a replica meanwhile. It has no slots at first, and none at the
        end."""
        master, replica = new = [self._new_node(), self._new_node()]
        with ExitStack() as servers:
            for node in new:
                servers.enter_context(node)
                with node.client() as client:
                    client.execute_command("CLUSTER MEET", LOCALHOST, *self._address(self.nodes[0]))
            self.nodes += new
            self._until(lambda: all(_known(node) == len(self.nodes) for node in self.nodes))
            ids = {node: id for id, node in self.ids().items()}
            with replica.client() as client:
                client.execute_command("CLUSTER REPLICATE", ids[master])
            self._until(lambda: all(map(self._is_well, new)) and self.is_served())
            yield master
        for node in new:
            self.nodes.remove(node)
        for node in self.nodes:
            with node.client() as client:
                for gone in (replica, master):
                    client.execute_command("CLUSTER FORGET", ids[gone])
        self._wait()

    def clear(self) -> None:
        """Whole and empty, whatever a test did."""
        for node in self.nodes:
            if node.running:
                node.resume()
            node.start()
        self._wait()
        for node in self.masters():
            with node.client() as client:
                client.flushall()
                client.wait(1, 10_000)

    def __enter__(self) -> ClusterGroup:
        try:
            self._begin()
        except Absent:  # on a busy machine, nodes may take each other for dead from the start
            self._servers.close()
            self.nodes = [self._new_node() for _ in range(6)]
            self._begin()
        return self

    def _begin(self) -> None:
        self._introduce()
        for node in self.nodes:
            self._servers.enter_context(node)
        self._wait()

    def __exit__(self, *exception: object) -> None:
        self._servers.close()

    def _new_node(self) -> RedisServer:
        port = {"cluster-port": str(free_port())}
        return RedisServer(self.kind, **self._config, **port)

    def _address(self, node: RedisServer) -> tuple[int, str]:
        return node.port, node.config["cluster-port"]

    def _introduce(self) -> None:
        """Write the file in which each node keeps what it knows of the others. They would take some
        seconds to meet."""
        ids = [secrets.token_hex(20) for _ in self.nodes]
        share = SLOTS // 3 + 1
        for me in self.nodes:
            lines = []
            for n, (node, id) in enumerate(zip(self.nodes, ids, strict=True)):
                flags = "master" if n < 3 else "slave"
                flags = f"myself,{flags}" if node is me else flags
                master, slots = "-", f" {n * share}-{min((n + 1) * share, SLOTS) - 1}"
                if n >= 3:
                    master, slots = ids[n - 3], ""
                address = f"{LOCALHOST}:{node.port}@{node.config['cluster-port']}"
                epoch = n % 3 + 1
                lines.append(f"{id} {address} {flags} {master} 0 0 {epoch} connected{slots}\n")
            text = "".join(lines) + "vars currentEpoch 3 lastVoteEpoch 0\n"
            (me.directory / "nodes.conf").write_text(text)

    def _wait(self) -> None:
        self._until(self.is_whole)

    def _until(self, happened: Any) -> None:
        deadline = time.monotonic() + 60
        while not happened():
            if time.monotonic() > deadline:
                raise Absent(f"the cluster of {self.kind} is not whole")
            time.sleep(0.05)

    def _is_well(self, node: RedisServer) -> bool:
        with node.client(decode_responses=True) as client:
            info = client.info("replication")
        if info["role"] == "master":
            return info["connected_slaves"] >= 1
        return info["master_link_status"] == "up"


def _is_ok(node: RedisServer) -> bool:
    if node.running:
        with suppress(redis.RedisError), node.client(decode_responses=True, **_QUICK) as client:
            return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
    return False


def _known(node: RedisServer) -> int:
    """How many nodes a node knows of, itself included."""
    with node.client(decode_responses=True) as client:
        return int(client.execute_command("CLUSTER INFO")["cluster_known_nodes"])


def _slots(node: RedisServer) -> list[Any] | None:
    """What a node says of the slots; None if it does not answer."""
    if not node.running:
        return None
    with suppress(redis.RedisError), node.client(**_QUICK) as client:
        connection = client.connection_pool.get_connection()
        try:
            connection.send_command("CLUSTER", "SLOTS")
            found: list[Any] = connection.read_response()
        finally:
            client.connection_pool.release(connection)
        return found
    return None
