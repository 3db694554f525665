"""Groups in virtual time: who leads when, what survives, how members come and go."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random
from statistics import mean, pstdev
from typing import Any

import pytest

from grove_core.drive.virtual import uniform
from grove_core.events import Committed, LeaderChanged, MembersChanged, ReadReady, Rejected
from tests.plugins.raft.group import Group

FULL = bool(os.environ.get("GROVE_FULL"))
TRIALS = 10_000 if FULL else 150

Record = Callable[[str, object], None]

PLAIN = {"pre_vote": False, "check_quorum": False}
"""Raft as the paper has it."""


IN_FLIGHT = 0.05
"""Seconds in which what was sent arrives, and nobody's timer fires."""


def failover(seed: int, down: int, **config: Any) -> tuple[float, int]:
    """The leader (and down - 1 others) crash. Seconds until there is another, since those who are left
    heard of the last one; and terms it took."""
    group = Group(5, seed=seed, checked=False, disk=0.0, start=0.0, **config)
    leader = group.settle(10.0)
    group.run(Random(f"failover {seed}").uniform(0.5, 1.0))
    term = group.raft(leader).log.term
    others = [node for node in group.nodes if node is not leader][: down - 1]
    for node in (leader, *others):
        group.world.crash(node)
    group.run(IN_FLIGHT)
    start = mean(group.raft(node).heard_at for node in group.alive)
    group.until(group.leader, 30.0)
    found = group.leader()
    assert found is not None
    return group.world.now - start, group.raft(found).log.term - term


