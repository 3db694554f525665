"""PBFT step by step, in the order of OSDI'99 §4: one replica of four, and what it would do.

Ranks are places among the voters, in ascending order of ids: rank 0 leads view 0.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from grove_pbft.config import Config
from grove_pbft.machine import Pbft
from grove_pbft.machine.clients import PROPOSE
from grove_pbft.messages import (
    CHECKPOINT,
    COMMITTED,
    NULL,
    PREPARED,
    CatchUp,
    Certificate,
    Checkpoint,
    Cited,
    Commit,
    Decided,
    FetchBatch,
    FetchChange,
    NewView,
    Prepare,
    PrePrepare,
    Proposal,
    Reply,
    Request,
    Segment,
    Signature,
    ViewChange,
    Vouch,
    batch_digest,
    change_digest,
    statement,
)

from grove_core.events import (
    Committed,
    LeaderChanged,
    MembersChanged,
    Proposed,
    ReadReady,
    Rejected,
    Restored,
    SnapshotAsked,
    SnapshotTaken,
)
from grove_core.identity import peer_text
from grove_core.machine import PeerId, Token
from grove_core.specs import Proof
from grove_core.testing import Emit, Recorder, Save, Send, peer
from grove_core.testing.recorder import Reply as Answer
from grove_core.testing.recorder import Request as Ask

IDS = sorted(peer(number) for number in range(4))
OBSERVER = peer(50)
SETTINGS: dict[str, Any] = {
    "voters": tuple(peer_text(one) for one in IDS),
    "learners": (peer_text(OBSERVER),),
    "checkpoint_every": 2,
    "snapshot_every": 4,
}
D = b"\x07" * 32


def replica(rank: int, **config: Any) -> tuple[Pbft, Recorder]:
    machine, ctx = Pbft(Config(**{**SETTINGS, **config})), Recorder(IDS[rank])
    machine.on_start(ctx)
    ctx.take()
    return machine, ctx


def request(number: int = 1, client: PeerId = OBSERVER, command: bytes = b"x") -> Request:
    return Request(client, number, number.to_bytes(16, "big"), 0, command, b"client")


def pre_prepare(machine: Pbft, seq: int = 1, view: int = 0, *batch: Request) -> PrePrepare:
    batch = batch or (request(seq),)
    return PrePrepare(machine.configuration.name, view, seq, batch, IDS[view % 4], b"primary")


def vote(machine: Pbft, kind: Any, rank: int, digest: bytes, seq: int = 1, view: int = 0) -> Any:
    return kind(machine.configuration.name, view, seq, digest, IDS[rank], b"voter %d" % rank)


def hears(machine: Pbft, ctx: Recorder, *messages: Any) -> None:
    for msg in messages:
        machine.on_message(ctx, getattr(msg, "voter", OBSERVER), msg)


def said(ctx: Recorder, kind: Any) -> list[Any]:
    """Take what was sent of a kind; the receivers of one broadcast count once."""
    found = []
    for _, msg in ctx.sent():
        if isinstance(msg, kind) and (not found or found[-1] is not msg):
            found.append(msg)
    return found


def prepared(machine: Pbft, ctx: Recorder, seq: int = 1, view: int = 0) -> bytes:
    """Bring rank 1, 2 or 3 to a prepared certificate. Returns the digest."""
    msg = pre_prepare(machine, seq, view)
    digest = batch_digest(msg.batch)
    others = [rank for rank in range(4) if IDS[rank] not in (ctx.me, IDS[view % 4])]
    hears(machine, ctx, msg, *(vote(machine, Prepare, rank, digest, seq, view) for rank in others))
    return digest


def committed(machine: Pbft, ctx: Recorder, seq: int = 1, view: int = 0) -> bytes:
    digest = prepared(machine, ctx, seq, view)
    others = [rank for rank in range(4) if IDS[rank] != ctx.me][:2]
    hears(machine, ctx, *(vote(machine, Commit, rank, digest, seq, view) for rank in others))
    return digest


# §4.1 The client


def test_a_client_sends_its_request_to_the_primary_alone_and_after_a_while_to_all() -> None:
    machine, ctx = Pbft(Config(**SETTINGS)), Recorder(OBSERVER)
    machine.on_start(ctx)
    ctx.take()
    machine.propose(ctx, b"x")
    sent = ctx.sent()
    assert [to for to, _ in sent] == [IDS[0]]
    ctx.fire(machine, "retry")
    assert ctx.sent() == [(voter, sent[0][1]) for voter in IDS]


def test_a_client_that_does_not_vote_believes_f_plus_1_equal_replies() -> None:
    machine, ctx = Pbft(Config(**SETTINGS)), Recorder(OBSERVER)
    machine.on_start(ctx)
    id = machine.propose(ctx, b"x")
    ctx.take()
    reply = Reply(machine.configuration.name, 0, (1,))
    machine.on_message(ctx, IDS[0], reply)
    machine.on_message(ctx, IDS[0], reply)  # once more is not one more
    machine.on_message(ctx, peer(99), reply)  # and who does not vote is none
    assert ctx.emitted() == []
    machine.on_message(ctx, IDS[2], reply)
    assert [event.id for event in ctx.emitted()] == [id]


def test_a_backup_passes_on_a_request_once_and_waits_for_it_with_a_timer() -> None:
    machine, ctx = replica(2)
    machine.on_message(ctx, OBSERVER, request())
    assert said(ctx, Request) == [request()]
    assert ctx.timers["request"] == ctx.now + 1.0
    machine.on_message(ctx, OBSERVER, request())
    assert ctx.sent() == []


def test_an_executed_request_is_answered_from_memory_and_not_ordered_again() -> None:
    machine, ctx = replica(1)
    committed(machine, ctx)
    ctx.take()
    machine.on_message(ctx, OBSERVER, request())
    assert ctx.sent() == [(OBSERVER, Reply(machine.configuration.name, 0, (1,)))]
    assert not machine.pending


def test_what_cannot_be_ordered_is_rejected_at_once_with_the_reason() -> None:
    stranger, ctx = Pbft(Config(**SETTINGS)), Recorder(peer(77))
    stranger.on_start(ctx)
    ctx.take()
    stranger.on_event(ctx, Proposed(bytes(16), b"x"))
    (rejected,) = ctx.emitted()
    assert isinstance(rejected, Rejected)
    assert "no member" in rejected.reason
    machine, ctx = replica(1)
    machine.on_event(ctx, Proposed(bytes(16), bytes(2 << 20)))
    (rejected,) = ctx.emitted()
    assert "limit 1048576" in rejected.reason


# §4.2 Normal case


def test_the_primary_gives_a_request_the_next_number_once_that_is_durable() -> None:
    machine, ctx = replica(0)
    machine.on_message(ctx, OBSERVER, request())
    ctx.fire(machine, PROPOSE)
    effects = ctx.take(Save, Send)
    sends = [place for place, effect in enumerate(effects) if isinstance(effect, Send)]
    assert all(isinstance(effect, Save) for effect in effects[: sends[0]])
    assert [effect.key for effect in effects[: sends[0]]][-1] == "slot/0000000000000001"
    assert [effects[place].peer for place in sends] == IDS[1:]
    assert effects[sends[0]].msg.seq == 1


@pytest.mark.claim("pbft.batches")
def test_requests_of_one_turn_share_a_batch_and_those_of_the_next_do_not_wait() -> None:
    """2n² messages a batch, whatever is in it; and a batch on its way keeps nobody waiting."""
    machine, ctx = replica(0)
    for number in (1, 2, 3):
        machine.on_message(ctx, OBSERVER, request(number))
    assert said(ctx, PrePrepare) == []
    assert ctx.timers[PROPOSE] == ctx.now, "at the end of the turn, not later"
    ctx.fire(machine, PROPOSE)
    (first,) = said(ctx, PrePrepare)
    assert (first.seq, first.batch) == (1, (request(1), request(2), request(3)))
    machine.on_message(ctx, OBSERVER, request(4))
    ctx.fire(machine, PROPOSE)
    (second,) = said(ctx, PrePrepare)
    assert (second.seq, second.batch) == (2, (request(4),))


def test_requests_that_come_while_the_pipeline_is_full_share_a_batch() -> None:
    machine, ctx = replica(0, pipeline=1)
    for number in (1, 2, 3):
        machine.on_message(ctx, OBSERVER, request(number))
        if number == 1:
            ctx.fire(machine, PROPOSE)
    ctx.fire(machine, PROPOSE)
    (first,) = said(ctx, PrePrepare)
    digest = batch_digest(first.batch)
    hears(machine, ctx, *(vote(machine, Prepare, rank, digest) for rank in (1, 2)))
    hears(machine, ctx, *(vote(machine, Commit, rank, digest) for rank in (1, 2)))
    (second,) = said(ctx, PrePrepare)
    assert (second.seq, second.batch) == (2, (request(2), request(3)))


def test_a_backup_prepares_what_the_primary_proposes_once_that_is_durable() -> None:
    machine, ctx = replica(1)
    msg = pre_prepare(machine)
    hears(machine, ctx, msg)
    effects = ctx.take(Save, Send)
    assert effects[0].key.startswith("batch/0000000000000001/")
    assert effects[1].key == "slot/0000000000000001"
    assert {effect.msg.digest for effect in effects[2:]} == {batch_digest(msg.batch)}


def test_a_second_pre_prepare_for_one_number_changes_nothing() -> None:
    machine, ctx = replica(1)
    hears(machine, ctx, pre_prepare(machine))
    ctx.take()
    hears(machine, ctx, pre_prepare(machine, 1, 0, request(9)))
    assert ctx.take() == []


def test_a_pre_prepare_of_somebody_else_than_the_primary_is_not_accepted() -> None:
    machine, ctx = replica(1)
    hears(machine, ctx, msgspec.structs.replace(pre_prepare(machine), voter=IDS[2]))
    assert ctx.take() == []


def test_prepared_wants_the_pre_prepare_and_2f_prepares_of_other_voters() -> None:
    machine, ctx = replica(1)
    msg = pre_prepare(machine)
    digest = batch_digest(msg.batch)
    hears(machine, ctx, msg)
    ctx.take()
    hears(machine, ctx, vote(machine, Prepare, 0, digest))  # the primary's own does not count
    hears(machine, ctx, vote(machine, Prepare, 1, digest))  # nor does ours, again
    hears(machine, ctx, msgspec.structs.replace(vote(machine, Prepare, 2, digest), voter=peer(99)))
    hears(machine, ctx, vote(machine, Prepare, 3, D))  # nor one for another digest
    hears(machine, ctx, vote(machine, Prepare, 3, digest))  # of a voter that contradicts itself
    assert said(ctx, Commit) == []
    hears(machine, ctx, vote(machine, Prepare, 2, digest))
    effects = ctx.take(Save, Send)
    assert effects[0].key == "slot/0000000000000001", "the certificate is durable before the COMMIT"
    assert isinstance(effects[1].msg, Commit)


def test_prepares_without_a_pre_prepare_prepare_nothing() -> None:
    machine, ctx = replica(1)
    hears(machine, ctx, *(vote(machine, Prepare, rank, D) for rank in (0, 2, 3)))
    assert ctx.sent() == []


def test_a_quorum_of_commits_is_executed_and_durable_before_it_is_told() -> None:
    machine, ctx = replica(1)
    digest = prepared(machine, ctx)
    ctx.take()
    hears(machine, ctx, vote(machine, Commit, 0, digest))
    assert ctx.emitted() == []
    hears(machine, ctx, vote(machine, Commit, 3, digest))
    effects = ctx.take(Save, Emit, Send)
    kinds = [type(effect) for effect in effects]
    assert effects[0].key == "done/0000000000000001"
    assert effects[1] == Emit(Committed(1, request().id, OBSERVER, b"x"))
    assert kinds.index(Save) < kinds.index(Emit) < kinds.index(Send)
    assert Send(OBSERVER, Reply(machine.configuration.name, 0, (1,))) in effects


def test_batches_are_executed_in_order_whatever_order_they_commit_in() -> None:
    machine, ctx = replica(1)
    committed(machine, ctx, seq=2)
    assert ctx.emitted() == []
    committed(machine, ctx, seq=1)
    assert [e.index for e in ctx.emitted() if isinstance(e, Committed)] == [1, 2]


def test_a_request_in_two_batches_is_executed_once() -> None:
    machine, ctx = replica(1)
    committed(machine, ctx, 1)
    msg = pre_prepare(machine, 2, 0, request(1))
    digest = batch_digest(msg.batch)
    hears(machine, ctx, msg, *(vote(machine, Prepare, rank, digest, 2) for rank in (2, 3)))
    ctx.take()
    hears(machine, ctx, *(vote(machine, Commit, rank, digest, 2) for rank in (2, 3)))
    assert machine.executed == 2
    assert [e for e in ctx.emitted() if isinstance(e, Committed)] == []


def test_nothing_outside_the_window_is_voted_on() -> None:
    machine, ctx = replica(1)
    hears(machine, ctx, pre_prepare(machine, 5))  # h = 0, L = 4
    assert ctx.take() == []
    hears(machine, ctx, *(vote(machine, Commit, rank, D, 9) for rank in (0, 2, 3)))
    assert list(machine.slots) == [5], "beyond two windows nothing is even kept"


# §4.3 Checkpoints


def test_a_quorum_of_equal_checkpoints_moves_the_window_and_empties_the_log() -> None:
    machine, ctx = replica(1)
    committed(machine, ctx, 1)
    ctx.take()
    committed(machine, ctx, 2)
    (mine,) = said(ctx, Checkpoint)
    name = machine.configuration.name
    hears(
        machine, ctx, Checkpoint(name, 2, D, IDS[0], b""), Checkpoint(name, 2, mine.digest, IDS[2], b"")
    )
    assert machine.stable == 0
    hears(machine, ctx, Checkpoint(name, 2, mine.digest, IDS[3], b""))
    assert (machine.stable, machine.high, dict(machine.slots)) == (2, 6, {})
    assert not ctx.saved("slot/")


def test_an_early_pre_prepare_is_taken_up_when_the_window_moves() -> None:
    machine, ctx = replica(1)
    hears(machine, ctx, pre_prepare(machine, 5))
    committed(machine, ctx, 1)
    ctx.take()
    committed(machine, ctx, 2)
    (mine,) = said(ctx, Checkpoint)
    name = machine.configuration.name
    hears(machine, ctx, *(Checkpoint(name, 2, mine.digest, IDS[rank], b"") for rank in (0, 2)))
    assert [msg.seq for msg in said(ctx, Prepare)] == [5]


def test_a_replica_whose_history_differs_from_a_quorums_stops_voting() -> None:
    machine, ctx = replica(1)
    committed(machine, ctx, 1)
    committed(machine, ctx, 2)
    name = machine.configuration.name
    hears(machine, ctx, *(Checkpoint(name, 2, D, IDS[rank], b"") for rank in (0, 2, 3)))
    ctx.take()
    hears(machine, ctx, pre_prepare(machine, 3))
    assert machine.is_diverged
    assert ctx.take() == []


def test_a_state_is_asked_for_vouched_for_and_takes_the_place_of_the_log() -> None:
    machine, ctx = replica(1)
    for seq in (1, 2, 3):
        committed(machine, ctx, seq)
    ctx.take()
    committed(machine, ctx, 4)
    assert SnapshotAsked(4) in ctx.emitted()
    machine.on_event(ctx, SnapshotTaken(3, b"stale"))
    assert ctx.sent() == []
    machine.on_event(ctx, SnapshotTaken(4, b"state"))
    vouch = ctx.sent()[0][1]
    hears(machine, ctx, *(msgspec.structs.replace(vouch, voter=IDS[rank]) for rank in (0, 2)))
    assert ctx.saved("done/") == ()
    again, fresh = Pbft(machine.config), Recorder(ctx.me, records=ctx.records)
    again.on_start(fresh)
    assert Restored(4, b"state") in fresh.emitted()
    assert (again.executed, again.history) == (4, machine.history)


# §4.4 View changes


def view_change(machine: Pbft, rank: int, view: int = 1, *held: Certificate) -> ViewChange:
    return ViewChange(machine.configuration.name, view, 0, NULL, (), held, IDS[rank], b"")


def certificate(machine: Pbft, seq: int, digest: bytes, view: int, *ranks: int) -> Certificate:
    signed = tuple(Signature(IDS[rank], b"voter %d" % rank) for rank in ranks)
    return Certificate(machine.configuration.name, view, seq, digest, signed)


def test_a_backup_that_waits_in_vain_says_what_it_prepared_and_prepares_no_more() -> None:
    machine, ctx = replica(2)
    digest = prepared(machine, ctx)
    ctx.take()
    ctx.fire(machine, "request")
    effects = ctx.take(Save, Send)
    assert effects[0].key == "view"
    mine = effects[1].msg
    assert isinstance(mine, ViewChange)
    assert [(one.seq, one.digest, one.view) for one in mine.prepared] == [(1, digest, 0)]
    hears(machine, ctx, pre_prepare(machine, 2))
    assert ctx.sent() == []


def test_f_plus_1_voters_in_later_views_take_a_replica_along_to_the_smallest() -> None:
    machine, ctx = replica(2)
    hears(machine, ctx, view_change(machine, 0, 7))
    assert (machine.view, machine.is_changing) == (0, False)
    hears(machine, ctx, view_change(machine, 3, 3))
    assert (machine.view, machine.is_changing) == (3, True)


def test_who_begins_from_a_state_wants_a_view_once_others_can_check_where_its_log_begins() -> None:
    """Once it cited no checkpoint, so nobody took that for a VIEW-CHANGE, and it said no other: with one
    replica more away the group stood still (found by seed 139 of the hierarchy's lost disks)."""
    donor, there = replica(1)
    for seq in (1, 2, 3, 4):
        committed(donor, there, seq)
    donor.on_event(there, SnapshotTaken(4, b"state"))
    sent = [msg for _, msg in there.sent()]
    checkpoint = next(msg for msg in sent if isinstance(msg, Checkpoint) and msg.seq == 4)
    vouch = next(msg for msg in sent if isinstance(msg, Vouch))
    hears(donor, there, *(msgspec.structs.replace(vouch, voter=IDS[rank]) for rank in (0, 3)))
    machine, ctx = replica(2)
    machine.catch_up(ctx)
    for _ in ("an offer", "the state"):
        (asked,) = ctx.take(Ask)
        donor.on_request(there, ctx.me, asked.msg, Token(1))
        (answer,) = there.take(Answer)
        machine.on_reply(ctx, asked.key, IDS[1], answer.msg)
    assert (machine.executed, machine.stable) == (4, 4)
    hears(machine, ctx, view_change(machine, 0), view_change(machine, 3))
    assert machine.is_changing
    assert said(ctx, ViewChange) == []
    hears(machine, ctx, *(msgspec.structs.replace(checkpoint, voter=IDS[rank]) for rank in (0, 1, 3)))
    ctx.fire(machine, "resend")
    (mine,) = said(ctx, ViewChange)
    assert mine.stable == 4
    assert donor.is_valid(mine)


def test_the_timer_of_a_view_starts_when_a_quorum_wants_it_and_doubles() -> None:
    machine, ctx = replica(2)
    machine.on_message(ctx, OBSERVER, request())
    ctx.fire(machine, "request")
    assert "view" not in ctx.timers
    hears(machine, ctx, view_change(machine, 0), view_change(machine, 3))
    assert ctx.timers["view"] == ctx.now + 1.0
    ctx.fire(machine, "view")
    assert machine.view == 2
    hears(machine, ctx, view_change(machine, 0, 2), view_change(machine, 3, 2))
    assert machine.timeout == 2.0


def test_the_new_primary_re_proposes_what_was_prepared_in_the_highest_view_and_fills_holes() -> None:
    machine, ctx = replica(2)
    old, new = batch_digest((request(1),)), batch_digest((request(2),))
    hears(
        machine,
        ctx,
        view_change(machine, 0, 2, certificate(machine, 2, old, 0, 0, 1, 3)),
        view_change(machine, 1, 2, certificate(machine, 2, new, 1, 0, 1, 3)),
    )
    (new_view,) = said(ctx, NewView)
    assert [(one.seq, one.digest) for one in new_view.proposals] == [(1, NULL), (2, new)]
    assert machine.last_proposed == 2
    assert len(new_view.changes) == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: certificate(m, 1, D, 0, 0, 1),  # two are no quorum
        lambda m: certificate(m, 1, D, 0, 1, 2, 3),  # without the primary of its view
        lambda m: certificate(m, 1, D, 1, 0, 1, 2),  # prepared in the view that is to begin
        lambda m: certificate(m, 5, D, 0, 0, 1, 2),  # beyond the window
        lambda m: msgspec.structs.replace(certificate(m, 1, D, 0, 0, 1, 2), configuration=bytes(16)),
        lambda m: msgspec.structs.replace(
            certificate(m, 1, D, 0, 0, 1), signatures=(*certificate(m, 1, D, 0, 0, 1).signatures,
                                                       Signature(peer(99), b""))),
    ],
)  # fmt: skip
def test_a_view_change_with_a_certificate_that_is_none_does_not_count(spoil: Any) -> None:
    machine, ctx = replica(2)
    hears(machine, ctx, view_change(machine, 0, 1, spoil(machine)))
    assert machine.changes == {}


