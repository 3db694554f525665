"""Unsigned varints as multiformats write them: 7 bits a byte, least significant first (LEB128).

Source: multiformats/unsigned-varint. At most 9 bytes (63 bits), and minimal: a number has one
encoding. Protobuf's own varints are laxer and live in `protobuf.py`.
"""

from __future__ import annotations

from grove_core.errors import LocalProtocolError, RemoteProtocolError

MAX_BYTES = 9
"""Longest encoding; numbers are below 2**63."""


def encode(value: int) -> bytes:
    """The encoding of 0 <= value < 2**63, 1 to 9 bytes."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if not 0 <= value < 1 << 63:
        raise LocalProtocolError(f"varint of {value}; it holds 0 to 2**63 - 1")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes, at: int = 0) -> tuple[int, int]:
    """The number that starts at an offset, and the offset behind it.

    Raises RemoteProtocolError if it is cut short, longer than 9 bytes or not minimal.
    """
    value = shift = 0
    for position in range(at, min(at + MAX_BYTES, len(data))):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise RemoteProtocolError("varint is not minimal: its last byte is zero")
            return value, position + 1
        shift += 7
    if len(data) - at >= MAX_BYTES:
        raise RemoteProtocolError(f"varint longer than {MAX_BYTES} bytes")
    raise RemoteProtocolError(f"varint cut short after {max(len(data) - at, 0)} bytes")


_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))
