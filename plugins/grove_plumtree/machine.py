"""Plumtree as a machine: Algorithms 1 to 3 of TR DI-FCUL 07-14.

Payloads are pushed eagerly over some links and announced lazily over the others. The first copy of
a message makes the link it came by eager, each further copy makes its link lazy; what remains
eager after the first broadcast is a spanning tree, and a broadcast costs n - 1 payloads. An
announcement whose payload does not follow in time makes its link eager again: the tree heals.

Left to others: who the neighbours are (a sibling's NeighborUp and NeighborDown), signatures (the
driver checks `messages.proofs` before a payload comes here), and order: there is none.

Invariants, between two inputs:
1. `eager` and `lazy` are disjoint, and both hold neighbours only.
2. A message is Delivered at most once, and only if its topic is subscribed to; it is relayed anyway.
3. A missing message is in no cache, has a timer, and each neighbour announced it at most once.

Deviations:
* One tree is shared by all senders, as in the paper; its `sender` arguments are the
  authenticated ends of connections.
* A payload is welcome from anybody, since its author signed it; but only neighbours are moved between
  eager and lazy, may announce and are answered: strangers are too many to keep accounts of.
* A new neighbour is told of recent payloads (`catch_up`); the paper leaves a gap between the loss
  of a link and its repair.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from grove_core.errors import LocalProtocolError
from grove_core.events import Delivered, NeighborDown, NeighborUp
from grove_core.machine import LOST, Context, Machine, PeerId, handles
from grove_plumtree import messages
from grove_plumtree.config import Config
from grove_plumtree.messages import (
    MAX_IHAVE,
    MAX_ROUND,
    MAX_TOPIC,
    Announcement,
    Gossip,
    Graft,
    IHave,
    PlumtreeMessage,
    Prune,
    Publication,
    message_id,
    signed_bytes,
)
from grove_plumtree.received import Received
from grove_plumtree.timing import GraftTimes

Ctx: TypeAlias = Context[PlumtreeMessage]

DISPATCH: Final = "dispatch"
FORGET: Final = "forget"

SEQNO: Final = "seqno"
SEQNO_BLOCK: Final = 1024
"""Sequence numbers made durable at a time, so that publishing waits for the disk once in 1024."""
CATCH_UP_DELAY: Final = 0.05
"""Seconds until a new neighbour is told of recent payloads when `ihave_interval` is 0."""
EARLY: Final = 256
"""Grafted messages remembered until the tree's own copy shows how late it was."""


class Missing:
    """A message that was announced and has not come."""

    __slots__ = ("announced_at", "announcers", "grafted")

    def __init__(self, now: float) -> None:
        self.announced_at = now
        self.announcers: dict[PeerId, int] = {}
        """Who announced it, at which round, and was not asked yet; first come, first asked."""
        self.grafted: dict[PeerId, float] = {}
        """Whom we asked with GRAFT, and when."""


class Algorithm1(Machine[PlumtreeMessage]):
    """The paper's own variables, side by side: in a large world each message finds them far away, and
    a class lays out its slots by name."""

    __slots__ = ("eager", "lazy", "lazy_queue", "missing", "seen")


