"""What can be read of a QUIC packet before anyone has a key: RFC 8999 (invariants), RFC 9000 17.2.

`destination` routes every datagram; `initial` is read only of packets that no connection claims.
Both are pure, bounded, and answer None to whatever is not a packet we could serve.
"""

from __future__ import annotations

import struct

from grove_quic.engine import ID_LENGTH, Initial

VERSION_1 = 0x00000001
SMALLEST_INITIAL = 1200
"""Bytes of UDP payload below which a client's first datagram is dropped (RFC 9000 section 14.1)."""

_LONG = 0x80
_FIXED = 0x40
_ID_MAX = 20  # RFC 9000 section 17.2


def destination(data: bytes) -> bytes | None:
    """The connection id a datagram is for, or None if it is no QUIC packet (fixed bit not set)."""
    if len(data) < 1 + ID_LENGTH:
        return None
    first = data[0]
    # Version negotiation leaves the fixed bit open (RFC 8999 section 6); others must set it.
    if not first & _FIXED and (not first & _LONG or data[1:5] != b"\0\0\0\0"):
        return None
    if not first & _LONG:
        return data[1 : 1 + ID_LENGTH]
    end = 6 + data[5]
    return data[6:end] if data[5] <= _ID_MAX and end <= len(data) else None


def initial(data: bytes) -> Initial | int | None:
    """Of a datagram that no connection claims: its first packet, if it may begin a connection.

    An int is a version we do not speak: answer with `version_negotiation`. None: drop it.
    """
    if len(data) < SMALLEST_INITIAL or not data[0] & _LONG:
        return None
    (version,) = struct.unpack_from(">I", data, 1)
    ids = ids_of(data)
    if version == 0 or ids is None:
        return None
    if version != VERSION_1:
        return int(version)
    if not data[0] & _FIXED or data[0] & 0x30:  # long packet type 0 is Initial
        return None
    if len(ids[0]) < 8:  # RFC 9000 section 7.2: a client's first choice has at least 8 bytes
        return None
    at = 7 + len(ids[0]) + len(ids[1])
    size = 1 << (data[at] >> 6)
    length = int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1)
    token = data[at + size : at + size + length]
    return Initial(*ids, token) if len(token) == length else None


def ids_of(data: bytes) -> tuple[bytes, bytes] | None:
    """Destination and source connection id of a long header of at least 1200 bytes."""
    middle = 6 + data[5]
    if data[5] > _ID_MAX or data[middle] > _ID_MAX:
        return None
    return data[6:middle], data[middle + 1 : middle + 1 + data[middle]]


def version_negotiation(data: bytes, salt: int) -> bytes | None:
    """The answer to an unknown version: ids swapped, version 0, and the one we speak.

    salt: any byte; its low bits fill the unused ones. Shorter than what it answers, always.
    """
    ids = ids_of(data)
    if ids is None:
        return None
    to, came_from = ids[1], ids[0]
    return (
        struct.pack(">BI", _LONG | _FIXED | salt & 0x3F, 0)
        + bytes((len(to),))
        + to
        + bytes((len(came_from),))
        + came_from
        + struct.pack(">I", VERSION_1)
    )
