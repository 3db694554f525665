"""What is due when: a queue of tuples ``(time, …)``, earliest first, those of one time as they came.

A single binary heap of all that is pending grows to hundreds of thousands of entries in a big
world, and each pop walks through cold memory. So entries wait in buckets of `width` seconds, as in
Brown's calendar queue (CACM 31(10), 1988). A bucket is sorted when its time has come; Python's sort
is stable, so ties need no sequence number.
"""

from __future__ import annotations

from bisect import insort
from heapq import heappop, heappush
from operator import itemgetter
from typing import Any

Entry = tuple[Any, ...]
"""(time: float seconds >= 0, …)"""

_time = itemgetter(0)


class Timeline:
    """A priority queue for entries that are rarely due long from now.

    width: seconds per bucket; any value gives the same order, a good one holds 10 to 1,000 entries.
    """

    __slots__ = ("_order", "buckets", "current", "index", "scale")

    def __init__(self, width: float = 0.004) -> None:
        self.scale = 1.0 / width
        self.buckets: dict[int, list[Entry]] = {}
        """Those after the current one by number, entries in order of arrival. Who finds the right one
        here may append to it, which is what `push` would do."""
        self._order: list[int] = []
        """A heap of their numbers."""
        self.index = -1
        """Number of the bucket being worked off: an entry's is int(time * scale)."""
        self.current: list[Entry] = []
        """The earliest bucket, in order. Who works it off removes what is done, at the latest when he
        leaves; what is pushed meanwhile goes behind all that is due no later."""

    @property
    def ends(self) -> float:
        """No time in the current bucket reaches this (a rounding error more than its width)."""
        return (self.index + 1) / self.scale + 1e-6

    def push(self, entry: Entry) -> None:
        """Add an entry; its time may be anything from now on."""
        index = int(entry[0] * self.scale)
        bucket = self.buckets.get(index)
        if bucket is not None:
            bucket.append(entry)
        elif index > self.index:
            self.buckets[index] = [entry]
            heappush(self._order, index)
        else:
            insort(self.current, entry, key=_time)

    def advance(self) -> list[Entry]:
        """The bucket to work off now: `current` while it lasts, then the next; empty at the end."""
        if not self.current and self._order:
            self.index = heappop(self._order)
            self.current = self.buckets.pop(self.index)
            self.current.sort(key=_time)
        return self.current

    def __len__(self) -> int:
        return len(self.current) + sum(map(len, self.buckets.values()))
