"""When to stop waiting for the tree: Plumtree's two timers, from what was measured.

The paper gives no values; it says that T1 must cover the time between an announcement and the
payload that is on its way, and that T2 is about a round trip. Fixed values fail on one network or
the other: too short grafts needlessly (redundant payloads), too long heals late. (The paper also
says T2 < T1. That follows when links are alike; where they are not, a round trip is a round trip.)

    T1 = 3 x the greatest of the last 64 spreads           announcement -> payload, by the tree
    T2 = smoothed round trip + 4 x its variation           GRAFT -> payload, as RFC 6298 2 does

The greatest, and none below the start before there are 64: all senders share one tree, and who is near
one is far from the next. A needless GRAFT costs more than a payload. If it wins the race, the tree's own
link is pruned, for all senders, and the tree is deeper: with a 95th percentile, of eight spreads at
first, 150 messages from anywhere made the last hop of 4,000 nodes the 27th instead of the 14th
(docs/decisions/0017).

Only spreads above zero count: a payload that precedes its announcement needs no timer. A payload
that came by a needless GRAFT would hide how late the tree was, so the tree's own copy, which
comes after it, is measured too (see `Plumtree.early`).
"""

from __future__ import annotations

from collections import deque

SAMPLES = 64
"""Spreads remembered, and needed before they may shorten T1."""
SHORTENED = 8
"""One spread in so many may shorten T1; each may lengthen it."""


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
        if 3.0 * seconds > self.first:
            self._set_first(3.0 * seconds)
        elif self._count >= SAMPLES and self._count % SHORTENED == 0:
            self._set_first(3.0 * max(self._spreads))

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
