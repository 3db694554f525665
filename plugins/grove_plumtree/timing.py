"""When to stop waiting for the tree: Plumtree's two timers, from what was measured.

The paper gives no values; it says that T1 must cover the time between an announcement and the
payload that is on its way, and that T2 is about a round trip. Fixed values fail on one network or
the other: too short grafts needlessly (redundant payloads), too long heals late. (The paper also
says T2 < T1. That follows when links are alike; where they are not, a round trip is a round trip.)

    T1 = 3 x the 95th percentile of the last 64 spreads        announcement -> payload, by the tree
    T2 = smoothed round trip + 4 x its variation               GRAFT -> payload, as RFC 6298 2 does

Only spreads above zero count: a payload that precedes its announcement needs no timer. A payload
that came by a needless GRAFT would hide how late the tree was, so the tree's own copy, which
comes after it, is measured too (see `Plumtree.early`).
"""

from __future__ import annotations

from collections import deque

SAMPLES = 64
"""Spreads remembered: enough for a 95th percentile, few enough to follow a changing network."""
ENOUGH = 8
"""Spreads before they may shorten T1 below its start; later, T1 is computed on each eighth."""


class GraftTimes:
    """T1 (`first`) and T2 (`retry`), in seconds, both between least and most."""

    __slots__ = ("_count", "_least", "_most", "_smoothed", "_spreads", "_variation", "first", "retry")

    def __init__(self, start: float, least: float, most: float) -> None:
        self._least = least
        self._most = most
        self._spreads: deque[float] = deque(maxlen=SAMPLES)
        self._count = 0
        self._smoothed: float | None = None
        self._variation = 0.0
        self.first = min(max(start, least), most)
        self.retry = max(self.first / 2, least)  # iroh-gossip's ratio, until measured

    def spread(self, seconds: float) -> None:
        """A payload came by the tree so long after its first announcement."""
        self._spreads.append(seconds)
        self._count += 1
        if self._count < ENOUGH:
            self._set_first(max(self.first, 3.0 * seconds))
        elif self._count % ENOUGH == 0:
            ordered = sorted(self._spreads)
            self._set_first(3.0 * ordered[(95 * len(ordered) + 99) // 100 - 1])

    def round_trip(self, seconds: float) -> None:
        """A GRAFT was answered by its payload after so long."""
        if self._smoothed is None:
            self._smoothed = seconds
            self._variation = seconds / 2
        else:
            self._variation += (abs(seconds - self._smoothed) - self._variation) / 4
            self._smoothed += (seconds - self._smoothed) / 8
        self._set_retry()

    def _set_first(self, seconds: float) -> None:
        self.first = min(max(seconds, self._least), self._most)
        self._set_retry()

    def _set_retry(self) -> None:
        if self._smoothed is None:
            self.retry = max(self.first / 2, self._least)
        else:
            measured = self._smoothed + 4.0 * self._variation
            self.retry = min(max(measured, self._least), self._most)
