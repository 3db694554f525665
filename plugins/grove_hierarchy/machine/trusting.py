"""DLCA_R_P as it is published: the groups' leaders run the upper protocol in their own names.

    a member's wish → its group decides → its leader proposes it above → the leaders order it
    → each leader pushes it down to its group

A leader is believed: its members take the order from it, and the other leaders its entries. One that
lies forks the order (the `certified` variant is for that); one that crashes is replaced by its group's
protocol. The new leader is let into the upper protocol on the word of f + 1 of its group, of whom one is
correct, in the place of the old one: a group never has two votes.

Deviation: supervision replaces a leader that is silent, not one that is merely unfaithful; there is no
reputation and no regrouping.
"""

from __future__ import annotations

from typing import Any

import msgspec

from grove_core.events import Committed, LeaderChanged, MembersChanged, Proposed
from grove_core.identity import peer_text
from grove_core.machine import Event, PeerId, handles
from grove_hierarchy.machine.order import LEADERS, Ctx, Order, seated
from grove_hierarchy.messages import (
    MAX_ENTRIES,
    AskLeads,
    Behind,
    Down,
    Entry,
    GroupCommand,
    Leads,
    Nudge,
    Wish,
    decode_entry,
)

OBSERVE = "observe"
LOG = "log/"
MAX_DOWN = 512 * 1024
"""Bytes of commands in one Down, unless one alone is longer."""
MAX_DONE = 65_536
"""Ids of the own group's entries known to be ordered; of older ones a late repetition is harmless."""


