"""One global order over PBFT groups and Raft between them, in virtual time. GROVE_FULL=1: more seeds."""

from __future__ import annotations

import os

import pytest
from grove_hierarchy.machine.certified import Certifying
from grove_hierarchy.machine.trusting import Trusting

from grove_core.events import ReadReady, Rejected
from grove_core.testing import peer
from grove_core.testing.parts import part
from tests.plugins.hierarchy.village import Hamlet, calm

VARIANTS = ["trusting", "certified"]
SEEDS = range(3 if os.environ.get("GROVE_FULL") == "1" else 1)


@pytest.mark.claim("hierarchy.agreement")
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_members_of_all_groups_hand_over_one_order(variant: str) -> None:
    hamlet = Hamlet(3, 4, variant).run(15)
    for index in range(12):
        hamlet.propose(index, b"from %d" % index)
    hamlet.run(10)
    assert sorted(hamlet.commands(0)) == sorted(b"from %d" % index for index in range(12))
    assert all(hamlet.committed[index] == hamlet.committed[0] for index in range(12))
    for event in hamlet.committed[0]:
        assert event.command == b"from %d" % hamlet.world.nodes[event.proposer].index


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_read_comes_after_everything_that_was_committed_before_it_was_asked(variant: str) -> None:
    hamlet = Hamlet(3, 4, variant).run(15)
    hamlet.propose(1, b"first")
    hamlet.run(5)
    question = hamlet.node(10).consensus.read()
    hamlet.run(5)
    ((index, ready),) = hamlet.told
    assert index == 10
    assert isinstance(ready, ReadReady)
    assert ready.id == question
    assert ready.index > hamlet.committed[1][-1].index


@pytest.mark.claim("hierarchy.leader-crash")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_whose_leader_crashed_finds_another_and_nothing_is_lost(variant: str, seed: int) -> None:
    hamlet = Hamlet(3, 4, variant, seed=seed).run(15)
    group = 1
    machine = hamlet.machine(4 * group)
    victim = hamlet.world.nodes[machine.group.members[0]].index  # PBFT's first primary
    witness = next(index for index in range(4, 8) if index != victim)
    hamlet.propose(witness, b"before")
    hamlet.run(0.005)
    hamlet.crash(victim)
    hamlet.propose(witness, b"after")
    hamlet.propose(0, b"elsewhere")
    hamlet.run(40)
    alive = [index for index in range(12) if index != victim]
    assert set(hamlet.commands(0)) == {b"before", b"after", b"elsewhere"}
    assert all(hamlet.committed[index] == hamlet.committed[0] for index in alive)
    hamlet.world.restart(hamlet.node(victim))
    hamlet.run(20)
    assert hamlet.committed[victim] == hamlet.committed[0]


@pytest.mark.claim("hierarchy.leader-crash")
def test_the_crash_of_the_upper_leader_costs_an_election_and_one_seat_is_handed_on() -> None:
    hamlet = Hamlet(3, 4, "trusting").run(15)
    victim = hamlet.upper_leader()
    group = hamlet.machine(victim).group
    hamlet.crash(victim)
    witness = next(index for index in range(12) if index != victim)
    hamlet.propose(witness, b"after")
    hamlet.run(60)
    alive = [index for index in range(12) if index != victim]
    assert all(hamlet.commands(index) == [b"after"] for index in alive)
    leader = hamlet.machine(hamlet.upper_leader())
    assert isinstance(leader, Trusting)
    assert len(leader.upper) == 3
    (seat,) = [voter for voter in leader.upper if voter in group.rank]
    assert seat != hamlet.node(victim).peer


