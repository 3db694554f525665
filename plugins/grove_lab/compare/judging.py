"""From paired outcomes to rows with a verdict, by `statistics` and the scenario's margin.

The primary metric is the scenario's (`measure.primary`) and stands for itself; all others of
`FAMILY` that were measured are one family under Holm's correction. Which words a row may end with:

    equal       the two one-sided tests place the mean within the margin
    better      (worse; higher and lower where neither is better) p < 0.05 after correction, and the
                whole 99 % interval (of secondary metrics: as many times stricter as there are) lies
                beyond the margin: what is closer was declared not to matter before anything ran
    undecided   neither is shown; says about how many more seeds would decide
    refused     fewer than 6 pairs: the test could not reach p < 0.05 whatever was measured
    no events   zero on both sides, every seed
    identical   the same number on every seed, as where both sides share the protocol behind it

A pair in which a run was stopped by a broken invariant is left out and told: such a table says so first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Literal

import msgspec

from grove_core.errors import GroveError
from grove_lab.compare import statistics as st
from grove_lab.compare.pairing import Outcome, Study
from grove_lab.metrics import UNITS

FAMILY: dict[str, str] = {
    "delivery_ratio": "delivery ratio",
    "latency_p50_ms": "delivery p50 (ms)",
    "latency_p95_ms": "delivery p95 (ms)",
    "latency_p99_ms": "delivery p99 (ms)",
    "latency_p999_ms": "delivery p99.9 (ms)",
    "latency_last_ms": "last node (ms)",
    "bytes_up_per_node_s": "upload/node (B/s)",
    "bytes_up_busiest_node_s": "busiest upload (B/s)",
    "duplicates_per_delivery": "duplicates/delivery",
    "messages_per_delivery": "messages/delivery",
    "recovery_s": "recovery (s)",
    "commit_ratio": "commit ratio",
    "commit_mean_ms": "commit mean (ms)",
    "commit_p50_ms": "commit p50 (ms)",
    "commit_p99_ms": "commit p99 (ms)",
    "commits_per_s": "commits/s",
    "capacity_per_s": "capacity (commits/s)",
    "messages_per_commit": "messages/commit",
    "bytes_per_commit": "bytes/commit",
    "cpu_ms_per_commit": "CPU/commit (ms)",
    "connectivity": "overlay in one piece",
    "degree_sd": "spread of degrees",
    "clustering": "clustering",
    "path_length": "path length (hops)",
    "overflowed": "messages dropped",
    "cpu_ms_per_delivery": "CPU/delivery (ms)",
}
"""Metrics that get a verdict, in the table's order, as people call them. All others are only listed."""

SUCCESS = ("delivery_ratio", "commit_ratio", "connectivity")
"""Fractions that ought to be 1: compared by difference."""

SUCCESS_MARGIN = 0.001
"""Differences of those that count as equal: one in a thousand."""

DEEP = {"latency_p99_ms": 1_000, "commit_p99_ms": 1_000, "latency_p95_ms": 200}
"""Samples a run must have for ten to lie beyond the quantile; with fewer it is not told."""

SENSES = {name: sense for name, (_, sense) in UNITS.items()} | {"cpu_ms_per_delivery": "down"}

Word = Literal[
    "better", "worse", "higher", "lower", "equal", "undecided", "refused", "no events", "identical"
]


class Row(msgspec.Struct, kw_only=True):
    """One metric of two sides. estimate, low, high: ratio b / a, or difference b - a (`is_ratio`).

    a, b: geometric means where a ratio is told, else arithmetic. aa: the interval that A against A in
    other worlds gives (or would give, from A's own spread), in the same units as low and high.
    """

    metric: str
    label: str
    is_primary: bool
    is_ratio: bool
    a: float
    b: float
    values: list[tuple[int, float, float]]  # (seed, a, b)
    estimate: float
    low: float | None
    high: float | None
    bca: tuple[float, float] | None = None
    aa: tuple[float, float] | None = None
    p: float | None = None
    p_adjusted: float | None = None
    dz: float | None = None
    wins: tuple[int, int, int] = (0, 0, 0)
    margin: float = 0.0
    word: Word = "refused"
    needed: int | None = None

    @property
    def is_significant(self) -> bool:
        return self.p_adjusted is not None and self.p_adjusted < st.LEVEL

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if self.word in ("better", "worse", "higher", "lower"):
            return f"{self.word} *"
        if self.word == "equal":
            return f"equal within {_percent(self.margin)}"
        if self.word == "undecided":
            if self.needed is None:
                return "undecided, and too close to wait for"
            return f"undecided: need about {self.needed:,} more seed{'s' if self.needed > 1 else ''}"
        if self.word == "refused":
            return f"no verdict below {st.LEAST} seeds"
        return self.word


