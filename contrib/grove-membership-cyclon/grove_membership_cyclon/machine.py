"""Cyclon as a machine: the enhanced shuffling of JNSM 13(2) 2005, and its join by random walks.

A node keeps one view of c entries, each a peer and an age in cycles. In every cycle it takes the
oldest entry out, sends that peer l entries (itself with age 0 in the place of the one taken out) and
gets l in return; both ends put what is new to them in free places first, then in the places of what
they sent. Who does not answer has thereby left the view: that is how the dead disappear.

An entry is a name and not a link: no connection is held, nobody knows who has it in view, and
nothing tells that an entry died but a question it leaves open. Whoever broadcasts hears NeighborUp
and NeighborDown for entries, and sends to them over temporary connections.

Left to others: addresses, temporary connections and deadlines (the driver), broadcasting, and
noticing between two cycles that an entry failed: a broadcast with receipts says NeighborFailed, the
entry is dropped at once, and that is CyclonAcked.

Invariants, between two inputs:
1. |view| <= view_size, and the node itself is not in it.
2. A walk's end exchanges the newcomer for the entry it gives away, so nobody's in-degree changes.
3. WELCOMEs are taken only as long as the walks that were asked for are owed.

Where the sources are silent:
* A walk ends early at a node that knows nobody else. A node with a free place gives itself away, for
  it has nothing to exchange.
* Ages are kept as the cycle in which an entry was made, so that a cycle need not touch all of them.
* Who answered a shuffle goes back into a view that still has room after the exchange. In large
  villages there is none; in a village of two the entry would otherwise be lost.
* A node whose view is empty joins again in its next cycle. There is no goodbye.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any, Final, TypeAlias

import msgspec

from grove_core.events import NeighborDown, NeighborFailed, NeighborUp, PeerFound
from grove_core.machine import Context, Machine, PeerId, Token, handles
from grove_membership_cyclon.config import Config
from grove_membership_cyclon.messages import (
    MAX_AGE,
    CyclonMessage,
    Entry,
    Join,
    Joining,
    Shuffle,
    Shuffled,
    View,
    Walk,
    Welcome,
)

Ctx: TypeAlias = Context[CyclonMessage]

CYCLE: Final = "cycle"
JOIN: Final = "join"
SHUFFLE: Final = "shuffle"

VIEW: Final = "view"
VERSION: Final = 1


class Cyclon(Machine[CyclonMessage]):
    """One node's membership. Emits NeighborUp, NeighborDown and PeerFound."""

    __slots__ = ("config", "contacts", "cycle", "has_left", "owed", "shuffled", "view")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.view: dict[PeerId, int] = {}
        """Entries, and the cycle in which each was made: its age is `cycle` minus that."""
        self.cycle = 0
        self.shuffled: tuple[PeerId, ...] = ()
        """Our entries in the open shuffle, which its answer may overwrite."""
        self.owed = 0
        """WELCOMEs that our last JOIN may still bring."""
        self.contacts: dict[PeerId, None] = {}
        """Ways in, oldest first."""
        self.has_left = False

    # The role (grove_core.roles.MembershipMachine).

    def neighbors(self) -> tuple[PeerId, ...]:
        """The view, oldest entry in our hands first."""
        return tuple(self.view)

    def known(self) -> tuple[PeerId, ...]:
        """Nobody: there is one view."""
        return ()

    def join(self, ctx: Ctx, contact: PeerId) -> None:
        """Enter through a contact; tried again in every cycle that finds the view empty."""
        self.has_left = False
        if contact == ctx.me:
            return
        self.contacts.pop(contact, None)
        self.contacts[contact] = None
        if len(self.contacts) > self.config.contacts:
            del self.contacts[next(iter(self.contacts))]
        self._ask_in(ctx, contact)

    def leave(self, ctx: Ctx) -> None:
        """Forget everybody and answer nobody; the others' entries of us grow old. `join` ends it."""
        self.has_left = True
        self.owed = 0
        self.contacts.clear()
        for peer in tuple(self.view):
            self._drop(ctx, peer)
        ctx.save(VIEW, None)

    # Life.

    def on_start(self, ctx: Ctx) -> None:
        """Begin the cycles at a drawn offset, with the view of the last life if there was one."""
        ctx.set_timer(CYCLE, self.config.shuffle_interval * ctx.rng.random())
        kept = _restored(ctx.load(VIEW))
        if kept is not None:
            for entry in kept.contacts[: self.config.contacts]:
                self._found(ctx, entry)
                self.contacts[entry.peer] = None
            self._merge(ctx, kept.entries, ())

    def on_stop(self, ctx: Ctx) -> None:
        if self.config.save_cycles and not self.has_left:
            self._save(ctx)

    # Join: the contact starts c walks, and each ends in an exchange of entries.

    def _ask_in(self, ctx: Ctx, contact: PeerId) -> None:
        self.owed = self.config.view_size
        me = Entry(ctx.me, 0, ctx.record(ctx.me))
        ctx.request(contact, Join(me), JOIN, self.config.answer_timeout)

    def on_request(self, ctx: Ctx, peer: PeerId, msg: CyclonMessage, token: Token) -> None:
        if isinstance(msg, Shuffle):
            self._answer(ctx, peer, msg, token)
        elif isinstance(msg, Join):
            if self.has_left or msg.new.peer != peer:
                ctx.reply(token, Joining(0))
            else:
                ctx.reply(token, Joining(self.config.view_size))
                for _ in range(self.config.view_size):
                    self._walk(ctx, Walk(Entry(peer, 0, msg.new.record), self.config.walk_length), peer)

    @handles(Walk)
    def on_walk(self, ctx: Ctx, peer: PeerId, msg: Walk) -> None:
        if not self.has_left and msg.new.peer != ctx.me:
            self._walk(ctx, msg, peer)

    def _walk(self, ctx: Ctx, walk: Walk, sender: PeerId) -> None:
        """One step to a random entry, or the end."""
        new = walk.new.peer
        ttl = min(walk.ttl, self.config.walk_length)
        others = [peer for peer in self.view if peer != new and peer != sender] if ttl else []
        if others:
            ctx.send(others[int(ctx.rng.random() * len(others))], Walk(walk.new, ttl - 1))
            return
        if new in self.view:
            return
        given = Entry(ctx.me, 0, ctx.record(ctx.me))
        if len(self.view) >= self.config.view_size:
            peers = tuple(self.view)
            given = self._entry(ctx, peers[int(ctx.rng.random() * len(peers))])
            self._drop(ctx, given.peer)
        self._found(ctx, walk.new)
        self._insert(ctx, new, 0)
        ctx.send(new, Welcome(given))

    @handles(Welcome)
    def on_welcome(self, ctx: Ctx, peer: PeerId, msg: Welcome) -> None:
        if self.owed > 0:
            self.owed -= 1
            self._merge(ctx, (msg.entry,), ())

    # Shuffle.

    def _cycle(self, ctx: Ctx) -> None:
        """Once per `shuffle_interval`: an exchange with the oldest entry."""
        ctx.set_timer(CYCLE, self.config.shuffle_interval)
        if self.has_left:
            return
        self.cycle += 1
        view = self.view
        if not view:
            self._join_again(ctx)
            return
        if self.config.save_cycles and self.cycle % self.config.save_cycles == 0:
            self._save(ctx)
        oldest = min(view, key=view.__getitem__)
        self._drop(ctx, oldest)
        sample = _some_of(ctx.rng, list(view), self.config.shuffle_size - 1)
        self.shuffled = tuple(sample)
        me = Entry(ctx.me, 0, ctx.record(ctx.me))
        entries = (me, *[self._entry(ctx, peer) for peer in sample])
        ctx.request(oldest, Shuffle(entries), SHUFFLE, self.config.answer_timeout)

    def _answer(self, ctx: Ctx, peer: PeerId, msg: Shuffle, token: Token) -> None:
        if self.has_left:
            ctx.reply(token, Shuffled((), here=False))
            return
        sample = _some_of(ctx.rng, list(self.view), self.config.shuffle_size)
        ctx.reply(token, Shuffled(tuple([self._entry(ctx, one) for one in sample if one != peer])))
        self._merge(ctx, msg.entries[: self.config.shuffle_size], sample)

    def on_reply(self, ctx: Ctx, key: Any, peer: PeerId, msg: CyclonMessage) -> None:
        if key == JOIN and isinstance(msg, Joining):
            self.owed = min(self.owed, msg.walks)
        elif key == SHUFFLE and isinstance(msg, Shuffled) and not self.has_left:
            sent, self.shuffled = self.shuffled, ()
            self._merge(ctx, msg.entries[: self.config.shuffle_size], sent)
            if msg.here and len(self.view) < self.config.view_size and peer not in self.view:
                self._insert(ctx, peer, 0)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        """A shuffle nobody answered: the entry is out of the view already. A JOIN: see `_cycle`."""
        if key == SHUFFLE:
            self.shuffled = ()

    def _merge(self, ctx: Ctx, entries: Iterable[Entry], sent: Iterable[PeerId]) -> None:
        """Take what is new to us, into free places first, then into those of what was just sent."""
        view, size, me = self.view, self.config.view_size, ctx.me
        expendable = [peer for peer in sent if peer in view]
        for entry in entries:
            peer = entry.peer
            if peer == me or peer in view:
                continue
            if len(view) >= size:
                if not expendable:
                    return
                self._drop(ctx, expendable.pop())
            self._found(ctx, entry)
            self._insert(ctx, peer, entry.age)

    # Entries.

    def _entry(self, ctx: Ctx, peer: PeerId) -> Entry:
        return Entry(peer, min(self.cycle - self.view[peer], MAX_AGE), ctx.record(peer))

    def _insert(self, ctx: Ctx, peer: PeerId, age: int) -> None:
        assert peer not in self.view
        assert peer != ctx.me
        self.view[peer] = self.cycle - age
        ctx.emit(NeighborUp(peer))
        assert len(self.view) <= self.config.view_size

    def _drop(self, ctx: Ctx, peer: PeerId) -> None:
        del self.view[peer]
        ctx.emit(NeighborDown(peer))

    @handles(NeighborFailed)
    def on_neighbor_failed(self, ctx: Ctx, event: NeighborFailed) -> None:
        """CyclonAcked: a failed push takes its target out of the view."""
        if event.peer in self.view:
            self._drop(ctx, event.peer)

    @handles(PeerFound)
    def on_peer_found(self, ctx: Ctx, event: PeerFound) -> None:
        """Discovery reports a peer: a way in if we know nobody."""
        if not self.has_left and event.peer != ctx.me and not self.view and not self.owed:
            self.join(ctx, event.peer)

    # Being alone, and records.

    def _join_again(self, ctx: Ctx) -> None:
        ways = tuple(self.contacts)
        if ways:
            self._ask_in(ctx, ways[int(ctx.rng.random() * len(ways))])

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key == CYCLE:
            self._cycle(ctx)

    def _save(self, ctx: Ctx) -> None:
        contacts = tuple([Entry(peer, 0, ctx.record(peer)) for peer in self.contacts])
        entries = tuple([self._entry(ctx, peer) for peer in self.view])
        ctx.save(VIEW, msgspec.msgpack.encode(View(VERSION, entries, contacts)))

    def _found(self, ctx: Ctx, entry: Entry) -> None:
        """Let the driver know how to reach a peer that somebody told us of."""
        if entry.record and entry.peer != ctx.me:
            ctx.emit(PeerFound(entry.peer, entry.record))


def _some_of(rng: Random, peers: list[PeerId], count: int) -> list[PeerId]:
    """Count different peers, or all of them if they are fewer: the first steps of a shuffle."""
    if count >= len(peers):
        return peers
    for i in range(count):
        j = i + int(rng.random() * (len(peers) - i))
        peers[i], peers[j] = peers[j], peers[i]
    return peers[:count]


def _restored(record: bytes | None) -> View | None:
    """The view of the last life, or None if there was none or another version wrote it."""
    if record is None:
        return None
    try:
        view = msgspec.msgpack.decode(record, type=View)
    except msgspec.DecodeError:
        return None
    return view if view.version == VERSION else None
