"""PBFT on the wire: `/grove/pbft/1.0.0`, and what is signed.

Every vote is a statement, and a statement is exactly these bytes (integers big-endian):

    "grove/pbft/1:" | kind (1) | configuration (16) | view u64 | seq u64 | digest (32)

so votes for different kinds, configurations, views, sequence numbers or digests never add up. The
configuration's name is a hash of the group, the number of the configuration and its voters: a quorum
cannot mix members of two configurations, and no vote of one group is worth anything in another.
The primary's PRE-PREPARE carries its signature under the very statement that its backups sign as
PREPARE: a prepared certificate is then one quorum of signatures under one statement, the primary's among
them.

Requests are signed by their clients. REPLY is not signed: it is counted by the authenticated end it came
from and convinces nobody else. What is fetched by its digest needs no signature either.

Bounds: a certificate has at most 512 signatures, in ascending order of voters, each voter once; a message
carries at most 8,192 proofs and 2 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from grove_core.codec import MsgpackCodec
from grove_core.errors import RemoteProtocolError
from grove_core.machine import Message, PeerId
from grove_core.specs import Proof

DOMAIN: Final = b"grove/pbft/1:"

MAX_VOTERS: Final = 512
"""Members of a consensus group: 2n² messages a decision are 524,000 here."""
MAX_LEARNERS: Final = 4096
"""Members of an observer group."""
MAX_WINDOW: Final = 64
"""Sequence numbers between the two watermarks."""
MAX_REQUESTS: Final = 1024
"""Requests in one batch."""
MAX_COMMAND: Final = 1 << 20
"""Bytes of one command (events.Proposed)."""
MAX_FRAME: Final = 2 << 20
"""Bytes of one message: one command and its surroundings, or many small ones."""
MAX_PROOFS: Final = 8192
"""Signatures in one message; a VIEW-CHANGE of 100 voters with a window of 16 full has 1,140."""
MAX_CHUNK: Final = 256 * 1024
"""Bytes of state in one answer."""
MAX_DECIDED: Final = 16
"""Decisions in one answer to CATCH-UP."""
MAX_HANDOVERS: Final = 8
"""Changes of configuration proven in one answer to CATCH-UP."""

Name = Annotated[bytes, Meta(min_length=16, max_length=16)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Seq = Annotated[int, Meta(ge=0, le=1 << 53)]
View = Annotated[int, Meta(ge=0, le=1 << 31)]
Member = Annotated[PeerId, Meta(min_length=1, max_length=64)]
Sig = Annotated[bytes, Meta(max_length=512)]

COMMAND: Final = 0
READ: Final = 1
CHANGE: Final = 2


class Signature(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One voter's signature under a statement that stands elsewhere."""

    voter: Member
    signature: Sig


Signatures = Annotated[tuple[Signature, ...], Meta(max_length=MAX_VOTERS)]


