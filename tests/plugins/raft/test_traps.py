"""The traps of Raft's implementers, one by one: each stages the moment at which somebody's Raft went
wrong. Where a known bug needs that moment, the same stage shows that it fails there (`fails_with`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from grove_raft.config import Config
from grove_raft.log import Log
from grove_raft.machine import Raft
from grove_raft.machine.state import CHECK, ELECTION, FLUSH, HEARTBEAT, TELL, WAKE
from grove_raft.messages import (
    COMMAND,
    CONFIGURATION,
    NOOP,
    Append,
    Appended,
    AskRead,
    Chunk,
    ChunkTaken,
    Entry,
    Forward,
    Members,
    Proposal,
    ReadAnswer,
    Refused,
    RequestVote,
    TimeoutNow,
    Vote,
    encode_members,
)

from grove_core.events import Committed, ReadReady, Rejected, Restored, SnapshotTaken
from grove_core.machine import LOST, PeerId
from grove_core.multibase import base58
from grove_core.testing import Recorder, peer
from grove_core.testing.recorder import Emit, Save, Send
from tests.plugins.raft import mutants

ME, B, C, D, E_ = sorted(peer(number) for number in range(5))


class Stage:
    """One member and a recorder; `records` lets two lives share a disk."""

    def __init__(
        self,
        build: type[Raft] = Raft,
        voters: tuple[PeerId, ...] = (ME, B, C),
        me: PeerId = ME,
        records: dict[str, bytes] | None = None,
        now: float = 0.0,
        **config: Any,
    ) -> None:
        self.ctx = Recorder(me, records=records, now=now)
        self.raft = build(Config(voters=tuple(map(base58, voters)), **config))
        self.raft.on_start(self.ctx)
        self.ctx.fire(self.raft, WAKE)
        for other in (ME, B, C, D, E_):
            if other != me:
                self.raft.on_peer_up(self.ctx, other)
        self.group = self.raft.log.group
        self.ctx.take()

    def get(self, sender: PeerId, kind: type, *fields: Any, **more: Any) -> list[tuple[PeerId, Any]]:
        """Receive a message of this group; what is sent."""
        self.raft.on_message(self.ctx, sender, kind(self.group, *fields, **more))
        return self.ctx.sent()

    def effects(self, sender: PeerId, kind: type, *fields: Any) -> list[Any]:
        self.raft.on_message(self.ctx, sender, kind(self.group, *fields))
        return self.ctx.take()

    def lead(self, term: int = 1) -> Stage:
        """Win the election of a term."""
        raft, ctx = self.raft, self.ctx
        raft.log.term = term - 1
        ctx.fire(raft, ELECTION)
        while not raft.is_leader:
            pre = raft.standing == "pre-candidate"
            for voter in raft.voters():
                if voter != ctx.me and not raft.is_leader:
                    self.get(voter, Vote, raft.log.term + pre, True, pre)
        ctx.take()
        return self

    def acknowledge(self, *voters: PeerId) -> None:
        for voter in voters:
            self.get(voter, Appended, self.raft.log.term, True, self.raft.log.last_index, self.raft.round)

    def append(
        self, term: int, prev: int, prev_term: int, terms: tuple[int, ...], commit: int = 0
    ) -> Any:
        """Receive entries of these terms from B."""
        return self.get(B, Append, term, prev, prev_term, tuple(map(command, terms)), commit, 1)

    def terms(self) -> list[int]:
        return [entry.term for entry in self.raft.log.entries]


def command(term: int, name: bytes = b"") -> Entry:
    return Entry(term, COMMAND, name.ljust(16, b"."), B, b"x")


def fails_with(mutant: type[Raft], stage: Callable[[type[Raft]], None]) -> None:
    """The stage shows the bug: it holds for Raft, not for the mutant."""
    stage(Raft)
    with pytest.raises(AssertionError):
        stage(mutant)


# Durability.


def test_a_vote_is_saved_before_it_leaves() -> None:  # §3.8; PySyncObj#84, tikv#994
    stage = Stage()
    effects = stage.effects(B, RequestVote, 1, 0, 0)
    kinds = [type(effect) for effect in effects if isinstance(effect, Save | Send)]
    assert kinds == [Save, Send]


def test_term_and_vote_are_one_record() -> None:  # hashicorp/raft#661
    effects = Stage().effects(B, RequestVote, 7, 0, 0)
    assert [effect.key for effect in effects if isinstance(effect, Save)] == ["hard"]


def test_entries_are_saved_before_they_are_acknowledged() -> None:
    effects = Stage().effects(B, Append, 1, 0, 0, (command(1),), 0, 1)
    order = [type(effect) for effect in effects if isinstance(effect, Save | Send)]
    assert order[-1] is Send
    assert order.count(Send) == 1


def test_a_vote_survives_a_restart() -> None:
    disk: dict[str, bytes] = {}
    Stage(records=disk).get(B, RequestVote, 1, 0, 0)
    again = Stage(records=disk, now=10.0)
    again.ctx.advance(5.0)
    assert again.get(C, RequestVote, 1, 9, 1) == [(C, Vote(again.group, 1, False))]
    assert again.get(B, RequestVote, 1, 0, 0) == [(B, Vote(again.group, 1, True))]


def test_a_leader_counts_its_own_entry_only_behind_the_save() -> None:
    """What tells of a commit is called after the save of the leader's entry, so it leaves after it."""
    stage = Stage(voters=(ME,)).lead()
    stage.raft.propose(stage.ctx, b"x")
    stage.ctx.take()
    stage.ctx.fire(stage.raft, FLUSH)
    order = [effect for effect in stage.ctx.take() if isinstance(effect, Save | Emit)]
    assert [type(effect) for effect in order] == [Save, Emit]
    assert isinstance(order[-1].event, Committed)


