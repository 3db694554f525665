"""View changes (PBFT §4.4): another primary, and nothing committed is lost.

A backup whose timer ran out sends a VIEW-CHANGE with its last stable checkpoint and its prepared
certificates. The primary of the new view gathers a quorum of them; what follows is computed by
everybody alike: each number above the highest stable checkpoint gets the digest prepared for it in the
highest view, or the null request. A backup accepts the NEW-VIEW only if it comes to the same.

Invariants:
1. From our VIEW-CHANGE on we prepare nothing in an earlier view; the new view is durable before it is
   said.
2. A VIEW-CHANGE counts only if each certificate in it is a quorum of this configuration's voters, with
   the primary of its view among them, inside the window above its stable checkpoint.
3. f + 1 voters in later views take us along; the timer of a view starts when a quorum wants it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from grove_core.events import LeaderChanged
from grove_core.machine import PeerId, Token, handles
from grove_pbft.config import Config
from grove_pbft.machine.checkpoints import load
from grove_pbft.machine.ordering import ENCODER
from grove_pbft.machine.replica import Ctx
from grove_pbft.machine.transfer import SOON, Transfer
from grove_pbft.messages import (
    MAX_VOTERS,
    NEW_VIEW,
    NULL,
    PREPARED,
    VIEW_CHANGE,
    Certificate,
    Cited,
    FetchChange,
    FetchNewView,
    NewView,
    Nothing,
    Proposal,
    Signatures,
    ViewChange,
    change_digest,
    new_view_digest,
)

VIEW_TIMER: Final = "view"
RESEND: Final = "resend"
VIEW_KEY: Final = "view"


class ViewRecord(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Which view we are in or on the way to, and how it began."""

    number: int
    view: int
    is_changing: bool
    new_view: NewView | None
    changes: Annotated[tuple[ViewChange, ...], Meta(max_length=MAX_VOTERS)]


class Arriving:
    """A NEW-VIEW whose VIEW-CHANGEs are being fetched, or whose checkpoint is."""

    __slots__ = ("changes", "failures", "msg")

    def __init__(self, msg: NewView) -> None:
        self.msg = msg
        self.changes: dict[PeerId, ViewChange] = {}
        self.failures = 0
        """Questions that came to nothing; after two for each VIEW-CHANGE it is given up."""


