"""The machine of the commons alone: asks, retries, leases and reads, with a Recorder for a world."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import grove_commons
import pytest
from grove_commons import commands as c
from grove_commons.config import Config
from grove_commons.events import Answered, ClaimGranted, ClaimLost, Read, TaskDone
from grove_commons.machine import Commons
from grove_commons.outcomes import Accepted, Done, Granted, Impossible, Refused, Renewed, Unknown
from grove_commons.state import State

from grove_core.errors import LocalProtocolError
from grove_core.events import (
    Committed,
    LeaderChanged,
    Proposed,
    ReadAsked,
    ReadReady,
    Rejected,
    Restored,
    SnapshotAsked,
    SnapshotTaken,
)
from grove_core.machine import PeerId
from grove_core.testing.purity import assert_pure
from grove_core.testing.recorder import Emit, Recorder, Save
from grove_core.testing.village import peer

ME, OTHER, THIRD = peer(1), peer(2), peer(3)


class Alone:
    """One machine, and a consensus that the test plays by hand."""

    def __init__(
        self,
        me: PeerId = ME,
        records: dict[str, bytes] | None = None,
        *,
        founded: bool = True,
        **config: Any,
    ) -> None:
        self.machine = Commons(Config(**config))
        self.ctx = Recorder(me, records=records)
        self.index = 0
        self.machine.on_start(self.ctx)
        self.saved = self.ctx.take(Save)
        if founded:  # by a third node, as commit 1
            found = c.encode(c.Found(self.machine.config.bounds), 1)
            self.commit(Proposed(c.Name16(1, 1).pack(), found), THIRD)

    def ask(self, name: str, *values: Any, **more: Any) -> bytes:
        id: bytes = getattr(self.machine, name)(self.ctx, *values, **more)
        return id

    def events(self, kind: type) -> list[Any]:
        return [event for event in self.ctx.emitted() if isinstance(event, kind)]

    def proposed(self) -> list[Any]:
        """The commands proposed since last asked, founding left out."""
        return [
            command
            for event in self.events(Proposed)
            if not isinstance(command := c.decode(event.command).command, c.Found)
        ]

    def commit(self, event: Proposed, by: PeerId | None = None) -> None:
        self.index += 1
        self.machine.on_event(self.ctx, Committed(self.index, event.id, by or self.ctx.me, event.command))

    def commit_all(self) -> list[Any]:
        """Commit what was proposed, and what that led to; every other event that was emitted."""
        told = []
        while events := self.ctx.emitted():
            for event in events:
                if isinstance(event, Proposed):
                    self.commit(event)
                else:
                    told.append(event)
        return told

    def others(self, command: Any, number: int = 1, oldest: int = 1) -> None:
        """Somebody else's command is committed."""
        self.commit(Proposed(c.Name16(1, number).pack(), c.encode(command, oldest)), OTHER)

    def hear(self, event: Any) -> None:
        self.machine.on_event(self.ctx, event)

    def fire(self, key: Any) -> None:
        self.ctx.fire(self.machine, key)

    def answer(self, told: list[Any]) -> Answered:
        (answered,) = [event for event in told if isinstance(event, Answered)]
        return answered


@pytest.fixture
def one() -> Alone:
    return Alone()


@pytest.fixture
def bare() -> Alone:
    """Nothing was ever committed."""
    return Alone(founded=False)


def test_the_files_of_the_state_machine_are_pure() -> None:
    folder = Path(grove_commons.__file__).parent
    for name in ("machine", "state", "commands", "outcomes", "events", "config"):
        assert_pure(folder / f"{name}.py")


# Asks and outcomes.


def test_an_ask_becomes_a_proposal_and_its_commit_the_answer(one: Alone) -> None:
    id = one.ask("put", "k", b"v")
    told = one.commit_all()
    assert one.answer(told) == Answered(id, Done(2))  # 1 was the founding
    assert one.machine.peek("k").data == b"v"  # type: ignore[union-attr]
    assert [key for key in one.ctx.timers if key[0] == "ask"] == []


def test_the_first_ask_founds_the_village_with_this_nodes_bounds_and_waits_for_that() -> None:
    one = Alone(founded=False, keys=7)
    id = one.ask("put", "k", b"v")
    (found,) = one.events(Proposed)
    assert c.decode(found.command).command == c.Found(Config(keys=7).bounds)
    one.commit(found)
    (put,) = one.events(Proposed)
    assert put.id == id
    assert one.machine.state.bounds.keys == 7
    one.ask("put", "k", b"w")
    assert len(one.events(Proposed)) == 1


