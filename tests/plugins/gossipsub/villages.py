"""Worlds of GossipSub nodes that dialled some others at random, for experiments."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from grove_core.drive.virtual import Delay, VirtualNode, World, uniform
from grove_core.events import Delivered
from grove_core.machine import Event
from grove_core.specs import Part
from grove_core.testing import part
from grove_core.testing.meshed import MESHED

TOPIC = "t"


class Field:
    """n nodes subscribed to one topic; each dials `dials` others; `settled` s have passed."""

    def __init__(
        self,
        n: int,
        dials: int,
        *,
        seed: int = 1,
        delay: Delay | float | None = None,
        settle: float = 62.0,
        gossipsub: Part | Callable[[int], Part] | None = None,
        trace: bool = False,
        **config: Any,
    ) -> None:
        delay = uniform(0.02, 0.08, seed) if delay is None else delay
        self.world = World(seed=seed, delay=delay, trace=trace)
        self.world.sinks.append(self._write)
        self.delivered: dict[bytes, dict[int, float]] = {}
        """When a message was delivered, by its id and the node's index."""
        plain = part("gossipsub", **config)
        rng = Random(seed)
        for index in range(n):
            mine = gossipsub(index) if callable(gossipsub) else gossipsub or plain
            self.world.add([MESHED, mine], at=rng.random())
        self.world.run(1.5)
        for node in self.nodes:
            node.broadcast.subscribe(TOPIC)
            for other in rng.sample(self.nodes, dials):
                if other is not node:
                    node.membership.join(other.peer)
        self.world.run_for(settle)

    @property
    def nodes(self) -> list[VirtualNode]:
        return self.world.order

    def machines(self) -> list[Any]:
        return [node.machine("broadcast") for node in self.nodes]

    def degrees(self) -> list[int]:
        return [len(machine.mesh[TOPIC]) for machine in self.machines()]

    def publish(self, index: int, data: bytes, wait: float = 5.0) -> bytes:
        message_id = self.nodes[index].broadcast.publish(TOPIC, data)
        self.world.run_for(wait)
        return message_id

    def _write(self, node: VirtualNode, event: Event) -> None:
        if isinstance(event, Delivered):
            self.delivered.setdefault(event.id, {})[node.index] = self.world.now
