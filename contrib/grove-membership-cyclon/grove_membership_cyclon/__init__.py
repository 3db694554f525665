"""Cyclon: one partial view of names with ages, renewed by exchanging entries with the oldest.

Voulgaris, Gavidia, van Steen: "CYCLON: inexpensive membership management for unstructured P2P
overlays", JNSM 13(2), 2005, as HyParView's evaluation (TR DI-FCUL 07-13) describes and runs it. With
a broadcast that reports who gave no receipt, it is the CyclonAcked of that evaluation. A separately
installed plugin, laid out as Grove's own are.

    pip install ./contrib/grove-membership-cyclon ./contrib/grove-broadcast-gossip
    grove up --set roles.membership=cyclon --set roles.broadcast=gossip
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec
from grove_membership_cyclon.config import Config
from grove_membership_cyclon.machine import Cyclon
from grove_membership_cyclon.messages import CODEC

GROVE_API = 1

SPEC = ProtocolSpec(
    name="cyclon",
    role="membership",
    config=Config,
    build=Cyclon,
    codec=CODEC,
    protocols=("/grove/cyclon/1.0.0",),
    rpc=("/grove/cyclon/ask/1.0.0",),
    queue=256,
    overflow="drop",
    requests=16,
    provides=frozenset({"membership", "neighbors"}),
    sources=("Cyclon, JNSM 13(2) 2005", "HyParView, DSN 2007, TR DI-FCUL 07-13"),
)


@hookimpl
def grove_membership() -> Sequence[ProtocolSpec]:
    return (SPEC,)
