"""A simulated world for tests: n nodes of the same parts that join through the first one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from grove_core.drive.virtual import Delay, VirtualNode, World
from grove_core.events import Delivered
from grove_core.machine import Event, PeerId
from grove_core.specs import Part


def peer(number: int) -> PeerId:
    """A peer id for tests: equal for equal numbers, shaped like an Ed25519 identity."""
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + hashlib.sha256(b"peer %d" % number).digest())


class Village:
    """Nodes in virtual time, with what was delivered written down.

    nodes: how many. parts: of each. Nodes start `spacing` seconds apart, in order, and each joins
    the membership through node 0. Keyword arguments beyond these go to `World`.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        nodes: int,
        *,
        seed: int = 0,
        delay: Delay | float = 0.05,
        spacing: float = 0.1,
        topics: Sequence[str] = ("test",),
        **world: Any,
    ) -> None:
        self.world = World(seed=seed, delay=delay, **world)
        self.world.sinks.append(self._write)
        self.delivered: dict[bytes, dict[int, int]] = {}
        """Message id -> node index -> how often it was delivered there."""
        self.events: list[tuple[float, int, Event]] = []
        """Everything else that was emitted: (time, node index, event)."""
        self._topics = tuple(topics)
        for index in range(nodes):
            node = self.world.add(parts, at=index * spacing)
            self.world.at(index * spacing, lambda node=node: self.enter(node))  # type: ignore[misc]
        self.settled = nodes * spacing

    @property
    def nodes(self) -> list[VirtualNode]:
        return self.world.order

    @property
    def alive(self) -> list[VirtualNode]:
        return [node for node in self.world.order if node.alive]

    def enter(self, node: VirtualNode) -> None:
        """Subscribe a node to the topics and let it join through the first other live node."""
        roles = {ctx.slot.spec.role for ctx in node.contexts}
        if "broadcast" in roles:
            for topic in self._topics:
                node.broadcast.subscribe(topic)
        if "membership" in roles:
            contact = next(
                (other for other in self.world.order if other.alive and other is not node), None
            )
            if contact is not None:
                node.membership.join(contact.peer)

    def grow(self, seconds: float = 10.0) -> Village:
        """Let everybody join, then let so many seconds pass."""
        self.world.run(self.settled + seconds)
        return self

    def publish(self, node: VirtualNode, data: bytes = b"hello", topic: str = "test") -> bytes:
        """Publish now; returns the message id."""
        message_id: bytes = node.broadcast.publish(topic, data)
        return message_id

    def reliability(self, message_id: bytes) -> float:
        """Share of the live nodes that delivered a message."""
        got = self.delivered.get(message_id, {})
        alive = self.alive
        return sum(1 for node in alive if node.index in got) / len(alive)

    def run_for(self, seconds: float) -> Village:
        self.world.run_for(seconds)
        return self

    def _write(self, node: VirtualNode, event: Event) -> None:
        if isinstance(event, Delivered):
            counts = self.delivered.setdefault(event.id, {})
            counts[node.index] = counts.get(node.index, 0) + 1
        else:
            self.events.append((self.world.now, node.index, event))
