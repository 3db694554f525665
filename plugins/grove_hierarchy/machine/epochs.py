"""Regrouping: members come and go, and a group that can decide nothing any more is not waited for.

An epoch ends with the position at which a change of members is agreed on (ledger.py). Whoever followed
the order there closes its books: it takes nothing more from this epoch's protocols, but goes on serving
them, so that others get there, and seals the roll as of then. When f_g + 1 members in each of more than
half of the groups sealed it alike, that is the proof (`Opened`): fresh groups begin, and a fresh upper
protocol, and the order goes on. Who was away, or was never there, asks, and follows the chain of proofs
from any epoch that it knows.

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
        self._seals: dict[PeerId, Seal] = {}
        """Of members of this village: how it ends."""
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
        if recalled.members:
            ctx.emit(MembersChanged(self.number, recalled.members))
        self._begin(ctx, opening, recalled)

    def _begin(self, ctx: Ctx, opening: Roll, known: Roll) -> None:
        """Enter an epoch of which the order up to `known` was followed here."""
        self.opening = opening
        self.village = village_of(self.config, opening)
        self.is_closed = False
        self.inside = self.above = ""
        self.roll = opening
        self._present, self._seals = {}, {}
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

    def seal(self, ctx: Ctx) -> None:
        """Our books are closed: say with which roll."""
        digest = roll_digest(self.roll)
        name = self.village.name
        mine = Seal(name, digest, ctx.me, ctx.sign(sealing(name, digest)))
        for peer in self.village.members:
            if peer != ctx.me:
                ctx.send(peer, mine)
        self.on_seal(ctx, ctx.me, mine)

    @handles(Seal)
    def on_seal(self, ctx: Ctx, peer: PeerId, msg: Seal) -> None:
        """A member says how our epoch ends. Enough of them who say so alike are the proof."""
        if msg.village != self.village.name or msg.voter not in self.village.of:
            return
        self._seals[msg.voter] = msg
        sealed = self.village.is_majority(self._seals)
        if sealed and not self.is_closed:
            self._ask_which(ctx, msg.voter)
        elif sealed:
            digest = roll_digest(self.roll)
            signed = tuple(
                Signature(voter, one.signature)
                for voter, one in sorted(self._seals.items())
                if one.digest == digest
            )
            if self.village.is_majority(one.voter for one in signed):
                self.open_epoch(ctx, Opened(msg.village, self.roll, signed))

    def open_epoch(self, ctx: Ctx, proof: Opened) -> None:
        """It is proven that this roll ended our epoch: the next one begins."""
        epoch = proof.roll.epoch
        ctx.save(f"{OPENED}{epoch:016x}", encode(proof))
        if epoch > self.config.handovers:
            ctx.save(f"{OPENED}{epoch - self.config.handovers:016x}", None)
        ctx.save(EPOCH, encode(proof.roll))
        self.leave_epoch(ctx)
        self._leader = None
        self._begin(ctx, proof.roll, proof.roll)
        self.wish_again(ctx)

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
        if self.is_closed:
            self.seal(ctx)
        self.vouch_again(ctx)
        self.seek(ctx)

    def on_reply(self, ctx: Ctx, key: Any, peer: PeerId, msg: Any) -> None:
        if key != WHICH:
            super().on_reply(ctx, key, peer, msg)
        elif isinstance(msg, Opened) and msg.village == self.village.name:
            is_next = msg.roll.epoch == self.opening.epoch + 1 and msg.roll.opened == msg.roll.position
            if is_next and self.village.is_majority(one.voter for one in msg.signatures):
                if not self.is_closed:
                    ctx.emit(MembersChanged(msg.roll.position, msg.roll.members))
                self.open_epoch(ctx, msg)
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
                self.seal(ctx)
        elif key == OBSERVE:
            ctx.set_timer(OBSERVE, self.config.observe)
            self.observe(ctx)
        elif key == WATCH:
            ctx.set_timer(WATCH, self.config.absence / 3)
            self.watch(ctx)
        else:
            super().on_timer(ctx, key)
