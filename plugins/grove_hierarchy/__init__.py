"""Hierarchical consensus: agreement in groups, and between them.

Yuan, Li, Diao, Shu: DLCA_R_P, IET Blockchain 4(S1), 2024: PBFT inside each group, Raft among the groups'
leaders. Which plugins play the two parts is configured (`group`, `leaders`); this one hosts them.
`trusting` is the published protocol, which one lying leader can fork; `certified` closes that.

    grove plugins info hierarchy          [plugins.hierarchy] in grove.toml
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec
from grove_hierarchy.config import Config
from grove_hierarchy.machine import build
from grove_hierarchy.messages import CODEC, DOMAIN, proofs

__all__ = ["SPEC", "grove_consensus"]

GROVE_API = 1

SPEC = ProtocolSpec(
    name="hierarchy",
    role="consensus",
    config=Config,
    build=build,
    codec=CODEC,
    protocols=("/grove/hierarchy/1.0.0",),
    rpc=("/grove/hierarchy-fetch/1.0.0",),
    proofs=proofs,
    domain=DOMAIN,
    # What is lost is said again by the protocols inside, or asked for.
    queue=4096,
    overflow="drop",
    hosts={"group": "consensus", "leaders": "consensus"},
    provides=frozenset({"consensus"}),
    sources=(
        "DLCA_R_P, IET Blockchain 4(S1), doi 10.1049/blc2.12073 (abstract; the rest is our design)",
        "Steward: Scaling Byzantine Fault-Tolerant Replication to WANs, IEEE TDSC 7(1), 2010",
    ),
)


@hookimpl
def grove_consensus() -> Sequence[ProtocolSpec]:
    return (SPEC,)
