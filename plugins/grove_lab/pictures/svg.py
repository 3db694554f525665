"""Drawing without a library: axes, curves, bars and labels as SVG text.

A `Plot` has a title, two axes and marks in data units; `svg()` gives one self-contained file that
opens anywhere and stays sharp in print. Colours are those of Okabe and Ito, told apart by all eyes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, PALE, GRID = "#222222", "#767676", "#e4e4e4"
HALO = " stroke='white' stroke-width='3' paint-order='stroke'"
FONT = "font-family='Inter,Helvetica,Arial,sans-serif'"


def text(
    x: float, y: float, said: str, *, size: float = 12, anchor: str = "start", colour: str = INK,
    weight: str = "normal", turn: float = 0,
) -> str:  # fmt: skip
    """A line of text; turn: degrees about its anchor."""
    turned = f" transform='rotate({turn:g} {x:.1f} {y:.1f})'" if turn else ""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size:g}' text-anchor='{anchor}' fill='{colour}' "
        f"font-weight='{weight}'{'' if colour == 'white' else HALO}{turned}>{escape(said)}</text>"
    )


def page(width: float, height: float, body: Sequence[str]) -> str:
    """A whole file."""
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' "
        f"width='{width:g}' height='{height:g}' {FONT}>"
        f"<rect width='100%' height='100%' fill='white'/>{''.join(body)}</svg>\n"
    )


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from low to high, at 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * k, 12) for k in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten around a range, low > 0."""
    return [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def short(value: float) -> str:
    """A tick's label: 12, 0.05, 4 k, 2 M."""
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            unit = {" G": 1e9, " M": 1e6, " k": 1e3}[suffix]
            return f"{value / unit:.4g}{suffix}"
    return f"{value:.4g}"


class Scale:
    """Data to picture along one axis. log: by powers of ten."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        if log:
            marks = decades(low, high)
            low, high = marks[0], marks[-1]
            if low == high:
                high = 10 * low
        elif not high > low:
            high = low + 1
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log10(max(value, self.low) / self.low) / math.log10(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def marks(self) -> list[float]:
        return decades(self.low, self.high) if self.log else ticks(self.low, self.high)


class Plot:
    """Two axes and what stands between them. x, y: (low, high) in data units.

    x_marks: ticks and numbers on the x axis; without them, who draws puts words there.
    """

    def __init__(
        self, title: str, x: tuple[float, float], y: tuple[float, float], *, x_label: str, y_label: str,
        subtitle: str = "", log_x: bool = False, log_y: bool = False, width: float = 720,
        height: float = 400, percent: bool = False, top: float = 64,
        x_marks: bool = True,
    ) -> None:  # fmt: skip
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 72.0, width - 24, top, height - 56
        self.x = Scale(*x, self.left, self.right, log=log_x)
        self.y = Scale(*y, self.bottom, self.top, log=log_y)
        self.body: list[str] = []
        self.over: list[str] = []
        self.labels: list[tuple[str, str]] = []
        self._frame(title, subtitle, x_label, y_label, percent, x_marks)

    def _frame(
        self, title: str, subtitle: str, x_label: str, y_label: str, percent: bool, x_marks: bool
    ) -> None:
        draw = self.body.append
        draw(text(self.left, 26, title, size=16, weight="bold"))
        if subtitle:
            draw(text(self.left, 45, subtitle, colour=PALE))
        for mark in self.y.marks:
            y = self.y(mark)
            draw(f"<path d='M{self.left:.1f} {y:.1f}H{self.right:.1f}' stroke='{GRID}'/>")
            said = f"{100 * mark:g} %" if percent else short(mark)
            draw(text(self.left - 8, y + 4, said, size=11, anchor="end", colour=PALE))
        for mark in self.x.marks if x_marks else ():
            x = self.x(mark)
            draw(f"<path d='M{x:.1f} {self.bottom:.1f}v5' stroke='{PALE}'/>")
            draw(text(x, self.bottom + 18, short(mark), size=11, anchor="middle", colour=PALE))
        draw(f"<path d='M{self.left:.1f} {self.bottom:.1f}H{self.right:.1f}' stroke='{PALE}'/>")
        draw(text((self.left + self.right) / 2, self.height - 14, x_label, anchor="middle"))
        middle = (self.top + self.bottom) / 2
        draw(text(18, middle, y_label, anchor="middle", turn=-90))

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, *, label: str = "", width: float = 2,
        dashed: bool = False, stairs: bool = False,
    ) -> None:  # fmt: skip
        """A curve; stairs: values hold until the next point."""
        if not points:
            return
        path, before = [], None
        for a, b in points:
            x, y = self.x(a), self.y(b)
            if before is None:
                path.append(f"M{x:.1f} {y:.1f}")
            elif stairs:
                path.append(f"H{x:.1f}V{y:.1f}")
            else:
                path.append(f"L{x:.1f} {y:.1f}")
            before = y
        dash = " stroke-dasharray='5 4'" if dashed else ""
        self.body.append(
            f"<path d='{''.join(path)}' fill='none' stroke='{colour}' stroke-width='{width:g}' "
            f"stroke-linejoin='round'{dash}/>"
        )
        if label:
            self.labels.append((label, colour))

    def area(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """What lies between a curve and the bottom, faintly."""
        if points:
            first, last = self.x(points[0][0]), self.x(points[-1][0])
            path = "".join(f"L{self.x(a):.1f} {self.y(b):.1f}" for a, b in points)
            bottom = f"{self.bottom:.1f}"
            self.body.append(
                f"<path d='M{first:.1f} {bottom}{path}L{last:.1f} {bottom}Z' fill='{colour}' "
                "opacity='.12'/>"
            )

    def dots(self, points: Sequence[tuple[float, float]], colour: str, *, radius: float = 3) -> None:
        self.body += [
            f"<circle cx='{self.x(a):.1f}' cy='{self.y(b):.1f}' r='{radius:g}' fill='{colour}'/>"
            for a, b in points
        ]

    def bar(self, low: float, high: float, value: float, colour: str, label: str = "") -> None:
        """A bar from low to high on the x axis."""
        x, end, y = self.x(low), self.x(high), self.y(value)
        self.body.append(
            f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(end - x, 0.5):.1f}' "
            f"height='{max(self.bottom - y, 0):.1f}' fill='{colour}'/>"
        )
        if label:
            self.over.append(text((x + end) / 2, y - 5, label, size=10, anchor="middle", colour=PALE))

    def upright(
        self, at: float, label: str, colour: str = PALE, level: int = 0, *, low: bool = False
    ) -> None:
        """A dashed vertical with a word at its top, or low; level: lines inwards, where words collide."""
        x = self.x(at)
        self.over.append(
            f"<path d='M{x:.1f} {self.top:.1f}V{self.bottom:.1f}' stroke='{colour}' "
            "stroke-dasharray='3 3'/>"
        )
        late = x > self.right - 160
        height = self.bottom - 10 - 14 * level if low else self.top + 11 + 14 * level
        self.over.append(
            text(
                x + (-5 if late else 5), height, label, size=10.5,
                anchor="end" if late else "start", colour=colour,
            )
        )  # fmt: skip

    def legend(self, x: float | None = None, y: float | None = None) -> None:
        """The labels of the curves, at the right end above the axes unless told where."""
        widths = [26 + 6.6 * len(label) for label, _ in self.labels]
        x = self.right - sum(widths) if x is None else x
        y = self.top - 10 if y is None else y
        for (label, colour), width in zip(self.labels, widths, strict=True):
            self.over.append(f"<path d='M{x:.1f} {y - 4:.1f}h14' stroke='{colour}' stroke-width='3'/>")
            self.over.append(text(x + 18, y, label, size=11))
            x += width

    def svg(self) -> str:
        return page(self.width, self.height, [*self.body, *self.over])


def stacked(plots: Sequence[Plot]) -> str:
    """Several plots below each other in one file."""
    body, y = [], 0.0
    for plot in plots:
        body.append(f"<g transform='translate(0 {y:g})'>{''.join(plot.body + plot.over)}</g>")
        y += plot.height
    return page(max(plot.width for plot in plots), y, body)
