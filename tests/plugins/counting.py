"""A world that counts what its machines send, by name: for what a paper says a decision costs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from grove_core.drive.virtual import VirtualContext, World
from grove_core.host import Envelope
from grove_core.machine import PeerId


class CountingWorld(World):
    """sent: how often, by the message's type; for a guest's, ``role:type``. A ``+`` is behind the type
    of those that carry entries."""

    def __init__(self, **world: Any) -> None:
        super().__init__(**world)
        self.sent: Counter[str] = Counter()
        self.context = _CountingContext


class _CountingContext(VirtualContext):
    __slots__ = ()

    def send(self, peer: PeerId, msg: Any) -> None:
        if self.held_back is None:
            assert isinstance(self.world, CountingWorld)
            self.world.sent[self._name(msg)] += 1
        super().send(peer, msg)

    def _name(self, msg: Any) -> str:
        if not isinstance(msg, Envelope):
            return type(msg).__name__
        role = msg.guest.partition("/")[0]
        codec = self.slot.part.hosted[role].spec.codec
        assert codec is not None
        inside = codec.decode(msg.body)
        return f"{role}:{type(inside).__name__}{'+' if getattr(inside, 'entries', None) else ''}"
