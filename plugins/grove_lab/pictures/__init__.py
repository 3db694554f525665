"""Pictures of runs, as SVG files of our own making."""

from __future__ import annotations

from pathlib import Path

from grove_lab.pictures import charts, graphs
from grove_lab.run import Run

__all__ = ["draw"]


def draw(one: Run, folder: Path) -> list[Path]:
    """Draw whatever a run has to show into a folder; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    subtitle = f"{one.scenario} · {one.nodes:,} nodes · seed {one.seed}"
    found: dict[str, str] = {}
    if one.samples:
        count = f"{len(one.samples):,} deliveries"
        found["delivery"] = charts.delivery(one, f"{subtitle} · {count}")
    if one.hops:
        found["hops"] = charts.hops(one, subtitle)
    if one.degrees:
        found["degrees"] = charts.degrees(one, subtitle)
    if len(one.series) > 1:
        found["series"] = charts.series(one, subtitle)
    if one.overlay is not None:
        nodes, edges = one.overlay
        if nodes:
            found["overlay"] = graphs.overlay(nodes, edges, f"{subtitle} · at the end")
    if one.way is not None and one.way.parents:
        way = one.way
        said = f"{subtitle} · published {way.published:.2f} s after settling by node {way.root}"
        found["tree"] = graphs.tree(way.parents, way.root, way.times, said)
    paths = []
    for name, svg in found.items():
        paths.append(folder / f"{name}.svg")
        paths[-1].write_text(svg, encoding="utf-8")
    return paths
