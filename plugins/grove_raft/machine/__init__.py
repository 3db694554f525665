"""Raft as a machine: Ongaro's dissertation, chapters 3 to 6 and 10.

One idea per file, each standing on the one before: `state`, `election`, `replication`, `snapshots`,
`configuration`, `losses`, `reads`, `proposals`; `grove_raft.log` is what is durable, `progress` what a
leader knows of one other, `quorum` the arithmetic.

Left to others: what commands mean and that a retry under one id counts once (the state machine,
which also decides when to take snapshots), and who a peer is (the driver).

Invariants, at every moment, in every run (§3.2; checked by grove_core.testing.agreement):
1. At most one leader per term.
2. Two logs that have an entry of one term at one index are equal up to it.
3. A leader's log holds every entry that was committed in earlier terms.
4. No two members hand over different commands at one index, and none hands over fewer twice.
5. offset <= snapshot <= applied <= commit <= last index; term, commit and applied never go back.

Deviations:
* A member hands over what is committed again after a restart, from its snapshot on: the
  commit index is not durable, and state machines live in memory.
* Two round trips before a leader is elected instead of one, for pre-vote.
"""

from __future__ import annotations

from typing import Any

from grove_core.machine import PeerId
from grove_raft.config import Config
from grove_raft.machine.proposals import Proposals
from grove_raft.machine.state import (
    CHECK,
    ELECTION,
    FLUSH,
    HEARTBEAT,
    TELL,
    TIDY,
    WAKE,
    Ctx,
    Reconnect,
    ReplicaState,
)

__all__ = ["Raft", "ReplicaState"]


class Raft(Proposals):
    """One member of one group. Emits Committed, Rejected, ReadReady, LeaderChanged, MembersChanged and
    Restored; hears Proposed, ReadAsked and SnapshotTaken."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def on_start(self, ctx: Ctx) -> None:
        log = self.log
        log.load(ctx)
        founders = self.founders(ctx)
        if not log.group and founders is not None:
            log.found(ctx, *founders)
        self._life = int.from_bytes(ctx.load("life") or b"", "big") + 1
        if log.is_damaged:  # the count of lives may be an old one, and ids must not come again
            self._life = ctx.rng.getrandbits(62)
        ctx.save("life", self._life.to_bytes(8, "big"))
        self.commit = self.applied = log.snapshot.index
        if log.term:
            self.heard_at = ctx.now
        self.arm_election(ctx)
        self.hold_members(ctx)
        ctx.set_timer(WAKE, 0.0)

    def on_peer_up(self, ctx: Ctx, peer: PeerId) -> None:
        self.up[peer] = None
        ctx.cancel_timer(Reconnect(peer))
        progress = self.progress.get(peer)
        if self.standing == "leader" and progress is not None:
            self.round += 1  # so that it answers at once
            progress.probe(progress.next)
            self.send_append(ctx, peer, progress)
        if peer == self._leader:
            self._send_waiting(ctx)

    def on_peer_down(self, ctx: Ctx, peer: PeerId) -> None:
        self.up.pop(peer, None)
        progress = self.progress.get(peer)
        if progress is not None:
            # What was on its way may be lost, so look from what is known to be there. Who has said
            # nothing yet is still asked where it was asked before: from the beginning, all would agree.
            progress.probe(progress.next if progress.state == "probe" else progress.match + 1)
        if peer in self._dialled:
            ctx.set_timer(Reconnect(peer), self.config.reconnect)

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key == FLUSH:
            self.on_flush_timer(ctx)
        elif key == TELL:
            self.on_tell_timer(ctx)
        elif key == HEARTBEAT:
            self.on_heartbeat_timer(ctx)
        elif key == ELECTION:
            self.on_election_timer(ctx)
        elif key == CHECK:
            self.on_check_timer(ctx)
        elif key == TIDY:
            self.on_tidy_timer(ctx)
        elif key == WAKE:
            self.wake(ctx)
        elif isinstance(key, Reconnect) and key.peer in self._dialled:
            ctx.connect(key.peer)