def test_a_backup_checks_the_new_views_proposals_and_wants_the_next_if_they_lie() -> None:
    machine, ctx = replica(2)
    digest = batch_digest((request(1),))
    held = certificate(machine, 1, digest, 0, 0, 1, 3)
    changes = [view_change(machine, rank, 1, held) for rank in (0, 1, 3)]
    hears(machine, ctx, *changes)
    ctx.take()
    cited = tuple(Cited(one.voter, change_digest(one)) for one in sorted(changes, key=lambda c: c.voter))
    name = machine.configuration.name
    hears(machine, ctx, NewView(name, 1, cited, (Proposal(1, NULL, b""),), IDS[1], b""))
    assert (machine.view, machine.is_changing) == (2, True)


def test_a_backup_enters_the_new_view_and_prepares_its_proposals() -> None:
    machine, ctx = replica(2)
    digest = prepared(machine, ctx)
    ctx.fire(machine, "request")
    held = certificate(machine, 1, digest, 0, 0, 1, 3)
    changes = [view_change(machine, rank, 1, held) for rank in (0, 1, 3)]
    hears(machine, ctx, *changes)
    ctx.take()
    cited = tuple(Cited(one.voter, change_digest(one)) for one in sorted(changes, key=lambda c: c.voter))
    name = machine.configuration.name
    hears(machine, ctx, NewView(name, 1, cited, (Proposal(1, digest, b"p"),), IDS[1], b""))
    effects = ctx.take(Emit, Send)
    assert Emit(LeaderChanged(IDS[1], 1)) in effects
    assert next(e.msg for e in effects if isinstance(e, Send) and isinstance(e.msg, Prepare)).view == 1


