"""A space-time diagram (Lamport 1978): a line down per node, time downwards, an arrow per message.

The steeper an arrow, the longer the message was under way. Arrows that carry the publication the picture
is about are drawn strong, and strongest those by which it came to the last; all others are faint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grove_lab.flights import Flight, Way
from grove_lab.pictures.svg import COLOURS, GRID, INK, PALE, page, text, ticks

WIDE, TALL = 560.0, 440.0
LEFT, TOP = 64.0, 104.0
MOST = 16
"""Lines of the widest diagram: beyond, arrows hide each other."""

NAMED = 24
"""Arrows of which each still gets its message's name beside it; of more, only the strongest."""


def spacetime(
    title: str,
    subtitle: str,  # one line or two
    nodes: Sequence[int],
    flights: Sequence[Flight],
    *,
    since: float,
    until: float,
    way: Way | None = None,
    marks: Mapping[int, str] | None = None,
    end: str = "",
) -> str:
    """The diagram of at most `MOST` nodes between two times (virtual seconds), as an SVG.

    way: how the message it is about came to the last. marks: a word under a node's number. end: what
    happened at the lower edge, drawn as a line of its own.
    """
    nodes = list(nodes)[:MOST]
    gap = (WIDE - LEFT - 40) / max(len(nodes), 1)
    column = {node: LEFT + gap * (place + 0.5) for place, node in enumerate(nodes)}
    bottom = TALL - 62
    span = max(until - since, 1e-9)

    def y(at: float) -> float:
        return TOP + (bottom - TOP) * (min(max(at, since), until) - since) / span

    body = [text(24, 26, title, size=16, weight="bold")]
    body += [text(24, 45 + 16 * row, said, colour=PALE) for row, said in enumerate(subtitle.split("\n"))]
    for mark in ticks(0.0, 1e3 * span, 8):
        at = y(since + mark / 1e3)
        body.append(f"<path d='M{LEFT - 6:.1f} {at:.1f}H{WIDE - 24:.1f}' stroke='{GRID}'/>")
        body.append(text(LEFT - 10, at + 4, f"{mark:g}", size=11, anchor="end", colour=PALE))
    body.append(text(18, (TOP + bottom) / 2, "milliseconds", anchor="middle", turn=-90))
    for node, x in column.items():
        body.append(f"<path d='M{x:.1f} {TOP:.1f}V{bottom:.1f}' stroke='{PALE}' opacity='.55'/>")
        body.append(text(x, TOP - 22, str(node), size=12, anchor="middle", weight="bold"))
        body.append(text(x, TOP - 8, (marks or {}).get(node, ""), size=10, anchor="middle", colour=PALE))
    shown = [one for one in flights if one.source in column and one.target in column]
    shown = [one for one in shown if one.came >= since and one.sent <= until]
    steps = _steps(way, shown)
    rank = [_rank(place, one, way, steps) for place, one in enumerate(shown)]
    for level, colour, width, opacity in _INKS:
        for one, its in zip(shown, rank, strict=True):
            if its == level:
                body.append(_arrow(one, column, y, colour, width, opacity))
                if level == 2 or len(shown) <= NAMED:
                    body.append(_name(one, column, y))
    for node, when in way.nodes if way else ():
        if node in column:
            body.append(
                f"<circle cx='{column[node]:.1f}' cy='{y(when):.1f}' r='4.5' fill='{COLOURS[1]}' "
                f"stroke='white' stroke-width='1.5'><title>node {node} has it after "
                f"{1e3 * (when - since):.1f} ms</title></circle>"
            )
    if end:
        body.append(f"<path d='M{LEFT:.1f} {bottom:.1f}H{WIDE - 24:.1f}' stroke='{COLOURS[1]}'/>")
        body.append(text(LEFT, bottom + 16, end, size=11, colour=COLOURS[1]))
    return page(WIDE, TALL, [*body, *_legend(way is not None)])


_INKS = ((0, PALE, 0.9, 0.4), (1, COLOURS[0], 1.3, 0.75), (2, COLOURS[1], 2.4, 1.0))
"""Per rank of an arrow: its colour, width and opacity; drawn in this order."""


def _steps(way: Way | None, flights: Sequence[Flight]) -> frozenset[int]:
    """The flights by which the message came to the last, by their place in the list.

    A node has a message when its processor is done with it, which may be after it came: each step is
    the newest flight that had come by then.
    """
    found = []
    for (source, _), (target, when) in zip(way.nodes, way.nodes[1:], strict=False) if way else ():
        there = [
            (one.came, place)
            for place, one in enumerate(flights)
            if (one.source, one.target) == (source, target)
            and one.came <= when
            and way is not None
            and way.payload in one.payloads
        ]
        if there:
            found.append(max(there)[1])
    return frozenset(found)


def _rank(place: int, one: Flight, way: Way | None, steps: frozenset[int]) -> int:
    """2: on the way; 1: carries the message, or a payload where there is no way; 0: all else."""
    if place in steps:
        return 2
    return int(way.payload in one.payloads if way is not None else bool(one.payloads))


def _arrow(
    one: Flight, column: Mapping[int, float], y: object, colour: str, width: float, opacity: float
) -> str:
    assert callable(y)
    xa, xb, ya, yb = column[one.source], column[one.target], y(one.sent), y(one.came)
    far = max(((xb - xa) ** 2 + (yb - ya) ** 2) ** 0.5, 1e-6)
    ux, uy = (xb - xa) / far, (yb - ya) / far
    head = (
        f"M{xb - 8 * ux - 3.2 * uy:.1f} {yb - 8 * uy + 3.2 * ux:.1f}L{xb:.1f} {yb:.1f}"
        f"L{xb - 8 * ux + 3.2 * uy:.1f} {yb - 8 * uy - 3.2 * ux:.1f}"
    )
    said = f"{one.kind}, {one.source} to {one.target}, {1e3 * (one.came - one.sent):.1f} ms"
    return (
        f"<path d='M{xa:.1f} {ya:.1f}L{xb:.1f} {yb:.1f}{head}' stroke='{colour}' fill='none' "
        f"stroke-width='{width:g}' opacity='{opacity:g}'><title>{said}</title></path>"
    )


def _name(one: Flight, column: Mapping[int, float], y: object) -> str:
    assert callable(y)
    x = 0.6 * column[one.source] + 0.4 * column[one.target]
    at = 0.6 * y(one.sent) + 0.4 * y(one.came)
    return text(x, at - 4, one.kind, size=9.5, anchor="middle", colour=INK)


def _legend(is_way: bool) -> list[str]:
    words = ["all else", "carries it" if is_way else "carries a payload"]
    words += ["its way to the last"] if is_way else []
    found, x, at = [], LEFT, TALL - 18
    for said, (_, colour, width, opacity) in zip(words, _INKS, strict=False):
        found.append(
            f"<path d='M{x:.1f} {at - 4:.1f}h18' stroke='{colour}' stroke-width='{width + 0.6:g}' "
            f"opacity='{opacity:g}'/>"
        )
        found.append(text(x + 24, at, said, size=11))
        x += 44 + 6.6 * len(said)
    return found
