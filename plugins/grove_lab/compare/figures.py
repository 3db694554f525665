"""Pictures of a comparison, drawn by the lab's own SVG writer.

    forest      every ratio with its interval, over the grey band that A against A gives
    delivery    time to delivery: each side's median curve, every seed a thin line
    boxes       the same by region of the receiver, or seed by seed in worlds without regions
    trade       what it costs against what it gives, a dot per seed, an arrow from A to B
    series      traffic over time, the middle of the seeds and their range, faults where they struck
    shape       how far messages went, and how many neighbours nodes have
    scaling     how the primary metric and the cost grow with the world, both axes by powers of ten

Each function gives one self-contained SVG, or None where a comparison has nothing for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from statistics import median

from grove_lab.compare.headline import bare, short_names
from grove_lab.compare.judging import Row, Table
from grove_lab.compare.pairing import GRID, Outcome, Study
from grove_lab.compare.table import change
from grove_lab.metrics import BOX
from grove_lab.pictures.svg import COLOURS, PALE, Plot, page, stacked, text
from grove_lab.pictures.svg import GRID as LINE

A, B = COLOURS[0], COLOURS[1]
BAND = "#9aa5b1"
WIDTH = 720.0
MARKS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 2, 5,
    10, 20, 50, 100, 200, 500, 1000,
)  # fmt: skip
REACH = 6.0
"""Ratios beyond this, or below its inverse, are shown as arrows at the edge."""

SEEDS = 24
"""Seeds that get a box of their own."""

HALF, TALL = 560.0, 340.0
"""Width and height of a figure of which two stand side by side in a report."""

WORDS = {"better": "#009E73", "worse": "#b84a00"}


def draw(study: Study, outcomes: Sequence[Outcome], tables: Sequence[Table]) -> dict[str, str]:
    """Every figure there is something for: name of the file without its ending -> SVG.

    Where there are several tables, the name ends with the table's number, from 1. Of the A/A control
    only the forest is drawn: all else would show one protocol twice.
    """
    found: dict[str, str | None] = {}
    by_side: dict[tuple[str, int], list[Outcome]] = {}
    for one in outcomes:
        by_side.setdefault((one.side, one.nodes), []).append(one)
    controls = [side.label for side in study.sides if side.shift]
    for number, table in enumerate(tables, start=1):
        tail = f"-{number}" if len(tables) > 1 else ""
        found[f"forest{tail}"] = forest(table)
        if table.b in controls:
            continue
        a, b = by_side[table.a, table.nodes], by_side[table.b, table.nodes]
        found[f"delivery{tail}"] = delivery(a, b)
        found[f"boxes{tail}"] = boxes(a, b)
        found[f"trade{tail}"] = trade(table)
        found[f"series{tail}"] = series(a, b)
        found[f"shape{tail}"] = shape(a, b)
    if len(study.sizes) > 1:
        found["scaling"] = scaling(study, by_side, tables[0].primary)
    return {name: svg for name, svg in found.items() if svg is not None}


def forest(table: Table) -> str | None:
    """Ratios and their intervals on one axis, by powers."""
    rows = [row for row in table.rows if row.is_ratio and row.low is not None and row.high is not None]
    if not rows:
        return None
    a, b = short_names(table.a, table.b)
    ends = [end for row in rows for end in (row.low, row.high, *(row.aa or ())) if end is not None]
    low = max(min(*ends, 1 / 1.08) / 1.02, 1 / REACH)
    high = min(max(*ends, 1.08) * 1.02, REACH)
    left, right, top, step = 200.0, WIDTH - 150, 84.0, 34.0
    bottom = top + step * len(rows)

    def x(ratio: float) -> float:
        inside = min(max(ratio, low), high)
        return left + (right - left) * math.log(inside / low) / math.log(high / low)

    body = [
        text(24, 26, f"{b} as a multiple of {a}", size=16, weight="bold"),
        text(24, 45, _who(table) + f" · ratios, each with its {table.interval}", colour=PALE),
    ]
    taken: list[float] = []
    for mark in sorted((one for one in MARKS if low <= one <= high), key=_plainness):
        if all(abs(x(mark) - other) > 34 for other in taken):
            taken.append(x(mark))
            body.append(f"<path d='M{x(mark):.1f} {top:.1f}V{bottom:.1f}' stroke='{LINE}'/>")
            body.append(text(x(mark), bottom + 18, f"{mark:g}×", size=11, anchor="middle", colour=PALE))
    body.append(f"<path d='M{x(1):.1f} {top - 8:.1f}V{bottom:.1f}' stroke='{PALE}' stroke-width='1.4'/>")
    for number, row in enumerate(rows):
        body += _interval(row, top + step * (number + 0.5), x, right)
    key = x(1) if x(1) < right - 150 else right - 150
    body.append(
        f"<rect x='{key:.1f}' y='{top - 22:.1f}' width='14' height='9' fill='{BAND}' opacity='.35'/>"
    )
    how = "measured" if table.is_aa_measured else "its own spread"
    body.append(text(key + 20, top - 13, f"A against A ({how})", size=11, colour=PALE))
    less, more = text(left, bottom + 38, "◂ less", size=11, colour=PALE), ""
    more = text(right, bottom + 38, "more ▸", size=11, anchor="end", colour=PALE)
    return page(WIDTH, bottom + 52, [*body, less, more])


def _interval(row: Row, y: float, x: Callable[[float], float], right: float) -> list[str]:
    assert row.low is not None
    assert row.high is not None
    colour = WORDS.get(row.word, PALE)
    weight = "bold" if row.is_primary else "normal"
    body = [text(24, y + 4, bare(row), size=12.5, weight=weight)]
    if row.aa is not None:
        first, last = x(row.aa[0]), x(row.aa[1])
        body.append(
            f"<rect x='{first:.1f}' y='{y - 10:.1f}' width='{max(last - first, 1):.1f}' height='20' "
            f"fill='{BAND}' opacity='.35'><title>A against A</title></rect>"
        )
    at, start, end = x(row.estimate), x(row.low), x(row.high)
    said = f"{change(row, row.estimate)} [{change(row, row.low)}, {change(row, row.high)}]"
    if 1 / REACH < row.estimate < REACH:
        size = 10 if row.is_primary else 7
        whisker = f"M{start:.1f} {y:.1f}H{end:.1f}M{start:.1f} {y - 5:.1f}v10M{end:.1f} {y - 5:.1f}v10"
        body.append(
            f"<path d='{whisker}' stroke='{colour}' stroke-width='2' fill='none'>"
            f"<title>{said}</title></path>"
            f"<rect x='{at - size / 2:.1f}' y='{y - size / 2:.1f}' width='{size}' height='{size}' "
            f"fill='{colour}' transform='rotate(45 {at:.1f} {y:.1f})'><title>{said}</title></rect>"
        )
    else:
        back = 9 if row.estimate > 1 else -9
        body.append(
            f"<path d='M{at - back:.1f} {y - 6:.1f}L{at:.1f} {y:.1f}L{at - back:.1f} {y + 6:.1f}' "
            f"stroke='{colour}' stroke-width='2.4' fill='none'><title>{said}</title></path>"
        )
    body.append(text(right + 14, y + 4, f"{change(row, row.estimate)}×", size=12, weight=weight))
    body.append(text(right + 72, y + 4, row.word, size=11, colour=colour))
    return body


def _plainness(mark: float) -> tuple[int, float]:
    """1 first, then powers of ten, then the rest from the middle outwards."""
    power = math.log10(mark)
    return (0 if mark == 1 else 1 if power == round(power) else 2, abs(power))


def delivery(a: Sequence[Outcome], b: Sequence[Outcome]) -> str | None:
    """Distributions of the time to delivery."""
    both = [[one for one in side if one.quantiles] for side in (a, b)]
    if not all(both):
        return None
    # To the 99th percentile of the usual seed: a single slow one must not squeeze all others.
    reach = 1.1e3 * max(median(one.quantiles[-1 - GRID // 100] for one in side) for side in both)
    plot = Plot(
        "Time from publishing to delivery", (0, reach * 1.08), (0, 1), subtitle=_seeds(a),
        x_label="milliseconds", y_label="share of deliveries", percent=True, width=HALF, height=TALL,
    )  # fmt: skip
    for side, colour, label in zip(both, (A, B), short_names(a[0].side, b[0].side), strict=True):
        for one in side:
            mark = len(plot.body)
            plot.line(_curve([1e3 * q for q in one.quantiles], reach), colour, width=0.8)
            plot.body[mark:] = [faint(path, 0.35) for path in plot.body[mark:]]
        middle = [1e3 * median(one.quantiles[i] for one in side) for i in range(GRID + 1)]
        plot.line(_curve(middle, reach), colour, width=2.6, label=label)
    plot.legend()
    return plot.svg()


def _curve(values: Sequence[float], reach: float) -> list[tuple[float, float]]:
    return [(value, i / GRID) for i, value in enumerate(values) if value <= reach * 1.08]


def boxes(a: Sequence[Outcome], b: Sequence[Outcome]) -> str | None:
    """Boxes of the time to delivery, A and B beside each other."""
    both, x_label = _by_region(a, b), "region of the receiver"
    if not both:
        both, x_label = _by_seed(a, b), "seed"
    if not both:
        return None
    top = max(ends[-1] for pair in both.values() for ends in pair)
    plot = Plot(
        "Time to delivery, " + ("by region" if "region" in x_label else "seed by seed"),
        (0, len(both)), (0, top * 1.08), subtitle=_seeds(a), x_label=x_label, y_label="milliseconds",
        width=HALF, height=TALL, x_marks=False,
    )  # fmt: skip
    room = (plot.right - plot.left) / len(both)
    wide = min(0.3 * room, 16.0)
    for place, (name, pair) in enumerate(both.items()):
        middle = plot.left + room * (place + 0.5)
        for ends, colour, shift in zip(pair, (A, B), (-0.6, 0.6), strict=True):
            plot.body.append(
                _box(middle + shift * wide, wide, [plot.y(end) for end in ends], colour, name)
            )
        lines = name.split() if room < 90 else [name]
        for row, word in enumerate(lines):
            plot.over.append(
                text(middle, plot.bottom + 16 + 11 * row, word, size=10, anchor="middle", colour=PALE)
            )
    plot.labels += list(zip(short_names(a[0].side, b[0].side), (A, B), strict=True))
    plot.legend()
    return plot.svg()


Ends = list[float]
"""Milliseconds at each quantile of `metrics.BOX`, ascending."""


def _by_region(a: Sequence[Outcome], b: Sequence[Outcome]) -> dict[str, tuple[Ends, Ends]]:
    """The median over seeds of each quantile, of regions where both sides delivered on some seed."""
    found = {}
    for name in dict.fromkeys(name for one in (*a, *b) for name in one.regions):
        sides = [[one.regions[name] for one in side if name in one.regions] for side in (a, b)]
        if all(sides):
            first, second = ([1e3 * median(q) for q in zip(*side, strict=True)] for side in sides)
            found[name.replace("_", " ")] = (first, second)
    return found if len(found) > 1 else {}


def _by_seed(a: Sequence[Outcome], b: Sequence[Outcome]) -> dict[str, tuple[Ends, Ends]]:
    """The first `SEEDS` seeds on which both sides delivered."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x.quantiles and y.quantiles]
    return {
        str(x.seed): (_ends(x.quantiles), _ends(y.quantiles))
        for x, y in pairs[:SEEDS]
    }  # fmt: skip


