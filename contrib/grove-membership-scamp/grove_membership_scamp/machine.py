"""Scamp as a machine: subscription, unsubscription, leases, heartbeats and indirection.

A node has a PartialView of those it sends to and an InView of those that have it in theirs. A newcomer
begins with its contact as the only entry. The contact forwards the subscription to each of its own
entries, and c copies more to random ones. Who gets a copy keeps it with probability 1/(1 + |view|),
and else passes it on to a random entry: views settle around (c + 1) ln n without anybody knowing n.

An entry is a name and not a link: no connection is held. Whoever broadcasts hears NeighborUp and
NeighborDown for entries, and sends to them over temporary connections.

Left to others: addresses, temporary connections and deadlines (the driver), and broadcasting; one that
asks for receipts says NeighborFailed, and the entry is dropped at once.

Invariants, between two inputs:
1. |partial_view| and |in_view| <= view_max, and the node itself is in neither.
2. An entry outlives its lease by at most one heartbeat interval.
3. Only a member of the PartialView can have itself replaced, so nobody plants entries by leaving.

Where the paper is silent, or was found wanting:
* A renewed subscription is forwarded in as many copies as there are entries about to expire. One for
  each entry of the contact, as at first, makes views grow with every lease (here: from 21 to 42
  entries in six leases, even without the c extra copies), for contacts are drawn from views and who
  is in many views has a large one.
* A copy is dropped after `walk_max` hops. In a village where everybody has the newcomer in view it
  would walk for ever (so PeerSim's port found).
* Heartbeats also tell who has us in view, and who leaves says DROPPED to its entries: the rule of
  unsubscription as published lets InViews decay (PeerSim's port).
* A contact that does not answer leaves the view, and another is asked.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from grove_core.events import NeighborDown, NeighborFailed, NeighborUp, PeerFound
from grove_core.machine import Context, Machine, PeerId, Token, handles
from grove_membership_scamp.config import Config
from grove_membership_scamp.messages import (
    Accept,
    Dropped,
    Forward,
    Heartbeat,
    Kept,
    Replace,
    ScampMessage,
    Subscribe,
    Subscribed,
    Subscriber,
    View,
)

Ctx: TypeAlias = Context[ScampMessage]

BEAT: Final = "beat"
RENEW: Final = "renew"
SUBSCRIBE: Final = "subscribe"

VIEW: Final = "view"
VERSION: Final = 1


class Scamp(Machine[ScampMessage]):
    """One node's membership. Emits NeighborUp, NeighborDown and PeerFound."""

    __slots__ = ("_heard_at", "_is_new", "config", "contacts", "has_left", "in_view", "is_waiting",
                 "partial_view")  # fmt: skip

    def __init__(self, config: Config) -> None:
        self.config = config
        self.partial_view: dict[PeerId, float] = {}
        """Entries, and when each was made."""
        self.in_view: dict[PeerId, float] = {}
        """Who has us in view, and when it last said so."""
        self.contacts: dict[PeerId, None] = {}
        """Ways in, oldest first."""
        self.is_waiting = False
        """Whether an ACCEPT is owed to us."""
        self.has_left = False
        self._heard_at = 0.0
        self._is_new = True

    # The role (grove_core.roles.MembershipMachine).

    def neighbors(self) -> tuple[PeerId, ...]:
        """The PartialView, oldest entry first."""
        return tuple(self.partial_view)

    def known(self) -> tuple[PeerId, ...]:
        """Those that have us in view and are not in ours."""
        return tuple(peer for peer in self.in_view if peer not in self.partial_view)

    def join(self, ctx: Ctx, contact: PeerId) -> None:
        """Subscribe through a contact; tried again at every heartbeat that finds the view empty."""
        self.has_left = False
        if contact == ctx.me:
            return
        self.contacts.pop(contact, None)
        self.contacts[contact] = None
        if len(self.contacts) > self.config.contacts:
            del self.contacts[next(iter(self.contacts))]
        self._subscribe(ctx, contact, is_new=True)

    def leave(self, ctx: Ctx) -> None:
        """Unsubscribe: all but c + 1 of the InView get an entry of ours in our place."""
        ours = list(self.partial_view)
        replaced = len(self.in_view) - self.config.c - 1
        for number, peer in enumerate(self.in_view):
            by = ours[number % len(ours)] if ours and number < replaced else None
            if by == peer:
                by = None
            ctx.send(peer, Replace(None if by is None else Subscriber(by, ctx.record(by))))
        for peer in ours:
            ctx.send(peer, Dropped())
            self._drop(ctx, peer)
        self.in_view.clear()
        self.contacts.clear()
        self.has_left = True
        self.is_waiting = False
        ctx.save(VIEW, None)

    # Life.

    def on_start(self, ctx: Ctx) -> None:
        """Begin the heartbeats at a drawn offset, with the view of the last life if there was one."""
        self._heard_at = ctx.now
        ctx.set_timer(RENEW, self.config.lease)
        ctx.set_timer(BEAT, self.config.heartbeat_interval * ctx.rng.random())
        kept = _restored(ctx.load(VIEW))
        if kept is None:
            return
        for contact in kept.contacts[: self.config.contacts]:
            self._found(ctx, contact)
            self.contacts[contact.peer] = None
        for entry in kept.entries:
            if self._has_room_for(ctx, entry.peer):
                self._keep(ctx, entry)
        ctx.set_timer(RENEW, self.config.heartbeat_interval)  # the old subscription may have expired

    def on_stop(self, ctx: Ctx) -> None:
        if not self.has_left:
            self._save(ctx)

    # Subscription.

    def _subscribe(self, ctx: Ctx, contact: PeerId, *, is_new: bool) -> None:
        self._is_new = is_new
        self.is_waiting = is_new and not self.partial_view
        redirects = self.config.indirection if is_new else 0
        renewed = 0 if is_new else len(self.in_view)
        subscribe = Subscribe(Subscriber(ctx.me, ctx.record(ctx.me)), redirects, renewed)
        ctx.request(contact, subscribe, SUBSCRIBE, self.config.answer_timeout)

    def on_request(self, ctx: Ctx, peer: PeerId, msg: ScampMessage, token: Token) -> None:
        if isinstance(msg, Subscribe):
            taken = not self.has_left and msg.new.peer == peer
            ctx.reply(token, Subscribed(taken))
            if taken:
                self.on_subscribe(ctx, peer, msg)

    @handles(Subscribe)
    def on_subscribe(self, ctx: Ctx, peer: PeerId, msg: Subscribe) -> None:
        """Pass it on, or act as the contact: one copy for each entry, and c more."""
        new = msg.new
        if self.has_left or new.peer == ctx.me:
            return
        view = [other for other in self.partial_view if other != new.peer]
        redirects = min(msg.redirects, self.config.indirection)
        if redirects and view:
            to = view[int(ctx.rng.random() * len(view))]
            ctx.send(to, Subscribe(new, redirects - 1, msg.renewed))
            return
        self._found(ctx, new)
        if not msg.renewed:
            ctx.send(new.peer, Accept())
        copy = Forward(new, 0)
        copies = min(msg.renewed, self.config.view_max) or len(view) + self.config.c
        for other in view[:copies]:
            ctx.send(other, copy)
        for _ in range(copies - len(view) if view else 0):
            ctx.send(view[int(ctx.rng.random() * len(view))], copy)
        if not view and self._has_room_for(ctx, new.peer):
            self._keep(ctx, new)

    @handles(Subscribed)
    def on_subscribed(self, ctx: Ctx, peer: PeerId, msg: Subscribed) -> None:
        """An answer nobody waits for on this stream: nothing."""

    @handles(Accept)
    def on_accept(self, ctx: Ctx, peer: PeerId, msg: Accept) -> None:
        """The contact is the first entry of a newcomer's view."""
        if self.is_waiting:
            self.is_waiting = False
            if self._has_room_for(ctx, peer):
                self._keep(ctx, Subscriber(peer))

    @handles(Forward)
    def on_forward(self, ctx: Ctx, peer: PeerId, msg: Forward) -> None:
        """Keep a copy with probability 1/(1 + |view|), else pass it on."""
        if self.has_left:
            return
        view, new = self.partial_view, msg.new.peer
        if self._has_room_for(ctx, new) and ctx.rng.random() * (1 + len(view)) < 1.0:
            self._keep(ctx, msg.new)
        elif view and msg.hops < self.config.walk_max:
            others = list(view)
            to = others[int(ctx.rng.random() * len(others))]
            ctx.send(to, Forward(msg.new, msg.hops + 1))

    def on_reply(self, ctx: Ctx, key: Any, peer: PeerId, msg: ScampMessage) -> None:
        if key == SUBSCRIBE and isinstance(msg, Subscribed) and not msg.taken:
            self._try_another(ctx, peer)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        if key == SUBSCRIBE:
            self._try_another(ctx, peer)

    def _try_another(self, ctx: Ctx, peer: PeerId) -> None:
        """The contact is gone; so is the entry. An empty view waits for the next heartbeat."""
        if peer in self.partial_view:
            self._drop(ctx, peer)
        if self.partial_view and not self.has_left:
            self._subscribe(ctx, self._someone(ctx), is_new=self._is_new)

    # The two ends of an entry.

    @handles(Kept, Heartbeat)
    def on_kept(self, ctx: Ctx, peer: PeerId, msg: Kept | Heartbeat) -> None:
        """Somebody has us in view: we are not forgotten."""
        if self.has_left:
            ctx.send(peer, Replace(None))
            return
        self._heard_at = ctx.now
        if peer in self.in_view or len(self.in_view) < self.config.view_max:
            self.in_view[peer] = ctx.now

    @handles(Dropped)
    def on_dropped(self, ctx: Ctx, peer: PeerId, msg: Dropped) -> None:
        self.in_view.pop(peer, None)

    @handles(Replace)
    def on_replace(self, ctx: Ctx, peer: PeerId, msg: Replace) -> None:
        """An entry leaves, and says who comes in its place."""
        self.in_view.pop(peer, None)
        if peer in self.partial_view:
            self._drop(ctx, peer)
            if msg.by is not None and self._has_room_for(ctx, msg.by.peer):
                self._keep(ctx, msg.by)

    @handles(NeighborFailed)
    def on_neighbor_failed(self, ctx: Ctx, event: NeighborFailed) -> None:
        """A failed push takes its target out of the view."""
        if event.peer in self.partial_view:
            self._drop(ctx, event.peer)

    def _has_room_for(self, ctx: Ctx, peer: PeerId) -> bool:
        view = self.partial_view
        return peer not in view and peer != ctx.me and len(view) < self.config.view_max

    def _keep(self, ctx: Ctx, new: Subscriber) -> None:
        assert self._has_room_for(ctx, new.peer)
        self._found(ctx, new)
        self.partial_view[new.peer] = ctx.now
        ctx.send(new.peer, Kept())
        ctx.emit(NeighborUp(new.peer))

    def _drop(self, ctx: Ctx, peer: PeerId) -> None:
        del self.partial_view[peer]
        ctx.emit(NeighborDown(peer))

    # Leases, heartbeats, isolation.

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key == BEAT:
            ctx.set_timer(BEAT, self.config.heartbeat_interval)
            if not self.has_left:
                self._beat(ctx)
        elif key == RENEW:
            ctx.set_timer(RENEW, self.config.lease)
            if self.partial_view:
                self._subscribe(ctx, self._someone(ctx), is_new=not self.in_view)
                self._save(ctx)

    def _beat(self, ctx: Ctx) -> None:
        """Drop what has expired, tell everybody else that we have it, and see who has us."""
        now = ctx.now
        for peer in [p for p, kept in self.partial_view.items() if kept + self.config.lease <= now]:
            self._drop(ctx, peer)
            ctx.send(peer, Dropped())
        for peer in [p for p, heard in self.in_view.items() if heard + self.config.isolation <= now]:
            del self.in_view[peer]
        for peer in self.partial_view:
            ctx.send(peer, Heartbeat())
        ways = tuple(self.contacts) or tuple(self.in_view)
        if not self.partial_view and ways:
            self._subscribe(ctx, ways[int(ctx.rng.random() * len(ways))], is_new=True)
        elif self.partial_view and self._heard_at + self.config.isolation <= now:
            self._heard_at = now  # give it as long again
            self._subscribe(ctx, self._someone(ctx), is_new=True)

    def _someone(self, ctx: Ctx) -> PeerId:
        view = tuple(self.partial_view)
        return view[int(ctx.rng.random() * len(view))]

    # Discovery and records.

    @handles(PeerFound)
    def on_peer_found(self, ctx: Ctx, event: PeerFound) -> None:
        """Discovery reports a peer: a way in if we know nobody."""
        if not (self.has_left or self.partial_view or self.is_waiting) and event.peer != ctx.me:
            self.join(ctx, event.peer)

    def _found(self, ctx: Ctx, one: Subscriber) -> None:
        """Let the driver know how to reach a peer that somebody told us of."""
        if one.record and one.peer != ctx.me:
            ctx.emit(PeerFound(one.peer, one.record))

    def _save(self, ctx: Ctx) -> None:
        entries = tuple([Subscriber(peer, ctx.record(peer)) for peer in self.partial_view])
        contacts = tuple([Subscriber(peer, ctx.record(peer)) for peer in self.contacts])
        ctx.save(VIEW, msgspec.msgpack.encode(View(VERSION, entries, contacts)))


def _restored(record: bytes | None) -> View | None:
    """The view of the last life, or None if there was none or another version wrote it."""
    if record is None:
        return None
    try:
        view = msgspec.msgpack.decode(record, type=View)
    except msgspec.DecodeError:
        return None
    return view if view.version == VERSION else None