def test_a_view_change_that_was_missed_is_fetched() -> None:
    machine, ctx = replica(2)
    changes = [view_change(machine, rank) for rank in (0, 1, 3)]
    cited = tuple(Cited(one.voter, change_digest(one)) for one in sorted(changes, key=lambda c: c.voter))
    new_view = NewView(machine.configuration.name, 1, cited, (), IDS[1], b"")
    hears(machine, ctx, new_view)
    asked = [e for e in ctx.take() if type(e).__name__ == "Request"]
    assert all(isinstance(e.msg, FetchChange) for e in asked)
    for effect in asked:
        answer = next(one for one in changes if one.voter == effect.msg.cited.voter)
        machine.on_reply(ctx, effect.key, IDS[1], answer)
    assert (machine.view, machine.is_changing) == (1, False)


# A restart


def test_a_restarted_replica_neither_contradicts_nor_forgets_what_it_signed() -> None:
    machine, ctx = replica(2)
    digest = prepared(machine, ctx)
    ctx.take()
    again, fresh = Pbft(machine.config), Recorder(ctx.me, records=dict(ctx.records))
    again.on_start(fresh)
    votes = {(type(m).__name__, m.digest) for _, m in fresh.sent() if isinstance(m, Prepare | Commit)}
    assert votes == {("Prepare", digest), ("Commit", digest)}
    hears(again, fresh, pre_prepare(again, 1, 0, request(9)))
    assert [m for _, m in fresh.sent() if isinstance(m, Prepare)] == []
    again.on_message(fresh, OBSERVER, request(6))
    fresh.fire(again, "request")
    (change,) = said(fresh, ViewChange)
    assert [one.digest for one in change.prepared] == [digest]


