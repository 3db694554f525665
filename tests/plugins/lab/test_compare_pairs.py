"""Paired runs: one world for all sides, planted differences found, none found where there is none."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import msgspec
import pytest
from grove_lab.compare import pairing
from grove_lab.compare.judging import compare, judge
from grove_lab.compare.pairing import Outcome, execute, here, in_processes, plan

from grove_core.errors import ConfigError, GroveError

SMALL = Path(__file__).with_name("small.toml")
FULL = bool(os.environ.get("GROVE_FULL"))
PLUMTREE, FLOOD = "broadcast=plumtree", "broadcast=flood"


def bare(outcomes: list[Outcome]) -> list[Outcome]:
    """Without the seconds of this machine."""
    return [msgspec.structs.replace(one, cpu_s=0.0, wall_s=0.0) for one in outcomes]


def test_sides_of_a_seed_meet_the_same_links_publications_and_crashes() -> None:
    quake = ["faults.quake.kind=crash", "faults.quake.share=0.2", "faults.quake.at=3"]
    study = plan(SMALL, [PLUMTREE, FLOOD], seeds=[3, 4], sets=quake)
    a3, b3, a4, _ = execute(study, here)
    assert a3.metrics["published"] == b3.metrics["published"]
    assert a3.faults == b3.faults
    assert a3.faults
    assert a3.degrees == b3.degrees  # the same overlay: it draws from streams of its own
    assert a3.digest != a4.digest


def test_outcomes_come_in_order_and_the_same_from_any_number_of_workers() -> None:
    study = plan(SMALL, [PLUMTREE, FLOOD], seeds=[5, 2, 9], sizes=[8, 12])
    told: list[float] = []
    alone = execute(study, here, lambda share, done, cells: told.append(share))
    assert [(one.nodes, one.seed, one.side) for one in alone] == [
        (nodes, seed, side) for nodes in (8, 12) for seed in (5, 2, 9) for side in (PLUMTREE, FLOOD)
    ]
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert bare(execute(study, in_processes(2))) == bare(alone)


def test_who_runs_first_in_a_world_changes_nothing() -> None:
    study = plan(SMALL, [PLUMTREE, FLOOD], seeds=[1, 2])
    first, second = study.cells
    assert (first.turn, second.turn) == (0, 1)
    turned = msgspec.structs.replace(second, turn=0)
    assert bare(pairing.run_cell(second, lambda *_: None)) == bare(
        pairing.run_cell(turned, lambda *_: None)
    )


@pytest.mark.claim("compare.finds")
def test_a_planted_difference_is_found() -> None:
    """Flooding sends each payload over every link: some three copies too many, and it is faster."""
    study = plan(SMALL, [PLUMTREE, FLOOD], seeds=range(1, 13))
    (table,) = judge(study, execute(study, here), primary="latency_p95_ms", margin=0.03)
    words = {row.metric: row.word for row in table.rows}
    assert words["latency_p95_ms"] == "better"
    assert words["bytes_up_per_node_s"] == "worse"
    assert words["duplicates_per_delivery"] == "worse"
    duplicates = table.row("duplicates_per_delivery")
    assert duplicates is not None
    assert duplicates.b > 2.0
    assert table.failed == []


@pytest.mark.claim("compare.aa")
def test_a_against_a_is_equal_or_undecided_in_95_of_100(record_property: pytest.RecordProperty) -> None:
    """100 comparisons of a protocol with itself in other worlds; every row of the table counts.

    Scaled: the pairs are drawn from 96 runs of 16 nodes. GROVE_FULL: 100 nodes, fresh seeds for each.
    """
    pairs, comparisons = 8, 100
    if FULL:
        sizes, seeds = [100], range(1, 2 * pairs * comparisons + 1)
        sets = ["duration=20", "join.settle=20", "workloads.talk.rate=5"]
    else:
        sizes, seeds, sets = [16], range(1, 97), []
    study = plan(SMALL, [PLUMTREE], seeds=seeds, sizes=sizes, sets=sets, is_aa=True)
    study = msgspec.structs.replace(study, sides=study.sides[:1])
    runs = execute(study, in_processes(2) if FULL else here)
    seed = 20_261_122
    rng = Random(seed)
    wrong: list[str] = []
    for number in range(comparisons):
        start = 2 * pairs * number
        chosen = runs[start : start + 2 * pairs] if FULL else rng.sample(runs, 2 * pairs)
        found = compare(
            list(zip(chosen[:pairs], chosen[pairs:], strict=True)), primary="latency_p95_ms", margin=0.03
        )
        said = [f"{row.label} {row.word}" for row in found.rows if row.word in ("better", "worse")]
        wrong += [f"comparison {number}: {', '.join(said)}"] if said else []
    record_property("measured", f"{comparisons - len(wrong)} of {comparisons}")
    assert len(wrong) <= 5, f"seed {seed}: {wrong}"


def test_the_control_runs_the_baseline_under_seeds_of_its_own() -> None:
    study = plan(SMALL, [PLUMTREE], seeds=[4, 5, 6], sizes=[8], is_aa=True)
    base, again = study.sides
    assert (base.choice, again.choice) == (PLUMTREE, PLUMTREE)
    seeds = {seed + side.shift for seed in study.seeds for side in study.sides}
    assert len(seeds) == 6
    alone, other = execute(plan(SMALL, [PLUMTREE], seeds=[4], sizes=[8], is_aa=True), here)
    assert alone.digest != other.digest


def test_invariants_that_a_comparison_measures_do_not_stop_it() -> None:
    """With 60 % lost for good, delivery falls; the run goes on and says by how much."""
    sets = [
        "invariants.delivery=0.5",
        "faults.quake.kind=crash",
        "faults.quake.share=0.6",
        "faults.quake.at=3",
    ]
    study = plan(SMALL, [PLUMTREE, FLOOD], seeds=[1], sets=sets[1:])
    assert "invariants.delivery=0" in study.sets
    assert [one.violation for one in execute(study, here)] == ["", ""]


@pytest.mark.parametrize(
    ("choices", "options", "text"),
    [
        ([PLUMTREE], {}, "nothing to compare with"),
        ([PLUMTREE, PLUMTREE], {}, "called the same"),
        ([PLUMTREE, FLOOD], {"seeds": [1, 1]}, "given twice"),
        ([PLUMTREE, "broadcast=plumtre"], {}, "plumtre"),
        ([PLUMTREE, "shouting=flood"], {}, "role"),
        ([PLUMTREE, FLOOD], {"sets": ["network.latncy=constant"]}, "latncy"),
        (
            [PLUMTREE, "membership=cyclon+broadcast=plumtree"],
            {},
            "'plumtree' needs 'links', which no chosen plugin provides; plugin 'hyparview' .* 'pool' ",
        ),
        ([PLUMTREE, "membership=scamp+broadcast=gossipsub"], {}, "'gossipsub' needs 'links'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    choices: list[str], options: dict[str, list[str]], text: str
) -> None:
    with pytest.raises(GroveError, match=text):
        plan(SMALL, choices, **{"seeds": [1, 2], **options})  # type: ignore[arg-type]


def test_a_profile_file_is_recorded_and_runs_after_it_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "simulation"\n[roles]\nbroadcast = "flood"\n')
    study = plan(SMALL, [PLUMTREE, str(file)], seeds=[1], sizes=[8])
    assert study.sides[1].label == "mine"
    before = execute(study, here)
    file.write_text("this is no TOML")
    assert bare(execute(study, here)) == bare(before)
    file.unlink()
    assert bare(execute(study, here)) == bare(before)
    with pytest.raises(ConfigError):
        plan(SMALL, [PLUMTREE, str(file)], seeds=[1])
