"""Leader election (§3.4), with pre-vote (§9.6), check-quorum (§6.2) and leader stickiness (§4.2.3).

A follower that hears no leader for a time drawn from [T, 2T) first asks whether it would win; only if a
quorum says so does it raise the term and stand. Nobody says so, nor votes, who heard a leader within
T; a leader that hears no quorum within T steps down. Together they keep one leader in office through
links broken on one side or in one place, where plain Raft changes leaders without end.

A vote is durable before it leaves. Votes are counted by voter, each once.
"""

from __future__ import annotations

from grove_core.machine import PeerId, handles
from grove_raft import quorum
from grove_raft.machine.state import CHECK, ELECTION, Ctx, State
from grove_raft.messages import RequestVote, TimeoutNow, Vote

SLACK = 1e-6
"""Seconds by which a timer may round down."""


class Election(State):
    """How a member becomes leader."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.votes: dict[PeerId, bool] = {}
        """What was answered to this (pre-)candidate."""
        self._patient_since = 0.0
        self._timeout = 0.0

    # The election timer: re-armed lazily, since every message of a leader puts it off.

    def arm_election(self, ctx: Ctx) -> None:
        """Wait for a leader for a time drawn anew from [T, 2T).

        Anew under each leader: of those who keep their draw the patient ones outlive every leader, and
        the next election waits for the worst of them (median 1.5 T after a crash in three, not 1.3).
        """
        self._patient_since = ctx.now
        self._timeout = self.config.election_timeout * (1.0 + ctx.rng.random())
        ctx.set_timer(ELECTION, self._timeout)

    def heard_leader(self, ctx: Ctx) -> None:
        """This term's leader lives."""
        self.heard_at = self._patient_since = ctx.now

    def on_election_timer(self, ctx: Ctx) -> None:
        if self.standing == "leader":
            return
        left = self._patient_since + self._timeout - ctx.now
        if left > SLACK:
            ctx.set_timer(ELECTION, left)
            return
        self.arm_election(ctx)
        if self.may_stand(ctx):
            self.stand(ctx)
        else:
            self.set_leader(ctx, None)

    def may_stand(self, ctx: Ctx) -> bool:
        """Whether this member may lead: it decides, and has lost nothing it once acknowledged.

        Who is left out by a configuration may still be needed to commit it (§4.2.2).
        """
        log = self.log
        if log.is_damaged:
            return False
        at = log.members_index
        return log.members.decides(ctx.me) or (
            at > self.commit and log.members_at(at - 1).decides(ctx.me)
        )

    def hears_leader(self, ctx: Ctx) -> bool:
        """Whether a leader lives as far as we know: then nobody else gets our vote (§4.2.3).

        A node that restarts may have heard one just before: it waits T, or leases would be worth nothing.
        """
        if not self.config.check_quorum:
            return False
        return self.standing == "leader" or ctx.now - self.heard_at < self.config.election_timeout

    # Candidates.

    def stand(self, ctx: Ctx, transfer: bool = False) -> None:
        """Ask for votes, or first whether there would be any."""
        if self.config.pre_vote and not transfer:
            self.standing = "pre-candidate"
            self.set_leader(ctx, None)
            self._ask(ctx, RequestVote(self.log.group, self.log.term + 1, *self._up_to(), pre=True))
        else:
            self.stand_for_real(ctx, transfer)

    def stand_for_real(self, ctx: Ctx, transfer: bool) -> None:
        self.standing = "candidate"
        self.log.term += 1
        self.vote_for(ctx, ctx.me)
        self.set_leader(ctx, None)
        self._ask(ctx, RequestVote(self.log.group, self.log.term, *self._up_to(), transfer=transfer))

    def vote_for(self, ctx: Ctx, peer: PeerId) -> None:
        """Vote, durably: what is sent after this waits for the disk."""
        self.log.vote = peer
        self.log.save_hard(ctx)

    def _up_to(self) -> tuple[int, int]:
        return self.log.last_index, self.log.last_term

    def _ask(self, ctx: Ctx, request: RequestVote) -> None:
        self.votes = {ctx.me: True}
        members = self.log.members
        for peer in dict.fromkeys(members.voters + members.outgoing):
            if peer != ctx.me:
                self.send(ctx, peer, request)
        self._count(ctx)

    @handles(Vote)
    def on_vote(self, ctx: Ctx, peer: PeerId, msg: Vote) -> None:
        if not self.is_ours(ctx, peer, msg.group):
            return
        would = msg.pre and msg.granted
        if msg.term > self.log.term and not would:
            self.become_follower(ctx, msg.term, None)
        elif msg.pre and self.standing == "pre-candidate":
            if not msg.granted or msg.term == self.log.term + 1:
                self.votes[peer] = msg.granted
                self._count(ctx)
        elif not msg.pre and self.standing == "candidate" and msg.term == self.log.term:
            self.votes[peer] = msg.granted
            self._count(ctx)

    def _count(self, ctx: Ctx) -> None:
        members = self.log.members
        outcome = quorum.tally_jointly(members.voters, members.outgoing, self.votes)
        if outcome == "open":
            return
        if outcome == "lost":
            self.become_follower(ctx, self.log.term, None)
        elif self.standing == "pre-candidate":
            self.stand_for_real(ctx, transfer=False)
        else:
            self.standing = "leader"
            self.votes = {}
            ctx.cancel_timer(ELECTION)
            ctx.set_timer(CHECK, self.config.election_timeout)
            self.take_office(ctx)

    # Voters.

    @handles(RequestVote)
    def on_request_vote(self, ctx: Ctx, peer: PeerId, msg: RequestVote) -> None:
        if not self.is_ours(ctx, peer, msg.group):
            return
        log = self.log
        if msg.term < log.term:
            self.send(ctx, peer, Vote(log.group, log.term, False, msg.pre))
            return
        if not msg.transfer and self.hears_leader(ctx):
            return  # §4.2.3: not even the term is noticed
        if msg.pre:
            is_free = msg.term > log.term or (log.vote in (None, peer) and self._leader is None)
            granted = is_free and self.is_up_to_date(msg) and not log.is_damaged
            self.send(ctx, peer, Vote(log.group, msg.term if granted else log.term, granted, True))
            return
        is_later = msg.term > log.term
        if is_later:
            self._notice(ctx, msg.term)
        is_free = log.vote == peer or (log.vote is None and self._leader is None)
        granted = is_free and self.is_up_to_date(msg) and not log.is_damaged
        if granted:
            self._patient_since = ctx.now  # the paper: on a granted vote, not on any request
            self.vote_for(ctx, peer)
        elif is_later:
            log.save_hard(ctx)
        self.send(ctx, peer, Vote(log.group, log.term, granted))

    def _notice(self, ctx: Ctx, term: int) -> None:
        """Follow in a later term; the caller makes it durable together with the vote."""
        if self.standing == "leader":
            self.become_follower(ctx, term, None)
        else:
            self.standing = "follower"
            self.log.term, self.log.vote = term, None
            self.set_leader(ctx, None)

    def is_up_to_date(self, msg: RequestVote) -> bool:
        """Whether the candidate's log holds at least what ours does (§3.6.1)."""
        return (msg.last_term, msg.last_index) >= (self.log.last_term, self.log.last_index)

    # Check-quorum.

    def on_check_timer(self, ctx: Ctx) -> None:
        """Step down unless a quorum was heard since the last check (§6.2)."""
        if self.standing != "leader":
            return
        ctx.set_timer(CHECK, self.config.election_timeout)
        active = {peer: 1 for peer, progress in self.progress.items() if progress.is_active}
        active[ctx.me] = 1
        for progress in self.progress.values():
            progress.is_active = False
        if self.config.check_quorum and self.agreed(active) < 1:
            self.become_follower(ctx, self.log.term, None)

    # Transfer, the successor's side.

    @handles(TimeoutNow)
    def on_timeout_now(self, ctx: Ctx, peer: PeerId, msg: TimeoutNow) -> None:
        """The leader wishes us to take over (§3.10)."""
        if (
            self.is_ours(ctx, peer, msg.group)
            and msg.term == self.log.term
            and peer == self._leader
            and self.standing == "follower"
            and self.may_stand(ctx)
        ):
            self.arm_election(ctx)
            self.stand(ctx, transfer=True)
