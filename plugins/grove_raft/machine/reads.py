"""Linearizable reads without the log (§6.4): ReadIndex, and leases.

A leader that has committed in its term notes its commit index, and once a quorum has answered a
heartbeat sent after the question it knows that it was still leader then; the read may happen wherever
everything up to that index is applied. With `reads = "lease"` it need not ask while a quorum answered
a heartbeat sent less than T before, since those voters give nobody a vote until T has passed
for them; T is shortened by how far clocks may drift apart.
"""

from __future__ import annotations

from collections import deque

import msgspec

from grove_core.events import ReadReady, Rejected
from grove_core.machine import PeerId, handles
from grove_raft.machine.losses import Losses
from grove_raft.machine.state import FLUSH, Ctx
from grove_raft.messages import AskRead, ReadAnswer
from grove_raft.progress import Progress


class Question(msgspec.Struct, frozen=True, gc=False):
    """A read that waits at the leader until a quorum has answered a round. peer: who asked; None: we."""

    id: bytes
    peer: PeerId | None
    index: int
    round: int


class Reads(Losses):
    """From where on one may read."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.questions: deque[Question] = deque()
        self.early: deque[tuple[bytes, PeerId | None]] = deque()
        """Questions that came before this leader's first commit (tikv PR#6340)."""
        self.unapplied: dict[bytes, int] = {}
        """Reads of this node that wait until an index is applied here."""
        self._beats: deque[tuple[int, float]] = deque()

    # The leader.

    def ask(self, ctx: Ctx, id: bytes, peer: PeerId | None) -> None:
        """A member wants to read."""
        if len(self.questions) + len(self.early) >= self.config.pending:
            self.answer_read(ctx, id, peer, None, "too many reads wait")
        elif not self.may_read(ctx):
            self.early.append((id, peer))
        elif self.config.reads == "lease" and self.has_lease(ctx):
            self.answer_read(ctx, id, peer, self.commit, "")
        else:
            self.questions.append(Question(id, peer, self.commit, self.round + 1))
            self.flush_soon(ctx)

    def may_read(self, ctx: Ctx) -> bool:
        """Whether the commit index is the true one: not before an entry of this term is committed."""
        return self.commits_in_its_term()

    def has_lease(self, ctx: Ctx) -> bool:
        """Whether nobody else can have been elected by now."""
        if not self.may_lease:
            return False
        confirmed = self.confirmed(ctx)
        lease = self.config.election_timeout * (1.0 - self.config.max_drift)
        sent = next((at for round, at in reversed(self._beats) if round <= confirmed), None)
        return sent is not None and ctx.now - sent < lease

    def confirmed(self, ctx: Ctx) -> int:
        """The newest round that a quorum has answered."""
        rounds = {peer: progress.round for peer, progress in self.progress.items()}
        rounds[ctx.me] = self.round
        return min(self.agreed(rounds), self.round)

    def beat(self, ctx: Ctx) -> None:
        super().beat(ctx)
        beats = self._beats
        beats.append((self.round, ctx.now))
        while beats[0][1] < ctx.now - self.config.election_timeout:
            beats.popleft()
        if self.questions:
            self._confirm(ctx)

    def heard_from(self, ctx: Ctx, peer: PeerId, progress: Progress) -> None:
        super().heard_from(ctx, peer, progress)
        if self.questions and self.standing == "leader":
            self._confirm(ctx)

    def _confirm(self, ctx: Ctx) -> None:
        confirmed = self.confirmed(ctx)
        while self.questions and self.questions[0].round <= confirmed:
            question = self.questions.popleft()
            self.answer_read(ctx, question.id, question.peer, question.index, "")

    def answer_read(
        self, ctx: Ctx, id: bytes, peer: PeerId | None, index: int | None, reason: str
    ) -> None:
        """Tell who asked."""
        if peer is not None:
            self.send(ctx, peer, ReadAnswer(self.log.group, id, index, reason))
        elif index is None:
            ctx.emit(Rejected(id, reason, self._leader if self._leader != ctx.me else None))
        else:
            self.read_from(ctx, id, index)

    def take_office(self, ctx: Ctx) -> None:
        self._beats.clear()
        super().take_office(ctx)

    def leave_office(self, ctx: Ctx) -> None:
        super().leave_office(ctx)
        waiting = [(question.id, question.peer) for question in self.questions] + list(self.early)
        self.questions.clear()
        self.early.clear()
        for id, peer in waiting:
            self.answer_read(ctx, id, peer, None, "the leader stepped down")

    @handles(AskRead)
    def on_ask_read(self, ctx: Ctx, peer: PeerId, msg: AskRead) -> None:
        if not self.is_ours(ctx, peer, msg.group) or peer not in self.log.members.everybody():
            return
        if self.standing == "leader":
            self.ask(ctx, msg.id, peer)
        else:
            self.send(ctx, peer, ReadAnswer(self.log.group, msg.id, None, "not the leader"))

    # Who asked.

    def read_from(self, ctx: Ctx, id: bytes, index: int) -> None:
        """Read here, once everything up to index is applied here."""
        if self.applied >= index:
            ctx.emit(ReadReady(id, index))
        else:
            self.unapplied[id] = index

    def applied_up_to(self, ctx: Ctx) -> None:
        super().applied_up_to(ctx)
        if self.unapplied:
            for id, index in tuple(self.unapplied.items()):
                if index <= self.applied:
                    del self.unapplied[id]
                    ctx.emit(ReadReady(id, index))
        if self.early and self.standing == "leader" and self.may_read(ctx):
            early, self.early = self.early, deque()
            for id, peer in early:
                self.ask(ctx, id, peer)

    def flush_soon(self, ctx: Ctx) -> None:  # proposals
        raise NotImplementedError


__all__ = ["FLUSH", "Question", "Reads"]