# Elections.


def test_votes_are_counted_by_voter() -> None:
    stage = Stage(voters=(ME, B, C, D, E_), pre_vote=False)
    stage.ctx.fire(stage.raft, ELECTION)
    for _ in range(3):
        stage.get(B, Vote, 1, True)
    assert not stage.raft.is_leader
    stage.get(C, Vote, 1, True)
    assert stage.raft.is_leader


def test_a_stranger_or_a_learner_gives_no_vote_that_counts() -> None:
    stage = Stage(voters=(ME, B, C), pre_vote=False)
    stage.ctx.fire(stage.raft, ELECTION)
    stage.get(D, Vote, 1, True)
    stage.get(E_, Vote, 1, True)
    assert not stage.raft.is_leader


def test_the_term_is_not_raised_before_a_pre_vote_is_won() -> None:  # §9.6
    stage = Stage()
    stage.ctx.fire(stage.raft, ELECTION)
    asked = stage.ctx.sent()
    assert [(to, m.pre, m.term) for to, m in asked] == [(B, True, 1), (C, True, 1)]
    assert stage.raft.log.term == 0
    stage.get(B, Vote, 1, True, True)
    assert stage.raft.log.term == 1


def test_who_hears_a_leader_votes_for_nobody_else() -> None:  # §4.2.3
    stage = Stage()
    stage.append(1, 0, 0, (1,))
    stage.ctx.advance(0.5)
    assert stage.get(C, RequestVote, 9, 99, 9) == []
    assert stage.raft.log.term == 1, "not even the term is noticed"
    assert stage.get(C, RequestVote, 2, 99, 1, transfer=True)[0][1].granted, "the leader wished it"


def test_a_leader_of_an_earlier_term_is_answered() -> None:  # etcd raft.go, Step
    stage = Stage()
    stage.raft.log.term = 5
    assert stage.append(3, 0, 0, ()) == [(B, Appended(stage.group, 5, False, 0, 1))]


def test_a_shorter_log_gets_no_vote() -> None:  # §3.6.1
    stage = Stage()
    stage.append(2, 0, 0, (1, 2))
    stage.ctx.advance(5.0)
    assert not stage.get(C, RequestVote, 3, 1, 2)[0][1].granted
    assert not stage.get(C, RequestVote, 4, 9, 1)[0][1].granted, "longer, but of an older term"
    assert stage.get(C, RequestVote, 5, 2, 2)[0][1].granted


