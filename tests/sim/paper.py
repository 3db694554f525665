"""A village as the papers measured it, in virtual time, and what they measure of it.

HyParView's and Plumtree's experiments and those of their rivals share it: nodes join one after
another, through the first one or through a random one before them, far enough apart for one walk to
end before the next begins (when walks overlap, newcomers find each other and cluster); HyParView's
nodes do not shuffle until all are in; then come the cycles. A cycle is 60 s; links take 10 to 50 ms.

GROVE_FULL=1 asks for the papers' 10,000 nodes, and for five seeds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random
from statistics import mean
from typing import Any

import msgspec

from grove_core.drive.virtual import VirtualContext, VirtualNode, uniform
from grove_core.events import Delivered
from grove_core.machine import Event
from grove_core.specs import Part
from grove_core.testing import Village, part
from tests.sim.graphs import component_shares

FULL = bool(os.environ.get("GROVE_FULL"))
NODES = 10_000 if FULL else 1_000
SEEDS = tuple(range(1, 6)) if FULL else (1,)
CYCLE = 60.0
STABLE = 50 if FULL else 30  # cycles before the overlay is looked at; the paper's 50
SETTLED = 10 if FULL else 4  # cycles before an experiment that needs no perfect overlay
HOP = 0.02  # seconds each way where every link takes the same time

CYCLES: Any = "cycle"
"""The timer of a membership's cycle: HyParView's and Cyclon's."""

Measured = Callable[[str, object], None]


def told(values: Iterable[float], form: str = ".1f", unit: str = "") -> str:
    """A mean and its range over seeds, in words."""
    found = list(values)
    said = f"{mean(found):{form}}{unit}"
    if len(found) > 1 and f"{min(found):{form}}" != f"{max(found):{form}}":
        said += f" ({min(found):{form}} to {max(found):{form}})"
    return said


def seeds(record: Measured, nodes: int = NODES) -> None:
    """For the page of claims: what this test ran on."""
    count = f"{SEEDS[0]} to {SEEDS[-1]}" if len(SEEDS) > 1 else f"{SEEDS[0]}"
    record("setup", f"n = {nodes:,}, seeds {count}")


def curve(
    record: Measured, figure: str, name: str, points: Iterable[tuple[float, Sequence[float]]]
) -> None:
    """For the figures of claims: at each x, the values of the seeds."""
    rows = [(x, mean(found), min(found), max(found)) for x, found in points if found]
    record("curve", {"figure": figure, "name": name, "points": rows})


class PaperVillage(Village):
    """Nodes that may join through anybody before them. Keeps what was delivered, and no other event:
    views without links change millions of times."""

    def __init__(
        self, parts: Sequence[Part], nodes: int, *, seed: int, contact: str, quiet: bool, **how: Any
    ) -> None:
        self.rng = Random(f"contacts {seed}")
        self.contact = contact
        self.is_quiet = quiet
        super().__init__(parts, nodes, seed=seed, **how)

    def enter(self, node: VirtualNode) -> None:
        if self.is_quiet:
            membership(node).cancel_timer(CYCLES)
        if self.contact == "first" or node.index < 2:
            super().enter(node)
            return
        for topic in self._topics:
            node.broadcast.subscribe(topic)
        node.membership.join(self.nodes[self.rng.randrange(node.index)].peer)

    def _write(self, node: VirtualNode, event: Event) -> None:
        if type(event) is Delivered:
            super()._write(node, event)


def membership(node: VirtualNode) -> VirtualContext:
    """The context of a node's membership."""
    return next(ctx for ctx in node.contexts if ctx.slot.spec.role == "membership")