def _ends(quantiles: Sequence[float]) -> Ends:
    return [1e3 * quantiles[round(q * GRID)] for q in BOX]


def _box(x: float, wide: float, ends: Sequence[float], colour: str, name: str) -> str:
    """A box about x with whiskers. ends: in the picture, from the lowest whisker up."""
    low, first, middle, third, high = ends
    half = wide / 2
    return (
        f"<path d='M{x:.1f} {low:.1f}V{first:.1f}M{x:.1f} {third:.1f}V{high:.1f}"
        f"M{x - half / 2:.1f} {low:.1f}h{half:.1f}M{x - half / 2:.1f} {high:.1f}h{half:.1f}' "
        f"stroke='{colour}' fill='none' stroke-width='1.2'/>"
        f"<rect x='{x - half:.1f}' y='{third:.1f}' width='{wide:.1f}' "
        f"height='{max(first - third, 0.5):.1f}' fill='{colour}' fill-opacity='.3' stroke='{colour}'>"
        f"<title>{escape(name)}</title></rect>"
        f"<path d='M{x - half:.1f} {middle:.1f}h{wide:.1f}' stroke='{colour}' stroke-width='2.6'/>"
    )


def trade(table: Table) -> str | None:
    """The primary metric against what it costs; nothing where they are one."""
    gain = table.row(table.primary)
    price = table.row("bytes_up_per_node_s")
    if gain is None or price is None or gain is price:
        return None
    points = {seed: (x, y) for seed, x, y in gain.values}
    spent = {seed: (x, y) for seed, x, y in price.values}
    values = [value for pair in points.values() for value in pair]
    costs = [value for pair in spent.values() for value in pair]
    plot = Plot(
        "What it gives and what it costs", (0, max(costs) * 1.1), (0, max(values) * 1.15),
        subtitle=_who(table) + " · an arrow per seed", x_label=price.label, y_label=gain.label,
        width=HALF, height=TALL,
    )  # fmt: skip
    for seed, (x, y) in points.items():
        (cost_a, cost_b) = spent[seed]
        plot.body.append(_arrow(plot.x(cost_a), plot.y(x), plot.x(cost_b), plot.y(y)))
    a, b = short_names(table.a, table.b)
    plot.dots([(spent[seed][0], x) for seed, (x, _) in points.items()], A, radius=4)
    plot.dots([(spent[seed][1], y) for seed, (_, y) in points.items()], B, radius=4)
    plot.labels += [(a, A), (b, B)]
    plot.legend()
    return plot.svg()