def test_a_village_founded_by_another_needs_no_second_founding(bare: Alone) -> None:
    bare.ask("put", "k", b"v")
    found, *rest = bare.events(Proposed)
    assert not rest
    bare.others(c.Found(c.Bounds(keys=3)))
    (put,) = bare.events(Proposed)
    bare.commit(found)
    bare.commit(put)
    assert bare.machine.state.bounds.keys == 3
    assert bare.machine.peek("k") is not None


def test_what_could_not_be_proposed_for_want_of_a_founding_is_impossible() -> None:
    one = Alone(founded=False, patience=1.0)
    id = one.ask("put", "k", b"v")
    one.fire(("ask", id))
    answered = next(event for event in one.events(Answered) if event.id == id)
    assert isinstance(answered.outcome, Impossible)


def test_the_second_commit_of_a_retried_proposal_is_not_answered_again(one: Alone) -> None:
    one.ask("put", "k", b"v")
    *_, proposed = one.events(Proposed)
    one.commit(proposed)
    assert len(one.events(Answered)) == 1
    one.commit(proposed)
    assert one.ctx.emitted() == []


def test_a_proposal_that_hears_nothing_is_made_again_under_the_same_id_and_bytes(one: Alone) -> None:
    id = one.ask("put", "k", b"v")
    first = one.events(Proposed)[-1]
    one.ask("put", "k", b"later")
    one.ctx.take()
    one.fire(("ask", id))
    assert one.events(Proposed) == [first]
    assert one.ctx.now >= 0.75


def test_waits_between_retries_grow(one: Alone) -> None:
    id = one.ask("put", "k", b"v")
    times = [one.ctx.now]
    for _ in range(4):
        one.fire(("ask", id))
        times.append(one.ctx.now)
    waits = [b - a for a, b in pairwise(times)]
    assert waits == sorted(waits)
    assert waits[-1] > 4


def test_silence_ends_as_unknown_after_patience() -> None:
    one = Alone(patience=3.0)
    id = one.ask("put", "k", b"v")
    while ("ask", id) in one.ctx.timers:
        one.fire(("ask", id))
    answered = next(event for event in one.events(Answered) if event.id == id)
    assert isinstance(answered.outcome, Unknown)
    assert one.ctx.now == pytest.approx(3.0)


def test_what_consensus_refused_each_time_is_impossible_not_unknown() -> None:
    one = Alone(patience=1.0)
    id = one.ask("put", "k", b"v")
    one.hear(Rejected(id, "no leader"))
    while ("ask", id) in one.ctx.timers:
        one.fire(("ask", id))
        if id in one.machine._asks:
            one.hear(Rejected(id, "no leader"))
    answered = next(event for event in one.events(Answered) if event.id == id)
    assert isinstance(answered.outcome, Impossible)
    assert "no leader" in answered.outcome.reason


def test_one_attempt_that_was_not_refused_leaves_the_outcome_unknown() -> None:
    one = Alone(patience=1.0)
    id = one.ask("put", "k", b"v")
    one.fire(("ask", id))
    one.hear(Rejected(id, "no leader"))
    while ("ask", id) in one.ctx.timers:
        one.fire(("ask", id))
        if id in one.machine._asks:
            one.hear(Rejected(id, "no leader"))
    answered = next(event for event in one.events(Answered) if event.id == id)
    assert isinstance(answered.outcome, Unknown)


def test_asks_beyond_the_bound_are_refused_and_name_it() -> None:
    one = Alone(open=3)
    for key in "abc":
        one.ask("put", key, b"")
    with pytest.raises(LocalProtocolError, match="3 asks"):
        one.ask("put", "d", b"")
    with pytest.raises(LocalProtocolError, match="3 asks"):
        one.ask("read")


def test_proposals_stay_within_the_agreed_window(one: Alone) -> None:
    for _ in range(256 - 32):  # an eighth is kept for renewals
        one.ask("put", "k", b"")
    with pytest.raises(LocalProtocolError, match="256 asks"):
        one.ask("put", "k", b"")
    for event in one.events(Proposed):
        one.commit(event)
    one.ask("put", "k", b"")


def test_a_refused_ask_leaves_nothing_behind(one: Alone) -> None:
    before = dict(one.machine._asks)
    with pytest.raises(LocalProtocolError, match="key of 0"):
        one.ask("put", "", b"")
    assert {id: ask for id, ask in one.machine._asks.items() if not ask.is_quiet} == before


