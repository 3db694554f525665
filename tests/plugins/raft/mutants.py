"""Known bugs, put back one at a time by small overrides. Each must be caught (consensus.md 5.2)."""

from __future__ import annotations

from typing import Any

from grove_raft.log import Log, Snapshot
from grove_raft.machine import Raft
from grove_raft.messages import Append, Appended, Chunk, Members, RequestVote

from grove_core.machine import PeerId, handles


class CommitsOldTermsByCounting(Raft):
    """Figure 3.7 (figure 8 of the paper)."""

    def may_commit(self, index: int) -> bool:
        return True


class ForgetsItsVote(Raft):
    """A vote is sent and not saved (PySyncObj#84)."""

    def vote_for(self, ctx: Any, peer: PeerId) -> None:
        self.log.vote = peer


class VotesTwice(Raft):
    """Whoever asks gets a vote."""

    @handles(RequestVote)
    def on_request_vote(self, ctx: Any, peer: PeerId, msg: RequestVote) -> None:
        if not msg.pre and msg.term == self.log.term:
            self.log.vote = None
            self._leader = None
        super().on_request_vote(ctx, peer, msg)


class VotesForShorterLogs(Raft):
    """§3.6.1 left out."""

    def is_up_to_date(self, msg: RequestVote) -> bool:
        return True


class _Unsaved(Log):
    """Entries are acknowledged before they are durable, and become so a moment too late: here, never."""

    def persist(self, ctx: Any, first: int) -> None:
        if self._runs and first % 3:  # now and then, as after a crash at the wrong moment
            self._runs.append(first)
            return
        super().persist(ctx, first)