@pytest.mark.claim("hierarchy.leader-crash")
def test_a_whole_group_may_fall_silent_and_come_back() -> None:
    hamlet = Hamlet(3, 4, "certified", config={"absence": 600.0}).run(15)
    silent = hamlet.leading_group()
    members = range(4 * silent, 4 * silent + 4)
    for index in members:
        hamlet.crash(index)
    witness = next(index for index in range(12) if index not in members)
    hamlet.propose(witness, b"early")
    hamlet.run(30)
    hamlet.propose(witness, b"late")
    hamlet.run(10)
    assert b"late" in hamlet.commands(witness)
    for index in members:
        hamlet.world.restart(hamlet.node(index))
    hamlet.run(30)
    assert all(hamlet.committed[index] == hamlet.committed[witness] for index in range(12))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_restarted_member_hands_over_the_same_order_anew(variant: str) -> None:
    hamlet = Hamlet(3, 4, variant).run(15)
    for number in range(5):
        hamlet.propose(number, b"%d" % number)
    hamlet.run(10)
    before = list(hamlet.committed[6])
    hamlet.crash(6)
    hamlet.world.restart(hamlet.node(6))
    hamlet.run(10)
    hamlet.propose(6, b"again")
    hamlet.run(10)
    assert hamlet.committed[6][:5] == before
    assert len(before) == 5
    assert hamlet.committed[6] == hamlet.committed[0]
    assert len(hamlet.committed[0]) == 6


@pytest.mark.claim("hierarchy.messages")
def test_a_decision_of_a_hundred_costs_what_the_formula_says() -> None:
    m = g = 10
    sent = calm(m, g).decision()
    group = sum(sent[f"group:{kind}"] for kind in ("PrePrepare", "Prepare", "Commit"))
    upper = sent["leaders:Append+"] + sent["leaders:Appended"] + sent["leaders:Append"]
    assert group == 2 * g * (g - 1)
    assert (sent["Down"], sent["Named"]) == ((m - 1) * (g - 1), g - 1)
    assert upper == 3 * (m - 1)
    # 307 without the g replies: who asks is a member, and is told of it by its leader.
    assert sum(sent.values()) == 307 - g


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_seed_is_one_history(variant: str) -> None:
    def once() -> list[object]:
        hamlet = Hamlet(2, 4, variant, seed=5).run(10)
        for index in range(8):
            hamlet.propose(index, b"%d" % index)
        hamlet.run(6)
        return [hamlet.committed, sorted(hamlet.world.sent.items())]

    assert once() == once()


def test_all_copies_of_a_groups_machine_are_equal() -> None:
    hamlet = Hamlet(3, 4, "certified", seed=2).run(15)
    for index in range(12):
        hamlet.propose(index, b"%d" % index)
    hamlet.run(8)
    for group in range(3):
        members = [hamlet.machine(4 * group + rank) for rank in range(4)]
        assert all(isinstance(member, Certifying) for member in members)
        logs = {tuple(sorted(member.replica.records.items())) for member in members}  # type: ignore[attr-defined]
        assert len(logs) == 1


def test_what_cannot_be_is_refused_with_its_reason() -> None:
    hamlet = Hamlet(1, 4, "certified").run(5)
    everybody = hamlet.machine(0).voters()
    for learners in ((everybody[3],), (peer(9),)):
        hamlet.node(0).consensus.reconfigure(everybody[:3], learners)
    hamlet.node(0).consensus.reconfigure(())
    told = [event.reason for _, event in hamlet.told if isinstance(event, Rejected)]
    assert told[:2] == ["a hierarchy has no learners"] * 2
    assert told[2].startswith("0 members would be left")


@pytest.mark.claim("hierarchy.commons")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_commons_run_on_top_unchanged(variant: str) -> None:
    commons = part("commons", patience=20.0, witness_delay=2.0)
    hamlet = Hamlet(3, 4, variant, beside=(commons,)).run(15)
    for index in (1, 6, 11):
        hamlet.node(index).plugin("commons").call(
            lambda machine, ctx: machine.claim(ctx, "task-17", "agent", 30.0)
        )
    hamlet.run(10)
    states = {hamlet.node(index).machine("commons").state.snapshot() for index in range(12)}
    assert len(states) == 1
    held = hamlet.node(0).machine("commons").state.claims
    assert list(held) == ["task-17"]
    assert not hamlet.forks
