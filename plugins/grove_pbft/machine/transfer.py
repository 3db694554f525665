"""State transfer: how a replica, or an observer, gets what was decided without it (PBFT §4.3, §5.3).

What it is sent needs nobody's word: decisions carry a quorum's COMMITs and are executed in order; a
state carries a quorum's VOUCHes, and if the voters have changed meanwhile, a chain of hand-overs, each
certified by the voters before it. So one correct member that answers is enough, and a liar costs one
question.

Invariants:
1. One question is open at a time, to one member; the next goes to another, drawn at random.
2. What is gathered of a state is bounded by the size offered, and that by `max_state`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from grove_core.machine import PeerId, Token, handles
from grove_pbft.config import Config
from grove_pbft.machine.checkpoints import (
    Checkpoints,
    Snapshot,
    handover_key,
    load,
    state_digest,
)
from grove_pbft.machine.ordering import batch_key, done_key
from grove_pbft.machine.replica import Ctx, root_digest
from grove_pbft.messages import (
    MAX_CHUNK,
    MAX_DECIDED,
    MAX_FRAME,
    MAX_HANDOVERS,
    NULL,
    Batch,
    CatchUp,
    Certificate,
    Chunk,
    Decided,
    FetchBatch,
    FetchState,
    Found,
    Handover,
    Nothing,
    Offer,
    Request,
    Segment,
    batch_digest,
)
from grove_pbft.quorum import Configuration

OBSERVE: Final = "observe"
LAG: Final = "lag"
SOON: Final = 0.1
"""Seconds between noticing a gap and asking about it: most gaps close by themselves."""
SELDOM: Final = 8
"""A voter that misses nothing asks every so many periods all the same."""


class Gathering:
    """A state on its way, piece by piece."""

    __slots__ = ("data", "offer", "server")

    def __init__(self, offer: Offer, server: PeerId) -> None:
        self.offer = offer
        self.server = server
        self.data = bytearray()


class Transfer(Checkpoints):
    """Asking for what was missed, and answering."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.asking = False
        self.gathering: Gathering | None = None
        self.fetching: dict[Any, None] = {}
        """Batches that are asked for: at most three for each number in the log."""
        self.trusted: Configuration | None = None
        """Where the hand-overs that were checked lead, if that is farther than we have executed."""
        self._lagging = False
        self._quiet = 0
        self._seen = 0

    # Noticing.

    def lag(self, ctx: Ctx, *, now: bool = False) -> None:
        """There is evidence that something was decided without us."""
        if self.asking or self._lagging or self.is_replaying:
            return
        if now:
            self.catch_up(ctx)
        else:
            self._lagging = True
            ctx.set_timer(LAG, SOON)

    def lagged(self, ctx: Ctx) -> None:
        """The gap has not closed by itself, or has it?"""
        self._lagging = False
        self.catch_up(ctx)

    def observe(self, ctx: Ctx) -> None:
        """Once a period: who hears nothing asks."""
        ctx.set_timer(OBSERVE, self.config.observe)
        is_quiet = self._seen == self.executed
        self._seen = self.executed
        self._quiet = self._quiet + 1 if is_quiet else 0
        is_open = max(self.slots, default=0) > self.executed  # something began, and may have ended
        listens = ctx.me not in self.configuration.rank or bool(self.loss)
        if is_quiet and (listens or is_open or self.is_changing or self._quiet % SELDOM == 1):
            self.catch_up(ctx)

    # Asking.

    def catch_up(self, ctx: Ctx) -> None:
        """Ask one voter, drawn at random, for what comes after `executed`."""
        others = [voter for voter in self.farthest_known().voters if voter != ctx.me]
        if self.asking or self.gathering is not None or not others:
            return
        self.asking = True
        question = CatchUp(self.executed, self.farthest_known().number)
        ctx.request(ctx.rng.choice(others), question, LAG, self.config.fetch_timeout)

    def fetch_batch(self, ctx: Ctx, seq: int, digest: bytes) -> None:
        """Ask for the batch behind a digest; f + 1 correct voters have it if it may matter."""
        others = [voter for voter in self.configuration.voters if voter != ctx.me]
        key = ("batch", seq, digest)
        if others and not self.is_replaying and key not in self.fetching:
            self.fetching[key] = None
            ctx.request(ctx.rng.choice(others), FetchBatch(seq, digest), key, self.config.fetch_timeout)

    def on_reply(self, ctx: Ctx, key: Any, peer: PeerId, msg: Any) -> None:
        if key == LAG:
            self.asking = False
            if isinstance(msg, Segment):
                self._on_segment(ctx, peer, msg)
        elif key[0] == "batch":
            self.fetching.pop(key, None)
            if isinstance(msg, Found) and batch_digest(msg.batch) == key[2]:
                self._on_batch(ctx, key[1], key[2], msg.batch)
            else:
                self._retry_batch(ctx, key)
        elif key[0] == "state":
            self._on_chunk(ctx, msg)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        if key == LAG:
            self.asking = False
        elif isinstance(key, tuple) and key[0] == "batch":
            self.fetching.pop(key, None)
            self._retry_batch(ctx, key)
        elif isinstance(key, tuple) and key[0] == "state":
            self.gathering = None

    def _on_segment(self, ctx: Ctx, peer: PeerId, msg: Segment) -> None:
        before = self.executed
        stable = msg.stable
        for decided in msg.decided:
            if decided.certificate.seq > self.executed:
                self.learn(ctx, decided)
        if stable is not None and self._is_news(ctx, stable):
            self.stabilise(ctx, stable)
        if msg.offer is not None and self.executed == before:
            self._on_offer(ctx, peer, msg.offer)
        elif self.executed > before and msg.executed > self.executed:
            self.catch_up(ctx)

    def _is_news(self, ctx: Ctx, stable: Certificate) -> bool:
        """Whether a checkpoint is certified, executed here, and not behind us."""
        is_news = self.executed >= stable.seq > self.behind
        return is_news and ctx.me in self.configuration.rank and self.configuration.is_certified(stable)

    @handles(Decided)
    def on_decided(self, ctx: Ctx, peer: PeerId, msg: Decided) -> None:
        """A voter's turn to tell this observer."""
        if msg.certificate.configuration != self.configuration.name:
            if self.is_member(peer):
                self.lag(ctx)  # it is ahead of us by a configuration, or behind
            return
        self.learn(ctx, msg)

    def learn(self, ctx: Ctx, decided: Decided) -> None:
        """Take over a decision if a quorum of this configuration committed it and it is near."""
        certificate = decided.certificate
        seq = certificate.seq
        if seq <= self.executed or seq > self.executed + 2 * self.window:
            if seq > self.executed:
                self.lag(ctx)
            return
        if not self.configuration.is_certified(certificate):
            return
        slot = self.slot(seq)
        if slot.committed is None:
            if batch_digest(decided.batch) != certificate.digest:
                return
            slot.committed = certificate
            self.keep_batch(ctx, seq, certificate.digest, decided.batch)
            listens = ctx.me not in self.configuration.rank or self.loss
            if listens and certificate.view > self.view:
                self.view = certificate.view  # an observer knows the primary from what it decided
            self.execute(ctx)
        if seq > self.executed:
            self.lag(ctx)

    def _on_batch(self, ctx: Ctx, seq: int, digest: bytes, batch: Batch) -> None:
        slot = self.slots.get(seq)
        if slot is not None and digest in slot.referred():
            self.keep_batch(ctx, seq, digest, batch)
            self.execute(ctx)

    def _retry_batch(self, ctx: Ctx, key: Any) -> None:
        slot = self.slots.get(key[1])
        if slot is not None and key[2] in slot.referred() and key[2] not in slot.batches:
            ctx.set_timer(key, SOON)

    # A state, in pieces.

    def _on_offer(self, ctx: Ctx, server: PeerId, offer: Offer) -> None:
        """Follow the hand-overs to the configuration that vouches for the state, then fetch it."""
        known = self.farthest_known()
        for handover in offer.handovers:
            root = handover.root
            follows = root.membership.number == known.number + 1 and known.is_certified(
                handover.certificate
            )
            if not follows or root_digest(root) != handover.certificate.digest:
                return
            known = Configuration(self.group, root.membership.number, root.membership.voters)
            self.keep_handover(ctx, handover)
        self.trusted = known
        certificate = offer.certificate
        if certificate.seq <= self.executed or offer.size > self.config.max_state:
            return
        if known.is_certified(certificate):
            self.gathering = Gathering(offer, server)
            self._ask_chunk(ctx)
        elif offer.handovers:
            self.catch_up(ctx)  # there are more hand-overs than one answer holds

    def farthest_known(self) -> Configuration:
        """The latest configuration whose voters are certain, though its state may not be here."""
        trusted = self.trusted
        if trusted is None or trusted.number < self.configuration.number:
            return self.configuration
        return trusted

    def _ask_chunk(self, ctx: Ctx) -> None:
        gathering = self.gathering
        assert gathering is not None
        certificate = gathering.offer.certificate
        offset = len(gathering.data)
        ctx.request(
            gathering.server,
            FetchState(certificate.seq, certificate.digest, offset),
            ("state", offset),
            self.config.fetch_timeout,
        )

    def _on_chunk(self, ctx: Ctx, msg: Any) -> None:
        gathering, self.gathering = self.gathering, None
        if gathering is None or not isinstance(msg, Chunk) or not msg.data:
            return  # another member is asked in a while
        gathering.data += msg.data
        if len(gathering.data) < gathering.offer.size:
            self.gathering = gathering
            self._ask_chunk(ctx)
        elif len(gathering.data) == gathering.offer.size:
            self._begin_from(ctx, gathering.offer.certificate, bytes(gathering.data))

    def _begin_from(self, ctx: Ctx, certificate: Certificate, body: bytes) -> None:
        if state_digest(body) != certificate.digest or certificate.seq <= self.executed:
            return
        snapshot = msgspec.msgpack.decode(body, type=Snapshot)  # a quorum encoded it
        self.keep_state(ctx, certificate, body)
        self.install(ctx, snapshot)
        self.restart_from_state(ctx)
        self.catch_up(ctx)

    def restart_from_state(self, ctx: Ctx) -> None:
        raise NotImplementedError

    # Answering.

    def on_request(self, ctx: Ctx, peer: PeerId, msg: Any, token: Token) -> None:
        if not self.may_ask(peer):
            ctx.reply(token, Nothing())
        elif isinstance(msg, CatchUp):
            ctx.reply(token, self._segment(ctx, msg))
        elif isinstance(msg, FetchBatch):
            batch = self._batch(ctx, msg.seq, msg.digest)
            ctx.reply(token, Nothing() if batch is None else Found(batch))
        elif isinstance(msg, FetchState):
            is_it = self.vouched is not None and self.vouched.digest == msg.digest
            data = self.body_kept(ctx)[msg.offset : msg.offset + MAX_CHUNK] if is_it else b""
            ctx.reply(token, Chunk(data) if data else Nothing())
        else:
            ctx.reply(token, Nothing())

    def may_ask(self, peer: PeerId) -> bool:
        """Whether a peer is answered: members, and who is about to be one."""
        return self.is_member(peer) or any(change.peer == peer for change in self.membership.waiting)

    def _segment(self, ctx: Ctx, msg: CatchUp) -> Segment:
        decided: list[Decided] = []
        if msg.seq >= self.floor:
            size = 0
            for seq in range(msg.seq + 1, min(self.executed, msg.seq + MAX_DECIDED) + 1):
                certificate = load(ctx, done_key(seq), Certificate)
                batch = None if certificate is None else self._batch(ctx, seq, certificate.digest)
                if certificate is None or batch is None:
                    break
                size += 20_000 + sum(len(request.command) + 256 for request in batch)
                if decided and size > MAX_FRAME // 2:
                    break
                decided.append(Decided(certificate, batch))
            return Segment(self.executed, self.stable_proof, tuple(decided), None)
        return Segment(self.executed, self.stable_proof, (), self._offer(ctx, msg.number))

    def _offer(self, ctx: Ctx, number: int) -> Offer | None:
        if self.vouched is None:
            return None
        handovers: list[Handover] = []
        for later in range(number + 1, min(self.vouched_number, number + MAX_HANDOVERS) + 1):
            handover = load(ctx, handover_key(later), Handover)
            if handover is None:
                return None
            handovers.append(handover)
        return Offer(self.vouched, self.vouched_size, tuple(handovers))

    def _batch(self, ctx: Ctx, seq: int, digest: bytes) -> Batch | None:
        if digest == NULL:
            return ()
        slot = self.slots.get(seq)
        if slot is not None and digest in slot.batches:
            return slot.batches[digest]
        data = ctx.load(batch_key(seq, digest))
        return None if data is None else msgspec.msgpack.decode(data, type=tuple[Request, ...])
