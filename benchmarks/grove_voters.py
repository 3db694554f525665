"""Grove's voters for `consensus.py`: Raft or PBFT over TCP with Noise, records with fsync.

    python -m benchmarks.grove_voters '{"number": 0, "ports": […], "data": …, "protocol": "raft", …}'

Three places to propose from: the application of the leading node, which hears Committed (`GroveRaft`);
the same through the replicated map, `await node.commons.put` (`GroveCommons`); and another program at
the leader's local door, `kv-put` (`GroveDoor`).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.voters import VALUE, Group, Process, answer
from grove_core.drive.live import Node
from grove_core.events import Committed, Rejected
from grove_core.testing.loopback import Loopback, free_ports

DURABLE = "fsync before every acknowledgement (SQLite WAL, synchronous FULL)"


# --- the processes ---------------------------------------------------------------------------------


def make(job: dict[str, Any]) -> Node:
    number, protocol = job["number"], job["protocol"]
    group = Loopback(seed=79, ports=job["ports"])
    settings = {
        **group.settings(number),
        "roles.consensus": protocol,
        "roles.storage": ["commons"] if job["commons"] else [],
        "roles.service": ["libp2p", "gateway"] if job["commons"] else ["libp2p"],
        "limits.per_ip": 64,  # one address has all of them here
        f"plugins.{protocol}.voters": group.peers,
        **job["set"],
    }
    return Node.from_profile("validator", data=job["data"], identity=group.identity(number), set=settings)


class Application:
    """Proposes, and waits for the outcome."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.value = os.urandom(VALUE)
        self.waiting: dict[bytes, asyncio.Future[None]] = {}

    async def listen(self) -> None:
        async with self.node.watch(Committed, Rejected, limit=1 << 16) as events:
            async for event in events:
                assert isinstance(event, Committed | Rejected)
                future = self.waiting.pop(event.id, None)
                if future is None or future.done():
                    continue
                if isinstance(event, Committed):
                    future.set_result(None)
                else:
                    future.set_exception(RuntimeError(event.reason))

    async def propose(self, number: int) -> None:
        """The role's own call: one command of 256 B."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting[self.node.consensus.propose(self.value)] = future
        await future

    async def put(self, number: int) -> None:
        """Through the replicated map."""
        await self.node.commons.put(f"key-{number}", self.value)

    def leads(self) -> bool:
        return self.node.consensus.leader() == self.node.peer


async def voter(job: dict[str, Any]) -> None:
    async with make(job) as node:
        application = Application(node)
        listening = asyncio.create_task(application.listen())
        await asyncio.sleep(0)
        await answer(application.put if job["commons"] else application.propose, application.leads)
        listening.cancel()


async def guest(data: str) -> None:
    """A program at a node's door."""
    from grove_gateway.client import Client

    value = os.urandom(VALUE)
    async with Client(data) as door:

        async def put(number: int) -> None:
            await door.request("kv-put", {"key": f"key-{number}", "value": value})

        await answer(put, lambda: True)


# --- the groups ------------------------------------------------------------------------------------


class GroveRaft(Group):
    """The application of the leading node proposes."""

    name = "grove raft"
    promise = "fsync"
    durability = DURABLE
    place = "in the leader's process: node.consensus.propose until Committed"
    protocol = "raft"
    commons = False

    def __init__(self, nodes: int, folder: Path, timeout: float | None = None) -> None:
        super().__init__(nodes, folder, timeout)
        ports = free_ports(nodes)
        for number in range(nodes):
            job = {
                "number": number, "ports": ports, "data": str(folder / str(number)),
                "protocol": self.protocol, "commons": self.commons, "set": self.settings(),
            }  # fmt: skip
            command = [sys.executable, "-m", "benchmarks.grove_voters", json.dumps(job)]
            self.voters.append(Process(command, folder / f"{number}.log"))

    def settings(self) -> dict[str, Any]:
        if self.timeout is None:
            return {}
        beat = min(0.1, self.timeout / 3)
        return {"plugins.raft.election_timeout": self.timeout, "plugins.raft.heartbeat": beat}


class GroveCommons(GroveRaft):
    """The same, into the replicated map: what a put is for etcd and PySyncObj."""

    name = "grove commons"
    place = "in the leader's process: await node.commons.put"
    commons = True

    def settings(self) -> dict[str, Any]:
        # The agreed window of one node is 256 and keeps an eighth for renewals.
        return {**super().settings(), "plugins.commons.window": 512}


class GroveDoor(GroveCommons):
    """A program beside the leader."""

    name = "grove door"
    place = "another process, at the leader's local door (ZeroMQ): kv-put"

    def __init__(self, nodes: int, folder: Path, timeout: float | None = None) -> None:
        super().__init__(nodes, folder, timeout)
        self.hand: Process | None = None

    def settings(self) -> dict[str, Any]:
        # By default a program has 32 requests open, and there are 64 programs; here it is one.
        return {**super().settings(), "plugins.gateway.requests": 512}

    async def load(self, outstanding: int, seconds: float) -> dict[str, float]:
        if self.hand is None:
            data = str(self.folder / str(await self.leader()))
            command = [sys.executable, "-m", "benchmarks.grove_voters", "--door", data]
            self.hand = Process(command, self.folder / "door.log")
            await self.hand.begin()
            await self.hand.ready()
        return await self.measured(self.hand, outstanding, seconds)

    def processes(self) -> list[Process]:
        return self.voters if self.hand is None else [*self.voters, self.hand]


class GrovePbft(GroveRaft):
    """PBFT: three phases, Ed25519 under every vote."""

    name = "grove pbft"
    place = "in the primary's process: node.consensus.propose until Committed"
    protocol = "pbft"

    def settings(self) -> dict[str, Any]:
        return {}


def main() -> None:
    if sys.argv[1] == "--door":
        asyncio.run(guest(sys.argv[2]))
    else:
        asyncio.run(voter(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
