"""Commands and reads on their way to the leader, and many of them into one append (§6.2, §10.2.2).

What is proposed in one turn is appended, sent and saved together: one message to each follower and one
write, however many commands. A member that does not lead forwards; while no leader is known,
things wait a while. A refusal is definite. What was on its way to a leader that fell silent is
unknown, so nothing is said: whoever proposed tries again with the same id.
"""

from __future__ import annotations

from hashlib import sha256

from grove_core.errors import LocalProtocolError
from grove_core.events import Proposed, ReadAsked, Rejected
from grove_core.machine import PeerId, handles
from grove_raft.log import weight
from grove_raft.machine.reads import Reads
from grove_raft.machine.state import FLUSH, TIDY, Ctx
from grove_raft.messages import (
    COMMAND,
    MAX_COMMAND,
    AskRead,
    Entry,
    Forward,
    Proposal,
    ReadAnswer,
    Refused,
)


class Proposals(Reads):
    """What members want, and what becomes of it."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.batch: list[tuple[PeerId, Proposal]] = []
        """What the leader appends at the end of this turn."""
        self.batch_bytes = 0
        self.waiting: dict[bytes, tuple[Proposal | None, float]] = {}
        """What waits for a leader until a time: proposals, and reads (None)."""
        self.outgoing: list[Proposal] = []
        """What is forwarded at the end of this turn."""
        self.asked: dict[bytes, tuple[bool, float]] = {}
        """What the leader was sent: whether it is a read, and until when an answer may come."""
        self._life = 0
        self._count_of_ids = 0
        self._is_flushing = False

    # The role.

    def propose(self, ctx: Ctx, command: bytes) -> bytes:
        """Want a command agreed on; at most 1 MiB. Returns its id, 16 bytes.

        The outcome is an event: Committed, Rejected (it will never be), or none (unknown).
        """
        id = self.new_id(ctx)
        self.want(ctx, id, command)
        return id

    def read(self, ctx: Ctx) -> bytes:
        """Ask for a linearizable read. Returns its id, 16 bytes; answered by ReadReady, which is emitted
        only after everything up to its index was Committed here, or by Rejected."""
        id = self.new_id(ctx)
        self.want_read(ctx, id)
        return id

    @handles(Proposed)
    def on_proposed(self, ctx: Ctx, event: Proposed) -> None:
        try:
            self.want(ctx, event.id, event.command)
        except LocalProtocolError as error:  # a sibling asked, not a person: the answer is an event
            ctx.emit(Rejected(event.id, str(error)))

    @handles(ReadAsked)
    def on_read_asked(self, ctx: Ctx, event: ReadAsked) -> None:
        try:
            self.want_read(ctx, event.id)
        except LocalProtocolError as error:
            ctx.emit(Rejected(event.id, str(error)))

    def new_id(self, ctx: Ctx) -> bytes:
        """16 bytes that this node makes once in all its lives."""
        self._count_of_ids += 1
        name = b"grove/raft/id:%d:%d:" % (self._life, self._count_of_ids)
        return sha256(name + ctx.me).digest()[:16]

    def want(self, ctx: Ctx, id: bytes, command: bytes) -> None:
        self.check_member(ctx)
        if len(command) > MAX_COMMAND:
            raise LocalProtocolError(
                f"command of {len(command)} bytes; limit {MAX_COMMAND}. Store it and propose its hash"
            )
        proposal = Proposal(id, command)
        if self.standing == "leader":
            self.admit(ctx, ctx.me, proposal)
        elif len(self.waiting) + len(self.asked) >= self.config.pending:
            ctx.emit(Rejected(id, "too many proposals wait", self._leader))
        elif self._leader is None or self._leader not in self.up:
            self._wait(ctx, id, proposal)
        else:
            self._pass_on(ctx, id, proposal)

    def want_read(self, ctx: Ctx, id: bytes) -> None:
        self.check_member(ctx)
        if self.standing == "leader":
            self.ask(ctx, id, None)
        elif len(self.waiting) + len(self.asked) + len(self.unapplied) >= self.config.pending:
            ctx.emit(Rejected(id, "too many reads wait", self._leader))
        elif self._leader is None or self._leader not in self.up:
            self._wait(ctx, id, None)
        else:
            self._pass_on(ctx, id, None)

    # The leader.

    def admit(self, ctx: Ctx, proposer: PeerId, proposal: Proposal) -> None:
        """Append at the end of this turn, or refuse."""
        reason = self._why_not(ctx)
        if reason:
            self.refuse(ctx, proposer, proposal.id, reason)
            return
        self.batch.append((proposer, proposal))
        self.batch_bytes += len(proposal.command)
        self.flush_soon(ctx)

    def _why_not(self, ctx: Ctx) -> str:
        config, log = self.config, self.log
        if self.transfer_ is not None:
            return "leadership is being handed over"
        if log.last_index - self.commit + len(self.batch) >= config.uncommitted_entries:
            return f"{config.uncommitted_entries} entries are not committed yet"
        if self.uncommitted_bytes + self.batch_bytes >= config.uncommitted_bytes:
            return f"{config.uncommitted_bytes} bytes are not committed yet"
        if log.bytes + self.batch_bytes >= config.log_bytes:
            return f"the log holds {log.bytes} bytes and nobody takes snapshots (raft.log_bytes)"
        return ""

    def refuse(self, ctx: Ctx, proposer: PeerId, id: bytes, reason: str) -> None:
        if proposer == ctx.me:
            ctx.emit(Rejected(id, reason, self._leader if self._leader != ctx.me else None))
        else:
            self.send(ctx, proposer, Refused(self.log.group, id, reason))

    def flush_soon(self, ctx: Ctx) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            ctx.set_timer(FLUSH, 0.0)

    def on_flush_timer(self, ctx: Ctx) -> None:
        """The end of a turn: append what was proposed, ask the quorum for those who read."""
        self._is_flushing = False
        if self.outgoing:
            self._forward(ctx)
        if self.standing != "leader":
            return
        if self.batch:
            batch, self.batch, self.batch_bytes = self.batch, [], 0
            term = self.log.term
            self.append_own(
                ctx, [Entry(term, COMMAND, p.id, proposer, p.command) for proposer, p in batch]
            )
        if self.standing == "leader" and self.questions and self.questions[-1].round > self.round:
            self.beat(ctx)

    @handles(Forward)
    def on_forward(self, ctx: Ctx, peer: PeerId, msg: Forward) -> None:
        if not self.is_ours(ctx, peer, msg.group) or peer not in self.log.members.everybody():
            return
        for proposal in msg.proposals:
            if self.standing == "leader":
                self.admit(ctx, peer, proposal)
            else:
                self.send(ctx, peer, Refused(self.log.group, proposal.id, "not the leader"))

    def leave_office(self, ctx: Ctx) -> None:
        super().leave_office(ctx)
        batch, self.batch, self.batch_bytes = self.batch, [], 0
        for proposer, proposal in batch:
            self.refuse(ctx, proposer, proposal.id, "the leader stepped down")
        self.uncommitted_bytes = 0

    # Everybody else.

    def _wait(self, ctx: Ctx, id: bytes, proposal: Proposal | None) -> None:
        if not self.waiting and not self.asked:
            ctx.set_timer(TIDY, self.config.wait_for_leader / 4)
        self.waiting[id] = (proposal, ctx.now + self.config.wait_for_leader)

    def _pass_on(self, ctx: Ctx, id: bytes, proposal: Proposal | None) -> None:
        if not self.waiting and not self.asked:
            ctx.set_timer(TIDY, self.config.wait_for_leader / 4)
        self.asked[id] = (proposal is None, ctx.now + self.config.wait_for_leader)
        if proposal is not None:
            self.outgoing.append(proposal)
            self.flush_soon(ctx)
        elif self._leader is not None:
            self.send(ctx, self._leader, AskRead(self.log.group, id))

    def _forward(self, ctx: Ctx) -> None:
        outgoing, self.outgoing = self.outgoing, []
        leader = self._leader
        if self.standing == "leader":
            for proposal in outgoing:
                self.asked.pop(proposal.id, None)
                self.admit(ctx, ctx.me, proposal)
            return
        if leader is None or leader not in self.up:
            for proposal in outgoing:
                self.asked.pop(proposal.id, None)
                self._wait(ctx, proposal.id, proposal)
            return
        group: list[Proposal] = []
        size = 0
        for proposal in outgoing:
            cost = len(proposal.command) + 64
            if group and (size + cost > self.config.append_bytes or len(group) >= 1024):
                self.send(ctx, leader, Forward(self.log.group, tuple(group)))
                group, size = [], 0
            group.append(proposal)
            size += cost
        self.send(ctx, leader, Forward(self.log.group, tuple(group)))

    def meet_leader(self, ctx: Ctx) -> None:
        """A leader is known: what waited goes there. What an earlier one was sent is unknown."""
        self.asked = {}
        self._send_waiting(ctx)

    def _send_waiting(self, ctx: Ctx) -> None:
        if self._leader is None or (self.standing != "leader" and self._leader not in self.up):
            return
        waiting, self.waiting = self.waiting, {}
        for id, (proposal, _) in waiting.items():
            if proposal is not None:
                self.want(ctx, id, proposal.command)
            else:
                self.want_read(ctx, id)

    def on_tidy_timer(self, ctx: Ctx) -> None:
        """Give up what waited too long: unsent, it is rejected; a read without an answer too."""
        for id, (_, deadline) in tuple(self.waiting.items()):
            if deadline <= ctx.now:
                del self.waiting[id]
                ctx.emit(Rejected(id, f"no leader for {self.config.wait_for_leader} s"))
        for id, (is_read, deadline) in tuple(self.asked.items()):
            if deadline <= ctx.now:
                del self.asked[id]
                if is_read:
                    ctx.emit(Rejected(id, "the leader does not answer", self._leader))
        if self.waiting or self.asked:
            ctx.set_timer(TIDY, self.config.wait_for_leader / 4)

    @handles(Refused)
    def on_refused(self, ctx: Ctx, peer: PeerId, msg: Refused) -> None:
        if self.is_ours(ctx, peer, msg.group) and self.asked.pop(msg.id, (True, 0.0))[0] is False:
            ctx.emit(Rejected(msg.id, msg.reason, self._leader))

    @handles(ReadAnswer)
    def on_read_answer(self, ctx: Ctx, peer: PeerId, msg: ReadAnswer) -> None:
        if not self.is_ours(ctx, peer, msg.group) or peer != self._leader:
            return
        if self.asked.pop(msg.id, (False, 0.0))[0] is False:
            return
        if msg.index is None:
            ctx.emit(Rejected(msg.id, msg.reason, self._leader))
        else:
            self.read_from(ctx, msg.id, msg.index)


__all__ = ["Proposals", "weight"]