class Plumtree(Algorithm1):
    """One node's broadcast. Emits Delivered."""

    __slots__ = (
        "_is_dispatching",
        "_is_forgetting",
        "_reserved",
        "_seqno",
        "_subscriptions",
        "config",
        "early",
        "promises",
        "received",
        "times",
    )

    def __init__(self, config: Config) -> None:
        self.config = config
        self.eager: dict[PeerId, None] = {}
        self.lazy: dict[PeerId, None] = {}
        self.lazy_queue: dict[PeerId, tuple[Announcement, ...]] = {}
        """Announcements that wait for the next IHAVE, by whom they are for."""
        self.missing: dict[bytes, Missing] = {}
        self.promises: dict[PeerId, int] = {}
        """Open announcements by neighbour, to hold them to `missing_per_peer`."""
        self.early: dict[bytes, Missing] = {}
        """Messages that a GRAFT brought, until the tree's own copy comes; see timing.py."""
        self.received = Received(config)
        self.seen: Final = self.received.seen  # a step nearer: most messages ask for nothing else
        self.times = GraftTimes(config.graft_start, config.graft_min, config.graft_max)
        self._subscriptions: dict[str, None] = {}
        self._seqno = 0
        self._reserved = 0
        self._is_dispatching = False
        self._is_forgetting = False

    # The role (grove_core.roles.BroadcastMachine).

    def publish(self, ctx: Ctx, topic: str, data: bytes) -> bytes:
        """Broadcast(m): push eagerly and lazily, deliver here, remember. Returns the id, 32 bytes.

        topic: 1 to 128 characters. data: at most `max_payload` bytes. LocalProtocolError otherwise.
        """
        _check_topic(topic)
        if len(data) > self.config.max_payload:
            raise LocalProtocolError(
                f"payload of {len(data)} bytes; limit {self.config.max_payload} (plumtree.max_payload)."
                " Store it and publish its hash"
            )
        seqno = self._next_seqno(ctx)
        signature = ctx.sign(signed_bytes(ctx.me, seqno, topic, data))
        gossip = messages.gossip(Publication(ctx.me, seqno, topic, data, signature), 0)
        mid = message_id(gossip.publication)
        self._receive(ctx, mid, gossip, None)
        return mid

    def subscribe(self, ctx: Ctx, topic: str) -> None:
        """Want Delivered events of a topic: 1 to 128 characters. Nobody else is told."""
        _check_topic(topic)
        self._subscriptions[topic] = None

    def unsubscribe(self, ctx: Ctx, topic: str) -> None:
        """Want them no longer."""
        self._subscriptions.pop(topic, None)

    def topics(self) -> tuple[str, ...]:
        """Topics subscribed to, in ascending order."""
        return tuple(sorted(self._subscriptions))

    def links(self) -> dict[str, tuple[PeerId, ...]]:
        """Neighbours by what they get: payloads (eager) or announcements (lazy)."""
        return {"eager": tuple(self.eager), "lazy": tuple(self.lazy)}

    # Life.

    def on_start(self, ctx: Ctx) -> None:
        record = ctx.load(SEQNO)
        if record is not None:  # the last life may have used all it had reserved
            self._seqno = self._reserved = int.from_bytes(record[:8], "big")
        if ctx.load(LOST) is not None:
            # The disk forgot which numbers were used: begin where, all but surely, none was.
            self._seqno = self._reserved = ctx.rng.getrandbits(62)
            ctx.save(SEQNO, self._reserved.to_bytes(8, "big"))
            ctx.save(LOST, None)

    # Algorithm 1: eager push and tree construction.

    @handles(Gossip)
    def on_gossip(self, ctx: Ctx, peer: PeerId, msg: Gossip) -> None:
        publication = msg.publication
        mid = message_id(publication)
        if mid in self.seen:
            self._duplicate(ctx, peer, mid)
            return
        if len(publication.data) > self.config.max_payload:
            return
        missing = self.missing.pop(mid, None)
        if missing is not None:
            self._found(ctx, peer, mid, missing)
        if publication.author == ctx.me:
            # Said in an earlier life: the others have it, and we have heard ourselves.
            self._remember(ctx, mid, msg)
            return
        self._receive(ctx, mid, messages.gossip(publication, min(msg.round + 1, MAX_ROUND)), peer)
        if peer in self.lazy:
            del self.lazy[peer]
            self.eager[peer] = None
        if missing is not None and self.config.optimise_after:
            self._optimise(ctx, peer, msg.round, missing)

    def _receive(self, ctx: Ctx, mid: bytes, gossip: Gossip, sender: PeerId | None) -> None:
        """Deliver, remember and pass on a message seen for the first time; its round is ours."""
        publication = gossip.publication
        if publication.topic in self._subscriptions:
            ctx.emit(
                Delivered(publication.topic, mid, publication.author, publication.data, gossip.round)
            )
        self._remember(ctx, mid, gossip)
        for peer in self.eager:
            if peer != sender:
                ctx.send(peer, gossip)
        if self.lazy:
            self._lazy_push(ctx, messages.news(mid, gossip.round), sender)

    def _duplicate(self, ctx: Ctx, peer: PeerId, mid: bytes) -> None:
        """A second copy: this link is redundant."""
        missing = self.early.get(mid)
        if missing is not None:
            self._measure(ctx, peer, mid, missing)
        if peer in self.eager:
            del self.eager[peer]
            self.lazy[peer] = None
        ctx.send(peer, Prune())

    @handles(Prune)
    def on_prune(self, ctx: Ctx, peer: PeerId, msg: Prune) -> None:
        if peer in self.eager:
            del self.eager[peer]
            self.lazy[peer] = None

    def _lazy_push(self, ctx: Ctx, news: tuple[Announcement, ...], sender: PeerId | None) -> None:
        if self.config.ihave_interval:
            self._announce(ctx, self.lazy, news, sender)
        else:
            ihave = messages.ihave(news)
            for peer in self.lazy:
                if peer != sender:
                    ctx.send(peer, ihave)

    def _announce(
        self, ctx: Ctx, peers: Iterable[PeerId], news: tuple[Announcement, ...], but: PeerId | None = None
    ) -> None:
        """Queue announcements for whom they are owed to now, whatever the links become meanwhile."""
        queues = self.lazy_queue
        for peer in peers:
            if peer == but:
                continue
            queue = queues.get(peer)
            if queue is None:
                queues[peer] = news
            elif len(queue) + len(news) <= MAX_IHAVE:
                queues[peer] = queue + news
            else:
                ctx.send(peer, messages.ihave(queue))
                queues[peer] = news
        if queues and not self._is_dispatching:
            self._is_dispatching = True
            ctx.set_timer(DISPATCH, self.config.ihave_interval or CATCH_UP_DELAY)

    def _dispatch(self, ctx: Ctx) -> None:
        """Send what was announced meanwhile, one IHAVE to each peer."""
        self._is_dispatching = False
        queues, self.lazy_queue = self.lazy_queue, {}
        for peer, queue in queues.items():
            ctx.send(peer, messages.ihave(queue))

    # Algorithm 2: tree repair.

    @handles(IHave)
    def on_ihave(self, ctx: Ctx, peer: PeerId, msg: IHave) -> None:
        seen = self.seen
        for announcement in msg.announcements:
            if announcement.id not in seen and (peer in self.eager or peer in self.lazy):
                self._announced(ctx, peer, announcement)

    def _announced(self, ctx: Ctx, peer: PeerId, announcement: Announcement) -> None:
        mid = announcement.id
        missing = self.missing.get(mid)
        if missing is not None and (peer in missing.announcers or peer in missing.grafted):
            return
        promised = self.promises.get(peer, 0)
        if promised >= self.config.missing_per_peer:
            return
        if missing is None:
            if len(self.missing) >= self.config.missing:
                return
            missing = self.missing[mid] = Missing(ctx.now)
            ctx.set_timer(mid, self.times.first)
        elif not missing.announcers:  # everybody before was asked already
            ctx.set_timer(mid, self.times.retry)
        missing.announcers[peer] = announcement.round
        self.promises[peer] = promised + 1

    def _overdue(self, ctx: Ctx, mid: bytes) -> None:
        """The payload did not come in time: graft the link of the first that announced it."""
        missing = self.missing.get(mid)
        if missing is None:
            return
        if not missing.announcers:  # everybody who promised was asked, and nobody delivered
            del self.missing[mid]
            return
        peer = next(iter(missing.announcers))
        ahead = missing.announcers.pop(peer)
        missing.grafted[peer] = ctx.now
        self._kept_or_broken(peer)
        # The last one asked gets all the time there is: nobody is left to ask instead.
        ctx.set_timer(mid, self.times.retry if missing.announcers else self.config.graft_max)
        if peer in self.lazy:
            del self.lazy[peer]
            self.eager[peer] = None
        ctx.send(peer, Graft(mid, ahead))

    @handles(Graft)
    def on_graft(self, ctx: Ctx, peer: PeerId, msg: Graft) -> None:
        if peer in self.lazy:
            del self.lazy[peer]
            self.eager[peer] = None
        if msg.id is not None and peer in self.eager:
            gossip = self.received.payloads.get(msg.id)
            if gossip is not None:
                ctx.send(peer, gossip)

    def _found(self, ctx: Ctx, peer: PeerId, mid: bytes, missing: Missing) -> None:
        """A missing message came: stop waiting, and learn how long one should have waited."""
        ctx.cancel_timer(mid)
        for announcer in missing.announcers:
            self._kept_or_broken(announcer)
        if missing.grafted:
            self.early[mid] = missing
            if len(self.early) > EARLY:
                del self.early[next(iter(self.early))]
        self._measure(ctx, peer, mid, missing)

    def _measure(self, ctx: Ctx, peer: PeerId, mid: bytes, missing: Missing) -> None:
        """A copy of a message that was missing: an answer to a GRAFT, or the tree's own."""
        asked_at = missing.grafted.pop(peer, None)
        if asked_at is not None:
            self.times.round_trip(ctx.now - asked_at)
        else:
            self.times.spread(ctx.now - missing.announced_at)
            self.early.pop(mid, None)

    def _kept_or_broken(self, peer: PeerId) -> None:
        """One announcement of a peer is no longer open."""
        left = self.promises.get(peer, 0) - 1
        if left > 0:
            self.promises[peer] = left
        else:
            self.promises.pop(peer, None)

    # Algorithm 3: neighbours, and the optimisation of the tree.

    @handles(NeighborUp)
    def on_neighbor_up(self, ctx: Ctx, event: NeighborUp) -> None:
        peer = event.peer
        if peer in self.eager or peer in self.lazy:
            return
        self.eager[peer] = None
        if self.config.catch_up:
            recent = self.received.since(ctx.now - self.config.catch_up)[:MAX_IHAVE]
            # Always through the queue: the peer may not count us as its neighbour yet.
            news = tuple([Announcement(mid, gossip.round) for mid, gossip in reversed(recent)])
            if news:
                self._announce(ctx, (peer,), news)

    @handles(NeighborDown)
    def on_neighbor_down(self, ctx: Ctx, event: NeighborDown) -> None:
        peer = event.peer
        self.eager.pop(peer, None)
        self.lazy.pop(peer, None)
        self.lazy_queue.pop(peer, None)
        if self.promises.pop(peer, None) is not None:
            for missing in self.missing.values():
                missing.announcers.pop(peer, None)

    def _optimise(self, ctx: Ctx, peer: PeerId, round: int, missing: Missing) -> None:
        """A clearly shorter way to the same message replaces the link it came by."""
        for other, ahead in missing.announcers.items():
            if ahead < round and round - ahead >= self.config.optimise_after:
                if other in self.lazy:
                    del self.lazy[other]
                    self.eager[other] = None
                if peer in self.eager:
                    del self.eager[peer]
                    self.lazy[peer] = None
                ctx.send(other, Graft(None, ahead))
                ctx.send(peer, Prune())
                return

    # Timers: a missing message's is its id.

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key == DISPATCH:
            self._dispatch(ctx)
        elif key == FORGET:
            self._forget(ctx)
        else:
            self._overdue(ctx, key)

    # Memory.

    def _remember(self, ctx: Ctx, mid: bytes, gossip: Gossip) -> None:
        self.received.add(mid, gossip, ctx.now)
        if not self._is_forgetting:
            self._is_forgetting = True
            ctx.set_timer(FORGET, self.config.kept_for)

    def _forget(self, ctx: Ctx) -> None:
        due = self.received.forget(ctx.now)
        for mid in [mid for mid in self.early if mid not in self.received.payloads]:
            del self.early[mid]  # what the tree has not brought by now, it will not
        self._is_forgetting = due is not None
        if due is not None:  # not for each message on its own: at most twice in `kept_for`
            ctx.set_timer(FORGET, max(due - ctx.now, self.config.kept_for / 2))

    def _next_seqno(self, ctx: Ctx) -> int:
        """A number never used before, in this life or an earlier one."""
        if self._seqno >= self._reserved:
            self._reserved = self._seqno + SEQNO_BLOCK
            ctx.save(SEQNO, self._reserved.to_bytes(8, "big"))
        seqno = self._seqno
        self._seqno += 1
        return seqno


def _check_topic(topic: str) -> None:
    """LocalProtocolError unless a topic has 1 to 128 characters that UTF-8 can carry."""
    if not 1 <= len(topic) <= MAX_TOPIC:
        raise LocalProtocolError(f"topic of {len(topic)} characters; it must have 1 to {MAX_TOPIC}")
    try:
        topic.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(f"topic {topic!r} has a lone surrogate, which UTF-8 lacks") from None