def test_the_election_timer_is_put_off_by_a_leader_or_a_granted_vote_only() -> None:
    stage = Stage()
    stage.append(1, 0, 0, (1, 1))
    due = stage.ctx.timers[ELECTION]
    since = stage.raft._patient_since
    stage.ctx.advance(1.01)
    stage.get(C, RequestVote, 2, 0, 0)  # refused: too short a log
    stage.get(C, Vote, 1, False)
    assert stage.raft._patient_since == since
    stage.get(C, RequestVote, 3, 2, 1)
    assert stage.raft._patient_since == stage.ctx.now
    assert stage.ctx.timers[ELECTION] == due


@pytest.mark.claim("raft.patience-per-leader")
def test_patience_is_drawn_anew_under_each_leader_and_kept_under_one() -> None:
    """Else the patient ones outlive every leader, and each election waits for the worst of them."""
    stage = Stage()
    drawn = []
    for term in range(1, 21):
        leader = (B, C)[term % 2]
        for _ in range(3):
            stage.get(leader, Append, term, 0, 0, (), 0, 1)
            drawn.append(stage.raft._timeout)
    assert len(dict.fromkeys(drawn)) == 20
    assert all(drawn[first] == drawn[first + 2] for first in range(0, 60, 3))
    assert all(1.0 <= one < 2.0 for one in drawn)


def test_a_learner_and_a_removed_member_do_not_stand() -> None:
    stage = Stage(voters=(B, C, D))
    stage.ctx.fire(stage.raft, ELECTION)
    assert stage.ctx.sent() == []
    stage = Stage()
    removed = Entry(1, CONFIGURATION, b"", B, encode_members(Members((B, C))))
    stage.get(B, Append, 1, 0, 0, (removed,), 1, 1)
    stage.ctx.fire(stage.raft, ELECTION)
    stage.ctx.fire(stage.raft, ELECTION)
    assert stage.ctx.sent() == []


def test_who_an_uncommitted_configuration_leaves_out_still_stands() -> None:  # §4.2.2
    stage = Stage()
    left_out = Entry(1, CONFIGURATION, b"", B, encode_members(Members((B, C))))
    stage.get(B, Append, 1, 0, 0, (left_out,), 0, 1)
    stage.ctx.fire(stage.raft, ELECTION)
    assert [m.pre for _, m in stage.ctx.sent()] == [True, True]


def test_a_leader_that_hears_no_quorum_steps_down() -> None:  # §6.2
    stage = Stage().lead()
    stage.acknowledge(B)
    stage.ctx.fire(stage.raft, CHECK)
    assert stage.raft.is_leader
    stage.ctx.fire(stage.raft, CHECK)
    assert not stage.raft.is_leader


def test_who_restarts_is_patient_once() -> None:
    """A lease counts on voters that heard the leader; one that restarted may have."""

    def stage(build: type[Raft]) -> None:
        disk: dict[str, bytes] = {}
        Stage(records=disk).append(1, 0, 0, (1,))
        again = Stage(build, records=disk, now=3.0)
        again.ctx.advance(0.2)
        assert again.get(C, RequestVote, 2, 9, 9) == []

    fails_with(mutants.RestartsWithoutPatience, stage)


# Replication.


def test_only_entries_of_the_own_term_are_committed_by_counting() -> None:  # figure 3.7
    def stage(build: type[Raft]) -> None:
        leader = Stage(build, voters=(ME, B, C, D, E_))
        leader.append(2, 0, 0, (1, 2))
        leader.ctx.advance(5)
        leader.lead(4)
        assert leader.terms() == [1, 2, 4]
        leader.get(B, Appended, 4, True, 2, 1)
        leader.get(C, Appended, 4, True, 2, 1)
        assert leader.raft.commit == 0, "entry 2 is on three of five, and may still be overwritten"
        leader.get(B, Appended, 4, True, 3, 1)
        leader.get(C, Appended, 4, True, 3, 1)
        assert leader.raft.commit == 3

    fails_with(mutants.CommitsOldTermsByCounting, stage)


def test_a_follower_commits_nothing_that_the_append_does_not_prove() -> None:  # etcd#10166, tikv#10078
    def stage(build: type[Raft]) -> None:
        follower = Stage(build)
        follower.append(1, 0, 0, (1, 1, 1))
        follower.append(2, 1, 1, (), commit=3)
        assert follower.raft.commit == 1

    fails_with(mutants.FollowersCommitPastTheAppend, stage)


