"""PBFT: one order of commands among n = 3f + 1 voters of whom f may do anything, and observers around
them.

Castro, Liskov: "Practical Byzantine Fault Tolerance", OSDI 1999, and "… and Proactive Recovery", TOCS
2002. Members come and go without a restart, in the manner of NG-PBFT (ICCBN 2024): see members.py.

    grove plugins info pbft               [plugins.pbft] in grove.toml
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec
from grove_pbft.config import Config
from grove_pbft.events import Answered
from grove_pbft.machine import Pbft
from grove_pbft.messages import CODEC, DOMAIN, proofs

__all__ = ["SPEC", "Answered", "grove_consensus"]

GROVE_API = 1

SPEC = ProtocolSpec(
    name="pbft",
    role="consensus",
    config=Config,
    build=Pbft,
    codec=CODEC,
    protocols=("/grove/pbft/1.0.0",),
    rpc=("/grove/pbft-fetch/1.0.0",),
    proofs=proofs,
    domain=DOMAIN,
    # Votes that were dropped cost a view change; what was decided without us is fetched.
    queue=4096,
    overflow="drop",
    provides=frozenset({"consensus"}),
    sources=(
        "Practical Byzantine Fault Tolerance, OSDI 1999",
        "Practical Byzantine Fault Tolerance and Proactive Recovery, ACM TOCS 20(4), 2002",
        "NG-PBFT, ICCBN 2024 (consensus and observation groups; the design of the changes is ours)",
    ),
)


@hookimpl
def grove_consensus() -> Sequence[ProtocolSpec]:
    return (SPEC,)
