"""A replica's state, and what every part of the protocol does with it.

The parts are one machine, cut along the paper's sections; each extends the one before: replica, clients
(§4.1), ordering (§4.2), checkpoints (§4.3), transfer, views (§4.4), groups, reads (§5.1.3). What a part
needs of a later one is declared at the end of this class.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, TypeAlias

import msgspec

from grove_core.errors import RemoteProtocolError
from grove_core.identity import parse_peer
from grove_core.machine import Context, Machine, PeerId
from grove_pbft.config import Config
from grove_pbft.log import Slot
from grove_pbft.messages import (
    DOMAIN,
    Batch,
    Certificate,
    Membership,
    NewView,
    PbftMessage,
    Request,
    Root,
    ViewChange,
    statement,
)
from grove_pbft.quorum import Configuration
from grove_pbft.table import ClientTable

Ctx: TypeAlias = Context[PbftMessage]

REQUEST_TIMER: Final = "request"
GENESIS: Final = sha256(DOMAIN + b"history:").digest()
"""The history of nothing."""


class Replica(Machine[PbftMessage]):
    """State. Numbers are sequence numbers of batches unless they are called index."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.every = config.checkpoint_every
        self.window = 2 * config.checkpoint_every
        alike = (config.group, self.every, config.snapshot_every, config.history, config.sponsors)
        self.group = sha256(msgspec.msgpack.encode(alike)).digest()

        # What is agreed: equal at all correct replicas that have executed equally far.
        self.executed = 0
        self.index = 0
        self.history = GENESIS
        self.clients = ClientTable()
        self.membership = Membership(0, (), ())
        self.configuration = Configuration(self.group, 0, ())

        # The log (§4.2): h is `stable`; slots exist in (min(h, executed), h + 2L].
        self.stable = 0
        self.stable_proof: Certificate | None = None
        """None: the configuration began at `stable`, which needs no proof."""
        self.slots: dict[int, Slot] = {}
        self.last_proposed = 0
        """Highest number given out in this view; the primary's own count."""

        # Views (§4.4).
        self.view = 0
        self.is_changing = False
        self.failed_views = 0
        """Views in a row that brought nothing: each doubles the timeouts."""
        self.new_view: NewView | None = None
        """How the view began, for those who missed it; None for view 0 of a configuration."""
        self.new_view_changes: dict[PeerId, ViewChange] = {}

        self.is_replaying = False
        """Executing what is on our own disk: nothing is sent or saved."""
        self.is_diverged = False
        """A quorum certified another history than ours: we are wrong, and do not vote."""
        self.loss = b""
        """Names a loss of records, as long as it keeps us silent (`losses`)."""

    # Who is who.

    def is_voter(self, ctx: Ctx) -> bool:
        """Whether this node's votes count now."""
        return ctx.me in self.configuration.rank and not self.is_diverged and not self.loss

    @property
    def forgot(self) -> bool:
        """Whether this replica is silent, since it may have signed what it does not know of."""
        return bool(self.loss)

    def is_member(self, peer: PeerId) -> bool:
        """Whether a peer decides or listens now."""
        return peer in self.configuration.rank or peer in self.membership.learners

    def is_primary(self, ctx: Ctx) -> bool:
        """Whether this node leads the view it is in, and is in one."""
        return not self.is_changing and self.is_voter(ctx) and self.primary == ctx.me

    @property
    def primary(self) -> PeerId:
        return self.configuration.primary(self.view)

    @property
    def high(self) -> int:
        """H: no number above is voted on. Waiting changes hold it at their checkpoint."""
        high = self.stable + self.window
        switch = self.membership.switch
        return min(high, switch) if switch > self.executed else high

    @property
    def timeout(self) -> float:
        """Seconds of patience now: T, doubled for each view that failed in a row."""
        config = self.config
        patience: float = min(
            config.request_timeout * 2 ** min(self.failed_views, 30), config.max_timeout
        )
        return patience

    # Saying things.

    def broadcast(self, ctx: Ctx, msg: PbftMessage) -> None:
        """To all other voters."""
        for voter in self.configuration.voters:
            if voter != ctx.me:
                ctx.send(voter, msg)

    def signed(self, ctx: Ctx, kind: bytes, view: int, seq: int, digest: bytes) -> bytes:
        """Our signature under a statement in this configuration."""
        return ctx.sign(statement(kind, self.configuration.name, view, seq, digest))

    def save(self, ctx: Ctx, key: str, value: bytes | None) -> None:
        """Make a record durable, unless it came from there."""
        if not self.is_replaying:
            ctx.save(key, value)

    # The log.

    def slot(self, seq: int) -> Slot:
        """The slot of a number that `is_near`."""
        slot = self.slots.get(seq)
        if slot is None:
            slot = self.slots[seq] = Slot()
        return slot

    def is_near(self, seq: int) -> bool:
        """Whether anything about a number is kept: up to a window beyond ours, for those ahead of us."""
        return min(self.stable, self.executed) < seq <= self.stable + 2 * self.window

    def root(self) -> Root:
        """All that is agreed up to `executed`."""
        return Root(self.executed, self.index, self.history, self.clients.digest(), self.membership)

    # What parts need of later parts.

    def admit(self, ctx: Ctx, request: Request) -> bool:
        raise NotImplementedError

    def propose_batches(self, ctx: Ctx) -> None:
        raise NotImplementedError

    def watch(self, ctx: Ctx, *, progress: bool = False) -> None:
        raise NotImplementedError

    def fetch_batch(self, ctx: Ctx, seq: int, digest: bytes) -> None:
        raise NotImplementedError

    def checkpointed(self, ctx: Ctx) -> None:
        raise NotImplementedError

    def executed_command(self, ctx: Ctx, request: Request) -> None:
        raise NotImplementedError

    def switch_members(self, ctx: Ctx) -> None:
        raise NotImplementedError

    def executed_batch(self, ctx: Ctx, seq: int, certificate: Certificate, batch: Batch) -> None:
        raise NotImplementedError

    def change_view(self, ctx: Ctx, view: int) -> None:
        raise NotImplementedError

    def retry_views(self, ctx: Ctx) -> None:
        raise NotImplementedError

    def expects_view(self, view: int) -> bool:
        raise NotImplementedError

    def lag(self, ctx: Ctx, *, now: bool = False) -> None:
        raise NotImplementedError

    def of_another_configuration(self, ctx: Ctx, peer: PeerId, msg: Any) -> None:
        raise NotImplementedError


def peers_of(texts: tuple[str, ...], field: str) -> tuple[PeerId, ...]:
    """Peer ids written in the configuration, ascending. ValueError names the one that is none."""
    found = []
    for text in texts:
        try:
            found.append(parse_peer(text))
        except RemoteProtocolError as error:
            raise ValueError(f"pbft.{field}: {text!r} is no peer id: {error}") from None
    return tuple(sorted(found))


def root_digest(root: Root) -> bytes:
    """What a CHECKPOINT signs. msgpack of one fixed type by one encoder has one form."""
    return sha256(DOMAIN + b"root:" + msgspec.msgpack.encode(root)).digest()
