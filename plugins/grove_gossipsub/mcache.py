"""What a node has heard lately: ids, so that nothing goes round twice, and messages, to give again.

`Seen` is the specification's seen cache: ids for `seen_ttl` seconds. `MessageCache` is its mcache: the
messages of the last `mcache_len` heartbeats, of which `mcache_gossip` are announced. Both are
bounded in number, and the second in bytes too.
"""

from __future__ import annotations

from collections import deque
from math import inf

from grove_core.machine import PeerId
from grove_gossipsub.messages import Rpc


class Seen:
    """Ids by when they were first seen, oldest first."""

    __slots__ = ("_limit", "_ttl", "times")

    def __init__(self, ttl: float, limit: int) -> None:
        self._ttl = ttl
        self._limit = limit
        self.times: dict[bytes, float] = {}

    def add(self, message_id: bytes, now: float) -> None:
        """Remember an id that is not in `times`; the oldest makes room."""
        self.times[message_id] = now
        if len(self.times) > self._limit:
            del self.times[next(iter(self.times))]

    def forget(self, now: float) -> None:
        """Drop what is older than the ttl."""
        times = self.times
        while times:
            oldest = next(iter(times))
            if times[oldest] + self._ttl > now:
                break
            del times[oldest]

    def next_due(self) -> float:
        """When `forget` will next find something; inf if never."""
        return next(iter(self.times.values())) + self._ttl if self.times else inf


class _Kept:
    __slots__ = ("given", "rpc")

    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc
        self.given: dict[PeerId, int] | None = None  # how often to whom, on IWANT


class MessageCache:
    """The sliding window of messages. A message is kept as the RPC that carries it and nothing else."""

    __slots__ = ("_bytes", "_gossip", "_kept", "_limit", "_windows")

    def __init__(self, length: int, gossip: int, limit: int) -> None:
        self._gossip = gossip
        self._limit = limit
        self._bytes = 0
        self._kept: dict[bytes, _Kept] = {}
        self._windows: deque[dict[str, list[bytes]]] = deque([{} for _ in range(length)], maxlen=length)

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, message_id: bytes, topic: str, rpc: Rpc) -> None:
        """Keep a message; the oldest make room if there are more than the limit's bytes."""
        if message_id in self._kept:
            return
        self._kept[message_id] = _Kept(rpc)
        self._bytes += len(rpc.publish[0].data)
        self._windows[0].setdefault(topic, []).append(message_id)
        while self._bytes > self._limit and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def give(self, message_id: bytes, peer: PeerId, most: int) -> Rpc | None:
        """A message for a peer that asked, at most so often; None if it is gone or was given enough."""
        kept = self._kept.get(message_id)
        if kept is None:
            return None
        if kept.given is None:
            kept.given = {}
        count = kept.given.get(peer, 0)
        if count >= most:
            return None
        kept.given[peer] = count + 1
        return kept.rpc

    def announced(self) -> dict[str, list[bytes]]:
        """By topic, the ids of the windows that gossip speaks of, newest first."""
        found: dict[str, list[bytes]] = {}
        for index in range(min(self._gossip, len(self._windows))):
            for topic, ids in self._windows[index].items():
                found.setdefault(topic, []).extend(one for one in ids if one in self._kept)
        return found

    def shift(self) -> None:
        """A heartbeat has passed: the oldest window goes."""
        if self._kept:
            for ids in self._windows[-1].values():
                for message_id in ids:
                    self._drop(message_id)
        self._windows.appendleft({})

    def _drop(self, message_id: bytes) -> None:
        kept = self._kept.pop(message_id, None)
        if kept is not None:
            self._bytes -= len(kept.rpc.publish[0].data)
