"""flow = "all": every group agrees on an entry before its leader takes it in the upper protocol."""

from __future__ import annotations

import pytest

from tests.plugins.hierarchy.village import Hamlet, calm

ALL = {"flow": "all"}


@pytest.mark.claim("hierarchy.messages-all")
def test_a_decision_of_a_hundred_costs_what_the_formula_says() -> None:
    m = g = 10
    sent = calm(m, g, **ALL).decision()
    group = sum(sent[f"group:{kind}"] for kind in ("PrePrepare", "Prepare", "Commit"))
    assert group == m * 2 * g * (g - 1)
    assert sent["Named"] == m * (g - 1)  # all have it from their own group
    assert sent["leaders:Append+"] + sent["leaders:Appended"] + sent["leaders:Append"] == 3 * (m - 1)
    # 1,927 without the g replies: who asks is a member, and is told of it by its leader.
    assert sum(sent.values()) == 1_927 - g


def test_all_members_hand_over_one_order_whoever_proposes() -> None:
    hamlet = Hamlet(3, 4, "trusting", config=ALL).run(15)
    for index in range(12):
        hamlet.propose(index, b"from %d" % index)
    hamlet.run(10)
    assert sorted(hamlet.tally(0)) == sorted(b"from %d" % index for index in range(12))
    assert all(hamlet.tally(index) == hamlet.tally(0) for index in range(12))


def test_what_is_ordered_was_decided_by_more_than_half_of_the_groups() -> None:
    hamlet = Hamlet(3, 4, "trusting", config=ALL).run(15)
    away = next(
        number for number in range(3) if number != hamlet.machine(hamlet.upper_leader()).group.number
    )
    silent = [index for index in range(4 * away, 4 * away + 4)]
    voters = [index for index in silent if hamlet.node(index).peer in hamlet.machine(0).upper]
    for index in silent:
        if index not in voters:
            hamlet.crash(index)  # its leader lives, and has nobody to agree with
    upper = hamlet.upper_leader()
    hamlet.propose(upper, b"x")
    hamlet.run(3)
    assert hamlet.tally(upper) == [b"x"]
    third = next(
        index
        for index in range(12)
        if index not in silent and hamlet.machine(index).group is not hamlet.machine(upper).group
    )
    for index in range(4 * (third // 4), 4 * (third // 4) + 4):
        if hamlet.node(index).peer not in hamlet.machine(upper).upper:
            hamlet.crash(index)
    hamlet.propose(upper, b"y")
    hamlet.run(3)
    assert hamlet.tally(upper) == [b"x"], "a minority of groups decided it, and it was ordered"
