"""A village as the papers measured it, in virtual time, and what they measure of it.

HyParView's and Plumtree's experiments (tests/sim/test_village.py) and those of their rivals
(tests/sim/test_rivals.py) share it. A membership cycle is 60 s; links take 10 to 50 ms each way; nodes
join one after another, through the first one or through a random one before them, far enough apart
for one walk to end before the next begins (as in the papers; when walks overlap, newcomers find each
other and cluster). GROVE_FULL=1 asks for the papers' 10,000 nodes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

from grove_core.drive.virtual import VirtualNode, uniform
from grove_core.events import Delivered
from grove_core.machine import Event
from grove_core.specs import Part
from grove_core.testing import Village, part

FULL = bool(os.environ.get("GROVE_FULL"))
NODES = 10_000 if FULL else 1_000
CYCLE = 60.0
STABLE = 50 if FULL else 30  # cycles before the overlay is looked at; the paper's 50
SETTLED = 10 if FULL else 4  # cycles before an experiment that needs no perfect overlay

Measured = Callable[[str, object], None]


class PaperVillage(Village):
    """Nodes that may join through anybody before them. Keeps what was delivered, and no other event:
    views without links change millions of times."""

    def __init__(self, parts: Sequence[Part], nodes: int, *, seed: int, contact: str, **how: Any) -> None:
        self.rng = Random(f"contacts {seed}")
        self.contact = contact
        super().__init__(parts, nodes, seed=seed, **how)

    def enter(self, node: VirtualNode) -> None:
        if self.contact == "first" or node.index < 2:
            super().enter(node)
            return
        for topic in self._topics:
            node.broadcast.subscribe(topic)
        node.membership.join(self.nodes[self.rng.randrange(node.index)].peer)

    def _write(self, node: VirtualNode, event: Event) -> None:
        if type(event) is Delivered:
            super()._write(node, event)


class Paper:
    """A village, with what the papers measure of each broadcast.

    membership: HyParView if None. contact: through whom a node joins, the "first" or a "random" one.
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
        **world: Any,
    ) -> None:
        self.sent: Counter[str] = Counter()
        """Broadcast messages that arrived, by type, since the last publish."""
        parts = [membership or part("hyparview", shuffle_interval=CYCLE)]
        parts += [self._counted(one) for one in broadcast]
        self.rng = Random(seed)
        self.seed = seed
        delay = delay or uniform(0.01, 0.05, seed)
        self.village = PaperVillage(
            parts, nodes, seed=seed, contact=contact, spacing=spacing, delay=delay, **world
        )
        self.hops: dict[bytes, int] = {}
        self.village.world.sinks.append(self._hop)
        self.village.grow(cycles * CYCLE)

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

    @property
    def alive(self) -> list[VirtualNode]:
        return self.village.alive

    def someone(self) -> VirtualNode:
        return self.rng.choice(self.alive)

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

    def freeze(self, **changes: Any) -> None:
        """After one more cycle there are no others; HyParView repairs only if `repair=True`."""
        self.configure("membership", shuffle_interval=86_400.0, **changes)
        self.village.run_for(CYCLE)

    def configure(self, role: str, **changes: Any) -> None:
        """Give every living machine of a role another setting."""
        for node in self.alive:
            machine = node.machine(role)
            machine.config = msgspec.structs.replace(machine.config, **changes)

    def reliabilities(self, messages: int, wait: float = 5.0) -> list[float]:
        """How many of the living each of so many messages reaches, from random senders, one by one."""
        found = []
        for _ in range(messages):
            message = self.publish(wait=wait)
            found.append(self.village.reliability(message))
            self.village.delivered.pop(message, None)
            self.hops.pop(message, None)
        return found

    def views(self) -> dict[Any, list[Any]]:
        """Who has whom in view, by peer id."""
        return {node.peer: list(node.membership.neighbors()) for node in self.alive}
