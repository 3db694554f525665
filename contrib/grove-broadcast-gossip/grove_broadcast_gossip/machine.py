"""Push gossip as a machine: infect and die, with a fresh draw of targets for each message.

Left to others: who the neighbours are (a sibling's NeighborUp and NeighborDown; whether a connection
to them is held is the sibling's affair, for a `send` without one opens its own), dropping those that
failed (the sibling, which hears NeighborFailed), and signatures (the driver checks `messages.proofs`).

Invariants:
1. A message is Delivered at most once while its id is in `seen`, which is bounded by count and age.
2. `awaiting` holds one entry per push whose receipt is open, at most `config.awaiting`.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final, TypeAlias

import msgspec

from grove_broadcast_gossip.config import Config
from grove_broadcast_gossip.messages import (
    MAX_HOPS,
    MAX_TOPIC,
    GossipMessage,
    Push,
    Receipt,
    message_id,
    signed_bytes,
)
from grove_core.errors import LocalProtocolError
from grove_core.events import Delivered, NeighborDown, NeighborFailed, NeighborUp
from grove_core.machine import LOST, Context, Machine, PeerId, Token, handles

Ctx: TypeAlias = Context[GossipMessage]

FORGET: Final = "forget"
SEQNO: Final = "seqno"
SEQNO_BLOCK: Final = 1024
"""Sequence numbers made durable at a time, so that publishing waits for the disk once in 1024."""


class Spread:
    """One message on its way from here. tried: whom it was sent to, and the one it came from."""

    __slots__ = ("msg", "retries", "tried")

    def __init__(self, msg: Push, tried: dict[PeerId, None], retries: int) -> None:
        self.msg = msg
        self.tried = tried
        self.retries = retries


class Gossip(Machine[GossipMessage]):
    """One node's broadcast. Emits Delivered and, if acknowledged, NeighborFailed."""

    __slots__ = ("_is_forgetting", "_reserved", "_seqno", "awaiting", "config", "neighbors", "seen",
                 "subscriptions")  # fmt: skip

    def __init__(self, config: Config) -> None:
        self.config = config
        self.neighbors: dict[PeerId, None] = {}
        self.seen: dict[bytes, float] = {}
        """When each id was first seen, oldest first."""
        self.awaiting: dict[tuple[bytes, PeerId], Spread] = {}
        self.subscriptions: dict[str, None] = {}
        self._seqno = 0
        self._reserved = 0
        self._is_forgetting = False

    # The role (grove_core.roles.BroadcastMachine).

    def publish(self, ctx: Ctx, topic: str, data: bytes) -> bytes:
        """Send to `fanout` neighbours; returns the id, 32 bytes.

        topic: 1 to 128 characters. data: at most `max_payload` bytes. LocalProtocolError otherwise.
        """
        _check_topic(topic)
        if len(data) > self.config.max_payload:
            raise LocalProtocolError(
                f"payload of {len(data)} bytes; limit {self.config.max_payload} (gossip.max_payload)"
            )
        seqno = self._next_seqno(ctx)
        signature = ctx.sign(signed_bytes(ctx.me, seqno, topic, data))
        msg = Push(ctx.me, seqno, topic, data, signature, 0)
        mid = message_id(msg)
        self._first(ctx, mid, msg, None)
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
        """Whoever may be drawn."""
        return {"gossip": tuple(self.neighbors)}

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

    @handles(Push)
    def on_push(self, ctx: Ctx, peer: PeerId, msg: Push) -> None:
        mid = message_id(msg)
        if mid in self.seen or len(msg.data) > self.config.max_payload:
            return
        if msg.author == ctx.me:  # said in an earlier life; the others have it
            self._remember(ctx, mid)
            return
        self._first(ctx, mid, msgspec.structs.replace(msg, hops=min(msg.hops + 1, MAX_HOPS)), peer)

    @handles(Receipt)
    def on_receipt(self, ctx: Ctx, peer: PeerId, msg: Receipt) -> None:
        """A receipt nobody asked for on this stream: nothing."""

    def on_request(self, ctx: Ctx, peer: PeerId, msg: GossipMessage, token: Token) -> None:
        """An acknowledged push; answered first, so that the receipt does not wait for what follows."""
        ctx.reply(token, Receipt())
        if isinstance(msg, Push):
            self.on_push(ctx, peer, msg)

    def on_reply(self, ctx: Ctx, key: Any, peer: PeerId, msg: GossipMessage) -> None:
        self.awaiting.pop(key, None)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        """No receipt: tell the membership, and push to another neighbour if retries are left."""
        spread = self.awaiting.pop(key, None)
        if spread is None:
            return
        if reason in ("unreachable", "timeout"):  # who refuses or misspells lives
            ctx.emit(NeighborFailed(peer))
        if spread.retries > 0:
            others = [other for other in self.neighbors if other not in spread.tried]
            if others:
                spread.retries -= 1
                self._ask(ctx, key[0], others[int(ctx.rng.random() * len(others))], spread)

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

    # Spreading.

    def _first(self, ctx: Ctx, mid: bytes, msg: Push, sender: PeerId | None) -> None:
        """Deliver, remember, and push to a fresh draw of neighbours other than the sender."""
        self._remember(ctx, mid)
        if msg.topic in self.subscriptions:
            ctx.emit(Delivered(msg.topic, mid, msg.author, msg.data, msg.hops))
        others = [peer for peer in self.neighbors if peer != sender]
        targets = _some_of(ctx.rng, others, self.config.fanout)
        if not self.config.acknowledged:
            for peer in targets:
                ctx.send(peer, msg)
            return
        spread = Spread(msg, dict.fromkeys(targets), self.config.retries)
        if sender is not None:
            spread.tried[sender] = None
        for peer in targets:
            self._ask(ctx, mid, peer, spread)

    def _ask(self, ctx: Ctx, mid: bytes, peer: PeerId, spread: Spread) -> None:
        """Push for a receipt, or without one if too many are open."""
        spread.tried[peer] = None
        if len(self.awaiting) >= self.config.awaiting:
            ctx.send(peer, spread.msg)
        else:
            self.awaiting[mid, peer] = spread
            ctx.request(peer, spread.msg, (mid, peer), self.config.ack_timeout)

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


def _some_of(rng: Random, peers: list[PeerId], count: int) -> list[PeerId]:
    """Count different peers, or all of them if they are fewer: the first steps of a shuffle."""
    if count >= len(peers):
        return peers
    for i in range(count):
        j = i + int(rng.random() * (len(peers) - i))
        peers[i], peers[j] = peers[j], peers[i]
    return peers[:count]


def _check_topic(topic: str) -> None:
    if not 1 <= len(topic) <= MAX_TOPIC:
        raise LocalProtocolError(f"topic of {len(topic)} characters; it must have 1 to {MAX_TOPIC}")
    try:
        topic.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(f"topic {topic!r} has a lone surrogate, which UTF-8 lacks") from None
