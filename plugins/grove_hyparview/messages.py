"""HyParView on the wire: `/grove/hyparview/1.0.0`, one msgpack array per message.

The paper's messages with three additions. Ids travel as contacts, with the peer's own signed record
(how to reach it), since the paper's ids are addresses and ours are not. NEIGHBOR has an explicit
reply, which also answers JOIN. DISCONNECT says whether the sender will still be there.

The sender of a message is the authenticated end of its connection and stands in none of them.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from grove_core.codec import MsgpackCodec
from grove_core.machine import Message, PeerId

MAX_CONTACTS = 32
"""Contacts in one message: room for ka = kp = 15 and the origin; the paper's 8 are usual."""

Id = Annotated[PeerId, Meta(min_length=1, max_length=64)]
Ttl = Annotated[int, Meta(ge=0, le=16)]


class Contact(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A peer and how to reach it. record: its signed peer record; empty in the simulator."""

    peer: Id
    record: Annotated[bytes, Meta(max_length=1024)] = b""


Contacts: TypeAlias = Annotated[tuple[Contact, ...], Meta(max_length=MAX_CONTACTS)]


class Join(Message, frozen=True, gc=False):
    """The sender is new and wants in. record: its own, for the walks to carry."""

    record: Annotated[bytes, Meta(max_length=1024)] = b""


class ForwardJoin(Message, frozen=True, gc=False):
    """A newcomer walks the overlay; ttl hops are left."""

    new: Contact
    ttl: Ttl


class Neighbor(Message, frozen=True, gc=False):
    """Be my neighbour. high: must be granted (the sender has no other, or admits a newcomer)."""

    high: bool


class NeighborReply(Message, frozen=True, gc=False):
    """The answer to NEIGHBOR and JOIN. contacts: other ways in, when a JOIN is refused."""

    accepted: bool
    contacts: Contacts = ()


class Disconnect(Message, frozen=True, gc=False):
    """We are no longer neighbours. alive: the sender stays and may be kept in the passive view."""

    alive: bool = True


class Shuffle(Message, frozen=True, gc=False):
    """The origin offers a sample of its views; ttl hops are left."""

    origin: Contact
    contacts: Contacts
    ttl: Ttl


class ShuffleReply(Message, frozen=True, gc=False):
    """A sample of the passive view in return, straight to the origin."""

    contacts: Contacts


HyParViewMessage: TypeAlias = (
    Join | ForwardJoin | Neighbor | NeighborReply | Disconnect | Shuffle | ShuffleReply
)

CODEC = MsgpackCodec(
    Join, ForwardJoin, Neighbor, NeighborReply, Disconnect, Shuffle, ShuffleReply, max_size=40 * 1024
)


class Views(msgspec.Struct, frozen=True, array_like=True):
    """What a node keeps of its views over a restart, as msgpack under the key ``views``."""

    version: int
    active: tuple[Contact, ...]
    passive: tuple[Contact, ...]
    contacts: tuple[Contact, ...]
