"""Pool: a wide circle of held connections, between a low and a high water mark.

For protocols that choose their own neighbours out of many, as GossipSub does (libp2p/specs,
pubsub/gossipsub: it wants some 20 connections where HyParView keeps 5), and for small
villages where everybody knows everybody. No protocol of its own on the wire.

    grove plugins info pool               [plugins.pool] in grove.toml
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec
from grove_pool.config import Config
from grove_pool.machine import Pool

GROVE_API = 1

SPEC = ProtocolSpec(
    name="pool",
    role="membership",
    config=Config,
    build=Pool,
    provides=frozenset({"membership", "neighbors", "links"}),
    sources=("go-libp2p connmgr: low and high water", "libp2p/specs pubsub/gossipsub v1.1: D_out"),
)


@hookimpl
def grove_membership() -> Sequence[ProtocolSpec]:
    return (SPEC,)
