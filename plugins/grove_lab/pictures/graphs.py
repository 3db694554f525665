"""Small worlds as drawings: who is whose neighbour, and the way one message took.

The overlay is laid out by forces (Fruchterman and Reingold, 1991) from a circle, without chance, so
equal overlays give equal pictures. The tree is radial: a ring per hop, each node in its parent's
share of the circle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from grove_lab.pictures.svg import COLOURS, GRID, INK, PALE, page, text

SIZE = 720.0
DRAWN = 250
"""Nodes of the largest world that is drawn: beyond, lines hide each other."""

Edge = tuple[int, int, str]
"""Two node indices, and what the link is used for: "eager", "lazy" … or ""."""

STROKES = {"eager": (COLOURS[2], 1.8), "mesh": (COLOURS[2], 1.8), "flood": (COLOURS[2], 1.4)}


def layout(
    nodes: Sequence[int], edges: Sequence[Edge], steps: int = 120
) -> dict[int, tuple[float, float]]:
    """Places in the unit square."""
    count = len(nodes)
    index = {node: at for at, node in enumerate(nodes)}
    # Neighbours start near each other: by order of a walk through the graph.
    near: dict[int, list[int]] = {at: [] for at in range(count)}
    for a, b, _ in edges:
        near[index[a]].append(index[b])
        near[index[b]].append(index[a])
    order: dict[int, None] = {}
    for start in range(count):
        todo = [start]
        while todo:
            at = todo.pop(0)
            if at not in order:
                order[at] = None
                todo += near[at]
    xs, ys = [0.0] * count, [0.0] * count
    for place, at in enumerate(order):  # a sunflower: the first in the middle
        radius, angle = 0.5 * math.sqrt((place + 0.5) / count), 2.399963 * place
        xs[at], ys[at] = radius * math.cos(angle), radius * math.sin(angle)
    ideal = math.sqrt(1.0 / max(count, 1))
    pairs = [(index[a], index[b]) for a, b, _ in edges]
    for step in range(steps):
        dx, dy = [0.0] * count, [0.0] * count
        for a in range(count):
            xa, ya = xs[a], ys[a]
            for b in range(a):
                x, y = xa - xs[b], ya - ys[b]
                force = ideal * ideal / max(x * x + y * y, 1e-6)
                dx[a] += x * force
                dy[a] += y * force
                dx[b] -= x * force
                dy[b] -= y * force
        for a, b in pairs:
            x, y = xs[a] - xs[b], ys[a] - ys[b]
            force = math.hypot(x, y) / ideal
            dx[a] -= x * force
            dy[a] -= y * force
            dx[b] += x * force
            dy[b] += y * force
        heat = 0.1 * (1 - step / steps) ** 1.5 + 0.002
        for a in range(count):
            far = math.hypot(dx[a], dy[a])
            if far > 0:
                xs[a] += dx[a] / far * min(far, heat)
                ys[a] += dy[a] / far * min(far, heat)
    low_x, low_y = min(xs), min(ys)
    wide, high = max(max(xs) - low_x, 1e-9), max(max(ys) - low_y, 1e-9)
    return {node: ((xs[at] - low_x) / wide, (ys[at] - low_y) / high) for node, at in index.items()}


def overlay(nodes: Sequence[int], edges: Sequence[Edge], subtitle: str) -> str:
    """Nodes and links, those that carry payloads drawn thicker."""
    places = layout(nodes, edges)
    margin, top = 30.0, 70.0
    spread = SIZE - 2 * margin
    place = {node: (margin + x * spread, top + y * spread) for node, (x, y) in places.items()}
    body = [
        text(margin, 26, "The overlay", size=16, weight="bold"),
        text(margin, 45, subtitle, colour=PALE),
    ]
    for a, b, use in sorted(edges, key=lambda edge: edge[2] in STROKES):
        colour, width = STROKES.get(use, ("#b8c4ce", 0.9))
        (xa, ya), (xb, yb) = place[a], place[b]
        body.append(
            f"<path d='M{xa:.1f} {ya:.1f}L{xb:.1f} {yb:.1f}' stroke='{colour}' stroke-width='{width:g}'/>"
        )
    body += _nodes(place, {node: COLOURS[0] for node in nodes})
    uses = [use for use in dict.fromkeys(use for _, _, use in edges) if use]
    height = top + spread + 40
    x = margin
    for use in uses:
        colour, width = STROKES.get(use, ("#b8c4ce", 0.9))
        body.append(
            f"<path d='M{x:.1f} {height - 14:.1f}h18' stroke='{colour}' stroke-width='{width + 1:g}'/>"
        )
        body.append(text(x + 24, height - 10, f"{use} link", size=12))
        x += 50 + 7.5 * len(use)
    return page(SIZE, height, body)


def _nodes(place: Mapping[int, tuple[float, float]], colours: Mapping[int, str]) -> list[str]:
    named = len(place) <= 80
    radius = 10.0 if named else max(3.0, 60 / math.sqrt(len(place)))
    body = []
    for node, (x, y) in place.items():
        body.append(
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius:g}' fill='{colours[node]}' stroke='white' "
            f"stroke-width='1.5'><title>node {node}</title></circle>"
        )
        if named:
            body.append(text(x, y + 3.5, str(node), size=9, anchor="middle", colour="white"))
    return body


def tree(parents: Mapping[int, int], root: int, times: Mapping[int, float], subtitle: str) -> str:
    """How one message went from its author to everybody. times: seconds, per node."""
    children: dict[int, list[int]] = {}
    for node, parent in parents.items():
        children.setdefault(parent, []).append(node)
    leaves: dict[int, int] = {}
    order, todo = [], [root]
    while todo:
        node = todo.pop()
        order.append(node)
        todo += children.get(node, ())
    for node in reversed(order):
        leaves[node] = sum(leaves[child] for child in children.get(node, ())) or 1
    depth, span = {root: 0}, {root: (0.0, 2 * math.pi)}
    for node in order:
        start, end = span[node]
        at = start
        for child in children.get(node, ()):
            share = (end - start) * leaves[child] / leaves[node]
            span[child] = (at, at + share)
            depth[child] = depth[node] + 1
            at += share
    rings = max(depth.values()) or 1
    top, margin = 70.0, 34.0
    middle = (SIZE / 2, top + SIZE / 2 - margin)
    ring = (SIZE / 2 - margin) / rings
    place = {}
    for node in order:
        angle = sum(span[node]) / 2 - math.pi / 2
        radius = ring * depth[node]
        place[node] = (middle[0] + radius * math.cos(angle), middle[1] + radius * math.sin(angle))
    body = [
        text(30, 26, "The way of one message", size=16, weight="bold"),
        text(30, 45, subtitle, colour=PALE),
    ]
    for hop in range(1, rings + 1):
        body.append(
            f"<circle cx='{middle[0]:.1f}' cy='{middle[1]:.1f}' r='{ring * hop:.1f}' fill='none' "
            f"stroke='{GRID}'/>"
        )
        body.append(text(middle[0] + 3, middle[1] - ring * hop - 3, f"hop {hop}", size=9, colour=PALE))
    for node, parent in parents.items():
        if node in place and parent in place:
            (xa, ya), (xb, yb) = place[parent], place[node]
            body.append(
                f"<path d='M{xa:.1f} {ya:.1f}L{xb:.1f} {yb:.1f}' stroke='{INK}' stroke-width='.8' "
                "opacity='.55'/>"
            )
    latest = max(times.values(), default=0.0) or 1.0
    colours = {node: _warmth(times.get(node, 0.0) / latest) for node in place}
    colours[root] = COLOURS[1]
    body += _nodes(place, colours)
    height = top + SIZE - 2 * margin + 40
    for step in range(60):
        body.append(
            f"<rect x='{30 + 3 * step}' y='{height - 22}' width='3.4' height='8' "
            f"fill='{_warmth(step / 59)}'/>"
        )
    body.append(text(218, height - 14, f"0 to {1e3 * latest:,.0f} ms after publishing", size=11))
    body.append(f"<circle cx='470' cy='{height - 18}' r='5' fill='{COLOURS[1]}'/>")
    body.append(text(480, height - 14, "author", size=11))
    return page(SIZE, height, body)


def _warmth(share: float) -> str:
    """From light to dark blue."""
    low, high = (0x8E, 0xC9, 0xF0), (0x00, 0x2E, 0x5C)
    mixed = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{one:02x}" for one in mixed)
