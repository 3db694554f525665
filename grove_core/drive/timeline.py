"""What is due when: a queue of tuples ``(time, seq, …)`` in ascending order.

A single binary heap of all that is pending grows to hundreds of thousands of entries in a big
world, and each pop walks through cold memory. So entries wait in buckets of `width` seconds, as in
Brown's calendar queue (CACM 31(10), 1988); only the bucket being worked off is a heap. The order is
exactly that of one heap.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any

Entry = tuple[Any, ...]
"""(time: float seconds >= 0, seq: int, …); no two entries have the same seq."""


class Timeline:
    """A priority queue for entries that are rarely due long from now.

    width: seconds per bucket; any value gives the same order, a good one holds 10 to 1,000 entries.
    """

    __slots__ = ("_buckets", "_index", "_order", "_scale", "current")

    def __init__(self, width: float = 0.001) -> None:
        self._scale = 1.0 / width
        self._buckets: dict[int, list[Entry]] = {}
        self._order: list[int] = []
        self._index = -1
        self.current: list[Entry] = []
        """The earliest bucket, a heap. Replaced by `advance`; do not keep it."""

    def push(self, entry: Entry) -> None:
        """Add an entry; its time may be anything from now on."""
        index = int(entry[0] * self._scale)
        if index <= self._index:
            heappush(self.current, entry)
            return
        bucket = self._buckets.get(index)
        if bucket is None:
            self._buckets[index] = [entry]
            heappush(self._order, index)
        else:
            bucket.append(entry)

    def advance(self) -> list[Entry]:
        """The bucket to work off now: `current` while it lasts, then the next; empty at the end."""
        if not self.current and self._order:
            self._index = heappop(self._order)
            self.current = self._buckets.pop(self._index)
            heapify(self.current)
        return self.current

    def __len__(self) -> int:
        return len(self.current) + sum(map(len, self._buckets.values()))
