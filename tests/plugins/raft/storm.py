"""What befalls a group, drawn anew by every seed: a swarm of storms instead of one for all.

Groce, Zhang, Eide, Chen, Regehr, "Swarm testing" (ISSTA 2012): a run in which everything may happen
rarely gets far enough in one thing, so each run leaves out some of its features, at random. Here each
seed draws which faults there are and how often, how long they last, and how fond they are of leaders.

The network is the paper's: it may lose, delay, repeat and reorder whatever is under way. Real links do
that when they break and are made again while the old one still empties its buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from grove_raft.messages import Forward

from grove_core.drive.virtual import Division, VirtualNode, uniform
from grove_core.events import LeaderChanged
from tests.plugins.raft.group import Group


class Weather:
    """What a seed draws; no two need be alike."""

    def __init__(self, rng: Random) -> None:
        self.faults = {fault: rng.expovariate(1.0) for fault in FAULTS if rng.random() < 0.5}
        """Which ones there are, and how likely each is beside the others. None: a calm day."""
        self.every = rng.choice((0.05, 0.1, 0.25, 0.6))
        """Mean seconds between two of them, per group."""
        self.lasts = rng.choice((0.05, 0.2, 0.5, 1.0))
        """Mean seconds until what was broken is mended."""
        self.at_leaders = rng.choice((0.0, 0.5, 0.9))
        """The share that strikes a leader."""
        self.at_coups = rng.choice((0.0, 0.3, 0.9))
        """How often somebody is struck just after taking office,"""
        self.coup_after = rng.choice((0.0, 0.005, 0.05))
        """and how long after, in the mean; at once: before anybody else can have heard of it."""
        self.late = rng.choice((0.0, 0.02, 0.1, 0.3))
        """While the post is bad: the share of messages that comes late, twice, or never."""
        self.lateness = rng.choice((0.02, 0.1, 0.5, 2.0))
        """By how many seconds, in the mean."""
        self.is_always_late = rng.random() < 0.25
        """Whether the post is bad all the time."""
        self.churn = rng.choice((0.0, 0.0, 0.5, 2.0))
        """Changes of members a second,"""
        self.by_one = rng.random() < 0.5
        """and whether they are of one voter at a time, with all others listening."""

        self.nodes = rng.choice((2, 3, 3, 4, 4, 5, 5, 5))
        self.strangers = rng.choice((0, 1, 2, 3)) if self.churn else 0
        drift = rng.choice((0.0, 0.0, 0.02, 0.045))
        self.rates = (1.0 - drift, 1.0 + drift, 1.0) if drift else ()
        self.snapshot_every = rng.choice((0, 0, 10, 30))
        self.rate = rng.choice((10.0, 30.0, 50.0))
        """Asks of clients a second."""
        self.keys = rng.choice((2, 5, 10))
        self.loyal = rng.choice((0.0, 0.5, 0.9))
        timeout = rng.choice((0.06, 0.15, 0.3))
        delay = timeout / rng.choice((12.0, 30.0, 100.0))  # "broadcast time << election timeout"
        spread = rng.random() < 0.5
        self.disk = rng.choice((0.0005, 0.001, 0.01))
        self.delay: Any = uniform(delay / 4, delay * 2, rng.randrange(1 << 30)) if spread else delay
        self.config: dict[str, Any] = {
            "election_timeout": timeout,
            "heartbeat": timeout / rng.choice((2.0, 2.5, 4.0)),
            "trailing": rng.choice((0, 0, 5)),
            "append_entries": rng.choice((1, 1, 4, 1024)),
            "append_bytes": rng.choice((1024, 65_536)),
            "inflight_entries": rng.choice((4, 16_384)),
            "reads": rng.choice(("index", "lease")),
        }


class Storm:
    """Brings a weather over a group, until `end`. A majority may be down at a time, but every node comes
    back.

    amnesia: who crashes loses all its records, which Raft does not survive: the negative control.
    """

    def __init__(self, group: Group, rng: Random, weather: Weather, amnesia: bool = False) -> None:
        self.group = group
        self.world = group.world
        self.rng = rng
        self.weather = weather
        self.amnesia = amnesia
        self.is_over = False
        self._divisions: list[Division] = []
        self._faults = list(weather.faults)
        self._weights = list(weather.faults.values())
        if self._faults:
            self._soon(weather.every, self._strike)
        if weather.is_always_late and weather.late:
            self.world.carrier = self._carry
        if weather.churn:
            self._soon(1 / weather.churn, self._change)
        if weather.at_coups:
            self.world.sinks.append(self._heard)

    def end(self) -> None:
        """Heal everything; whoever is down comes back within a second."""
        self.is_over = True
        world = self.world
        world.disk = 0.001
        world.carrier = None
        world.mend()
        for division in tuple(self._divisions):
            self._reunite(division)
        for a in self.group.nodes:
            for b in self.group.nodes:
                if a is not b:
                    world.unclog(a, b)

    def _soon(self, mean: float, act: Callable[[], None]) -> None:
        self.world.at(self.world.now + self.rng.expovariate(1 / mean), act)

    def _strike(self) -> None:
        if self.is_over:
            return
        self._soon(self.weather.every, self._strike)
        (fault,) = self.rng.choices(self._faults, self._weights)
        FAULTS[fault](self, self._victim())

    def _victim(self) -> VirtualNode:
        if self.rng.random() < self.weather.at_leaders:
            leader = self.group.leader()
            if leader is not None:
                return leader
        return self.rng.choice(self.group.nodes)

    def _heard(self, node: VirtualNode, event: Any) -> None:
        """Whoever takes office may not enjoy it for long, or is asked for new members at once."""
        if self.is_over or type(event) is not LeaderChanged or event.leader != node.peer:
            return
        if self.weather.churn and self.rng.random() < 0.5:
            self.world.at(self.world.now, lambda: self.is_over or self._ask_for_members(node))
        if self.rng.random() < self.weather.at_coups:
            self._strike_soon(node)

    # Faults, each upon one node.

    def crash(self, one: VirtualNode) -> None:
        """It loses what it had not saved."""
        if one.alive:
            self.world.crash(one)
            if self.amnesia:
                one.disk.clear()
            self.world.restart(one, at=self.rng.choice((0.0, 0.02, self.weather.lasts)))

    def blackout(self, one: VirtualNode) -> None:
        """It and some others crash at once."""
        for node in self.group.nodes:
            if node is one or self.rng.random() < 0.5:
                self.crash(node)

    def divide(self, one: VirtualNode) -> None:
        self._divide([self.rng.randrange(2) for _ in self.group.nodes])

    def isolate(self, one: VirtualNode) -> None:
        self._divide([int(node is one) for node in self.group.nodes])

    def deafen(self, one: VirtualNode) -> None:
        """It speaks and does not hear, or the other way round."""
        side = self.rng.randrange(2)
        sides = [side if node is one else 1 - side for node in self.group.nodes]
        self._divide(sides, one_way=True)

    def cut(self, one: VirtualNode) -> None:
        world, other = self.world, self.rng.choice(self.group.nodes)
        if one is not other:
            world.cut(one, other, one_way=self.rng.random() < 0.5)
            self._soon(self.weather.lasts, lambda: world.mend(one, other))

    def clog(self, one: VirtualNode) -> None:
        world, other = self.world, self.rng.choice(self.group.nodes)
        if one is not other:
            world.clog(one, other)
            self._soon(self.weather.lasts, lambda: world.unclog(one, other))

    def slow_down(self, one: VirtualNode) -> None:
        """All disks, since a world has one speed of them."""
        self.world.disk = self.rng.choice((0.0005, 0.001, 0.02, 0.1))

    def reset(self, one: VirtualNode) -> None:
        other = self.rng.choice(self.group.nodes)
        if one.peer in other.links and other.peer in one.links:
            self.world.reset(one, other)

    def spoil_the_post(self, one: VirtualNode) -> None:
        """For a while, some messages come late, some twice, some never."""
        if self.weather.late:
            self.world.carrier = self._carry
            self._soon(self.weather.lasts, self._mend_the_post)

    def hand_over(self, one: VirtualNode) -> None:
        """The leader is asked to go."""
        group, rng = self.group, self.rng
        if one.alive and group.raft(one).is_leader:
            others = [peer for peer in group.raft(one).log.members.voters if peer != one.peer]
            if others:
                target = rng.choice(others)
                group.call(one, lambda machine, ctx: machine.transfer(ctx, target))

    # Their ends.

    def _divide(self, sides: list[int], one_way: bool | None = None) -> None:
        one_way = self.rng.random() < 0.3 if one_way is None else one_way
        division = self.world.divide(sides, one_way=one_way)
        self._divisions.append(division)
        self._soon(self.weather.lasts, lambda: self._reunite(division))

    def _reunite(self, division: Division) -> None:
        if division in self._divisions:
            self._divisions.remove(division)
            self.world.reunite(division)

    def _carry(self, source: Any, to: VirtualNode, delay: float, msg: Any) -> float | None:
        rng, world = self.rng, self.world
        arrival = world.now + delay
        if rng.random() >= self.weather.late:
            return arrival
        late = arrival + rng.expovariate(1 / self.weather.lateness)
        kind = rng.random()
        if kind < 0.2:
            return None
        if kind < 0.6 or isinstance(msg, Forward):
            # No connection repeats anything by itself; the paper's messages, but not this one whose
            # refusal is final, may be sent again by their senders.
            return late
        life = to.starts

        def again() -> None:
            if to.alive and to.starts == life and world.reaches(source.node, to):
                self.group.call(to, lambda machine, ctx: machine.on_message(ctx, source.me, msg))

        world.at(late, again)
        return arrival

    def _mend_the_post(self) -> None:
        if not self.weather.is_always_late:
            self.world.carrier = None

    def _change(self) -> None:
        if not self.is_over:
            self._soon(1 / self.weather.churn, self._change)
            leader = self.group.leader()
            if leader is not None:
                self._ask_for_members(leader)

    def _ask_for_members(self, leader: VirtualNode) -> None:
        """One voter more or less, or any members, of any number; and who is asked may be struck too."""
        group, rng = self.group, self.rng
        if not leader.alive or not group.raft(leader).is_leader:
            return
        peers = [node.peer for node in group.nodes]
        now = group.raft(leader).log.members
        if self.weather.by_one:
            wanted = set(now.voters) ^ {rng.choice(peers)}
            voters = tuple(peer for peer in peers if peer in wanted) or now.voters
        else:
            voters = tuple(rng.sample(peers, rng.randint(1, min(5, len(peers)))))
        rest = [peer for peer in peers if peer not in voters]
        learners = tuple(
            rest if self.weather.by_one else rng.sample(rest, min(len(rest), rng.randrange(3)))
        )
        group.call(leader, lambda machine, ctx: machine.reconfigure(ctx, voters, learners))
        if rng.random() < self.weather.at_coups:
            self._strike_soon(leader)

    def _strike_soon(self, node: VirtualNode) -> None:
        fault = self.rng.choice((Storm.crash, Storm.isolate, Storm.isolate, Storm.hand_over))
        after = self.weather.coup_after and self.rng.expovariate(1 / self.weather.coup_after)
        self.world.at(self.world.now + after, lambda: self.is_over or fault(self, node))


FAULTS: dict[str, Callable[[Storm, VirtualNode], None]] = {
    "crash": Storm.crash,
    "blackout": Storm.blackout,
    "divide": Storm.divide,
    "isolate": Storm.isolate,
    "deafen": Storm.deafen,
    "cut": Storm.cut,
    "clog": Storm.clog,
    "slow down": Storm.slow_down,
    "reset": Storm.reset,
    "spoil the post": Storm.spoil_the_post,
    "hand over": Storm.hand_over,
}
