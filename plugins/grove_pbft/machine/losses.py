"""Lost records: a replica whose disk forgot is silent until a configuration begins after its loss.

It may have signed PREPAREs, COMMITs and VIEW-CHANGEs that it does not know of; signing others would
make it one of the f. Castro's recovery (TOCS'02 §4.3) changes keys, so that what was signed before
counts no more, and waits until the log it may have lied about is behind everybody. Here the name of the
configuration is in all that is signed, so another configuration does both at once: the replica forgets
the rest too, fetches a certified state, and has its renewal ordered, a change of members that leaves
them as they are and yet begins another configuration. It has signed nothing under that name.

Invariant: with a loss, nothing is signed but requests; it ends only with a configuration that began
after a request was executed whose id was drawn after the loss.

While it lasts the replica is one of the f that may be faulty. Who renews itself without need makes views
begin at 0 every two checkpoints; nothing worse.
"""

from __future__ import annotations

from typing import Final

from grove_core.events import Rejected
from grove_core.machine import LOST
from grove_pbft import members
from grove_pbft.config import Config
from grove_pbft.machine.clients import NUMBER, NUMBERS
from grove_pbft.machine.groups import ENCODER, Groups
from grove_pbft.machine.replica import Ctx
from grove_pbft.messages import CHANGE, Change, Request

LOSS: Final = "loss"
PATIENCE: Final = 4
"""Periods of `observe` after which a renewal that was not executed is asked for again."""


class Losses(Groups):
    """How a replica that forgot comes back."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._is_noted = False
        self._asked = 0

    def load_loss(self, ctx: Ctx) -> None:
        """The driver says whether the disk forgot; then nothing of what is left is relied on."""
        if self.has_forgotten(ctx):
            for key in ctx.saved():
                ctx.save(key, None)
            ctx.save(LOSS, ctx.rng.randbytes(16))
            ctx.save(LOST, None)
        self.loss = ctx.load(LOSS) or b""

    def has_forgotten(self, ctx: Ctx) -> bool:
        """Whether there is a loss that this machine does not know of."""
        return ctx.load(LOST) is not None

    def observe(self, ctx: Ctx) -> None:
        super().observe(ctx)
        if self.loss and not self.is_noted_now():
            self._asked += 1
            if self.executed and self._asked % PATIENCE == 1:
                self._ask_renewal(ctx)

    def is_noted_now(self) -> bool:
        """Whether our renewal is executed, and its checkpoint yet to come."""
        return self._is_noted and self.membership.switch > self.executed

    def _ask_renewal(self, ctx: Ctx) -> None:
        self.own.clear()
        self._skip_numbers(ctx)
        super().submit(ctx, self.loss, CHANGE, ENCODER.encode((Change(members.RENEW, ctx.me),)))

    def _skip_numbers(self, ctx: Ctx) -> None:
        """Numbers that the earlier life used are used up: how many, the group knows, but for the last."""
        used = max(self._number, self.clients.highest(ctx.me))
        self._number = self._reserved = self._life = used + 2 * NUMBERS
        ctx.save(NUMBER, self._reserved.to_bytes(8, "big"))

    def submit(self, ctx: Ctx, id: bytes, kind: int, command: bytes) -> None:
        if self.loss:
            ctx.emit(Rejected(id, "this replica lost records and is silent until it is renewed"))
        else:
            super().submit(ctx, id, kind, command)

    def executed_command(self, ctx: Ctx, request: Request) -> None:
        super().executed_command(ctx, request)
        if self.loss and request.id == self.loss and request.client == ctx.me:
            self._is_noted = True

    def enter_configuration(self, ctx: Ctx) -> None:
        if self._is_noted:
            self._is_noted, self.loss = False, b""
            ctx.save(LOSS, None)
            self._skip_numbers(ctx)  # the state in which we asked was an older one
        super().enter_configuration(ctx)