def test_a_log_that_holds_what_came_is_not_cut() -> None:  # §3.5
    def stage(build: type[Raft]) -> None:
        follower = Stage(build)
        follower.append(1, 0, 0, (1, 1, 1))
        follower.append(1, 0, 0, (1,))  # late
        assert follower.terms() == [1, 1, 1]

    fails_with(mutants.CutsAPrefix, stage)


def test_a_conflict_cuts_what_follows() -> None:
    follower = Stage()
    follower.append(1, 0, 0, (1, 1, 1))
    follower.append(2, 1, 1, (2,))
    assert follower.terms() == [1, 2]


def test_acknowledgements_of_earlier_terms_do_not_count() -> None:  # etcd's append ABA script
    def stage(build: type[Raft]) -> None:
        leader = Stage(build).lead(2)
        leader.get(B, Appended, 1, True, 1, 1)
        assert leader.raft.commit == 0

    fails_with(mutants.CountsAcksOfEarlierTerms, stage)


def test_a_refusal_that_comes_late_moves_nothing_back() -> None:
    leader = Stage().lead()
    leader.acknowledge(B)
    progress = leader.raft.progress[B]
    leader.get(B, Appended, 1, False, 1, 1, hint=0)
    assert (progress.match, progress.state) == (1, "replicate")


def test_a_hint_skips_a_whole_conflict() -> None:  # §3.5
    leader = Stage()
    leader.append(5, 0, 0, (1, 1, 4, 4, 5, 5))
    leader.ctx.advance(5)
    leader.lead(7)
    # The follower has 1 1 2 2 2 2: it refuses 6, whose like in it is the last of a term up to 5.
    (answer,) = leader.get(B, Appended, 7, False, 6, 1, hint=6, hint_term=2)
    assert (answer[1].prev_index, answer[1].prev_term) == (2, 1)


def test_who_goes_before_it_answered_is_not_sent_the_whole_log() -> None:  # storm 206
    """A probe that asked at the end asks there again: from the beginning, every log agrees."""
    stage = Stage()
    stage.append(1, 0, 0, (1,) * 50)
    stage.lead(2)
    stage.raft.on_peer_down(stage.ctx, C)
    stage.ctx.take()
    stage.raft.on_peer_up(stage.ctx, C)
    ((_, probe),) = stage.ctx.sent()
    assert probe.prev_index == 50
    ((_, again),) = stage.get(C, Appended, 2, False, 50, stage.raft.round, 40, 1)
    assert again.prev_index == 40


def test_the_window_closes_and_opens() -> None:  # §10.2.2
    leader = Stage(append_entries=1, inflight_entries=2).lead()
    leader.acknowledge(B, C)
    for number in range(5):
        leader.raft.propose(leader.ctx, b"%d" % number)
    leader.ctx.take()
    leader.ctx.fire(leader.raft, FLUSH)
    assert [m.prev_index for to, m in leader.ctx.sent() if to == B] == [1, 2]
    sent = leader.get(B, Appended, 1, True, 3, 1)
    assert [m.prev_index for to, m in sent if to == B and m.entries] == [3, 4]


def test_what_is_proposed_in_one_turn_is_one_append_and_one_save() -> None:
    leader = Stage().lead()
    leader.acknowledge(B, C)
    for number in range(100):
        leader.raft.propose(leader.ctx, b"%d" % number)
    leader.ctx.take()
    leader.ctx.fire(leader.raft, FLUSH)
    effects = leader.ctx.take()
    assert [len(e.msg.entries) for e in effects if isinstance(e, Send)] == [100, 100]
    assert sum(isinstance(effect, Save) for effect in effects) == 1


def test_the_uncommitted_tail_is_bounded() -> None:
    leader = Stage(uncommitted_entries=3).lead()
    for number in range(4):
        leader.raft.propose(leader.ctx, b"%d" % number)
    rejected = [event for event in leader.ctx.emitted() if isinstance(event, Rejected)]
    assert len(rejected) == 2, "the no-op is the first of three"