def _arrow(xa: float, ya: float, xb: float, yb: float) -> str:
    """A faint line with a head near its end."""
    far = math.hypot(xb - xa, yb - ya)
    if far < 14:
        return ""
    ux, uy = (xb - xa) / far, (yb - ya) / far
    tx, ty = xb - 7 * ux, yb - 7 * uy
    head = (
        f"M{tx - 6 * ux - 3 * uy:.1f} {ty - 6 * uy + 3 * ux:.1f}L{tx:.1f} {ty:.1f}"
        f"L{tx - 6 * ux + 3 * uy:.1f} {ty - 6 * uy - 3 * ux:.1f}"
    )
    return (
        f"<path d='M{xa:.1f} {ya:.1f}L{tx:.1f} {ty:.1f}{head}' stroke='{PALE}' fill='none' opacity='.5'/>"
    )


def series(a: Sequence[Outcome], b: Sequence[Outcome]) -> str | None:
    """Traffic, and deliveries, over time."""
    if not all(len(one.series) > 1 for one in (*a, *b)):
        return None
    end = max(point.at for one in (*a, *b) for point in one.series)
    names = short_names(a[0].side, b[0].side)
    plots = []
    for title, what, y_label in (
        ("Traffic over time", "bytes", "B/s per node"),
        ("Deliveries over time", "delivered", "per node and second"),
    ):
        curves = [_bands(side, what) for side in (a, b)]
        top = max((high for curve in curves for _, _, _, high in curve), default=0.0)
        if not top:
            continue
        plot = Plot(
            title, (0, end), (0, top * 1.1), subtitle=f"{_seeds(a)} · median and range of seeds",
            x_label="seconds after settling", y_label=y_label, width=HALF, height=230,
        )  # fmt: skip
        for curve, colour, name in zip(curves, (A, B), names, strict=True):
            plot.body.append(_ribbon(plot, curve, colour))
            plot.line([(at, middle) for at, _, middle, _ in curve], colour, label=name)
        for level, (at, said) in enumerate(a[0].faults[:8]):
            if at <= end:
                plot.upright(at, said, level=level % 4)
        plot.legend()
        plots.append(plot)
    return stacked(plots) if plots else None


