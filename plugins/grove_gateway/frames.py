"""The frames of the local door: four parts, one version, any language that has ZeroMQ and msgpack.

    program → node   [version] [id] [verb] [body]      a DEALER socket on the door's endpoint
    node → program   [version] [id] [kind] [body]      kind: OK, ERROR, BUSY, EVENT, ALIVE or END

    version   1 byte, 0x01
    id        1 to 16 bytes, chosen by the program; what answers it carries the same
    verb      1 to 32 bytes of a-z, 0-9 and "-"
    body      one msgpack map with text keys, at most MAX_BODY bytes; unknown keys are ignored

Invariants, both ways:
1. One request gets exactly one of OK, ERROR or BUSY, or the connection ends.
2. After the OK of a `subscribe`, its id names the subscription: EVENT bodies carry `seq` = 1, 2, 3 …
   What was lost is seen as a gap. ALIVE tells the last number given, so a lost tail is seen too.
3. `decode_…` raise RemoteProtocolError, and nothing else, on any list of bytes.

What each verb takes and gives stands in `verbs.py`, and in docs/gateway.md for every language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

import msgspec

from grove_core.errors import LocalProtocolError, RemoteProtocolError

VERSION: Final = 1
MAX_ID: Final = 16  # bytes
MAX_VERB: Final = 32  # bytes
MAX_BODY: Final = 1 << 20  # bytes; the socket refuses longer parts before they reach the decoder
PARTS: Final = 4

Kind = Literal["OK", "ERROR", "BUSY", "EVENT", "ALIVE", "END"]

_VERSION: Final = bytes([VERSION])
_KINDS: Final[dict[bytes, Kind]] = {kind.encode(): kind for kind in get_args(Kind)}
_VERB_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


class Request(msgspec.Struct, frozen=True):
    """What a program asks. body: the raw map; the verb's own type decodes it (`decode_body`)."""

    id: bytes
    verb: str
    body: bytes


class Answer(msgspec.Struct, frozen=True):
    """What the node says under a request's or subscription's id."""

    id: bytes
    kind: Kind
    body: dict[str, Any]


class WrongVersion(RemoteProtocolError):
    """The frame is of another version of this format; its id is legible, so it can be answered."""


def encode_request(id: bytes, verb: str, body: Mapping[str, Any] | msgspec.Struct) -> list[bytes]:
    """The parts of one request. Raises LocalProtocolError beyond the limits."""
    name = verb.encode()
    if not _is_verb(name):
        raise LocalProtocolError(f"verb {verb!r}: 1 to {MAX_VERB} of a-z, 0-9 and '-'")
    return _parts(id, name, body)


def encode_answer(id: bytes, kind: Kind, body: Mapping[str, Any] | msgspec.Struct) -> list[bytes]:
    """The parts of one answer or event. Raises LocalProtocolError beyond the limits."""
    return _parts(id, kind.encode(), body)


def decode_request(parts: Sequence[bytes]) -> Request:
    """One request, its body still raw (at most MAX_BODY bytes). Raises RemoteProtocolError only."""
    id, verb, body = _envelope(parts)
    if not _is_verb(verb):
        raise RemoteProtocolError(f"verb of {len(verb)} bytes; 1 to {MAX_VERB} of a-z, 0-9 and '-'")
    return Request(id, verb.decode(), body)


def decode_answer(parts: Sequence[bytes]) -> Answer:
    """One answer or event with its body. Raises RemoteProtocolError only."""
    id, name, body = _envelope(parts)
    kind = _KINDS.get(name)
    if kind is None:
        raise RemoteProtocolError(f"kind {name[:MAX_VERB]!r}; known: {', '.join(get_args(Kind))}")
    return Answer(id, kind, decode_map(body))


def decode_map(body: bytes) -> dict[str, Any]:
    """A body as plain values. Raises RemoteProtocolError only."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        raise RemoteProtocolError(f"body is not a msgpack map with text keys: {error}") from None


def _parts(id: bytes, name: bytes, body: Mapping[str, Any] | msgspec.Struct) -> list[bytes]:
    if not 1 <= len(id) <= MAX_ID:
        raise LocalProtocolError(f"id of {len(id)} bytes; 1 to {MAX_ID}")
    data = _encoder.encode(body)
    if len(data) > MAX_BODY:
        raise LocalProtocolError(f"body of {len(data)} bytes; limit {MAX_BODY}")
    return [_VERSION, id, name, data]


def _envelope(parts: Sequence[bytes]) -> tuple[bytes, bytes, bytes]:
    if len(parts) < 2 or not 1 <= len(parts[1]) <= MAX_ID:
        raise RemoteProtocolError(f"{len(parts)} parts without an id of 1 to {MAX_ID} bytes")
    if parts[0] != _VERSION:
        raise WrongVersion(f"version {parts[0][:8].hex() or 'empty'}; this door speaks {VERSION:02x}")
    if len(parts) != PARTS:
        raise RemoteProtocolError(f"{len(parts)} parts; version {VERSION} has {PARTS}")
    if len(parts[3]) > MAX_BODY:
        raise RemoteProtocolError(f"body of {len(parts[3])} bytes; limit {MAX_BODY}")
    return parts[1], parts[2], parts[3]


def _is_verb(name: bytes) -> bool:
    return 1 <= len(name) <= MAX_VERB and _VERB_BYTES.issuperset(name)
