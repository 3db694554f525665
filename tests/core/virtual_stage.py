"""The contract tests' stage in virtual time. Its twin over real asyncio is `aio_stage.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grove_core.drive.virtual import VirtualNode, World
from grove_core.machine import PeerId
from grove_core.specs import Part


class VirtualStage:
    """A few nodes that can be told to act, crash and begin again."""

    slow_disk = 0.2  # s until a record is durable

    def __init__(self, *, disk: float = 0.0) -> None:
        self.world = World(delay=0.01, disk=disk, keys=True, idle=1.0)

    def add(self, *parts: Part) -> VirtualNode:
        node = self.world.add(parts)
        self.world.run_for(0.0)
        return node

    def peer(self, node: VirtualNode) -> PeerId:
        return node.peer

    def act(self, node: VirtualNode, act: Callable[[Any, Any], Any], name: str = "probe") -> Any:
        """Run act(machine, ctx) as an input of one of the node's machines."""
        return node.plugin(name).call(act)

    def machine(self, node: VirtualNode, name: str = "probe") -> Any:
        return node.machine(name)

    def link(self, a: VirtualNode, b: VirtualNode) -> None:
        """Open a connection and wait until both ends know."""
        self.act(a, lambda machine, ctx: ctx.connect(b.peer), a.contexts[0].slot.name)
        self.run(1.0)

    def run(self, seconds: float) -> None:
        self.world.run_for(seconds)

    def until(self, done: Callable[[], bool], seconds: float = 30.0) -> None:
        """Go on until done() holds; AssertionError if it does not within so many seconds."""
        end = self.world.now + seconds
        while not done():
            assert self.world.now < end, f"still not true after {seconds} s"
            self.world.run_for(0.01)

    def crash(self, node: VirtualNode) -> None:
        self.world.crash(node)

    def restart(self, node: VirtualNode) -> None:
        self.world.restart(node)
        self.world.run_for(0.0)

    def clog(self, a: VirtualNode, b: VirtualNode) -> None:
        """b stops reading from a."""
        self.world.clog(a, b)

    def unclog(self, a: VirtualNode, b: VirtualNode) -> None:
        self.world.unclog(a, b)

    def close(self) -> None:
        pass
