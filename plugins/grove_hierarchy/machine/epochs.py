"""Regrouping: members come and go, and a group that can decide nothing any more is not waited for.

An epoch ends with the position at which a change of members is agreed on (ledger.py). Whoever knows the
roll as of then knows the next epoch's groups, and begins there: fresh groups, a fresh upper protocol, the
order goes on. Who does not know it asks, and is shown an `Opened`: that roll with the signatures of
f_g + 1 members in each of more than half of the groups of the epoch that ended. So a chain of epochs is
followed from any that one knows, by somebody who was away, or was never there.

Each group watches the one before it. When fewer of that one's members answer than can decide, or than
`spare` wants, its watchers ask for a change in which the absent ones leave: f + 1 of them alike, so a
correct one misses them. The members that are left are put into other groups.

Invariants:
1. One epoch has one roll at its beginning, at all correct members.
2. Nothing said in one epoch counts in another: the village's name is in everything that is signed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from grove_core.events import MembersChanged
from grove_core.machine import PeerId, Token, handles
from grove_hierarchy.groups import Village
from grove_hierarchy.ledger import village_of
from grove_hierarchy.machine.history import OPEN, History
from grove_hierarchy.machine.order import LEADERS, Ctx
from grove_hierarchy.messages import (
    CHANGE,
    Change,
    Nothing,
    Opened,
    Ping,
    Pong,
    Roll,
    Seal,
    Signature,
    Which,
    Wish,
    decode_change,
    decode_roll,
    encode,
    roll_digest,
    sealing,
)

EPOCH: Final = "epoch"
OPENED: Final = "opened/"
OBSERVE: Final = "observe"
WATCH: Final = "watch"
WHICH: Final = "which"


class Epochs(History):
    """One epoch after the other."""

    def __init__(self, *parts: Any, **hosted: Any) -> None:
        super().__init__(*parts, **hosted)
        self.opening: Roll = self.roll
        """The roll that this epoch began with."""
        self.former: Village | None = None
        """The village before, if it ended in this life."""
        self._seals: dict[PeerId, Seal] = {}
        """Of members of this village or, once it ended, of the former one; one of each."""
        self._present: dict[PeerId, float] = {}
        """Watched members, and when they last answered."""
        self._seen = 0

    # Life.

    def on_start(self, ctx: Ctx) -> None:
        """Hand over what earlier lives had, and begin in the last epoch we know of."""
        record = ctx.load(EPOCH)
        opening = self.opening if record is None else decode_roll(record)
        assert opening is not None, "the record of the epoch is not as it was saved"
        recalled = self.recall(ctx)
        if self.village.members or record is not None:
            ctx.set_timer(OBSERVE, self.config.observe * ctx.rng.uniform(0.5, 1.0))
            ctx.set_timer(WATCH, self.config.absence / 3 * ctx.rng.uniform(0.5, 1.0))
        if recalled.epoch > opening.epoch:
            self.village = village_of(self.config, opening)
            ctx.emit(MembersChanged(self.number, recalled.members))
            self.open_epoch(ctx, recalled)
            return
        if opening.members:
            ctx.emit(MembersChanged(self.number, opening.members))
        self._begin(ctx, opening, recalled)

    def _begin(self, ctx: Ctx, opening: Roll, known: Roll) -> None:
        """Enter an epoch of which the order up to `known` was followed here."""
        self.opening = opening
        self.village = village_of(self.config, opening)
        self.is_closed = False
        self.inside = self.above = ""
        self.roll = opening
        self._present = {}
        if opening.position > self.number:
            self.be_at(ctx, opening)
        if ctx.me not in self.village.of:
            return
        self.group = self.village.of[ctx.me]
        epoch = f"/{opening.epoch}" if opening.epoch else ""
        self.inside = f"group{epoch}/{self.group.number}"
        self.above = LEADERS + epoch
        self._forget_guests(ctx)
        self.begin_epoch(ctx, known)

    def _forget_guests(self, ctx: Ctx) -> None:
        """Erase the records of groups and upper protocols of epochs that ended."""
        for role in ("group", LEADERS):
            for key in ctx.saved(role):
                if not key.startswith((self.inside + "/", self.above + "/")):
                    ctx.save(key, None)

    def begin_epoch(self, ctx: Ctx, known: Roll) -> None:
        """Take in the group's protocol and the upper one."""
        raise NotImplementedError

    def leave_epoch(self, ctx: Ctx) -> None:
        """Dismiss them: nothing more of this epoch is followed."""
        for name in self.guests():
            self.dismiss(ctx, name)

    # From one to the next.

    def open_epoch(self, ctx: Ctx, roll: Roll) -> None:
        """This roll ended our epoch, and opens the next."""
        ended = self.village
        ctx.save(EPOCH, encode(roll))
        self.leave_epoch(ctx)
        self._leader = None
        self._begin(ctx, roll, roll)
        self.former = ended
        self._seals = {voter: seal for voter, seal in self._seals.items() if seal.village == ended.name}
        if ctx.me in ended.of:
            digest = roll_digest(roll)
            seal = Seal(ended.name, digest, ctx.me, ctx.sign(sealing(ended.name, digest)))
            for peer in self.village.members:
                if peer != ctx.me:
                    ctx.send(peer, seal)
            self._sealed(ctx, seal)
        self.wish_again(ctx)

    @handles(Seal)
    def on_seal(self, ctx: Ctx, peer: PeerId, msg: Seal) -> None:
        """A member says how an epoch ended: ours, which we then ask about, or the one before."""
        self._sealed(ctx, msg)

    def _sealed(self, ctx: Ctx, seal: Seal) -> None:
        former = self.former
        if seal.village == self.village.name and seal.voter in self.village.of:
            self._seals[seal.voter] = seal
            said = [one.voter for one in self._seals.values() if one.village == seal.village]
            if self.village.is_majority(said) and not self.is_closed:
                self._ask_which(ctx, seal.voter)
        elif former is not None and seal.village == former.name and seal.voter in former.of:
            self._seals.setdefault(seal.voter, seal)
            digest = roll_digest(self.opening)
            signed = tuple(
                Signature(one.voter, one.signature)
                for one in sorted(self._seals.values(), key=lambda one: one.voter)
                if one.village == former.name and one.digest == digest
            )
            if former.is_majority(one.voter for one in signed):
                self._prove(ctx, Opened(former.name, self.opening, signed))
                self.former, self._seals = None, {}

    def _prove(self, ctx: Ctx, proof: Opened) -> None:
        epoch = proof.roll.epoch
        ctx.save(f"{OPENED}{epoch:016x}", encode(proof))
        if epoch > self.config.handovers:
            ctx.save(f"{OPENED}{epoch - self.config.handovers:016x}", None)

    # Who was away asks.

    def _ask_which(self, ctx: Ctx, peer: PeerId) -> None:
        ctx.request(peer, Which(self.opening.epoch), WHICH, 4 * self.config.patience)

    def observe(self, ctx: Ctx) -> None:
        """Once a period: who hears nothing new, or is no member, asks whether another epoch began."""
        others = [peer for peer in self.village.members if peer != ctx.me]
        is_quiet = self._seen == self.roll.position
        self._seen = self.roll.position
        if others and (is_quiet or not self.inside):
            self._ask_which(ctx, ctx.rng.choice(others))
        self.vouch_again(ctx)
        self.seek(ctx)

    def on_reply(self, ctx: Ctx, key: Any, peer: PeerId, msg: Any) -> None:
        if key != WHICH:
            super().on_reply(ctx, key, peer, msg)
        elif isinstance(msg, Opened) and msg.village == self.village.name:
            is_next = msg.roll.epoch == self.opening.epoch + 1 and msg.roll.opened == msg.roll.position
            if is_next and self.village.is_majority(one.voter for one in msg.signatures):
                self._prove(ctx, msg)
                if not self.is_closed:  # else we know already, and are about to go there
                    ctx.emit(MembersChanged(msg.roll.position, msg.roll.members))
                    self.open_epoch(ctx, msg.roll)
                    self.former = None
                    self._ask_which(ctx, peer)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        if key != WHICH:
            super().on_failure(ctx, key, peer, reason)

    def on_request(self, ctx: Ctx, peer: PeerId, msg: Any, token: Token) -> None:
        if isinstance(msg, Which):
            record = ctx.load(f"{OPENED}{msg.epoch + 1:016x}")
            ctx.reply(token, Nothing() if record is None else msgspec.msgpack.decode(record, type=Opened))
        else:
            super().on_request(ctx, peer, msg, token)

    # Each group watches the one before it.

    def watch(self, ctx: Ctx) -> None:
        """Look whether the group that we watch can still decide."""
        groups = self.village.groups
        if not self.inside or self.is_closed or len(groups) < 2:
            return
        watched = groups[self.group.number - 1]
        if not self._present:
            self._present = {peer: ctx.now for peer in watched.members}
        absent = tuple(
            peer for peer in watched.members if ctx.now - self._present[peer] >= self.config.absence
        )
        for peer in watched.members:
            ctx.send(peer, Ping())
        present = len(watched.members) - len(absent)
        if present < min(len(watched.members), watched.quorum + self.config.spare):
            self._miss(ctx, absent)

    def _miss(self, ctx: Ctx, absent: tuple[PeerId, ...]) -> None:
        """Ask for their leave as the first of us did whom we can agree with, or in our own words."""
        for one in self.roll.backed:
            if one.kind == CHANGE and one.group == self.group.number:
                change = decode_change(one.what)
                if change is None or change.join or not change.leave:
                    continue
                if all(peer in absent for peer in change.leave):
                    if ctx.me not in one.by:
                        self.ask_group(ctx, ctx.rng.randbytes(16), Wish(CHANGE, one.what))
                    return
        self.ask_group(ctx, ctx.rng.randbytes(16), Wish(CHANGE, encode(Change((), absent))))

    @handles(Ping)
    def on_ping(self, ctx: Ctx, peer: PeerId, msg: Ping) -> None:
        if peer in self.village.of:
            ctx.send(peer, Pong())

    @handles(Pong)
    def on_pong(self, ctx: Ctx, peer: PeerId, msg: Pong) -> None:
        if peer in self._present:
            self._present[peer] = ctx.now

    # Timers.

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if key == OPEN:
            if self.is_closed:
                self.open_epoch(ctx, self.roll)
        elif key == OBSERVE:
            ctx.set_timer(OBSERVE, self.config.observe)
            self.observe(ctx)
        elif key == WATCH:
            ctx.set_timer(WATCH, self.config.absence / 3)
            self.watch(ctx)
        else:
            super().on_timer(ctx, key)