class AcknowledgesWithoutSaving(Raft):
    """Ack before fsync, with crashes."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.log = _Unsaved()


class ReadsWithoutAsking(Raft):
    """A leader that was deposed answers reads (Redis-Raft, etcd#20418)."""

    def ask(self, ctx: Any, id: bytes, peer: PeerId | None) -> None:
        self.answer_read(ctx, id, peer, self.commit, "")


class ReadsBeforeItsFirstCommit(Raft):
    """tikv PR#6340."""

    def may_read(self, ctx: Any) -> bool:
        return True


class ReadsAnywhere(Raft):
    """Followers answer from what they have."""

    def want_read(self, ctx: Any, id: bytes) -> None:
        self.read_from(ctx, id, 0)


class ChangesMembersAtOnce(Raft):
    """No joint configuration: C_old and C_new decide side by side."""

    def joint(self, old: Members, joint: Members) -> Members:
        return Members(joint.voters, (), tuple(sorted(joint.learners + joint.learners_next)))


class ChangesOneMemberAtATime(Raft):
    """No bug: the dissertation's single-server change, repaired: majorities of neighbours overlap."""

    def joint(self, old: Members, joint: Members) -> Members:
        come = [peer for peer in joint.voters if peer not in old.voters]
        go = [peer for peer in old.voters if peer not in joint.voters]
        voters = (*old.voters, come[0]) if come else tuple(p for p in old.voters if p != go[0])
        learners = sorted(set(joint.learners + joint.learners_next + old.learners) - set(voters))
        return Members(tuple(sorted(voters)), (), tuple(learners))


class ChangesMembersBeforeItsFirstCommit(ChangesOneMemberAtATime):
    """The same without the repair (raft-dev, 2015)."""

    def may_not_reconfigure(self, ctx: Any) -> str:
        reason = super().may_not_reconfigure(ctx)
        return "" if reason.startswith("the leader has not committed") else reason


class FollowersCommitPastTheAppend(Raft):
    """etcd#10166: the leader's commit index is taken for entries that this append does not prove."""

    def commit_of(self, msg: Append, match: int) -> int:
        return min(msg.commit, self.log.last_index)

    def send_append(self, ctx: Any, peer: PeerId, progress: Any, is_empty: bool = False) -> bool:
        # As in the paper, a heartbeat is empty while the logs are still being compared: ours carries
        # entries then, and hides the bug.
        return super().send_append(ctx, peer, progress, is_empty or progress.state == "probe")


class CutsAPrefix(Raft):
    """A late append, whose entries are all there, cuts what follows them."""

    @handles(Append)
    def on_append(self, ctx: Any, peer: PeerId, msg: Append) -> None:
        log = self.log
        last = msg.prev_index + len(msg.entries)
        if (
            msg.term == log.term
            and msg.entries
            and self.commit <= last < log.last_index
            and log.term_at(msg.prev_index) == msg.prev_term
        ):
            log.truncate(ctx, last)
        super().on_append(ctx, peer, msg)


class InstallsOldSnapshots(Raft):
    """etcd PR#1763: a snapshot replaces a log that is newer and agrees with it."""

    @handles(Chunk)
    def on_chunk(self, ctx: Any, peer: PeerId, msg: Chunk) -> None:
        if msg.term >= self.log.term and msg.offset == 0 and len(msg.data) == msg.total:
            self.log.install(ctx, Snapshot(msg.index, msg.last_term, msg.members, msg.data))
            self.log._empty(self.log.snapshot)
            self.commit = self.applied = msg.index
        super().on_chunk(ctx, peer, msg)


class CountsAcksOfEarlierTerms(Raft):
    """An acknowledgement of entries that were overwritten since (etcd's append ABA script)."""

    @handles(Appended)
    def on_appended(self, ctx: Any, peer: PeerId, msg: Appended) -> None:
        if msg.ok and msg.term < self.log.term and self.is_leader:
            msg = Appended(msg.group, self.log.term, True, min(msg.index, self.log.last_index), 0)
        super().on_appended(ctx, peer, msg)


class CountsLearners(Raft):
    """A learner is counted in the quorum."""

    def agreed(self, held: dict[PeerId, int]) -> int:
        members = self.log.members
        everybody = members.everybody()
        found = sorted((held.get(peer, 0) for peer in everybody), reverse=True)
        return found[len(members.voters) // 2] if members.voters else 0


class CountsOneHalf(Raft):
    """A joint configuration decided by C_new alone."""

    def agreed(self, held: dict[PeerId, int]) -> int:
        voters = self.log.members.voters
        return sorted((held.get(peer, 0) for peer in voters), reverse=True)[len(voters) // 2]


class CountsMessages(Raft):
    """Votes counted by message, not by voter: a minority that answers twice is a majority."""

    def _count(self, ctx: Any) -> None:
        voters = self.log.members.voters
        if len(self.votes) >= 2 and self.standing == "candidate":
            self.votes = dict.fromkeys(voters, True)
        super()._count(ctx)


class LeasesBeyondReason(Raft):
    """A lease that outlives the voters' patience."""

    def has_lease(self, ctx: Any) -> bool:
        return True


class RestartsWithoutPatience(Raft):
    """A voter that restarts forgets that it heard a leader just before, and breaks its lease."""

    def hears_leader(self, ctx: Any) -> bool:
        return False


class SnapshotsWithoutMembers(Raft):
    """A snapshot that does not say who decides."""

    def install(self, ctx: Any, snapshot: Snapshot) -> None:
        founders = self.founders(ctx)
        members = founders[1] if founders is not None else Members()
        super().install(ctx, Snapshot(snapshot.index, snapshot.term, members, snapshot.state))


MUTANTS: dict[type[Raft], int] = {
    ForgetsItsVote: 30,
    VotesTwice: 3,
    VotesForShorterLogs: 1,
    CountsMessages: 8,
    AcknowledgesWithoutSaving: 20,
    CommitsOldTermsByCounting: 65,
    FollowersCommitPastTheAppend: 3,
    CutsAPrefix: 2,
    CountsAcksOfEarlierTerms: 175,
    CountsLearners: 4,
    CountsOneHalf: 102,
    ChangesMembersAtOnce: 102,
    ChangesMembersBeforeItsFirstCommit: 8,
    InstallsOldSnapshots: 40,
    SnapshotsWithoutMembers: 73,
    ReadsWithoutAsking: 1,
    ReadsBeforeItsFirstCommit: 3,
    ReadsAnywhere: 1,
    LeasesBeyondReason: 20,
    RestartsWithoutPatience: 304,
}
"""Each bug, and the first seed of a storm of 10 s that sees it."""
