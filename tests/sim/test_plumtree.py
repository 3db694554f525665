"""Plumtree as its authors measured it (TR DI-FCUL 07-14, section 4): claims 19 to 25 of gossip.md 6.

1,000 nodes and one seed; `make claims` (GROVE_FULL=1) takes the paper's 10,000 and five seeds. One
village a seed serves all: each experiment has a copy of it (tests/sim/apart.py). IHAVEs are not
gathered, as in the paper. Exact claims hold for every seed, the others for the mean.

The paper's last hops of many senders (59) are its simulator's order of events, not time: over links
that take equal times they are 10 to 17, and hops say little where links differ. So seconds are told too.
"""

from __future__ import annotations

from statistics import mean
from typing import Any

import msgspec
import pytest

from grove_core.specs import Part
from grove_core.testing import part
from tests.sim import published
from tests.sim.apart import apart
from tests.sim.kept import over
from tests.sim.paper import (
    CYCLE,
    FULL,
    NODES,
    SEEDS,
    STABLE,
    Measured,
    Paper,
    curve,
    seeds,
    told,
)

CHURNED = 100 if FULL else 20  # cycles, in each of which one node of 200 crashes
CRASHES = (0.4, 0.6, 0.8)
REMEASURED = CRASHES if FULL else (0.6,)  # crashes after which the last hop is looked at
BROADCASTS = 5 if FULL else 2  # whose last hops are averaged; of many senders, twice as many
OPTIMISED = {"one sender": 3, "many senders": 7}
"""The paper's thresholds."""


class Tree(msgspec.Struct):
    """Ten broadcasts on an overlay at rest: five of one sender, five of anybody."""

    redundancy: list[float]
    payloads: list[int]
    announced: list[int]
    expected: int
    """Announcements if every other end of every link carries one."""
    repairs: list[int]
    """GRAFT and PRUNE."""
    once: bool
    """Everybody delivered each message exactly once."""


class LastHop(msgspec.Struct):
    """The last delivery: in hops, and in seconds after the publication."""

    hops: float
    seconds: float


class Seed(msgspec.Struct):
    """All of one village."""

    tree: Tree
    growing: list[float]
    """Redundancy of a broadcast a cycle from the first cycle on, as the paper's nodes repair."""
    even: dict[str, LastHop]
    """Over links that take the same time, by who sends."""
    uneven: dict[str, LastHop]
    """Over links of 10 to 50 ms."""
    lasting: list[float]
    """Over links of 100 ms, of three times thirty broadcasts of anybody: the mean last hop."""
    after: dict[float, dict[str, LastHop]]
    """Over even links after a crash."""
    reliability: list[float]
    churn: list[float]
    """Of each cycle under churn: reliability and redundancy."""
    crashed: dict[float, list[float]]
    """Redundancy in successive cycles after a crash."""


def measured(seed: int) -> Seed:
    """A stabilised village, and every experiment on a copy of it."""
    tree = part("plumtree", ihave_interval=0.0)
    growing = apart(lambda: grow(tree, seed))
    paper = Paper(tree, seed=seed, cycles=STABLE)
    reliability, churn = apart(lambda: churned(paper))
    return Seed(
        tree=apart(lambda: formed(paper)),
        growing=growing,
        even=apart(lambda: last_hops(paper)),
        uneven=apart(lambda: last_hops(paper, even=False)),
        lasting=apart(lambda: lasted(paper)),
        after={
            failed: apart(lambda f=failed: last_hops(paper, f))  # type: ignore[misc]
            for failed in REMEASURED
        },
        reliability=reliability,
        churn=churn,
        crashed={failed: apart(lambda f=failed: crashed(paper, f)) for failed in CRASHES},  # type: ignore[misc]
    )


def formed(paper: Paper) -> Tree:
    paper.freeze(repair=False)  # a link that is new is eager once more
    tree = Tree([], [], [], sum(paper.degrees()) - 2 * (NODES - 1), [], True)
    sender = paper.someone()
    for number in range(10):
        message = paper.publish(sender if number < 5 else None)
        tree.redundancy.append(paper.rmr(message))
        tree.payloads.append(paper.sent["Gossip"])
        tree.announced.append(paper.sent["IHave"])
        tree.repairs.append(paper.sent["Graft"] + paper.sent["Prune"])
        delivered = paper.village.delivered[message]
        tree.once &= len(delivered) == NODES and set(delivered.values()) == {1}
    return tree


def grow(tree: Part, seed: int) -> list[float]:
    """The authors' nodes filled a slot that a DISCONNECT freed in the next cycle only."""
    membership = part("hyparview", shuffle_interval=CYCLE, save_delay=0.0, refill="cycle")
    paper = Paper(tree, seed=seed, cycles=0, membership=membership)
    found = []
    sender = paper.someone()
    for _ in range(5):
        found.append(paper.rmr(paper.publish(sender)))
        paper.shuffle(1)
    return found


