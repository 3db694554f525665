"""Replicas that lie, each in one way of the consensus reference's list (1.2). They sign with their own
keys only: what they cannot forge, they do not have."""

from __future__ import annotations

from typing import Any

import msgspec
from grove_pbft.machine import Pbft
from grove_pbft.messages import (
    CHECKPOINT,
    COMMITTED,
    PREPARED,
    VIEW_CHANGE,
    Certificate,
    Checkpoint,
    Commit,
    Decided,
    Prepare,
    PrePrepare,
    Segment,
    Signature,
    ViewChange,
    batch_digest,
    change_digest,
)

from grove_core.machine import PeerId, Token

OTHER = bytes(range(32))


class MutePrimary(Pbft):
    """Hears everything and proposes nothing."""

    def propose_batches(self, ctx: Any) -> None:
        return


class StarvingPrimary(Pbft):
    """Serves everybody but observers."""

    def propose_batches(self, ctx: Any) -> None:
        for key in [key for key in self.queue if key[0] not in self.configuration.rank]:
            del self.queue[key]
        super().propose_batches(ctx)


class SelectivePrimary(Pbft):
    """Sends its PRE-PREPAREs to the fewest that can prepare them."""

    def broadcast(self, ctx: Any, msg: Any) -> None:
        others = [voter for voter in self.configuration.voters if voter != ctx.me]
        if isinstance(msg, PrePrepare):
            others = others[: self.configuration.quorum - 1]
        for voter in others:
            ctx.send(voter, msg)


class EquivocatingPrimary(Pbft):
    """Gives one number to two batches: the first half of the backups hears of one, the rest of the
    other."""

    def broadcast(self, ctx: Any, msg: Any) -> None:
        if not isinstance(msg, PrePrepare) or not msg.batch:
            super().broadcast(ctx, msg)
            return
        signature = self.signed(ctx, PREPARED, msg.view, msg.seq, batch_digest(()))
        other = msgspec.structs.replace(msg, batch=(), signature=signature)
        voters = [voter for voter in self.configuration.voters if voter != ctx.me]
        for place, voter in enumerate(voters):
            ctx.send(voter, msg if place < len(voters) // 2 else other)


class EquivocatingVoter(Pbft):
    """Votes for what was proposed towards some, for something else towards others."""

    def broadcast(self, ctx: Any, msg: Any) -> None:
        if not isinstance(msg, Prepare | Commit):
            super().broadcast(ctx, msg)
            return
        kind = PREPARED if isinstance(msg, Prepare) else COMMITTED
        signature = self.signed(ctx, kind, msg.view, msg.seq, OTHER)
        other = msgspec.structs.replace(msg, digest=OTHER, signature=signature)
        for place, voter in enumerate(self.configuration.voters):
            if voter != ctx.me:
                ctx.send(voter, other if place % 2 else msg)


class BadCheckpoints(Pbft):
    """Claims another history at every checkpoint."""

    def checkpointed(self, ctx: Any) -> None:
        super().checkpointed(ctx)
        seq, name = self.executed, self.configuration.name
        signature = self.signed(ctx, CHECKPOINT, 0, seq, OTHER)
        self.broadcast(ctx, Checkpoint(name, seq, OTHER, ctx.me, signature))


class Replayer(Pbft):
    """Sends again, now and then, what it was sent long ago."""

    def on_message(self, ctx: Any, peer: PeerId, msg: Any) -> None:
        old = self.__dict__.setdefault("old", [])
        old.append(msg)
        del old[:-400]
        if ctx.rng.random() < 0.3:
            for voter in self.configuration.voters:
                if voter != ctx.me:
                    ctx.send(voter, ctx.rng.choice(old))
        super().on_message(ctx, peer, msg)


class Forger(MutePrimary):
    """Brings about a change of views by saying nothing, and claims, in each VIEW-CHANGE, to have
    prepared what nobody else signed; by its own keys alone."""

    def broadcast(self, ctx: Any, msg: Any) -> None:
        if isinstance(msg, ViewChange) and msg.voter == ctx.me:
            mine = Signature(ctx.me, self.signed(ctx, PREPARED, 0, msg.stable + 1, OTHER))
            forged = Certificate(self.configuration.name, 0, msg.stable + 1, OTHER, (mine,))
            draft = msgspec.structs.replace(msg, prepared=(forged,))
            signed = self.signed(ctx, VIEW_CHANGE, msg.view, msg.stable, change_digest(draft))
            msg = msgspec.structs.replace(draft, signature=signed)
        super().broadcast(ctx, msg)


class ViewChanger(Pbft):
    """Wants another view, all the time."""

    def on_message(self, ctx: Any, peer: PeerId, msg: Any) -> None:
        super().on_message(ctx, peer, msg)
        if type(msg).__name__ in ("ViewChange", "NewView"):
            return  # two of its kind would talk to each other for ever
        wanted = self.__dict__.setdefault("wanted", [0])
        wanted[0] += 1
        draft = ViewChange(
            self.configuration.name, wanted[0], self.membership.base, OTHER, (), (), ctx.me, b""
        )
        signed = self.signed(ctx, VIEW_CHANGE, wanted[0], draft.stable, change_digest(draft))
        self.broadcast(ctx, msgspec.structs.replace(draft, signature=signed))


class BadServer(Pbft):
    """Answers who catches up with the right certificates and the wrong batches."""

    def on_request(self, ctx: Any, peer: PeerId, msg: Any, token: Token) -> None:
        if type(msg).__name__ == "CatchUp":
            segment = self._segment(ctx, msg)
            wrong = tuple(Decided(one.certificate, ()) for one in segment.decided)
            ctx.reply(token, Segment(segment.executed, segment.stable, wrong, segment.offer))
        else:
            super().on_request(ctx, peer, msg, token)


BYZANTINE = (
    MutePrimary,
    SelectivePrimary,
    EquivocatingPrimary,
    EquivocatingVoter,
    BadCheckpoints,
    Replayer,
    Forger,
    ViewChanger,
    BadServer,
)
