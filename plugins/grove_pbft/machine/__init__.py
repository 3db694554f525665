"""PBFT as a machine: Castro and Liskov's replica and client, cut along their paper's sections.

    replica.py       state, and what the parts have in common
    clients.py       §4.1  requests, retransmission, replies
    ordering.py      §4.2  pre-prepare, prepare, commit, execute
    checkpoints.py   §4.3  checkpoints, garbage collection, states
    transfer.py      §4.3, §5.3  catching up
    views.py         §4.4  view changes
    groups.py        consensus and observer groups, changing
    losses.py        a replica whose disk forgot
    reads.py         §5.1.3  reads

Left to others: signatures (the driver checks `messages.proofs` before a message comes here), connections,
the state machine (it hears Committed, is asked by SnapshotAsked, and answers with SnapshotTaken).

Deviations:
* Everything that may have to convince a third party is signed, as in OSDI'99 §4; there are no MACs.
* COMMITs of a quorum suffice to execute; the paper also wants the replica's own prepared certificate.
* NEW-VIEW cites VIEW-CHANGEs instead of containing them; missing ones are fetched.
* Who votes gets no REPLY to its own requests: it executes them.
* Retransmission by what is missing (decisions, views) instead of status messages.
"""

from __future__ import annotations

from typing import Any

import msgspec

from grove_core.events import LeaderChanged, MembersChanged
from grove_core.machine import CONNECT, PeerId
from grove_pbft.config import Config
from grove_pbft.log import SlotRecord
from grove_pbft.machine.checkpoints import DONE, STABLE_KEY, STATE_KEY, Snapshot, Vouched, load
from grove_pbft.machine.clients import PROPOSE, RETRY
from grove_pbft.machine.ordering import batch_key, done_key
from grove_pbft.machine.reads import READING, Reads
from grove_pbft.machine.replica import REQUEST_TIMER, Ctx, peers_of
from grove_pbft.machine.transfer import LAG, OBSERVE
from grove_pbft.machine.views import RESEND, VIEW_TIMER
from grove_pbft.messages import NULL, Batch, Certificate, Membership, PrePrepare, Request
from grove_pbft.quorum import Configuration

__all__ = ["Pbft"]

RECONNECT = "reconnect"


