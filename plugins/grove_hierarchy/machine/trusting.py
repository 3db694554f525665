"""DLCA_R_P as it is published: the groups' leaders run the upper protocol in their own names.

    a member's wish → its group decides → its leader proposes it above → the leaders order it
    → each leader pushes it down to its group

A leader is believed: its members take the order from it, and the other leaders its entries. One that
lies forks the order (the `certified` variant is for that); one that crashes is replaced by its group's
protocol. The new leader is let into the upper protocol on the word of f + 1 of its group, of whom one is
correct, in the place of the old one: a group never has two votes.

Down goes only what the group has not: an entry that it decided on itself is named to it, and comes whole
only for a member that asks (told.py).

With `flow = "all"` a leader takes another group's entry in the upper protocol only after its own group
has decided on it: what the upper protocol acknowledges, a quorum of each group of a majority has.

Deviations: supervision replaces a leader that is silent, not one that is merely unfaithful; there is no
reputation. With `flow = "all"` the origin's group decides first and the others after it, three delays
later than all at once: what its own group rejects must not stand in the upper log already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from grove_core.events import (
    Committed,
    LeaderChanged,
    MembersChanged,
    Proposed,
    Restored,
    SnapshotAsked,
    SnapshotTaken,
)
from grove_core.host import Envelope
from grove_core.identity import peer_text
from grove_core.machine import Event, PeerId, handles
from grove_hierarchy.machine.epochs import Epochs
from grove_hierarchy.machine.history import OPEN
from grove_hierarchy.machine.order import LEADERS, Ctx, seated
from grove_hierarchy.machine.told import Told, digest_of
from grove_hierarchy.messages import (
    Accept,
    AskLeads,
    Behind,
    Down,
    Entry,
    GroupCommand,
    Leads,
    Named,
    Nudge,
    Roll,
    Wish,
    decode_entry,
    decode_roll,
    encode,
)

LACKING: Final = "lacking"

MAX_DONE = 65_536
"""Ids of the own group's entries known to be ordered; of older ones a late repetition is harmless."""
FORGET = 1024
"""Commands of the group after which it is told that it may forget, if it does not ask."""
MAX_HELD = 256
"""Messages of one peer to the upper protocol that wait for our group; further ones are lost."""