class Certificate(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A quorum of signatures under one statement; of which kind follows from where it stands."""

    configuration: Name
    view: View
    seq: Seq
    digest: Digest
    signatures: Signatures


class Request(Message, frozen=True, gc=False):
    """REQUEST: what a client wants ordered. number: its timestamp, never used twice by this client.

    kind: 0 a command for the state machine, 1 a linearizable read, 2 a change of members.
    """

    client: Member
    number: Seq
    id: Name
    kind: Annotated[int, Meta(ge=0, le=2)]
    command: Annotated[bytes, Meta(max_length=MAX_COMMAND)]
    signature: Sig


Batch = Annotated[tuple[Request, ...], Meta(max_length=MAX_REQUESTS)]


class PrePrepare(Message, frozen=True, gc=False):
    """PRE-PREPARE: the primary gives a batch its number. An empty batch is the null request."""

    configuration: Name
    view: View
    seq: Seq
    batch: Batch
    voter: Member
    signature: Sig


class Prepare(Message, frozen=True, gc=False):
    """PREPARE: a backup accepted this digest for this number in this view."""

    configuration: Name
    view: View
    seq: Seq
    digest: Digest
    voter: Member
    signature: Sig


class Commit(Message, frozen=True, gc=False):
    """COMMIT: the sender holds a prepared certificate."""

    configuration: Name
    view: View
    seq: Seq
    digest: Digest
    voter: Member
    signature: Sig


class Reply(Message, frozen=True, gc=False):
    """REPLY: these requests of the receiver are executed. One per client and batch."""

    configuration: Name
    view: View
    numbers: Annotated[tuple[Seq, ...], Meta(max_length=MAX_REQUESTS)]


class Checkpoint(Message, frozen=True, gc=False):
    """CHECKPOINT: the sender has executed up to seq, and its history and tables have this digest."""

    configuration: Name
    seq: Seq
    digest: Digest
    voter: Member
    signature: Sig


class Vouch(Message, frozen=True, gc=False):
    """The whole state as of seq, the state machine's included, has this digest."""

    configuration: Name
    seq: Seq
    digest: Digest
    voter: Member
    signature: Sig


class ViewChange(Message, frozen=True, gc=False):
    """VIEW-CHANGE: the sender wants this view. stable, digest, proof: its last stable checkpoint (no
    proof if that is where its configuration began); prepared: its certificates above it, ascending in
    seq."""

    configuration: Name
    view: View
    stable: Seq
    digest: Digest
    proof: Signatures
    prepared: Annotated[tuple[Certificate, ...], Meta(max_length=MAX_WINDOW)]
    voter: Member
    signature: Sig


class Cited(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A VIEW-CHANGE by who sent it and the digest of what is in it."""

    voter: Member
    digest: Digest


class Proposal(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A PRE-PREPARE re-issued in a new view; the batch is known by its digest. signature: the
    primary's."""

    seq: Seq
    digest: Digest
    signature: Sig


class NewView(Message, frozen=True, gc=False):
    """NEW-VIEW: a quorum of VIEW-CHANGEs (V) and the PRE-PREPAREs that follow from them (O).

    V is cited, not contained: everybody has been sent it, and who missed one fetches it. With the
    VIEW-CHANGEs inside, a full window at n = 31 would be 0.7 MB to each backup; cited it is 3 kB.
    """

    configuration: Name
    view: View
    changes: Annotated[tuple[Cited, ...], Meta(max_length=MAX_VOTERS)]
    proposals: Annotated[tuple[Proposal, ...], Meta(max_length=MAX_WINDOW)]
    voter: Member
    signature: Sig


class Decided(Message, frozen=True, gc=False):
    """A batch and the COMMITs of a quorum for it: needs nobody's word. What observers are sent."""

    certificate: Certificate
    batch: Batch


# Questions and their answers: what a replica that missed something asks.


class Membership(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Who decides (voters) and who listens (learners), both ascending; part of the agreed state.

    number: of the configuration, one more whenever the voters change. base: where it began.
    switch: the checkpoint at which waiting changes take effect; 0 if none waits.
    waiting: agreed changes that have not taken effect. sponsored: changes that want more sponsors.
    """

    number: Seq
    voters: Annotated[tuple[Member, ...], Meta(max_length=MAX_VOTERS)]
    learners: Annotated[tuple[Member, ...], Meta(max_length=MAX_LEARNERS)]
    base: Seq = 0
    switch: Seq = 0
    waiting: Annotated[tuple[Change, ...], Meta(max_length=MAX_REQUESTS)] = ()
    sponsored: Annotated[tuple[Sponsored, ...], Meta(max_length=MAX_WINDOW)] = ()


class Change(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One member's step: "join" (becomes observer), "exit", "promote" (observer to voter), "demote", or
    "renew"."""

    act: Annotated[str, Meta(max_length=8)]
    peer: Member


class Sponsored(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Changes that some voters asked for, and who they are."""

    changes: Annotated[tuple[Change, ...], Meta(max_length=MAX_REQUESTS)]
    voters: Annotated[tuple[Member, ...], Meta(max_length=MAX_VOTERS)]


class Root(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """All that has been agreed up to seq, the state machine aside; its hash is the checkpoint's digest.

    index: commands executed. history: hash chain over the executed batches. clients: hash of the table
    that keeps a request from being executed twice.
    """

    seq: Seq
    index: Seq
    history: Digest
    clients: Digest
    membership: Membership


class Handover(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A configuration names its successor: the root as of the switch, certified by the old voters."""

    root: Root
    certificate: Certificate


class Offer(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A state that may be had in pieces, size bytes in all; the certificate is of VOUCHes."""

    certificate: Certificate
    size: Annotated[int, Meta(ge=0, le=1 << 32)]
    handovers: Annotated[tuple[Handover, ...], Meta(max_length=MAX_HANDOVERS)]


class CatchUp(Message, frozen=True, gc=False):
    """What was decided after seq? number: of the configuration that the sender knows."""

    seq: Seq
    number: Seq


class Segment(Message, frozen=True, gc=False):
    """What was decided after the seq asked for, in order and without gaps; or a state to begin from.

    executed, stable: how far the sender is, and its stable checkpoint.
    """

    executed: Seq
    stable: Certificate | None
    decided: Annotated[tuple[Decided, ...], Meta(max_length=MAX_DECIDED)]
    offer: Offer | None


class FetchState(Message, frozen=True, gc=False):
    """Bytes of an offered state from an offset on."""

    seq: Seq
    digest: Digest
    offset: Annotated[int, Meta(ge=0, le=1 << 32)]


class FetchBatch(Message, frozen=True, gc=False):
    """The batch that has this digest at this number."""

    seq: Seq
    digest: Digest


class FetchChange(Message, frozen=True, gc=False):
    """The VIEW-CHANGE that a NEW-VIEW cites."""

    configuration: Name
    view: View
    cited: Cited


class FetchNewView(Message, frozen=True, gc=False):
    """The NEW-VIEW by which the receiver entered its view, if that is later than this one."""

    configuration: Name
    view: View


class AskPrepared(Message, frozen=True, gc=False):
    """The highest number the receiver has prepared or executed (read-only path)."""

    configuration: Name


class PreparedUpTo(Message, frozen=True, gc=False):
    """Answers AskPrepared."""

    configuration: Name
    seq: Seq


class Found(Message, frozen=True, gc=False):
    """A batch that was asked for."""

    batch: Batch


class Chunk(Message, frozen=True, gc=False):
    """Bytes of a state."""

    data: Annotated[bytes, Meta(max_length=MAX_CHUNK)]


class Nothing(Message, frozen=True, gc=False):
    """What was asked for is not here."""


PbftMessage: TypeAlias = (
    Request | PrePrepare | Prepare | Commit | Reply | Checkpoint | Vouch | ViewChange | NewView | Decided
    | CatchUp | Segment | FetchState | FetchBatch | FetchChange | FetchNewView | AskPrepared
    | PreparedUpTo | Found | Chunk | Nothing
)  # fmt: skip

CODEC = MsgpackCodec(
    Request, PrePrepare, Prepare, Commit, Reply, Checkpoint, Vouch, ViewChange, NewView, Decided,
    CatchUp, Segment, FetchState, FetchBatch, FetchChange, FetchNewView, AskPrepared, PreparedUpTo,
    Found, Chunk, Nothing, max_size=MAX_FRAME,
)  # fmt: skip

# What is signed.

PREPARED: Final = b"p"
COMMITTED: Final = b"c"
CHECKPOINT: Final = b"k"
STATE: Final = b"s"
VIEW_CHANGE: Final = b"v"
NEW_VIEW: Final = b"n"
REQUEST: Final = b"r"

NULL: Final = sha256(DOMAIN + b"batch:").digest()
"""The digest of the null request: a batch of nothing."""


def statement(kind: bytes, configuration: bytes, view: int, seq: int, digest: bytes) -> bytes:
    """What a voter signs; see the layout above."""
    return DOMAIN + kind + configuration + view.to_bytes(8, "big") + seq.to_bytes(8, "big") + digest


def request_bytes(client: PeerId, number: int, id: bytes, kind: int, command: bytes) -> bytes:
    """What a client signs: everything of a fixed length or with its length before it, the command
    last."""
    head = (DOMAIN, REQUEST, bytes((len(client),)), client, number.to_bytes(8, "big"), id, bytes((kind,)))
    return b"".join((*head, command))


def batch_digest(batch: Iterable[Request]) -> bytes:
    """The name of a batch, signatures included; `NULL` for none."""
    hasher = sha256(DOMAIN + b"batch:")
    for one in batch:
        data = request_bytes(one.client, one.number, one.id, one.kind, one.command)
        hasher.update(len(data).to_bytes(4, "big") + data)
        hasher.update(len(one.signature).to_bytes(2, "big") + one.signature)
    return hasher.digest()


def change_digest(msg: ViewChange) -> bytes:
    """A hash of all that a VIEW-CHANGE says but its view and stable checkpoint, which stand beside it."""
    hasher = sha256(DOMAIN + b"view-change:" + msg.digest)
    hasher.update(_laid_out(msg.proof))
    for one in msg.prepared:
        hasher.update(statement(PREPARED, one.configuration, one.view, one.seq, one.digest))
        hasher.update(_laid_out(one.signatures))
    return hasher.digest()


def new_view_digest(changes: Iterable[Cited], proposals: Iterable[Proposal]) -> bytes:
    """A hash of all that a NEW-VIEW says but its view."""
    hasher = sha256(DOMAIN + b"new-view:")
    for cited in changes:
        hasher.update(b"\x01" + len(cited.voter).to_bytes(1, "big") + cited.voter + cited.digest)
    for one in proposals:
        hasher.update(b"\x02" + one.seq.to_bytes(8, "big") + one.digest)
        hasher.update(len(one.signature).to_bytes(2, "big") + one.signature)
    return hasher.digest()


def _laid_out(signatures: Signatures) -> bytes:
    parts = [len(signatures).to_bytes(2, "big")]
    for one in signatures:
        parts.append(len(one.voter).to_bytes(1, "big") + one.voter)
        parts.append(len(one.signature).to_bytes(2, "big") + one.signature)
    return b"".join(parts)


# Which signatures must hold before a machine sees a message.


def proofs(msg: PbftMessage) -> Iterable[Proof]:
    """The signatures a message stands on. RemoteProtocolError if a certificate names a voter twice or the
    message carries more than 8,192."""
    found = list(_proofs(msg))
    if len(found) > MAX_PROOFS:
        raise RemoteProtocolError(
            f"{type(msg).__name__} with {len(found)} signatures; limit {MAX_PROOFS}"
        )
    return found


def _proofs(msg: PbftMessage) -> Iterator[Proof]:
    kind = type(msg)
    if kind is Prepare or kind is Commit or kind is Checkpoint or kind is Vouch:
        assert isinstance(msg, Prepare | Commit | Checkpoint | Vouch)
        said = statement(_KINDS[kind], msg.configuration, getattr(msg, "view", 0), msg.seq, msg.digest)
        yield Proof(msg.voter, said, msg.signature)
    elif isinstance(msg, Request):
        yield _signed_by_client(msg)
    elif isinstance(msg, PrePrepare):
        said = statement(PREPARED, msg.configuration, msg.view, msg.seq, batch_digest(msg.batch))
        yield Proof(msg.voter, said, msg.signature)
        for request in msg.batch:
            yield _signed_by_client(request)
    elif isinstance(msg, ViewChange):
        said = statement(VIEW_CHANGE, msg.configuration, msg.view, msg.stable, change_digest(msg))
        yield Proof(msg.voter, said, msg.signature)
        stable = statement(CHECKPOINT, msg.configuration, 0, msg.stable, msg.digest)
        yield from _quorum(stable, msg.proof)
        for one in msg.prepared:
            yield from _certified(PREPARED, one)
    elif isinstance(msg, NewView):
        said = new_view_digest(msg.changes, msg.proposals)
        yield Proof(msg.voter, statement(NEW_VIEW, msg.configuration, msg.view, 0, said), msg.signature)
        for proposal in msg.proposals:
            yield Proof(
                msg.voter,
                statement(PREPARED, msg.configuration, msg.view, proposal.seq, proposal.digest),
                proposal.signature,
            )
    elif isinstance(msg, Decided):
        yield from _certified(COMMITTED, msg.certificate)
    elif isinstance(msg, Segment):
        if msg.stable is not None:
            yield from _certified(CHECKPOINT, msg.stable)
        for decided in msg.decided:
            yield from _certified(COMMITTED, decided.certificate)
        if msg.offer is not None:
            yield from _certified(STATE, msg.offer.certificate)
            for handover in msg.offer.handovers:
                yield from _certified(CHECKPOINT, handover.certificate)


_KINDS: Final[dict[type, bytes]] = {
    Prepare: PREPARED, Commit: COMMITTED, Checkpoint: CHECKPOINT, Vouch: STATE,
}  # fmt: skip


def _signed_by_client(one: Request) -> Proof:
    data = request_bytes(one.client, one.number, one.id, one.kind, one.command)
    return Proof(one.client, data, one.signature)


def _certified(kind: bytes, one: Certificate) -> Iterator[Proof]:
    return _quorum(statement(kind, one.configuration, one.view, one.seq, one.digest), one.signatures)


def _quorum(said: bytes, signatures: Signatures) -> Iterator[Proof]:
    last = b""
    for one in signatures:
        if one.voter <= last:
            raise RemoteProtocolError("a certificate's voters are not in ascending order, each once")
        last = one.voter
        yield Proof(one.voter, said, one.signature)
