"""etcd's consensus in the words of the role, as a machine.

One idea per file, each standing on the one before: `asking` (requests, and what is known of the
cluster), `following` (the log, from its snapshot on), `looking` (reads, and who leads), `leading`,
`appending` (proposals), `snapshots`.

Left to others: agreement, durability, order: etcd. The network: `link.py`. What commands mean, and
that a retry under one id counts once: the state machine above.

Invariants, between two inputs:
1. Everything agreed on with an index up to `followed` was handed over, in order, once in a life, or
   came as a state (Restored).
2. A proposal is created in etcd at most once while its life lasts, however often that is tried: its
   key is created only where it is not, and only under a head (`under`) up to which everything was
   heard. So one that was in the log and was trimmed from it is never created anew.
3. A ReadReady follows every commit that was agreed on before the read was asked.
4. Everything asked of the cluster is answered once; what waits is bounded by `pending`, what is
   asked at once by `inflight` and a few.
5. A cluster that is another than before, or whose revisions went back, is not believed: `broken`.
"""

from __future__ import annotations

from typing import Any

from grove_consensus_etcd.api import Ended, Heard, Request
from grove_consensus_etcd.config import Config
from grove_consensus_etcd.machine.appending import GIVE_UP
from grove_consensus_etcd.machine.asking import CLUSTER, RETRY, Ctx
from grove_consensus_etcd.machine.following import FOLLOW, STALL
from grove_consensus_etcd.machine.leading import LEASE
from grove_consensus_etcd.machine.looking import LOOK, PROBE
from grove_consensus_etcd.machine.snapshots import STORE, Snapshots
from grove_core.errors import LocalProtocolError
from grove_core.machine import PeerId

__all__ = ["Etcd"]


class Etcd(Snapshots):
    """One node's part. Emits Committed, Rejected, ReadReady, LeaderChanged and Restored; hears Proposed,
    ReadAsked and SnapshotTaken. Emits Asked and Watched, which its companion answers."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    # The role (grove_core.roles.ConsensusMachine), but for propose and read.

    def leader(self) -> PeerId | None:
        """The peer that holds the leader's lease. It orders nothing; etcd's own leader does."""
        return self.leads

    def voters(self) -> tuple[PeerId, ...]:
        """Nobody: etcd's members decide, and they are no peers."""
        return ()

    def learners(self) -> tuple[PeerId, ...]:
        """Nobody is known: whoever follows the log does so unseen."""
        return ()

    def reconfigure(self, ctx: Ctx, voters: tuple[PeerId, ...], learners: tuple[PeerId, ...]) -> bytes:
        raise LocalProtocolError(
            "who decides is etcd's business: etcdctl member add | remove. Every node whose "
            "plugins.etcd.endpoints name the cluster takes part"
        )

    # A life.

    def on_start(self, ctx: Ctx) -> None:
        self.life = int.from_bytes(ctx.load("life") or b"", "big") + 1
        ctx.save("life", self.life.to_bytes(8, "big"))
        record = ctx.load(CLUSTER + self.config.prefix)
        if record is not None and len(record) == 16:
            self.cluster = int.from_bytes(record[:8], "big")
            self.revision = self.noted = int.from_bytes(record[8:], "big")

    def linked(self, ctx: Ctx) -> None:
        """Requests are carried from now on."""
        self.is_linked = True
        self.catch_up(ctx)
        self.look(ctx)
        self.flush(ctx)
        ctx.set_timer(PROBE, self.config.probe)

    def unlinked(self, ctx: Ctx) -> Request | None:
        """Requests are carried no longer, but for the one that is returned."""
        last = self.resign(ctx)
        self.is_linked = False
        return last

    # From the companion, besides `answered`.

    def heard(self, ctx: Ctx, number: int, told: Heard) -> None:
        """The watch tells of commits."""
        if number == self.watch and self.is_sound(ctx, told.cluster):
            self.heard_commits(ctx, told.entries)

    def ended(self, ctx: Ctx, number: int, over: Ended) -> None:
        """The watch is over."""
        if number == self.watch:
            self.lost_watch(ctx, over)

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key == FOLLOW:
            self.catch_up(ctx)
        elif key == STALL:
            self.on_stall_timer(ctx)
        elif key == LOOK:
            self.look(ctx)
        elif key == PROBE:
            self.look(ctx)
            ctx.set_timer(PROBE, self.config.probe)
        elif key == LEASE:
            self.on_lease_timer(ctx)
        elif key == RETRY:
            self.is_waiting = False
            self.flush(ctx)
        elif key == STORE:
            self.store(ctx)
        elif key == GIVE_UP:
            self.on_give_up_timer(ctx)
