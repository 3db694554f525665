"""Signed envelopes, and the peer record that travels in one: where a peer says it can be reached.

Source: libp2p/specs RFC 0002 (envelope) and RFC 0003 (peer record), as implementations speak them:
go, js, py and nim sign peer records under the domain `libp2p-peer-record` with the payload type
`03 01`; the names in the RFC are used by older rust only. We emit the former and verify both.

Invariants, in the order they are checked: (1) the signature holds under the domain that belongs to
the payload type; (2) the payload is a peer record; (3) it speaks of the peer whose key signed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from grove_core import protobuf, varint
from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.identity import Identity, PublicKey, check_peer, short
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr, Scope

MAX_ENVELOPE: Final = 8192
"""Longest envelope opened, in bytes (go-libp2p's limit for an identify message)."""

MAX_RECORD: Final = 1024
"""Longest signed peer record we make, in bytes: fit to travel in gossip."""

MAX_ADDRESSES: Final = 128
"""Addresses kept of one record; go-libp2p signs more only on odd machines."""

Kind = tuple[bytes, bytes]
"""(domain, payload type) of an envelope; the domain is signed but not sent."""

PEER_RECORD: Final[Kind] = (b"libp2p-peer-record", b"\x03\x01")
PEER_RECORD_OF_RFC: Final[Kind] = (b"libp2p-routing-state", b"/libp2p/routing-state-record")


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What an envelope held, once its signature was found to hold."""

    key: PublicKey
    payload_type: bytes
    payload: bytes

    @property
    def peer(self) -> PeerId:
        """Who signed it."""
        return self.key.peer


class PeerRecord(msgspec.Struct, frozen=True):
    """A peer's own word on how to reach it.

    sequence: uint64, rises with each new record of the peer; the greatest wins.
    addresses: in the peer's order, at most 128, those we cannot read left out.
    """

    peer: PeerId
    sequence: int
    addresses: tuple[Multiaddr, ...]

    def encode(self) -> bytes:
        """The PeerRecord message: fields ascending, as it is signed."""
        return (
            protobuf.field(1, self.peer)
            + protobuf.field(2, self.sequence)
            + b"".join(protobuf.field(3, protobuf.field(1, a.encode())) for a in self.addresses)
        )

    @classmethod
    def decode(cls, data: bytes) -> PeerRecord:
        """Read a PeerRecord message. Raises RemoteProtocolError, and nothing else, on any bytes."""
        if len(data) > MAX_ENVELOPE:
            raise RemoteProtocolError(f"peer record of {len(data)} bytes; limit {MAX_ENVELOPE}")
        peer: PeerId | None = None
        sequence = 0
        addresses: list[Multiaddr] = []
        for number, value in protobuf.fields(data):
            if number == 1:
                peer = check_peer(protobuf.as_bytes(value, "peer id of a peer record"))
            elif number == 2:
                sequence = protobuf.as_int(value, "sequence of a peer record")
            elif number == 3:
                address = _decode_address(protobuf.as_bytes(value, "address of a peer record"))
                if address is not None and len(addresses) < MAX_ADDRESSES:
                    addresses.append(address)
        if peer is None:
            raise RemoteProtocolError("peer record without a peer id")
        return cls(peer, sequence, tuple(addresses))


def seal(identity: Identity, domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    """Sign a payload and wrap it: the bytes of an Envelope message."""
    signature = identity.sign(_signed(domain, payload_type, payload))
    return (
        protobuf.field(1, identity.public.encode())
        + protobuf.field(2, payload_type)
        + protobuf.field(3, payload)
        + protobuf.field(5, signature)
    )


def open_envelope(data: bytes, *kinds: Kind) -> Envelope:
    """Check an envelope and take out what it holds; the payload type selects the domain among kinds.

    Raises RemoteProtocolError, and nothing else, on any bytes.
    """
    if len(data) > MAX_ENVELOPE:
        raise RemoteProtocolError(f"envelope of {len(data)} bytes; limit {MAX_ENVELOPE}")
    found: dict[int, bytes] = {}
    for number, value in protobuf.fields(bytes(data)):
        if number in _PARTS:
            found[number] = protobuf.as_bytes(value, _PARTS[number])
    missing = [name for number, name in _PARTS.items() if number not in found]
    if missing:
        raise RemoteProtocolError(f"envelope without {' and '.join(missing)}")
    payload_type, payload = found[2], found[3]
    domain = next((domain for domain, kind in kinds if kind == payload_type), None)
    if domain is None:
        wanted = " or ".join(kind.hex() for _, kind in kinds)
        raise RemoteProtocolError(
            f"envelope of payload type {payload_type[:32].hex()}; expected {wanted}"
        )
    key = PublicKey.decode(found[1])
    if not key.verify(_signed(domain, payload_type, payload), found[5]):
        raise RemoteProtocolError(f"envelope whose signature does not hold under {domain.decode()!r}")
    return Envelope(key, payload_type, payload)


def sign_record(identity: Identity, sequence: int, addresses: Sequence[Multiaddr]) -> bytes:
    """Our own peer record in its envelope, at most 1024 bytes.

    If not all addresses fit, those that reach farthest are kept (public, names, private, link,
    loopback), in the given order. A /p2p of our own at their end is left out, as it is known.
    """
    if not 0 <= sequence < 1 << 64:
        raise LocalProtocolError(f"peer record of sequence {sequence}; it is 0 to 2**64 - 1")
    own = [a.without_peer() if a.peer == identity.peer else a for a in addresses]
    kept = sorted(dict.fromkeys(own), key=lambda a: _REACH.index(a.scope))
    while True:
        record = PeerRecord(identity.peer, sequence, tuple(a for a in dict.fromkeys(own) if a in kept))
        envelope = seal(identity, *PEER_RECORD, record.encode())
        if len(envelope) <= MAX_RECORD or not kept:
            return envelope
        kept.pop()


def verify_record(envelope: bytes) -> PeerRecord:
    """The peer record in a signed envelope, of either kind, after all three checks.

    Raises RemoteProtocolError, and nothing else, on any bytes.
    """
    opened = open_envelope(envelope, PEER_RECORD, PEER_RECORD_OF_RFC)
    record = PeerRecord.decode(opened.payload)
    if record.peer != opened.peer:
        raise RemoteProtocolError(
            f"peer record about {short(record.peer)} signed by {short(opened.peer)}; peers speak for "
            "themselves only"
        )
    return record


_PARTS: Final = {1: "public key", 2: "payload type", 3: "payload", 5: "signature"}

_REACH: Final[tuple[Scope, ...]] = ("public", "unknown", "private", "link", "loopback")
"""Scopes by how far they reach; a name ("unknown") most often means a public address."""


def _signed(domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    """What the signature covers: each part behind its length."""
    return b"".join(varint.encode(len(part)) + part for part in (domain, payload_type, payload))


def _decode_address(info: bytes) -> Multiaddr | None:
    """The multiaddr of an AddressInfo; None if we cannot read it, which costs only this address."""
    encoded = b""
    for number, value in protobuf.fields(info):
        if number == 1:
            encoded = protobuf.as_bytes(value, "multiaddr of a peer record")
    try:
        return Multiaddr.decode(encoded)
    except RemoteProtocolError:
        return None
