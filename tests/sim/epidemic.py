"""What push gossip reaches over random views, by theory and in a village.

Branching processes predict it: a push to F fresh targets, of which a share f is dead, takes off with
probability 1 - q and then reaches r,

    q = (f + (1 - f) q)^F          r = 1 - exp(-F (1 - f) r)

so the published curve of Cyclon (HyParView, figure 2) is also a test of the simulator. Views that are
frozen do not care when a node died, so one village is crashed ever further.
"""

from __future__ import annotations

from math import exp
from statistics import mean
from typing import Any

import msgspec

from tests.sim.apart import apart
from tests.sim.graphs import average_path, clustering, in_degrees, undirected
from tests.sim.paper import FULL, Paper

SOON = 1.2  # seconds that a flood of pushes takes, a new connection each: 20 hops of 0.06 s
DELAY = 0.02


def theory(fanout: int, failed: float) -> tuple[float, float]:
    """(take-off probability, share of the living then reached), by iteration to the fixed points."""
    die, reached = 0.0, 1.0
    for _ in range(10_000):
        die = (failed + (1 - failed) * die) ** fanout
        reached = 1 - exp(-fanout * (1 - failed) * reached)
    return 1 - die, reached


class Views(msgspec.Struct):
    """A membership at rest. Sorted sizes and in-degrees; path and clustering of undirected edges."""

    sizes: list[int]
    in_degrees: list[int]
    path: float
    clustering: float


def at_rest(paper: Paper) -> Views:
    views = paper.views()
    overlay = undirected(views)  # the paper's figures fit only this: paths of 2.6 need 70 edges
    return Views(
        sorted(len(view) for view in views.values()),
        sorted(in_degrees(views).values()),
        average_path(overlay, paper.rng),
        clustering(overlay),
    )


def by_fanout(paper: Paper) -> dict[int, float]:
    """Mean reliability in percent without failures."""
    return {fanout: apart(lambda f=fanout: _with_fanout(paper, f)) for fanout in (4, 5, 6)}  # type: ignore[misc]


def _with_fanout(paper: Paper, fanout: int) -> float:
    paper.configure("broadcast", fanout=fanout)
    return 100 * mean(paper.reliabilities(20 if FULL else 4, SOON))


def by_crash(paper: Paper, messages: dict[float, int]) -> dict[float, list[float]]:
    """Reliability in percent of so many messages after each crash, one crash on top of the other."""
    nodes, found = len(paper.alive), {}
    for failed, count in messages.items():
        living = round((1 - failed) * nodes)
        paper.crash(1 - living / len(paper.alive))
        assert len(paper.alive) == living
        found[failed] = [100 * one for one in paper.reliabilities(count, 2 * SOON)]
    return found


def of_all(seeds: list[dict[Any, list[float]]], key: Any) -> list[float]:
    """The messages of all seeds."""
    return [one for seed in seeds for one in seed[key]]
