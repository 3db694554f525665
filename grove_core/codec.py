"""The codec of Grove's own protocols: one msgpack array per message, its type's name first.

    ["Gossip", …fields in order…]        msgspec, array_like, tagged by class name

Unknown trailing fields are ignored, so a later minor version may append; everything else that is
not exactly a message of the union is a `RemoteProtocolError`. Bounds on lengths stand in the
message types themselves (``Annotated[bytes, Meta(max_length=…)]``), the bound on the whole here.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

import msgspec

from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.machine import Message


class MsgpackCodec:
    """Encodes and decodes a union of `Message` types. Shared by all machines of a protocol.

    max_size: longest body in bytes, either way. Frame header not included.
    """

    __slots__ = ("_decoder", "_encoder", "_names", "max_size")

    def __init__(self, *types: type[Message], max_size: int) -> None:
        union: Any = reduce(or_, types)
        self.max_size = max_size
        self._decoder = msgspec.msgpack.Decoder(union)
        self._encoder = msgspec.msgpack.Encoder()
        self._names = ", ".join(kind.__name__ for kind in types)

    def encode(self, msg: Message) -> bytes:
        """One frame body. Raises LocalProtocolError beyond max_size."""
        data = self._encoder.encode(msg)
        if len(data) > self.max_size:
            raise LocalProtocolError(f"{type(msg).__name__} of {len(data)} bytes; limit {self.max_size}")
        return data

    def decode(self, data: bytes) -> Any:
        """One message. Raises RemoteProtocolError, and nothing else, on any input."""
        if len(data) > self.max_size:
            raise RemoteProtocolError(f"frame of {len(data)} bytes; limit {self.max_size}")
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RemoteProtocolError(f"not a message ({self._names}): {error}") from None