# Lives.


def test_each_life_has_a_number_of_its_own_that_is_durable_before_anything_is_proposed() -> None:
    records: dict[str, bytes] = {}
    first, second = Alone(records=records), Alone(records=records)
    assert [save.value for save in (*first.saved, *second.saved)] == [  # type: ignore[attr-defined]
        (1).to_bytes(8, "big"),
        (2).to_bytes(8, "big"),
    ]
    assert first.ask("put", "k", b"") != second.ask("put", "k", b"")


def test_a_node_that_lost_its_disk_begins_a_life_after_all_the_village_remembers() -> None:
    old = Alone(records={"life": (41).to_bytes(8, "big")})
    old.ask("put", "k", b"old")
    commits = old.events(Proposed)
    one = Alone()
    for event in commits:
        one.commit(event)
    id = one.ask("put", "k", b"new")
    told = one.commit_all()
    assert one.machine.life == 43
    assert one.answer(told) == Answered(id, Done(3))


def test_an_ask_made_before_the_forgotten_life_was_heard_is_answered_impossible() -> None:
    old = Alone(records={"life": (41).to_bytes(8, "big")})
    old.ask("put", "k", b"old")
    commits = old.events(Proposed)
    one = Alone()
    id = one.ask("put", "k", b"new")
    mine = one.events(Proposed)
    for event in commits + mine:
        one.commit(event)
    told = one.ctx.emitted()
    assert one.answer(told).id == id
    assert isinstance(one.answer(told).outcome, Impossible)
    assert one.machine.peek("k").data == b"old"  # type: ignore[union-attr]


# Reads.


def test_a_read_is_ready_when_consensus_says_so(one: Alone) -> None:
    id = one.ask("read")
    assert one.events(ReadAsked) == [ReadAsked(id)]
    one.hear(ReadReady(id, 0))
    assert one.ctx.emitted() == [Read(id)]
    one.hear(ReadReady(id, 0))
    assert one.ctx.emitted() == []


def test_a_read_that_is_refused_is_asked_again_and_fails_after_patience() -> None:
    one = Alone(patience=1.0)
    id = one.ask("read")
    one.hear(Rejected(id, "no leader"))
    one.fire(("ask", id))
    assert len(one.events(ReadAsked)) == 2
    while ("ask", id) in one.ctx.timers:
        one.fire(("ask", id))
    (read,) = one.events(Read)
    assert read.failed


# Our leases.


def claimed(one: Alone, lease: float = 30.0, **more: Any) -> Answered:
    one.ask("claim", "t", "ash", lease, **more)
    return one.answer(one.commit_all())


def test_a_holder_counts_from_before_it_asked_and_less_drift_and_margin(one: Alone) -> None:
    one.ask("claim", "t", "ash", 30.0)
    one.ctx.advance(2.0)
    answered = one.answer(one.commit_all())
    assert answered.outcome == Granted(2, 30_000)
    assert answered.until == pytest.approx(30 * 0.99 - 0.5)


def test_a_kept_claim_is_renewed_at_a_third_and_counts_from_that_ask(one: Alone) -> None:
    claimed(one)
    one.fire("keep")
    assert one.ctx.now == pytest.approx(10.0)
    assert one.machine.keeping["t"].until == pytest.approx(29.2)
    one.commit_all()
    assert one.machine.keeping["t"].until == pytest.approx(10 + 29.2)


def test_renewals_of_a_node_travel_as_one_command(one: Alone) -> None:
    for number in range(5):
        one.ask("claim", f"t{number}", "", 30.0)
        one.ctx.advance(0.1)
    one.commit_all()
    one.fire("keep")
    (renew,) = one.proposed()
    assert [holding.task for holding in renew.claims] == [f"t{number}" for number in range(5)]


def test_a_holder_that_hears_no_renewal_in_time_is_told_to_stop(one: Alone) -> None:
    claimed(one)
    one.ctx.take()
    while "t" in one.machine.keeping:
        key = min(one.ctx.timers, key=lambda key: one.ctx.timers[key])
        one.fire(key)
    assert one.ctx.now == pytest.approx(29.2)
    assert one.events(ClaimLost) == [ClaimLost("t", "ash", 2, "silence")]
    assert "keep" not in one.ctx.timers