@pytest.mark.claim("raft.election-wan")
@pytest.mark.parametrize(
    ("down", "low", "high", "worst"), [(1, 0.4465, 0.4935, 1.5), (2, 0.589, 0.6825, 3.0)]
)
def test_a_wide_area_group_elects_as_fast_as_the_dissertation_says(
    down: int, low: float, high: float, worst: float, record_property: Record
) -> None:
    """§9.3, claim 12: one-way 30 to 40 ms, T 300 to 600 ms; means of 470 and of 620 to 650 ms.

    Counted as if the timers began anew at the crash. From the crash itself, anywhere in a heartbeat's
    interval, it is 40 ms less."""
    found = sorted(
        failover(
            seed, down, election_timeout=0.3, heartbeat=0.15, delay=uniform(0.03, 0.04, seed), **PLAIN
        )[0]
        for seed in range(TRIALS)
    )
    tail = found[-1 - TRIALS // 1000]
    record_property(
        "measured",
        f"{down} of 5 down, {TRIALS} elections: "
        f"mean {1000 * mean(found):.0f} ms, p99.9 {1000 * tail:.0f} ms",
    )
    # Fewer elections, wider: four standard errors of the mean.
    slack = 4 * pstdev(found) / TRIALS**0.5 if not FULL else 0.0
    assert low - slack <= mean(found) <= high + slack, f"mean {mean(found):.3f} s"
    assert tail < worst


@pytest.mark.claim("raft.split-votes")
@pytest.mark.parametrize(("down", "share", "tolerance"), [(1, 0.052, 0.007), (2, 0.271, 0.015)])
def test_split_votes_are_as_rare_as_the_dissertation_says(
    down: int, share: float, tolerance: float, record_property: Record
) -> None:
    """Claim 13: latency a tenth of the range of timeouts: 5.2 of 100 elections with one of five down,
    27.1 with two."""
    splits = [
        failover(seed, down, election_timeout=0.2, heartbeat=0.1, delay=0.02, **PLAIN)[1] > 1
        for seed in range(TRIALS)
    ]
    record_property("measured", f"{down} of 5 down: {100 * mean(splits):.1f} %, {TRIALS} elections")
    slack = tolerance if FULL else 4 * (share * (1 - share) / TRIALS) ** 0.5
    assert abs(mean(splits) - share) <= slack, f"{mean(splits):.3f} of elections were split"


@pytest.mark.claim("raft.partial-partition")
def test_a_leader_survives_a_partial_partition_that_topples_plain_raft() -> None:
    """Claim 19, the Cloudflare outage of 2020: the leader reaches one follower only, and one pair of the
    others is cut. Plain Raft changes leaders without end; ours keeps one within five timeouts."""

    def changes(**config: Any) -> tuple[int, int]:
        group = Group(5, seed=1, checked=False, election_timeout=1.0, heartbeat=0.1, **config)
        leader = group.settle(10.0)
        others = [node for node in group.nodes if node is not leader]
        for node in others[1:]:
            group.world.cut(leader, node)
        group.world.cut(others[0], others[1])
        early = group.run(5.0).terms()
        return early, group.run(55.0).terms() - early

    _, late = changes()
    assert late == 0, "stable after five election timeouts"
    _, plain = changes(**PLAIN)
    assert plain > 10, "the negative control: plain Raft is not live here"


def test_a_node_that_comes_back_from_isolation_disturbs_nobody() -> None:  # §9.6
    group = Group(3, seed=5)
    leader = group.settle()
    lonely = next(node for node in group.nodes if node is not leader)
    division = group.world.divide([int(node is lonely) for node in group.nodes])
    group.run(3.0)
    group.world.reunite(division)
    term = group.raft(leader).log.term
    group.run(2.0)
    assert group.leader() is leader
    assert group.raft(leader).log.term == term


def test_a_leader_cut_off_one_way_steps_down() -> None:
    group = Group(3, seed=6)
    leader = group.settle()
    for node in group.nodes:
        if node is not leader:
            group.world.cut(node, leader, one_way=True)  # it speaks and hears nobody
    group.run(2.0)
    assert not group.raft(leader).is_leader


def test_what_was_acknowledged_survives_everybodys_crash() -> None:
    group = Group(3, seed=7, disk=0.01)
    leader = group.settle()
    ids = [leader.consensus.propose(b"%d" % number) for number in range(20)]
    group.until(lambda: len(group.of(Committed, leader)) == 20, 2.0)
    for node in group.nodes:
        group.world.crash(node)
        group.world.restart(node, at=0.05)
    group.events.clear()
    group.run(0.1)
    group.settle()
    group.run(0.5)
    for node in group.nodes:
        assert [event.id for event in group.of(Committed, node)] == ids


def test_what_was_not_saved_was_never_acknowledged() -> None:
    group = Group(3, seed=8, disk=0.05)
    leader = group.settle()
    leader.consensus.propose(b"lost?")
    group.run(0.04)  # the disks are still busy
    assert group.of(Committed) == []
    for node in group.nodes:
        group.world.crash(node)
        group.world.restart(node, at=0.05)
    group.run(0.1)
    group.settle()


def test_a_followers_proposals_go_to_the_leader_and_wait_for_one() -> None:
    group = Group(3, seed=9)
    group.run(0.05)
    id = group.nodes[1].consensus.propose(b"early")  # nobody leads yet
    group.settle()
    group.run(0.5)
    assert [event.id for event in group.of(Committed, group.nodes[1])] == [id]


def test_without_a_majority_a_proposal_that_was_not_sent_is_rejected() -> None:
    group = Group(3, seed=10)
    leader = group.settle()
    alone = next(node for node in group.nodes if node is not leader)
    for node in group.nodes:
        if node is not alone:
            group.world.crash(node)
    group.run(1.0)
    id = alone.consensus.propose(b"x")
    group.run(1.0)
    assert [event.id for event in group.of(Rejected)] == [id]


@pytest.mark.parametrize("reads", ["index", "lease"])
def test_every_member_reads_what_was_written(reads: str) -> None:
    group = Group(3, seed=11, reads=reads)
    leader = group.settle()
    group.run(0.2)
    leader.consensus.propose(b"x")
    group.run(0.2)
    for node in group.nodes:
        id = node.consensus.read()
        group.run(0.2)
        (ready,) = [event for event in group.of(ReadReady, node) if event.id == id]
        assert ready.index >= group.of(Committed, node)[-1].index


@pytest.mark.claim("raft.members")
def test_a_group_of_one_grows_to_three_and_moves_to_three_others() -> None:
    group = Group(0, seed=12, strangers=5)
    group.run(0.1)
    first = group.nodes[0]
    group.call(first, lambda machine, ctx: machine.found(ctx))
    group.run(0.3)
    assert group.leader() is first
    for voters in ((0, 1, 2), (2, 3, 4)):
        leader = group.elect()
        leader.consensus.reconfigure(tuple(group.peer(index) for index in voters))
        group.run(2.0)
        leader = group.elect()
        assert leader.index in voters
        assert leader.consensus.voters() == tuple(sorted(group.peer(index) for index in voters))
    leader.consensus.propose(b"after")
    group.run(0.5)
    assert group.of(Committed, group.nodes[4])[-1].command == b"after"
    assert group.of(MembersChanged, group.nodes[4])[-1].voters == leader.consensus.voters()


def test_voters_that_cannot_catch_up_stop_the_change_and_nothing_else() -> None:
    group = Group(3, seed=13, strangers=1, catch_up=1.0)
    leader = group.settle()
    group.run(0.2)
    group.world.crash(group.nodes[3])
    leader.consensus.reconfigure(tuple(group.peer(index) for index in range(4)))
    group.run(2.0)
    assert "catch up" in group.of(Rejected)[-1].reason
    leader.consensus.propose(b"still alive")
    group.run(0.3)
    assert len(group.of(Committed)) == 3


def test_leadership_is_handed_over_without_waiting_for_a_timeout() -> None:
    group = Group(3, seed=14)
    leader = group.settle()
    group.run(0.2)
    target = next(node for node in group.nodes if node is not leader)
    group.call(leader, lambda machine, ctx: machine.transfer(ctx, target.peer))
    group.run(0.08)
    assert group.leader() is target
    assert group.of(LeaderChanged, leader)[-1].leader == target.peer


def test_a_slow_follower_gets_a_snapshot_and_then_the_log() -> None:
    group = Group(3, seed=15, snapshot_every=10, trailing=0, append_bytes=1024)
    leader = group.settle()
    slow = next(node for node in group.nodes if node is not leader)
    group.world.crash(slow)
    for number in range(60):
        handle = leader.plugin("map")
        id = b"%016d" % number
        handle.call(lambda m, ctx, id=id, n=number: m.ask(ctx, id, "k", ("write", f"{n}" * 50)))
        group.run(0.01)
    group.run(0.2)
    assert group.raft(leader).log.offset > 20
    group.world.restart(slow)
    group.until(lambda: slow.alive and group.raft(slow).applied == group.raft(leader).applied, 3.0)
    assert slow.machine("map").values == leader.machine("map").values


@pytest.mark.claim("raft.commit-latency")
def test_a_decision_takes_one_round_trip_and_the_followers_learn_of_it_at_once() -> None:
    """Two message delays at the leader, one more at the followers; no append period (claim 26)."""
    group = Group(3, seed=16, delay=0.01, disk=0.0)
    leader = group.settle()
    group.run(0.2)
    start = group.world.now
    leader.consensus.propose(b"x")
    group.run(0.1)
    times = {index: at - start for at, index, event in group.events if isinstance(event, Committed)}
    assert times[leader.index] == pytest.approx(0.02)
    assert all(at == pytest.approx(0.03) for index, at in times.items() if index != leader.index)
