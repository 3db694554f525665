"""Members come and go, and groups that can decide nothing any more are not waited for."""

from __future__ import annotations

import pytest

from grove_core.events import Rejected
from tests.plugins.hierarchy.village import Hamlet

VARIANTS = ["trusting", "certified"]
SOON = {"absence": 6.0, "observe": 1.0}


def all_alike(hamlet: Hamlet, indices: list[int]) -> list[bytes]:
    tallies = [hamlet.tally(index) for index in indices]
    assert all(tally == tallies[0] for tally in tallies)
    assert not hamlet.forks
    return tallies[0]


@pytest.mark.claim("hierarchy.members")
@pytest.mark.parametrize("variant", VARIANTS)
def test_newcomers_join_and_members_leave_without_a_restart(variant: str) -> None:
    hamlet = Hamlet(3, 4, variant, newcomers=2, config=SOON).run(12)
    hamlet.propose(5, b"before")
    hamlet.run(5)
    group = [0, 1, 2, 3]
    hamlet.change(group[:2], join=[12, 13])
    hamlet.propose(9, b"during")
    hamlet.run(20)
    hamlet.propose(12, b"of the newcomer")
    hamlet.run(10)
    everybody = list(range(14))
    assert hamlet.machine(3).voters() == tuple(sorted(hamlet.peers(*everybody)))
    assert set(all_alike(hamlet, everybody)) == {b"before", b"during", b"of the newcomer"}
    leaver = hamlet.node(2)
    hamlet.change([2], leave=[2])
    hamlet.run(15)
    staying = [index for index in everybody if index != 2]
    hamlet.propose(13, b"without it")
    hamlet.run(10)
    assert all_alike(hamlet, staying)[-1] == b"without it"
    assert leaver.peer not in hamlet.machine(0).voters()
    hamlet.told.clear()
    hamlet.propose(2, b"too late")
    assert [type(event) for _, event in hamlet.told] == [Rejected]
    assert {hamlet.node(index).starts for index in everybody} == {1}


@pytest.mark.claim("hierarchy.members")
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_member_alone_lets_nobody_in_and_sends_nobody_away(variant: str) -> None:
    hamlet = Hamlet(3, 4, variant, newcomers=1, config=SOON).run(12)
    hamlet.change([0], join=[12])
    hamlet.change([4], leave=[1])
    hamlet.change([8], leave=[1])  # of another group: f + 1 of one are needed
    hamlet.run(15)
    assert all(hamlet.machine(index).roll.epoch == 0 for index in range(13))
    assert len(hamlet.machine(0).roll.backed) == 3


@pytest.mark.claim("hierarchy.regroup")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_group_below_its_quorum_is_regrouped_and_what_is_left_of_it_goes_on(variant: str) -> None:
    hamlet = Hamlet(4, 4, variant, config=SOON).run(12)
    hamlet.propose(0, b"before")
    hamlet.run(5)
    lost, left = [4, 5], [6, 7]
    for index in lost:
        hamlet.crash(index)
    hamlet.propose(6, b"of a group that cannot decide")
    hamlet.run(45)
    alive = [index for index in range(16) if index not in lost]
    assert {hamlet.machine(index).roll.epoch for index in alive} == {1}
    assert hamlet.machine(0).voters() == tuple(sorted(hamlet.peers(*alive)))
    hamlet.propose(left[1], b"after")
    hamlet.run(10)
    assert set(all_alike(hamlet, alive)) == {b"before", b"of a group that cannot decide", b"after"}
    for index in lost:  # they learn that they are out, and may be let in again
        hamlet.world.restart(hamlet.node(index))
    hamlet.run(15)
    assert all(not hamlet.machine(index).inside for index in lost)
    sponsors = [index for index in alive if hamlet.machine(index).group is hamlet.machine(0).group]
    group = hamlet.machine(0).group
    sponsors = [hamlet.world.nodes[peer].index for peer in group.members[: group.weak]]
    hamlet.change(sponsors, join=lost)
    hamlet.run(25)
    hamlet.propose(lost[0], b"again")
    hamlet.run(10)
    assert all_alike(hamlet, list(range(16)))[-1] == b"again"


@pytest.mark.claim("hierarchy.regroup")
def test_who_slept_through_two_epochs_finds_its_way_by_their_proofs() -> None:
    hamlet = Hamlet(3, 4, "certified", config={**SOON, "absence": 600.0}).run(12)
    hamlet.crash(11)
    for lap in range(2):
        group = hamlet.machine(0).group
        asking = [hamlet.world.nodes[peer].index for peer in group.members]
        asking = [index for index in asking if index != 11]
        hamlet.change(asking)  # the same members: only draw anew
        hamlet.run(15)
        hamlet.propose(0, b"%d" % lap)
        hamlet.run(5)
    assert hamlet.machine(0).roll.epoch == 2
    hamlet.world.restart(hamlet.node(11))
    hamlet.run(20)
    hamlet.propose(11, b"here again")
    hamlet.run(10)
    assert all_alike(hamlet, list(range(12))) == [b"0", b"1", b"here again"]


def test_a_restart_in_any_epoch_begins_where_it_ended() -> None:
    hamlet = Hamlet(3, 4, "trusting", config=SOON).run(12)
    group = hamlet.machine(0).group
    hamlet.change([hamlet.world.nodes[peer].index for peer in group.members[:2]])
    hamlet.run(15)
    hamlet.propose(0, b"x")
    hamlet.run(5)
    for index in range(12):
        hamlet.crash(index)
    for index in range(12):
        hamlet.world.restart(hamlet.node(index))
    hamlet.run(20)
    hamlet.propose(3, b"y")
    hamlet.run(10)
    assert all_alike(hamlet, list(range(12))) == [b"x", b"y"]
    assert {hamlet.machine(index).roll.epoch for index in range(12)} == {1}