def test_a_replica_that_had_left_a_view_does_not_come_back_to_it() -> None:
    machine, ctx = replica(2)
    machine.on_message(ctx, OBSERVER, request())
    ctx.fire(machine, "request")
    again, fresh = Pbft(machine.config), Recorder(ctx.me, records=dict(ctx.records))
    again.on_start(fresh)
    assert said(fresh, ViewChange)[0].view == 1
    hears(again, fresh, pre_prepare(again))
    assert fresh.sent() == []


# Transfer, observers, reads


def test_a_decision_needs_nobodys_word_but_a_quorums() -> None:
    machine, ctx = Pbft(Config(**SETTINGS)), Recorder(OBSERVER)
    machine.on_start(ctx)
    batch = (request(),)
    for short in (
        certificate(machine, 1, batch_digest(batch), 0, 0, 1),
        certificate(machine, 1, D, 0, 0, 1, 2),
    ):
        machine.on_message(ctx, IDS[0], Decided(short, batch))
    assert machine.executed == 0
    machine.on_message(
        ctx, IDS[0], Decided(certificate(machine, 1, batch_digest(batch), 0, 0, 1, 2), batch)
    )
    assert machine.executed == 1


def test_who_asks_is_given_decisions_in_order_and_batches_by_their_digest() -> None:
    machine, ctx = replica(1)
    digest = committed(machine, ctx, 1)
    committed(machine, ctx, 2)
    ctx.take()
    machine.on_request(ctx, OBSERVER, CatchUp(0, 0), 1)  # type: ignore[arg-type]
    machine.on_request(ctx, OBSERVER, FetchBatch(1, digest), 2)  # type: ignore[arg-type]
    machine.on_request(ctx, peer(99), CatchUp(0, 0), 3)  # type: ignore[arg-type]
    segment, found, nothing = (effect.msg for effect in ctx.take())
    assert isinstance(segment, Segment)
    assert [one.certificate.seq for one in segment.decided] == [1, 2]
    assert found.batch == (request(1),)
    assert type(nothing).__name__ == "Nothing", "strangers are told nothing"


