"""Scamp on the wire: `/grove/scamp/ask/1.0.0` for SUBSCRIBE, `/grove/scamp/1.0.0` for the rest.

The paper's messages with three additions: ACCEPT names the contact that acted, since it may not be
the one that was asked; KEPT and DROPPED keep the two ends of an entry told of each other.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from grove_core.codec import MsgpackCodec
from grove_core.machine import Message, PeerId

MAX_HOPS = 65_535
MAX_REDIRECTS = 64
MAX_VIEW = 4096


class Subscriber(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Who subscribes, and its signed record (empty in the simulator)."""

    peer: Annotated[PeerId, Meta(min_length=1, max_length=64)]
    record: Annotated[bytes, Meta(max_length=1024)] = b""


class Subscribe(Message, frozen=True, gc=False):
    """Take the subscription of `new`, or pass it on to a random entry if redirects are left.

    renewed: how many entries of `new` are about to expire, so many copies take their places; 0 for a
    subscription that is new.
    """

    new: Subscriber
    redirects: Annotated[int, Meta(ge=0, le=MAX_REDIRECTS)]
    renewed: Annotated[int, Meta(ge=0, le=MAX_VIEW)]


class Subscribed(Message, frozen=True, gc=False):
    """The answer to SUBSCRIBE. taken: false if the contact has left."""

    taken: bool


class Accept(Message, frozen=True, gc=False):
    """The sender has acted as the receiver's contact."""


class Forward(Message, frozen=True, gc=False):
    """One copy of a subscription, looking for a node that keeps it. hops: behind it."""

    new: Subscriber
    hops: Annotated[int, Meta(ge=0, le=MAX_HOPS)]


class Kept(Message, frozen=True, gc=False):
    """The sender has the receiver in its view."""


class Dropped(Message, frozen=True, gc=False):
    """The sender has the receiver in its view no longer."""


class Replace(Message, frozen=True, gc=False):
    """The sender leaves: put another in its place, or nobody."""

    by: Subscriber | None


class Heartbeat(Message, frozen=True, gc=False):
    """The sender has the receiver in its view, still."""


ScampMessage: TypeAlias = Subscribe | Subscribed | Accept | Forward | Kept | Dropped | Replace | Heartbeat

CODEC = MsgpackCodec(
    Subscribe, Subscribed, Accept, Forward, Kept, Dropped, Replace, Heartbeat, max_size=2048
)


class View(msgspec.Struct, frozen=True, array_like=True):
    """What a node keeps of its view over a restart, as msgpack under the key ``view``."""

    version: int
    entries: tuple[Subscriber, ...]
    contacts: tuple[Subscriber, ...]