class Trusting(Epochs):
    """One member of the `trusting` variant."""

    def __init__(self, *parts: Any, **hosted: Any) -> None:
        super().__init__(*parts, **hosted)
        self._done: dict[bytes, None] = {}
        self._waiting: dict[bytes, Entry] = {}
        """Decided by the group and not yet ordered."""
        self._others: dict[bytes, Entry] = {}
        """The same, of other groups: flow = "all"."""
        self._told = Told()
        self._overdue: dict[bytes, None] = {}
        """Those that waited already when we last looked."""
        self._unseat()

    def _unseat(self) -> None:
        """Nothing is known of an epoch's leaders."""
        self.group_leader: PeerId | None = None
        self.group_epoch = 0
        self.upper: tuple[PeerId, ...] = ()
        """Voters of the upper protocol, if we are one."""
        self._counted = 0  # positions of this epoch that the upper protocol here has told of in this life
        self._index = 0
        self._waiting.clear()
        self._others.clear()
        self._told = Told()
        self._lacking_since: int | None = None
        """The position at which we began to wait for a body; None if we do not."""
        self._overdue = {}
        self._vouched_for: dict[PeerId, Leads] = {}
        self._upper_leader: PeerId = PeerId(b"")
        self._epoch = 0
        self._is_heard = True
        self._silences = 0
        self._accepted: dict[bytes, None] = {}
        self._asked_to_accept: dict[bytes, None] = {}
        self._held: dict[PeerId, deque[Envelope]] = {}

    def begin_epoch(self, ctx: Ctx, known: Roll) -> None:
        self._unseat()
        if known.position > self.roll.position:
            self.roll = known
            self.is_closed = known.epoch > self.opening.epoch
            if self.is_closed:
                ctx.set_timer(OPEN, 0.0)
        first = tuple(sorted(group.members[0] for group in self.village.groups))
        voters = tuple(map(peer_text, first)) if ctx.me in first else ()
        self.host(ctx, self.above, seated(self.part(LEADERS), self.called(LEADERS), voters))
        self.introduce(ctx, self.above)
        self.host_group(ctx)

    def leave_epoch(self, ctx: Ctx) -> None:
        self._told = Told()
        ctx.cancel_timer(LACKING)
        super().leave_epoch(ctx)

    # Up.

    def decided(self, ctx: Ctx, event: Committed, command: GroupCommand) -> None:
        if event.index % FORGET == 0:  # for those that do not ask
            self._let_group_forget(ctx, event.index)
        if isinstance(command, Accept):
            self._has_accepted(ctx, command.entry)
        if not isinstance(command, Wish) or event.id in self._done:
            return
        entry = Entry(self.group.number, event.id, event.proposer, command.kind, command.command)
        self._waiting[event.id] = entry
        if len(self._waiting) > self.config.pending:
            del self._waiting[next(iter(self._waiting))]
        if self.group_leader == ctx.me:
            self._raise(ctx, entry)
        self._follow(ctx)

    def _raise(self, ctx: Ctx, entry: Entry) -> None:
        wanted = Proposed(entry.id, encode(entry))
        self.enter(ctx, self.above, lambda machine, inner: machine.on_event(inner, wanted))

    def on_guest_event(self, ctx: Ctx, guest: str, event: Event) -> None:
        if guest == self.inside and isinstance(event, SnapshotAsked):
            self._let_group_forget(ctx, event.index)
        else:
            super().on_guest_event(ctx, guest, event)

    def _let_group_forget(self, ctx: Ctx, index: int) -> None:
        """Nothing the group decided is needed once it is ordered, and till then others have it."""
        taken = SnapshotTaken(index, b"")
        self.enter(ctx, self.inside, lambda machine, inner: machine.on_event(inner, taken))

    def on_upper(self, ctx: Ctx, event: Event) -> None:
        if isinstance(event, Committed):
            self._index = event.index
            entry = decode_entry(event.command)
            if entry is None:
                return
            self._counted += 1
            if self.opening.position + self._counted == self.roll.position + 1 and not self.is_closed:
                is_theirs = self._decided_here(entry.id) == entry
                self.take(ctx, entry)
                self._push(ctx, entry, is_theirs)
        elif isinstance(event, Restored):
            roll = decode_roll(event.state)
            if roll is not None and roll.epoch == self.opening.epoch:
                self._index, self._counted = event.index, roll.position - self.opening.position
                self._take_roll(ctx, roll)
        elif isinstance(event, SnapshotAsked):
            self._index = event.index
            self.forget_above(ctx)
        elif isinstance(event, LeaderChanged):
            self._upper_leader, self._epoch = event.leader or PeerId(b""), event.epoch
            self.led_by(ctx, event.leader, event.epoch)
        elif isinstance(event, MembersChanged):
            self.upper = event.voters

    def forget_above(self, ctx: Ctx) -> None:
        is_here = self.opening.position + self._counted == self.roll.position
        if self.above and is_here and self.roll.mark.position > 0 and not self.is_closed:
            taken = SnapshotTaken(self._index, encode(self.roll))
            self.enter(ctx, self.above, lambda machine, inner: machine.on_event(inner, taken))

    def _take_roll(self, ctx: Ctx, roll: Roll) -> None:
        """One whom we believe says where the order is."""
        if roll.position > self.roll.position and not self.is_closed:
            self.adopt(ctx, roll)
            self._follow(ctx)

    # Up, when every group has to agree: messages to the upper protocol wait for ours.

    def on_message(self, ctx: Ctx, peer: PeerId, msg: Any) -> None:
        is_up = isinstance(msg, Envelope) and msg.guest == self.above and self.inside
        if not is_up or self.config.flow == "one":
            super().on_message(ctx, peer, msg)
            return
        held = self._held.setdefault(peer, deque()) if peer in self.village.of else deque()
        if len(held) < MAX_HELD:
            held.append(msg)
        self._let_through(ctx, peer)

    def _let_through(self, ctx: Ctx, peer: PeerId) -> None:
        """Hand the upper protocol what our group has agreed to, in the order it came."""
        held = self._held.get(peer)
        while held:
            strange = [entry for entry in _carried(self._open(held[0])) if self._is_strange(entry)]
            if strange:
                for entry in strange:
                    if entry.id not in self._asked_to_accept:
                        self._remember(self._asked_to_accept, entry.id)
                        self.ask_group(ctx, ctx.rng.randbytes(16), Accept(entry))
                return
            super().on_message(ctx, peer, held.popleft())

    def _is_strange(self, entry: Entry) -> bool:
        is_ours = entry.group == self.group.number
        return not is_ours and entry.id not in self._accepted and entry.id not in self._done

    def _has_accepted(self, ctx: Ctx, entry: Entry) -> None:
        self._remember(self._accepted, entry.id)
        if entry.id not in self._done:
            self._others[entry.id] = entry
            if len(self._others) > self.config.pending:
                del self._others[next(iter(self._others))]
            self._follow(ctx)
        for peer in tuple(self._held):
            self._let_through(ctx, peer)

    def _remember(self, table: dict[bytes, None], id: bytes) -> None:
        table[id] = None
        if len(table) > MAX_DONE:
            del table[next(iter(table))]

    # Down.

    def take(self, ctx: Ctx, entry: Entry) -> None:
        self._ordered(entry)
        super().take(ctx, entry)

    def hand_over(self, ctx: Ctx, entry: Entry, *, again: bool = False) -> None:
        self._ordered(entry)
        super().hand_over(ctx, entry, again=again)

    def _ordered(self, entry: Entry) -> None:
        """What is ordered is waited for no longer."""
        self._waiting.pop(entry.id, None)
        self._others.pop(entry.id, None)
        self._remember(self._done, entry.id)

    def _push(self, ctx: Ctx, entry: Entry, is_theirs: bool) -> None:
        """Tell our group what is ordered: the name alone of what waited here, and so with the others."""
        if self.group_leader != ctx.me:
            return
        said = (self._upper_leader, self._epoch)
        down: Down | Named
        if is_theirs:
            down = Named(self.roll.position, entry.id, digest_of(entry), *said)
        else:
            down = Down(self.roll.position, (entry,), *said)
        for peer in self.group.members:
            if peer != ctx.me:
                ctx.send(peer, down)

    @handles(Named)
    def on_named(self, ctx: Ctx, peer: PeerId, msg: Named) -> None:
        if not self._is_told(ctx, peer, msg):
            return
        self._told.put(msg.position, self.roll.position, msg)
        self._follow(ctx)
        if self._told.has_gap(self.roll.position):
            ctx.send(peer, Behind(self.roll.position))

    @handles(Down)
    def on_down(self, ctx: Ctx, peer: PeerId, msg: Down) -> None:
        if not self._is_told(ctx, peer, msg):
            return
        if msg.roll is not None and msg.roll.epoch == self.opening.epoch:
            self._take_roll(ctx, msg.roll)
        for position, entry in enumerate(msg.entries, msg.first):
            self._told.put(position, self.roll.position, entry)
        self._follow(ctx)
        if msg.entries and (self._told.has_gap(self.roll.position) or len(msg.entries) > 1):
            ctx.send(peer, Behind(self.roll.position))  # a gap, or more where that came from

    def _is_told(self, ctx: Ctx, peer: PeerId, msg: Down | Named) -> bool:
        """Whether it is our leader who speaks; if so it lives, and says who leads above."""
        if not self.inside or peer != self.group_leader:
            return False
        self._is_heard = True
        if ctx.me not in self.upper:
            self.led_by(ctx, msg.leader or None, msg.epoch)
        return True

    def _follow(self, ctx: Ctx) -> None:
        """Take what we were told as far as we have it, and do not wait for the rest for ever."""
        while not self.is_closed:
            entry = self._told.following(self.roll.position, self._decided_here)
            if entry is None:
                break
            self.take(ctx, entry)
        is_lacking = self._told.last > self.roll.position and not self.is_closed
        if is_lacking and self._lacking_since is None:
            self._lacking_since = self.roll.position
            ctx.set_timer(LACKING, self.config.patience)

    def _decided_here(self, id: bytes) -> Entry | None:
        return self._waiting.get(id) or self._others.get(id)

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key != LACKING:
            super().on_timer(ctx, key)
            return
        since, self._lacking_since = self._lacking_since, None
        self._follow(ctx)
        if since == self.roll.position and self._lacking_since is not None and self.group_leader:
            ctx.send(self.group_leader, Behind(since))

    @handles(Behind)
    def on_behind(self, ctx: Ctx, peer: PeerId, msg: Behind) -> None:
        if not self.inside or peer not in self.group.rank or self.group_leader != ctx.me:
            return
        self._is_heard = True
        entries = self.entries_after(ctx, msg.have)
        is_forgotten = not entries and msg.have < self.roll.position
        roll = self.roll if is_forgotten else None
        ctx.send(peer, Down(msg.have + 1, entries, self._upper_leader, self._epoch, roll))

    # Supervision, and another leader.

    def on_group_leader(self, ctx: Ctx, event: LeaderChanged) -> None:
        if event.leader is None or event.epoch < self.group_epoch:
            return  # we are between views, alone perhaps; or the group told us of a later one
        if self._told.last > self.roll.position and event.leader not in (ctx.me, self.group_leader):
            ctx.send(event.leader, Behind(self.roll.position))
        self._told = Told()
        self.group_leader, self.group_epoch = event.leader, event.epoch
        self._is_heard, self._silences = True, 0
        if event.leader == ctx.me:
            for entry in tuple(self._waiting.values()):
                self._raise(ctx, entry)
            if ctx.me not in self.upper:
                self._ask_in(ctx)

    def observe(self, ctx: Ctx) -> None:
        super().observe(ctx)
        if not self.inside or self.is_closed:
            return
        self._silences = 0 if self._is_heard else self._silences + 1
        self._is_heard = len(self.group.members) == 1
        self._asked_to_accept.clear()
        if self._silences >= 2 or self.group_leader is None:
            self.ask_group(ctx, ctx.rng.randbytes(16), Nudge())
        if self.group_leader != ctx.me:
            if self.group_leader is not None:
                ctx.send(self.group_leader, Behind(self.roll.position))
            if self._silences >= 2:  # perhaps the others have another leader, and we missed it
                for peer in self.group.members:
                    if peer != ctx.me:
                        ctx.send(peer, AskLeads(self.village.name, self.group_epoch))
            return
        if ctx.me not in self.upper or self._silences >= 2:
            self._ask_in(ctx)  # nobody asks us for anything: perhaps we lead no more
        for id in tuple(self._overdue):
            if id in self._waiting:
                self._raise(ctx, self._waiting[id])
        self._overdue = dict.fromkeys(self._waiting)

    def _ask_in(self, ctx: Ctx) -> None:
        """Have the group tell the others that we lead it, or us that we do not."""
        for peer in self.group.members:
            if peer != ctx.me:
                ctx.send(peer, AskLeads(self.village.name, self.group_epoch))
        self._tell(ctx)

    @handles(AskLeads)
    def on_ask_leads(self, ctx: Ctx, peer: PeerId, msg: AskLeads) -> None:
        if msg.village != self.village.name or not self.inside or self.group_leader is None:
            return
        if peer not in self.group.rank:
            return
        if peer == self.group_leader and msg.epoch == self.group_epoch:
            self._tell(ctx)
        elif msg.epoch <= self.group_epoch:  # the same: it woke between views, and knows no leader
            ctx.send(peer, Leads(self.village.name, self.group_epoch, self.group_leader))

    def _tell(self, ctx: Ctx) -> None:
        assert self.group_leader is not None
        leads = Leads(self.village.name, self.group_epoch, self.group_leader)
        for peer in self.village.members:
            if peer != ctx.me:
                ctx.send(peer, leads)
        self.on_leads(ctx, ctx.me, leads)

    @handles(Leads)
    def on_leads(self, ctx: Ctx, peer: PeerId, msg: Leads) -> None:
        group = self.village.of.get(peer)
        if not self.inside or msg.village != self.village.name:
            return
        if group is None or msg.leader not in group.rank:
            return
        self._vouched_for[peer] = msg
        said = sum(self._vouched_for.get(member) == msg for member in group.members)
        if said < group.weak:
            return
        is_news = msg.epoch > self.group_epoch or self.group_leader is None
        if group is self.group and is_news:
            self.group_leader, self.group_epoch = msg.leader, msg.epoch
            self._told = Told()
            if msg.leader != ctx.me:
                ctx.send(msg.leader, Behind(self.roll.position))
        if self._upper_leader != ctx.me or msg.leader in self.upper:
            return
        others = tuple(voter for voter in self.upper if voter not in group.rank)
        voters = tuple(sorted((*others, msg.leader)))
        self.enter(ctx, self.above, lambda machine, inner: machine.reconfigure(inner, voters, ()))


def _carried(msg: Any) -> Iterator[Entry]:
    """The entries in a message of the upper protocol, whatever it calls them."""
    for field in ("entries", "proposals", "batch"):
        for one in getattr(msg, field, ()):
            entry = decode_entry(getattr(one, "command", b""))
            if entry is not None:
                yield entry
    if hasattr(msg, "command"):
        entry = decode_entry(msg.command)
        if entry is not None:
            yield entry
