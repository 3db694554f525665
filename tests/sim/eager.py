"""The papers' baseline "Eager": flood every message over the active view. For experiments only.

Kept apart from the plugins so that what HyParView promises is measured without Plumtree's repairs.
"""

from __future__ import annotations

from typing import Any

import msgspec

from grove_core.codec import MsgpackCodec
from grove_core.events import Delivered, NeighborDown, NeighborUp
from grove_core.machine import Context, Machine, Message, PeerId, handles
from grove_core.specs import Part, ProtocolSpec


class Flood(Message, frozen=True, gc=False):
    id: bytes
    author: PeerId
    hops: int


class EagerConfig(msgspec.Struct, frozen=True):
    """Nothing to configure."""


class Eager(Machine[Flood]):
    """No signatures, no bounds: it lives for one experiment."""

    def __init__(self, config: EagerConfig) -> None:
        self.neighbors: dict[PeerId, None] = {}
        self.seen: dict[bytes, None] = {}
        self.published = 0

    def subscribe(self, ctx: Context[Flood], topic: str) -> None:
        """Everybody hears everything."""

    def publish(self, ctx: Context[Flood], topic: str, data: bytes) -> bytes:
        self.published += 1
        msg = Flood(ctx.me[-16:] + self.published.to_bytes(8, "big"), ctx.me, 0)
        self._first(ctx, msg, None)
        return msg.id

    @handles(Flood)
    def on_flood(self, ctx: Context[Flood], peer: PeerId, msg: Flood) -> None:
        if msg.id not in self.seen:
            self._first(ctx, Flood(msg.id, msg.author, msg.hops + 1), peer)

    def _first(self, ctx: Context[Flood], msg: Flood, sender: PeerId | None) -> None:
        self.seen[msg.id] = None
        ctx.emit(Delivered("test", msg.id, msg.author, b"", msg.hops))
        for peer in self.neighbors:
            if peer != sender:
                ctx.send(peer, msg)

    @handles(NeighborUp)
    def on_neighbor_up(self, ctx: Context[Any], event: NeighborUp) -> None:
        self.neighbors[event.peer] = None

    @handles(NeighborDown)
    def on_neighbor_down(self, ctx: Context[Any], event: NeighborDown) -> None:
        self.neighbors.pop(event.peer, None)


EAGER = Part(
    ProtocolSpec(
        name="eager",
        role="broadcast",
        config=EagerConfig,
        build=Eager,
        codec=MsgpackCodec(Flood, max_size=1024),
        protocols=("/test/eager/1.0.0",),
    ),
    EagerConfig(),
)
