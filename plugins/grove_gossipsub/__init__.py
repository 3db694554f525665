"""GossipSub: messages along a mesh per topic, gossip about them to others, and a score per peer.

libp2p/specs pubsub/gossipsub v1.0, v1.1, v1.2 and v1.3; the protocol of Ethereum's and Filecoin's
networks, so every libp2p stack can join. Wants more connections than a mesh holds (20 or so): the pool
gives them, HyParView does not.

    grove plugins info gossipsub          [plugins.gossipsub] in grove.toml
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec
from grove_gossipsub.config import Config
from grove_gossipsub.events import ValidationRequested, Verdict
from grove_gossipsub.machine import GossipSub
from grove_gossipsub.messages import CODEC, DOMAIN, is_control, proofs

__all__ = ["SPEC", "ValidationRequested", "Verdict", "grove_broadcast"]

GROVE_API = 1

SPEC = ProtocolSpec(
    name="gossipsub",
    role="broadcast",
    config=Config,
    build=GossipSub,
    codec=CODEC,
    protocols=(
        "/meshsub/1.3.0",
        "/meshsub/1.2.0",
        "/meshsub/1.1.0",
        "/meshsub/1.0.0",
        "/floodsub/1.0.0",
    ),
    proofs=proofs,
    # A forged message costs the peer that passed it on a P4, not the connection.
    forged="tell",
    domain=DOMAIN,
    # IDONTWANT that waits behind the copies it would have spared is worth nothing.
    urgent=is_control,
    # go drops RPCs beyond 32 for a peer that does not keep up; gossip repairs what was lost.
    queue=1024,
    overflow="drop",
    provides=frozenset({"broadcast"}),
    requires=frozenset({"neighbors", "links"}),
    sources=(
        "libp2p/specs pubsub/gossipsub v1.0, v1.1, v1.2, v1.3",
        "GossipSub: Attack-Resilient Message Propagation, arXiv 2007.02754",
    ),
)


@hookimpl
def grove_broadcast() -> Sequence[ProtocolSpec]:
    return (SPEC,)
