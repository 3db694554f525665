"""What can be set about the commons: the table ``[plugins.commons]``.

Two kinds of settings. Those of this node (patience, drift …) may differ from node to node. Those
that all must judge alike (how many keys, how short a lease) hold as the *founding* node has them:
they enter the log with its first command and what other nodes have in their tables is then only a
wish (`docs/decisions`). Durations are seconds.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from grove_commons.commands import Bounds

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one node's commons. ValueError if lease_min > lease_max."""

    patience: Seconds = 30.0
    """Until an ask whose outcome did not come is answered "unknown". Guess: some elections long."""

    retry: Seconds = 1.0
    """First wait before a proposal that heard nothing is made again, under the same id; doubles, with
    a jitter of half, up to 8 times as much. A retry that was not needed costs one log entry. Guess."""

    refused_retry: Seconds = 0.1
    """The same after consensus refused it (no leader now). Doubles alike."""

    open: Annotated[int, Meta(ge=1, le=65_536)] = 1024
    """Asks of this node that may wait for their outcome; the next is refused. Writes are bounded by
    the agreed `window` too."""

    drift: Annotated[float, Meta(ge=0, lt=0.5)] = 0.01
    """How wrong a node's clock may run against another's. A holder counts its lease shorter by this
    share (consensus reference 7.2: 1 %)."""

    margin: Annotated[float, Meta(ge=0, le=3600)] = 0.5
    """Taken off a holder's lease besides: what is under way when it stops may take so long to arrive
    (RTT_max in the consensus reference 7.2)."""

    witness_delay: Seconds = 5.0
    """How much later than the leader the others propose that a lease has run out, if it does not.
    Twice that at most, at random. Guess."""

    snapshot_every: Annotated[int, Meta(ge=16, le=1 << 30)] = 4096
    """Indices between two snapshots. Equal on all nodes where consensus compares them (PBFT)."""

    keys: Annotated[int, Meta(ge=0, le=1 << 20)] = 4096
    """Agreed at founding: keys of the map."""

    claims: Annotated[int, Meta(ge=0, le=1 << 20)] = 4096
    """Agreed at founding: live claims of the village."""

    done: Annotated[int, Meta(ge=1, le=1 << 20)] = 16_384
    """Agreed at founding: finished tasks remembered. One that is forgotten could be claimed anew."""

    size: Annotated[int, Meta(ge=1 << 20, le=11 << 20)] = 8 << 20
    """Agreed at founding: bytes of everything; half for keys and claims, half for finished tasks."""

    sessions: Annotated[int, Meta(ge=1, le=1 << 16)] = 1024
    """Agreed at founding: nodes whose proposals are remembered as done, so that a retry counts once."""

    window: Annotated[int, Meta(ge=1, le=4096)] = 256
    """Agreed at founding: proposals one node may have open."""

    lease_min: Seconds = 2.0
    """Agreed at founding: the shortest lease. etcd's minimum at its defaults (lessor.go)."""

    lease_max: Annotated[float, Meta(gt=0, le=31_536_000)] = 86_400.0
    """Agreed at founding: the longest lease."""

    witnesses: Annotated[int, Meta(ge=1, le=64)] = 1
    """Agreed at founding: nodes that must say a lease has run out. 1 where all are honest (Raft);
    f + 1 where f may lie (PBFT), so that no liar alone can take a task from its holder."""

    def __post_init__(self) -> None:
        if self.lease_min > self.lease_max:
            raise ValueError(f"lease_min {self.lease_min} exceeds lease_max {self.lease_max}")

    @property
    def bounds(self) -> Bounds:
        """What this node founds a village with."""
        return Bounds(
            keys=self.keys,
            claims=self.claims,
            done=self.done,
            size=self.size,
            sessions=self.sessions,
            window=self.window,
            lease_min=max(1, round(self.lease_min * 1000)),
            lease_max=max(1, round(self.lease_max * 1000)),
            witnesses=self.witnesses,
        )
