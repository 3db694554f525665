"""Cyclon on the wire: `/grove/cyclon/ask/1.0.0` for questions, `/grove/cyclon/1.0.0` for the rest.

JOIN and SHUFFLE are questions with one answer each, so a peer that is gone is noticed; WALK and
WELCOME are sent and forgotten. All travel over temporary connections: an entry of the view is a name,
not a link.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from grove_core.codec import MsgpackCodec
from grove_core.machine import Message, PeerId

MAX_ENTRIES = 32
"""Entries in one shuffle; the paper's 14 are usual."""

MAX_AGE = (1 << 31) - 1


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A peer, the cycles since it made this entry, and its signed record (empty in the simulator)."""

    peer: Annotated[PeerId, Meta(min_length=1, max_length=64)]
    age: Annotated[int, Meta(ge=0, le=MAX_AGE)] = 0
    record: Annotated[bytes, Meta(max_length=1024)] = b""


Entries: TypeAlias = Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)]


class Join(Message, frozen=True, gc=False):
    """The asker is new and wants in; `new` is its own entry."""

    new: Entry


class Joining(Message, frozen=True, gc=False):
    """The answer to JOIN. walks: so many were started, 0 if the asker should try elsewhere."""

    walks: Annotated[int, Meta(ge=0, le=256)]


class Walk(Message, frozen=True, gc=False):
    """A newcomer walks the overlay; ttl hops are left."""

    new: Entry
    ttl: Annotated[int, Meta(ge=0, le=16)]


class Welcome(Message, frozen=True, gc=False):
    """Where a walk ended: an entry in exchange for the newcomer's place in the sender's view."""

    entry: Entry


class Shuffle(Message, frozen=True, gc=False):
    """Entries of the asker's view, itself among them with age 0."""

    entries: Entries


class Shuffled(Message, frozen=True, gc=False):
    """Entries of the answerer's view in return. here: false if the answerer has left."""

    entries: Entries
    here: bool = True


CyclonMessage: TypeAlias = Join | Joining | Walk | Welcome | Shuffle | Shuffled

CODEC = MsgpackCodec(Join, Joining, Walk, Welcome, Shuffle, Shuffled, max_size=40 * 1024)


class View(msgspec.Struct, frozen=True, array_like=True):
    """What a node keeps of its view over a restart, as msgpack under the key ``view``."""

    version: int
    entries: tuple[Entry, ...]
    contacts: tuple[Entry, ...]
