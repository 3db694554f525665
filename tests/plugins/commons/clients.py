"""Clients of the map in virtual time, and what they asked and were answered, as a history."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Any

from grove_commons.events import Answered, Read
from grove_commons.outcomes import Done, Impossible, Refused

from grove_core.drive.virtual import VirtualNode, World
from grove_core.errors import GroveError
from grove_core.machine import Event
from grove_core.testing.linearizability import Operation


class Clients:
    """Random reads, writes and exchanges at all nodes, written down as a history."""

    def __init__(self, world: World, nodes: list[VirtualNode], rng: Random, rate: float) -> None:
        self.world, self.nodes, self.rng, self.rate = world, nodes, rng, rate
        self.open: dict[tuple[int, bytes], tuple[str, tuple[Any, ...], float]] = {}
        self.history: list[Operation] = []
        self.count = 0
        self.until = 0.0
        world.sinks.append(self.hear)

    def begin(self, at: float, until: float) -> None:
        self.until = until
        self.world.at(at, self.ask)

    def ask(self) -> None:
        world, rng = self.world, self.rng
        if world.now < self.until:
            world.at(world.now + rng.expovariate(self.rate), self.ask)
        node = rng.choice(self.nodes)
        if not node.alive:
            return
        self.count += 1
        key, new = rng.choice("ab"), b"%d" % self.count
        kind = rng.random()
        name, values, more = "put", (key, new), {}
        input: tuple[Any, ...] = ("write", new)
        if kind < 0.4:
            name, values, input = "read", (), ("read",)
        elif kind < 0.6:
            old = b"%d" % rng.randrange(max(1, self.count - 4), self.count + 1)
            name, values, more, input = (
                "compare_and_set",
                (key, new),
                {"expected": old},
                ("cas", old, new),
            )
        try:
            id = node.plugin("commons").call(
                lambda machine, ctx: getattr(machine, name)(ctx, *values, **more)
            )
        except GroveError:
            return
        self.open[node.index, id] = (key, input, world.now)

    def hear(self, node: VirtualNode, event: Event) -> None:
        if not isinstance(event, Answered | Read):
            return
        asked = self.open.pop((node.index, event.id), None)
        if asked is None:
            return
        key, input, call = asked
        if isinstance(event, Read):
            found = node.machine("commons").peek(key)
            if not event.failed:
                output = None if found is None else found.data
                self.history.append(Operation(key, input, output, call, self.world.now))
            return
        match event.outcome:
            case Done():
                self.history.append(Operation(key, input, True, call, self.world.now))
            case Refused():
                self.history.append(Operation(key, input, False, call, self.world.now))
            case Impossible():
                pass  # definite: it never happened
            case _:
                self.history.append(Operation(key, input, None, call, inf))

    def finished(self) -> list[Operation]:
        """The history, with what was never answered left open."""
        lost = [
            Operation(key, input, None, call, inf)
            for key, input, call in self.open.values()
            if input != ("read",)
        ]
        return self.history + lost
