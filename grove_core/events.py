"""What the roles tell each other and the application. The only words plugins have in common.

An event is emitted with `ctx.emit` and reaches the siblings that `@handles` its type, in node
order, after the handler that emitted it has returned; then the application.
"""

from __future__ import annotations

from grove_core.machine import Event, PeerId


class PeerFound(Event, frozen=True, gc=False):
    """Discovery (or gossip) learnt of a peer.

    record: a signed peer record of at most 1024 bytes that says how to reach it, or empty. The
    real driver verifies it and keeps the addresses; machines need only the id.
    """

    peer: PeerId
    record: bytes = b""


class NeighborUp(Event, frozen=True, gc=False):
    """Membership admitted a peer: broadcast may count on it."""

    peer: PeerId


class NeighborDown(Event, frozen=True, gc=False):
    """Membership lost or dropped a peer."""

    peer: PeerId


class Delivered(Event, frozen=True, gc=False):
    """Broadcast hands over a message, once, on a topic this node subscribes to.

    id: names the message everywhere, 16 to 64 bytes. author: who signed it, not who passed it on.
    hops: links it crossed to get here, 0 at its author.
    """

    topic: str
    id: bytes
    author: PeerId
    data: bytes
    hops: int = 0


class Connected(Event, frozen=True, gc=False):
    """The driver opened a connection to a peer and knows what it speaks. For the application."""

    peer: PeerId
    transport: str
    address: str
    inbound: bool
    agent: str = ""


class Disconnected(Event, frozen=True, gc=False):
    """The driver lost its last connection to a peer. For the application."""

    peer: PeerId
    reason: str = ""
