"""Who leads: whoever created the leader's key, for as long as the lease it hangs on is kept alive.

etcd orders everything, so a leader here decides nothing. The state machine above wants one node to
take the lead in what anyone might do (to propose first that a claim has run out), and nothing breaks
if two nodes think they are that one for a while.
"""

from __future__ import annotations

from typing import Final

import msgspec

from grove_consensus_etcd.api import (
    Answer,
    Done,
    Entry,
    Failed,
    Get,
    Grant,
    If,
    KeepAlive,
    Leased,
    Put,
    Request,
    Revoke,
    Txn,
)
from grove_consensus_etcd.config import Config
from grove_consensus_etcd.machine.asking import Ctx
from grove_consensus_etcd.machine.looking import Looking
from grove_core.events import LeaderChanged
from grove_core.machine import PeerId

LEASE: Final = "lease"


class Lease(msgspec.Struct, frozen=True):
    """Purpose: a lease to stand with."""


class Standing(msgspec.Struct, frozen=True):
    """Purpose: being the leader."""


class Staying(msgspec.Struct, frozen=True):
    """Purpose: remaining it."""


class Resigning(msgspec.Struct, frozen=True):
    """Purpose: a lease that is not needed."""


class Leading(Looking):
    """Stands when nobody leads, and stays while etcd says so."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.leads: PeerId | None = None
        self.epoch = 0
        """The revision at which the leader began."""
        self.lease = 0
        self.leased_until = 0.0

    def meet_leader(self, ctx: Ctx, leaders: tuple[Entry, ...], revision: int) -> None:
        """What stands at the leader's key as of a revision."""
        if revision < self.epoch:
            return  # an answer that was overtaken
        if leaders and 1 <= len(leaders[0].value) <= 64:
            self._learn(ctx, PeerId(leaders[0].value), leaders[0].created)
            return
        self._learn(ctx, None, self.epoch)
        if self.config.lead and not leaders and not self._is_busy():
            if self.lease:
                self._stand(ctx)
            else:
                self.ask(ctx, Lease(), Grant(self.config.lease))

    def _is_busy(self) -> bool:
        return self.is_asking(Lease) or self.is_asking(Standing)

    def _stand(self, ctx: Ctx) -> None:
        key = self.layout.leader
        self.ask(
            ctx,
            Standing(),
            Txn((If(key, "created", 0),), (Put(key, ctx.me, self.lease),), (Get(key),)),
        )

    def on_answer(self, ctx: Ctx, purpose: object, answer: Answer, asked: float) -> None:
        match purpose, answer:
            case Lease(), Leased(_, lease, ttl):
                self.lease = lease
                self._extend(ctx, asked, ttl)
                self._stand(ctx)
            case Standing(), Done(_, revision, True):
                self._learn(ctx, ctx.me, revision)
            case Standing(), Done(_, revision, False, found):
                self.meet_leader(ctx, found[0], revision)
                if self.leads != ctx.me and self.lease:
                    self.ask(ctx, Resigning(), Revoke(self.lease))
                    self._lose_lease(ctx)
            case Standing(), Failed("refused"):
                self._lose_lease(ctx)  # it ran out before we stood
            case Staying(), Leased(_, _, ttl) if ttl:
                self._extend(ctx, asked, ttl)
            case Staying(), Leased():
                self._lose_lease(ctx)
            case ((Lease() | Standing() | Staying() | Resigning()), _):
                pass  # the next look, or the timer, tries again
            case _:
                super().on_answer(ctx, purpose, answer, asked)

    def _extend(self, ctx: Ctx, asked: float, ttl: int) -> None:
        self.leased_until = asked + ttl
        ctx.set_timer(LEASE, ttl / 3)

    def on_lease_timer(self, ctx: Ctx) -> None:
        if not self.lease:
            return
        if ctx.now >= self.leased_until:  # etcd may have given it to somebody else by now
            self._lose_lease(ctx)
            return
        if self.is_linked and not self.broken and not self.is_asking(Staying):
            self.ask(ctx, Staying(), KeepAlive(self.lease))
        ctx.set_timer(LEASE, max(0.05, min(self.config.lease / 3, self.leased_until - ctx.now)))

    def _lose_lease(self, ctx: Ctx) -> None:
        self.lease = 0
        ctx.cancel_timer(LEASE)
        if self.leads == ctx.me:
            self._learn(ctx, None, self.epoch)

    def _learn(self, ctx: Ctx, leader: PeerId | None, epoch: int) -> None:
        if epoch < self.epoch:
            return  # an older answer that came later
        if leader == ctx.me and not self.lease:
            leader = None  # an earlier life's lease, which nobody renews
        if (leader, epoch) != (self.leads, self.epoch):
            self.leads, self.epoch = leader, epoch
            ctx.emit(LeaderChanged(leader, epoch))

    def resign(self, ctx: Ctx) -> Request | None:
        """What to ask of the cluster so that somebody else may lead at once."""
        lease = self.lease
        self._lose_lease(ctx)
        return Revoke(lease) if lease else None
