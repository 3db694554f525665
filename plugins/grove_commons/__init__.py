"""What the village holds in common: a map with linearizable reads, and tasks that exactly one holds.

The replicated state machine on top of the role `consensus`, whichever plugin fills it. Claims have
leases and fencing tokens; a result with an old token is refused. What needs this, and what needs
only a log or a document that merges: docs/commons.md.

    async with node.claim("task-17", lease=30) as claim:
        await claim.submit(b"done, by the holder of token %d" % claim.token)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grove_commons.config import Config
from grove_commons.door import VERBS
from grove_commons.events import (
    ClaimEnded,
    ClaimGranted,
    ClaimLost,
    ClaimRenewed,
    KeyDeleted,
    KeyWritten,
    ResultRefused,
    TaskDone,
)
from grove_commons.machine import Commons
from grove_core.hookspecs import hookimpl
from grove_core.specs import ProtocolSpec

if TYPE_CHECKING:
    import click

GROVE_API = 1


def facade(node: Any, handle: Any) -> Any:
    """`node.commons`, in asyncio."""
    from grove_commons.client import Shared

    return Shared(node, handle)


SPEC = ProtocolSpec(
    name="commons",
    role="storage",
    config=Config,
    build=Commons,
    provides=frozenset({"commons", "claims"}),
    requires=frozenset({"consensus"}),
    verbs=VERBS,
    tells=(
        ClaimGranted,
        ClaimRenewed,
        ClaimEnded,
        ClaimLost,
        TaskDone,
        ResultRefused,
        KeyWritten,
        KeyDeleted,
    ),
    facade=facade,
    sources=(
        "Hellerstein, Alvaro: Keeping CALM, CACM 63(9), 2020",
        "Gray, Cheriton: Leases, SOSP 1989",
        "Burrows: The Chubby lock service, OSDI 2006 (sequencers)",
        "Ongaro: Consensus: bridging theory and practice, 2014, 6.3 (sessions)",
    ),
)


@hookimpl
def grove_storage() -> Sequence[ProtocolSpec]:
    return (SPEC,)


@hookimpl
def grove_commands() -> Sequence[click.Command]:
    from grove_commons.verbs import claim, kv, release, renew, submit, task

    return (claim, renew, release, submit, task, kv)