class Views(Transfer):
    """From one primary to the next."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.changes: dict[PeerId, ViewChange] = {}
        """Each voter's VIEW-CHANGE for the highest view, ours included."""
        self.arriving: dict[PeerId, Arriving] = {}
        """The latest from each voter: a faulty one's, for views far ahead, keeps no other's out."""
        self._timed = -1
        """The view whose timer was started."""

    def expects_view(self, view: int) -> bool:
        return view == self.view or any(view == one.msg.view for one in self.arriving.values())

    # View-change.

    def change_view(self, ctx: Ctx, view: int) -> None:
        """Stop working in this view, and say so."""
        assert view > self.view or self.is_changing
        was_leader = self.leader()
        self.view, self.is_changing = view, True
        self._timed = -1
        self.unwatch(ctx)
        ctx.cancel_timer(VIEW_TIMER)
        self._save_view(ctx)
        if was_leader is not None:
            ctx.emit(LeaderChanged(None, self.epoch))
        self.say_view_change(ctx)
        self._count(ctx)

    def say_view_change(self, ctx: Ctx) -> None:
        """Our VIEW-CHANGE, made of what is durable; none while nobody can check where our log begins."""
        ctx.set_timer(RESEND, self.config.request_timeout)
        if not self.is_proven:
            return
        prepared = tuple(
            slot.prepared
            for seq, slot in sorted(self.slots.items())
            if slot.prepared is not None and self.stable < seq <= self.stable + self.window
        )
        proof: Signatures = ()
        digest = NULL
        if self.stable_proof is not None:
            proof, digest = self.stable_proof.signatures, self.stable_proof.digest
        name = self.configuration.name
        draft = ViewChange(name, self.view, self.stable, digest, proof, prepared, ctx.me, b"")
        signature = self.signed(ctx, VIEW_CHANGE, self.view, self.stable, change_digest(draft))
        mine = msgspec.structs.replace(draft, signature=signature)
        self.changes[ctx.me] = mine
        self.broadcast(ctx, mine)

    def resend(self, ctx: Ctx) -> None:
        """Still between views: those that did not hear us may now. Our log may begin later than when we
        said so; what was said of it before remains true."""
        if self.is_changing:
            self.say_view_change(ctx)
            self.retry_views(ctx)

    @handles(ViewChange)
    def on_view_change(self, ctx: Ctx, peer: PeerId, msg: ViewChange) -> None:
        if msg.configuration != self.configuration.name:
            self.of_another_configuration(ctx, peer, msg)
            return
        if not self.is_voter(ctx) or msg.voter == ctx.me or not self.is_valid(msg):
            return
        before = self.changes.get(msg.voter)
        if before is not None and before.view > msg.view:
            return
        if msg.view < self.view or (msg.view == self.view and not self.is_changing):
            # It is behind: this is how we came here.
            if self.new_view is not None and peer == msg.voter:
                ctx.send(peer, self.new_view)
            return
        self.changes[msg.voter] = msg
        later = [one.view for one in self.changes.values() if one.view > self.view]
        if len(later) >= self.configuration.weak:
            self.change_view(ctx, min(later))
        else:
            self._count(ctx)

    def is_valid(self, msg: ViewChange) -> bool:
        """Invariant 2; that the signatures hold was checked before."""
        here = self.configuration
        if msg.voter not in here.rank or msg.view == 0:
            return False
        if msg.stable == self.membership.base:
            if msg.proof:
                return False
        elif (
            msg.stable % self.every or msg.stable < self.membership.base or not here.is_quorum(msg.proof)
        ):
            return False
        last = msg.stable
        for one in msg.prepared:
            if not last < one.seq <= msg.stable + self.window or one.view >= msg.view:
                return False
            if not here.is_certified(one):
                return False
            primary = here.primary(one.view)
            if not any(signed.voter == primary for signed in one.signatures):
                return False
            last = one.seq
        return True

    def _count(self, ctx: Ctx) -> None:
        """A quorum wants this view: its primary may begin, and has this long."""
        if not self.is_changing:
            return
        wanting = sum(1 for one in self.changes.values() if one.view == self.view)
        if wanting < self.configuration.quorum:
            return
        if self._timed != self.view:
            self._timed = self.view
            ctx.set_timer(VIEW_TIMER, self.timeout)
        if self.primary == ctx.me:
            self._begin_view(ctx)

    def view_failed(self, ctx: Ctx) -> None:
        """The new primary had its time, too."""
        if self.is_changing:
            self.failed_views += 1
            self.change_view(ctx, self.view + 1)

    # New-view, at its primary.

    def _begin_view(self, ctx: Ctx) -> None:
        wanting = sorted(
            (one.voter != ctx.me, one.voter) for one in self.changes.values() if one.view == self.view
        )
        chosen = sorted(voter for _, voter in wanting[: self.configuration.quorum])
        changes = {voter: self.changes[voter] for voter in chosen}
        lowest, digests = outcome(changes)
        if self.executed < lowest:
            self.lag(ctx, now=True)  # comes back by retry_views
            return
        proposals = tuple(
            Proposal(seq, digest, self.signed(ctx, PREPARED, self.view, seq, digest))
            for seq, digest in digests.items()
        )
        cited = tuple(Cited(voter, change_digest(one)) for voter, one in changes.items())
        said = new_view_digest(cited, proposals)
        signature = self.signed(ctx, NEW_VIEW, self.view, 0, said)
        msg = NewView(self.configuration.name, self.view, cited, proposals, ctx.me, signature)
        self._enter_view(ctx, msg, changes)

    # New-view, at its backups.

    @handles(NewView)
    def on_new_view(self, ctx: Ctx, peer: PeerId, msg: NewView) -> None:
        if msg.configuration != self.configuration.name:
            self.of_another_configuration(ctx, peer, msg)
            return
        here = self.configuration
        if msg.voter != here.primary(msg.view) or msg.voter == ctx.me or not self.is_voter(ctx):
            return
        if msg.view < self.view or (msg.view == self.view and not self.is_changing):
            return
        known = self.arriving.get(msg.voter)
        if known is not None and known.msg.view == msg.view:
            return
        voters = [cited.voter for cited in msg.changes]
        if len(voters) != here.quorum or not all(voter in here.rank for voter in voters):
            return
        if any(one >= other for one, other in pairwise(voters)):
            return
        arriving = self.arriving[msg.voter] = Arriving(msg)
        for cited in msg.changes:
            held = self.changes.get(cited.voter)
            if held is not None and held.view == msg.view and change_digest(held) == cited.digest:
                arriving.changes[cited.voter] = held
            else:
                self._fetch_change(ctx, peer, msg, cited)
        self.retry_views(ctx)

    def _fetch_change(self, ctx: Ctx, server: PeerId, msg: NewView, cited: Cited) -> None:
        question = FetchChange(msg.configuration, msg.view, cited)
        ctx.request(server, question, ("change", msg.view, cited), self.config.fetch_timeout)

    def on_reply(self, ctx: Ctx, key: Any, peer: PeerId, msg: Any) -> None:
        if key == VIEW_KEY:
            if isinstance(msg, NewView):
                self.on_new_view(ctx, peer, msg)
        elif key[0] == "change":
            arriving, cited = self._arriving_in(key[1]), key[2]
            if arriving is None:
                return
            found = (
                isinstance(msg, ViewChange)
                and msg.configuration == arriving.msg.configuration
                and (msg.voter, msg.view) == (cited.voter, key[1])
                and change_digest(msg) == cited.digest
                and self.is_valid(msg)
            )
            if found:
                arriving.changes[cited.voter] = msg
                self.retry_views(ctx)
            else:
                self._fetch_failed(ctx, key)
        else:
            super().on_reply(ctx, key, peer, msg)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        if isinstance(key, tuple) and key[0] == "change":
            self._fetch_failed(ctx, key)
        else:
            super().on_failure(ctx, key, peer, reason)

    def _arriving_in(self, view: int) -> Arriving | None:
        found = self.arriving.get(self.configuration.primary(view))
        return found if found is not None and found.msg.view == view else None

    def _fetch_failed(self, ctx: Ctx, key: Any) -> None:
        arriving = self._arriving_in(key[1])
        if arriving is not None:
            arriving.failures += 1
            if arriving.failures > 2 * len(arriving.msg.changes):
                del self.arriving[arriving.msg.voter]
            else:
                ctx.set_timer(key, SOON)

    def fetch_again(self, ctx: Ctx, key: Any) -> None:
        """A VIEW-CHANGE could not be had from one member; another may hold it."""
        arriving = self._arriving_in(key[1])
        if arriving is not None:
            others = [voter for voter in self.configuration.voters if voter != ctx.me]
            self._fetch_change(ctx, ctx.rng.choice(others), arriving.msg, key[2])

    def retry_views(self, ctx: Ctx) -> None:
        """Something came that a new view may have waited for."""
        if self.is_changing and self.primary == ctx.me and self.is_voter(ctx):
            self._count(ctx)
        complete = [one for one in self.arriving.values() if len(one.changes) == len(one.msg.changes)]
        for arriving in sorted(complete, key=lambda one: one.msg.view):
            msg = arriving.msg
            if msg.view < self.view or (msg.view == self.view and not self.is_changing):
                del self.arriving[msg.voter]
                continue
            changes = {cited.voter: arriving.changes[cited.voter] for cited in msg.changes}
            lowest, digests = outcome(changes)
            if tuple(digests.items()) != tuple((one.seq, one.digest) for one in msg.proposals):
                del self.arriving[msg.voter]
                self.failed_views += 1
                self.change_view(ctx, msg.view + 1)  # a primary that lies about O
            elif self.executed < lowest:
                self.lag(ctx, now=True)
            else:
                self._enter_view(ctx, msg, changes)
            return

    # Both.

    def _enter_view(self, ctx: Ctx, msg: NewView, changes: dict[PeerId, ViewChange]) -> None:
        lowest, _ = outcome(changes)
        self.is_changing = True  # until all of the new view stands, nothing is proposed or prepared
        for change in changes.values():
            if change.stable == lowest > self.stable:
                name = self.configuration.name
                self.stabilise(ctx, Certificate(name, 0, lowest, change.digest, change.proof))
        self.view, self.is_changing = msg.view, False
        for voter in [v for v, one in self.arriving.items() if one.msg.view <= self.view]:
            del self.arriving[voter]
        self._timed = -1
        self.new_view, self.new_view_changes = msg, changes
        ctx.cancel_timer(VIEW_TIMER)
        ctx.cancel_timer(RESEND)
        self._save_view(ctx)
        if msg.voter == ctx.me:
            self.broadcast(ctx, msg)
        for voter in [v for v, one in self.changes.items() if one.view <= self.view]:
            del self.changes[voter]
        self.queue = {key: waiting.request for key, waiting in self.pending.items()}
        highest = max([one.seq for one in msg.proposals], default=lowest)
        self.last_proposed = max(highest, self.executed, self.stable)
        ctx.emit(LeaderChanged(self.primary, self.epoch))
        for one in msg.proposals:
            if one.seq > self.stable:
                self._re_issued(ctx, one)
        self.watch(ctx)
        self.take_early(ctx)
        for seq in sorted(self.slots):
            self.check_prepared(ctx, seq)
        self.propose_batches(ctx)

    def _re_issued(self, ctx: Ctx, one: Proposal) -> None:
        """A PRE-PREPARE of O. Its batch, if we lack it, is with the f + 1 correct voters that prepared
        it."""
        slot = self.slot(one.seq)
        batch = () if one.digest == NULL else slot.batches.get(one.digest)
        self.accept(ctx, one.seq, one.digest, one.signature, batch)
        if batch is None:
            self.fetch_batch(ctx, one.seq, one.digest)
        if self.primary != ctx.me:
            self.prepare(ctx, one.seq, one.digest)

    @property
    def epoch(self) -> int:
        """Configuration and view in one ascending number."""
        return self.configuration.number << 32 | self.view

    # Durable, and for those who ask.

    def _save_view(self, ctx: Ctx) -> None:
        changes = tuple(self.new_view_changes.values())
        record = ViewRecord(
            self.configuration.number, self.view, self.is_changing, self.new_view, changes
        )
        self.save(ctx, VIEW_KEY, ENCODER.encode(record))

    def load_view(self, ctx: Ctx) -> None:
        """Go on in the view, or the change of views, in which the last life ended."""
        record = load(ctx, VIEW_KEY, ViewRecord)
        if record is not None and record.number == self.configuration.number:
            self.view, self.is_changing = record.view, record.is_changing
            self.new_view = record.new_view
            self.new_view_changes = {one.voter: one for one in record.changes}

    def ask_view(self, ctx: Ctx) -> None:
        """Has the group moved on to another view?"""
        others = [voter for voter in self.configuration.voters if voter != ctx.me]
        if others and self.is_voter(ctx):
            question = FetchNewView(self.configuration.name, self.view)
            ctx.request(ctx.rng.choice(others), question, VIEW_KEY, self.config.fetch_timeout)

    def on_request(self, ctx: Ctx, peer: PeerId, msg: Any, token: Token) -> None:
        if isinstance(msg, FetchChange) and self.may_ask(peer):
            found = self.new_view_changes.get(msg.cited.voter)
            if found is None or found.view != msg.view:
                found = self.changes.get(msg.cited.voter)
            ctx.reply(token, Nothing() if found is None else found)
        elif isinstance(msg, FetchNewView) and self.may_ask(peer):
            same = msg.configuration == self.configuration.name
            later = self.new_view is not None and self.new_view.view > msg.view
            ctx.reply(token, self.new_view if same and later and self.new_view else Nothing())
        else:
            super().on_request(ctx, peer, msg, token)


def outcome(changes: dict[PeerId, ViewChange]) -> tuple[int, dict[int, bytes]]:
    """What follows from a quorum of VIEW-CHANGEs: min-s, and a digest for each number above it up to
    max-s.

    The digest prepared in the highest view, or NULL where none was: executed, it does nothing, and leaves
    no hole. Two digests prepared in one view cannot both be certified.
    """
    lowest = max(one.stable for one in changes.values())
    best: dict[int, Certificate] = {}
    for change in changes.values():
        for one in change.prepared:
            known = best.get(one.seq)
            if one.seq > lowest and (known is None or one.view > known.view):
                best[one.seq] = one
    highest = max(best, default=lowest)
    chosen = {seq: best[seq].digest if seq in best else NULL for seq in range(lowest + 1, highest + 1)}
    return lowest, chosen