def test_a_holder_whose_lease_was_ended_is_told_to_stop(one: Alone) -> None:
    claimed(one)
    one.others(c.Expire("t", 2, 2))
    assert one.events(ClaimLost) == [ClaimLost("t", "ash", 2, "expired")]


def test_a_claim_that_is_not_kept_is_renewed_by_who_asked(one: Alone) -> None:
    claimed(one, keep=False)
    assert "keep" not in one.ctx.timers
    one.ctx.advance(5.0)
    one.ask("renew", "t", 2)
    answered = one.answer(one.commit_all())
    assert answered.outcome == Renewed(3)
    assert answered.until == pytest.approx(5 + 29.2)


def test_a_renewal_of_a_lost_claim_is_refused(one: Alone) -> None:
    one.ask("renew", "t", 2)
    assert one.answer(one.commit_all()).outcome == Refused("ended", "t", yours=2)


def test_submitting_ends_the_renewals(one: Alone) -> None:
    claimed(one)
    one.ask("submit", "t", 2, b"42")
    told = one.commit_all()
    assert one.answer(told).outcome == Accepted(3)
    assert TaskDone("t", ME, "ash", 2, b"42") in told
    assert not one.machine.keeping
    assert "keep" not in one.ctx.timers


def test_releasing_ends_the_renewals_at_once(one: Alone) -> None:
    claimed(one)
    one.ask("release", "t", 2)
    assert not one.machine.keeping
    one.commit_all()
    assert one.machine.task("t") is None


def test_a_claim_granted_after_its_ask_was_given_up_is_released() -> None:
    one = Alone(patience=1.0)
    id = one.ask("claim", "t", "ash", 30.0)
    events = one.events(Proposed)
    while ("ask", id) in one.ctx.timers:
        one.fire(("ask", id))
    one.ctx.take()
    for event in events:
        one.commit(event)
    assert one.proposed() == [c.Release("t", 2)]


def test_a_claim_granted_when_its_lease_is_already_over_is_released() -> None:
    one = Alone(patience=60.0)
    one.ask("claim", "t", "ash", 2.0)
    one.ctx.advance(1.5)
    told = one.commit_all()
    assert isinstance(one.answer(told).outcome, Impossible)
    assert one.machine.task("t") is None


def test_a_lease_too_short_to_be_sure_of_is_refused(one: Alone) -> None:
    with pytest.raises(LocalProtocolError, match="longer than"):
        one.ask("claim", "t", "", 0.7)
    for senseless in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(LocalProtocolError, match="a lease of"):
            one.ask("claim", "t", "", senseless)


# Other people's leases.


def test_the_leader_says_that_a_lease_ran_out_after_its_whole_length(bare: Alone) -> None:
    bare.hear(LeaderChanged(ME, 1))
    bare.ctx.advance(3.0)
    bare.others(c.Claim("t", "birch", 30_000))
    bare.ctx.take()
    bare.fire(("lease", "t"))
    assert bare.ctx.now == pytest.approx(33.0)  # counted from the commit, on our clock
    assert bare.proposed() == [c.Expire("t", 1, 1)]


def test_a_renewal_moves_the_end_of_a_lease(bare: Alone) -> None:
    bare.hear(LeaderChanged(ME, 1))
    bare.others(c.Claim("t", "birch", 30_000))
    bare.ctx.advance(20.0)
    bare.others(c.Renew((c.Holding("t", 1),)), 2)
    bare.ctx.take()
    bare.fire(("lease", "t"))
    assert bare.ctx.now == pytest.approx(50.0)
    assert bare.proposed() == [c.Expire("t", 1, 2)]


def test_others_say_so_a_while_later_in_case_the_leader_does_not(bare: Alone) -> None:
    bare.hear(LeaderChanged(OTHER, 1))
    bare.others(c.Claim("t", "birch", 30_000))
    bare.ctx.take()
    bare.fire(("lease", "t"))
    assert 35.0 <= bare.ctx.now <= 40.0
    assert bare.proposed() == [c.Expire("t", 1, 1)]
    bare.fire(("lease", "t"))  # and again, for as long as it is not heard
    assert bare.proposed() == [c.Expire("t", 1, 1)]


def test_who_becomes_leader_counts_on_from_what_it_heard(bare: Alone) -> None:
    bare.hear(LeaderChanged(OTHER, 1))
    bare.others(c.Claim("t", "birch", 30_000))
    bare.ctx.advance(10.0)
    bare.hear(LeaderChanged(ME, 2))
    bare.fire(("lease", "t"))
    assert bare.ctx.now == pytest.approx(30.0)


