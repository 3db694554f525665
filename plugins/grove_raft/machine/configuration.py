"""Who decides: joint consensus, learners that catch up first, leadership transfer (§3.10, §4).

A configuration is in force as soon as it is appended, committed or not (§4.1); one that a new leader
overwrites is in force no longer. A change of voters goes through C_old,new, in which every decision
needs both majorities; when that is committed the leader, this one or the next, appends C_new. One
change at a time, and none before the leader has committed an entry of its own term (the error in the
dissertation's single-server change, raft-dev 2015).

    learners join -> they catch up -> C_old,new is appended ... committed -> C_new ... committed
"""

from __future__ import annotations

from typing import Literal

from grove_core.errors import LocalProtocolError
from grove_core.events import MembersChanged, Rejected
from grove_core.machine import PeerId
from grove_raft.machine.snapshots import Snapshots
from grove_raft.machine.state import Ctx
from grove_raft.messages import CONFIGURATION, MAX_MEMBERS, Entry, Members, TimeoutNow, encode_members
from grove_raft.progress import Progress


class Change:
    """A change of members that its leader is seeing through."""

    __slots__ = ("deadline", "id", "learners", "stage", "voters")

    def __init__(
        self, id: bytes, voters: tuple[PeerId, ...], learners: tuple[PeerId, ...], deadline: float
    ) -> None:
        self.id = id
        self.voters = voters
        self.learners = learners
        self.deadline = deadline
        self.stage: Literal["catching up", "appended"] = "catching up"


class Transfer:
    """A leadership on its way to another member."""

    __slots__ = ("deadline", "is_sent", "target")

    def __init__(self, target: PeerId, deadline: float) -> None:
        self.target = target
        self.deadline = deadline
        self.is_sent = False