def _bands(side: Sequence[Outcome], what: str) -> list[tuple[float, float, float, float]]:
    """(time, least, median, most) over the seeds, per second and node, slice by slice."""
    found: list[tuple[float, float, float, float]] = []
    for points in zip(*(one.series for one in side), strict=False):
        at = points[0].at
        gap = at - (found[-1][0] if found else 0.0)
        rates = [getattr(point, what) / max(gap, 1e-9) / side[0].nodes for point in points]
        found.append((at, min(rates), median(rates), max(rates)))
    return found


def _ribbon(plot: Plot, curve: Sequence[tuple[float, float, float, float]], colour: str) -> str:
    there = "L".join(f"{plot.x(at):.1f} {plot.y(high):.1f}" for at, _, _, high in curve)
    back = "L".join(f"{plot.x(at):.1f} {plot.y(low):.1f}" for at, low, _, _ in reversed(curve))
    return f"<path d='M{there}L{back}Z' fill='{colour}' opacity='.18'/>"


def shape(a: Sequence[Outcome], b: Sequence[Outcome]) -> str | None:
    """How far messages went and how many neighbours nodes have."""
    plots = [
        _bars(a, b, "hops", "Links a message crossed to get there", "hops", "share of deliveries"),
        _bars(a, b, "degrees", "Neighbours of a node, at the end", "neighbours", "share of nodes"),
    ]
    drawn = [plot for plot in plots if plot is not None]
    return stacked(drawn) if drawn else None


