"""A master, two replicas and three Sentinels that a test may kill and freeze."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

import redis

from tests.servers.process import LOCALHOST, wait_until
from tests.servers.redis import RedisServer

# In ms: how long a server does not answer before the Sentinels choose another master, and how long
# they try to.
_OPTIONS = {"down-after-milliseconds": "500", "failover-timeout": "4000"}


class SentinelServer(RedisServer):
    """One Sentinel: the same binary, with a configuration file that it rewrites."""

    def __init__(self, kind: str, name: str, master: int, quorum: int, **config: str) -> None:
        """`master` is the port that it watches."""
        super().__init__(kind)
        self.file = self.directory / "sentinel.conf"
        lines = [
            *(f"bind {LOCALHOST}", f"port {self.port}", f"dir {self.directory}"),
            *(f"{option} {value}" for option, value in config.items()),
            f"sentinel monitor {name} {LOCALHOST} {master} {quorum}",
            *(f"sentinel {option} {name} {value}" for option, value in _OPTIONS.items()),
        ]
        self.file.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [str(self.binary), str(self.file), "--sentinel"]


class SentinelGroup:
    """They are on free ports of this machine, with their own data."""

    def __init__(self, kind: str, *, quorum: int = 2, **config: str) -> None:
        config = {"repl-diskless-sync-delay": "0", "min-replicas-to-write": "1", **config}
        self.kind, self._quorum = kind, quorum
        first = RedisServer(kind, **config)
        follows = f"{LOCALHOST} {first.port}"
        replicas = [RedisServer(kind, **config, replicaof=follows) for _ in range(2)]
        self.nodes = [first, *replicas]
        # django-redis has one pool for each name, whatever the addresses are.
        self.name = f"{kind}-{first.port}"
        self.sentinels = [SentinelServer(kind, self.name, first.port, quorum) for _ in range(3)]
        self._servers = ExitStack()

    @property
    def setting(self) -> dict[str, Any]:
        """What WRITEBEHIND["REDIS"] has to be. Through JSON, tuples would become lists."""
        return {
            "SENTINELS": [[LOCALHOST, s.port] for s in self.sentinels],
            "MASTER_NAME": self.name,
        }

    def master(self) -> RedisServer | None:
        """The server that most Sentinels name; None while they do not agree."""
        ports = [self._named_by(each) for each in self.sentinels]
        for node in self.nodes:
            if ports.count(node.port) >= 2:
                return node
        return None

    def is_whole(self) -> bool:
        """Whether all servers run, and know each other: then there can be a failover."""
        master = self.master()
        if master is None or not all(s.running for s in (*self.nodes, *self.sentinels)):
            return False
        with master.client() as client:
            return client.info("replication")["role"] == "master" and (
                client.wait(2, 100) == 2 and all(map(self._knows_all, self.sentinels))
            )

    def lead(self, master: RedisServer) -> None:
        """Make this the master by hand, as no Sentinel would: all connections stay."""
        with master.client() as client:
            client.replicaof("NO", "ONE")
        for node in self.nodes:
            if node is not master:
                with node.client() as client:
                    client.replicaof(LOCALHOST, master.port)

    def monitor(self, node: RedisServer) -> None:
        """Tell the Sentinels that this is the master, whether it is or not."""
        self._monitor_nothing()
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                client.sentinel_monitor(self.name, LOCALHOST, node.port, self._quorum)
                for option, value in _OPTIONS.items():
                    client.sentinel_set(self.name, option, value)

    def clear(self) -> None:
        """Whole and empty, and the first node is the master, whatever a test did."""
        for each in (*self.nodes, *self.sentinels):
            if each.running:
                each.resume()
            each.start()
        if self.master() is not self.nodes[0] or not self.is_whole():
            self._monitor_nothing()  # else the Sentinels would go on as they were
            self.lead(self.nodes[0])
            self.monitor(self.nodes[0])
            wait_until(self.is_whole, self.sentinels[0].process, self.sentinels[0].directory)
        with self.nodes[0].client() as client:
            client.flushall()
            client.wait(2, 10_000)

    def __enter__(self) -> SentinelGroup:
        for node in self.nodes:
            self._servers.enter_context(node)
        with self.nodes[0].client() as client:
            client.wait(2, 10_000)  # a Sentinel that is there earlier is late to know of replicas
        for sentinel in self.sentinels:
            self._servers.enter_context(sentinel)
        self.clear()
        return self

    def __exit__(self, *exception: object) -> None:
        self._servers.close()

    def _monitor_nothing(self) -> None:
        """On all of them, before any has a new master: they tell each other of the old one."""
        for sentinel in self.sentinels:
            with sentinel.client() as client, suppress(redis.ResponseError):
                client.sentinel_remove(self.name)

    def _named_by(self, sentinel: SentinelServer) -> int | None:
        try:
            with sentinel.client(socket_timeout=1, retry=None) as client:
                found = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self.name)
        except redis.RedisError:
            return None
        return int(found[1]) if found else None

    def _knows_all(self, sentinel: SentinelServer) -> bool:
        with sentinel.client(decode_responses=True) as client:
            flags = [
                [client.sentinel_masters()[self.name]["flags"]],
                [each["flags"] for each in client.sentinel_slaves(self.name)],
                [each["flags"] for each in client.sentinel_sentinels(self.name)],
            ]
        return flags == [["master"], ["slave"] * 2, ["sentinel"] * 2]