class Pbft(Reads):
    """One member. Hears Proposed, ReadAsked, SnapshotTaken; emits what roles.ConsensusMachine says."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.first_voters = peers_of(config.voters, "voters")
        self.first_learners = peers_of(config.learners, "learners")
        self._connected: dict[PeerId, None] = {}
        self._wanted: dict[PeerId, None] = {}

    # The role (grove_core.roles.ConsensusMachine); propose, read, leader, reconfigure are with their
    # parts.

    def voters(self) -> tuple[PeerId, ...]:
        """Who decides now, ascending."""
        return self.configuration.voters

    def learners(self) -> tuple[PeerId, ...]:
        """Who observes now, ascending."""
        return self.membership.learners

    # Life.

    def on_start(self, ctx: Ctx) -> None:
        """Begin, or take up what an earlier life left: its state, then what was executed after, then the
        view and the numbers it had voted on."""
        self.membership = Membership(0, self.first_voters or (ctx.me,), self.first_learners)
        self.configuration = Configuration(self.group, 0, self.membership.voters)
        self.load_loss(ctx)
        self.load_number(ctx)
        self.is_replaying = True
        self._replay(ctx)
        self.is_replaying = False
        if ctx.me not in self.configuration.rank:
            self.stable = self.executed
        self.load_view(ctx)
        self._load_slots(ctx)
        now = self.membership
        ctx.emit(MembersChanged(self.index, now.voters, now.learners))
        ctx.emit(LeaderChanged(self.leader(), self.epoch))
        self.hold_connections(ctx)
        ctx.set_timer(OBSERVE, self.config.observe)
        ctx.set_timer(RECONNECT, self.config.reconnect)
        if self.executed or self.view or self.loss:
            self.catch_up(ctx)
            self.ask_view(ctx)
        if self.is_changing and self.is_voter(ctx):
            self.say_view_change(ctx)
        self._say_again(ctx)
        self.execute(ctx)

    def _replay(self, ctx: Ctx) -> None:
        vouched = load(ctx, STATE_KEY, Vouched)
        if vouched is not None:
            snapshot = load_snapshot(vouched.body)
            self.vouched, self.vouched_size = vouched.certificate, len(vouched.body)
            self.vouched_number = snapshot.root.membership.number
            self.install(ctx, snapshot)
            now = self.membership
            self.configuration = Configuration(self.group, now.number, now.voters)
            # Durable as of a checkpoint: the window begins there or, by "stable", later.
            self.stable = now.base
        for key in ctx.saved(DONE):
            seq = int(key[len(DONE) :])
            if seq != self.executed + 1:
                continue
            certificate: Certificate = load(ctx, key, Certificate)
            batch: Batch | None = ()
            if certificate.digest != NULL:
                batch = load(ctx, batch_key(seq, certificate.digest), tuple[Request, ...])
            if batch is None:
                break
            self.run_batch(ctx, seq, certificate, batch)
        stable: Certificate | None = load(ctx, STABLE_KEY, Certificate)
        if stable is not None and stable.configuration == self.configuration.name:
            self.stable, self.stable_proof = stable.seq, stable
        self.last_proposed = max(self.executed, self.stable)

    def _load_slots(self, ctx: Ctx) -> None:
        for key in ctx.saved("slot/"):
            seq = int(key[len("slot/") :])
            if not self.is_near(seq):
                continue
            record: SlotRecord = load(ctx, key, SlotRecord)
            slot = self.slot(seq)
            slot.accepted, slot.prepared = record.accepted, record.prepared
            done = load(ctx, done_key(seq), Certificate)
            slot.committed = done
            for digest in slot.referred():
                batch = () if digest == NULL else load(ctx, batch_key(seq, digest), tuple[Request, ...])
                if batch is not None:
                    slot.batches[digest] = batch
            accepted = record.accepted
            if accepted is not None and accepted.view == self.view and not self.is_changing:
                self.last_proposed = max(self.last_proposed, seq)
                slot.prepares.add(self.primary, self.view, accepted.digest, accepted.signature)

    def _say_again(self, ctx: Ctx) -> None:
        """What the last life signed in this view, and may not have got out: word for word."""
        if self.is_changing or not self.is_voter(ctx):
            return
        for seq, slot in sorted(self.slots.items()):
            accepted = slot.accepted
            if accepted is None or accepted.view != self.view or seq <= self.stable:
                continue
            if self.primary == ctx.me and accepted.digest in slot.batches:
                name, batch = self.configuration.name, slot.batches[accepted.digest]
                again = PrePrepare(name, self.view, seq, batch, ctx.me, accepted.signature)
                self.broadcast(ctx, again)
            elif self.primary != ctx.me:
                self.prepare(ctx, seq, accepted.digest)
            if slot.prepared is not None and slot.prepared.view == self.view:
                self.commit(ctx, seq, accepted.digest)

    def on_stop(self, ctx: Ctx) -> None:
        for peer in self._wanted:
            ctx.disconnect(peer, "stopping")

    # Connections: everybody to the voters.

    def hold_connections(self, ctx: Ctx) -> None:
        wanted = [voter for voter in self.configuration.voters if voter != ctx.me]
        if ctx.me not in self.configuration.rank and not self.is_member(ctx.me):
            wanted = []
        for peer in [peer for peer in self._wanted if peer not in wanted]:
            del self._wanted[peer]
            ctx.disconnect(peer, "votes no more")
        for peer in wanted:
            if peer not in self._wanted:
                self._wanted[peer] = None
                # Of two voters the lower dials; a reconnect tries from both sides.
                if ctx.me < peer or ctx.me not in self.configuration.rank:
                    ctx.connect(peer)

    def on_peer_up(self, ctx: Ctx, peer: PeerId) -> None:
        if peer in self._wanted and peer not in self._connected:
            self._connected[peer] = None
            ctx.connect(peer)  # hold it, whoever dialled

    def on_peer_down(self, ctx: Ctx, peer: PeerId) -> None:
        self._connected.pop(peer, None)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        if key is not CONNECT:
            super().on_failure(ctx, key, peer, reason)

    def _reconnect(self, ctx: Ctx) -> None:
        for peer in self._wanted:
            if peer not in self._connected:
                ctx.connect(peer)
        ctx.set_timer(RECONNECT, self.config.reconnect)

    # Timers.

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key == PROPOSE:
            self.on_propose_timer(ctx)
        elif key == REQUEST_TIMER:
            self.suspect(ctx)
        elif key == VIEW_TIMER:
            self.view_failed(ctx)
        elif key == RESEND:
            self.resend(ctx)
        elif key == RETRY:
            self.ask_again(ctx)
        elif key == LAG:
            self.lagged(ctx)
        elif key == OBSERVE:
            self.observe(ctx)
            if self.is_changing:
                self.ask_view(ctx)
        elif key == RECONNECT:
            self._reconnect(ctx)
        elif key[0] == "batch":
            self.fetch_batch(ctx, key[1], key[2])
        elif key[0] == "change":
            self.fetch_again(ctx, key)
        elif key[0] == READING:
            self.read_by_order(ctx, key[1])

    def end_view_timers(self, ctx: Ctx) -> None:
        """A configuration ended: nothing of its views is waited for."""
        ctx.cancel_timer(VIEW_TIMER)
        ctx.cancel_timer(RESEND)
        self.unwatch(ctx)


def load_snapshot(body: bytes) -> Snapshot:
    """A snapshot that a quorum vouched for."""
    snapshot: Snapshot = msgspec.msgpack.decode(body, type=Snapshot)
    return snapshot
