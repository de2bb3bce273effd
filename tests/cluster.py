"""A real Redis Cluster on loopback: three masters, and a replica of the first when asked for."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from redis import Redis
from redis.exceptions import RedisError

from app.processes import bound, free_port
from kernel.ids import new_id
from kernel.redis import slot_of
from live.bus import channel

PASSWORD = "cluster"
RANGES = ((0, 5460), (5461, 10922), (10923, 16383))
NODE_TIMEOUT_MS = 3000
"""More than a loaded machine lets a node wait for its turn: else nodes that are well are taken for dead."""


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except RedisError:
            pass
        assert time.monotonic() < deadline, "the cluster did not come to the expected state"
        time.sleep(0.02)


class Node:
    """One server of the cluster, with an append-only file."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._bus_port = free_port()
        self._folder = folder
        folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self.client = Redis(port=self.port, password=PASSWORD)

    def start(self) -> None:
        options = {
            "port": self.port, "bind": "127.0.0.1", "dir": self._folder, "requirepass": PASSWORD,
            "masterauth": PASSWORD, "appendonly": "yes", "appendfsync": "always", "save": "",
            "cluster-enabled": "yes", "cluster-port": self._bus_port, "cluster-node-timeout": NODE_TIMEOUT_MS,
            "cluster-require-full-coverage": "no", "repl-diskless-sync-delay": 0, "logfile": self._folder / "log",
        }  # fmt: skip
        command = ["redis-server", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
        self._process = subprocess.Popen(bound(command, "KILL"), stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def close(self) -> None:
        self.kill()
        self.client.close()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def id(self) -> str:
        return bytes(self.client.execute_command("CLUSTER", "MYID")).decode()

    def command(self, *arguments: object) -> object:
        return self.client.execute_command("CLUSTER", *arguments)

    def sees(self, nodes: int) -> bool:
        """Whether it knows so many nodes, none of them in doubt, and serves its slots."""
        lines = bytes(self.client.execute_command("CLUSTER", "NODES", NEVER_DECODE=True)).decode().splitlines()
        doubted = [line for line in lines if "fail" in line or "handshake" in line or "disconnected" in line]
        info = bytes(self.client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True))
        return len(lines) == nodes and not doubted and b"cluster_state:ok" in info


class Cluster:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.nodes = [Node(folder / str(n)) for n in range(3)]

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for epoch, (node, (first, last)) in enumerate(zip(self.nodes, RANGES, strict=True), start=1):
            wait_for(node.client.ping)
            node.command("SET-CONFIG-EPOCH", epoch)
            node.command("ADDSLOTSRANGE", first, last)
        self._meet()

    def _meet(self) -> None:
        first, *others = self.nodes
        for node in others:
            node.command("MEET", "127.0.0.1", first.port, first._bus_port)
        wait_for(lambda: all(node.sees(len(self.nodes)) for node in self.nodes))

    def ensure_replica(self) -> None:
        """A replica of the first node, in step with it; nothing if there is one already, whoever is master now."""
        if len(self.nodes) > len(RANGES):
            return
        master, replica = self.nodes[0], Node(self._folder / "replica")
        replica.start()
        wait_for(replica.client.ping)
        self.nodes.append(replica)
        self._meet()
        replica.command("REPLICATE", master.id)
        wait_for(lambda: replica.client.info("replication")["master_link_status"] == "up")

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://:{PASSWORD}@{hosts}"

    def room_on(self, place: int) -> UUID:
        """A new room whose slot lives on the node with this number, as the slots were dealt at first."""
        first, last = RANGES[place]
        while True:
            if first <= slot_of(channel(room := new_id())) <= last:
                return room

    def restart(self) -> None:
        """Start what was killed; the servers end with the thread that does this."""
        for node in self.nodes:
            if not node.running:
                node.start()

    def settle(self) -> None:
        """Return when all is well again."""
        wait_for(lambda: all(node.sees(len(self.nodes)) for node in self.nodes))

    @property
    def replicated(self) -> Node:
        """The master that has a replica."""
        return next(node for node in self.nodes if node.client.info("replication")["connected_slaves"])

    def await_replica(self) -> None:
        """Return when the replica has all that its master has at this moment."""
        offset = self.replicated.client.info("replication")["master_repl_offset"]

        def caught_up() -> bool:
            replicas = [info for node in self.nodes if (info := node.client.info("replication"))["role"] == "slave"]
            return any(info["slave_repl_offset"] >= offset for info in replicas)

        wait_for(caught_up)

    def flush(self) -> None:
        for node in self.nodes:
            if node.client.info("replication")["role"] == "master":
                node.client.flushall()

    def cut_subscriptions(self) -> None:
        for node in self.nodes:
            node.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def move_slot(self, slot: int, source: Node, target: Node) -> None:
        """As a resharding does it, with the keys."""
        target.command("SETSLOT", slot, "IMPORTING", source.id)
        source.command("SETSLOT", slot, "MIGRATING", target.id)
        while keys := source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.client.execute_command(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "AUTH", PASSWORD, "KEYS", *keys
            )
        for node in (target, source, *(one for one in self.nodes if one not in (source, target))):
            node.command("SETSLOT", slot, "NODE", target.id)


@contextmanager
def redis_cluster() -> Iterator[Cluster]:
    folder = Path("/tmp") / f"nearcast-cluster-{uuid4().hex[:8]}"
    folder.mkdir()
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        for node in cluster.nodes:
            node.close()
        shutil.rmtree(folder, ignore_errors=True)
