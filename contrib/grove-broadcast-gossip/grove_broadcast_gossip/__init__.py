"""Gossip: each message to `fanout` neighbours, drawn anew for each message; with receipts if asked.

The broadcast that Cyclon, CyclonAcked and Scamp are measured with in HyParView's evaluation (TR
DI-FCUL 07-13). A separately installed plugin, laid out as Grove's own are.

    pip install ./contrib/grove-broadcast-gossip
    grove up --set roles.membership=cyclon --set roles.broadcast=gossip
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_broadcast_gossip.config import Config
from grove_broadcast_gossip.machine import Gossip
from grove_broadcast_gossip.messages import CODEC, DOMAIN, proofs
from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec

GROVE_API = 1

SPEC = ProtocolSpec(
    name="gossip",
    role="broadcast",
    config=Config,
    build=Gossip,
    codec=CODEC,
    protocols=("/grove/gossip/1.0.0",),
    rpc=("/grove/gossip/ack/1.0.0",),
    proofs=proofs,
    domain=DOMAIN,
    queue=1024,
    overflow="drop",  # a lost push is one of several; the others bring the message
    requests=1024,
    provides=frozenset({"broadcast"}),
    requires=frozenset({"neighbors"}),
    sources=("HyParView, DSN 2007, TR DI-FCUL 07-13, section 5",),
)


@hookimpl
def grove_broadcast() -> Sequence[ProtocolSpec]:
    return (SPEC,)
