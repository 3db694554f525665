"""The deterministic driver: nodes in virtual time over a timeline of tuples.

    (time, act, ctx, a, b)       act(ctx, a, b) moves one machine at that time

One `World` holds any number of nodes, assembled from the same parts as real ones. What is due at one
time takes place in the order in which it was caused, so a seed gives one history whatever the hash
seed. The world models what a machine can
observe: delay, order on a link, connections that open, fall idle and break, questions and answers,
durable records and their barrier, crashes that lose what was not durable, links that are cut or
clogged, clocks that run fast. It has no bandwidth, no loss under a reliable stream and no work that
costs time of its own: who models those gives it a `carrier` and a `cost`, as the lab does.

Invariants:
1. Nothing here reads a clock, global randomness or an unordered collection.
2. A message never overtakes an earlier one of the same machine on the same link.
3. A context belongs to one life of a node: after a crash its pending acts find it dead.
"""

from __future__ import annotations

from grove_core.drive.virtual.clock import Clock
from grove_core.drive.virtual.context import VirtualContext
from grove_core.drive.virtual.delays import Delay, constant, uniform
from grove_core.drive.virtual.node import VirtualNode
from grove_core.drive.virtual.world import (
    Carrier,
    Cost,
    Division,
    SimulationError,
    Sink,
    Witness,
    World,
)

__all__ = [
    "Carrier",
    "Clock",
    "Cost",
    "Delay",
    "Division",
    "SimulationError",
    "Sink",
    "VirtualContext",
    "VirtualNode",
    "Witness",
    "World",
    "constant",
    "uniform",
]
