"""Where things stand in etcd. Everything is below one prefix, written P:

    P log/PEER/ID          a command, and nothing but it; PEER proposed it (base58), ID in hex
    P tail                 empty; written with every command, so its revision is where the log ends
    P head                 which snapshot there is, and from where on the log is whole
    P state/FOLDER/NNNN    the snapshot's pieces; FOLDER begins with its index in hex
    P leader               the peer id of who leads; hangs on a lease

A command's index is the revision in which its key was created. So the log needs no counter and no
retry for its next place, is in one order for everybody, and names each proposal once: a key is
created at most once, however often creating it is tried.

What a decoder here refuses (`RemoteProtocolError`) was written by somebody else below our prefix.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from grove_core.errors import RemoteProtocolError
from grove_core.machine import PeerId
from grove_core.multibase import base58, from_base58

MAX_COMMAND: Final = 1 << 20
"""Bytes (events.Proposed); etcd takes requests of 1.5 MiB unless told otherwise."""

MAX_STATE: Final = 16 << 20
"""Bytes of a snapshot; events.SnapshotTaken says 15 MiB."""

PIECE: Final = 512 << 10
"""Bytes of one piece of a snapshot."""

MAX_PIECES: Final = MAX_STATE // PIECE

_Revision = Annotated[int, Meta(ge=0, lt=1 << 62)]


class Head(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is at P head. Log entries above `floor` are all there; `floor` <= `index`.

    index: the snapshot is the state as of it. digest: SHA-256 of the whole state.
    """

    index: _Revision
    floor: _Revision
    folder: Annotated[str, Meta(min_length=16, max_length=96, pattern="^[0-9A-Za-z-]+$")]
    size: Annotated[int, Meta(ge=0, le=MAX_STATE)]
    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]

    @property
    def pieces(self) -> int:
        return max(1, -(-self.size // PIECE))


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Head)


def encode_head(head: Head) -> bytes:
    return _encoder.encode(head)


def decode_head(data: bytes) -> Head:
    """Raises RemoteProtocolError, and nothing else, on any input."""
    if len(data) > 256:
        raise RemoteProtocolError(f"head of {len(data)} bytes; limit 256")
    try:
        head = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"not a head: {error}") from None
    if head.floor > head.index:
        raise RemoteProtocolError(f"head whose floor {head.floor} is above its index {head.index}")
    return head


class Layout:
    """The keys of one village."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.encode()
        self.log = self.prefix + b"log/"
        self.log_end = self.prefix + b"log0"  # "0" follows "/"
        self.tail = self.prefix + b"tail"
        self.head = self.prefix + b"head"
        self.leader = self.prefix + b"leader"
        self.state = self.prefix + b"state/"

    def entry(self, proposer: PeerId, id: bytes) -> bytes:
        """Where a proposal goes."""
        return self.log + base58(proposer).encode() + b"/" + id.hex().encode()

    def folder(self, index: int, writer: PeerId) -> str:
        """Where a snapshot goes: folders of later ones sort behind."""
        return f"{index:016x}-{base58(writer)}"

    def piece(self, folder: str, number: int) -> bytes:
        return self.state + folder.encode() + b"/%04x" % number

    def read_entry(self, key: bytes) -> tuple[PeerId, bytes]:
        """Who proposed, and under which id. Raises RemoteProtocolError, and nothing else."""
        if not key.startswith(self.log) or len(key) > len(self.log) + 200:
            raise RemoteProtocolError(f"key of {len(key)} bytes is not one of the log: {key[:64]!r}")
        name, slash, digits = key[len(self.log) :].partition(b"/")
        try:
            proposer, id = (
                PeerId(from_base58(name.decode("ascii"))),
                bytes.fromhex(digits.decode("ascii")),
            )
        except (ValueError, RemoteProtocolError):
            raise RemoteProtocolError(f"key {key[:96]!r} names no peer and id") from None
        # Only the one way to write it counts, or a proposal would have two places.
        if not slash or len(id) != 16 or not 1 <= len(proposer) <= 64 or self.entry(proposer, id) != key:
            raise RemoteProtocolError(f"key {key[:96]!r} names no peer and id")
        return proposer, id
