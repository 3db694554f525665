"""HyParView's rivals as its evaluation measured them: Cyclon, CyclonAcked and Scamp under push gossip.

TR DI-FCUL 07-13, section 5: fanout 4; nodes join one after another; cycles until the views are stable;
then a share of the nodes crashes and messages are sent from random survivors before any further cycle
runs. Cyclon's curve is also a test of the simulator, for branching processes predict it: a push gossip
to F fresh targets of which a share f is dead takes off with probability 1 - q and then reaches r,

    q = (f + (1 - f) q)^F          r = 1 - exp(-F (1 - f) r)

2,000 nodes (Scamp: 500); `make claims` (GROVE_FULL=1) takes the paper's 10,000, where the paper's own
figures hold. Views that are frozen do not care when a node died, so one village is crashed ever further.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, sqrt
from random import Random
from statistics import mean, pstdev
from typing import Any

import pytest

from grove_core.testing import part
from tests.sim.graphs import average_path, clustering, in_degrees, undirected
from tests.sim.paper import FULL, Measured, Paper

NODES = 10_000 if FULL else 2_000
CYCLES = 50 if FULL else 16  # the paper's 50; the fewer the nodes, the sooner their views are mixed
SOON = 1.2  # seconds that a flood of pushes takes, a new connection each: 20 hops of 0.06 s
DELAY = 0.02

PAPER_CYCLON = {0.1: 97.3, 0.2: 96.5, 0.3: 92.6, 0.4: 85.9, 0.5: 73.4, 0.6: 50.2, 0.7: 11.8}
"""Figure 2: mean reliability in percent by the share that crashed."""
PAPER_SCAMP = {0.1: 94.7, 0.2: 92.2, 0.3: 88.0, 0.4: 80.1, 0.5: 65.5, 0.6: 39.8, 0.7: 4.2}

MESSAGES = (
    {0.1: 50, 0.2: 100, 0.3: 100, 0.4: 200, 0.5: 300, 0.6: 400, 0.7: 1000}
    if FULL
    else {0.5: 120, 0.7: 400}
)
"""How many messages are sent after each crash: the nearer to the threshold, the more they differ."""


class Figures:
    """What the paper measures of one membership: views at rest, reliability by fanout and by crash."""

    def __init__(self, paper: Paper, messages: dict[float, int]) -> None:
        self.views = paper.views()
        self.in_degrees = sorted(in_degrees(self.views).values())
        self.by_fanout: dict[int, float] = {}
        for fanout in (6, 5, 4):
            paper.configure("broadcast", fanout=fanout)
            self.by_fanout[fanout] = 100 * mean(paper.reliabilities(20 if FULL else 4, SOON))
        self.by_crash: dict[float, list[float]] = {}
        for failed, count in messages.items():
            living = round((1 - failed) * len(self.views))
            paper.crash(1 - living / len(paper.alive))
            assert len(paper.alive) == living
            self.by_crash[failed] = [100 * one for one in paper.reliabilities(count, 2 * SOON)]

    def told(self) -> str:
        """For `make claims`."""
        rows = [f"{failed:.0%}: {mean(found):.1f}" for failed, found in self.by_crash.items()]
        return "reliability in % by share crashed: " + ", ".join(rows)


def cyclon(cycles: int = CYCLES, nodes: int = NODES, **gossip: Any) -> Paper:
    """A village over Cyclon whose cycles have ended."""
    paper = Paper(
        part("gossip", seen_for=4.0, ack_timeout=1.0, **gossip),
        membership=part("cyclon", shuffle_interval=60.0, save_cycles=0),
        nodes=nodes,
        cycles=cycles,
        delay=DELAY,
        spacing=0.05,
    )
    paper.freeze()
    return paper


@pytest.fixture(scope="module")
def over_cyclon() -> Figures:
    return Figures(cyclon(), MESSAGES)


def theory(fanout: int, failed: float) -> tuple[float, float]:
    """(take-off probability, share of the living then reached), by iteration to the fixed points."""
    die, reached = 0.0, 1.0
    for _ in range(10_000):
        die = (failed + (1 - failed) * die) ** fanout
        reached = 1 - exp(-fanout * (1 - failed) * reached)
    return 1 - die, reached


def test_the_theory_is_the_references_table() -> None:
    table = {
        0.0: 98.0,
        0.1: 96.9,
        0.2: 95.1,
        0.3: 91.7,
        0.4: 85.2,
        0.5: 72.7,
        0.6: 49.5,
        0.7: 12.6,
        0.8: 0,
    }
    for failed, expected in table.items():
        takes_off, reached = theory(4, failed)
        assert 100 * takes_off * reached == pytest.approx(expected, abs=0.06)


# Cyclon


@pytest.mark.claim("rivals.cyclon-graph")
def test_cyclons_views_are_full_and_make_a_random_graph(
    over_cyclon: Figures, record_property: Measured
) -> None:
    inward = over_cyclon.in_degrees
    overlay = undirected(
        over_cyclon.views
    )  # the paper's figures fit only this: paths of 2.6 need 70 edges
    path, clustered = average_path(overlay, Random(1)), clustering(overlay)
    record_property(
        "measured",
        f"in-degree mean {mean(inward):.3f}, {inward[0]} to {inward[-1]}, deviation {pstdev(inward):.1f};"
        f" path {path:.3f}, clustering {clustered:.5f}",
    )
    # Exactly 35, but for a place here and there that an unanswered last shuffle left free.
    assert 34.99 <= mean(inward) <= 35.0
    ideal = undirected(_random_views(NODES, 35, Random(1)))
    assert path == pytest.approx(average_path(ideal, Random(1)), rel=0.01)
    assert clustered == pytest.approx(clustering(ideal), rel=0.1)
    if FULL:
        assert path == pytest.approx(2.60, abs=0.02)  # paper, table 1
        assert clustered == pytest.approx(0.0068, abs=0.0007)
        # Paper, figure 5: 24 to 49. Ours is narrower, 26 to 44, since older nodes have had a few cycles
        # more (they go on while the others join); fewer cycles are wider, so only the outside is judged.
        assert inward[0] >= 21
        assert inward[-1] <= 52


@pytest.mark.claim("rivals.cyclon-fanout")
def test_without_failures_gossip_over_cyclon_reaches_what_theory_says(
    over_cyclon: Figures, record_property: Measured
) -> None:
    found = over_cyclon.by_fanout
    record_property("measured", ", ".join(f"fanout {f}: {found[f]:.2f} %" for f in (4, 5, 6)))
    for fanout, published in ((4, 98.4), (5, 99.5), (6, 99.8)):
        takes_off, reached = theory(fanout, 0.0)
        assert found[fanout] == pytest.approx(100 * takes_off * reached, abs=0.5)
        if FULL:
            assert found[fanout] == pytest.approx(published, abs=0.5)  # paper, figure 1


@pytest.mark.claim("rivals.cyclon-under-failure")
def test_after_a_crash_gossip_over_cyclon_reaches_what_theory_says(
    over_cyclon: Figures, record_property: Measured
) -> None:
    record_property("measured", over_cyclon.told())
    for failed, found in over_cyclon.by_crash.items():
        takes_off, reached = theory(4, failed)
        assert mean(found) == pytest.approx(100 * takes_off * reached, abs=2.0), f"{failed:.0%}"
        if FULL:
            assert mean(found) == pytest.approx(PAPER_CYCLON[failed], abs=3.0), f"{failed:.0%}"
        if failed <= 0.5:  # where it is plain which messages took off, each factor on its own
            far = [one for one in found if one > 50 * reached]
            assert mean(far) == pytest.approx(100 * reached, abs=1.5)
            spread = sqrt(takes_off * (1 - takes_off) / len(found))
            assert len(far) / len(found) == pytest.approx(takes_off, abs=3 * spread)


# CyclonAcked


@pytest.mark.claim("rivals.cyclon-acked")
@pytest.mark.parametrize(
    ("failed", "published", "within", "nodes"), [(0.7, 96.8, 2.0, 500), (0.8, 46.4, 12.0, 1000)]
)
def test_receipts_clean_the_views_in_tens_of_messages_at_70_and_in_hundreds_at_80_percent(
    failed: float, published: float, within: float, nodes: int, record_property: Measured
) -> None:
    # The paper's failed push is not repeated elsewhere: its figure 3 climbs over 25 messages. What an
    # epidemic below its threshold cleans is a few views at a time, so at 80 % the messages it takes
    # grow with the village: 1,000 of them for 10,000 nodes are as 100 for 1,000.
    paper = cyclon(CYCLES if FULL else 6, 10_000 if FULL else nodes, acknowledged=True)
    healthy = 100 * mean(paper.reliabilities(4, SOON))
    paper.crash(failed)
    found = [100 * one for one in paper.reliabilities(1000 if FULL else 150, 2 * SOON)]
    far = 0.9 * healthy
    recovered = next((number for number in range(len(found)) if min(found[number:][:5]) > far), -1)
    record_property(
        "measured",
        f"{failed:.0%}: before {healthy:.1f} %, after {mean(found):.1f} % over {len(found)} messages,"
        f" nine tenths of the former from message {recovered + 1} on",
    )
    assert mean(found[:3]) < 50, "at first it is no better than Cyclon"
    assert mean(found[-20:]) == pytest.approx(healthy, abs=3.0), "in the end the dead are gone"
    if FULL:
        assert mean(found) == pytest.approx(published, abs=within)  # paper, figure 2
    elif failed == 0.7:
        assert 3 <= recovered <= 50
    else:
        assert 25 <= recovered <= 140


def test_with_retries_receipts_lose_nothing_from_the_first_message_on() -> None:
    paper = cyclon(6, 300, acknowledged=True, retries=35)
    healthy = mean(paper.reliabilities(3, SOON))
    paper.crash(0.7)
    first, second = paper.reliabilities(2, 4 * SOON)
    assert (first + second) / 2 == pytest.approx(healthy, abs=0.08)


# Scamp


@pytest.fixture(scope="module")
def over_scamp() -> Figures:
    """Random contacts, as in the paper; walks end before the next join; no lease, no heartbeat."""
    nodes = 10_000 if FULL else 500
    scamp = part(
        "scamp", indirection=0, walk_max=2 * nodes, lease=86_400.0, heartbeat_interval=86_400.0,
        isolation=86_400.0,
    )  # fmt: skip
    paper = Paper(
        part("gossip", seen_for=4.0),
        membership=scamp,
        contact="random",
        nodes=nodes,
        cycles=1,
        delay=DELAY,
        spacing=3.0,
    )
    return Figures(paper, MESSAGES if FULL else {0.5: 150, 0.7: 300})


@pytest.mark.claim("rivals.scamp")
def test_scamp_reaches_less_than_cyclon_before_and_after_a_crash(
    over_scamp: Figures, over_cyclon: Figures, record_property: Measured
) -> None:
    sizes = sorted(len(view) for view in over_scamp.views.values())
    inward = over_scamp.in_degrees
    overlay = undirected(over_scamp.views)
    record_property(
        "measured",
        f"view mean {mean(sizes):.1f}, {sizes[0]} to {sizes[-1]}, of (c + 1) ln n ="
        f" {5 * log(len(sizes)):.1f}; in-degree {inward[0]} to {inward[-1]}; path"
        f" {average_path(overlay, Random(1)):.2f}, clustering {clustering(overlay):.4f}; without failures"
        f" {over_scamp.by_fanout[4]:.1f} %; {over_scamp.told()}",
    )
    assert mean(sizes) == pytest.approx(5 * log(len(sizes)), rel=0.25)
    # The views size themselves, but unevenly, which is what gossip pays for.
    other = over_cyclon.in_degrees
    assert pstdev(inward) / mean(inward) > 1.2 * pstdev(other) / mean(other)
    assert over_scamp.by_fanout[4] < over_cyclon.by_fanout[4]
    for fanout, published in ((4, 96.2), (5, 98.3), (6, 99.2)):
        assert over_scamp.by_fanout[fanout] == pytest.approx(published, abs=2.0)  # paper, figure 1
    for failed in (0.5, 0.7):
        assert mean(over_scamp.by_crash[failed]) <= mean(over_cyclon.by_crash[failed]) + 1.0
    assert mean(over_scamp.by_crash[0.7]) < 12  # paper: 4.2
    if FULL:
        assert mean(over_scamp.by_crash[0.5]) == pytest.approx(PAPER_SCAMP[0.5], abs=8.0)


def _random_views(nodes: int, size: int, rng: Random) -> dict[int, list[int]]:
    """Everybody has so many others in view, drawn evenly."""
    everybody: Sequence[int] = range(nodes)
    return {
        node: [other for other in rng.sample(everybody, size + 1) if other != node][:size]
        for node in everybody
    }
