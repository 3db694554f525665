"""PBFT between the groups as well: each group is one of its voters, and asks and answers as one."""

from __future__ import annotations

import pytest

from grove_core.testing.parts import part
from tests.plugins.hierarchy.village import Hamlet

ABOVE = {"request_timeout": 3.0, "rebroadcast": 1.5, "observe": 2.0, "fetch_timeout": 2.0}
SHORT = {"snapshot_every": 16, "history": 64, "absence": 600.0, "observe": 1.0}


def hamlet(seed: int = 0, **above: int) -> Hamlet:
    leaders = part("pbft", **ABOVE, **above)
    small = {"checkpoint_every": 8, "snapshot_every": 32, "history": 64}
    return Hamlet(4, 4, "certified", seed=seed, config=SHORT, pbft=small, leaders=leaders).run(5)


@pytest.mark.claim("hierarchy.pbft-above")
def test_the_leading_group_falls_silent_another_one_leads_and_it_comes_back() -> None:
    village = hamlet()
    village.propose(5, b"before")
    village.run(5)
    machine = village.machine(0)
    leading = machine.village.by_id[machine.guest("leaders").leader()].number
    silent = list(range(4 * leading, 4 * leading + 4))
    alive = [index for index in range(16) if index not in silent]
    for index in silent:
        village.crash(index)
    village.propose(alive[0], b"after")
    village.run(30)
    assert all(village.tally(index) == [b"before", b"after"] for index in alive)
    assert village.machine(alive[0]).guest("leaders").view > 0
    for index in silent:
        village.world.restart(village.node(index))
    village.run(30)
    village.propose(silent[0], b"back")
    village.run(15)
    assert all(village.tally(index) == [b"before", b"after", b"back"] for index in range(16))
    assert not village.forks


@pytest.mark.claim("hierarchy.pbft-above")
def test_both_logs_are_pruned_and_who_was_away_speaks_on() -> None:
    village = hamlet(checkpoint_every=4, snapshot_every=8, history=16)
    lost = 2
    village.crash(lost)
    for number in range(60):
        village.propose((5, 9, 14)[number % 3], b"%d" % number)
        village.run(0.2)
    village.run(10)
    assert village.machine(5).guest("leaders").floor > 0
    assert village.machine(1).guest("group/0").floor > 0
    village.world.restart(village.node(lost))
    village.run(15)
    village.crash(3)
    village.propose(lost, b"spoken")
    village.run(25)
    assert village.tally(lost)[-1] == b"spoken"
    assert len(set(village.tally(lost))) == 61
    assert village.tally(lost) == village.tally(5)
    assert not village.forks
