"""Linearizable reads: in the order, or by asking a quorum (PBFT §5.1.3, mended).

PBFT's read-only optimisation lets a client compare 2f + 1 answers; Berger, Reiser and Bessani (SRDS
2021, arXiv 2107.11144) show how a faulty primary can use it to block correct clients for ever. Here
nothing in the order depends on it: the reader asks what voters have prepared, waits until it has
executed as far itself, and if that does not come about within `fetch_timeout`, the read takes part in
the order like any request.

Why 2 delays are enough: whatever had completed when the question was asked was committed somewhere, so
f + 1 correct voters had prepared it, and a quorum of answers contains one of them.
"""

from __future__ import annotations

from typing import Any, Final

from grove_core.events import ReadAsked, ReadReady, Rejected
from grove_core.machine import PeerId, Token, handles
from grove_pbft.config import Config
from grove_pbft.machine.losses import Losses
from grove_pbft.machine.replica import Ctx
from grove_pbft.messages import READ, AskPrepared, Batch, Certificate, Nothing, PreparedUpTo, Request

READING: Final = "reading"


class Reading:
    """A read by quorum: who answered, and how far one must have executed."""

    __slots__ = ("answers", "target")

    def __init__(self) -> None:
        self.answers: dict[PeerId, int] = {}
        self.target: int | None = None


class Reads(Losses):
    """ReadAsked → ReadReady."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.readings: dict[bytes, Reading] = {}

    def read(self, ctx: Ctx) -> bytes:
        """Ask for a linearizable read; returns its id (16 bytes). Answered by ReadReady or Rejected."""
        id = self.fresh_id(ctx)
        self._read(ctx, id)
        return id

    @handles(ReadAsked)
    def on_read_asked(self, ctx: Ctx, event: ReadAsked) -> None:
        self._read(ctx, event.id)

    def _read(self, ctx: Ctx, id: bytes) -> None:
        if self.config.reads == "ordered" or not self.is_member(ctx.me):
            self.submit(ctx, id, READ, b"")
            return
        if id in self.readings:
            return
        if len(self.readings) >= self.config.outstanding:
            ctx.emit(
                Rejected(id, f"{len(self.readings)} reads under way; limit {self.config.outstanding}")
            )
            return
        reading = self.readings[id] = Reading()
        name = self.configuration.name
        if self.is_voter(ctx):
            reading.answers[ctx.me] = self.prepared_up_to()
        for voter in self.configuration.voters:
            if voter != ctx.me:
                key = (READING, id, voter)
                ctx.request(voter, AskPrepared(name), key, self.config.fetch_timeout)
        ctx.set_timer((READING, id), self.config.fetch_timeout)
        self._answered(ctx, id, reading)

    def prepared_up_to(self) -> int:
        """The highest number we hold a prepared certificate of, or have executed."""
        prepared = [seq for seq, slot in self.slots.items() if slot.prepared or slot.committed]
        return max([self.executed, self.stable, *prepared])

    def on_reply(self, ctx: Ctx, key: Any, peer: PeerId, msg: Any) -> None:
        if key[0] == READING:
            reading = self.readings.get(key[1])
            known = peer in self.configuration.rank
            if reading is None or not known or not isinstance(msg, PreparedUpTo):
                return
            if msg.configuration == self.configuration.name:
                reading.answers[peer] = msg.seq
                self._answered(ctx, key[1], reading)
        else:
            super().on_reply(ctx, key, peer, msg)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        if not isinstance(key, tuple) or key[0] != READING:
            super().on_failure(ctx, key, peer, reason)

    def _answered(self, ctx: Ctx, id: bytes, reading: Reading) -> None:
        if reading.target is None and len(reading.answers) >= self.configuration.quorum:
            reading.target = max(reading.answers.values())
        if reading.target is not None and self.executed >= reading.target:
            self._ready(ctx, id)

    def _ready(self, ctx: Ctx, id: bytes) -> None:
        del self.readings[id]
        ctx.cancel_timer((READING, id))
        ctx.emit(ReadReady(id, self.index))

    def read_by_order(self, ctx: Ctx, id: bytes) -> None:
        """No quorum, or a liar far ahead: what always works."""
        if self.readings.pop(id, None) is not None:
            self.submit(ctx, id, READ, b"")

    def executed_command(self, ctx: Ctx, request: Request) -> None:
        if request.kind != READ:
            super().executed_command(ctx, request)
        elif request.client == ctx.me and not self.is_replaying:
            ctx.emit(ReadReady(request.id, self.index))

    def executed_batch(self, ctx: Ctx, seq: int, certificate: Certificate, batch: Batch) -> None:
        super().executed_batch(ctx, seq, certificate, batch)
        for id, reading in list(self.readings.items()):
            if reading.target is not None and seq >= reading.target:
                self._ready(ctx, id)

    def on_request(self, ctx: Ctx, peer: PeerId, msg: Any, token: Token) -> None:
        if isinstance(msg, AskPrepared):
            known = msg.configuration == self.configuration.name and self.is_voter(ctx)
            answer = PreparedUpTo(msg.configuration, self.prepared_up_to())
            ctx.reply(token, answer if known and self.may_ask(peer) else Nothing())
        else:
            super().on_request(ctx, peer, msg, token)
