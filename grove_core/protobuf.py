"""The protobuf wire format by hand, for messages whose exact bytes are hashed or signed.

A general encoder may drop a required zero or reorder fields, and a peer id would change with it
(libp2p peer-ids.md, "deterministic encoding"). Here a message is the fields one writes, in the order
one writes them. Source: protobuf.dev/programming-guides/encoding. Groups are refused; what a field
means, and bounds on the whole message, are the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator

from grove_core.errors import LocalProtocolError, RemoteProtocolError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Value = int | bytes
"""What a field holds: an int for varints and fixed numbers, bytes for everything with a length."""


def field(number: int, value: int | bytes) -> bytes:
    """One field with its tag: an int as varint (0 to 2**64 - 1, zero too), bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3 | VARINT) + _varint(value)
    size = len(value)
    if size < 0x80 and 0 < number < 16:  # the usual
        return bytes((number << 3 | BYTES, size)) + value
    return _varint(number << 3 | BYTES) + _varint(size) + value


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Every field of a message in order, as (number, value). Raises RemoteProtocolError.

    Costs O(len(data)) in all; at most len(data) / 2 fields come out.
    """
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        if tag & 0x87 == BYTES and tag > 7 and at + 1 < end and data[at + 1] < 0x80:
            start = at + 2  # the usual: a low number, bytes, a short length
            at = start + data[at + 1]
            if at <= end:
                yield tag >> 3, data[start:at]
                continue
            at = start - 2  # too long: said below
        tag, at = _read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        if not 1 <= number < 1 << 29:
            raise RemoteProtocolError(f"protobuf field number {number}; they run from 1 to 2**29 - 1")
        if kind == VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if kind == BYTES:
            length, at = _read_varint(data, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise RemoteProtocolError(f"protobuf field {number} of wire type {kind}, which is not in use")
        if length > end - at:
            raise RemoteProtocolError(
                f"protobuf field {number} claims {length} bytes; {end - at} are left"
            )
        content = data[at : at + length]
        at += length
        yield number, content if kind == BYTES else int.from_bytes(content, "little")


def as_bytes(value: Value, what: str) -> bytes:
    """The bytes of a field; RemoteProtocolError naming `what` if it is a number."""
    if isinstance(value, int):
        raise RemoteProtocolError(f"{what} is a number on the wire, not bytes")
    return value


def as_int(value: Value, what: str) -> int:
    """The number in a field; RemoteProtocolError naming `what` if it is bytes."""
    if isinstance(value, int):
        return value
    raise RemoteProtocolError(f"{what} is bytes on the wire, not a number")


def _varint(value: int) -> bytes:
    if not 0 <= value < 1 << 64:
        raise LocalProtocolError(f"protobuf number {value}; it holds 0 to 2**64 - 1")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Up to 10 bytes, not necessarily minimal, as protobuf allows; 64 bits are kept."""
    value = shift = 0
    for position in range(at, min(at + 10, len(data))):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                raise RemoteProtocolError("protobuf varint above 2**64 - 1")
            return value, position + 1
        shift += 7
    raise RemoteProtocolError(
        "protobuf varint longer than 10 bytes" if len(data) - at >= 10 else "protobuf varint cut short"
    )