def last_hops(paper: Paper, failed: float = 0.0, *, even: bool = True) -> dict[str, LastHop]:
    """Of each kind of sending, with the tree that it made by itself; the first broadcast is a flood."""
    _crash_and_settle(paper, failed, even=even)
    senders = [paper.someone() for _ in range(BROADCASTS)]
    floods = [apart(lambda s=sender: _last_hop(paper, 1, s, tree=False)) for sender in senders]  # type: ignore[misc]
    kinds = {
        who + said: apart(lambda w=who, t=threshold: _sent(paper, w, t))  # type: ignore[misc]
        for who in OPTIMISED
        for said, threshold in (("", 0), (", optimised", OPTIMISED[who]))
    }
    kinds["flood"] = LastHop(mean(one.hops for one in floods), mean(one.seconds for one in floods))
    return kinds


def lasted(paper: Paper) -> list[float]:
    paper.freeze(repair=False)
    paper.even(0.1)
    return [_last_hop(paper, 30, None, tree=False).hops for _ in range(3)]


def _sent(paper: Paper, who: str, threshold: int) -> LastHop:
    paper.configure("broadcast", optimise_after=threshold)
    if who == "one sender":
        return _last_hop(paper, BROADCASTS, paper.someone())
    return _last_hop(paper, 2 * BROADCASTS, None)


def _crash_and_settle(paper: Paper, failed: float, *, even: bool = True) -> None:
    if failed:
        paper.crash(failed)
        paper.village.run_for(4 * CYCLE)
    paper.freeze(repair=False)
    if even:
        paper.even()


def _last_hop(paper: Paper, count: int, sender: Any, *, tree: bool = True) -> LastHop:
    """Mean of so many broadcasts; tree: once as many have made one."""
    hops, seconds = [], []
    unseen = count if tree else 0
    for number in range(unseen + count):
        begun = paper.village.world.now
        message = paper.publish(sender)
        if number >= unseen:
            hops.append(paper.hops[message])
            seconds.append(paper.last[message] - begun)
        paper.forget(message)
    return LastHop(mean(hops), mean(seconds))


