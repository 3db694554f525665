"""Gossip on the wire: `/grove/gossip/1.0.0` carries pushes, `/grove/gossip/ack/1.0.0` acknowledged ones.

The author signs, and the id is the SHA-256 of, exactly these bytes; integers are big-endian:

    "grove/gossip/1:"  |  u8 length, author  |  u64 seqno  |  u16 length, topic (UTF-8)  |  data
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated, TypeAlias

from msgspec import Meta

from grove_core.codec import MsgpackCodec
from grove_core.machine import Message, PeerId
from grove_core.specs import Proof

DOMAIN = b"grove/gossip/1:"
MAX_PAYLOAD = 65_536
MAX_TOPIC = 128
MAX_HOPS = 65_535


class Push(Message, frozen=True, gc=False):
    """What an author said, on its way. hops: pushes behind it, 0 from the author; not signed."""

    author: Annotated[PeerId, Meta(min_length=1, max_length=64)]
    seqno: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    topic: Annotated[str, Meta(min_length=1, max_length=MAX_TOPIC)]
    data: Annotated[bytes, Meta(max_length=MAX_PAYLOAD)]
    signature: Annotated[bytes, Meta(max_length=1024)]
    hops: Annotated[int, Meta(ge=0, le=MAX_HOPS)]


class Receipt(Message, frozen=True, gc=False):
    """The push arrived, whether or not it was news."""


GossipMessage: TypeAlias = Push | Receipt

CODEC = MsgpackCodec(Push, Receipt, max_size=68 * 1024)


def signed_bytes(author: PeerId, seqno: int, topic: str, data: bytes) -> bytes:
    """What an author signs; see the layout above."""
    name = topic.encode()
    head = DOMAIN + len(author).to_bytes(1, "big") + author + seqno.to_bytes(8, "big")
    return b"".join((head, len(name).to_bytes(2, "big"), name, data))


def message_id(msg: Push) -> bytes:
    """The name of a message everywhere, 32 bytes."""
    return sha256(signed_bytes(msg.author, msg.seqno, msg.topic, msg.data)).digest()


def proofs(msg: GossipMessage) -> Iterable[Proof]:
    """The author's signature on a push; a receipt needs none."""
    if isinstance(msg, Receipt):
        return ()
    signed = signed_bytes(msg.author, msg.seqno, msg.topic, msg.data)
    return (Proof(msg.author, signed, msg.signature),)
