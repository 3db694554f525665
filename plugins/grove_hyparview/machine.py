"""HyParView as a machine: sections 4 and 5 and Algorithm 1 of TR DI-FCUL 07-13.

A node keeps two partial views. The active view is small and symmetric: each entry is a link that
both ends hold open, and whoever broadcasts floods it. The passive view is larger and costs nothing:
its entries replace active ones when links break. JOIN and FORWARDJOIN bring a newcomer into active
views, NEIGHBOR promotes a passive peer, SHUFFLE keeps passive views fresh.

Left to others: opening connections, noticing that they broke and knowing addresses (the driver),
broadcasting (a sibling that hears NeighborUp and NeighborDown), finding the first contact.

Invariants, between two inputs:
1. Active and passive view are disjoint, and the node itself is in neither.
2. |active| <= active_size and |passive| <= passive_size; `dialing` and `asked` together hold at
   most `pending` peers of other people's choosing, and no member of the active view.
3. With no message in flight, links are symmetric: a peer that treats us as a neighbour when it is
   none of ours is told DISCONNECT, whatever made it think so.

Where the paper is silent or contradicts itself:
* A FORWARDJOIN stops at a node with *one* active peer (the text; Algorithm 1 says none).
* Admission at the end of a walk is a NEIGHBOR to the newcomer, who enters the view when it accepts:
  the reverse link exists, and a newcomer that cannot be reached enters no view.
* A link is gone when the driver says so (`on_peer_down`), at every node that held it, whether or
  not it was sending: failure detection as TCP gives it, without which the paper's figures
  cannot be reached (Leitão et al. assume it of TCP).
* A SHUFFLEREPLY counts only once per own SHUFFLE, else anybody could rewrite a passive view.
* A node that is alone, or short of neighbours with an empty passive view, joins again.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import filterfalse
from random import Random
from typing import Any, Final, Literal, TypeAlias

import msgspec

from grove_core.events import NeighborDown, NeighborUp, PeerFound
from grove_core.machine import CONNECT, Context, Machine, PeerId, handles
from grove_hyparview.config import Config
from grove_hyparview.messages import (
    MAX_CONTACTS,
    Contact,
    Disconnect,
    ForwardJoin,
    HyParViewMessage,
    Join,
    Neighbor,
    NeighborReply,
    Shuffle,
    ShuffleReply,
    Views,
)

Ctx: TypeAlias = Context[HyParViewMessage]

Errand = Literal["join", "admit", "repair"]
"""Why a peer is being dialled or asked: to enter through it, to let it in, to fill a free slot."""

CYCLE: Final = "cycle"
REJOIN: Final = "rejoin"
SAVE: Final = "save"

VIEWS: Final = "views"
VERSION: Final = 1


class HyParView(Machine[HyParViewMessage]):
    """One node's membership. Emits NeighborUp, NeighborDown and PeerFound."""

    __slots__ = (
        "_allowance",
        "_allowed_at",
        "_backoff",
        "_is_rejoining",
        "_is_saving",
        "active",
        "asked",
        "config",
        "contacts",
        "dialing",
        "has_left",
        "passive",
        "shuffled",
        "tried",
    )

    def __init__(self, config: Config) -> None:
        self.config = config
        self.active: dict[PeerId, None] = {}
        """The active view, oldest link first."""
        self.passive: dict[PeerId, None] = {}
        """The passive view, oldest entry first."""
        self.dialing: dict[PeerId, Errand] = {}
        """Peers whose connection we wait for."""
        self.asked: dict[PeerId, Errand] = {}
        """Peers whose answer to JOIN or NEIGHBOR we wait for."""
        self.tried: dict[PeerId, None] = {}
        """Passive peers already asked in this round of repair."""
        self.contacts: dict[PeerId, bool] = {}
        """Ways back in, oldest first; True for those that `join` was given."""
        self.shuffled: tuple[PeerId, ...] | None = None
        """Ids in our last SHUFFLE, until its reply has come."""
        self.has_left = False
        self._allowance = float(config.join_burst)
        self._allowed_at = 0.0
        self._backoff = config.rejoin_min
        self._is_rejoining = False
        self._is_saving = False

    # The role (grove_core.roles.MembershipMachine).

    def neighbors(self) -> tuple[PeerId, ...]:
        """The active view, oldest link first."""
        return tuple(self.active)

    def known(self) -> tuple[PeerId, ...]:
        """The passive view, oldest entry first."""
        return tuple(self.passive)

    def join(self, ctx: Ctx, contact: PeerId) -> None:
        """Enter through a contact; retried with growing waits for as long as the node is alone."""
        self.has_left = False
        if contact != ctx.me:
            self._remember(contact, given=True)
            self._ask(ctx, contact, "join")

    def leave(self, ctx: Ctx) -> None:
        """Say goodbye and keep nobody: neither views nor contacts nor records. `join` ends it."""
        self._goodbye(ctx)
        self.passive.clear()
        self.contacts.clear()
        ctx.save(VIEWS, None)

    # Life.

    def on_start(self, ctx: Ctx) -> None:
        """Begin the cycles at a drawn offset, and go back in through the views of the last life."""
        self._allowed_at = ctx.now
        interval = self.config.shuffle_interval
        ctx.set_timer(CYCLE, interval * ctx.rng.random())
        kept = _restored(ctx.load(VIEWS))
        if kept is None:
            return
        for contact in kept.contacts[: self.config.contacts]:
            self._found(ctx, contact)
            if contact.peer != ctx.me:
                self._remember(contact.peer)
        for contact in (kept.active + kept.passive)[: self.config.passive_size]:
            self._found(ctx, contact)
            self._reserve(ctx, contact.peer)
        self._refill(ctx)

    def on_stop(self, ctx: Ctx) -> None:
        """Keep the views for the next life, then say goodbye."""
        if self.config.save_delay:
            self._save(ctx)
        self._goodbye(ctx)

    # Join: the newcomer connects to a contact and sends JOIN, which walks on as FORWARDJOIN.

    def on_peer_up(self, ctx: Ctx, peer: PeerId) -> None:
        errand = self.dialing.pop(peer, None)
        if errand is None:
            return
        self.asked[peer] = errand
        ctx.set_timer(peer, self.config.neighbor_timeout)
        if errand == "join":
            ctx.send(peer, Join(ctx.record(ctx.me)))
        else:
            ctx.send(peer, Neighbor(errand == "admit" or not self.active))

    @handles(Join)
    def on_join(self, ctx: Ctx, peer: PeerId, msg: Join) -> None:
        """A contact always admits a newcomer, and lets it walk from each other active peer."""
        new = Contact(peer, msg.record)
        self._found(ctx, new)
        if self.has_left:
            ctx.send(peer, NeighborReply(False))
        elif not self._allows(ctx):
            # Deviation: beyond `join_rate` a newcomer is sent to others instead of pushing
            # neighbours out, which spreads a storm over the village.
            ctx.send(peer, NeighborReply(peer in self.active, self._others(ctx, peer)))
        else:
            if peer not in self.active:
                self._admit(ctx, peer)
            ctx.send(peer, NeighborReply(True))
            walk = ForwardJoin(new, self.config.arwl)
            for other in self.active:
                if other != peer:
                    ctx.send(other, walk)

    @handles(ForwardJoin)
    def on_forward_join(self, ctx: Ctx, peer: PeerId, msg: ForwardJoin) -> None:
        if peer not in self.active:
            return self._not_neighbors(ctx, peer)
        new, ttl = msg.new.peer, min(msg.ttl, self.config.arwl)
        if new == ctx.me:
            return None
        self._found(ctx, msg.new)
        others = [other for other in self.active if other != peer and other != new]
        if ttl == 0 or not others:
            if len(self.dialing) + len(self.asked) < self.config.pending:
                self._ask(ctx, new, "admit")
            else:
                self._reserve(ctx, new)
            return None
        if ttl == self.config.prwl:
            self._reserve(ctx, new)
        ctx.send(_one_of(ctx.rng, others), ForwardJoin(msg.new, ttl - 1))
        return None

    # Active view management.

    @handles(Neighbor)
    def on_neighbor(self, ctx: Ctx, peer: PeerId, msg: Neighbor) -> None:
        """High priority is always granted, low only with a free slot."""
        if peer in self.active:  # it has forgotten us, or our question and its own crossed
            accepted = True
        elif self.has_left:
            accepted = False
        elif len(self.active) < self.config.active_size:
            accepted = True
        else:
            accepted = msg.high and self._allows(ctx)
        if accepted and peer not in self.active:
            self._admit(ctx, peer)
        ctx.send(peer, NeighborReply(accepted))

    @handles(NeighborReply)
    def on_neighbor_reply(self, ctx: Ctx, peer: PeerId, msg: NeighborReply) -> None:
        errand = self.asked.pop(peer, None)
        if errand is not None:
            ctx.cancel_timer(peer)
        if msg.accepted:
            self._accepted(ctx, peer, errand)
        elif peer in self.active:
            # The questions crossed and it had no slot left: neither end keeps the link.
            ctx.send(peer, Disconnect())
            self._drop(ctx, peer)
            self._reserve(ctx, peer)
            self._refill(ctx)
        elif errand is not None:
            ctx.disconnect(peer)
            self.tried[peer] = None  # it stays in the passive view, and another one is tried
            if errand == "join":
                self._merge(ctx, msg.contacts, ())
            self._refill(ctx)

    def _accepted(self, ctx: Ctx, peer: PeerId, errand: Errand | None) -> None:
        has_room = len(self.active) < self.config.active_size
        if peer in self.active:
            return
        if not self.has_left and (has_room or errand in ("join", "admit")):
            self._admit(ctx, peer, is_held=errand is not None)
        else:  # too late, or the last slot went to somebody else meanwhile
            ctx.send(peer, Disconnect())
            if errand is not None:
                ctx.disconnect(peer)

    @handles(Disconnect)
    def on_disconnect(self, ctx: Ctx, peer: PeerId, msg: Disconnect) -> None:
        """The sender moves from the active to the passive view; the slot is free."""
        if not msg.alive:
            self.passive.pop(peer, None)
        if peer not in self.active:
            return
        self._drop(ctx, peer)
        if msg.alive:
            self._reserve(ctx, peer)
            self.tried[peer] = None
        if self.config.refill == "now":
            self._refill(ctx)

    def on_peer_down(self, ctx: Ctx, peer: PeerId) -> None:
        """The link broke: the peer is taken for failed, and a passive peer takes its place."""
        if peer in self.active:
            self._drop(ctx, peer, is_held=False)
            self.tried.clear()
            self._refill(ctx)
        elif peer in self.asked:
            self._give_up(ctx, peer)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        """A dial failed: the peer leaves the passive view, and the next one is tried."""
        if key is not CONNECT:
            return
        if peer in self.active:
            self.on_peer_down(ctx, peer)
        elif self.dialing.pop(peer, None) is not None:
            self._give_up(ctx, peer)

    def _give_up(self, ctx: Ctx, peer: PeerId) -> None:
        if self.asked.pop(peer, None) is not None:
            ctx.cancel_timer(peer)
            ctx.disconnect(peer)
        self.passive.pop(peer, None)
        self._refill(ctx)

    def _refill(self, ctx: Ctx) -> None:
        """Ask as many passive peers, drawn at random, as slots are free; when none is left, rejoin."""
        if self.has_left or not self.config.repair:
            return
        errands = (*self.dialing.values(), *self.asked.values())
        free = self.config.active_size - len(self.active) - errands.count("repair")
        if free > 0 and len(self.tried) < self.config.attempts:
            fresh = list(filterfalse(self.tried.__contains__, self.passive))
            for _ in range(min(free, len(fresh), self.config.attempts - len(self.tried))):
                peer = fresh.pop(int(ctx.rng.random() * len(fresh)))
                self.tried[peer] = None
                self._ask(ctx, peer, "repair")
        if not self.dialing and not self.asked:
            self._rejoin_if_stranded(ctx)

    # Passive view management.

    def _cycle(self, ctx: Ctx) -> None:
        """Once per `shuffle_interval`: fill free slots, then shuffle with a random active peer."""
        ctx.set_timer(CYCLE, self.config.shuffle_interval)
        self.tried.clear()
        if len(self.active) < self.config.active_size:
            self._refill(ctx)
        self.shuffled = None
        if self.active:
            active = tuple(self.active)
            sample = _some_of(ctx.rng, active, self.config.ka)
            sample += _some_of(ctx.rng, tuple(self.passive), self.config.kp)
            self.shuffled = sample
            origin = Contact(ctx.me, ctx.record(ctx.me))
            shuffle = Shuffle(origin, self._contacts(ctx, sample), self.config.shuffle_ttl)
            ctx.send(_one_of(ctx.rng, active), shuffle)

    @handles(Shuffle)
    def on_shuffle(self, ctx: Ctx, peer: PeerId, msg: Shuffle) -> None:
        if peer not in self.active:
            return self._not_neighbors(ctx, peer)
        origin, ttl = msg.origin.peer, min(msg.ttl, self.config.shuffle_ttl) - 1
        if origin == ctx.me:
            return None
        if ttl > 0:
            others = [other for other in self.active if other != peer and other != origin]
            if others:
                ctx.send(_one_of(ctx.rng, others), Shuffle(msg.origin, msg.contacts, ttl))
                return None
        # A young passive view may be empty; iroh-gossip then offers active ids, and so do we.
        offer = tuple(self.passive) or tuple(other for other in self.active if other != origin)
        sample = _some_of(ctx.rng, offer, len(msg.contacts))
        ctx.send(origin, ShuffleReply(self._contacts(ctx, sample)))
        self._merge(ctx, (msg.origin, *msg.contacts), sample)
        return None

    @handles(ShuffleReply)
    def on_shuffle_reply(self, ctx: Ctx, peer: PeerId, msg: ShuffleReply) -> None:
        sent, self.shuffled = self.shuffled, None
        if sent is None:
            return
        # At most as many as were sent: the reply has "the same number of ids".
        self._merge(ctx, msg.contacts[: max(1, len(sent))], sent)
        if self.config.refill == "now" and len(self.active) < self.config.active_size:
            self._refill(ctx)

    def _merge(self, ctx: Ctx, contacts: Iterable[Contact], sent: tuple[PeerId, ...]) -> None:
        """Take ids into the passive view, evicting first what was just sent to the peer."""
        passive, active, size = self.passive, self.active, self.config.passive_size
        expendable = [peer for peer in sent if peer in passive]
        for contact in contacts:
            peer = contact.peer
            if contact.record:
                self._found(ctx, contact)
            if peer in passive or peer in active or peer == ctx.me:
                continue
            if len(passive) >= size:
                del passive[expendable.pop() if expendable else _one_of(ctx.rng, tuple(passive))]
            passive[peer] = None
        self._changed(ctx)

    def _reserve(self, ctx: Ctx, peer: PeerId) -> None:
        """Into the passive view, in place of a random entry if it is full."""
        self._merge(ctx, (Contact(peer),), ())

    # Links.

    def _ask(self, ctx: Ctx, peer: PeerId, errand: Errand) -> None:
        """Begin to make a neighbour: connect, then JOIN or NEIGHBOR, then the reply."""
        if peer not in self.active and peer not in self.dialing and peer not in self.asked:
            self.dialing[peer] = errand
            ctx.connect(peer)

    def _admit(self, ctx: Ctx, peer: PeerId, *, is_held: bool = False) -> None:
        """Into the active view; if it is full, a random peer is dropped with DISCONNECT."""
        assert peer not in self.active
        if self.asked.pop(peer, None) is not None:
            ctx.cancel_timer(peer)
            is_held = True
        if self.dialing.pop(peer, None) is not None:
            is_held = True  # the connect we are waiting for will hold it
        if len(self.active) >= self.config.active_size:
            dropped = _one_of(ctx.rng, tuple(self.active))
            ctx.send(dropped, Disconnect())
            self._drop(ctx, dropped)
            self._reserve(ctx, dropped)
        self.passive.pop(peer, None)
        self.active[peer] = None
        if not is_held:
            ctx.connect(peer)
        ctx.emit(NeighborUp(peer))
        self._remember(peer)
        self._changed(ctx)
        self._backoff = self.config.rejoin_min
        assert len(self.active) <= self.config.active_size

    def _drop(self, ctx: Ctx, peer: PeerId, *, is_held: bool = True) -> None:
        """Out of the active view; where to is the caller's to say."""
        del self.active[peer]
        if is_held:
            ctx.disconnect(peer)
        ctx.emit(NeighborDown(peer))
        self._changed(ctx)

    def _not_neighbors(self, ctx: Ctx, peer: PeerId) -> None:
        """A walk came from a peer that is none of ours: tell it so, and let the walk end here.

        This is how asymmetry heals (invariant 3). A DISCONNECT from a stranger is not answered, so
        two nodes cannot keep each other busy with it.
        """
        ctx.send(peer, Disconnect())

    def _goodbye(self, ctx: Ctx) -> None:
        for peer in tuple(self.active):
            ctx.send(peer, Disconnect(alive=False))
            self._drop(ctx, peer)
        for peer in (*self.dialing, *self.asked):
            ctx.disconnect(peer)
            ctx.cancel_timer(peer)
        self.dialing.clear()
        self.asked.clear()
        self.tried.clear()
        self.shuffled = None
        self.has_left = True
        ctx.cancel_timer(REJOIN)
        ctx.cancel_timer(SAVE)
        self._is_rejoining = self._is_saving = False

    # Being stranded, which the paper leaves open.

    def _is_stranded(self) -> bool:
        return not self.active or (len(self.active) < self.config.active_size and not self.passive)

    def _rejoin_if_stranded(self, ctx: Ctx) -> None:
        """Try again later, if there is anybody left to try."""
        if self._is_rejoining or not self._is_stranded():
            return
        if self.passive or any(peer not in self.active for peer in self.contacts):
            self._is_rejoining = True
            ctx.set_timer(REJOIN, self._backoff * (0.5 + ctx.rng.random()))
            self._backoff = min(2 * self._backoff, self.config.rejoin_max)

    def _rejoin(self, ctx: Ctx) -> None:
        self._is_rejoining = False
        if self.has_left or not self._is_stranded():
            return
        ways = [peer for peer in self.contacts if peer not in self.active]
        if ways:
            self._ask(ctx, _one_of(ctx.rng, ways), "join")
        self.tried.clear()
        self._refill(ctx)

    @handles(PeerFound)
    def on_peer_found(self, ctx: Ctx, event: PeerFound) -> None:
        """Discovery reports a peer: a way in if we know nobody, else a passive peer if there is room."""
        if self.has_left or event.peer == ctx.me:
            return
        if not self.active and not self.passive and not self.dialing and not self.asked:
            self.join(ctx, event.peer)
        elif len(self.passive) < self.config.passive_size:
            self._reserve(ctx, event.peer)

    # Timers.

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key == CYCLE:
            self._cycle(ctx)
        elif key == REJOIN:
            self._rejoin(ctx)
        elif key == SAVE:
            self._save(ctx)
        elif key in self.asked:  # it took our JOIN or NEIGHBOR and stays mute
            self._give_up(ctx, key)

    # Records: a restarted node goes back in by itself.

    def _changed(self, ctx: Ctx) -> None:
        if self.config.save_delay and not self._is_saving:
            self._is_saving = True
            ctx.set_timer(SAVE, self.config.save_delay)

    def _save(self, ctx: Ctx) -> None:
        self._is_saving = False
        views = Views(
            VERSION,
            self._contacts(ctx, self.active),
            self._contacts(ctx, self.passive),
            self._contacts(ctx, self.contacts),
        )
        ctx.save(VIEWS, msgspec.msgpack.encode(views))

    # Small things.

    def _found(self, ctx: Ctx, contact: Contact) -> None:
        """Let the driver know how to reach a peer that somebody told us of."""
        if contact.record and contact.peer != ctx.me:
            ctx.emit(PeerFound(contact.peer, contact.record))

    def _contacts(self, ctx: Ctx, peers: Iterable[PeerId]) -> tuple[Contact, ...]:
        return tuple([Contact(peer, ctx.record(peer)) for peer in peers])

    def _others(self, ctx: Ctx, newcomer: PeerId) -> tuple[Contact, ...]:
        """Where a refused newcomer may try instead."""
        peers = tuple(peer for peer in (*self.active, *self.passive) if peer != newcomer)
        count = min(self.config.ka + self.config.kp, MAX_CONTACTS)
        return self._contacts(ctx, _some_of(ctx.rng, peers, count))

    def _remember(self, peer: PeerId, *, given: bool = False) -> None:
        """Keep a way back in; the oldest that `join` was not given makes room."""
        contacts = self.contacts
        given = contacts.pop(peer, False) or given
        contacts[peer] = given
        if len(contacts) > self.config.contacts:
            spare = next((known for known, was_given in contacts.items() if not was_given), None)
            del contacts[next(iter(contacts)) if spare is None else spare]

    def _allows(self, ctx: Ctx) -> bool:
        """Whether one more newcomer fits in `join_rate` and `join_burst`; counts it if so."""
        passed = ctx.now - self._allowed_at
        self._allowed_at = ctx.now
        burst = float(self.config.join_burst)
        self._allowance = min(burst, self._allowance + passed * self.config.join_rate)
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True


def _one_of(rng: Random, peers: tuple[PeerId, ...] | list[PeerId]) -> PeerId:
    """One of the peers, drawn evenly. `rng.choice` does the same in three times the time."""
    return peers[int(rng.random() * len(peers))]


def _some_of(rng: Random, peers: tuple[PeerId, ...], count: int) -> tuple[PeerId, ...]:
    """Count different peers, or all of them if they are fewer: the first steps of a shuffle."""
    if count >= len(peers):
        return peers
    pool = list(peers)
    for i in range(count):
        j = i + int(rng.random() * (len(pool) - i))
        pool[i], pool[j] = pool[j], pool[i]
    return tuple(pool[:count])


def _restored(record: bytes | None) -> Views | None:
    """The views of the last life, or None if there was none or another version wrote them."""
    if record is None:
        return None
    try:
        views = msgspec.msgpack.decode(record, type=Views)
    except msgspec.DecodeError:
        return None
    return views if views.version == VERSION else None