class Table(msgspec.Struct, kw_only=True):
    """Two sides at one size. rows: the primary first, then the family; beside: without a verdict."""

    nodes: int
    a: str
    b: str
    primary: str
    pairs: int
    failed: list[tuple[str, int, str]]  # (side, seed, why)
    rows: list[Row]
    beside: list[Row]
    identical: list[str]  # labels of secondary metrics that never differed
    zero: list[str]  # and of those that were 0 throughout
    notes: list[str]
    is_aa_measured: bool = False
    label: str = "virtual"
    """Whose time it is: "virtual", or "live" of real processes, whose intervals are wider and say so."""

    @property
    def interval(self) -> str:
        """What the intervals' column is called."""
        return "95 % interval" if self.label == "virtual" else f"95 % interval, {self.label}"

    @property
    def family(self) -> int:
        """Secondary metrics under Holm's correction."""
        return sum(not row.is_primary and row.p is not None for row in self.rows)

    def row(self, metric: str) -> Row | None:
        return next((row for row in (*self.rows, *self.beside) if row.metric == metric), None)


def judge(
    study: Study, outcomes: Sequence[Outcome], *, primary: str, margin: float, label: str = "virtual"
) -> list[Table]:
    """A table for each size and each side but the baseline, in the study's order.

    margin: of ratios, as a fraction. label: as in the manifest. Runs of a pair in virtual time must have
    met the same publications and faults; raises GroveError if they did not.
    """
    by_key = {(one.side, one.nodes, one.seed): one for one in outcomes}
    base = study.sides[0].label
    again = next((side.label for side in study.sides if side.shift), None)
    tables = []
    for nodes in study.sizes:

        def runs(side: str, nodes: int = nodes) -> list[Outcome]:
            return [by_key[side, nodes, seed] for seed in study.seeds]

        control = list(zip(runs(base), runs(again), strict=True)) if again else None
        for side in study.sides[1:]:
            pairs = list(zip(runs(base), runs(side.label), strict=True))
            if label == "virtual" and not side.shift:
                _same_worlds(pairs)
            table = compare(pairs, primary=primary, margin=margin, control=control)
            table.label = label
            tables.append(table)
    return tables


def _same_worlds(pairs: Sequence[tuple[Outcome, Outcome]]) -> None:
    for a, b in pairs:
        if a.violation or b.violation:
            continue
        if a.metrics.get("published") != b.metrics.get("published") or a.faults != b.faults:
            raise GroveError(
                f"seed {a.seed} is not one world: {a.side} and {b.side} met other publications or "
                "faults, so nothing can be said about either. This is a fault of the lab: report it"
            )


def compare(
    pairs: Sequence[tuple[Outcome, Outcome]],
    *,
    primary: str,
    margin: float,
    control: Sequence[tuple[Outcome, Outcome]] | None = None,
) -> Table:
    """One table from the pairs of one size. control: A with A in other worlds."""
    failed = [(one.side, one.seed, one.violation) for pair in pairs for one in pair if one.violation]
    whole = [(a, b) for a, b in pairs if not a.violation and not b.violation]
    control = [(a, b) for a, b in control or () if not a.violation and not b.violation]
    notes: list[str] = []
    told = [metric for metric in _measured(whole) if _is_deep(metric, whole, notes, primary)]
    if primary not in told:
        known = ", ".join(told) or "nothing"
        notes.append(f"the primary metric {primary} was not measured on every seed (measured: {known})")
    order = sorted(told, key=lambda name: (name != primary, _rank(name)))
    rows: list[Row] = []
    beside: list[Row] = []
    identical: list[str] = []
    zero: list[str] = []
    for metric in order:
        row = _row(metric, whole, control, metric == primary, margin)
        is_same = all(x == y for _, x, y in row.values)
        if metric != primary and is_same:
            (identical if any(x for _, x, _ in row.values) else zero).append(row.label)
        elif metric == primary or metric in FAMILY:
            rows.append(row)
        else:
            beside.append(row)
    _settle(rows)
    a, b = pairs[0]
    return Table(
        nodes=a.nodes,
        a=a.side,
        b=b.side,
        primary=primary,
        pairs=len(whole),
        failed=failed,
        rows=rows,
        beside=beside,
        identical=identical,
        zero=zero,
        notes=notes,
        is_aa_measured=len(control) >= 2,
    )


def _rank(metric: str) -> int:
    names = list(FAMILY)
    return names.index(metric) if metric in FAMILY else len(names)


def _measured(pairs: Sequence[tuple[Outcome, Outcome]]) -> list[str]:
    """Metrics that every run of every pair has, in the order of `metrics.UNITS`."""
    if not pairs:
        return []
    runs = [one.metrics for pair in pairs for one in pair]
    return [name for name in SENSES if name != "published" and all(name in one for one in runs)]


