"""Proposals: each becomes a key that is created once.

    if    the key is not there, and the head is the one under which we append
    then  create it, and write the tail
    else  look at the key, the head and the tail

So a proposal may be tried as often as need be, at any member, whatever became of earlier tries, also
of one that is still on its way: if the key is there it was agreed on already, and if the head is
another, the log may have been trimmed, and before the next try everything is heard up to there
(invariant 2).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import msgspec

from grove_consensus_etcd.api import Answer, Done, Failed, Get, If, Put, Txn
from grove_consensus_etcd.config import Config
from grove_consensus_etcd.layout import MAX_COMMAND
from grove_consensus_etcd.machine.asking import RETRY, Ctx
from grove_consensus_etcd.machine.leading import Leading
from grove_core.errors import LocalProtocolError
from grove_core.events import Proposed, ReadAsked, Rejected
from grove_core.machine import PeerId, handles

GIVE_UP: Final = "give up"

TICKS: Final = 8
"""Looks for what waited too long, per patience."""


class Append(msgspec.Struct, frozen=True):
    """Purpose: a proposal."""

    id: bytes


class Proposal(msgspec.Struct):
    """What waits. is_sent: some try may have taken place. is_agreed: one has, and will be heard."""

    command: bytes
    until: float
    is_asked: bool = False
    is_sent: bool = False
    is_agreed: bool = False


class Appending(Leading):
    """What this node wants agreed on."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.proposals: dict[bytes, Proposal] = {}
        self.asked_now = 0
        self.is_waiting = False
        """After a failure, until RETRY."""
        self._count_of_ids = 0
        self._is_ticking = False

    # The role.

    def propose(self, ctx: Ctx, command: bytes) -> bytes:
        """Want a command agreed on; at most 1 MiB. Returns its id, 16 bytes.

        The outcome is an event: Committed, Rejected (it will never be), or none (unknown).
        """
        id = self._new_id(ctx)
        self._want(ctx, id, command)
        return id

    def read(self, ctx: Ctx) -> bytes:
        """Ask for a linearizable read. Returns its id, 16 bytes; answered by ReadReady, after every
        Committed up to its index, or by Rejected."""
        id = self._new_id(ctx)
        self._want_read(ctx, id)
        return id

    @handles(Proposed)
    def on_proposed(self, ctx: Ctx, event: Proposed) -> None:
        try:
            self._want(ctx, event.id, event.command)
        except LocalProtocolError as error:  # a sibling asked, not a person: the answer is an event
            ctx.emit(Rejected(event.id, str(error)))

    @handles(ReadAsked)
    def on_read_asked(self, ctx: Ctx, event: ReadAsked) -> None:
        self._want_read(ctx, event.id)

    def _new_id(self, ctx: Ctx) -> bytes:
        """16 bytes that this node makes once in all its lives."""
        self._count_of_ids += 1
        name = b"grove/etcd/id:%d:%d:" % (self.life, self._count_of_ids)
        return sha256(name + ctx.me).digest()[:16]

    def _want(self, ctx: Ctx, id: bytes, command: bytes) -> None:
        if len(id) != 16:
            raise LocalProtocolError(f"id of {len(id)} bytes; it must have 16")
        if len(command) > MAX_COMMAND:
            raise LocalProtocolError(
                f"command of {len(command)} bytes; limit {MAX_COMMAND}. Store it and propose its hash"
            )
        if id not in self.proposals:  # else a sibling's retry, and it is being tried
            if self._is_refused(ctx, id):
                return
            self.proposals[id] = Proposal(command, ctx.now + self.config.patience)
        self._tick(ctx)
        self.flush(ctx)

    def _want_read(self, ctx: Ctx, id: bytes) -> None:
        if not self._is_refused(ctx, id):
            self.want_read(ctx, id)
            self._tick(ctx)

    def _is_refused(self, ctx: Ctx, id: bytes) -> bool:
        count = len(self.proposals) + len(self.wanted) + len(self.unread)
        reason = self.broken
        if count >= self.config.pending:
            reason = f"{count} proposals and reads of this node wait (plugins.etcd.pending)"
        if reason:
            ctx.emit(Rejected(id, reason))
        return bool(reason)

    # Trying.

    def flush(self, ctx: Ctx) -> None:
        """Try what waits, as much at once as `inflight` allows."""
        if not self.is_linked or self.is_waiting or self.broken or self.under is None or self.newer:
            return
        if self.asked_now >= self.config.inflight:
            return
        for id, proposal in self.proposals.items():
            if not proposal.is_asked and not proposal.is_agreed:
                self._try(ctx, id, proposal)
                if self.asked_now >= self.config.inflight:
                    return

    def _try(self, ctx: Ctx, id: bytes, proposal: Proposal) -> None:
        assert self.under is not None
        layout = self.layout
        key = layout.entry(ctx.me, id)
        proposal.is_asked = True
        self.asked_now += 1
        self.ask(
            ctx,
            Append(id),
            Txn(
                (If(key, "created", 0), If(layout.head, "modified", self.under)),
                (Put(key, proposal.command), Put(layout.tail, b"")),
                (Get(key, keys_only=True), Get(layout.head), Get(layout.tail)),
            ),
        )

    def on_answer(self, ctx: Ctx, purpose: object, answer: Answer, asked: float) -> None:
        if not isinstance(purpose, Append):
            super().on_answer(ctx, purpose, answer, asked)
            return
        self.asked_now -= 1
        proposal = self.proposals.get(purpose.id)
        if proposal is not None:
            proposal.is_asked = False
        if isinstance(answer, Done):
            self._done(ctx, answer, proposal)
        elif isinstance(answer, Failed):
            self._failed(ctx, purpose.id, answer, proposal)
        self.flush(ctx)

    def _done(self, ctx: Ctx, done: Done, proposal: Proposal | None) -> None:
        if done.succeeded:
            agreed = done.revision
        else:
            entries, heads, tails = done.found
            self.meet_head(ctx, heads, tails)
            agreed = entries[0].created if entries else 0
        if agreed:
            self.expect(ctx, agreed)
            if proposal is not None:
                proposal.is_agreed = True

    def _failed(self, ctx: Ctx, id: bytes, failed: Failed, proposal: Proposal | None) -> None:
        if failed.kind == "refused":
            if proposal is not None:
                del self.proposals[id]
                if not proposal.is_sent:
                    ctx.emit(Rejected(id, self.broken or f"etcd refuses: {failed.reason}"))
            return
        if failed.kind == "unknown" and proposal is not None:
            proposal.is_sent = True
        self.is_waiting = True
        ctx.set_timer(RETRY, self.pause(ctx))

    # Outcomes.

    def committed(self, ctx: Ctx, proposer: PeerId, id: bytes) -> None:
        super().committed(ctx, proposer, id)
        if proposer == ctx.me:
            self.proposals.pop(id, None)

    def followed_further(self, ctx: Ctx) -> None:
        super().followed_further(ctx)
        self.flush(ctx)

    def restore(self, ctx: Ctx, index: int, state: bytes) -> None:
        """What may have taken place may be in the state, or not: nothing more is said about it."""
        for id in [
            id for id, one in self.proposals.items() if one.is_sent or one.is_agreed or one.is_asked
        ]:
            del self.proposals[id]
        super().restore(ctx, index, state)

    def _tick(self, ctx: Ctx) -> None:
        if not self._is_ticking:
            self._is_ticking = True
            ctx.set_timer(GIVE_UP, self.config.patience / TICKS)

    def on_give_up_timer(self, ctx: Ctx) -> None:
        """Stop trying what waited too long: rejected if it never left us, else nothing can be said."""
        for id in [id for id, one in self.proposals.items() if one.until <= ctx.now or self.broken]:
            one = self.proposals.pop(id)
            if not (one.is_sent or one.is_agreed or one.is_asked):
                ctx.emit(Rejected(id, self.outage(ctx)))
        self.give_up_reads(ctx)
        self._is_ticking = False
        if self.proposals or self.wanted or self.unread:
            self._tick(ctx)
