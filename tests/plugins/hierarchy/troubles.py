"""Random faults on a village: crashes, restarts, lost disks, partitions both ways and one way, clocks.

At most f_g members of each group are down, or have lost their disk, at a time; everything ends well,
and then everybody has everything. Changes of members happen in between. Checked all the while: no two
members have different commands at one position, no index goes back.
"""

from __future__ import annotations

from random import Random
from typing import Any

from grove_core.drive.virtual import Clock, uniform
from tests.plugins.hierarchy.village import Hamlet

SETTINGS = {"snapshot_every": 16, "history": 64, "absence": 8.0, "observe": 1.0, "patience": 0.5}
PBFT = {"checkpoint_every": 4, "snapshot_every": 16}
RAFT = {"trailing": 4, "heartbeat": 1.0}


class Troubles:
    """One village of three groups of four and a newcomer, and a seed."""

    def __init__(self, seed: int, variant: str, *, amnesia: bool = False, **hamlet: Any) -> None:
        self.rng = rng = Random(seed)
        self.amnesia = amnesia
        self.hamlet = Hamlet(
            3,
            4,
            variant,
            seed=seed,
            newcomers=1,
            delay=uniform(0.005, 0.05, seed),
            disk=rng.choice((0.0, 0.002)),
            config=SETTINGS,
            pbft=PBFT,
            raft=RAFT,
            **hamlet,
        )
        for index in rng.sample(range(13), 2):
            self.hamlet.node(index).clock = Clock(rng.uniform(0.7, 1.4))  # slow, or fast
        self.division: Any = None
        self.proposed = 0
        self.forgetful: dict[int, None] = {}

    def run(self, steps: int) -> Troubles:
        self.hamlet.run(8)
        for _ in range(steps):
            self.hamlet.run(self.rng.expovariate(3.0))
            self.step()
        self.heal()
        return self

    def step(self) -> None:
        rng, hamlet = self.rng, self.hamlet
        alive = [index for index in range(13) if hamlet.node(index).alive]
        dead = [index for index in range(13) if not hamlet.node(index).alive]
        what = rng.random()
        if what < 0.60:
            inside = [index for index in alive if hamlet.machine(index).inside]
            hamlet.propose(rng.choice(inside), b"%d" % self.proposed)
            self.proposed += 1
        elif what < 0.68:
            index = rng.choice(alive)
            if self.may_fall(index, dead):
                hamlet.crash(index)
        elif what < 0.80:
            if dead:
                self.wake(rng.choice(dead))
        elif what < 0.88:
            if self.division is None:
                sides = [0] * 13
                for index in rng.sample(range(13), rng.choice((1, 3, 6))):
                    sides[index] = 1
                self.division = hamlet.world.divide(sides, one_way=rng.random() < 0.5)
        elif what < 0.96:
            self.reunite()
        else:
            self.change(alive)

    def may_fall(self, index: int, dead: list[int]) -> bool:
        """Whether no group of any epoch somebody is in would have two of its four down."""
        peer = self.hamlet.node(index).peer
        down = [self.hamlet.node(other).peer for other in (*dead, *self.forgetful)]
        for other in range(13):
            if self.hamlet.node(other).alive:
                group = self.hamlet.machine(other).village.of.get(peer)
                if group is not None and any(one in group.rank for one in down if one != peer):
                    return False
        return True

    def wake(self, index: int) -> None:
        node = self.hamlet.node(index)
        if self.amnesia and not self.forgetful:
            node.disk.clear()
            self.forgetful[index] = None
        self.hamlet.world.restart(node)
        self.hamlet.run(0.001)

    def change(self, alive: list[int]) -> None:
        """A group lets the newcomer in, sends it away again, or wants other groups."""
        hamlet, rng = self.hamlet, self.rng
        one = rng.choice([index for index in alive if hamlet.machine(index).inside])
        machine = hamlet.machine(one)
        group = [hamlet.world.nodes[peer].index for peer in machine.group.members]
        by = [index for index in group if hamlet.node(index).alive and hamlet.machine(index).inside]
        is_in = hamlet.node(12).peer in machine.roll.members
        if rng.random() < 0.5:
            hamlet.change(by)
        else:
            hamlet.change(by, join=[] if is_in else [12], leave=[12] if is_in else [])

    def reunite(self) -> None:
        if self.division is not None:
            self.hamlet.world.reunite(self.division)
            self.division = None

    def heal(self) -> None:
        """No more faults; whoever was sent away for its absence is let in again."""
        self.reunite()
        for index in range(13):
            if not self.hamlet.node(index).alive:
                self.wake(index)
        self.hamlet.run(40)
        self.hamlet.propose(self.member(), b"last")
        self.hamlet.run(15)

    def member(self) -> int:
        return next(index for index in range(13) if self.hamlet.machine(index).inside)

    def verdict(self) -> str:
        """What is wrong; empty if nothing is. Members that forgot their own votes are not asked."""
        hamlet = self.hamlet
        if hamlet.forks:
            return f"fork: {hamlet.forks[0]}"
        members = [index for index in range(13) if hamlet.machine(index).inside]
        members = [index for index in members if index not in self.forgetful]
        tallies = [hamlet.tally(index) for index in members]
        if any(tally != tallies[0] for tally in tallies):
            return f"not equal: {[len(tally) for tally in tallies]}"
        if b"last" not in tallies[0]:
            return "stopped"
        lost = [command for command in hamlet.acknowledged if command not in tallies[0]]
        if lost:
            return f"lost: {lost}"
        for _ in range(20):  # states are still agreed on, and some hear of one a moment later
            machines = [hamlet.machine(index) for index in members]
            if len({(machine.number, machine.chain) for machine in machines}) == 1:
                return ""
            hamlet.run(0.5)
        return "chains differ"
