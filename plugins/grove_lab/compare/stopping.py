"""When a comparison has seen enough: a budget of time, or an interval that is narrow enough.

    10m       --budget: no world is finished after ten minutes; what is under way then is given up
    ci=2%     --stop-at: the 95 % interval of the primary metric reaches no further than 2 % either way,
              in every table, from 6 seeds on

Only the first seeds in their order are kept, as many as are whole at every size, so that what is kept
does not depend on which worlds happened to be quick. Under --stop-at alone it follows from the study:
the fewest seeds that are enough, whoever finished first. How narrow an interval is says nothing about
who wins, so looking at it after each seed favours nobody; the test's level holds only nearly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec

from grove_core.errors import GroveError
from grove_lab.compare import statistics as st
from grove_lab.compare.judging import SUCCESS
from grove_lab.compare.pairing import Executor, Outcome, Study, finishing

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Enough(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop. budget: seconds of this machine's time; width: a fraction. None: never for that."""

    budget: float | None = None
    width: float | None = None


class _Spent(Exception):
    """The budget is."""


def seconds(text: str) -> float:
    """``90``, ``90s``, ``10m``, ``1.5h``. Raises ValueError."""
    unit = UNITS.get(text[-1:])
    found = float(text if unit is None else text[:-1]) * (unit or 1.0)
    if not 0.0 < found < math.inf:
        raise ValueError(text)
    return found


def narrowness(text: str) -> float:
    """``ci=2%``: the fraction 0.02. Raises ValueError."""
    name, _, value = text.partition("=")
    if name.strip() != "ci" or not value.endswith("%"):
        raise ValueError(text)
    found = float(value[:-1]) / 100.0
    if not 0.0 < found < 1.0:
        raise ValueError(text)
    return found


def execute_until(
    study: Study,
    executor: Executor,
    enough: Enough,
    *,
    primary: str,
    tell: Callable[[float, int, int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Study, list[Outcome], str]:
    """Run a study until it is enough: (the study of the seeds that count, their outcomes, why it ended).

    The reason is "" if all seeds ran. clock: seconds. Raises GroveError if not even one seed was done.
    """
    ends = math.inf if enough.budget is None else clock() + enough.budget

    def heard(share: float, done: int, cells: int) -> None:
        if clock() >= ends:
            raise _Spent
        if tell is not None:
            tell(share, done, cells)

    whole, looked, reason = 0, 0, ""
    done: dict[tuple[int, int], list[Outcome]] = {}
    is_spent = False
    try:
        for done in finishing(study, executor, heard, is_by_seed=True):
            whole = _whole(study, done, whole)
            if enough.width is not None:
                while looked < whole and not reason:
                    looked += 1
                    if _is_narrow(study, done, looked, primary, enough.width):
                        reason = f"the 95 % interval of {primary} is within ±{100 * enough.width:g} %"
            if reason:
                whole = looked
                break
    except _Spent:
        is_spent = True
        whole = _whole(study, done, whole)
    if is_spent:
        if not whole:
            raise GroveError(
                f"the budget of {enough.budget:g} s was over before one seed was done at every size; "
                "give more, or fewer --nodes"
            )
        reason = f"the budget of {enough.budget:g} s was spent"
    kept = msgspec.structs.replace(study, seeds=study.seeds[:whole])
    outcomes = [one for cell in kept.cells for one in done[cell.nodes, cell.seed]]
    if whole == len(study.seeds):
        return kept, outcomes, ""
    return kept, outcomes, f"after {whole} of {len(study.seeds)} seeds: {reason}"


def _whole(study: Study, done: dict[tuple[int, int], list[Outcome]], at_least: int) -> int:
    """How many of the first seeds are done at every size."""
    found = at_least
    while found < len(study.seeds) and all((n, study.seeds[found]) in done for n in study.sizes):
        found += 1
    return found


def _is_narrow(
    study: Study, done: dict[tuple[int, int], list[Outcome]], count: int, primary: str, width: float
) -> bool:
    """Whether the first `count` seeds place the primary metric well enough in every table."""
    if count < st.LEAST:
        return False
    for nodes in study.sizes:
        runs = [done[nodes, seed] for seed in study.seeds[:count]]
        for number, side in enumerate(study.sides[1:], start=1):
            if side.shift:
                continue  # the control tells the noise; it decides nothing
            pairs = [(one[0], one[number]) for one in runs]
            half = _half(
                [(a.metrics[primary], b.metrics[primary]) for a, b in pairs if _counts(a, b, primary)],
                primary,
            )
            if half is None or half > width:
                return False
    return True


def _counts(a: Outcome, b: Outcome, metric: str) -> bool:
    return not (a.violation or b.violation) and metric in a.metrics and metric in b.metrics


def _half(values: Sequence[tuple[float, float]], metric: str) -> float | None:
    """Half the interval's width, as a fraction: of a ratio, of a success, or of the first side's mean."""
    if len(values) < st.LEAST:
        return None
    if metric not in SUCCESS and all(x > 0.0 and y > 0.0 for x, y in values):
        low, high = st.t_interval([math.log(y / x) for x, y in values])
        return math.expm1((high - low) / 2)
    low, high = st.t_interval([y - x for x, y in values])
    scale = 1.0 if metric in SUCCESS else abs(fmean(x for x, _ in values))
    return (high - low) / 2 / scale if scale else (0.0 if high == low else math.inf)
