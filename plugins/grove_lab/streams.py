"""Named streams of randomness: drawing for one purpose never moves what is drawn for another.

Topology, latency, churn, publishing … each draw from `stream(seed, name)`. Machines have streams of
their own (`grove_core.node.rng_for`). So two protocols that are run with one seed meet the same
links, the same crashes and the same publications (common random numbers), and a fault added to a
scenario leaves its latencies where they were.
"""

from __future__ import annotations

import hashlib
from random import Random

ALGORITHM = 'Random(sha256("grove/lab/<seed>/<name>"))'
"""Belongs in every manifest: what a seed means depends on it."""


def stream(seed: int, *name: str | int) -> Random:
    """The stream of one purpose: ``stream(7, "churn", 12)`` is node 12's churn under seed 7."""
    text = "/".join(map(str, ("grove", "lab", seed, *name)))
    return Random(hashlib.sha256(text.encode()).digest())


def number(seed: int, *name: str | int) -> int:
    """A 64-bit number of one purpose, for what is hashed rather than drawn."""
    return stream(seed, *name).getrandbits(64)