class Paper:
    """A village, with what the papers measure of each broadcast.

    membership: HyParView, which keeps no records, if None. contact: through whom a node joins, the
    "first" or a "random" one. quiet: nobody shuffles before all have joined. cycles: so many once all
    have joined, and they go on.
    """

    def __init__(
        self,
        *broadcast: Part,
        nodes: int = NODES,
        seed: int = 1,
        cycles: int = SETTLED,
        delay: Any = None,
        membership: Part | None = None,
        contact: str = "first",
        spacing: float = 0.4,
        quiet: bool = True,
        **world: Any,
    ) -> None:
        self.sent: Counter[str] = Counter()
        """Broadcast messages that arrived, by type, since the last publish."""
        parts = [membership or part("hyparview", shuffle_interval=CYCLE, save_delay=0.0)]
        parts += [self._counted(one) for one in broadcast]
        self.rng = Random(seed)
        self.seed = seed
        delay = delay or uniform(0.01, 0.05, seed)
        self.village = PaperVillage(
            parts, nodes, seed=seed, contact=contact, quiet=quiet, spacing=spacing, delay=delay, **world
        )
        self.hops: dict[bytes, int] = {}
        self.last: dict[bytes, float] = {}
        """When each message was delivered last, in seconds of the world."""
        self.village.world.sinks.append(self._hop)
        self.village.grow(1.0)
        self.village.is_quiet = False
        self.shuffle(cycles)

    def _counted(self, part: Part) -> Part:
        sent = self.sent

        def build(config: Any) -> Any:
            machine = part.spec.build(config)
            plain = type(machine)

            def on_message(self: Any, ctx: Any, peer: Any, msg: Any) -> None:
                sent[type(msg).__name__] += 1
                plain.message_handlers[type(msg)](self, ctx, peer, msg)

            kind = kinds.get(plain)
            if kind is None:
                kind = kinds[plain] = type(plain.__name__, (plain,), {"on_message": on_message})
            machine.__class__ = kind
            return machine

        kinds: dict[type, type] = {}
        return Part(msgspec.structs.replace(part.spec, build=build), part.config)

    def _hop(self, node: VirtualNode, event: Event) -> None:
        if type(event) is Delivered:
            self.hops[event.id] = max(self.hops.get(event.id, 0), event.hops)
            self.last[event.id] = self.village.world.now

    @property
    def alive(self) -> list[VirtualNode]:
        return self.village.alive

    def someone(self) -> VirtualNode:
        return self.rng.choice(self.alive)

    # Cycles.

    def shuffle(self, cycles: int) -> None:
        """So many cycles of everybody alive, each at a drawn moment; then they go on."""
        for node in self.alive:
            membership(node).set_timer(CYCLES, CYCLE * self.rng.random())
        self.village.run_for(cycles * CYCLE)

    def freeze(self, **changes: Any) -> None:
        """No more cycles; HyParView repairs only if `repair=True`."""
        for node in self.alive:
            membership(node).cancel_timer(CYCLES)
        if changes:
            self.configure("membership", **changes)
        self.village.run_for(10.0)  # what was under way arrives

    def configure(self, role: str, **changes: Any) -> None:
        """Give every living machine of a role another setting."""
        for node in self.alive:
            machine = node.machine(role)
            machine.config = msgspec.structs.replace(machine.config, **changes)

    def even(self, delay: float = HOP) -> None:
        """Every link takes the same time from now on: hops and seconds are one."""
        self.village.world.delay = lambda a, b: delay
        for node in self.alive:
            for end in node.links.values():
                end.delay = delay

    # Broadcasts.

    def publish(self, sender: VirtualNode | None = None, wait: float = 5.0) -> bytes:
        """One broadcast, given so many seconds."""
        self.sent.clear()
        message = self.village.publish(sender or self.someone())
        self.village.run_for(wait)
        return message

    def rmr(self, message: bytes, kind: str = "Gossip") -> float:
        """Relative message redundancy of the last broadcast: payloads / (receivers - 1) - 1."""
        received = sum(1 for node in self.alive if node.index in self.village.delivered[message])
        return self.sent[kind] / (received - 1) - 1

    def reliabilities(self, messages: int, wait: float = 5.0) -> list[float]:
        """How many of the living each of so many messages reaches, from random senders, one by one."""
        found = []
        for _ in range(messages):
            message = self.publish(wait=wait)
            found.append(self.village.reliability(message))
            self.forget(message)
        return found

    def forget(self, message: bytes) -> None:
        """What was delivered of a message: thousands of them are millions of entries."""
        for table in (self.village.delivered, self.hops, self.last):
            table.pop(message, None)

    def reliabilities_until_still(self, messages: int, wait: float = 5.0, least: int = 20) -> list[float]:
        """The same over symmetric links that nobody shuffles, in less time.

        Once no link changes during ten messages, a flood reaches its sender's component and nobody
        else; messages are then counted on the graph, and one more is sent to see that this is so.
        """
        found: list[float] = []
        while len(found) < messages:
            before = self.views()
            found += self.reliabilities(10, wait)
            if len(found) >= least and self.views() == before:
                shares = component_shares(before)
                for _ in range(messages - len(found) - 1):
                    found.append(shares[self.someone().peer])
                sender = self.someone()
                reached = self.village.reliability(self.publish(sender, wait))
                assert reached == shares[sender.peer], f"seed {self.seed}: the graph says otherwise"
                found.append(reached)
        return found[:messages]

    # Crashes, and the overlay.

    def crash(self, share: float, **how: Any) -> None:
        """That share of the living ends at once."""
        living = self.alive
        for node in self.rng.sample(living, round(share * len(living))):
            self.village.world.crash(node, **how)

    def degrees(self) -> list[int]:
        return [len(node.membership.neighbors()) for node in self.alive]

    def asymmetric(self) -> int:
        """Links of which one end does not know, now and still a second later: none is in the making."""
        before = self._one_sided()
        self.village.run_for(1.0)
        return len(before & self._one_sided())

    def _one_sided(self) -> set[tuple[int, int]]:
        nodes = self.village.world.nodes
        return {
            (node.index, nodes[other].index)
            for node in self.alive
            for other in node.membership.neighbors()
            if not nodes[other].alive or node.peer not in nodes[other].membership.neighbors()
        }

    def views(self) -> dict[Any, list[Any]]:
        """Who has whom in view, by peer id."""
        return {node.peer: list(node.membership.neighbors()) for node in self.alive}