def test_a_member_that_lost_what_it_acknowledged_is_sent_it_again() -> None:
    leader = Stage().lead()
    leader.acknowledge(B, C)
    leader.ctx.fire(leader.raft, HEARTBEAT)
    leader.ctx.take()
    sent = leader.get(B, Appended, 1, False, 1, leader.raft.round, hint=0)
    assert [(m.prev_index, len(m.entries)) for _, m in sent] == [(0, 1)]


def test_a_damaged_log_neither_votes_nor_counts_until_the_group_took_note() -> None:
    disk: dict[str, bytes] = {}
    first = Stage(records=disk)
    first.append(1, 0, 0, (1,))
    first.append(1, 1, 1, (1,))
    key = max(key for key in disk if key.startswith("log/"))
    disk[key] = disk[key][:-1] + b"?"
    again = Stage(records=disk, now=10.0)
    assert again.terms() == [1], "the damaged run is forgotten"
    again.ctx.advance(5)
    assert not again.get(C, RequestVote, 2, 9, 9)[0][1].granted
    loss = again.raft.log.loss
    (answer,) = again.append(3, 1, 1, (1, 3), commit=3)
    assert answer[1].loss == loss, "it counts for nothing"
    again.ctx.advance(5)
    assert not again.get(C, RequestVote, 4, 9, 9)[0][1].granted, "an earlier life may have voted so"
    again.get(B, Append, 4, 3, 3, (Entry(4, NOOP, loss, ME),), 3, 1)
    assert again.raft.log.is_damaged, "not committed yet"
    (answer,) = again.get(B, Append, 4, 4, 4, (), 4, 2)
    assert answer[1].loss == b""
    again.ctx.advance(5)
    assert again.get(C, RequestVote, 5, 9, 9)[0][1].granted


def test_who_forgot_gives_no_id_twice() -> None:
    before = Stage(records={})
    again = Stage(records={LOST: b"1"}, now=10.0)
    assert before.raft.new_id(before.ctx) != again.raft.new_id(again.ctx)
    assert again.raft.log.is_damaged


def test_who_forgot_is_counted_only_when_the_group_took_note() -> None:
    leader = Stage(voters=(ME, B, C)).lead()
    leader.raft.propose(leader.ctx, b"x")
    leader.ctx.advance(1)
    leader.ctx.take()
    last = leader.raft.log.last_index
    for _ in range(3):
        leader.get(B, Appended, 1, True, last, leader.raft.round, loss=b"forgot")
    note = leader.raft.log.entries[-1]
    assert (note.kind, note.id, note.proposer) == (NOOP, b"forgot", B)
    assert leader.raft.log.last_index == last + 1, "one note for one loss"
    leader.get(B, Appended, 1, True, last + 1, leader.raft.round, loss=b"forgot")
    assert leader.raft.commit == 0
    assert leader.raft.confirmed(leader.ctx) == 0
    leader.get(C, Appended, 1, True, last + 1, leader.raft.round)
    assert leader.raft.commit == last + 1
    leader.get(B, Appended, 1, True, last + 1, leader.raft.round)
    assert leader.raft.progress[B].loss == b""


# Snapshots.


def snapshot_of(stage: Stage, index: int, term: int, **more: Any) -> Any:
    return stage.get(B, Chunk, more.get("now", term), index, term, Members((ME, B, C)), 0, 5, b"state", 1)


def test_a_snapshot_takes_the_place_of_the_log_and_says_who_decides() -> None:  # §5.3
    stage = Stage(voters=(ME, B))
    stage.append(1, 0, 0, (1,))
    snapshot_of(stage, 9, 2)
    assert (stage.raft.commit, stage.raft.log.last_index, stage.terms()) == (9, 9, [])
    assert stage.raft.voters() == tuple(sorted((ME, B, C)))


def test_an_old_snapshot_does_not_replace_a_newer_log_that_agrees() -> None:  # etcd PR#1763
    stage = Stage()
    stage.append(1, 0, 0, (1, 1, 1))
    (answer,) = snapshot_of(stage, 2, 1)
    assert stage.terms() == [1, 1, 1]
    assert (answer[1].ok, answer[1].index, stage.raft.commit) == (True, 2, 2)
    snapshot_of(stage, 1, 1)
    assert stage.raft.commit == 2


