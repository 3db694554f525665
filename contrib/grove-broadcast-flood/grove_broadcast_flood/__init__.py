"""Flood: each message once to every neighbour but the one it came from.

The broadcast of HyParView's own evaluation (TR DI-FCUL 07-13), and the baseline "Eager"
of Plumtree's (TR DI-FCUL 07-14). A separately installed plugin, laid out as Grove's own are.

    pip install ./contrib/grove-broadcast-flood
    grove up --set roles.broadcast=flood
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_broadcast_flood.config import Config
from grove_broadcast_flood.machine import Flooding
from grove_broadcast_flood.messages import CODEC, DOMAIN, proofs
from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec

GROVE_API = 1

SPEC = ProtocolSpec(
    name="flood",
    role="broadcast",
    config=Config,
    build=Flooding,
    codec=CODEC,
    protocols=("/grove/flood/1.0.0",),
    proofs=proofs,
    domain=DOMAIN,
    queue=1024,
    overflow="disconnect",  # who does not keep up is treated as failed, as in HyParView's paper
    provides=frozenset({"broadcast"}),
    requires=frozenset({"neighbors"}),
    sources=("HyParView, DSN 2007, TR DI-FCUL 07-13",),
)


@hookimpl
def grove_broadcast() -> Sequence[ProtocolSpec]:
    return (SPEC,)
