"""Hierarchical consensus on the wire, `/grove/hierarchy/1.0.0`, and inside the protocols it hosts.

    Envelope                       what the hosted protocols say to their like
    Down, Named, Behind            trusting: a leader tells its group the order; a member asks
    AskLeads, Leads                trusting: who leads a group now
    Share, Certified               certified: a group says something to another one
    Seal                           an epoch ended here, and the next one begins
    Ping, Pong                     is a member of the group that we watch there?

Questions, `/grove/hierarchy-fetch/1.0.0`:

    Fetch → Segment                what was ordered after this position?
    FetchState → Piece             a state that was agreed on
    Which → Opened                 has another epoch begun?
    any of them → Nothing

What members sign are exactly these bytes (integers big-endian):

    "grove/hierarchy/1:" | "m" | village (16) | source u32 | target u32 | number u64 | sha256(body)
    "grove/hierarchy/1:" | "e" | village (16) | sha256(roll)

Inside the group protocol's commands stand `GroupCommand`s, inside the upper protocol's an `Entry`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from grove_core.codec import MsgpackCodec
from grove_core.errors import RemoteProtocolError
from grove_core.host import Envelope
from grove_core.machine import Message, PeerId
from grove_core.specs import Proof

DOMAIN: Final = b"grove/hierarchy/1:"

MAX_COMMAND: Final = (1 << 20) - 4096
"""Bytes of one command: with what is put around it, one command of the protocols inside."""
MAX_BODY: Final = (2 << 20) + 65_536
MAX_ENTRIES: Final = 64
"""Entries in one Down."""

Name = Annotated[bytes, Meta(min_length=16, max_length=16)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Member = Annotated[PeerId, Meta(min_length=1, max_length=64)]
Place = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Number = Annotated[int, Meta(ge=0, le=(1 << 62) - 1)]
Sig = Annotated[bytes, Meta(max_length=512)]
Body = Annotated[bytes, Meta(max_length=MAX_BODY)]

COMMAND: Final = 0
READ: Final = 1
CHANGE: Final = 2
MARK: Final = 3

MAX_MEMBERS: Final = 1024
MAX_CHUNK: Final = 256 * 1024
"""Bytes of state in one answer."""
MAX_STATE: Final = 16 << 20
"""Bytes of a state with its roll; the contract's bound for a record."""

Members = Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the upper protocol orders: a member's wish that its group decided.

    kind: 0 command, 1 read, 2 change of members, 3 mark; command: of a change a `Change`, of a mark a
    `Mark`."""

    group: Place
    id: Name
    proposer: Member
    kind: Annotated[int, Meta(ge=0, le=3)]
    command: Annotated[bytes, Meta(max_length=MAX_COMMAND)]


class Change(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Who comes and who goes, ascending; nobody: only draw the groups anew."""

    join: Members
    leave: Members


