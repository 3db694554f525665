"""Hierarchical consensus on the wire, `/grove/hierarchy/1.0.0`, and inside the protocols it hosts.

    Envelope                       what the hosted protocols say to their like
    Down, Behind, AskLeads, Leads  trusting: a leader and its group; who leads it now
    Share, Certified               certified: a group says something to another one

What a quorum of a group signs are exactly these bytes (integers big-endian):

    "grove/hierarchy/1:" | "m" | village (16) | source u32 | target u32 | number u64 | sha256(body)

Inside the group protocol's commands stand `GroupCommand`s, inside the upper protocol's an `Entry`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Annotated, Final, TypeAlias

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


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the upper protocol orders: a member's wish that its group decided. kind: 0 command, 1 read."""

    group: Place
    id: Name
    proposer: Member
    kind: Annotated[int, Meta(ge=0, le=1)]
    command: Annotated[bytes, Meta(max_length=MAX_COMMAND)]


# What a group decides.


class Wish(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """A member wants this in the global order."""

    kind: Annotated[int, Meta(ge=0, le=1)]
    command: Annotated[bytes, Meta(max_length=MAX_COMMAND)]


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


GroupCommand: TypeAlias = Wish | Nudge | Due | Heard

# The wire.


class Down(Message, frozen=True, gc=False):
    """A leader to its group: the global order from position `first` on. Empty: it lives.

    leader: who leads the upper protocol, empty if unknown; epoch: its term."""

    first: Number
    entries: Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)]
    leader: Annotated[PeerId, Meta(max_length=64)]
    epoch: Number


class Behind(Message, frozen=True, gc=False):
    """A member to its leader: what came after position `have`?"""

    have: Number


class AskLeads(Message, frozen=True, gc=False):
    """A new leader to its group: tell the others that I lead."""

    epoch: Number


class Leads(Message, frozen=True, gc=False):
    """A member to all: this one leads my group."""

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


CODEC = MsgpackCodec(
    Envelope, Down, Behind, AskLeads, Leads, Share, Certified, max_size=MAX_BODY + 65_536
)

_COMMANDS: Final = msgspec.msgpack.Decoder(GroupCommand)
_ENTRIES: Final = msgspec.msgpack.Decoder(Entry)


def decode_command(data: bytes) -> GroupCommand | None:
    """What a group decided; None if it is nothing we know, which every member sees alike."""
    try:
        found: GroupCommand = _COMMANDS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found


def decode_entry(data: bytes) -> Entry | None:
    """What the upper protocol ordered; None if it is no entry, which every member sees alike."""
    try:
        found: Entry = _ENTRIES.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found


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
        last = b""
        for one in msg.signatures:
            if one.voter <= last:
                raise RemoteProtocolError("a certificate's voters are not in ascending order, each once")
            last = one.voter
            yield Proof(one.voter, said, one.signature)
