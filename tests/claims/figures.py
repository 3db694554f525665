"""The papers' curves and ours, each pair in one figure: docs/figures/.

The paper's are dashed, ours are drawn through, with bars from the least to the greatest seed. Where
the sources have no points for a curve of theirs, or we have not measured it, only the other is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from grove_lab.pictures.svg import COLOURS, Plot

from tests.claims.store import ROOT, Kept
from tests.sim import published

FIGURES = ROOT / "docs" / "figures"

Points = Sequence[tuple[float, float]]


class Curve(NamedTuple):
    """One of ours: (x, mean, least, greatest of the seeds)."""

    name: str
    points: list[tuple[float, float, float, float]]


def measured(kept: Kept) -> dict[str, dict[str, Curve]]:
    """Figure -> name -> what the tests told last."""
    found: dict[str, dict[str, Curve]] = {}
    for part in kept.values():
        for test in part["tests"].values():
            for told in test.get("curves", ()):
                curve = Curve(told["name"], [tuple(row) for row in told["points"]])
                found.setdefault(told["figure"], {})[told["name"]] = curve
    return found


def draw(kept: Kept) -> list[tuple[str, str]]:
    """Write every figure that has something of ours; (file name, caption) of each."""
    ours = measured(kept)
    FIGURES.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (caption, paint) in PAINTED.items():
        if name in ours:
            (FIGURES / f"{name}.svg").write_text(paint(ours[name]).svg())
            drawn.append((f"{name}.svg", caption))
    return drawn


def _curves(plot: Plot, names: Iterable[str], theirs: dict[str, Points], ours: dict[str, Curve]) -> Plot:
    """Both kinds of curve, one colour a name."""
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        if name in theirs:
            plot.line(theirs[name], colour, dashed=True, width=1.5)
            plot.dots(theirs[name], colour, radius=2)
        if name in ours:
            rows = ours[name].points
            plot.line([(x, middle) for x, middle, _, _ in rows], colour)
            plot.dots([(x, middle) for x, middle, _, _ in rows], colour)
            for x, _, least, most in rows:
                plot.line([(x, least), (x, most)], colour, width=1)
        if name in theirs or name in ours:
            plot.labels.append((name, colour))
    plot.legend()
    return plot


SAID = "dashed: the paper; through: Grove, mean and range over the seeds"


def _fanout(ours: dict[str, Curve]) -> Plot:
    plot = Plot(
        "Reliability without failures", (4, 6), (94, 100), x_label="fanout", y_label="%", subtitle=SAID,
        height=340, top=84,
    )  # fmt: skip
    theirs: dict[str, Points] = {name: list(points.items()) for name, points in published.FANOUT.items()}
    return _curves(plot, ("Cyclon", "Scamp"), theirs, ours)


def _reliability(ours: dict[str, Curve]) -> Plot:
    plot = Plot(
        "Reliability after a crash", (10, 95), (0, 100), x_label="% of the nodes that crashed at once",
        y_label="% of the living reached", subtitle=SAID, top=84,
    )  # fmt: skip
    theirs = {
        name: [(100 * failed, value) for failed, value in zip(published.FAILED, row, strict=True)]
        for name, row in published.RELIABILITY.items()
    }
    return _curves(plot, theirs, dict(theirs), ours)


def _recovery(ours: dict[str, Curve]) -> Plot:
    plot = Plot(
        "HyParView: successive messages after a crash", (1, 20), (0, 100), x_label="message",
        y_label="% of the living reached", subtitle=SAID, top=84,
    )  # fmt: skip
    theirs = {f"{failed:.0%}": _counted(row) for failed, row in published.RECOVERY.items()}
    return _curves(plot, theirs, dict(theirs), ours)


def _healing(ours: dict[str, Curve]) -> Plot:
    plot = Plot(
        "Cycles until the former reliability is back", (10, 90), (1, 200), log_y=True,
        x_label="% of the nodes that crashed at once", y_label="cycles", subtitle=SAID, top=84,
    )  # fmt: skip
    theirs = {
        name: [(100 * failed, value) for failed, value in zip(published.FAILED, row, strict=False)]
        for name, row in published.HEALING.items()
    }
    return _curves(plot, theirs, dict(theirs), ours)


def _tree_forms(ours: dict[str, Curve]) -> Plot:
    plot = Plot(
        "Plumtree: the tree forms", (1, 5), (0, 3), x_label="broadcast", y_label="redundancy (RMR)",
        subtitle=SAID, height=340, top=84,
    )  # fmt: skip
    theirs = {
        "overlay that still fills": _counted(published.TREE_FORMS["Plumtree"]),
        "flood": _counted(published.TREE_FORMS["Eager"]),
    }
    return _curves(plot, ("overlay that still fills", "flood", "once it is stable"), theirs, ours)


def _tree_heals(ours: dict[str, Curve]) -> Plot:
    plot = Plot(
        "Plumtree: redundancy after a crash", (1, 6), (0, 3), x_label="cycle",
        y_label="redundancy (RMR)", subtitle=SAID + "; the paper's from cycle 2 on: upper bounds",
        height=340, top=84,
    )  # fmt: skip
    theirs = {f"{failed:.0%}": _counted(row) for failed, row in published.TREE_HEALS.items()}
    return _curves(plot, theirs, dict(theirs), ours)


def _last_hop(ours: dict[str, Curve]) -> Plot:
    plot = Plot(
        "Last hop of a broadcast", (0, 80), (0, 60), x_label="% of the nodes that crashed at once",
        y_label="hops", subtitle=SAID + ", links of equal time", height=440, top=84, width=860,
    )  # fmt: skip
    theirs = {
        name: [(100 * failed, hops) for failed, hops in zip(published.LAST_HOP_FAILED, row, strict=True)]
        for name, row in published.LAST_HOP.items()
    }
    return _curves(plot, theirs, dict(theirs), ours)


def _counted(row: Sequence[float]) -> Points:
    return [(number + 1, value) for number, value in enumerate(row)]


PAINTED: dict[str, tuple[str, Callable[[dict[str, Curve]], Plot]]] = {
    "hyparview-1": ("HyParView, figure 1: what fanout buys its rivals.", _fanout),
    "hyparview-2": (
        "HyParView, figure 2: mean reliability after a crash, before any cycle.",
        _reliability,
    ),
    "hyparview-3": ("HyParView, figure 3: the messages after a crash, one by one.", _recovery),
    "hyparview-4": ("HyParView, figure 4: cycles to heal.", _healing),
    "plumtree-rmr": ("Plumtree, figure 2b: payloads beyond the necessary.", _tree_forms),
    "plumtree-mass-failure": ("Plumtree, figure 5: the same after a crash.", _tree_heals),
    "plumtree-last-hop": (
        "Plumtree, figures 2c and 4. The paper's many senders (59) follow the order of its simulator's"
        " events, not time (gossip.md 2.6).",
        _last_hop,
    ),
}
"""Figure -> (caption, painter)."""
