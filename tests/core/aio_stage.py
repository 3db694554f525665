"""The contract tests' stage over asyncio: real nodes on the memory transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from grove_core import Node
from grove_core.drive.records import Records
from grove_core.identity import Identity
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Limits, Plan, Settings
from grove_core.service import Greeter
from grove_core.specs import Part
from grove_core.testing.memory import MemoryConfig, MemoryNetwork
from grove_core.transport import Connection


class AioNode:
    """One node over all its lives; `live` is the present one."""

    def __init__(self, index: int, plan: Plan) -> None:
        self.plan = plan
        self.identity = Identity.from_seed(bytes(31) + bytes((index,)))
        self.address = Multiaddr(("memory", str(index)))
        self.live: Node = Node(plan, identity=self.identity)


class AioStage:
    """A few nodes that can be told to act, crash and begin again.

    disk: seconds every commit takes. Nodes know each other's addresses.
    """

    slow_disk = 0.2

    def __init__(self, *, disk: float = 0.0, idle: float = 1.0, limits: Limits | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.network = MemoryNetwork()
        self.folder = TemporaryDirectory(prefix="grove-stage-")
        self.limits = limits or Limits(idle=idle)
        self.nodes: list[AioNode] = []
        self._crashed: set[int] = set()
        self._patch = mock.patch.object(Records, "commit", self._slow(disk)) if disk else None
        if self._patch is not None:
            self._patch.start()

    def _slow(self, disk: float) -> Callable[..., None]:
        commit = Records.commit

        def slowly(records: Records, batch: Any) -> None:
            time.sleep(disk)
            if id(records) in self._crashed:
                raise OSError("the process is gone")
            commit(records, batch)

        return slowly

    def add(self, *parts: Part) -> AioNode:
        index = len(self.nodes) + 1
        plan = Plan(
            profile="stage",
            settings=Settings(data=str(Path(self.folder.name) / str(index))),
            limits=self.limits,
            parts=parts,
            transports=((self.network.spec(), MemoryConfig(listen=(f"/memory/{index}",))),),
        )
        node = AioNode(index, plan)
        self.nodes.append(node)
        self._start(node)
        return node

    def _start(self, node: AioNode) -> None:
        self._do(node.live.start())
        node.live.greet(self._identify(node))
        for other in self.nodes:
            for a, b in ((node, other), (other, node)):
                if a is not b and a.live.uptime:
                    a.live.peers.learn(b.identity.peer, addresses=[b.address])

    def _identify(self, node: AioNode) -> Greeter:
        """Stands for the identify protocol: reads from the other node what it serves."""

        async def greet(connection: Connection) -> None:
            for other in self.nodes:
                if self.peer(other) == connection.peer and other.live.uptime:
                    node.live.peers.learn(connection.peer, protocols=other.live.protocols)

        return greet

    def _do(self, work: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(30):
                return await work

        return self.loop.run_until_complete(bounded())

    def peer(self, node: AioNode) -> PeerId:
        return node.identity.peer

    def act(self, node: AioNode, act: Callable[[Any, Any], Any], name: str = "probe") -> Any:
        """Run act(machine, ctx) as an input of one of the node's machines."""

        async def inside() -> Any:
            return node.live.plugin(name).call(act)

        return self._do(inside())

    def machine(self, node: AioNode, name: str = "probe") -> Any:
        return node.live.plugin(name).machine

    def link(self, a: AioNode, b: AioNode) -> None:
        """Open a connection and wait until both ends know."""
        name = a.plan.parts[0].spec.name
        self.act(a, lambda machine, ctx: ctx.connect(self.peer(b)), name)
        self.until(lambda: self.is_up(a, b) and self.is_up(b, a))

    def is_up(self, a: AioNode, b: AioNode) -> bool:
        swarm = a.live._swarm
        return swarm is not None and swarm.is_up(self.peer(b))

    def run(self, seconds: float) -> None:
        self._do(asyncio.sleep(seconds))

    def until(self, done: Callable[[], bool], seconds: float = 30.0) -> None:
        """Go on until done() holds; AssertionError if it does not within so many seconds."""

        async def wait() -> None:
            end = self.loop.time() + seconds
            while not done():
                assert self.loop.time() < end, f"still not true after {seconds} s"
                await asyncio.sleep(0.002)

        self.loop.run_until_complete(wait())

    def crash(self, node: AioNode) -> None:
        async def die() -> None:
            live = node.live._store
            assert live is not None
            self._crashed.add(id(live.records))
            node.live.kill()

        self._do(die())

    def restart(self, node: AioNode) -> None:
        node.live = Node(node.plan, identity=node.identity)
        self._start(node)

    def _streams(self, a: AioNode, b: AioNode) -> list[Any]:
        """The ends at b of the streams between a and b."""
        return [
            stream
            for connection in b.live.connections()
            if connection.peer == self.peer(a)
            for stream in connection.streams  # type: ignore[attr-defined]
        ]

    def clog(self, a: AioNode, b: AioNode) -> None:
        """b stops reading from a."""
        self.run(0.01)
        for stream in self._streams(a, b):
            stream.is_stuck = True

    def unclog(self, a: AioNode, b: AioNode) -> None:
        for stream in self._streams(a, b):
            stream.is_stuck = False
            self.loop.call_soon(stream.grant, 0)

    def close(self) -> None:
        for node in self.nodes:
            self._do(node.live.stop())
        if self._patch is not None:
            self._patch.stop()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()
