"""What work costs and who does it: the processors under the nodes.

Each message received, each signature checked or made, each message sent takes seconds of the core that
its node stands on; nodes stand on one each, or all on the same. A core works off what arrives first in
first out, and what a handler sends leaves when the handler has done its own signing and sending.

An input's cost is taken from its core when it arrives, that of its handler's signatures and sends when
the handler runs, behind what has arrived meanwhile: the sum is exact, the order within a backlog is not.
"""

from __future__ import annotations

from typing import Any

from grove_core.drive.virtual import VirtualContext, World
from grove_core.host import proofs
from grove_lab.scenario import Cpu

KEPT = 4096
"""Messages whose number of signatures is remembered: one that is sent to many is counted once."""


class Processors:
    """The cores of a world.

    slowness: per node, times slower than [cpu] says; may change under way.
    """

    def __init__(self, world: World, cpu: Cpu, slowness: list[float]) -> None:
        self.world = world
        self.cpu = cpu
        self.slowness = slowness
        self.is_shared = cpu.shared
        cores = 1 if cpu.shared else len(slowness)
        self.free = [0.0] * cores
        """When each core has done all it was given."""
        self.busy = [0.0] * cores
        """Seconds each core worked."""
        self.hands = [0.0] * len(slowness)
        """Until when each node's present handler signs and sends."""
        self._proofs: dict[int, tuple[Any, int]] = {}

    def occupy(self, node: int, seconds: float) -> float:
        """Give a node's core so much to do; returns when that is done."""
        core = 0 if self.is_shared else node
        free, now = self.free[core], self.world.now
        self.busy[core] += seconds
        done = self.free[core] = (free if free > now else now) + seconds
        return done

    def cost(self, ctx: VirtualContext, msg: Any) -> float:
        """Seconds that a message costs its receiver, before its handler runs."""
        seconds = self.cpu.message
        if self.cpu.verify:
            seconds += self.cpu.verify * self._signatures(ctx, msg)
        return seconds * self.slowness[ctx.node.index]

    def _signatures(self, ctx: VirtualContext, msg: Any) -> int:
        known = self._proofs.get(id(msg))  # the entry keeps the message, so that its id stays its own
        if known is None:
            known = self._proofs[id(msg)] = (msg, sum(1 for _ in proofs(ctx.slot.part, msg)))
            if len(self._proofs) > KEPT:
                del self._proofs[next(iter(self._proofs))]
        return known[1]

    def signs(self, node: int) -> None:
        """A node makes a signature."""
        self._works(node, self.cpu.sign)

    def sends(self, node: int) -> None:
        """A node sends a message to one receiver."""
        self._works(node, self.cpu.send)

    def _works(self, node: int, seconds: float) -> None:
        if seconds:
            seconds *= self.slowness[node]
            self.occupy(node, seconds)
            self.hands[node] = max(self.world.now, self.hands[node]) + seconds

    def leaves(self, node: int) -> float:
        """When something that a node sends now leaves its hands."""
        return max(self.world.now, self.hands[node])

    def clear(self) -> None:
        """Count anew, at the end of settling."""
        self.busy = [0.0] * len(self.busy)

    @classmethod
    def wanted(cls, cpu: Cpu) -> bool:
        """Whether anything costs anything."""
        return bool(cpu.message or cpu.verify or cpu.sign or cpu.send)