def test_a_read_by_quorum_waits_for_what_others_have_prepared() -> None:
    machine, ctx = replica(1, reads="quorum")
    digest = prepared(machine, ctx)
    ctx.take()
    id = machine.read(ctx)
    asked = [e for e in ctx.take() if type(e).__name__ == "Request"]
    kind = type(asked[0].msg)
    assert kind.__name__ == "AskPrepared"
    from grove_pbft.messages import PreparedUpTo

    for effect in asked[:2]:
        machine.on_reply(ctx, effect.key, effect.peer, PreparedUpTo(machine.configuration.name, 1))
    assert ctx.emitted() == []
    hears(machine, ctx, *(vote(machine, Commit, rank, digest) for rank in (0, 2)))
    assert ReadReady(id, 1) in ctx.emitted()


def test_a_liar_far_ahead_only_sends_a_read_into_the_order() -> None:
    machine, ctx = replica(1, reads="quorum")
    id = machine.read(ctx)
    from grove_pbft.messages import PreparedUpTo

    for voter, seq in ((IDS[0], 1 << 50), (IDS[2], 0)):
        machine.on_reply(
            ctx, ("reading", id, voter), voter, PreparedUpTo(machine.configuration.name, seq)
        )
    ctx.take()
    ctx.fire(machine, ("reading", id))
    (ordered,) = said(ctx, Request)
    assert (ordered.kind, ordered.id) == (1, id)