def _bars(
    a: Sequence[Outcome], b: Sequence[Outcome], what: str, title: str, x_label: str, y_label: str
) -> Plot | None:
    """Bars of A and B beside each other, all seeds together."""
    both = [_pooled(getattr(one, what) for one in side) for side in (a, b)]
    if not all(both):
        return None
    shares = [{at: count / sum(one.values()) for at, count in one.items()} for one in both]
    kept = [at for one in shares for at, share in one.items() if share >= 0.0005]
    low, high = min(kept), max(kept)
    top = max(max(one.values()) for one in shares)
    plot = Plot(
        title, (low - 0.6, high + 0.6), (0, min(1.0, top * 1.12)), subtitle=_seeds(a), x_label=x_label,
        y_label=y_label, percent=True, width=HALF, height=230,
    )  # fmt: skip
    for one, colour, shift in zip(shares, (A, B), (-0.4, 0.0), strict=True):
        for at, share in one.items():
            if low <= at <= high:
                plot.bar(at + shift + 0.02, at + shift + 0.38, share, colour)
    plot.labels += list(zip(short_names(a[0].side, b[0].side), (A, B), strict=True))
    plot.legend()
    return plot


def _pooled(counts: Iterable[Mapping[int, int]]) -> Counter[int]:
    total: Counter[int] = Counter()
    for one in counts:
        total.update(one)
    return total


def scaling(
    study: Study, by_side: Mapping[tuple[str, int], Sequence[Outcome]], primary: str
) -> str | None:
    """A metric against the number of nodes, by powers of ten; a dot per run, a line through medians."""
    plots = []
    for metric in dict.fromkeys((primary, "bytes_up_per_node_s")):
        found = {
            side.label: [
                (nodes, one.metrics[metric])
                for nodes in study.sizes
                for one in by_side[side.label, nodes]
                if one.metrics.get(metric, 0.0) > 0.0
            ]
            for side in study.sides
        }
        values = [value for points in found.values() for _, value in points]
        if not values:
            continue
        plot = Plot(
            f"{metric} by size", (min(study.sizes), max(study.sizes)), (min(values), max(values)),
            x_label="nodes", y_label=metric, log_x=True, log_y=True, height=340,
            subtitle=f"{study.scenario} · {len(study.seeds)} seeds each",
        )  # fmt: skip
        for (label, points), colour in zip(found.items(), COLOURS, strict=False):
            plot.dots([(float(nodes), value) for nodes, value in points], colour, radius=2.2)
            line = []
            for nodes in study.sizes:
                here = [value for size, value in points if size == nodes]
                if here:
                    line.append((float(nodes), median(here)))
            plot.line(line, colour, label=label)
        plot.legend()
        plots.append(plot)
    return stacked(plots) if plots else None


def faint(path: str, opacity: float) -> str:
    return path.replace("<path ", f"<path opacity='{opacity:g}' ", 1)


def _who(table: Table) -> str:
    return f"{table.nodes:,} nodes · {table.pairs} paired seeds"


def _seeds(runs: Sequence[Outcome]) -> str:
    return f"{runs[0].nodes:,} nodes · {len(runs)} seeds"
