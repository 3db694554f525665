"""Normal case operation (PBFT §4.2): PRE-PREPARE, PREPARE, COMMIT, execute.

A decision of n voters costs n - 1 PRE-PREPAREs, (n - 1)² PREPAREs, n(n - 1) COMMITs, and a REPLY from
each voter to each observer whose requests are in it: 2n² - n in all for one such client.

Invariants:
1. In one view, one digest is accepted for a number, and it is durable before the PREPARE leaves.
2. A prepared certificate is a quorum of distinct voters, the view's primary among them, under one
   statement, and is durable before the COMMIT leaves.
3. Batches are executed in order, each with a certificate of COMMITs, which is durable before anybody
   hears of it.
4. No number outside (h, H] is voted on.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import msgspec

from grove_core.events import Committed
from grove_core.machine import PeerId, handles
from grove_pbft.log import Accepted, Slot
from grove_pbft.machine.clients import Clients
from grove_pbft.machine.replica import REQUEST_TIMER, Ctx
from grove_pbft.messages import (
    COMMAND,
    COMMITTED,
    PREPARED,
    Batch,
    Certificate,
    Commit,
    Decided,
    Prepare,
    PrePrepare,
    Request,
    batch_digest,
)

ENCODER: Final = msgspec.msgpack.Encoder()


class Ordering(Clients):
    """Three phases, pipelined between the watermarks."""

    _watching = False

    # The primary gives out numbers.

    def propose_batches(self, ctx: Ctx) -> None:
        """As long as the window and the pipeline have room and something waits, propose."""
        if not self.is_primary(ctx) or self.executed < self.stable:
            return
        while self.last_proposed < self.high:
            seq = self.last_proposed + 1
            fills = self.membership.switch >= seq  # waiting changes want their checkpoint to come
            if self.queue and seq - self.executed <= self.config.pipeline:
                batch = self._next_batch()
            elif fills and not self.queue:
                batch = ()
            else:
                break
            self.last_proposed = seq
            digest = batch_digest(batch)
            signature = self.signed(ctx, PREPARED, self.view, seq, digest)
            msg = PrePrepare(self.configuration.name, self.view, seq, batch, ctx.me, signature)
            self.accept(ctx, seq, digest, signature, batch)
            self.broadcast(ctx, msg)
            self.check_prepared(ctx, seq)

    def _next_batch(self) -> Batch:
        batch: list[Request] = []
        size = 0
        for request in self.queue.values():
            size += len(request.command)
            if batch and size > self.config.batch_bytes:
                break
            batch.append(request)
            if len(batch) >= self.config.batch_requests:
                break
        for request in batch:
            del self.queue[request.client, request.number]
        return tuple(batch)

    # Pre-prepare.

    @handles(PrePrepare)
    def on_pre_prepare(self, ctx: Ctx, peer: PeerId, msg: PrePrepare) -> None:
        if msg.configuration != self.configuration.name:
            self.of_another_configuration(ctx, peer, msg)
            return
        if msg.voter != self.configuration.primary(msg.view) or msg.voter == ctx.me:
            return
        if not self.is_near(msg.seq) or not self.expects_view(msg.view):
            return
        if self.is_changing or msg.view != self.view or msg.seq > self.high:
            slot = self.slot(msg.seq)
            held = slot.early
            if (
                held is None
                or (held.view != self.view and msg.view > held.view)
                or (msg.view == self.view != held.view)
            ):
                slot.early = msg
            return
        self._pre_prepared(ctx, msg)

    def take_early(self, ctx: Ctx) -> None:
        """PRE-PREPAREs that could not be accepted when they came, and can now."""
        if self.is_changing:
            return
        for seq in sorted(self.slots):
            slot = self.slots.get(seq)
            if slot is not None and slot.early is not None and seq <= self.high:
                early, slot.early = slot.early, None
                if early.view == self.view:
                    self._pre_prepared(ctx, early)

    def _pre_prepared(self, ctx: Ctx, msg: PrePrepare) -> None:
        if not self.is_voter(ctx) or msg.seq <= self.stable or self.executed < self.stable:
            return
        slot = self.slot(msg.seq)
        if slot.accepted is not None and slot.accepted.view >= msg.view:
            return  # the same once more, or an equivocation, which gains nothing
        digest = batch_digest(msg.batch)
        if slot.committed is not None and slot.committed.digest != digest:
            return  # only a faulty primary contradicts what is decided
        self.accept(ctx, msg.seq, digest, msg.signature, msg.batch)
        self.prepare(ctx, msg.seq, digest)
        self.check_prepared(ctx, msg.seq)

    def accept(self, ctx: Ctx, seq: int, digest: bytes, signature: bytes, batch: Batch | None) -> None:
        """Stand by a digest for a number in this view; durable before anything is said about it."""
        slot = self.slot(seq)
        slot.accepted = Accepted(self.view, digest, signature)
        if batch is not None:
            self.keep_batch(ctx, seq, digest, batch)
            for request in batch:
                self.admit(ctx, request)
                self.queue.pop((request.client, request.number), None)
        self._save_slot(ctx, seq, slot)
        slot.prepares.add(self.primary, self.view, digest, signature)
        self.watch(ctx)

    def keep_batch(self, ctx: Ctx, seq: int, digest: bytes, batch: Batch) -> None:
        """Remember what a digest stands for, also over a crash."""
        slot = self.slot(seq)
        if digest not in slot.batches:
            slot.batches[digest] = batch
            if batch:
                self.save(ctx, batch_key(seq, digest), ENCODER.encode(batch))
        needed = (*slot.referred(), digest)
        for old in [old for old in slot.batches if old not in needed]:
            del slot.batches[old]
            self.save(ctx, batch_key(seq, old), None)

    def _save_slot(self, ctx: Ctx, seq: int, slot: Slot) -> None:
        self.save(ctx, slot_key(seq), slot.record())

    # Prepare.

    def prepare(self, ctx: Ctx, seq: int, digest: bytes) -> None:
        """A backup's PREPARE."""
        signature = self.signed(ctx, PREPARED, self.view, seq, digest)
        self.slot(seq).prepares.add(ctx.me, self.view, digest, signature)
        self.broadcast(ctx, Prepare(self.configuration.name, self.view, seq, digest, ctx.me, signature))

    @handles(Prepare)
    def on_prepare(self, ctx: Ctx, peer: PeerId, msg: Prepare) -> None:
        if msg.configuration != self.configuration.name:
            self.of_another_configuration(ctx, peer, msg)
            return
        if msg.voter not in self.configuration.rank or not self.is_near(msg.seq):
            return
        if msg.voter == self.configuration.primary(msg.view):
            return  # its PRE-PREPARE is its vote
        if self.slot(msg.seq).prepares.add(msg.voter, msg.view, msg.digest, msg.signature):
            self.check_prepared(ctx, msg.seq)

    def check_prepared(self, ctx: Ctx, seq: int) -> None:
        """prepared(m, v, n): the PRE-PREPARE and PREPAREs of a quorum, under one statement."""
        slot = self.slots.get(seq)
        if slot is None or slot.accepted is None or self.is_changing or not self.is_voter(ctx):
            return
        accepted = slot.accepted
        if accepted.view != self.view or seq > self.high:
            return
        if slot.prepared is not None and slot.prepared.view >= self.view:
            return
        votes = slot.prepares.of(self.view, accepted.digest)
        if len(votes) < self.configuration.quorum or self.primary not in votes:
            return
        slot.prepared = self.configuration.certificate(
            self.view, seq, accepted.digest, votes, self.primary
        )
        self._save_slot(ctx, seq, slot)
        self.commit(ctx, seq, accepted.digest)

    # Commit.

    def commit(self, ctx: Ctx, seq: int, digest: bytes) -> None:
        """COMMIT, whose prepared certificate is durable."""
        signature = self.signed(ctx, COMMITTED, self.view, seq, digest)
        self.slot(seq).commits.add(ctx.me, self.view, digest, signature)
        msg = Commit(self.configuration.name, self.view, seq, digest, ctx.me, signature)
        self.broadcast(ctx, msg)
        self.check_committed(ctx, seq, self.view, digest)

    @handles(Commit)
    def on_commit(self, ctx: Ctx, peer: PeerId, msg: Commit) -> None:
        if msg.configuration != self.configuration.name:
            self.of_another_configuration(ctx, peer, msg)
            return
        if msg.voter not in self.configuration.rank or not self.is_near(msg.seq):
            return
        if self.slot(msg.seq).commits.add(msg.voter, msg.view, msg.digest, msg.signature):
            self.check_committed(ctx, msg.seq, msg.view, msg.digest)

    def check_committed(self, ctx: Ctx, seq: int, view: int, digest: bytes) -> None:
        """COMMITs of a quorum: f + 1 correct voters hold a prepared certificate, so no view forgets
        it."""
        slot = self.slots.get(seq)
        if slot is None or slot.committed is not None or seq <= self.executed:
            return
        votes = slot.commits.of(view, digest)
        if len(votes) >= self.configuration.quorum:
            slot.committed = self.configuration.certificate(view, seq, digest, votes, None)
            self.execute(ctx)

    # Execute.

    def execute(self, ctx: Ctx) -> None:
        """Execute what is committed, in order, as far as it goes."""
        before = self.executed
        while (slot := self.slots.get(self.executed + 1)) is not None and slot.committed is not None:
            seq, certificate = self.executed + 1, slot.committed
            batch = () if certificate.digest == batch_digest(()) else slot.batches.get(certificate.digest)
            if batch is None:
                self.fetch_batch(ctx, seq, certificate.digest)
                break
            self.keep_batch(ctx, seq, certificate.digest, batch)
            self.save(ctx, done_key(seq), ENCODER.encode(certificate))
            self.run_batch(ctx, seq, certificate, batch)
        if self.executed > before:
            self.watch(ctx, progress=True)
            self.take_early(ctx)
            self.propose_batches(ctx)
            self.retry_views(ctx)
        elif slot is None and self.slots and max(self.slots) > self.executed + 1:
            self.lag(ctx)

    def run_batch(self, ctx: Ctx, seq: int, certificate: Certificate, batch: Batch) -> None:
        """Apply one batch to what is agreed, and tell everybody concerned."""
        assert seq == self.executed + 1
        self.executed = seq
        self.history = sha256(self.history + seq.to_bytes(8, "big") + certificate.digest).digest()
        for request in batch:
            self.settled(request)
            if self.is_member(request.client) and self.clients.execute(request.client, request.number):
                self.index += 1
                if request.kind == COMMAND:
                    ctx.emit(Committed(self.index, request.id, request.client, request.command))
                else:
                    self.executed_command(ctx, request)
            if request.client == ctx.me and not self.is_replaying:
                self.own.pop(request.number, None)
        for waiting in self.pending.values():
            waiting.overtaken += 1
        if not self.is_replaying:
            self.answer(ctx, batch)
            self._tell_observers(ctx, seq, certificate, batch)
            self.executed_batch(ctx, seq, certificate, batch)
        if seq % self.every == 0:
            self.checkpointed(ctx)

    def _tell_observers(self, ctx: Ctx, seq: int, certificate: Certificate, batch: Batch) -> None:
        """Voters take turns: each observer is sent each decision once, and a mute voter costs it only
        every n-th, which it then asks another for."""
        rank = self.configuration.rank.get(ctx.me)
        if rank is None:
            return
        decided = Decided(certificate, batch)
        for place, learner in enumerate(self.membership.learners):
            if (place + seq) % self.configuration.n == rank and learner != ctx.me:
                ctx.send(learner, decided)

    # The timer (§4.4): a backup that waits in vain wants another primary.

    def watch(self, ctx: Ctx, *, progress: bool = False) -> None:
        """Arm the request timer while something waits. progress: a batch was executed."""
        waits = self.is_voter(ctx) and not self.is_changing and self.is_waiting()
        if not waits:
            if self._watching:
                self._watching = False
                ctx.cancel_timer(REQUEST_TIMER)
            return
        if progress:
            self.failed_views = 0
            oldest = next(iter(self.pending.values()), None)
            starved = (
                oldest is not None
                and oldest.overtaken > self.config.patience
                and ctx.now - oldest.since >= self.timeout
            )
            if starved:
                self.suspect(ctx)
                return
        if progress or not self._watching:
            self._watching = True
            ctx.set_timer(REQUEST_TIMER, self.timeout)

    def unwatch(self, ctx: Ctx) -> None:
        """Between views nothing is expected of a primary."""
        if self._watching:
            self._watching = False
            ctx.cancel_timer(REQUEST_TIMER)

    def is_waiting(self) -> bool:
        """Whether a correct primary would have something executed soon."""
        return bool(self.pending) or self.membership.switch > self.executed

    def suspect(self, ctx: Ctx) -> None:
        """The primary had its time."""
        self._watching = False
        if self.is_voter(ctx) and not self.is_changing and self.is_waiting():
            for waiting in self.pending.values():
                waiting.overtaken = 0
            self.change_view(ctx, self.view + 1)


def slot_key(seq: int) -> str:
    """Record of what we stand by for a number."""
    return f"slot/{seq:016d}"


def batch_key(seq: int, digest: bytes) -> str:
    """Record of a batch."""
    return f"batch/{seq:016d}/{digest.hex()}"


def done_key(seq: int) -> str:
    """Record of the certificate by which a number was executed."""
    return f"done/{seq:016d}"
