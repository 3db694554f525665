"""What all parts of the machine share: roles, terms, links to the other members.

The parts build on each other in this order, each adding one idea and its messages:
state, election, replication, snapshots, configuration, reads, proposals, and `Raft` itself.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final, Literal, TypeAlias

import msgspec

from grove_core.errors import LocalProtocolError
from grove_core.events import LeaderChanged
from grove_core.machine import CONNECT, Context, Machine, PeerId
from grove_core.multibase import from_base58
from grove_raft import quorum
from grove_raft.config import Config
from grove_raft.log import Log
from grove_raft.messages import Entry, Members, RaftMessage
from grove_raft.progress import Progress

Ctx: TypeAlias = Context[RaftMessage]
Standing: TypeAlias = Literal["follower", "pre-candidate", "candidate", "leader"]

ELECTION: Final = "election"
HEARTBEAT: Final = "heartbeat"
CHECK: Final = "check"
FLUSH: Final = "flush"
TELL: Final = "tell"
WAKE: Final = "wake"
TIDY: Final = "tidy"


class Reconnect(msgspec.Struct, frozen=True):
    """The key of the timer after which a member is dialled again."""

    peer: PeerId


class ReplicaState(msgspec.Struct, frozen=True):
    """A machine's state at one moment, for checkers. entries is the log itself: read it, at once.

    offset: index before entries[0]. snapshot: index of the newest one. held: what a leader takes others
    to hold of its log.
    """

    term: int
    vote: PeerId | None
    is_leader: bool
    commit: int
    applied: int
    snapshot: int
    offset: int
    last_term: int
    entries: list[Entry]
    members: Members
    held: dict[PeerId, int]
    forgot: bool


class State(Machine[RaftMessage]):
    """A member's volatile state (figure 3.1), and how it becomes a follower."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.log = Log()
        self.standing: Standing = "follower"
        self.commit = 0
        self.applied = 0
        self.progress: dict[PeerId, Progress] = {}
        """A leader's account of everybody else."""
        self.round = 0
        """Count of heartbeats of this leader in its term."""
        self.heard_at = float("-inf")
        """When a leader last gave a sign of life, or this life began."""
        self.up: dict[PeerId, None] = {}
        """Members and others that are connected."""
        self._leader: PeerId | None = None
        self._told: tuple[PeerId | None, int] = (None, 0)
        self._dialled: dict[PeerId, None] = {}
        self._is_awake = False
        self._me = PeerId(b"")

    # Reading.

    def leader(self) -> PeerId | None:
        """Who leads, as far as this node knows."""
        return self._leader

    def voters(self) -> tuple[PeerId, ...]:
        """Who decides now, ascending; while a change is under way, those of both halves."""
        members = self.log.members
        return tuple(sorted(dict.fromkeys(members.voters + members.outgoing)))

    def learners(self) -> tuple[PeerId, ...]:
        """Who listens and does not vote, ascending."""
        members = self.log.members
        return tuple(sorted(dict.fromkeys(members.learners + members.learners_next)))

    def snapshot_state(self) -> ReplicaState:
        """What a checker may ask."""
        log = self.log
        return ReplicaState(
            log.term,
            log.vote,
            self.standing == "leader",
            self.commit,
            self.applied,
            log.snapshot.index,
            log.offset,
            log.last_term,
            log.entries,
            log.members,
            {peer: progress.match for peer, progress in self.progress.items()},
            log.is_damaged,
        )

    @property
    def is_leader(self) -> bool:
        return self.standing == "leader"

    @property
    def forgot(self) -> bool:
        """Whether records were lost and the group has not taken note yet: see `losses`."""
        return self.log.is_damaged

    def commits_in_its_term(self) -> bool:
        """Whether an entry of this leader's own term is committed: only then is its commit index true."""
        return self.log.term_at(self.commit) == self.log.term

    # Becoming.

    def become_follower(self, ctx: Ctx, term: int, leader: PeerId | None) -> None:
        """Follow: a later term was seen, or this term's leader, or quorum was lost."""
        was_leader = self.standing == "leader"
        self.standing = "follower"
        if term > self.log.term:
            self.log.term, self.log.vote = term, None
            self.log.save_hard(ctx)
        self.set_leader(ctx, leader)
        if was_leader:
            ctx.cancel_timer(HEARTBEAT)
            ctx.cancel_timer(CHECK)
            self.leave_office(ctx)
            self.progress = {}
            self.arm_election(ctx)

    def set_leader(self, ctx: Ctx, leader: PeerId | None) -> None:
        """Know who leads, and say so once."""
        self._leader = leader
        now = (leader, self.log.term)
        if now != self._told and (leader is not None or self._told[0] is not None):
            self._told = now
            ctx.emit(LeaderChanged(leader, self.log.term))
            if leader is not None:
                self.meet_leader(ctx)

    # Who is heard, and how others are reached.

    def is_ours(self, ctx: Ctx, peer: PeerId, group: bytes) -> bool:
        """Whether a message is of this group. A node in no group joins the first it may trust."""
        return group == self.log.group and bool(group)

    def send(self, ctx: Ctx, peer: PeerId, msg: RaftMessage) -> None:
        """To a member that is connected; else it is lost, as messages are."""
        if peer in self.up:
            ctx.send(peer, msg)

    def hold_members(self, ctx: Ctx) -> None:
        """Keep connections to all members, and to nobody else."""
        members = self.log.members.everybody()
        for peer in members:
            if peer != ctx.me and peer not in self._dialled:
                self._dialled[peer] = None
                ctx.connect(peer)
        for peer in tuple(self._dialled):
            if peer not in members:
                del self._dialled[peer]
                ctx.cancel_timer(Reconnect(peer))
                ctx.disconnect(peer, "no longer a member")

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        if key is CONNECT and peer in self._dialled:
            ctx.set_timer(Reconnect(peer), self.config.reconnect)

    def founders(self, ctx: Ctx) -> tuple[bytes, Members] | None:
        """The group that Config names; None if it names none."""
        if not self.config.voters:
            return None
        voters = tuple(sorted(PeerId(from_base58(text)) for text in self.config.voters))
        return self.group_name(voters), Members(voters)

    def group_name(self, founders: tuple[PeerId, ...]) -> bytes:
        """16 bytes that members of one group share."""
        named = self.config.group.encode() or b"".join(founders)
        return sha256(b"grove/raft/group:" + named).digest()[:16]

    def check_member(self, ctx: Ctx) -> None:
        if not self.log.group:
            raise LocalProtocolError(
                "this node is in no raft group: set plugins.raft.voters, or call found()"
            )

    # What the other parts do; each is defined in the part it names.

    def arm_election(self, ctx: Ctx) -> None:  # election
        raise NotImplementedError

    def meet_leader(self, ctx: Ctx) -> None:  # proposals
        raise NotImplementedError

    def leave_office(self, ctx: Ctx) -> None:  # reads, configuration, proposals
        raise NotImplementedError

    def take_office(self, ctx: Ctx) -> None:  # replication
        raise NotImplementedError

    def send_snapshot(self, ctx: Ctx, peer: PeerId, progress: Progress) -> None:  # snapshots
        raise NotImplementedError

    def configuration_committed(self, ctx: Ctx, index: int, entry: Entry) -> None:  # configuration
        raise NotImplementedError

    def adopt_members(self, ctx: Ctx) -> None:  # configuration
        raise NotImplementedError

    def heard_from(self, ctx: Ctx, peer: PeerId, progress: Progress) -> None:  # configuration, reads
        raise NotImplementedError

    def applied_up_to(self, ctx: Ctx) -> None:  # reads
        raise NotImplementedError

    # Counting.

    def agreed(self, held: dict[PeerId, int]) -> int:
        """The greatest number that a quorum of the configuration in force holds."""
        members = self.log.members
        for peer, progress in self.progress.items():
            if progress.loss:
                held.pop(peer, None)  # it forgot, and counts for nothing yet
        return quorum.agreed_jointly(members.voters, members.outgoing, held)
