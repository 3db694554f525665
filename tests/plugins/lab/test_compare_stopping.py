"""When enough was seen: whole seeds in their order, whoever finished first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from grove_lab.compare.pairing import (
    Cell,
    Executor,
    Outcome,
    Study,
    Tell,
    Working,
    execute,
    here,
    in_processes,
    plan,
)
from grove_lab.compare.statistics import t_interval
from grove_lab.compare.stopping import Enough, execute_until, narrowness, seconds

from grove_core.errors import GroveError

SMALL = Path(__file__).with_name("small.toml")
CHOICES = ["broadcast=plumtree", "broadcast=flood"]
PRIMARY = "latency_p95_ms"


def study(seeds: int, sizes: Sequence[int] = (8,)) -> Study:
    return plan(SMALL, CHOICES, seeds=range(1, seeds + 1), sizes=sizes)


def figure(nodes: int, seed: int, side: int) -> float:
    """10 % between the sides, 5 % from seed to seed, 3 % of its own."""
    rng = Random(f"{nodes}/{seed}")
    common = 100.0 * math.exp(rng.gauss(0.0, 0.05))
    return common * (1.1 if side else 1.0) * math.exp(Random(f"{nodes}/{seed}/{side}").gauss(0.0, 0.03))


def played(order: Random | None = None, ran: list[Cell] | None = None, among: int = 1000) -> Executor:
    """An executor that measures `figure`, so many cells at a time in a drawn order."""

    def executor(cells: Sequence[Cell], tell: Tell) -> Working:
        todo = list(cells)
        if order is not None:
            blocks = [todo[at : at + among] for at in range(0, len(todo), among)]
            todo = [cell for block in blocks for cell in order.sample(block, len(block))]
        for cell in todo:
            if ran is not None:
                ran.append(cell)
            yield cell, [
                Outcome(
                    side=side.label, nodes=cell.nodes, seed=cell.seed, digest="", events=0,
                    deliveries=9999, metrics={PRIMARY: figure(cell.nodes, cell.seed, number)},
                )
                for number, side in enumerate(cell.study.sides)
            ]  # fmt: skip

    return executor


def half(count: int, nodes: int = 8) -> float:
    """Of the interval of the first seeds, as the report would tell it."""
    low, high = t_interval(
        [math.log(figure(nodes, n, 1) / figure(nodes, n, 0)) for n in range(1, count + 1)]
    )
    return math.expm1((high - low) / 2)


@pytest.mark.claim("compare.stops")
def test_the_fewest_seeds_that_are_enough_count_whoever_finished_first() -> None:
    """Every order of finishing gives the same seeds: the first so many that make the interval narrow."""
    width = 0.02
    wanted = next(n for n in range(6, 60) if half(n) <= width)
    assert 6 < wanted < 40
    for seed in range(8):
        kept, outcomes, why = execute_until(
            study(60), played(Random(seed)), Enough(width=width), primary=PRIMARY
        )
        assert kept.seeds == tuple(range(1, wanted + 1)), f"seed {seed}"
        assert [one.seed for one in outcomes] == [n for n in kept.seeds for _ in range(2)]
        assert why == f"after {wanted} of 60 seeds: the 95 % interval of {PRIMARY} is within ±2 %"


def test_every_size_must_be_narrow() -> None:
    width = 0.02
    wanted = next(n for n in range(6, 60) if half(n) <= width and half(n, 12) <= width)
    kept, outcomes, _ = execute_until(study(60, (8, 12)), played(), Enough(width=width), primary=PRIMARY)
    assert len(kept.seeds) == wanted
    assert len(outcomes) == 2 * 2 * wanted


def test_there_is_no_stopping_below_six_seeds_and_none_that_is_never_narrow() -> None:
    kept, _, _ = execute_until(study(20), played(), Enough(width=0.9), primary=PRIMARY)
    assert len(kept.seeds) == 6
    ran: list[Cell] = []
    kept, _, why = execute_until(study(12), played(ran=ran), Enough(width=1e-6), primary=PRIMARY)
    assert (len(kept.seeds), len(ran), why) == (12, 12, "")


def test_what_was_stopped_runs_no_further() -> None:
    ran: list[Cell] = []
    execute_until(study(50), played(ran=ran), Enough(width=0.9), primary=PRIMARY)
    assert len(ran) == 6


@pytest.mark.claim("compare.stops")
def test_a_spent_budget_keeps_the_first_seeds_that_are_whole() -> None:
    """The clock goes one second per look; seeds that finished behind a gap do not count."""
    now = iter(range(10**6))
    asked = study(40, (8, 12))
    kept, outcomes, why = execute_until(
        asked,
        played(Random(3), among=9),
        Enough(budget=60.0),
        primary=PRIMARY,
        clock=lambda: float(next(now)),
    )
    assert 0 < len(kept.seeds) < 40
    assert kept.seeds == asked.seeds[: len(kept.seeds)]
    assert len(outcomes) == 2 * 2 * len(kept.seeds)
    assert why == f"after {len(kept.seeds)} of 40 seeds: the budget of 60 s was spent"


def test_a_budget_that_lets_nothing_finish_is_an_error_not_an_empty_table() -> None:
    now = iter(range(10**6))
    with pytest.raises(GroveError, match="was over before one seed was done"):
        execute_until(
            study(3), here, Enough(budget=0.5), primary=PRIMARY, clock=lambda: float(next(now))
        )  # fmt: skip


def test_without_a_limit_everything_runs_as_it_would() -> None:
    asked = study(3)
    kept, outcomes, why = execute_until(asked, here, Enough(), primary=PRIMARY)
    assert (kept, why) == (asked, "")
    assert [one.digest for one in outcomes] == [one.digest for one in execute(asked, here)]


def test_real_workers_are_called_off() -> None:
    """In processes, with a budget that is over at the second look: what is under way is given up."""
    looks = iter((0.0, 0.0))
    with pytest.raises(GroveError, match="before one seed was done"):
        execute_until(
            plan(SMALL, CHOICES, seeds=range(1, 5), sizes=[64], sets=["duration=2000"]),
            in_processes(1), Enough(budget=1.0), primary=PRIMARY, clock=lambda: next(looks, 99.0),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0)]
)
def test_budgets_are_times(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "m", "-1m", "0", "nan", "inf", "ten", "1e999"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        seconds(text)


def test_narrowness_is_a_share_of_the_interval() -> None:
    assert narrowness("ci=2%") == pytest.approx(0.02)
    for text in ("2%", "ci=2", "ci=0%", "ci=100%", "ci=nan%", "dz=2%", "ci=%"):
        with pytest.raises(ValueError, match=r".*"):
            narrowness(text)
