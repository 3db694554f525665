"""HyParView: a small active view to talk over, a larger passive view to heal from.

Leitao, Pereira, Rodrigues: "HyParView: a membership protocol for reliable gossip-based broadcast",
DSN 2007 (technical report DI-FCUL 07-13). `machine.py` reads as sections 4 and 5 of the report do.

    grove plugins info hyparview          [plugins.hyparview] in grove.toml
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec
from grove_hyparview.config import Config
from grove_hyparview.machine import HyParView
from grove_hyparview.messages import CODEC

GROVE_API = 1

SPEC = ProtocolSpec(
    name="hyparview",
    role="membership",
    config=Config,
    build=HyParView,
    codec=CODEC,
    protocols=("/grove/hyparview/1.0.0",),
    # Membership traffic is a few messages a minute: who lets 256 of them pile up does not read.
    queue=256,
    overflow="disconnect",
    provides=frozenset({"membership", "neighbors", "links"}),
    sources=("HyParView, DSN 2007, TR DI-FCUL 07-13",),
)


@hookimpl
def grove_membership() -> Sequence[ProtocolSpec]:
    return (SPEC,)