class Mark(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The snapshot as of a position has this digest. is_blank: no state machine's state is in it."""

    position: Number
    digest: Digest
    is_blank: bool


NO_MARK: Final = Mark(0, bytes(32), True)


class Backed(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A change or a mark that waits for more members to ask for it. what: as encoded in the entry."""

    kind: Annotated[int, Meta(ge=2, le=3)]
    what: Annotated[bytes, Meta(max_length=MAX_COMMAND)]
    group: Place
    by: Members


class Roll(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is agreed besides the commands, as of a position of the global order.

    chain: digest of the order up to here. opened: where this epoch began, with the chain `seed` as of
    then. mark: the newest state that is agreed on."""

    position: Number
    chain: Digest
    epoch: Number
    opened: Number
    seed: Digest
    members: Members
    backed: Annotated[tuple[Backed, ...], Meta(max_length=256)]
    mark: Mark


class Snapshot(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a Mark hashes: the roll, and the state machine's state, as of a position."""

    roll: Roll
    state: Annotated[bytes, Meta(max_length=MAX_STATE)]


# What a group decides.


class Wish(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A member wants this in the global order."""

    kind: Annotated[int, Meta(ge=0, le=3)]
    command: Annotated[bytes, Meta(max_length=MAX_COMMAND)]


class Accept(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """flow = "all": another group's entry, before our leader may take it in the upper protocol."""

    entry: Entry


class Nudge(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Nothing; a leader that cannot get even this decided is replaced by the group protocol."""


class Due(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The proposer's clock says that the timer that was armed as the so-manieth is due."""

    armed: Number


class Heard(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """The proposer has been sent this by a quorum of the source group."""

    source: Place
    number: Number
    body: Body


GroupCommand: TypeAlias = Wish | Accept | Nudge | Due | Heard

# The wire.


class Down(Message, frozen=True, gc=False):
    """A leader to its group: the global order from position `first` on. Empty: it lives.

    leader: who leads the upper protocol, empty if unknown; epoch: its term. roll: where the order is, for
    a member that needs what the leader has forgotten."""

    first: Number
    entries: Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)]
    leader: Annotated[PeerId, Meta(max_length=64)]
    epoch: Number
    roll: Roll | None = None


class Named(Message, frozen=True, gc=False):
    """A leader to its group: at this position of the global order is what we decided on under this id.

    digest: sha256 of the entry. leader, epoch: as in Down. Who lacks the entry asks by Behind."""

    position: Number
    id: Name
    digest: Digest
    leader: Annotated[PeerId, Meta(max_length=64)]
    epoch: Number


class Behind(Message, frozen=True, gc=False):
    """A member to its leader: what came after position `have`?"""

    have: Number


class AskLeads(Message, frozen=True, gc=False):
    """A new leader to its group: tell the others that I lead."""

    village: Name
    epoch: Number


class Leads(Message, frozen=True, gc=False):
    """A member to all: this one leads my group."""

    village: Name
    epoch: Number
    leader: Member


class Signature(msgspec.Struct, frozen=True, gc=False, array_like=True):
    voter: Member
    signature: Sig


class Share(Message, frozen=True, gc=False):
    """A member to another of its group: this is what our group says to the target."""

    village: Name
    source: Place
    target: Place
    number: Number
    digest: Digest
    voter: Member
    signature: Sig


class Certified(Message, frozen=True, gc=False):
    """A group to another: the body is a message of the upper protocol. number: ascending per pair."""

    village: Name
    source: Place
    target: Place
    number: Number
    body: Body
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=128)]


class Seal(Message, frozen=True, gc=False):
    """A member to all of the next epoch: my village's last roll, with this digest, opens it."""

    village: Name
    digest: Digest
    voter: Member
    signature: Sig


class Ping(Message, frozen=True, gc=False):
    """Are you there?"""


class Pong(Message, frozen=True, gc=False):
    """I am."""


class Fetch(Message, frozen=True, gc=False):
    """What was ordered after position `have`?"""

    have: Number


class Segment(Message, frozen=True, gc=False):
    """The order from position `first` on; nothing if that is forgotten, or not there yet."""

    first: Number
    entries: Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)]


class FetchState(Message, frozen=True, gc=False):
    """The snapshot of this mark, from byte `offset` on."""

    mark: Mark
    offset: Annotated[int, Meta(ge=0, le=MAX_STATE)]


class Piece(Message, frozen=True, gc=False):
    """Bytes of a snapshot of `total` bytes."""

    total: Annotated[int, Meta(ge=0, le=MAX_STATE)]
    data: Annotated[bytes, Meta(max_length=MAX_CHUNK)]


class Which(Message, frozen=True, gc=False):
    """I am in this epoch; is there a later one?"""

    epoch: Number


class Opened(Message, frozen=True, gc=False):
    """The roll that opened an epoch, signed by members of the one before, whose name is village."""

    village: Name
    roll: Roll
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=MAX_MEMBERS)]


class Nothing(Message, frozen=True, gc=False):
    """I cannot say."""


