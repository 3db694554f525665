"""Length-delimited messages in a byte stream: a uvarint length, then that many bytes.

Used by multistream-select, and by every libp2p protocol that "delimits" its protobuf messages.
A pure machine: bytes in, messages out, nothing read beyond the message that was asked for, so that
what follows it can go to somebody else (libp2p pitfall: over-reading).

Invariant: at most `limit` bytes of body and two bytes more than its length need are ever held.
"""

from __future__ import annotations

from grove_core import varint
from grove_core.errors import LocalProtocolError, RemoteProtocolError


def frame(body: bytes) -> bytes:
    """The body with its length in front."""
    return varint.encode(len(body)) + body


class Unframer:
    """Takes a stream apart into messages of at most `limit` bytes.

    what: names the message in errors: ``"multistream message"``.
    """

    __slots__ = ("_buffer", "_limit", "_longest_prefix", "_what")

    def __init__(self, limit: int, what: str) -> None:
        self._buffer = b""
        self._limit = limit
        self._longest_prefix = len(varint.encode(limit))
        self._what = what

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream. Call `next` until it gives None before feeding more."""
        if len(self._buffer) > self._limit + self._longest_prefix:
            raise LocalProtocolError(f"fed a {self._what} before the ones that are there were taken")
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole message, or None: more bytes are needed.

        Raises RemoteProtocolError if its length is over the limit or no canonical varint.
        """
        buffer = self._buffer
        for end in range(min(len(buffer), self._longest_prefix)):
            if buffer[end] < 0x80:
                break
        else:
            if len(buffer) >= self._longest_prefix:
                raise RemoteProtocolError(f"{self._what} claims more than {self._limit} bytes")
            return None
        length, start = varint.decode(buffer)
        if length > self._limit:
            raise RemoteProtocolError(f"{self._what} of {length} bytes; limit {self._limit}")
        if len(buffer) < start + length:
            return None
        self._buffer = buffer[start + length :]
        return buffer[start : start + length]

    def rest(self) -> bytes:
        """What follows the last message taken; the unframer is empty afterwards."""
        rest, self._buffer = self._buffer, b""
        return rest