# What is signed


def test_votes_of_another_kind_view_number_digest_or_configuration_are_other_statements() -> None:
    one = statement(PREPARED, bytes(16), 0, 1, D)
    others = [
        statement(COMMITTED, bytes(16), 0, 1, D),
        statement(CHECKPOINT, bytes(16), 0, 1, D),
        statement(PREPARED, b"\x01" * 16, 0, 1, D),
        statement(PREPARED, bytes(16), 1, 1, D),
        statement(PREPARED, bytes(16), 0, 2, D),
        statement(PREPARED, bytes(16), 0, 1, NULL),
    ]
    assert len({one, *others}) == 7


def test_every_signature_of_every_message_is_declared() -> None:
    from grove_pbft.messages import proofs

    machine, _ = replica(1)
    held = certificate(machine, 1, D, 0, 0, 1, 2)
    change = msgspec.structs.replace(
        view_change(machine, 1, 1, held), proof=(Signature(IDS[0], b"k"),), stable=2
    )
    found: list[Proof] = list(proofs(change))
    assert [proof.signer for proof in found] == [IDS[1], IDS[0], IDS[0], IDS[1], IDS[2]]
    assert len(list(proofs(pre_prepare(machine)))) == 2
    assert len(list(proofs(Decided(held, ())))) == 3
    new_view = NewView(bytes(16), 1, (), (Proposal(1, D, b""), Proposal(2, D, b"")), IDS[1], b"")
    assert len(list(proofs(new_view))) == 3


def test_a_start_tells_who_decides_and_who_leads() -> None:
    machine, ctx = Pbft(Config(**SETTINGS)), Recorder(IDS[1])
    machine.on_start(ctx)
    assert ctx.emitted() == [MembersChanged(0, tuple(IDS), (OBSERVER,)), LeaderChanged(IDS[0], 0)]