def churned(paper: Paper) -> tuple[list[float], list[float]]:
    for _ in range(3):
        paper.publish(wait=CYCLE)
    reliability, redundancy = [], []
    for _ in range(CHURNED):
        for node in paper.rng.sample(paper.alive, NODES // 200):
            paper.village.world.crash(node)
        message = paper.publish(wait=CYCLE)
        reliability.append(paper.village.reliability(message))
        redundancy.append(paper.rmr(message))
        paper.forget(message)
    return reliability, redundancy


def crashed(paper: Paper, failed: float) -> list[float]:
    for _ in range(3):
        paper.publish(wait=CYCLE)
    paper.crash(failed)
    return [paper.rmr(paper.publish(wait=CYCLE)) for _ in range(6)]


@pytest.fixture(scope="module")
def villages() -> list[Seed]:
    return over(SEEDS, measured)


# At rest


@pytest.mark.claim("gossip.19-plumtree-payloads")
def test_from_the_third_message_on_n_minus_1_payloads_suffice_for_any_sender(
    villages: list[Seed], record_property: Measured
) -> None:
    seeds(record_property)
    payloads = [count for village in villages for count in village.tree.payloads[2:]]
    record_property("measured", f"{told(payloads, ',.0f')} in each of {len(payloads)} broadcasts")
    for village in villages:
        assert village.tree.once, "somebody missed a message or got it twice"
        assert village.tree.payloads[2:] == [NODES - 1] * 8
        assert village.tree.redundancy[2:] == [0.0] * 8
        assert village.tree.repairs[2:] == [0] * 8


@pytest.mark.claim("gossip.20-plumtree-control")
def test_every_other_end_of_every_link_carries_one_announcement(
    villages: list[Seed], record_property: Measured
) -> None:
    seeds(record_property)
    announced = [count for village in villages for count in village.tree.announced[2:]]
    record_property("measured", f"{told(announced, ',.0f')} IHAVE")
    for village in villages:
        assert village.tree.announced[2:] == [village.tree.expected] * 8
    if FULL:
        assert mean(announced) == pytest.approx(29_990, abs=60)


@pytest.mark.claim("gossip.21-plumtree-tree-forms")
def test_redundancy_falls_from_three_to_nothing_within_three_broadcasts(
    villages: list[Seed], record_property: Measured
) -> None:
    seeds(record_property)
    by_number = [[village.tree.redundancy[n] for village in villages] for n in range(5)]
    growing = [[village.growing[n] for village in villages] for n in range(5)]
    for name, rows in (("once it is stable", by_number), ("overlay that still fills", growing)):
        curve(record_property, "plumtree-rmr", name, [(n + 1, found) for n, found in enumerate(rows)])
    record_property(
        "measured",
        "RMR " + ", ".join(told(found, ".3f") for found in by_number[:3]) + "; from the first cycle: "
        + ", ".join(f"{mean(found):.3f}" for found in growing),
    )  # fmt: skip
    assert mean(by_number[0]) == pytest.approx(3.0, abs=0.05)
    assert mean(by_number[1]) <= 0.9
    assert mean(by_number[2]) <= 0.05


@pytest.mark.claim("gossip.22-last-hop-one-sender")
def test_the_last_hop_of_one_sender_is_near_the_floods(
    villages: list[Seed], record_property: Measured
) -> None:
    seeds(record_property)
    _draw_last_hops(villages, record_property)
    one = [village.even["one sender"].hops for village in villages]
    flood = [village.even["flood"].hops for village in villages]
    record_property("measured", f"{told(one, '.2f')}; the flood {told(flood, '.2f')}")
    assert mean(one) <= mean(flood) + 2
    if FULL:
        assert 8 <= mean(one) <= 10


def _draw_last_hops(villages: list[Seed], record_property: Measured) -> None:
    for name in published.LAST_HOP:
        points = [(0.0, [village.even[name].hops for village in villages])]
        points += [
            (100 * failed, [village.after[failed][name].hops for village in villages])
            for failed in REMEASURED
        ]
        curve(record_property, "plumtree-last-hop", name, points)


@pytest.mark.claim("gossip.23-last-hop-many-senders")
def test_the_last_hop_of_many_senders_is_bounded(villages: list[Seed], record_property: Measured) -> None:
    seeds(record_property)
    even = [village.even["many senders"].hops for village in villages]
    uneven = [village.uneven["many senders"].hops for village in villages]
    ratio = [
        village.uneven["many senders"].seconds / village.uneven["one sender"].seconds
        for village in villages
    ]
    seconds = [
        f"{who} {told([1e3 * village.uneven[who].seconds for village in villages], '.0f', ' ms')}"
        for who in published.LAST_HOP
    ]
    record_property(
        "measured",
        f"{told(even, '.1f')} / {told(uneven, '.1f')}; time {told(ratio, '.2f')} times one sender's;"
        f" {', '.join(seconds)}",
    )
    # The paper's 59 is the order of its simulator's events, and not to be reached.
    assert mean(even) <= 17
    if FULL:
        assert mean(even) >= 10
        assert 17 <= mean(uneven) <= 24
        assert 1.5 <= mean(ratio) <= 2.0


@pytest.mark.claim("plumtree.tree-lasts")
def test_the_tree_that_all_share_grows_no_deeper(villages: list[Seed], record_property: Measured) -> None:
    """Each needless GRAFT that wins its race rewires the tree for all senders, never for the better."""
    seeds(record_property)
    thirds = [mean(village.lasting[n] for village in villages) for n in range(3)]
    record_property("measured", ", ".join(f"{hops:.1f}" for hops in thirds) + " hops")
    assert thirds[2] <= 1.1 * thirds[0]


# Failures


@pytest.mark.claim("gossip.24-plumtree-churn")
def test_under_churn_everybody_alive_gets_everything_at_little_redundancy(
    villages: list[Seed], record_property: Measured
) -> None:
    seeds(record_property)
    reliability = [100 * mean(village.reliability) for village in villages]
    redundancy = [mean(village.churn) for village in villages]
    record_property("measured", f"{told(reliability, '.4f', ' %')}, RMR {told(redundancy, '.3f')}")
    assert mean(reliability) >= 99.9
    assert mean(redundancy) <= 0.15


@pytest.mark.claim("gossip.25-mass-failure-redundancy")
def test_two_cycles_after_a_mass_failure_the_tree_stands_again(
    villages: list[Seed], record_property: Measured
) -> None:
    seeds(record_property)
    for failed in CRASHES:
        runs = [village.crashed[failed] for village in villages]
        points = [(n + 1, [run[n] for run in runs]) for n in range(6)]
        curve(record_property, "plumtree-mass-failure", f"{failed:.0%}", points)
        record_property(
            "measured", f"{failed:.0%}: " + ", ".join(told([r[n] for r in runs], ".2f") for n in range(3))
        )
    for failed in CRASHES:
        first, second, third = (mean(v.crashed[failed][n] for v in villages) for n in range(3))
        assert first <= 2.9, f"{failed:.0%} crashed"
        assert second < 0.4, f"{failed:.0%} crashed"
        assert third < 0.1, f"{failed:.0%} crashed"
