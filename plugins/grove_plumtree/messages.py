"""Plumtree on the wire: `/grove/plumtree/1.0.0`, one msgpack array per message.

The author signs, and the id is the hash of, exactly these bytes; integers are big-endian:

    "grove/plumtree/1:"  |  u8 length, author  |  u64 seqno  |  u16 length, topic (UTF-8)  |  data

They are laid out here and never re-encoded from msgpack, so that two encoders cannot disagree about
what was signed. Everything that varies in length but the last carries its length, so no two
publications share bytes. `round` is outside: each hop changes it, and nothing is trusted to it but
the choice between two links.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from grove_core.codec import MsgpackCodec
from grove_core.machine import Message, PeerId
from grove_core.specs import Proof

DOMAIN = b"grove/plumtree/1:"

MAX_PAYLOAD = 65_536
"""Bytes of data in one message."""
MAX_TOPIC = 128
"""Characters of a topic; at most 512 bytes of UTF-8."""
MAX_ROUND = 65_535
"""Hops counted; the paper's longest path was 77."""
MAX_IHAVE = 512
"""Announcements in one IHAVE, about 20 KB."""

Id = Annotated[bytes, Meta(min_length=32, max_length=32)]
Round = Annotated[int, Meta(ge=0, le=MAX_ROUND)]


class Publication(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What an author said, once. The same object travels from node to node.

    seqno: the author's count of its publications, so that equal data is not an equal message.
    """

    author: Annotated[PeerId, Meta(min_length=1, max_length=64)]
    seqno: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    topic: Annotated[str, Meta(min_length=1, max_length=MAX_TOPIC)]
    data: Annotated[bytes, Meta(max_length=MAX_PAYLOAD)]
    signature: Annotated[bytes, Meta(max_length=1024)]


class Announcement(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The sender holds a message, which took `round` hops to it."""

    id: Id
    round: Round


class Gossip(Message, frozen=True, gc=False):
    """The payload, eagerly. round: hops behind it, 0 from the author."""

    publication: Publication
    round: Round


class IHave(Message, frozen=True, gc=False):
    """Announcements, lazily."""

    announcements: Annotated[tuple[Announcement, ...], Meta(max_length=MAX_IHAVE)]


class Graft(Message, frozen=True, gc=False):
    """Make this link eager, and send the payload of `id` if there is one to name."""

    id: Id | None
    round: Round


class Prune(Message, frozen=True, gc=False):
    """Make this link lazy."""


PlumtreeMessage: TypeAlias = Gossip | IHave | Graft | Prune

CODEC = MsgpackCodec(Gossip, IHave, Graft, Prune, max_size=68 * 1024)


def signed_bytes(author: PeerId, seqno: int, topic: str, data: bytes) -> bytes:
    """What an author signs; see the layout above."""
    name = topic.encode()
    return b"".join(
        (
            DOMAIN,
            len(author).to_bytes(1, "big"),
            author,
            seqno.to_bytes(8, "big"),
            len(name).to_bytes(2, "big"),
            name,
            data,
        )
    )


# What is equal is one object, which in a simulated village thousands of nodes keep or await. Each of
# these keeps 128 alive: at most 8 MiB of payloads.


@lru_cache(maxsize=128)
def gossip(publication: Publication, round: int) -> Gossip:
    """The payload on its way, so many hops from its author."""
    return Gossip(publication, round)


@lru_cache(maxsize=128)
def ihave(announcements: tuple[Announcement, ...]) -> IHave:
    """Announcements on their way."""
    return IHave(announcements)


@lru_cache(maxsize=128)
def news(id: bytes, round: int) -> tuple[Announcement]:
    """One announcement, as the beginning of a queue."""
    return (Announcement(id, round),)


# Each copy of a message asks for its id anew.
@lru_cache(maxsize=128)
def message_id(publication: Publication) -> bytes:
    """The name of a message everywhere: SHA-256 of the signed bytes, 32 bytes."""
    p = publication
    return sha256(signed_bytes(p.author, p.seqno, p.topic, p.data)).digest()


def proofs(msg: PlumtreeMessage) -> Iterable[Proof]:
    """A payload is only as good as its author's signature; the rest speaks for the sender alone."""
    if type(msg) is Gossip:
        p = msg.publication
        return (Proof(p.author, signed_bytes(p.author, p.seqno, p.topic, p.data), p.signature),)
    return ()
