"""Checkpoints (PBFT §4.3), and the states that let a group forget.

Every K batches each voter says what its history and tables hash to; a quorum of equal CHECKPOINTs makes
the checkpoint stable: the window moves, and the log up to it goes. Every `snapshot_every` batches the
state machine is asked for its state (SnapshotAsked); a quorum of equal VOUCHes for it lets go what was
kept to bring others up to date. If no state machine answers for `history` batches, an empty state takes
its place.

Invariants:
1. The window moves only by a certificate, or to where a configuration begins.
2. What is offered to others is certified by the voters of the configuration that its root names.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from grove_core.events import Restored, SnapshotAsked, SnapshotTaken
from grove_core.machine import PeerId, handles
from grove_pbft.config import Config
from grove_pbft.log import Votes
from grove_pbft.machine.ordering import ENCODER, Ordering, batch_key, done_key, slot_key
from grove_pbft.machine.replica import Ctx, root_digest
from grove_pbft.messages import (
    CHECKPOINT,
    DOMAIN,
    STATE,
    Certificate,
    Checkpoint,
    Handover,
    Root,
    Vouch,
    statement,
)
from grove_pbft.quorum import Configuration
from grove_pbft.table import ClientTable, Row

STATE_KEY: Final = "state"
STABLE_KEY: Final = "stable"
DONE: Final = "done/"
HANDOVER: Final = "handover/"


class Snapshot(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A state that a replica can begin from: what a VOUCH hashes."""

    root: Root
    clients: Annotated[tuple[Row, ...], Meta(max_length=8192)]
    state: bytes


