"""How long a message is on its way between two nodes."""

from __future__ import annotations

from collections.abc import Callable

Delay = Callable[[int, int], float]
"""One-way delay in seconds between two nodes, by index. Pure; need not be symmetric."""


def constant(seconds: float) -> Delay:
    """The same delay between all nodes."""
    return lambda a, b: seconds


def uniform(low: float, high: float, seed: int = 0) -> Delay:
    """A delay per link, drawn once from [low, high] and the same in both directions."""
    mask = (1 << 64) - 1
    step = (high - low) / (1 << 32)

    last = (-1, -1, 0.0)  # both ways of one link are asked for in a row

    def delay(a: int, b: int) -> float:
        nonlocal last
        if a > b:
            a, b = b, a
        one, other, drawn = last
        if a == one and b == other:
            return drawn
        # SplitMix64's finaliser over the pair: cheap, stateless, and equal for every protocol.
        x = (a * 0x9E3779B97F4A7C15 + b * 0xBF58476D1CE4E5B9 + seed * 0x94D049BB133111EB) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        drawn = low + step * ((x ^ (x >> 31)) >> 32)
        last = (a, b, drawn)
        return drawn

    return delay
