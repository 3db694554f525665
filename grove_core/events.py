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


class NeighborFailed(Event, frozen=True, gc=False):
    """Broadcast had no answer from a neighbour to which no connection is held.

    Membership may drop it, and then says NeighborDown. Of links that are held the driver itself
    tells (`on_peer_down`); this is for views whose entries are only names, such as Cyclon's.
    """

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


class Proposed(Event, frozen=True, gc=False):
    """A sibling (or the role handle) wants a command agreed on. Heard by the consensus machine.

    Any member may propose, learners too: the consensus carries it to whoever orders. It does not
    retry for ever; the sibling proposes again under the same id when it hears nothing.
    id: 16 bytes chosen by whoever proposes; a retry keeps its id. command: at most 1 MiB.
    """

    id: bytes
    command: bytes


class Committed(Event, frozen=True, gc=False):
    """Consensus agreed on a command. Every member hears the same ones in the same order.

    index: position in the agreed sequence, ascending, with gaps where consensus spoke to itself.
    A command may be committed twice under one id (a retry after an unknown outcome): whoever
    applies commands ignores the second. Durable before it is emitted. A node that begins another
    life hears them anew, from its last snapshot (as Restored) or from the first.
    proposer: who proposed it, as authenticated by the consensus, not as the command claims.
    """

    index: int
    id: bytes
    proposer: PeerId
    command: bytes


class Rejected(Event, frozen=True, gc=False):
    """A proposal of this node was not, and will not be, committed. Silence means: unknown.

    leader: whom to ask instead, if that is the reason and it is known.
    """

    id: bytes
    reason: str
    leader: PeerId | None = None


class ReadAsked(Event, frozen=True, gc=False):
    """A sibling wants to read as of now, linearizably. Answered by ReadReady or Rejected, or not at all.

    Any member may ask. id: 16 bytes chosen by whoever asks.
    """

    id: bytes


class ReadReady(Event, frozen=True, gc=False):
    """What is read now is as of the moment of asking, or later.

    Emitted after every Committed (or Restored) up to index: whoever hears it has heard them. The
    indices of Committed have gaps, so a sibling could not tell by itself.
    """

    id: bytes
    index: int


class LeaderChanged(Event, frozen=True, gc=False):
    """Who leads now, as far as this node knows. epoch: term or view, ascending."""

    leader: PeerId | None
    epoch: int


class MembersChanged(Event, frozen=True, gc=False):
    """Who decides (voters) and who listens (learners) from index on."""

    index: int
    voters: tuple[PeerId, ...]
    learners: tuple[PeerId, ...] = ()


class SnapshotTaken(Event, frozen=True, gc=False):
    """A state machine can be rebuilt from state as of index: consensus may forget what came before.

    Emitted at the same indices and with the same bytes by every member. state: at most 15 MiB.
    """

    index: int
    state: bytes


class SnapshotAsked(Event, frozen=True, gc=False):
    """Consensus wants the state as of index, before anything later is applied.

    Answered by SnapshotTaken with the same index, or not at all. Equal at all members: Byzantine
    agreement certifies states by it.
    """

    index: int


class Restored(Event, frozen=True, gc=False):
    """Consensus gives the state machine a whole state as of index instead of the commands up to it.

    Also at the start of a life, before the first Committed, if a snapshot was kept.
    """

    index: int
    state: bytes


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
