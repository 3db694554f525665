"""Nodes in virtual time around one modelled etcd."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from grove_consensus_etcd.machine import Etcd as Machine
from grove_consensus_etcd.testing.model import Etcd
from grove_core.drive.virtual import VirtualNode, World
from grove_core.events import Committed
from grove_core.machine import Event
from grove_core.specs import Part
from grove_core.testing import part
from grove_core.testing.agreement import Agreement


class Town:
    """Some nodes of one world and their etcd, with all events written down."""

    def __init__(
        self,
        count: int = 3,
        seed: int = 0,
        parts: tuple[Part, ...] = (),
        bad: Any = None,
        build: type[Machine] = Machine,
        **config: Any,
    ) -> None:
        self.world = World(seed=seed, delay=0.005)
        self.agreement = Agreement(self.world)
        self.etcd = Etcd(self.world, seed, **(bad or {}))
        self.events: list[tuple[int, Event]] = []
        self.world.sinks.append(lambda node, event: self.events.append((node.index, event)))
        own = part("etcd", **{"probe": 0.5, "stall": 0.5, **config})
        own = Part(msgspec.structs.replace(own.spec, build=build), own.config)
        self.parts = (*parts, own)
        self.nodes = [self.world.add(self.parts, at=0.01 * n) for n in range(count)]
        for node in self.nodes:
            self.world.at(0.1, lambda node=node: self.etcd.join(node))  # type: ignore[misc]
        self.agreement.run_for(1.5)

    def run_for(self, seconds: float) -> None:
        self.agreement.run_for(seconds)

    def machine(self, index: int) -> Machine:
        machine: Machine = self.nodes[index].machine("consensus")
        return machine

    def heard(self, index: int, *kinds: type[Event]) -> list[Any]:
        return [event for node, event in self.events if node == index and isinstance(event, kinds)]

    def commands(self, index: int) -> list[bytes]:
        return [event.command for event in self.heard(index, Committed)]

    def restart(self, node: VirtualNode, after: float) -> None:
        self.world.crash(node)
        self.world.restart(node, at=after)
        self.world.at(self.world.now + after + 0.05, lambda: self.etcd.join(node))


class Trouble:
    """Everything that happens to an etcd, one after the other, until a time."""

    def __init__(self, town: Town, seed: int, until: float) -> None:
        self.town, self.rng, self.until = town, Random(f"trouble {seed}"), until
        town.world.at(2.0, self.strike)

    def strike(self) -> None:
        town, rng, now = self.town, self.rng, self.town.world.now
        town.etcd.loss = town.etcd.deaf = 0.0
        if now > self.until:
            town.etcd.cut.clear()
            return
        lasts = rng.uniform(0.3, 2.0)
        node = rng.choice(town.nodes)
        match rng.randrange(7):
            case 0:
                town.etcd.down(lasts)
            case 1:
                town.etcd.loss = 0.4
            case 2:
                town.etcd.deaf = 0.5
                town.etcd.end_watches()
            case 3:
                town.etcd.model.compact()
                town.etcd.end_watches()
            case 4:
                town.etcd.cut[node.index] = None
                town.world.at(now + lasts, lambda: town.etcd.cut.pop(node.index, None))
            case 5 if node.alive:
                town.restart(node, lasts)
            case _:
                town.etcd.end_watches()
        town.world.at(now + lasts + rng.uniform(0.2, 2.0), self.strike)
