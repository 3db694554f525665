"""The past is forgotten, above and below, and who was away is brought back without it."""

from __future__ import annotations

from typing import Any

import pytest
from grove_hierarchy.machine.certified import Certifying

from grove_core.errors import LocalProtocolError
from grove_core.testing.conformance.protocol import weight
from tests.plugins.hierarchy.village import Hamlet

VARIANTS = ["trusting", "certified"]
SHORT = {"snapshot_every": 16, "history": 64, "absence": 600.0, "observe": 1.0}
PBFT = {"checkpoint_every": 8, "snapshot_every": 32, "history": 64}
RAFT = {"trailing": 8, "heartbeat": 1.0}


def small(variant: str, **hamlet: Any) -> Hamlet:
    settings = {"config": SHORT, "pbft": PBFT, "raft": RAFT, **hamlet}
    return Hamlet(2, 4, variant, **settings).run(12)


def load(hamlet: Hamlet, count: int, by: list[int]) -> None:
    for number in range(count):
        hamlet.propose(by[number % len(by)], b"%d/%d" % (by[number % len(by)], number))
        hamlet.run(0.03)
    hamlet.run(4)


@pytest.mark.claim("hierarchy.compaction")
@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_and_records_do_not_grow_with_history(variant: str) -> None:
    hamlet = small(variant)
    weights, records = [], []
    for _ in range(4):
        load(hamlet, 60, list(range(8)))
        weights.append(max(weight(hamlet.machine(index)) for index in range(8)))
        records.append(max(len(node.disk["hierarchy"]) for node in hamlet.world.order))
    print(weights, records)
    assert hamlet.machine(0).roll.mark.position >= 200
    assert len(hamlet.tally(0)) == 240
    assert weights[-1] <= max(weights[:2]) * 1.3
    assert records[-1] <= max(records[:2]) * 1.5


@pytest.mark.claim("hierarchy.compaction")
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_states_history_grows_as_it_must(variant: str) -> None:
    """Negative control: nothing is forgotten that nobody agreed to forget."""
    hamlet = small(variant, config={**SHORT, "snapshot_every": 100_000, "history": 200_000})
    load(hamlet, 40, [0, 5])
    load(hamlet, 40, [0, 5])
    assert sum(key.startswith("log/") for key in hamlet.world.order[0].disk["hierarchy"]) == 80


@pytest.mark.claim("hierarchy.compaction")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_member_that_was_away_begins_from_a_state(variant: str) -> None:
    hamlet = small(variant)
    load(hamlet, 20, [0, 5])
    hamlet.crash(6)
    load(hamlet, 100, [0, 5])
    hamlet.world.restart(hamlet.node(6))
    hamlet.run(20)
    hamlet.propose(6, b"here")
    hamlet.run(8)
    assert hamlet.tally(6) == hamlet.tally(0)
    assert hamlet.tally(0)[-1] == b"here"
    assert hamlet.node(6).machine("tally").restored, "it replayed what nobody should have kept"
    assert not hamlet.forks


@pytest.mark.claim("hierarchy.compaction")
def test_a_group_that_was_away_gets_the_roll_from_above_and_its_members_the_state() -> None:
    hamlet = Hamlet(3, 4, "certified", config=SHORT, pbft=PBFT, raft=RAFT).run(12)
    away = (hamlet.leading_group() + 1) % 3
    members = list(range(4 * away, 4 * away + 4))
    others = [index for index in range(12) if index not in members]
    for index in members:
        hamlet.crash(index)
    load(hamlet, 60, others[:3])
    for index in members:
        hamlet.world.restart(hamlet.node(index))
    hamlet.run(30)
    hamlet.propose(members[1], b"back")
    hamlet.run(8)
    assert all(hamlet.tally(index) == hamlet.tally(others[0]) for index in range(12))
    assert hamlet.tally(0)[-1] == b"back"


@pytest.mark.claim("hierarchy.certified-state")
def test_a_certified_member_speaks_on_after_its_groups_log_was_pruned() -> None:
    hamlet = small("certified")
    load(hamlet, 40, [0, 5])
    lost = 2
    hamlet.crash(lost)
    load(hamlet, 90, [0, 5])
    group = hamlet.machine(1).guest("group/0")
    assert group.floor > 0, "the group's log was never pruned: this shows nothing"
    hamlet.world.restart(hamlet.node(lost))
    hamlet.run(15)
    # It is one of the three that the group now needs.
    hamlet.crash(3)
    hamlet.propose(lost, b"spoken")
    hamlet.run(20)
    machine = hamlet.machine(lost)
    assert isinstance(machine, Certifying)
    assert not machine.is_lost
    assert hamlet.tally(lost)[-1] == b"spoken" == hamlet.tally(5)[-1]


@pytest.mark.claim("hierarchy.certified-state")
def test_all_members_of_a_group_write_down_the_same_state() -> None:
    hamlet = small("certified", seed=3)
    load(hamlet, 60, list(range(8)))
    hamlet.run(5)
    for group in ((0, 1, 2, 3), (4, 5, 6, 7)):
        by_progress: dict[int, set[bytes]] = {}
        for index in group:
            machine = hamlet.machine(index)
            assert isinstance(machine, Certifying)
            by_progress.setdefault(machine.guest(machine.inside).executed, set()).add(machine.state())
        assert all(len(states) == 1 for states in by_progress.values())
        assert min(len(by_progress), 4) < 4, "no two had executed equally far"


def test_a_machine_that_cannot_be_written_down_is_not_handed_in() -> None:
    hamlet = small("certified")
    machine = hamlet.machine(0)
    assert isinstance(machine, Certifying)
    machine.guest("leaders").odd = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(LocalProtocolError, match="cannot be written down"):
        machine.state()


@pytest.mark.claim("hierarchy.compaction")
def test_a_state_machine_that_never_answers_does_not_stop_the_past_from_going() -> None:
    hamlet = small("certified", beside=())
    load(hamlet, 90, [0, 5])
    assert hamlet.machine(0).roll.mark.is_blank
    assert hamlet.machine(0).roll.mark.position >= 64
    assert len(hamlet.world.order[0].disk["hierarchy"]) < 1_000


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_last_life_is_taken_up_by_all_at_once(variant: str) -> None:
    hamlet = small(variant)
    load(hamlet, 70, [0, 5])
    before = hamlet.tally(0)
    assert len(before) == 70
    for index in range(8):
        hamlet.crash(index)
    for index in range(8):
        hamlet.world.restart(hamlet.node(index))
    hamlet.run(20)
    hamlet.propose(3, b"after")
    hamlet.run(8)
    assert all(hamlet.tally(index) == [*before, b"after"] for index in range(8))
