"""The client (PBFT §4.1), and the replicas' side of it.

A request goes to the primary alone; unanswered, to all voters, twice as long apart each time. A client
that votes or observes learns of the outcome by executing it; an observer is also told by f + 1 REPLYs.
What waits to be ordered is bounded in number, in bytes, and per client.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

import msgspec

from grove_core.events import Proposed, Rejected
from grove_core.machine import PeerId, handles
from grove_pbft.config import Config
from grove_pbft.events import Answered
from grove_pbft.machine.replica import Ctx, Replica
from grove_pbft.messages import (
    COMMAND,
    DOMAIN,
    MAX_COMMAND,
    Batch,
    Change,
    Reply,
    Request,
    request_bytes,
)
from grove_pbft.table import WIDTH

RETRY: Final = "retry"
PROPOSE: Final = "propose"
NUMBER: Final = "number"
NUMBERS: Final = 64
"""Request numbers made durable at a time, so that asking waits for the disk once in 64."""
LONGEST_RETRY: Final = 8.0
"""Seconds between two attempts, at most."""


class Own:
    """A request of ours that we have not seen executed."""

    __slots__ = ("answered", "due", "request", "wait")

    def __init__(self, request: Request, now: float, wait: float) -> None:
        self.request = request
        self.wait = wait
        self.due = now + wait
        self.answered: dict[PeerId, None] = {}


class Pending:
    """A request that waits to be executed."""

    __slots__ = ("overtaken", "request", "since")

    def __init__(self, request: Request, now: float) -> None:
        self.request = request
        self.since = now
        self.overtaken = 0
        """Batches executed meanwhile."""


class Clients(Replica):
    """Requests, from asking to answering."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.own: dict[int, Own] = {}
        self.pending: dict[tuple[PeerId, int], Pending] = {}
        """Oldest first: what the timer is about."""
        self.queue: dict[tuple[PeerId, int], Request] = {}
        """At the primary: those not yet in a batch of this view."""
        self._is_proposing = False
        self._held: dict[PeerId, int] = {}
        self._pending_bytes = 0
        self._number = 0
        self._reserved = 0
        self._retries = False
        self._life = 0
        self._ids = 0

    def load_number(self, ctx: Ctx) -> None:
        """The last life may have used all it had reserved."""
        record = ctx.load(NUMBER)
        if record is not None:
            self._number = self._reserved = self._life = int.from_bytes(record[:8], "big")

    # Asking.

    def propose(self, ctx: Ctx, command: bytes) -> bytes:
        """Want a command, at most 1 MiB, agreed on; returns its id (16 bytes). The outcome is an event:
        Committed, or Rejected if it never came to be asked."""
        id = self.fresh_id(ctx)
        self.submit(ctx, id, COMMAND, command)
        return id

    def fresh_id(self, ctx: Ctx) -> bytes:
        """An id no other proposal has, of this node, of another, or of an earlier life."""
        self._ids += 1
        said = b"%d/%d/" % (self._life, self._ids)
        return sha256(DOMAIN + b"id:" + said + ctx.me).digest()[:16]

    @handles(Proposed)
    def on_proposed(self, ctx: Ctx, event: Proposed) -> None:
        self.submit(ctx, event.id, COMMAND, event.command)

    def submit(self, ctx: Ctx, id: bytes, kind: int, command: bytes) -> None:
        """Sign a request and send it to the primary; a retry of one under way changes nothing."""
        if any(own.request.id == id and own.request.kind == kind for own in self.own.values()):
            return
        reason = ""
        if len(command) > MAX_COMMAND:
            reason = (
                f"command of {len(command)} bytes; limit {MAX_COMMAND}. Store it and propose its hash"
            )
        elif len(id) != 16:
            reason = f"id of {len(id)} bytes; it must have 16"
        elif not self.is_member(ctx.me):
            reason = "this node is no member of the group; a member must let it join"
        elif self.own and self._number - min(self.own) >= WIDTH - 1:
            reason = "a proposal is unanswered since 255 others; a window holds 256. Wait for it"
        elif len(self.own) >= self.config.outstanding:
            reason = (
                f"{len(self.own)} proposals under way; limit {self.config.outstanding}. Wait for some"
            )
        if reason:
            ctx.emit(Rejected(id, reason, self.leader()))
            return
        number = self._next_number(ctx)
        signature = ctx.sign(request_bytes(ctx.me, number, id, kind, command))
        request = Request(ctx.me, number, id, kind, command, signature)
        self.own[number] = Own(request, ctx.now, self.config.rebroadcast)
        self._arm_retry(ctx)
        if self.primary != ctx.me and not self.is_changing:
            ctx.send(self.primary, request)
        if self.is_voter(ctx):
            self.admit(ctx, request)
            self.propose_soon(ctx)

    def _next_number(self, ctx: Ctx) -> int:
        if self._number >= self._reserved:
            self._reserved = self._number + NUMBERS
            ctx.save(NUMBER, self._reserved.to_bytes(8, "big"))
        self._number += 1
        return self._number

    def _arm_retry(self, ctx: Ctx) -> None:
        if self.own and not self._retries:
            self._retries = True
            ctx.set_timer(RETRY, max(0.0, min(own.due for own in self.own.values()) - ctx.now))

    def ask_again(self, ctx: Ctx) -> None:
        """Whatever is overdue goes to all voters: perhaps the primary is the problem."""
        self._retries = False
        for own in self.own.values():
            if own.due <= ctx.now:
                own.wait = min(2 * own.wait, LONGEST_RETRY)
                own.due = ctx.now + own.wait
                self.broadcast(ctx, own.request)
                if self.is_voter(ctx):
                    self.admit(ctx, own.request)
        self._arm_retry(ctx)
        self.propose_soon(ctx)

    @handles(Reply)
    def on_reply_message(self, ctx: Ctx, peer: PeerId, msg: Reply) -> None:
        if msg.configuration != self.configuration.name or peer not in self.configuration.rank:
            return
        for number in msg.numbers:
            own = self.own.get(number)
            if own is not None and peer not in own.answered:
                own.answered[peer] = None
                if len(own.answered) == self.configuration.weak:
                    own.due = ctx.now + LONGEST_RETRY  # it is executed; the decision is on its way
                    ctx.emit(Answered(own.request.id))

    # Waiting to be ordered.

    @handles(Request)
    def on_request_message(self, ctx: Ctx, peer: PeerId, msg: Request) -> None:
        if not self.is_voter(ctx) or not self.is_member(msg.client):
            return
        if self.clients.is_executed(msg.client, msg.number):
            if peer == msg.client and peer not in self.configuration.rank:
                ctx.send(peer, Reply(self.configuration.name, self.view, (msg.number,)))
            return
        is_new = self.admit(ctx, msg)
        if is_new and peer == msg.client and self.primary not in (ctx.me, peer):
            ctx.send(self.primary, msg)  # the client may be unable to reach it
        self.propose_soon(ctx)

    def admit(self, ctx: Ctx, request: Request) -> bool:
        """Let a request wait here; False if it does already, is executed, or there is no room."""
        key = (request.client, request.number)
        if key in self.pending or self.clients.is_executed(*key):
            return False
        config = self.config
        size = len(request.command)
        if (
            len(self.pending) >= config.pending
            or self._held.get(request.client, 0) >= config.outstanding
            or self._pending_bytes + size > config.pending_bytes
        ):
            return False
        self.pending[key] = Pending(request, ctx.now)
        self.queue[key] = request
        self._held[request.client] = self._held.get(request.client, 0) + 1
        self._pending_bytes += size
        self.watch(ctx)
        return True

    def propose_soon(self, ctx: Ctx) -> None:
        """What comes in one turn shares a batch: every batch costs 2n² messages, whatever is in it."""
        if self.queue and not self._is_proposing and self.is_primary(ctx):
            self._is_proposing = True
            ctx.set_timer(PROPOSE, 0.0)

    def on_propose_timer(self, ctx: Ctx) -> None:
        """The end of a turn."""
        self._is_proposing = False
        self.propose_batches(ctx)

    def settled(self, request: Request) -> None:
        """A request waits no longer."""
        key = (request.client, request.number)
        self.queue.pop(key, None)
        found = self.pending.pop(key, None)
        if found is not None:
            self._pending_bytes -= len(found.request.command)
            left = self._held[request.client] - 1
            if left:
                self._held[request.client] = left
            else:
                del self._held[request.client]

    def drop_executed(self, ctx: Ctx) -> None:
        """After a state: what it stands for waits for nothing, here or elsewhere."""
        for entry in list(self.pending.values()):
            if self.clients.is_executed(entry.request.client, entry.request.number):
                self.settled(entry.request)
        for number in [number for number in self.own if self.clients.is_executed(ctx.me, number)]:
            del self.own[number]

    def drop_strangers(self, ctx: Ctx) -> None:
        """After members changed: who is none waits for nothing."""
        for entry in list(self.pending.values()):
            if not self.is_member(entry.request.client):
                self.settled(entry.request)
        if not self.is_member(ctx.me):
            for own in list(self.own.values()):
                ctx.emit(Rejected(own.request.id, "this node is no member of the group any more"))
            self.own.clear()

    # Answering.

    def answer(self, ctx: Ctx, batch: Batch) -> None:
        """One REPLY to each client that observes; who votes has executed the batch itself."""
        if not self.is_voter(ctx):
            return
        numbers: dict[PeerId, list[int]] = {}
        for request in batch:
            if request.client not in self.configuration.rank and request.client != ctx.me:
                numbers.setdefault(request.client, []).append(request.number)
        for client, executed in numbers.items():
            if self.is_member(client):
                ctx.send(client, Reply(self.configuration.name, self.view, tuple(executed)))

    def leader(self) -> PeerId | None:
        """The primary of the view this node is in; None while it is between views."""
        return None if self.is_changing or not self.configuration.n else self.primary


def changes_in(command: bytes) -> tuple[Change, ...] | None:
    """The changes that a request of kind CHANGE asks for, or None if it is none."""
    try:
        changes: tuple[Change, ...] = _CHANGES.decode(command)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return changes


_CHANGES: Final[Any] = msgspec.msgpack.Decoder(tuple[Change, ...])