def test_where_witnesses_are_needed_nobody_waits_for_the_leader(bare: Alone) -> None:
    bare.others(c.Found(c.Bounds(witnesses=2)))
    bare.others(c.Claim("t", "birch", 30_000), 2)
    bare.fire(("lease", "t"))
    assert bare.ctx.now == pytest.approx(30.0)


def test_a_finished_task_has_no_lease(bare: Alone) -> None:
    bare.others(c.Claim("t", "birch", 30_000))
    bare.others(c.Submit("t", 1, b""), 2, 2)
    assert ("lease", "t") not in bare.ctx.timers


# Whole states.


def test_a_snapshot_is_taken_at_indices_that_all_have_in_common() -> None:
    one = Alone(snapshot_every=16)
    for number in range(1, 40):
        one.others(c.Put("k", b""), number, number)
    taken = one.events(SnapshotTaken)
    assert [event.index for event in taken] == [16, 32]
    assert State.restore(taken[0].state).index == 16


def test_a_snapshot_is_taken_when_consensus_asks_for_one(one: Alone) -> None:
    one.hear(SnapshotAsked(5))
    (taken,) = one.events(SnapshotTaken)
    assert taken.index == 5
    assert State.restore(taken.state).snapshot() == one.machine.state.snapshot()


def test_gaps_in_the_indices_do_not_skip_a_snapshot() -> None:
    one = Alone(snapshot_every=16)
    one.index = 20
    one.others(c.Put("k", b""))
    assert [event.index for event in one.events(SnapshotTaken)] == [21]


def test_an_outcome_that_is_inside_a_restored_state_is_answered() -> None:
    one, other = Alone(), Alone(me=OTHER)
    id = one.ask("claim", "t", "ash", 30.0)
    for event in one.events(Proposed):
        other.commit(event, by=ME)
    one.hear(Restored(other.index, other.machine.state.snapshot()))
    answered = one.answer(one.ctx.emitted())
    assert (answered.id, answered.outcome) == (id, Granted(2, 30_000))
    assert one.machine.keeping["t"].token == 2


def test_a_kept_claim_that_is_not_in_a_restored_state_is_lost(one: Alone) -> None:
    claimed(one)
    state = State()
    state.index = 9
    one.hear(Restored(9, state.snapshot()))
    assert one.events(ClaimLost) == [ClaimLost("t", "ash", 2, "replaced")]
    assert ("lease", "t") not in one.ctx.timers


def test_leases_of_a_restored_state_begin_anew_here(one: Alone) -> None:
    one.hear(LeaderChanged(ME, 1))
    other = Alone(me=OTHER)
    other.others(c.Claim("t", "birch", 30_000))
    one.ctx.advance(7.0)
    one.hear(Restored(2, other.machine.state.snapshot()))
    one.fire(("lease", "t"))
    assert one.ctx.now == pytest.approx(37.0)


def test_an_older_state_changes_nothing(one: Alone) -> None:
    one.ask("put", "k", b"v")
    one.commit_all()
    one.hear(Restored(1, State().snapshot()))
    assert one.machine.peek("k") is not None


def test_news_are_told_in_the_order_of_the_log(one: Alone) -> None:
    one.others(c.Claim("t", "birch", 30_000))
    assert [effect.event for effect in one.ctx.take(Emit)] == [  # type: ignore[attr-defined]
        ClaimGranted("t", OTHER, "birch", 2, 30.0)
    ]


def refusal(one: Alone) -> str:
    """What is said to a result that comes 12 s after birch took task 17 over."""
    one.others(c.Claim("17", "birch", 30_000))
    one.ctx.advance(12.0)
    id = one.ask("submit", "17", 9, b"")
    answered = next(event for event in one.commit_all() if isinstance(event, Answered))
    assert answered.id == id
    return one.machine.explain(answered.outcome, one.ctx.now)  # type: ignore[arg-type]


def test_a_refusal_says_how_long_ago_it_happened(one: Alone) -> None:
    one.ask("put", "k", b"")
    one.commit_all()
    assert "taken over by agent birch" in (text := refusal(one))
    assert "12 s ago" in text


def test_what_a_new_life_hears_of_an_old_log_is_given_no_time(one: Alone) -> None:
    assert "taken over by agent birch" in (text := refusal(one))
    assert "ago" not in text
