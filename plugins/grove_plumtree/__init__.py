"""Plumtree: payloads down a spanning tree, announcements over all other links to mend it.

Leitao, Pereira, Rodrigues: "Epidemic Broadcast Trees", SRDS 2007 (technical report DI-FCUL 07-14).
Stands on any membership that emits NeighborUp and NeighborDown; HyParView is the one it was made for.

    grove plugins info plumtree           [plugins.plumtree] in grove.toml
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec
from grove_plumtree.config import Config
from grove_plumtree.machine import Plumtree
from grove_plumtree.messages import CODEC, DOMAIN, proofs

GROVE_API = 1

SPEC = ProtocolSpec(
    name="plumtree",
    role="broadcast",
    config=Config,
    build=Plumtree,
    codec=CODEC,
    protocols=("/grove/plumtree/1.0.0",),
    proofs=proofs,
    domain=DOMAIN,
    # As in HyParView: who does not keep up is treated as failed, else it slows everybody.
    queue=1024,
    overflow="disconnect",
    provides=frozenset({"broadcast"}),
    requires=frozenset({"neighbors", "links"}),
    sources=("Epidemic Broadcast Trees, SRDS 2007, TR DI-FCUL 07-14",),
)


@hookimpl
def grove_broadcast() -> Sequence[ProtocolSpec]:
    return (SPEC,)
