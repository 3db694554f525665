"""Log replication (§3.5), with pipelining and flow control (§10.2), and what is committed (§3.6.2).

The leader sends what it appends before it saves it (§10.2.1): its own copy is counted at once, and
that is safe because whatever tells of a commit is called after the save, and so leaves after it.
A follower saves before it acknowledges. Committed is what a quorum holds, of the leader's own term;
older entries are committed with it (figure 3.7).
"""

from __future__ import annotations

import msgspec

from grove_core.events import Committed, LeaderChanged, Restored
from grove_core.machine import PeerId, handles
from grove_core.multibase import from_base58
from grove_raft.log import weight
from grove_raft.machine.election import Election
from grove_raft.machine.state import HEARTBEAT, TELL, Ctx
from grove_raft.messages import (
    COMMAND,
    CONFIGURATION,
    NOOP,
    Append,
    Appended,
    Entry,
    Members,
    decode_members,
)
from grove_raft.progress import Progress


class Replication(Election):
    """How entries get from a leader's log into everybody's."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.uncommitted_bytes = 0
        """Weight of the leader's entries that are not committed."""
        self._answered = (0, -1)
        self._shared: tuple[int, int, tuple[Entry, ...]] = (0, 0, ())
        self._is_telling = False

    # Leaders.

    def take_office(self, ctx: Ctx) -> None:
        """Lead: know nothing of the others, and append a no-op to have an entry of this term."""
        log = self.log
        self.round = 1
        self.progress = {}
        self.adopt_members(ctx)
        self.uncommitted_bytes = sum(map(weight, log.entries[max(0, self.commit - log.offset) :]))
        self.set_leader(ctx, ctx.me)
        ctx.set_timer(HEARTBEAT, self.config.heartbeat)
        self.append_own(ctx, [Entry(log.term, NOOP)])

    def append_own(self, ctx: Ctx, entries: list[Entry]) -> None:
        """Append in the leader's log, send it to everybody, make it durable."""
        log = self.log
        first = log.last_index + 1
        log.hold(entries)
        self.uncommitted_bytes += sum(map(weight, entries))
        if any(entry.kind == CONFIGURATION for entry in entries):
            self.adopt_members(ctx)
        for peer, progress in self.progress.items():
            self.replicate(ctx, peer, progress)
        log.persist(ctx, first)
        self.advance_commit(ctx)

    def replicate(self, ctx: Ctx, peer: PeerId, progress: Progress) -> None:
        """Send what is new, as far as the window is open."""
        log, config = self.log, self.config
        while progress.next <= log.last_index:
            if progress.state == "snapshot" or progress.is_paused or peer not in self.up:
                return
            if (
                progress.inflight_entries >= config.inflight_entries
                or progress.inflight_bytes >= config.inflight_bytes
            ):
                return
            if not self.send_append(ctx, peer, progress):
                return

    def send_append(self, ctx: Ctx, peer: PeerId, progress: Progress, is_empty: bool = False) -> bool:
        """One append from progress.next on; false if it takes a snapshot instead."""
        log = self.log
        prev = progress.next - 1
        prev_term = log.term_at(prev)
        if prev_term is None or prev < log.offset:
            self.send_snapshot(ctx, peer, progress)
            return False
        entries: tuple[Entry, ...] = () if is_empty else self._part(progress.next)
        progress.told = min(self.commit, prev + len(entries))
        self.send(
            ctx, peer, Append(log.group, log.term, prev, prev_term, entries, self.commit, self.round)
        )
        if progress.state == "probe":
            progress.is_paused = True
        elif entries:
            progress.sending(prev + len(entries), len(entries), sum(map(weight, entries)))
        return True

    def _part(self, first: int) -> tuple[Entry, ...]:
        """What one append may hold; followers in step share one tuple."""
        log = self.log
        if first > log.last_index:
            return ()
        at, last, entries = self._shared
        if (
            at != first
            or last != log.last_index
            or entries[-1] is not log.entry(first + len(entries) - 1)
        ):
            entries = log.part(first, self.config.append_entries, self.config.append_bytes)
            self._shared = (first, log.last_index, entries)
        return entries

    def on_heartbeat_timer(self, ctx: Ctx) -> None:
        if self.standing == "leader":
            ctx.set_timer(HEARTBEAT, self.config.heartbeat)
            self.beat(ctx)

    def beat(self, ctx: Ctx) -> None:
        """A sign of life to everybody, in a new round. It also finds what was lost on the way."""
        self.round += 1
        for peer, progress in self.progress.items():
            if peer not in self.up:
                continue
            if progress.state == "snapshot":
                self.send_snapshot(ctx, peer, progress)
            else:
                is_probe = progress.state == "probe"
                self.send_append(ctx, peer, progress, is_empty=not is_probe)

    @handles(Appended)
    def on_appended(self, ctx: Ctx, peer: PeerId, msg: Appended) -> None:
        if not self.is_ours(ctx, peer, msg.group):
            return
        if msg.term > self.log.term:
            self.become_follower(ctx, msg.term, None)
            return
        progress = self.progress.get(peer)
        # What was acknowledged in an earlier term may have been overwritten since.
        if self.standing != "leader" or msg.term < self.log.term or progress is None:
            return
        if msg.index > self.log.last_index or msg.round > self.round:
            return  # of a log that is not ours
        progress.is_active = True
        progress.round = max(progress.round, msg.round)
        if msg.loss or progress.loss:
            self.consider_loss(ctx, peer, progress, msg.loss, msg.index if msg.ok else 0)
            if self.standing != "leader":
                return
        if msg.ok:
            self._accepted(ctx, peer, progress, msg)
        else:
            self._refused(ctx, peer, progress, msg)
        if self.standing == "leader":
            self.heard_from(ctx, peer, progress)

    def _accepted(self, ctx: Ctx, peer: PeerId, progress: Progress, msg: Appended) -> None:
        is_news = progress.acknowledged(msg.index)
        if is_news:
            progress.matched = msg.round
        if progress.state == "probe" or (
            progress.state == "snapshot" and progress.match >= max(progress.snapshot, self.log.offset)
        ):
            progress.replicate()
        if is_news:
            self.advance_commit(ctx)
        if self.standing == "leader":
            self.replicate(ctx, peer, progress)

    def _refused(self, ctx: Ctx, peer: PeerId, progress: Progress, msg: Appended) -> None:
        if progress.state == "snapshot":
            return
        if msg.index <= progress.match:
            # Late, and of no meaning any more; unless the member answers a heartbeat newer than what
            # it acknowledged: then it has lost what it had.
            if msg.hint >= progress.match or msg.round <= progress.matched:
                return
            progress.match = msg.hint
        elif progress.state == "probe" and msg.index != progress.next - 1:
            return
        hint, _ = self.log.like(msg.hint, msg.hint_term)
        progress.probe(max(1, min(msg.index, hint + 1)))
        if self.send_append(ctx, peer, progress):
            progress.is_paused = True

    def advance_commit(self, ctx: Ctx) -> None:
        """Commit what a quorum holds."""
        held = {peer: progress.match for peer, progress in self.progress.items()}
        held[ctx.me] = self.log.last_index
        index = min(self.agreed(held), self.log.last_index)
        if index > self.commit and self.may_commit(index):
            self.commit_up_to(ctx, index)
            if self.standing == "leader" and not self._is_telling:
                self._is_telling = True
                ctx.set_timer(TELL, 0.0)

    def may_commit(self, index: int) -> bool:
        """Figure 3.7: only entries of the own term are committed by counting."""
        return self.log.term_at(index) == self.log.term

    def on_tell_timer(self, ctx: Ctx) -> None:
        """Followers learn of a commit at once, not with the next heartbeat; no answer is due."""
        self._is_telling = False
        if self.standing == "leader":
            for peer, progress in self.progress.items():
                if progress.state == "replicate" and progress.told < min(self.commit, progress.match):
                    self.send_append(ctx, peer, progress, is_empty=True)

    # Followers.

    @handles(Append)
    def on_append(self, ctx: Ctx, peer: PeerId, msg: Append) -> None:
        if not self.enlist(ctx, peer, msg.group) or not self.accept_leader(
            ctx, peer, msg.term, msg.round
        ):
            return
        log = self.log
        prev, prev_term, entries = msg.prev_index, msg.prev_term, msg.entries
        if prev < self.commit:
            # What is committed agrees: look only at what goes beyond.
            known = min(self.commit - prev, len(entries))
            if known < self.commit - prev or not entries[known:]:
                self._acknowledge(ctx, peer, max(self.commit, prev + known), msg.round)
                return
            prev, prev_term, entries = self.commit, entries[known - 1].term, entries[known:]
        if log.term_at(prev) != prev_term:
            hint, term = log.like(min(prev, log.last_index), prev_term)
            refusal = Appended(
                log.group, log.term, False, msg.prev_index, msg.round, hint, term, log.loss
            )
            self.send(ctx, peer, refusal)
            return
        match = prev + len(entries)
        fresh = self.new_entries(prev, entries)
        if fresh:
            if not all(map(_is_sound, fresh)):
                return
            first, members = match - len(fresh), log.members
            if first < log.last_index:
                assert first >= self.commit, "a leader contradicts what is committed"
                log.truncate(ctx, first)
            log.append(ctx, fresh)
            if log.members is not members:
                self.hold_members(ctx)
        commit = self.commit_of(msg, match)
        if commit > self.commit:
            self.commit_up_to(ctx, commit)
        if entries or msg.round != self._answered[1] or msg.term != self._answered[0]:
            self._acknowledge(ctx, peer, match, msg.round)

    def new_entries(self, prev: int, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Those that are missing or conflict. A log that already holds them all is not cut (§3.5)."""
        for place, entry in enumerate(entries):
            if self.log.term_at(prev + 1 + place) != entry.term:
                return entries[place:]
        return ()

    def commit_of(self, msg: Append, match: int) -> int:
        """What may be committed here: nothing beyond the last entry that this append has proved."""
        return min(msg.commit, match)

    def _acknowledge(self, ctx: Ctx, peer: PeerId, index: int, round: int) -> None:
        self._answered = (self.log.term, round)
        log = self.log
        self.send(ctx, peer, Appended(log.group, log.term, True, index, round, loss=log.loss))

    def accept_leader(self, ctx: Ctx, peer: PeerId, term: int, round: int) -> bool:
        """Follow the leader of this term or a later one; an earlier one is told of ours."""
        log = self.log
        if term < log.term:
            # Answered, not dropped: else a member stuck in a later term, whom stickiness keeps from
            # standing, could never be freed (etcd/raft, Step).
            self.send(ctx, peer, Appended(log.group, log.term, False, 0, round, loss=log.loss))
            return False
        if term > log.term or self.standing != "follower" or self._leader != peer:
            if term == log.term and (self.standing == "leader" or self._leader not in (None, peer)):
                return False  # two leaders of one term: not among members that keep the rules
            self.become_follower(ctx, term, peer)
            self.arm_election(ctx)
        self.heard_leader(ctx)
        return True

    def enlist(self, ctx: Ctx, peer: PeerId, group: bytes) -> bool:
        """Whether a leader may be listened to. A node in no group joins the first it may trust."""
        if self.log.group:
            return group == self.log.group
        config = self.config
        if config.trusted and all(from_base58(text) != peer for text in config.trusted):
            return False
        if config.group and group != self.group_name(()):
            return False
        self.log.found(ctx, group, Members())
        return True

    # Everybody.

    def commit_up_to(self, ctx: Ctx, index: int) -> None:
        """Everything up to index is decided: hand it over in order."""
        assert self.commit < index <= self.log.last_index
        self.commit = index
        self.apply(ctx)

    def apply(self, ctx: Ctx) -> None:
        """Hand over what is committed and was not yet."""
        log = self.log
        if not self._is_awake:
            return
        was_leader = self.standing == "leader"
        while self.applied < self.commit:
            self.applied += 1
            entry = log.entry(self.applied)
            if was_leader:
                self.uncommitted_bytes -= weight(entry)
            if entry.kind == COMMAND:
                ctx.emit(Committed(self.applied, entry.id, entry.proposer, entry.command))
            elif entry.kind == CONFIGURATION:
                self.configuration_committed(ctx, self.applied, entry)
            elif entry.id:
                self.loss_noted(ctx, entry)
        self.applied_up_to(ctx)

    def wake(self, ctx: Ctx) -> None:
        """Hand over what earlier lives decided, once the siblings have started."""
        self._is_awake = True
        snapshot = self.log.snapshot
        if snapshot.index:
            ctx.emit(Restored(snapshot.index, snapshot.state))
        self.announce_members(ctx)
        if self._leader is not None:
            ctx.emit(LeaderChanged(self._leader, self.log.term))
        self.apply(ctx)

    def announce_members(self, ctx: Ctx) -> None:  # configuration
        raise NotImplementedError

    def consider_loss(
        self, ctx: Ctx, peer: PeerId, progress: Progress, loss: bytes, held: int
    ) -> None:  # losses
        raise NotImplementedError

    def loss_noted(self, ctx: Ctx, entry: Entry) -> None:  # losses
        raise NotImplementedError


def _is_sound(entry: Entry) -> bool:
    """Whether an entry of a configuration can be read."""
    if entry.kind != CONFIGURATION:
        return True
    try:
        decode_members(entry.command)
    except msgspec.DecodeError:
        return False
    return True
