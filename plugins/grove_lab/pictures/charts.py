"""Curves and bars about a run: how long delivery took, over how many links, what faults did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grove_lab.metrics import quantile
from grove_lab.pictures.svg import COLOURS, PALE, Plot, stacked
from grove_lab.run import Run

BLUE, ORANGE, GREEN = COLOURS[:3]
STEPS = 400
"""Points of a distribution's curve: more cannot be seen."""


def distribution(values: Sequence[float], steps: int = STEPS) -> list[tuple[float, float]]:
    """The empirical distribution function of ascending values, at most so many points."""
    count = len(values)
    picks = sorted({round(k * (count - 1) / steps) for k in range(steps + 1)})
    return [(values[at], (at + 1) / count) for at in picks]


def delivery(one: Run, subtitle: str) -> str:
    """What share of deliveries had happened how long after publishing."""
    values = sorted(1e3 * value for value in one.samples)
    reach = max(quantile(values, 0.999), 1e-3)
    plot = Plot(
        "Time from publishing to delivery", (0, reach * 1.05), (0, 1), subtitle=subtitle,
        x_label="milliseconds", y_label="share of deliveries", percent=True,
    )  # fmt: skip
    curve = distribution([value for value in values if value <= reach * 1.05])
    plot.area(curve, BLUE)
    plot.line(curve, BLUE)
    for level, (name, q) in enumerate((("p50", 0.5), ("p95", 0.95), ("p99", 0.99))):
        value = quantile(values, q)
        plot.upright(value, f"{name} {value:,.0f} ms", level=level, low=True)
    return plot.svg()


def histogram(counts: Mapping[int, int], title: str, subtitle: str, *, x_label: str, y_label: str) -> str:
    """A bar per whole number, or per so many where there are many."""
    low, high = min(counts), max(counts)
    step = max(1, -(-(high - low + 1) // 60))
    total = sum(counts.values())
    bins: dict[int, int] = {}
    for value, count in counts.items():
        at = low + (value - low) // step * step
        bins[at] = bins.get(at, 0) + count
    top = max(bins.values()) / total
    plot = Plot(
        title, (low - 0.75, high + step - 0.25), (0, top * 1.12), subtitle=subtitle, x_label=x_label,
        y_label=y_label, percent=True,
    )  # fmt: skip
    for at, count in sorted(bins.items()):
        share = count / total
        said = ("<0.1 %" if share < 0.001 else f"{100 * share:.1f} %") if len(bins) <= 16 else ""
        plot.bar(at - 0.4, at + step - 0.6, share, BLUE, said)
    return plot.svg()


def hops(one: Run, subtitle: str) -> str:
    return histogram(
        one.hops, "Links a message crossed to get there", subtitle, x_label="hops",
        y_label="share of deliveries",
    )  # fmt: skip


def degrees(one: Run, subtitle: str) -> str:
    return histogram(
        one.degrees, "Neighbours of a node, at the end", subtitle, x_label="living neighbours",
        y_label="share of nodes",
    )  # fmt: skip


def series(one: Run, subtitle: str) -> str:
    """Delivery, living nodes and traffic over time, with faults where they struck."""
    end = max(point.at for point in one.series)
    plots = []
    ratios = [(m.published, m.delivered / m.expected) for m in one.messages if m.expected]
    if ratios:
        low = min(0.9, *(ratio for _, ratio in ratios))
        floor = 0.9 if low >= 0.9 else 0.5 if low >= 0.5 else 0.0
        plot = Plot(
            "Delivery of each message", (0, end), (floor, 1.0), subtitle=subtitle,
            x_label="seconds after settling", y_label="share of receivers", percent=True, height=260,
        )  # fmt: skip
        plot.dots(ratios, BLUE, radius=2.4)
        plots.append(plot)
    lasts = [(m.published, 1e3 * m.last) for m in one.messages if m.delivered]
    if lasts:
        top = max(last for _, last in lasts)
        plot = Plot(
            "Time until the last node had it", (0, end), (0, top * 1.05), x_label="",
            y_label="milliseconds", height=220, top=44,
        )  # fmt: skip
        plot.dots(lasts, GREEN, radius=2.4)
        plots.append(plot)
    most = max(point.alive for point in one.series)
    least = min(point.alive for point in one.series)
    if least < most:
        plot = Plot(
            "Living nodes", (0, end), (0, most * 1.05), x_label="", y_label="nodes", height=200, top=44
        )
        plot.line([(point.at, float(point.alive)) for point in one.series], ORANGE, stairs=True)
        plots.append(plot)
    if any(point.bytes for point in one.series):
        rates, before = [], 0.0
        for point in one.series:
            gap = point.at - before
            if gap > 0:
                rates.append((point.at, point.bytes / gap / one.nodes))
            before = point.at
        plot = Plot(
            "Traffic", (0, end), (0, max(rate for _, rate in rates) * 1.05),
            x_label="seconds after settling", y_label="bytes/s per node", height=220, top=44,
        )  # fmt: skip
        plot.area(rates, PALE)
        plot.line(rates, COLOURS[6], width=1.4)
        plots.append(plot)
    for number, plot in enumerate(plots):
        for level, (at, what) in enumerate(one.faults[:12]):
            if at <= end:
                plot.upright(at, what if number == 0 else "", ORANGE, level % 4)
    return stacked(plots)
