"""Raft on the wire: `/grove/raft/1.0.0`, one msgpack array per message.

The paper's remote procedure calls as pairs of one-way messages, since a machine never waits:

    RequestVote -> Vote         Append -> Appended        Chunk (InstallSnapshot) -> ChunkTaken
    TimeoutNow                  Forward -> Refused, or the entry in the log       AskRead -> ReadAnswer

Nothing is signed: a message is as good as the connection it came by, whose other end the driver has
authenticated. `group` keeps two groups on one network apart; `term` is the sender's, except in
a pre-vote, which speaks of the term that would be.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from grove_core.codec import MsgpackCodec
from grove_core.machine import Message, PeerId

MAX_COMMAND: Final = 1 << 20
"""Bytes of one command (grove_core.events.Proposed)."""
MAX_ENTRIES: Final = 4096
"""Entries, or forwarded proposals, in one message."""
MAX_MEMBERS: Final = 256
"""Voters, and learners, of one group."""

Index = Annotated[int, Meta(ge=0, le=(1 << 62) - 1)]
Term = Annotated[int, Meta(ge=0, le=(1 << 62) - 1)]
Round = Annotated[int, Meta(ge=0, le=(1 << 62) - 1)]
Group = Annotated[bytes, Meta(min_length=16, max_length=16)]
Peer = Annotated[PeerId, Meta(min_length=1, max_length=64)]
Peers = Annotated[tuple[Peer, ...], Meta(max_length=MAX_MEMBERS)]
ProposalId = Annotated[bytes, Meta(max_length=16)]
Command = Annotated[bytes, Meta(max_length=MAX_COMMAND)]
Reason = Annotated[str, Meta(max_length=256)]

NOOP: Final = 0
"""What a leader appends first in its term, so that it may commit what came before (§3.6.2, §6.4)."""
COMMAND: Final = 1
CONFIGURATION: Final = 2
"""Its command is an encoded `Members`."""


class Members(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A configuration: who decides and who listens. All ascending.

    voters: C_new. outgoing: C_old while the configuration is joint (§4.3), else empty. learners: get
    the log and no vote. learners_next: outgoing voters that become learners when C_old is left.
    """

    voters: Peers = ()
    outgoing: Peers = ()
    learners: Peers = ()
    learners_next: Peers = ()

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    def everybody(self) -> tuple[PeerId, ...]:
        """All of them once, in a fixed order."""
        return tuple(dict.fromkeys(self.voters + self.outgoing + self.learners + self.learners_next))

    def decides(self, peer: PeerId) -> bool:
        """Whether a peer's vote counts in either half."""
        return peer in self.voters or peer in self.outgoing


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One entry of the log; its index is its place.

    kind: NOOP, COMMAND or CONFIGURATION. id: the proposal's. proposer: the member it came from.
    A NOOP with an id takes note of a loss of that name, of the proposer's records.
    """

    term: Term
    kind: Annotated[int, Meta(ge=0, le=2)] = NOOP
    id: ProposalId = b""
    proposer: Annotated[PeerId, Meta(max_length=64)] = PeerId(b"")
    command: Command = b""


class Proposal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    id: ProposalId
    command: Command


class RequestVote(Message, frozen=True, gc=False):
    """pre: only asks (§9.6). transfer: the leader itself wished it (§3.10); its lease does not count."""

    group: Group
    term: Term
    last_index: Index
    last_term: Term
    pre: bool = False
    transfer: bool = False


class Vote(Message, frozen=True, gc=False):
    """term: the asker's if granted to a pre-vote, else the sender's own."""

    group: Group
    term: Term
    granted: bool
    pre: bool = False


class Append(Message, frozen=True, gc=False):
    """AppendEntries; without entries, a heartbeat or the news of a commit.

    round: ascending count of the leader's heartbeats, echoed, so that it knows when it was still one.
    """

    group: Group
    term: Term
    prev_index: Index
    prev_term: Term
    entries: Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)]
    commit: Index
    round: Round


class Appended(Message, frozen=True, gc=False):
    """The answer to Append, or to a whole snapshot.

    ok: the log matches up to index. Else index is the prev_index that was refused, and hint is a
    place at or before it, whose entry here has hint_term, from which the leader may look for agreement.
    loss: names a loss of durable records; until the group has taken note the answer counts for nothing.
    """

    group: Group
    term: Term
    ok: bool
    index: Index
    round: Round
    hint: Index = 0
    hint_term: Term = 0
    loss: ProposalId = b""


class Chunk(Message, frozen=True, gc=False):
    """InstallSnapshot, a piece: the state as of index (whose entry has last_term), `total` bytes long."""

    group: Group
    term: Term
    index: Index
    last_term: Term
    members: Members
    offset: Annotated[int, Meta(ge=0, le=1 << 40)]
    total: Annotated[int, Meta(ge=0, le=1 << 40)]
    data: Annotated[bytes, Meta(max_length=MAX_COMMAND)]
    round: Round


class ChunkTaken(Message, frozen=True, gc=False):
    """The snapshot of index is here up to, not including, offset. loss: as in Appended."""

    group: Group
    term: Term
    index: Index
    offset: Annotated[int, Meta(ge=0, le=1 << 40)]
    round: Round
    loss: ProposalId = b""


class TimeoutNow(Message, frozen=True, gc=False):
    """Stand for election at once: the leader hands over."""

    group: Group
    term: Term


class Forward(Message, frozen=True, gc=False):
    """A member's proposals, on their way to the leader."""

    group: Group
    proposals: Annotated[tuple[Proposal, ...], Meta(min_length=1, max_length=MAX_ENTRIES)]


class Refused(Message, frozen=True, gc=False):
    """A forwarded proposal will not be appended."""

    group: Group
    id: ProposalId
    reason: Reason


class AskRead(Message, frozen=True, gc=False):
    """From where on may I read? (§6.4)"""

    group: Group
    id: ProposalId


class ReadAnswer(Message, frozen=True, gc=False):
    """From index on; None: not from me, for a reason."""

    group: Group
    id: ProposalId
    index: Index | None
    reason: Reason = ""


RaftMessage: TypeAlias = (
    RequestVote
    | Vote
    | Append
    | Appended
    | Chunk
    | ChunkTaken
    | TimeoutNow
    | Forward
    | Refused
    | AskRead
    | ReadAnswer
)

# One command of the greatest length beside a full message of others, and what frames them.
CODEC = MsgpackCodec(
    RequestVote, Vote, Append, Appended, Chunk, ChunkTaken, TimeoutNow, Forward, Refused, AskRead,
    ReadAnswer, max_size=MAX_COMMAND + (1 << 20),
)  # fmt: skip

_MEMBERS = msgspec.msgpack.Decoder(Members)


def encode_members(members: Members) -> bytes:
    """The command of a CONFIGURATION entry."""
    return msgspec.msgpack.encode(members)


def decode_members(data: bytes) -> Members:
    """Raises msgspec.DecodeError on what is none."""
    return _MEMBERS.decode(data)