class Trusting(Order):
    """One member of the `trusting` variant."""

    def __init__(self, *parts: Any, **hosted: Any) -> None:
        super().__init__(*parts, **hosted)
        self.group_leader: PeerId | None = None
        self.group_epoch = 0
        self.upper: tuple[PeerId, ...] = ()
        """Voters of the upper protocol, if we are one."""
        self._counted = 0  # positions that the upper protocol here has told of in this life
        self._waiting: dict[bytes, Entry] = {}  # decided by the group and not yet ordered
        self._done: dict[bytes, None] = {}
        self._vouched: dict[PeerId, Leads] = {}
        self._upper_leader: PeerId = PeerId(b"")
        self._epoch = 0
        self._is_heard = True
        self._silences = 0

    def on_start(self, ctx: Ctx) -> None:
        """Begin, or hand over again what an earlier life had of the order."""
        if not self.begin(ctx):
            return
        for key in ctx.saved(LOG):
            entry = decode_entry(ctx.load(key) or b"")
            assert entry is not None, f"record {key!r} is no entry"
            self._order(ctx, entry)
        first = tuple(sorted(group.members[0] for group in self.village.groups))
        voters = tuple(map(peer_text, first)) if ctx.me in first else ()
        self.host(ctx, LEADERS, seated(self.part(LEADERS), self._called(LEADERS), voters))
        self.enter_group(ctx)
        ctx.set_timer(OBSERVE, self.config.observe * ctx.rng.uniform(0.5, 1.0))

    # Up.

    def decided(self, ctx: Ctx, event: Committed, command: GroupCommand) -> None:
        if not isinstance(command, Wish) or event.id in self._done:
            return
        entry = Entry(self.group.number, event.id, event.proposer, command.kind, command.command)
        self._waiting[event.id] = entry
        if len(self._waiting) > self.config.pending:
            del self._waiting[next(iter(self._waiting))]
        if self.group_leader == ctx.me:
            self._raise(ctx, entry)

    def _raise(self, ctx: Ctx, entry: Entry) -> None:
        wanted = Proposed(entry.id, msgspec.msgpack.encode(entry))
        self.enter(ctx, LEADERS, lambda machine, inner: machine.on_event(inner, wanted))

    def on_upper(self, ctx: Ctx, event: Event) -> None:
        if isinstance(event, Committed):
            entry = decode_entry(event.command)
            if entry is None:
                return
            self._counted += 1
            if self._counted == self.number + 1:
                self._take(ctx, entry)
                self._push(ctx, entry)
        elif isinstance(event, LeaderChanged):
            self._upper_leader, self._epoch = event.leader or PeerId(b""), event.epoch
            self.led_by(ctx, event.leader, event.epoch)
        elif isinstance(event, MembersChanged):
            self.upper = event.voters

    # Down.

    def _push(self, ctx: Ctx, entry: Entry) -> None:
        if self.group_leader != ctx.me:
            return
        down = Down(self.number, (entry,), self._upper_leader, self._epoch)
        for peer in self.group.members:
            if peer != ctx.me:
                ctx.send(peer, down)

    def _take(self, ctx: Ctx, entry: Entry) -> None:
        ctx.save(f"{LOG}{self.number + 1:016x}", msgspec.msgpack.encode(entry))
        self._order(ctx, entry)

    def _order(self, ctx: Ctx, entry: Entry) -> None:
        if entry.group == self.group.number:
            self._waiting.pop(entry.id, None)
            self._done[entry.id] = None
            if len(self._done) > MAX_DONE:
                del self._done[next(iter(self._done))]
        self.hand_over(ctx, entry)

    @handles(Down)
    def on_down(self, ctx: Ctx, peer: PeerId, msg: Down) -> None:
        if not self.inside or peer != self.group_leader:
            return
        self._is_heard = True
        if ctx.me not in self.upper:
            self.led_by(ctx, msg.leader or None, msg.epoch)
        for position, entry in enumerate(msg.entries, msg.first):
            if position == self.number + 1:
                self._take(ctx, entry)
        if msg.entries and (msg.first > self.number + 1 or len(msg.entries) > 1):
            ctx.send(peer, Behind(self.number))  # a gap, or more where that came from

    @handles(Behind)
    def on_behind(self, ctx: Ctx, peer: PeerId, msg: Behind) -> None:
        if not self.inside or peer not in self.group.rank or self.group_leader != ctx.me:
            return
        self._is_heard = True
        entries: list[Entry] = []
        room = MAX_DOWN
        for position in range(msg.have + 1, min(self.number, msg.have + MAX_ENTRIES) + 1):
            entry = decode_entry(ctx.load(f"{LOG}{position:016x}") or b"")
            if entry is None or (entries and len(entry.command) > room):
                break
            room -= len(entry.command)
            entries.append(entry)
        ctx.send(peer, Down(msg.have + 1, tuple(entries), self._upper_leader, self._epoch))

    # Supervision, and another leader.

    def on_group_leader(self, ctx: Ctx, event: LeaderChanged) -> None:
        if event.epoch < self.group_epoch:
            return  # the group told us of a later one
        self.group_leader, self.group_epoch = event.leader, event.epoch
        self._is_heard, self._silences = True, 0
        if event.leader == ctx.me:
            for entry in tuple(self._waiting.values()):
                self._raise(ctx, entry)
            if ctx.me not in self.upper:
                self._ask_in(ctx)

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key != OBSERVE:
            super().on_timer(ctx, key)
            return
        ctx.set_timer(OBSERVE, self.config.observe)
        self._silences = 0 if self._is_heard else self._silences + 1
        self._is_heard = len(self.group.members) == 1
        if self._silences >= 2 or self.group_leader is None:
            self.ask_group(ctx, ctx.rng.randbytes(16), Nudge())
        if self.group_leader != ctx.me:
            if self.group_leader is not None:
                ctx.send(self.group_leader, Behind(self.number))
            return
        if ctx.me not in self.upper or self._silences >= 2:
            self._ask_in(ctx)  # nobody asks us for anything: perhaps we lead no more
        for entry in tuple(self._waiting.values()):
            self._raise(ctx, entry)

    def _ask_in(self, ctx: Ctx) -> None:
        """Have the group tell the others that we lead it, or us that we do not."""
        for peer in self.group.members:
            if peer != ctx.me:
                ctx.send(peer, AskLeads(self.group_epoch))
        self._tell(ctx)

    @handles(AskLeads)
    def on_ask_leads(self, ctx: Ctx, peer: PeerId, msg: AskLeads) -> None:
        if not self.inside or peer not in self.group.rank or self.group_leader is None:
            return
        if peer == self.group_leader and msg.epoch == self.group_epoch:
            self._tell(ctx)
        elif msg.epoch < self.group_epoch:
            ctx.send(peer, Leads(self.group_epoch, self.group_leader))

    def _tell(self, ctx: Ctx) -> None:
        assert self.group_leader is not None
        leads = Leads(self.group_epoch, self.group_leader)
        for peer in self.village.members:
            if peer != ctx.me:
                ctx.send(peer, leads)
        self.on_leads(ctx, ctx.me, leads)

    @handles(Leads)
    def on_leads(self, ctx: Ctx, peer: PeerId, msg: Leads) -> None:
        group = self.village.of.get(peer)
        if not self.inside or group is None or msg.leader not in group.rank:
            return
        self._vouched[peer] = msg
        said = sum(self._vouched.get(member) == msg for member in group.members)
        if said < group.weak:
            return
        if group is self.group and msg.epoch > self.group_epoch:
            self.group_leader, self.group_epoch = msg.leader, msg.epoch
            ctx.send(msg.leader, Behind(self.number))
        if self._upper_leader != ctx.me or msg.leader in self.upper:
            return
        others = tuple(voter for voter in self.upper if voter not in group.rank)
        voters = tuple(sorted((*others, msg.leader)))
        self.enter(ctx, LEADERS, lambda machine, inner: machine.reconfigure(inner, voters, ()))
