"""The pool says nothing on the wire; this is only what it keeps over a restart."""

from __future__ import annotations

import msgspec

from grove_core.machine import PeerId


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """Held peers and how to reach them, as msgpack under the key ``held``."""

    version: int
    peers: tuple[tuple[PeerId, bytes], ...]