class Vouched(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A snapshot, encoded, and the certificate of the VOUCHes for it."""

    certificate: Certificate
    body: bytes


class Parting:
    """The configuration before ours, until its last checkpoint is certified."""

    __slots__ = ("configuration", "root", "votes")

    def __init__(self, configuration: Configuration, root: Root, votes: Votes) -> None:
        self.configuration = configuration
        self.root = root
        self.votes = votes


class Checkpoints(Ordering):
    """Stable checkpoints and certified states."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.checkpoints: dict[int, Votes] = {}
        """Votes by number, for the checkpoints within two windows."""
        self.roots: dict[int, bytes] = {}
        """Our own digests of checkpoints that are not stable yet."""
        self.farthest: dict[PeerId, int] = {}
        """The highest checkpoint each voter spoke of beyond those."""
        self.candidate: tuple[Root, tuple[Row, ...]] | None = None
        """What a state that was asked for will be joined with."""
        self.body = b""
        """The candidate's snapshot, encoded, once there is a state."""
        self.vouches: dict[int, Votes] = {}
        """Votes for states: at most for the four latest numbers."""
        self.vouched: Certificate | None = None
        """Of the state that is kept: record "state"."""
        self.vouched_size = 0
        self.vouched_number = 0
        """Its size, and the configuration whose voters vouched for it."""
        self.floor = 0
        """Batches up to here are not kept."""
        self.parting: Parting | None = None

    # At every K-th batch.

    def checkpointed(self, ctx: Ctx) -> None:
        """`executed` is a checkpoint: changes of members take effect, then everybody says where it is."""
        seq = self.executed
        before = self.configuration
        is_switch = self.membership.switch == seq
        if is_switch:
            self.switch_members(ctx)  # decides only what the root says from here on
        root = self.root()
        digest = root_digest(root)
        self.roots[seq] = digest
        is_heard = before.rank.get(ctx.me) is not None and not self.is_diverged and not self.loss
        if is_heard and not self.is_replaying:
            signature = ctx.sign(statement(CHECKPOINT, before.name, 0, seq, digest))
            self.checkpoints.setdefault(seq, Votes()).add(ctx.me, 0, digest, signature)
            msg = Checkpoint(before.name, seq, digest, ctx.me, signature)
            for voter in before.voters:
                if voter != ctx.me:
                    ctx.send(voter, msg)
        if is_switch and self.membership.number != before.number:
            votes = self.checkpoints.pop(seq, Votes())
            self.parting = Parting(before, root, votes)
            self.enter_configuration(ctx)
            self._certify_handover(ctx)
        elif ctx.me in before.rank:
            self._check_stable(ctx, seq)
        else:  # an observer votes on nothing, so nobody moves its window for it
            self.stable, self.stable_proof = seq, None
            self.forget_log(ctx)
        if seq % self.config.snapshot_every == 0:
            self._ask_for_state(ctx, root)

    @handles(Checkpoint)
    def on_checkpoint(self, ctx: Ctx, peer: PeerId, msg: Checkpoint) -> None:
        parting = self.parting
        if parting is not None and msg.configuration == parting.configuration.name:
            if msg.seq == parting.root.seq and msg.voter in parting.configuration.rank:
                parting.votes.add(msg.voter, 0, msg.digest, msg.signature)
                self._certify_handover(ctx)
            return
        if msg.configuration != self.configuration.name:
            self.of_another_configuration(ctx, peer, msg)
            return
        if msg.voter not in self.configuration.rank or msg.seq % self.every or msg.seq <= self.behind:
            return
        if msg.seq > self.stable + 2 * self.window:
            if msg.seq > self.farthest.get(msg.voter, 0):
                self.farthest[msg.voter] = msg.seq
                if len(self.farthest) >= self.configuration.weak:
                    self.lag(ctx)
            return
        votes = self.checkpoints.setdefault(msg.seq, Votes())
        if votes.add(msg.voter, 0, msg.digest, msg.signature):
            self._check_stable(ctx, msg.seq)

    def _check_stable(self, ctx: Ctx, seq: int) -> None:
        votes = self.checkpoints.get(seq)
        if votes is None or seq <= self.behind:
            return
        for digest in votes.said(0):
            signatures = votes.of(0, digest)
            if len(signatures) >= self.configuration.quorum:
                certificate = self.configuration.certificate(0, seq, digest, signatures, None)
                self.stabilise(ctx, certificate)
                return

    def stabilise(self, ctx: Ctx, certificate: Certificate) -> None:
        """A quorum stands at this checkpoint: the window begins there, the log before it goes."""
        seq = certificate.seq
        if seq <= self.behind:
            return
        mine = self.roots.get(seq)
        if mine is not None and mine != certificate.digest:
            self.is_diverged = True
            return
        self.stable, self.stable_proof = seq, certificate
        self.save(ctx, STABLE_KEY, ENCODER.encode(certificate))
        self.last_proposed = max(self.last_proposed, seq)
        self.forget_log(ctx)
        if self.executed < seq:
            self.lag(ctx, now=True)
        self.take_early(ctx)
        for near in sorted(self.slots):
            self.check_prepared(ctx, near)
        self.propose_batches(ctx)

    @property
    def is_proven(self) -> bool:
        """Whether others can check that our log begins where it does. Not yet if that is a state we
        fetched: it was certified as a state, and a VIEW-CHANGE cites checkpoints."""
        proof = self.stable_proof
        return self.stable == self.membership.base or (proof is not None and proof.seq == self.stable)

    @property
    def behind(self) -> int:
        """Checkpoints up to this number are no news."""
        return self.stable if self.is_proven else self.stable - 1

    def forget_log(self, ctx: Ctx) -> None:
        """Drop what is behind the window, except what we have yet to execute."""
        behind = min(self.stable, self.executed)
        for seq in [seq for seq in self.slots if seq <= behind]:
            slot = self.slots.pop(seq)
            self.save(ctx, slot_key(seq), None)
            done = slot.committed.digest if slot.committed is not None else b""
            for digest, batch in slot.batches.items():
                if digest != done and batch:
                    self.save(ctx, batch_key(seq, digest), None)
        for table in (self.checkpoints, self.roots):
            for seq in [seq for seq in table if seq <= self.stable]:
                del table[seq]
        for voter in [v for v, seq in self.farthest.items() if seq <= self.stable + 2 * self.window]:
            del self.farthest[voter]

    # States.

    def _ask_for_state(self, ctx: Ctx, root: Root) -> None:
        self.candidate = (root, self.clients.rows())
        self.body = b""
        ctx.emit(SnapshotAsked(root.index))
        if root.seq - self.floor >= self.config.history:
            self._have_state(ctx, b"")

    @handles(SnapshotTaken)
    def on_snapshot_taken(self, ctx: Ctx, event: SnapshotTaken) -> None:
        if self.candidate is not None and event.index == self.candidate[0].index and not self.body:
            self._have_state(ctx, event.state)

    def _have_state(self, ctx: Ctx, state: bytes) -> None:
        if self.candidate is None or self.is_replaying:
            return
        body = ENCODER.encode(Snapshot(*self.candidate, state))
        if len(body) > self.config.max_state - 64 * 1024:  # room for its certificate
            return
        self.body = body
        seq = self.candidate[0].seq
        digest = state_digest(body)
        configuration = self.configuration
        if self.candidate[0].membership.number != configuration.number or not self.is_voter(ctx):
            self._check_vouched(ctx, seq)
            return
        signature = self.signed(ctx, STATE, 0, seq, digest)
        self._vouches(seq).add(ctx.me, 0, digest, signature)
        msg = Vouch(configuration.name, seq, digest, ctx.me, signature)
        self.broadcast(ctx, msg)
        for learner in self.membership.learners:
            if learner != ctx.me:
                ctx.send(learner, msg)
        self._check_vouched(ctx, seq)

    @handles(Vouch)
    def on_vouch(self, ctx: Ctx, peer: PeerId, msg: Vouch) -> None:
        if msg.configuration != self.configuration.name:
            self.of_another_configuration(ctx, peer, msg)
            return
        if msg.voter not in self.configuration.rank or msg.seq % self.config.snapshot_every:
            return
        if msg.seq <= self.floor or abs(msg.seq - self.executed) > 2 * self.config.snapshot_every:
            return
        if self._vouches(msg.seq).add(msg.voter, 0, msg.digest, msg.signature):
            self._check_vouched(ctx, msg.seq)

    def _vouches(self, seq: int) -> Votes:
        votes = self.vouches.setdefault(seq, Votes())
        while len(self.vouches) > 4:
            del self.vouches[min(self.vouches)]
        return votes

    def _check_vouched(self, ctx: Ctx, seq: int) -> None:
        """A quorum vouches for the state that we hold: what is older can go."""
        if not self.body or self.candidate is None or self.candidate[0].seq != seq or seq <= self.floor:
            return
        digest = state_digest(self.body)
        votes = self.vouches.get(seq, Votes()).of(0, digest)
        if len(votes) >= self.configuration.quorum:
            certificate = self.configuration.certificate(0, seq, digest, votes, None)
            self.keep_state(ctx, certificate, self.body)
            self.candidate, self.body = None, b""

    def keep_state(self, ctx: Ctx, certificate: Certificate, body: bytes) -> None:
        """Make a certified state durable, then drop the batches that it stands for."""
        self.vouched, self.vouched_size = certificate, len(body)
        self.vouched_number = msgspec.msgpack.decode(body, type=Snapshot).root.membership.number
        ctx.save(STATE_KEY, ENCODER.encode(Vouched(certificate, body)))
        for key in ctx.saved(DONE):
            seq = int(key[len(DONE) :])
            if seq > certificate.seq:
                break
            ctx.save(done_key(seq), None)
        for key in ctx.saved("batch/"):
            if int(key.split("/")[1]) > certificate.seq:
                break
            ctx.save(key, None)
        self.floor = certificate.seq

    def body_kept(self, ctx: Ctx) -> bytes:
        """The certified state, encoded; empty if there is none."""
        vouched = load(ctx, STATE_KEY, Vouched)
        return b"" if vouched is None else vouched.body

    def install(self, ctx: Ctx, snapshot: Snapshot) -> None:
        """Begin from a certified state. Whoever applies commands is told."""
        root = snapshot.root
        self.executed, self.index, self.history = root.seq, root.index, root.history
        self.clients = ClientTable.of(snapshot.clients)
        self.drop_executed(ctx)
        self.membership = root.membership
        self.candidate, self.body = None, b""
        self.floor = root.seq
        ctx.emit(Restored(root.index, snapshot.state))

    # From one configuration to the next.

    def _certify_handover(self, ctx: Ctx) -> None:
        parting = self.parting
        if parting is None:
            return
        votes = parting.votes.of(0, root_digest(parting.root))
        if len(votes) >= parting.configuration.quorum:
            self.parting = None
            certificate = parting.configuration.certificate(
                0, parting.root.seq, root_digest(parting.root), votes, None
            )
            self.keep_handover(ctx, Handover(parting.root, certificate))

    def keep_handover(self, ctx: Ctx, handover: Handover) -> None:
        """Remember how a configuration named its successor, for those who were away."""
        number = handover.root.membership.number
        self.save(ctx, handover_key(number), ENCODER.encode(handover))
        if number > self.config.handovers:
            self.save(ctx, handover_key(number - self.config.handovers), None)

    def enter_configuration(self, ctx: Ctx) -> None:
        raise NotImplementedError


def load(ctx: Ctx, key: str, kind: Any) -> Any:
    """A record of ours, or None. What we wrote ourselves is as we wrote it."""
    data = ctx.load(key)
    return None if data is None else msgspec.msgpack.decode(data, type=kind)


def state_digest(body: bytes) -> bytes:
    """What a VOUCH signs."""
    return sha256(DOMAIN + b"state:" + body).digest()


def handover_key(number: int) -> str:
    """Record of how configuration `number` came to be."""
    return f"{HANDOVER}{number:016d}"