class Configuration(Snapshots):
    """How members come, go and take over."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.change: Change | None = None
        self.transfer_: Transfer | None = None
        self.may_lease = True
        """Whether this leader has told nobody to stand against it in this term."""

    # The role.

    def found(self, ctx: Ctx) -> None:
        """Make a group of this node alone. LocalProtocolError if it is in a group already."""
        if self.log.group:
            raise LocalProtocolError("this node is in a raft group already; a group is founded once")
        self.log.found(ctx, self.group_name((ctx.me,)), Members((ctx.me,)))
        self.announce_members(ctx)
        self.stand(ctx)

    def reconfigure(
        self, ctx: Ctx, voters: tuple[PeerId, ...], learners: tuple[PeerId, ...] = ()
    ) -> bytes:
        """Change who decides; at the leader. Returns an id.

        Newcomers among the voters first catch up as learners, for at most `catch_up` seconds. Answered
        by MembersChanged, when the new configuration is committed, or by Rejected with the id.
        LocalProtocolError if nobody would vote, if a peer is named twice, or beyond 256 of a kind.
        """
        voters, learners = tuple(sorted(voters)), tuple(sorted(learners))
        if not voters:
            raise LocalProtocolError("a group needs at least one voter")
        if len({*voters, *learners}) != len(voters) + len(learners):
            raise LocalProtocolError("a peer is named twice among voters and learners")
        if max(len(voters), len(learners)) > MAX_MEMBERS:
            raise LocalProtocolError(
                f"{len(voters)} voters and {len(learners)} learners; limit {MAX_MEMBERS} of each"
            )
        id = self.new_id(ctx)
        reason = self.may_not_reconfigure(ctx)
        if reason:
            ctx.emit(Rejected(id, reason, self._leader if self._leader != ctx.me else None))
            return id
        self.change = Change(id, voters, learners, ctx.now + self.config.catch_up)
        members = self.log.members
        absent = tuple(
            peer for peer in voters if peer not in members.voters and peer not in members.learners
        )
        if absent:
            joined = tuple(sorted(members.learners + absent))
            self.append_members(ctx, Members(members.voters, (), joined), self.change.id)
        else:
            self._go_on(ctx)
        return id

    def may_not_reconfigure(self, ctx: Ctx) -> str:
        """Why no change may begin now; empty if one may."""
        if self.standing != "leader":
            return "not the leader"
        if self.change is not None or self.log.members.is_joint or self.log.members_index > self.commit:
            return "another change of members is under way"
        if not self.commits_in_its_term():
            return "the leader has not committed anything in its term yet"
        return ""

    def transfer(self, ctx: Ctx, target: PeerId) -> None:
        """Hand leadership over (§3.10). Given up after an election timeout.

        Until then proposals are refused. LocalProtocolError unless this node leads and target votes.
        """
        progress = self.progress.get(target)
        if self.standing != "leader" or progress is None or target not in self.log.members.voters:
            raise LocalProtocolError("only a leader hands over, and only to another voter")
        self.transfer_ = Transfer(target, ctx.now + self.config.election_timeout)
        self._hand_over(ctx, target, progress)

    def _hand_over(self, ctx: Ctx, peer: PeerId, progress: Progress) -> None:
        transfer = self.transfer_
        if transfer is None or transfer.target != peer or transfer.is_sent:
            return
        if progress.match == self.log.last_index:
            transfer.is_sent = True
            self.may_lease = False  # the successor need not respect it, now or later
            self.send(ctx, peer, TimeoutNow(self.log.group, self.log.term))

    # The leader.

    def append_members(self, ctx: Ctx, members: Members, id: bytes = b"") -> None:
        self.append_own(ctx, [Entry(self.log.term, CONFIGURATION, id, ctx.me, encode_members(members))])

    def adopt_members(self, ctx: Ctx) -> None:
        """Keep accounts of, and connections to, the configuration in force."""
        members = self.log.members.everybody()
        for peer in members:
            if peer != ctx.me and peer not in self.progress:
                self.progress[peer] = Progress(self.log.last_index + 1)
        self.hold_members(ctx)

    def take_office(self, ctx: Ctx) -> None:
        self.change = None
        self.transfer_ = None
        self.may_lease = True
        super().take_office(ctx)

    def leave_office(self, ctx: Ctx) -> None:
        self.change = None
        self.transfer_ = None

    def heard_from(self, ctx: Ctx, peer: PeerId, progress: Progress) -> None:
        self._hand_over(ctx, peer, progress)
        if self.change is not None and self.change.stage == "catching up":
            self._go_on(ctx)

    def beat(self, ctx: Ctx) -> None:
        if self.transfer_ is not None and ctx.now > self.transfer_.deadline:
            self.transfer_ = None
        change = self.change
        if change is not None and change.stage == "catching up" and ctx.now > change.deadline:
            self.change = None
            late = [peer for peer in change.voters if not self._has_caught_up(ctx, peer)]
            ctx.emit(
                Rejected(
                    change.id, f"{len(late)} new voters did not catch up in {self.config.catch_up} s"
                )
            )
        super().beat(ctx)

    def _has_caught_up(self, ctx: Ctx, peer: PeerId) -> bool:
        """Whether a member holds what is committed, and lives."""
        if peer == ctx.me or peer in self.log.members.voters:
            return True
        progress = self.progress.get(peer)
        return progress is not None and progress.state == "replicate" and progress.match >= self.commit

    def _go_on(self, ctx: Ctx) -> None:
        """Append what the change asks for, once the newcomers have caught up."""
        change, members = self.change, self.log.members
        assert change is not None
        if self.log.members_index > self.commit:
            return
        if not all(self._has_caught_up(ctx, peer) for peer in change.voters):
            return
        change.stage = "appended"
        if change.voters == members.voters:
            self.append_members(ctx, Members(members.voters, (), change.learners), change.id)
            return
        staying = tuple(peer for peer in change.learners if peer not in members.voters)
        demoted = tuple(peer for peer in change.learners if peer in members.voters)
        joint = self.joint(members, Members(change.voters, members.voters, staying, demoted))
        self.append_members(ctx, joint, change.id)

    def joint(self, old: Members, joint: Members) -> Members:
        """C_old,new."""
        return joint

    def configuration_committed(self, ctx: Ctx, index: int, entry: Entry) -> None:
        """Say who decides now; step down if that leaves this leader out (§4.2.2)."""
        members = self.log.members_at(index)
        if members.is_joint:
            return
        ctx.emit(MembersChanged(index, members.voters, members.learners))
        if self.standing != "leader" or self.log.members_index != index:
            return
        if self.change is not None and self.change.stage == "appended":
            self.change = None
        everybody = members.everybody()
        for peer in tuple(self.progress):
            if peer not in everybody:
                # It learns that it left, if it listens; then it is nobody's concern.
                self.send_append(ctx, peer, self.progress[peer], is_empty=True)
                del self.progress[peer]
        if ctx.me not in members.voters:
            self._retire(ctx)

    def applied_up_to(self, ctx: Ctx) -> None:
        """Leave a joint configuration that is committed for C_new, whoever began the change."""
        log, members = self.log, self.log.members
        if (
            members.is_joint
            and self.standing == "leader"
            and log.members_index <= self.commit
            and self.commits_in_its_term()
        ):
            learners = tuple(sorted(members.learners + members.learners_next))
            self.append_members(ctx, Members(members.voters, (), learners))

    def _retire(self, ctx: Ctx) -> None:
        """Let the voter that holds most stand at once."""
        for peer, progress in self.progress.items():
            if progress.state == "replicate":
                self.send_append(ctx, peer, progress, is_empty=True)
        ready = [peer for peer in self.log.members.voters if peer in self.progress]
        if ready:
            best = max(ready, key=lambda peer: self.progress[peer].match)
            self.send(ctx, best, TimeoutNow(self.log.group, self.log.term))
        self.become_follower(ctx, self.log.term, None)

    def announce_members(self, ctx: Ctx) -> None:
        """Say who decides as of what is applied."""
        members = self.log.members_at(self.applied)
        if members.voters and not members.is_joint:
            ctx.emit(MembersChanged(self.applied, members.voters, members.learners))

    def new_id(self, ctx: Ctx) -> bytes:  # proposals
        raise NotImplementedError
