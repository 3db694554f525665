"""A connection between two nodes: one link, which each node sees from its end."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grove_core.drive.virtual.context import VirtualContext
    from grove_core.drive.virtual.node import VirtualNode


class Link:
    """An open connection between two lives of two nodes; it has an `End` at each.

    a dialled it. held: the contexts that want it.
    """

    __slots__ = ("ends", "held", "is_open")

    def __init__(self, a: VirtualNode, b: VirtualNode) -> None:
        world = a.world
        self.held: list[VirtualContext] = []
        self.is_open = True
        self.ends: tuple[End, ...] = (
            End(self, b, world.delay(a.index, b.index), world.counterparts(a, b), True),
            End(self, a, world.delay(b.index, a.index), world.counterparts(b, a), False),
        )

    def close(self) -> None:
        self.is_open = False
        self.ends = ()  # no cycle is left: the memory goes at once
        self.held = []


class End:
    """A link as one of its nodes sees it: who is at the other side, and how far away.

    counterparts: for each of our slots, the other node's context that speaks its protocol.
    outbound: whether this node dialled. clogged: what waits while the other side does not read.
    """

    __slots__ = ("clogged", "counterparts", "delay", "link", "other", "outbound")

    def __init__(
        self,
        link: Link,
        other: VirtualNode,
        delay: float,
        counterparts: tuple[VirtualContext | None, ...],
        outbound: bool,
    ) -> None:
        self.link = link
        self.outbound = outbound
        self.other = other
        self.delay = delay
        self.counterparts = counterparts
        self.clogged: deque[tuple[VirtualContext, Any]] | None = None
