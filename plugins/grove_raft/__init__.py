"""Raft: a few voters agree on one sequence of commands and survive the crash of any minority.

Ongaro, Ousterhout: "In Search of an Understandable Consensus Algorithm", USENIX ATC 2014; Ongaro:
"Consensus: Bridging Theory and Practice", dissertation, Stanford 2014, whose sections the files name.
For crashes only: a member that lies is pbft's business.

    grove plugins info raft           [plugins.raft] in grove.toml
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec
from grove_raft.config import Config
from grove_raft.machine import Raft
from grove_raft.messages import CODEC

GROVE_API = 1

SPEC = ProtocolSpec(
    name="raft",
    role="consensus",
    config=Config,
    build=Raft,
    codec=CODEC,
    protocols=("/grove/raft/1.0.0",),
    # Raft repairs what is lost: a dropped append is found by the next heartbeat, a broken link later.
    queue=1024,
    overflow="drop",
    provides=frozenset({"consensus"}),
    sources=(
        "In Search of an Understandable Consensus Algorithm, USENIX ATC 2014",
        "Consensus: Bridging Theory and Practice, Ongaro, Stanford 2014",
    ),
)


@hookimpl
def grove_consensus() -> Sequence[ProtocolSpec]:
    return (SPEC,)
