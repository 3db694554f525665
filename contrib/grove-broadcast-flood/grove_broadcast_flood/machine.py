"""Flooding as a machine.

Left to others: who the neighbours are (a sibling's NeighborUp and NeighborDown) and signatures (the
driver checks `messages.proofs` first).

Invariant: a message is Delivered at most once while its id is in `seen`, which is bounded by count
and age.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from grove_broadcast_flood.config import Config
from grove_broadcast_flood.messages import MAX_HOPS, MAX_TOPIC, Flood, message_id, signed_bytes
from grove_core.errors import LocalProtocolError
from grove_core.events import Delivered, NeighborDown, NeighborUp
from grove_core.machine import LOST, Context, Machine, PeerId, handles

Ctx: TypeAlias = Context[Flood]

FORGET: Final = "forget"
SEQNO: Final = "seqno"
SEQNO_BLOCK: Final = 1024
"""Sequence numbers made durable at a time, so that publishing waits for the disk once in 1024."""


class Flooding(Machine[Flood]):
    """One node's broadcast. Emits Delivered."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.neighbors: dict[PeerId, None] = {}
        self.seen: dict[bytes, float] = {}
        """When each id was first seen, oldest first."""
        self.subscriptions: dict[str, None] = {}
        self._seqno = 0
        self._reserved = 0
        self._is_forgetting = False

    # The role (grove_core.roles.BroadcastMachine).

    def publish(self, ctx: Ctx, topic: str, data: bytes) -> bytes:
        """Send to everybody; returns the id, 32 bytes.

        topic: 1 to 128 characters. data: at most `max_payload` bytes. LocalProtocolError otherwise.
        """
        _check_topic(topic)
        if len(data) > self.config.max_payload:
            raise LocalProtocolError(
                f"payload of {len(data)} bytes; limit {self.config.max_payload} (flood.max_payload)"
            )
        seqno = self._next_seqno(ctx)
        signature = ctx.sign(signed_bytes(ctx.me, seqno, topic, data))
        msg = Flood(ctx.me, seqno, topic, data, signature, 0)
        mid = message_id(msg)
        self._pass_on(ctx, mid, msg, None)
        return mid

    def subscribe(self, ctx: Ctx, topic: str) -> None:
        """Want Delivered events of a topic: 1 to 128 characters."""
        _check_topic(topic)
        self.subscriptions[topic] = None

    def unsubscribe(self, ctx: Ctx, topic: str) -> None:
        """Want them no longer."""
        self.subscriptions.pop(topic, None)

    def topics(self) -> tuple[str, ...]:
        """Topics subscribed to, in ascending order."""
        return tuple(sorted(self.subscriptions))

    def links(self) -> dict[str, tuple[PeerId, ...]]:
        """Everybody gets everything."""
        return {"flood": tuple(self.neighbors)}

    # Inputs.

    def on_start(self, ctx: Ctx) -> None:
        record = ctx.load(SEQNO)
        if record is not None:
            self._seqno = self._reserved = int.from_bytes(record[:8], "big")
        if ctx.load(LOST) is not None:
            # The disk forgot which numbers were used: begin where, all but surely, none was.
            self._seqno = self._reserved = ctx.rng.getrandbits(62)
            ctx.save(SEQNO, self._reserved.to_bytes(8, "big"))
            ctx.save(LOST, None)

    @handles(Flood)
    def on_flood(self, ctx: Ctx, peer: PeerId, msg: Flood) -> None:
        mid = message_id(msg)
        if mid in self.seen or len(msg.data) > self.config.max_payload:
            return
        if msg.author == ctx.me:  # said in an earlier life; the others have it
            self._remember(ctx, mid)
            return
        self._pass_on(ctx, mid, msgspec.structs.replace(msg, hops=min(msg.hops + 1, MAX_HOPS)), peer)

    def _pass_on(self, ctx: Ctx, mid: bytes, msg: Flood, sender: PeerId | None) -> None:
        """Deliver, remember, and send to all neighbours but the sender."""
        self._remember(ctx, mid)
        if msg.topic in self.subscriptions:
            ctx.emit(Delivered(msg.topic, mid, msg.author, msg.data, msg.hops))
        for peer in self.neighbors:
            if peer != sender:
                ctx.send(peer, msg)

    @handles(NeighborUp)
    def on_neighbor_up(self, ctx: Ctx, event: NeighborUp) -> None:
        self.neighbors[event.peer] = None

    @handles(NeighborDown)
    def on_neighbor_down(self, ctx: Ctx, event: NeighborDown) -> None:
        self.neighbors.pop(event.peer, None)

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        """Forget ids older than `seen_for`; an idle node has no timer."""
        for mid in [mid for mid, when in self.seen.items() if when <= ctx.now - self.config.seen_for]:
            del self.seen[mid]
        self._is_forgetting = bool(self.seen)
        if self.seen:
            ctx.set_timer(FORGET, self.config.seen_for / 2)

    # Memory.

    def _remember(self, ctx: Ctx, mid: bytes) -> None:
        self.seen[mid] = ctx.now
        if len(self.seen) > self.config.seen_messages:
            del self.seen[next(iter(self.seen))]
        if not self._is_forgetting:
            self._is_forgetting = True
            ctx.set_timer(FORGET, self.config.seen_for)

    def _next_seqno(self, ctx: Ctx) -> int:
        """A number never used before, in this life or an earlier one."""
        if self._seqno >= self._reserved:
            self._reserved = self._seqno + SEQNO_BLOCK
            ctx.save(SEQNO, self._reserved.to_bytes(8, "big"))
        self._seqno += 1
        return self._seqno - 1


def _check_topic(topic: str) -> None:
    if not 1 <= len(topic) <= MAX_TOPIC:
        raise LocalProtocolError(f"topic of {len(topic)} characters; it must have 1 to {MAX_TOPIC}")
    try:
        topic.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(f"topic {topic!r} has a lone surrogate, which UTF-8 lacks") from None
