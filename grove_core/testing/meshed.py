"""The plainest membership there is: whoever is connected is a neighbour.

It stands under broadcast protocols in tests, so that a conformance suite needs no other plugin.
"""

from __future__ import annotations

from typing import Any

import msgspec

from grove_core.events import NeighborDown, NeighborUp
from grove_core.machine import Context, Machine, PeerId
from grove_core.specs import Part, ProtocolSpec


class MeshedConfig(msgspec.Struct, frozen=True):
    """Nothing to configure."""


class Meshed(Machine[Any]):
    """Every connected peer is a neighbour; `join` connects."""

    def __init__(self, config: MeshedConfig) -> None:
        self._neighbors: dict[PeerId, None] = {}

    def on_peer_up(self, ctx: Context[Any], peer: PeerId) -> None:
        if peer not in self._neighbors:
            self._neighbors[peer] = None
            ctx.emit(NeighborUp(peer))

    def on_peer_down(self, ctx: Context[Any], peer: PeerId) -> None:
        if peer in self._neighbors:
            del self._neighbors[peer]
            ctx.emit(NeighborDown(peer))

    def join(self, ctx: Context[Any], contact: PeerId) -> None:
        ctx.connect(contact)

    def leave(self, ctx: Context[Any]) -> None:
        for peer in self._neighbors:
            ctx.disconnect(peer, "leaving")

    def neighbors(self) -> tuple[PeerId, ...]:
        return tuple(self._neighbors)

    def known(self) -> tuple[PeerId, ...]:
        return ()


MESHED = Part(
    ProtocolSpec(name="meshed", role="membership", config=MeshedConfig, build=Meshed), MeshedConfig()
)
