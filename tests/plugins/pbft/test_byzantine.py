"""f replicas that lie cost time and nothing else (PBFT §2: safety always, liveness after a while)."""

from __future__ import annotations

from random import Random

import pytest
from grove_pbft.machine import Pbft

from grove_core.events import Rejected
from tests.plugins.pbft.group import Group
from tests.plugins.pbft.liars import (
    BYZANTINE,
    Forger,
    MutePrimary,
    SelectivePrimary,
    StarvingPrimary,
    ViewChanger,
)


def scenario(kind: type[Pbft], n: int, seed: int, *, keys: bool = False) -> Group:
    """f liars of a kind, the first primary among them; 40 commands; one honest voter absent for a
    while."""
    scout = Group(n, observers=1, seed=seed, keys=keys)
    scout.run(0.1)
    order = scout.by_rank()
    f = (n - 1) // 3
    settings = {"checkpoint_every": 4, "snapshot_every": 8}
    group = Group(
        n, observers=1, seed=seed, keys=keys, liars=dict.fromkeys(order[:f], kind), config=settings
    )
    group.run(0.5)
    rng = Random(seed)
    for number in range(40):
        group.propose(rng.choice([*order[f:], n]), b"%d" % number)
        group.run(rng.uniform(0.0, 0.3))
    group.run(30.0)
    return group


@pytest.mark.claim("pbft.byzantine")
@pytest.mark.parametrize("kind", BYZANTINE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("n", [4, 7])
def test_liars_up_to_f_neither_split_the_honest_nor_stop_them(kind: type[Pbft], n: int) -> None:
    group = scenario(kind, n, seed=n)
    group.assert_agreement()
    for index in group.honest():
        assert sorted(map(int, group.commands(index))) == list(range(40)), f"node {index}"
    assert not group.seen(Rejected)


@pytest.mark.parametrize("kind", [MutePrimary, Forger], ids=lambda kind: kind.__name__)
def test_with_real_signatures_too(kind: type[Pbft]) -> None:
    group = scenario(kind, 4, seed=9, keys=True)
    group.assert_agreement()
    assert all(len(group.commands(index)) == 40 for index in group.honest())


def test_a_primary_that_leaves_one_backup_out_costs_that_backup_only_a_question() -> None:
    group = scenario(SelectivePrimary, 4, seed=3)
    assert all(group.machine(index).view == 0 for index in group.honest()), "no view had to change"
    assert all(len(group.commands(index)) == 40 for index in group.honest())


def test_a_primary_that_serves_all_but_one_client_is_replaced() -> None:
    scout = Group(4, observers=1, seed=6)
    scout.run(0.1)
    first, other = scout.by_rank()[:2]
    group = Group(4, observers=1, seed=6, liars={first: StarvingPrimary}, config={"patience": 16})
    group.run(0.5)
    starved = group.propose(4, b"starved")
    for number in range(100):
        group.propose(other, b"%d" % number)
        group.run(0.05)
    assert starved in group.committed_at
    assert group.machine(other).view >= 1, "the timer alone would not have: others were served"
    group.assert_agreement()


def test_one_voter_that_wants_other_views_moves_nobody() -> None:
    group = scenario(ViewChanger, 4, seed=5)
    # It is the first primary: its own view is lost with it, not one more for its hundreds of demands.
    assert all(group.machine(index).view <= 1 for index in group.honest())


def test_more_than_f_equivocators_can_split_the_group() -> None:
    """Negative control: with two twins' worth of liars among four, the checker has something to find."""
    from tests.plugins.pbft.twins import Twins, conflicts

    found = any(conflicts(Twins(seed, quorum=2)) for seed in range(200))
    assert found