def _is_deep(
    metric: str, pairs: Sequence[tuple[Outcome, Outcome]], notes: list[str], primary: str
) -> bool:
    least = DEEP.get(metric, 0) if metric.startswith("latency") else 0
    fewest = min(one.deliveries for pair in pairs for one in pair)
    if fewest >= least:
        return True
    name = metric.split("_")[1]
    notes.append(f"{name} is not told: a run has {fewest:,} deliveries, {name} takes {least:,}")
    return False


def _row(
    metric: str,
    pairs: Sequence[tuple[Outcome, Outcome]],
    control: Sequence[tuple[Outcome, Outcome]],
    is_primary: bool,
    margin: float,
) -> Row:
    values = [(a.seed, a.metrics[metric], b.metrics[metric]) for a, b in pairs]
    xs, ys = [x for _, x, _ in values], [y for _, _, y in values]
    is_ratio = metric not in SUCCESS and min(*xs, *ys) > 0.0
    ds = [math.log(y / x) if is_ratio else y - x for x, y in zip(xs, ys, strict=True)]
    said: Callable[[float], float] = math.exp if is_ratio else float
    mean = fmean(ds)
    row = Row(
        metric=metric,
        label=FAMILY.get(metric, metric),
        is_primary=is_primary,
        is_ratio=is_ratio,
        a=math.exp(fmean(map(math.log, xs))) if is_ratio else fmean(xs),
        b=math.exp(fmean(map(math.log, ys))) if is_ratio else fmean(ys),
        values=values,
        estimate=said(mean),
        low=None,
        high=None,
        margin=SUCCESS_MARGIN if metric in SUCCESS else margin,
    )
    if len(ds) < 2:
        return row
    low, high = st.t_interval(ds)
    row.low, row.high = said(low), said(high)
    row.wins = st.wins(xs, ys, is_up=SENSES.get(metric) == "up")
    row.dz = st.cohen_dz(ds)
    row.aa = _band(metric, xs, control, is_ratio)
    if len(ds) >= st.LEAST and any(ds):
        row.p = st.sign_flip(ds)
    if len(ds) >= st.BCA_LEAST:
        first, last = st.bca_interval(ds)
        row.bca = (said(first), said(last))
    return row


def _band(
    metric: str,
    xs: Sequence[float],
    control: Sequence[tuple[Outcome, Outcome]],
    is_ratio: bool,
) -> tuple[float, float] | None:
    """The interval of A against A in other worlds; without a control, from the spread of A's own runs."""
    if len(control) >= 2 and all(metric in one.metrics for pair in control for one in pair):
        both = [(a.metrics[metric], b.metrics[metric]) for a, b in control]
        if is_ratio and min(min(pair) for pair in both) <= 0.0:
            return None
        low, high = st.t_interval([math.log(y / x) if is_ratio else y - x for x, y in both])
    else:
        spread = stdev([math.log(x) for x in xs] if is_ratio else xs) * math.sqrt(2.0)
        half = st.t_quantile(1.0 - st.LEVEL / 2.0, len(xs) - 1) * spread / math.sqrt(len(xs))
        low, high = -half, half
    return (math.exp(low), math.exp(high)) if is_ratio else (low, high)


def _settle(rows: Sequence[Row]) -> None:
    """Correct the family, then find each row's word."""
    secondary = [row for row in rows if not row.is_primary and row.p is not None]
    corrected = st.holm([row.p or 0.0 for row in secondary])
    for row, p in zip(secondary, corrected, strict=True):
        row.p_adjusted = p
    for row in rows:
        if row.is_primary:
            row.p_adjusted = row.p
        _word(row, 1 if row.is_primary else len(secondary))


def _word(row: Row, tests: int) -> None:
    values = [(x, y) for _, x, y in row.values]
    ds = [math.log(y / x) if row.is_ratio else y - x for x, y in values]
    margin = _margin(row)
    if not any(x or y for x, y in values):
        row.word = "no events"
    elif not any(ds):
        row.word = "identical"
    elif row.p is None:
        row.word = "refused"
    elif st.equality(ds, margin) < st.LEVEL:
        row.word = "equal"
    else:
        low, high = st.t_interval(ds, st.STRICT / tests)
        mean = fmean(ds)
        if row.is_significant and (low > margin[1] or high < margin[0]):
            row.word = _direction(row.metric, mean > 0.0)
        else:
            row.word = "undecided"
            needed = st.pairs_needed(mean, stdev(ds), margin, tests)
            row.needed = None if needed is None else max(1, needed - len(ds))


def _margin(row: Row) -> tuple[float, float]:
    if row.is_ratio:
        return -math.log1p(row.margin), math.log1p(row.margin)
    half = row.margin if row.metric in SUCCESS else row.margin * abs(row.a)
    return -half, half


def _direction(metric: str, is_more: bool) -> Word:
    sense = SENSES.get(metric, "")
    if not sense:
        return "higher" if is_more else "lower"
    return "better" if is_more == (sense == "up") else "worse"


def _percent(fraction: float) -> str:
    return f"±{100 * fraction:.3g} %"
