"""Scamp: partial views that size themselves, by subscriptions that walk until somebody keeps them.

Ganesh, Kermarrec, Massoulié: "Peer-to-peer membership management for gossip-based protocols", IEEE
Transactions on Computers 52(2), 2003, as HyParView's evaluation (TR DI-FCUL 07-13) describes and runs
it. A separately installed plugin, laid out as Grove's own are.

    pip install ./contrib/grove-membership-scamp ./contrib/grove-broadcast-gossip
    grove up --set roles.membership=scamp --set roles.broadcast=gossip
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec
from grove_membership_scamp.config import Config
from grove_membership_scamp.machine import Scamp
from grove_membership_scamp.messages import CODEC

GROVE_API = 1

SPEC = ProtocolSpec(
    name="scamp",
    role="membership",
    config=Config,
    build=Scamp,
    codec=CODEC,
    protocols=("/grove/scamp/1.0.0",),
    rpc=("/grove/scamp/ask/1.0.0",),
    queue=256,
    overflow="drop",
    requests=16,
    provides=frozenset({"membership", "neighbors"}),
    sources=("Scamp, IEEE ToC 52(2) 2003", "HyParView, DSN 2007, TR DI-FCUL 07-13"),
)


@hookimpl
def grove_membership() -> Sequence[ProtocolSpec]:
    return (SPEC,)
