"""A look: where the log ends, its head and its leader, all as of one revision.

It is the read index: whatever was agreed on before the look was asked stands at or before `tail`, so
who has followed up to there may read. Reads that are asked while one look is under way share the
next one, since theirs must begin after they were asked.
"""

from __future__ import annotations

from typing import Final

import msgspec

from grove_consensus_etcd.api import Answer, Done, Entry, Get, Txn
from grove_consensus_etcd.config import Config
from grove_consensus_etcd.machine.asking import Ctx
from grove_consensus_etcd.machine.following import Following
from grove_core.events import ReadReady, Rejected

LOOK: Final = "look"
PROBE: Final = "probe"


class Look(msgspec.Struct, frozen=True):
    """Purpose: a look on behalf of these reads."""

    reads: tuple[bytes, ...]


class Looking(Following):
    """From where on one may read."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.wanted: dict[bytes, float] = {}
        """Reads no look was taken for yet, or whose look is under way, and until when they wait."""
        self.unread: dict[bytes, tuple[int, float]] = {}
        """Reads that wait until we have followed up to an index, or until a time."""
        self.is_soon = False
        """Whether a look will be taken at the LOOK timer."""

    def want_read(self, ctx: Ctx, id: bytes) -> None:
        """A read as of now or later."""
        _, until = self.unread.pop(id, (0, ctx.now + self.config.patience))
        self.wanted.setdefault(id, until)  # a sibling's retry does not wait longer
        if not self.is_asking(Look):
            self._look_soon(ctx)

    def _look_soon(self, ctx: Ctx) -> None:
        """At the end of this turn, for all reads that are asked in it; later while etcd fails."""
        if not self.is_soon:
            self.is_soon = True
            ctx.set_timer(LOOK, self.pause(ctx) if self.failures else 0.0)

    def look(self, ctx: Ctx) -> None:
        """Nothing if one is under way: what is asked meanwhile gets the next one."""
        if not self.is_linked or self.broken or self.is_asking(Look):
            return
        self.is_soon = False
        ctx.cancel_timer(LOOK)
        layout = self.layout
        keys = (Get(layout.head), Get(layout.tail), Get(layout.leader))
        self.ask(ctx, Look(tuple(self.wanted)), Txn(then=keys))

    def on_answer(self, ctx: Ctx, purpose: object, answer: Answer, asked: float) -> None:
        match purpose, answer:
            case Look(reads), Done(_, _, _, (heads, tails, leaders)):
                self.meet_head(ctx, heads, tails)
                end = tails[0].modified if tails else 0
                for id in reads:
                    until = self.wanted.pop(id, None)
                    if until is not None:
                        self.unread[id] = (end, until)
                self._read_what_may_be(ctx)
                self.meet_leader(ctx, leaders, answer.revision)
                if self.wanted:
                    self._look_soon(ctx)
            case Look(), _:
                if self.wanted:
                    self._look_soon(ctx)
            case _:
                super().on_answer(ctx, purpose, answer, asked)

    def followed_further(self, ctx: Ctx) -> None:
        super().followed_further(ctx)
        self._read_what_may_be(ctx)

    def _read_what_may_be(self, ctx: Ctx) -> None:
        if self.unread:
            for id, (index, _) in tuple(self.unread.items()):
                if index <= self.followed:
                    del self.unread[id]
                    ctx.emit(ReadReady(id, index))

    def give_up_reads(self, ctx: Ctx) -> None:
        """Reject what waited too long. Reads change nothing, so that is always true."""
        for id in [id for id, until in self.wanted.items() if until <= ctx.now]:
            del self.wanted[id]
            ctx.emit(Rejected(id, self.outage(ctx)))
        for id in [id for id, (_, until) in self.unread.items() if until <= ctx.now]:
            del self.unread[id]
            ctx.emit(Rejected(id, self.outage(ctx)))

    def meet_leader(self, ctx: Ctx, leaders: tuple[Entry, ...], revision: int) -> None:  # leading
        raise NotImplementedError