def piece(stage: Stage, index: int, offset: int, data: bytes) -> Any:
    (answer,) = stage.get(B, Chunk, 2, index, 2, Members((ME, B, C)), offset, 10, data, 1)
    return answer[1]


def test_a_late_piece_of_an_older_snapshot_does_not_end_a_newer_one() -> None:  # storm 5019
    stage = Stage()
    snapshot_of(stage, 4, 2)
    assert piece(stage, 9, 0, b"first").offset == 5
    snapshot_of(stage, 4, 2)
    assert piece(stage, 9, 5, b"other").index == 9
    assert stage.raft.log.snapshot.state == b"firstother"


def test_who_lost_the_pieces_it_had_gets_them_again() -> None:  # storm 5019
    """A follower that begins another life before its leader notices acknowledges less than before."""
    stage = Stage(trailing=0, append_bytes=1024, inflight_bytes=2048).lead()
    stage.acknowledge(B)
    stage.raft.on_event(stage.ctx, SnapshotTaken(1, bytes(10_000)))
    stage.ctx.take()
    stage.ctx.fire(stage.raft, HEARTBEAT)
    assert [chunk.offset for to, chunk in stage.ctx.sent() if to == C] == [0, 1024]
    stage.get(C, ChunkTaken, 1, 1, 2048, stage.raft.round)
    assert stage.get(C, ChunkTaken, 1, 1, 1024, stage.raft.round) == [], "late, of the same round"
    stage.ctx.fire(stage.raft, HEARTBEAT)
    assert [chunk.offset for to, chunk in stage.ctx.sent() if to == C] == [2048, 3072]
    sent = stage.get(C, ChunkTaken, 1, 1, 0, stage.raft.round)
    assert [chunk.offset for _, chunk in sent] == [0, 1024]
    assert stage.get(C, ChunkTaken, 1, 1, 0, stage.raft.round) == [], "of the other piece"


def test_a_restart_between_a_snapshot_and_the_end_of_the_log_it_replaces() -> None:
    """The snapshot is durable, the conflicting log not yet erased: it must not come back."""
    disk: dict[str, bytes] = {}
    stage = Stage(records=disk)
    stage.append(1, 0, 0, (1, 1, 1))
    runs = {key: value for key, value in disk.items() if key.startswith("log/")}
    snapshot_of(stage, 2, 2)
    disk.update(runs)
    again = Stage(records=disk)
    assert (again.raft.commit, again.terms()) == (2, [])


def test_what_a_state_machine_does_not_need_is_forgotten_on_disk_too() -> None:
    disk: dict[str, bytes] = {}
    stage = Stage(records=disk, trailing=0)
    for index in range(3):
        stage.append(1, index, min(index, 1), (1,), commit=index + 1)
    stage.raft.on_event(stage.ctx, SnapshotTaken(3, b"abc"))
    assert [key for key in disk if key.startswith("log/")] == []
    again = Stage(records=disk)
    assert (again.raft.commit, again.raft.log.last_term) == (3, 1)


def test_a_restart_restores_the_state_first() -> None:
    disk: dict[str, bytes] = {}
    stage = Stage(records=disk, trailing=0)
    stage.append(1, 0, 0, (1, 1), commit=2)
    stage.raft.on_event(stage.ctx, SnapshotTaken(1, b"abc"))
    ctx = Recorder(ME, records=disk)
    raft = Raft(stage.raft.config)
    raft.on_start(ctx)
    ctx.take()
    ctx.fire(raft, WAKE)
    assert [event for event in ctx.emitted() if isinstance(event, Restored)] == [Restored(1, b"abc")]
    assert raft.commit == 1
    assert raft.log.last_index == 2


# Reads.


