"""The role `consensus` on an etcd cluster that is already there.

Nothing is elected or replicated here: a command that the village agrees on is a key that was created
in etcd, and its index is the revision of that creation. For villages whose servers run etcd anyway;
homes take raft, and where members may lie pbft.

    pip install ./contrib/grove-consensus-etcd
    grove up --set roles.storage=commons --set roles.consensus=etcd

The machine is as pure as any other. What it wants of etcd it emits as data (`events.Asked`), and its
companion (`link.py`) carries that to the cluster and brings the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grove_consensus_etcd.config import Config
from grove_consensus_etcd.machine import Etcd
from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec

GROVE_API = 1


def companion(node: Any, handle: Any) -> Any:
    """What talks to the cluster."""
    from grove_consensus_etcd.link import Link

    return Link(node, handle)


SPEC = ProtocolSpec(
    name="etcd",
    role="consensus",
    config=Config,
    build=Etcd,
    companion=companion,
    provides=frozenset({"consensus"}),
    sources=(
        "etcd v3 API: KV, Watch and Lease services; JSON gateway (etcd 3.4 and later)",
        "etcd API guarantees: linearizable KV operations; ordered, unique, reliable, atomic watches",
    ),
)


@hookimpl
def grove_consensus() -> Sequence[ProtocolSpec]:
    return (SPEC,)