CODEC = MsgpackCodec(
    Envelope, Down, Named, Behind, AskLeads, Leads, Share, Certified, Seal, Ping, Pong,
    Fetch, Segment, FetchState, Piece, Which, Opened, Nothing,
    max_size=MAX_BODY + 65_536,
)  # fmt: skip

_COMMANDS: Final = msgspec.msgpack.Decoder(GroupCommand)
_ENTRIES: Final = msgspec.msgpack.Decoder(Entry)
_CHANGES: Final = msgspec.msgpack.Decoder(Change)
_MARKS: Final = msgspec.msgpack.Decoder(Mark)
_ROLLS: Final = msgspec.msgpack.Decoder(Roll)
_SNAPSHOTS: Final = msgspec.msgpack.Decoder(Snapshot)
_WRONG: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _decode(decoder: Any, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except _WRONG:
        return None


def decode_command(data: bytes) -> GroupCommand | None:
    """What a group decided; None if it is nothing we know, which every member sees alike."""
    found: GroupCommand | None = _decode(_COMMANDS, data)
    return found


def decode_entry(data: bytes) -> Entry | None:
    """What the upper protocol ordered; None if it is no entry, which every member sees alike."""
    found: Entry | None = _decode(_ENTRIES, data)
    return found


def decode_change(data: bytes) -> Change | None:
    """What an entry of kind CHANGE asks for, or None."""
    found: Change | None = _decode(_CHANGES, data)
    return found


def decode_mark(data: bytes) -> Mark | None:
    """What an entry of kind MARK says, or None."""
    found: Mark | None = _decode(_MARKS, data)
    return found


def decode_roll(data: bytes) -> Roll | None:
    """What the upper protocol keeps in place of what it forgot, or None."""
    found: Roll | None = _decode(_ROLLS, data)
    return found


def decode_snapshot(data: bytes) -> Snapshot | None:
    """What a mark hashes, or None."""
    found: Snapshot | None = _decode(_SNAPSHOTS, data)
    return found


def encode(value: msgspec.Struct) -> bytes:
    """The one encoding of what is agreed: fields in order, nothing optional."""
    return msgspec.msgpack.encode(value)


def roll_digest(roll: Roll) -> bytes:
    """What a Seal signs."""
    return sha256(DOMAIN + b"roll:" + encode(roll)).digest()


def sealing(village: bytes, digest: bytes) -> bytes:
    """What a member of the village that ends signs; see the layout above."""
    return DOMAIN + b"e" + village + digest


def statement(village: bytes, source: int, target: int, number: int, digest: bytes) -> bytes:
    """What a member of the source group signs; see the layout above."""
    places = source.to_bytes(4, "big") + target.to_bytes(4, "big") + number.to_bytes(8, "big")
    return DOMAIN + b"m" + village + places + digest


def proofs(msg: object) -> Iterable[Proof]:
    """The signatures a message stands on. RemoteProtocolError if a certificate names a voter twice."""
    return list(_proofs(msg))


def _proofs(msg: object) -> Iterator[Proof]:
    if isinstance(msg, Share):
        said = statement(msg.village, msg.source, msg.target, msg.number, msg.digest)
        yield Proof(msg.voter, said, msg.signature)
    elif isinstance(msg, Certified):
        digest = sha256(msg.body).digest()
        said = statement(msg.village, msg.source, msg.target, msg.number, digest)
        yield from _each(said, msg.signatures)
    elif isinstance(msg, Seal):
        yield Proof(msg.voter, sealing(msg.village, msg.digest), msg.signature)
    elif isinstance(msg, Opened):
        yield from _each(sealing(msg.village, roll_digest(msg.roll)), msg.signatures)


def _each(said: bytes, signatures: Iterable[Signature]) -> Iterator[Proof]:
    last = b""
    for one in signatures:
        if one.voter <= last:
            raise RemoteProtocolError("a certificate's voters are not in ascending order, each once")
        last = one.voter
        yield Proof(one.voter, said, one.signature)