def test_a_read_waits_for_a_quorum_that_answers_a_later_heartbeat() -> None:  # §6.4
    leader = Stage().lead()
    leader.acknowledge(B, C)
    id = leader.raft.read(leader.ctx)
    leader.ctx.take()
    leader.get(B, Appended, 1, True, 1, leader.raft.round)  # of an earlier round
    assert leader.ctx.emitted() == []
    leader.ctx.fire(leader.raft, FLUSH)
    leader.ctx.take()
    leader.raft.on_message(leader.ctx, B, Appended(leader.group, 1, True, 1, leader.raft.round))
    assert leader.ctx.emitted() == [ReadReady(id, 1)]


def test_no_read_before_the_terms_first_commit() -> None:  # tikv PR#6340
    leader = Stage().lead()
    leader.raft.read(leader.ctx)
    leader.ctx.take()
    assert FLUSH not in leader.ctx.timers
    assert not leader.raft.questions


def test_a_follower_reads_from_what_the_leader_says() -> None:
    stage = Stage()
    stage.append(1, 0, 0, (1, 1), commit=1)
    id = stage.raft.read(stage.ctx)
    assert stage.ctx.sent() == [(B, AskRead(stage.group, id))]
    stage.raft.on_message(stage.ctx, B, ReadAnswer(stage.group, id, 2))
    assert stage.ctx.emitted() == [], "2 is not applied here"
    stage.raft.on_message(stage.ctx, B, Append(stage.group, 1, 2, 1, (), 2, 2))
    assert [type(e) for e in stage.ctx.emitted()] == [Committed, ReadReady]


def test_a_leader_that_steps_down_rejects_its_reads() -> None:
    leader = Stage().lead()
    id = leader.raft.read(leader.ctx)
    leader.ctx.take()
    leader.raft.on_message(leader.ctx, B, Appended(leader.group, 2, False, 0, 1))
    assert any(isinstance(event, Rejected) and event.id == id for event in leader.ctx.emitted())


def test_a_lease_ends_before_voters_may_forget_the_leader_and_with_a_transfer() -> None:
    def stage(build: type[Raft]) -> None:
        leader = Stage(build, reads="lease").lead()
        leader.ctx.fire(leader.raft, HEARTBEAT)
        leader.acknowledge(B, C)
        assert leader.raft.has_lease(leader.ctx)
        leader.ctx.advance(0.91)
        assert not leader.raft.has_lease(leader.ctx), "T = 1 s, less a tenth for drifting clocks"
        leader.ctx.fire(leader.raft, HEARTBEAT)
        leader.acknowledge(B, C)
        assert leader.raft.has_lease(leader.ctx)
        leader.raft.transfer(leader.ctx, B)
        assert not leader.raft.has_lease(leader.ctx)

    fails_with(mutants.LeasesBeyondReason, stage)


# Members.


def test_no_change_of_members_before_the_terms_first_commit() -> None:  # raft-dev 2015
    leader = Stage().lead()
    leader.raft.reconfigure(leader.ctx, (ME, B, C, D))
    (event,) = leader.ctx.emitted()
    assert "term" in event.reason or "under way" in event.reason


def test_a_change_of_voters_goes_through_both_majorities() -> None:  # §4.3
    def stage(build: type[Raft]) -> None:
        leader = Stage(build, voters=(ME, B, C)).lead()
        leader.acknowledge(B, C)
        leader.raft.reconfigure(leader.ctx, (ME, D, E_))
        assert leader.raft.log.members == Members(tuple(sorted((ME, B, C))), (), tuple(sorted((D, E_))))
        leader.acknowledge(B, C, D, E_)
        assert leader.raft.log.members.is_joint, "the newcomers have caught up"
        index = leader.raft.log.last_index
        leader.acknowledge(D, E_)
        assert leader.raft.commit < index, "C_new alone does not decide"
        leader.acknowledge(B)
        assert leader.raft.log.members == Members(tuple(sorted((ME, D, E_))))

    fails_with(mutants.ChangesMembersAtOnce, stage)
    fails_with(mutants.CountsOneHalf, stage)


def test_a_learner_does_not_count() -> None:
    leader = Stage(voters=(ME, B, C)).lead()
    leader.acknowledge(B, C)
    leader.raft.reconfigure(leader.ctx, (ME, B, C), (D, E_))
    leader.acknowledge(B, C)
    leader.raft.propose(leader.ctx, b"x")
    leader.ctx.fire(leader.raft, FLUSH)
    commit = leader.raft.commit
    leader.acknowledge(D, E_)
    assert leader.raft.commit == commit


