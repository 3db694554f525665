"""What goes wrong: each fault of a scenario as acts at virtual times.

Whom a fault hits is drawn from a stream of its own, among the nodes that live at that moment, so it
depends on the scenario and the seed alone. Every act is told to the stage (`happened`), for the
pictures and the checkers.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from grove_core.drive.virtual import Clock, VirtualNode
from grove_lab.conduct import Rule
from grove_lab.scenario import Fault
from grove_lab.streams import stream

if TYPE_CHECKING:
    from grove_lab.stage import Stage

RESTART_AFTER = 10.0
"""Seconds a node of a `restart` fault is away unless `lasts` says otherwise."""


class Trouble:
    """One fault of a scenario."""

    def __init__(self, stage: Stage, name: str, fault: Fault) -> None:
        self.stage = stage
        self.name = name
        self.fault = fault
        self.rng = stream(stage.seed, "faults", name)
        begins = stage.begins + fault.at
        self.rule = Rule(name, fault.drop, frozenset(fault.authors))
        if fault.kind == "clock":
            # Which clocks will be wrong must be known before their nodes start.
            self.hit = self.choose(living=False)
            for node in self.hit:
                node.clock = node.clock or Clock()
        act: Callable[[], None] = getattr(self, fault.kind)
        stage.world.at(begins, act)

    @property
    def ends(self) -> float:
        """When it is over: never, if `lasts` is 0."""
        return self.stage.world.now + self.fault.lasts if self.fault.lasts else math.inf

    def choose(self, *, living: bool = True) -> list[VirtualNode]:
        """The nodes it hits, by index."""
        fault, stage = self.fault, self.stage
        order = stage.world.order
        if fault.nodes:
            return [order[index] for index in fault.nodes if order[index].alive or not living]
        there = [
            node
            for node in order
            if (node.alive or not living)
            and (not fault.classes or stage.class_names[stage.kinds[node.index]] in fault.classes)
        ]
        hit = self.rng.sample(there, round(fault.share * len(there)))
        return sorted(hit, key=lambda node: node.index)

    def told(self, what: str, nodes: int) -> None:
        self.stage.happen(self.name, f"{what} ({nodes:,} node{'s' if nodes != 1 else ''})")

    def later(self, act: Callable[[], None]) -> None:
        """At its end, if it has one."""
        if self.fault.lasts:
            self.stage.world.at(self.ends, act)

    # Ends of nodes.

    def crash(self) -> None:
        hit = self.choose()
        self.told("crash", len(hit))
        for node in hit:
            self.end(node)
        self.later(lambda: self.return_all(hit))

    def stop(self) -> None:
        hit = self.choose()
        self.told("stop", len(hit))
        for node in hit:
            self.stage.end(node, in_order=True)
        self.later(lambda: self.return_all(hit))

    def restart(self) -> None:
        hit = self.choose()
        self.told("restart", len(hit))
        for node in hit:
            self.end(node)
        back = self.stage.world.now + (self.fault.lasts or RESTART_AFTER)
        self.stage.world.at(back, lambda: self.return_all(hit))

    def end(self, node: VirtualNode) -> None:
        silent = {"reset": None, "silent": self.fault.after, "senders": math.inf}[self.fault.noticed]
        self.stage.end(node, silent=silent)

    def return_all(self, nodes: list[VirtualNode]) -> None:
        back = [node for node in nodes if not node.alive]
        self.told("back", len(back))
        for node in back:
            self.stage.begin(node)

    def churn(self) -> None:
        """Sessions and absences of each node, from a stream of its own."""
        share = self.fault.share or 1.0
        hit = [node for node in self.choose_of(share)]
        self.told("churn begins", len(hit))
        until = self.ends
        for node in hit:
            rng = stream(self.stage.seed, "churn", self.name, node.index)
            self.session(node, rng, until)
        self.later(lambda: self.told("churn ends", len(hit)))

    def choose_of(self, share: float) -> list[VirtualNode]:
        living = [node for node in self.stage.world.order if node.alive]
        if self.fault.nodes:
            return self.choose()
        hit = self.rng.sample(living, round(share * len(living)))
        return sorted(hit, key=lambda node: node.index)

    def session(self, node: VirtualNode, rng: Random, until: float) -> None:
        """Live for a drawn time, be away for a drawn time, and again."""
        world = self.stage.world
        leaves = world.now + length(rng, self.fault)
        if leaves < until:
            world.at(leaves, lambda: self.absence(node, rng, until))

    def absence(self, node: VirtualNode, rng: Random, until: float) -> None:
        world = self.stage.world
        if not node.alive:  # another fault was faster
            return
        self.end(node)
        away = rng.expovariate(1 / self.fault.absence_mean)

        def back() -> None:
            if not node.alive:
                self.stage.begin(node)
            self.session(node, rng, until)

        world.at(world.now + away, back)

    # Ends of ways.

    def partition(self) -> None:
        hit = self.choose(living=False)
        sides = array("i", bytes(4 * len(self.stage.world.order)))
        for node in hit:
            sides[node.index] = 1
        self._divide(sides, len(hit), "partition")

    def isolate(self) -> None:
        hit = self.choose()
        sides = array("i", bytes(4 * len(self.stage.world.order)))
        for number, node in enumerate(hit, start=1):
            sides[node.index] = number
        self._divide(sides, len(hit), "isolation")

    def _divide(self, sides: array[int], count: int, what: str) -> None:
        world = self.stage.world
        division = world.divide(sides, one_way=self.fault.one_way)
        self.stage.divided += 1
        self.told(f"{what} begins", count)
        over = []

        def give_up() -> None:
            """A stream with a hole in it cannot go on: both ends let go of the links across."""
            for node in world.order:
                for end in tuple(node.links.values()):
                    there = end.other
                    if sides[node.index] > sides[there.index] and end.link.is_open:
                        world.reset(node, there)

        def heal() -> None:
            over.append(True)
            if self.fault.lasts <= self.fault.after:  # what was lost on them cannot be had any more
                give_up()
            world.reunite(division)
            self.stage.divided -= 1
            self.told(f"{what} ends", count)

        if not self.fault.lasts or self.fault.after < self.fault.lasts:
            world.at(world.now + self.fault.after, give_up)
        self.later(heal)

    def clog(self) -> None:
        hit = self.choose()
        self.told("clog begins", len(hit))
        pairs = [(node, end.other) for node in hit for end in node.links.values()]
        for node, other in pairs:
            self.stage.world.clog(node, other)

        def flow() -> None:
            self.told("clog ends", len(hit))
            for node, other in pairs:
                if node.alive:
                    self.stage.world.unclog(node, other)

        self.later(flow)

    # Ends of good faith.

    def withhold(self) -> None:
        conduct = self.stage.conduct
        hit = [node.peer for node in self.choose(living=False)]
        self.told("withholding begins", len(hit))
        conduct.begin(self.rule, hit)

        def end() -> None:
            self.told("withholding ends", len(hit))
            conduct.end(self.rule, hit)

        self.later(end)

    # Ends of patience.

    def slow(self) -> None:
        hit = self.choose()
        self.told("slow begins", len(hit))
        slowness = self.stage.slowness
        for node in hit:
            slowness[node.index] *= self.fault.factor

        def recover() -> None:
            self.told("slow ends", len(hit))
            for node in hit:
                slowness[node.index] /= self.fault.factor

        self.later(recover)

    def clock(self) -> None:
        world = self.stage.world
        self.told("clocks run wrong", len(self.hit))
        rates = [node.clock.rate for node in self.hit if node.clock]
        for node, rate in zip(self.hit, rates, strict=True):
            assert node.clock is not None
            node.clock.run(rate * self.fault.factor, world.now)

        def right() -> None:
            self.told("clocks run right", len(self.hit))
            for node, rate in zip(self.hit, rates, strict=True):
                assert node.clock is not None
                node.clock.run(rate, world.now)

        self.later(right)


def length(rng: Random, fault: Fault) -> float:
    """One session, in seconds, of the mean the fault says."""
    mean, shape = fault.session_mean, fault.shape
    if fault.session == "exponential":
        return rng.expovariate(1 / mean)
    if fault.session == "weibull":  # mean = scale * gamma(1 + 1/k)
        return rng.weibullvariate(mean / math.gamma(1 + 1 / shape), shape)
    return rng.lognormvariate(math.log(mean) - shape * shape / 2, shape)
