"""Verdicts: which word a row ends with, from outcomes made up for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from grove_lab.compare import headline, judging
from grove_lab.compare.judging import Row, Table
from grove_lab.compare.pairing import Outcome, Study, plan
from grove_lab.compare.table import cells_of, footnotes

from grove_core.errors import GroveError


def outcome(side: str, seed: int, violation: str = "", **metrics: float) -> Outcome:
    return Outcome(
        side=side, nodes=10, seed=seed, metrics={"published": 5.0, **metrics}, digest=f"{side}{seed}",
        events=1, deliveries=5000, violation=violation,
    )  # fmt: skip


def table(metric: str, pairs: Sequence[tuple[float, float]], margin: float = 0.03) -> Table:
    made = [
        (outcome("a", seed, **{metric: x}), outcome("b", seed, **{metric: y}))
        for seed, (x, y) in enumerate(pairs)
    ]
    return judging.compare(made, primary=metric, margin=margin)


def only(metric: str, pairs: Sequence[tuple[float, float]], margin: float = 0.03) -> Row:
    (row,) = table(metric, pairs, margin).rows
    return row


def noisy(ratio: float, spread: float, count: int, seed: int = 1) -> list[tuple[float, float]]:
    rng = Random(seed)
    return [(x := rng.uniform(90, 110), x * ratio * rng.lognormvariate(0, spread)) for _ in range(count)]


def test_a_clear_difference_is_better_or_worse_by_the_sense_of_the_metric() -> None:
    assert only("latency_p99_ms", noisy(0.7, 0.02, 8)).word == "better"
    assert only("latency_p99_ms", noisy(1.4, 0.02, 8)).word == "worse"
    assert only("commits_per_s", noisy(1.4, 0.02, 8)).word == "better"
    assert only("degree_mean", noisy(1.4, 0.02, 8)).word == "higher"


def test_the_estimate_is_the_geometric_mean_ratio_with_a_paired_interval() -> None:
    row = only("latency_p99_ms", [(100, 50), (10, 20), (7, 7), (3, 6), (5, 2.5), (8, 8)])
    assert row.estimate == pytest.approx(1.0)
    assert row.is_ratio
    assert row.low is not None
    assert row.high is not None
    assert row.low * row.high == pytest.approx(1.0)
    assert row.wins == (2, 2, 2)


@pytest.mark.claim("compare.refuses")
def test_below_six_seeds_there_is_no_verdict_however_clear_the_figures() -> None:
    five = only("latency_p99_ms", noisy(0.1, 0.001, 5))
    assert five.word == "refused"
    assert five.verdict == "no verdict below 6 seeds"
    assert five.p is None
    assert five.low is not None  # figures are shown all the same
    assert only("latency_p99_ms", noisy(0.1, 0.001, 6)).word == "better"


def test_equal_needs_proof_not_absence_of_proof() -> None:
    assert only("latency_p99_ms", noisy(1.005, 0.005, 8)).word == "equal"
    assert only("latency_p99_ms", noisy(1.005, 0.2, 8)).word == "undecided"


def test_a_difference_within_the_margin_is_equal_even_if_it_is_significant() -> None:
    row = only("latency_p99_ms", noisy(1.01, 0.001, 12))
    assert row.is_significant
    assert row.verdict == "equal within ±3 %"


def test_a_significant_difference_that_may_not_matter_is_undecided() -> None:
    """Its interval leaves zero, and reaches into the margin."""
    row = only("latency_p99_ms", noisy(1.04, 0.02, 10, seed=2))
    assert row.is_significant
    assert row.low is not None
    assert 1.0 < row.low < 1.03
    assert row.word == "undecided"


def test_undecided_says_how_many_seeds_more() -> None:
    row = only("latency_p99_ms", noisy(1.15, 0.3, 8, seed=4))
    assert row.word == "undecided"
    assert row.needed is not None
    assert row.verdict == f"undecided: need about {row.needed:,} more seeds"


def test_fractions_that_ought_to_be_one_are_compared_by_difference() -> None:
    row = only("delivery_ratio", [(0.9990 + i * 1e-5, 0.9992 + i * 1e-5) for i in range(8)])
    assert not row.is_ratio
    assert row.estimate == pytest.approx(0.0002)
    assert row.verdict == "equal within ±0.1 %"
    assert only("delivery_ratio", [(0.9 + i * 1e-4, 0.99 + i * 2e-4) for i in range(8)]).word == "better"


def test_metrics_that_touch_zero_are_compared_by_difference() -> None:
    row = only("recovery_s", [(0.0, 4.0 + 0.1 * i) for i in range(8)])
    assert not row.is_ratio
    assert row.word == "worse"


def test_nothing_seen_on_either_side_is_no_events() -> None:
    row = only("recovery_s", [(0.0, 0.0)] * 8)
    assert cells_of(row)[2:] == ("-", "-", "-", "no events")


def test_secondary_metrics_are_corrected_and_the_primary_is_not() -> None:
    """Eight pairs give p = 2/256 at best: enough for the primary, not for one of eight by Holm."""
    names = [
        "latency_p99_ms", "latency_p50_ms", "latency_p95_ms", "latency_last_ms", "bytes_up_per_node_s",
        "bytes_up_busiest_node_s", "duplicates_per_delivery", "messages_per_delivery", "clustering",
    ]  # fmt: skip
    pairs = [
        (
            outcome("a", i, **dict.fromkeys(names, 10.0 + i)),
            outcome("b", i, **dict.fromkeys(names, 5.0 + i)),
        )
        for i in range(8)
    ]
    found = judging.compare(pairs, primary="latency_p99_ms", margin=0.03)
    assert found.family == 8
    primary, *others = found.rows
    assert primary.p_adjusted == primary.p == 2 / 256
    assert primary.word == "better"
    for row in others:
        assert row.p_adjusted == pytest.approx(8 * 2 / 256)
        assert row.word == "undecided"
        assert row.needed == 1  # nine pairs: 8 * 2/512 < 0.05


def test_what_never_differs_takes_no_place_in_the_family() -> None:
    pairs = [
        (
            outcome("a", i, latency_p50_ms=9.0 + i, connectivity=1.0, overflowed=0.0),
            outcome("b", i, latency_p50_ms=5.0 + i, connectivity=1.0, overflowed=0.0),
        )
        for i in range(6)
    ]
    found = judging.compare(pairs, primary="latency_p50_ms", margin=0.03)
    assert [row.metric for row in found.rows] == ["latency_p50_ms"]
    assert found.identical == ["overlay in one piece"]
    assert found.zero == ["messages dropped"]


def test_a_run_that_broke_an_invariant_is_left_out_and_told_first() -> None:
    pairs = [
        (outcome("a", i, latency_p50_ms=9.0 + i), outcome("b", i, latency_p50_ms=5.0 + i))
        for i in range(8)
    ]
    pairs[3] = (pairs[3][0], outcome("b", 3, violation="delivered twice at t = 4 s"))
    found = judging.compare(pairs, primary="latency_p50_ms", margin=0.03)
    assert found.failed == [("b", 3, "delivered twice at t = 4 s")]
    assert found.pairs == 7
    assert "1 run broke an invariant" in headline.finding(found)
    assert any("1 failed" in note for note in footnotes(found))


def test_a_quantile_is_told_only_where_ten_samples_lie_beyond_it() -> None:
    pairs = [
        (outcome("a", i, latency_p99_ms=9.0 + i), outcome("b", i, latency_p99_ms=5.0 + i))
        for i in range(6)
    ]
    pairs[2][1].deliveries = 999
    found = judging.compare(pairs, primary="latency_p99_ms", margin=0.03)
    assert found.rows == []
    assert "p99 is not told: a run has 999 deliveries, p99 takes 1,000" in found.notes
    assert headline.finding(found) == "latency_p99_ms was not measured, so nothing is claimed."


@pytest.fixture
def study() -> Study:
    small = Path(__file__).with_name("small.toml")
    return plan(small, ["broadcast=plumtree", "broadcast=flood"], seeds=range(1, 7))


def test_pairs_of_different_worlds_are_an_error_not_a_result(study: Study) -> None:
    labels = [side.label for side in study.sides]
    runs = [outcome(label, seed, latency_p95_ms=5.0 + seed) for seed in study.seeds for label in labels]
    for one in runs:
        one.nodes = 16
    assert judging.judge(study, runs, primary="latency_p95_ms", margin=0.03)
    runs[3].metrics["published"] = 8.0
    with pytest.raises(GroveError, match="seed 2 is not one world"):
        judging.judge(study, runs, primary="latency_p95_ms", margin=0.03)


@pytest.mark.claim("compare.regime")
def test_no_headline_comes_without_its_regime(study: Study) -> None:
    found = table("latency_p95_ms", noisy(0.5, 0.01, 8))
    found.nodes, found.b = 16, "broadcast=flood"
    told = headline.headline(study, found)
    for part in ("small", "16 nodes", "links of 10-50 ms", "100 B × 10/s", "no faults", "8 paired seeds"):
        assert part in told
    assert "50 % lower delivery p95" in told


def test_a_gain_is_not_told_without_its_price() -> None:
    def found(cost: float, count: int) -> str:
        pairs = [
            (
                outcome("broadcast=plumtree", i, latency_p99_ms=x, bytes_up_per_node_s=100.0 + i),
                outcome("broadcast=flood", i, latency_p99_ms=y, bytes_up_per_node_s=cost * (100.0 + i)),
            )
            for i, (x, y) in enumerate(noisy(0.65, 0.01, count))
        ]
        return headline.finding(judging.compare(pairs, primary="latency_p99_ms", margin=0.03))

    assert found(2.9, 8) == "flood has 35 % lower delivery p99 than plumtree, for 2.9× the upload."