def test_a_new_leader_leaves_a_joint_configuration_it_finds() -> None:
    stage = Stage(voters=(ME, B, C))
    joint = Members(tuple(sorted((ME, D))), tuple(sorted((ME, B, C))))
    stage.get(B, Append, 1, 0, 0, (Entry(1, CONFIGURATION, b"", B, encode_members(joint)),), 1, 1)
    assert stage.raft.log.members.is_joint
    stage.ctx.advance(5)
    stage.lead(2)
    stage.acknowledge(B, C, D)
    assert stage.raft.log.members == Members(tuple(sorted((ME, D))))


def test_a_transfer_overrules_pre_vote_and_stickiness_and_stops_proposals() -> None:  # §3.10
    leader = Stage().lead()
    leader.acknowledge(B, C)
    leader.raft.transfer(leader.ctx, B)
    assert (B, TimeoutNow(leader.group, 1)) in leader.ctx.sent()
    leader.raft.propose(leader.ctx, b"x")
    assert [type(event) for event in leader.ctx.emitted()] == [Rejected]
    successor = Stage()
    successor.append(1, 0, 0, (1,))
    asked = successor.get(B, TimeoutNow, 1)
    assert [(m.pre, m.transfer, m.term) for _, m in asked] == [(False, True, 2)] * 2


# Who is heard.


def test_another_groups_messages_and_strangers_proposals_are_not_heard() -> None:
    stage = Stage()
    stage.raft.on_message(stage.ctx, B, RequestVote(b"x" * 16, 9, 9, 9))
    assert stage.ctx.take() == []
    leader = Stage().lead()
    assert leader.get(D, Forward, (Proposal(b"i" * 16, b"x"),)) == []
    assert not leader.raft.batch
    follower = Stage()
    assert follower.get(C, Forward, (Proposal(b"i" * 16, b"x"),)) == [
        (C, Refused(follower.group, b"i" * 16, "not the leader"))
    ]


def test_a_node_without_a_group_joins_only_whom_it_may_trust() -> None:
    stage = Stage(voters=(), trusted=(base58(C),))
    append = Append(b"g" * 16, 1, 0, 0, (Entry(1, NOOP),), 0, 1)
    stage.raft.on_message(stage.ctx, B, append)
    assert stage.ctx.take() == []
    stage.raft.on_message(stage.ctx, C, append)
    assert stage.raft.log.group == b"g" * 16


def test_the_log_reads_back_what_it_wrote_whatever_was_cut() -> None:
    from random import Random

    for seed in range(60):
        rng = Random(f"log {seed}")
        ctx = Recorder(ME)
        log = Log()
        log.load(ctx)
        for step in range(30):
            kind = rng.random()
            if kind < 0.6:
                log.append(ctx, [command(step // 5 + 1, b"%d" % i) for i in range(rng.randint(1, 5))])
            elif kind < 0.8 and log.entries:
                log.truncate(ctx, rng.randint(max(log.offset, log.snapshot.index), log.last_index))
            elif log.last_index > log.snapshot.index:
                index = rng.randint(log.snapshot.index + 1, log.last_index)
                log.take_snapshot(ctx, index, b"s" * index, rng.choice((0, 3)))
            again = Log()
            again.load(ctx)
            assert not again.is_damaged, f"seed {seed}"
            assert again.last_index == log.last_index
            assert again.last_term == log.last_term
            assert again.snapshot == log.snapshot
            skip = again.offset - log.offset
            assert skip <= 0 or log.entries[skip:] == again.entries
            assert skip >= 0 or again.entries[-skip:] == log.entries
            assert again.bytes == sum(len(e.command) + 64 for e in again.entries)


def test_what_is_told_of_a_commit_needs_no_answer() -> None:
    leader = Stage().lead()
    leader.acknowledge(B, C)
    leader.ctx.fire(leader.raft, TELL)
    told = [(to, m) for to, m in leader.ctx.sent() if isinstance(m, Append)]
    assert [(to, m.entries, m.commit) for to, m in told] == [(B, (), 1), (C, (), 1)]
