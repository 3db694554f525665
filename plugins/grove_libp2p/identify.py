"""The identify message: what a peer says of itself, and how we appear to it.

Source: libp2p/specs identify/README.md, with the field `signedPeerRecord` (8) as go and js write it.
Pure translation; when messages travel, and what is believed, is `service.py`'s.

An Identify may come in several messages that are merged: repeated fields append, others overwrite.
What we send is made for the most modest reader: rust reads one message of at most 4096 bytes, so the
bulk goes first and, if both together exceed 2048 bytes, the signed record follows on its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from grove_core import protobuf
from grove_core.errors import RemoteProtocolError
from grove_core.identity import PublicKey
from grove_core.multiaddr import Multiaddr

ID: Final = "/ipfs/id/1.0.0"
PUSH: Final = "/ipfs/id/push/1.0.0"

MAX_SENT: Final = 4096
"""Longest message we send, in bytes (rust-libp2p's limit)."""

WHOLE: Final = 2048
"""Up to this many bytes, everything goes in one message (go-libp2p's rule)."""

MAX_MESSAGE: Final = 8192
"""Longest message read, in bytes (go, js)."""

MAX_MESSAGES: Final = 10
"""Messages merged into one Identify (go, js)."""

MAX_ADDRESSES: Final = 500
"""Addresses kept (go, while connected)."""

MAX_PROTOCOLS: Final = 1024
"""Protocol ids kept (go)."""

MAX_PROTOCOL: Final = 256
"""Longest protocol id kept, in characters."""

MAX_TEXT: Final = 128
"""Characters kept of agentVersion and protocolVersion."""


class Identify(msgspec.Struct, frozen=True, kw_only=True):
    """One peer's words about itself. In a push, what is None or empty means "as before".

    addresses: those we can read. observed: the receiver's address as the sender sees it.
    record: a signed peer record, not verified here.
    """

    public_key: PublicKey | None = None
    addresses: tuple[Multiaddr, ...] = ()
    protocols: tuple[str, ...] = ()
    observed: Multiaddr | None = None
    protocol_version: str | None = None
    agent: str | None = None
    record: bytes | None = None


def encode(info: Identify) -> tuple[bytes, ...]:
    """The one or two messages to send, each at most 4096 bytes, without their lengths.

    If the bulk does not fit, the last addresses are left out first, then the last protocols.
    """
    bulk = _bulk(info)
    if not info.record:
        return (bulk,)
    record = protobuf.field(8, info.record)
    return (bulk + record,) if len(bulk) + len(record) <= WHOLE else (bulk, record)


def decode(message: bytes) -> Identify:
    """Read one message. Raises RemoteProtocolError, and nothing else, on any bytes.

    Addresses of unknown form, and what exceeds the bounds above, are left out.
    """
    if len(message) > MAX_MESSAGE:
        raise RemoteProtocolError(f"identify message of {len(message)} bytes; limit {MAX_MESSAGE}")
    key: PublicKey | None = None
    addresses: list[Multiaddr] = []
    protocols: list[str] = []
    observed: Multiaddr | None = None
    texts: dict[int, str] = {}
    record: bytes | None = None
    for number, value in protobuf.fields(message):
        if not 1 <= number <= 8 or number == 7:
            continue
        content = protobuf.as_bytes(value, f"field {number} of identify")
        if number == 1:
            key = PublicKey.decode(content)
        elif number == 2 and len(addresses) < MAX_ADDRESSES:
            addresses.extend(_address(content))
        elif number == 3 and len(protocols) < MAX_PROTOCOLS:
            protocols.extend(_protocol(content))
        elif number == 4:
            observed = next(iter(_address(content)), None)
        elif number in (5, 6):
            texts[number] = _text(content)
        elif number == 8:
            record = content
    return Identify(
        public_key=key,
        addresses=tuple(addresses),
        protocols=tuple(protocols),
        observed=observed,
        protocol_version=texts.get(5),
        agent=texts.get(6),
        record=record,
    )


def merge(messages: Iterable[Identify]) -> Identify:
    """Several messages as one: repeated fields append (within their bounds), the last of others wins."""
    whole = Identify()
    for message in messages:
        whole = Identify(
            public_key=message.public_key or whole.public_key,
            addresses=(whole.addresses + message.addresses)[:MAX_ADDRESSES],
            protocols=(whole.protocols + message.protocols)[:MAX_PROTOCOLS],
            observed=message.observed or whole.observed,
            protocol_version=_later(message.protocol_version, whole.protocol_version),
            agent=_later(message.agent, whole.agent),
            record=message.record or whole.record,
        )
    return whole


def _later(new: str | None, old: str | None) -> str | None:
    return old if new is None else new


def _bulk(info: Identify) -> bytes:
    """Everything but the record, fields ascending, cut to MAX_SENT; protocols have precedence."""
    key = b"" if info.public_key is None else protobuf.field(1, info.public_key.encode())
    rest = b""
    if info.observed is not None:
        rest += protobuf.field(4, info.observed.encode())
    if info.protocol_version is not None:
        rest += protobuf.field(5, info.protocol_version[:MAX_TEXT].encode())
    if info.agent is not None:
        rest += protobuf.field(6, info.agent[:MAX_TEXT].encode())
    room = MAX_SENT - len(key) - len(rest)
    protocols = _repeated(3, (protocol.encode() for protocol in info.protocols), room)
    addresses = _repeated(2, (address.encode() for address in info.addresses), room - len(protocols))
    return key + addresses + protocols + rest


def _repeated(number: int, values: Iterable[bytes], room: int) -> bytes:
    """A repeated field, up to the first value that does not fit into room bytes."""
    out = b""
    for value in values:
        field = protobuf.field(number, value)
        if len(out) + len(field) > room:
            break
        out += field
    return out


def _address(content: bytes) -> tuple[Multiaddr, ...]:
    """The address, or nothing if we cannot read it: that costs only this address."""
    try:
        return (Multiaddr.decode(content),)
    except RemoteProtocolError:
        return ()


def _protocol(content: bytes) -> tuple[str, ...]:
    """The protocol id, or nothing if it is none that anybody could want to speak."""
    try:
        protocol = content.decode("utf-8")
    except UnicodeDecodeError:
        return ()
    return (protocol,) if protocol.isprintable() and 0 < len(protocol) <= MAX_PROTOCOL else ()


def _text(content: bytes) -> str:
    """A version for people to read: it ends up on terminals, so nothing else may be in it."""
    text = content[: 4 * MAX_TEXT].decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)[:MAX_TEXT]
