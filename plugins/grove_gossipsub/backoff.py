"""Who must not be grafted yet: a PRUNE keeps two peers apart in a topic for a while (v1.1).

An entry outlives its time by a slack of some seconds, during which we do not graft but a GRAFT is
no offence: the two clocks need not agree. Bounded per topic; the oldest makes room.
"""

from __future__ import annotations

from grove_core.machine import PeerId


class Backoffs:
    """Until when, by topic and peer; seconds on the node's clock."""

    __slots__ = ("_limit", "_slack", "_until")

    def __init__(self, slack: float, limit: int) -> None:
        self._slack = slack
        self._limit = limit
        self._until: dict[str, dict[PeerId, tuple[float, float]]] = {}  # (pruned at, until)

    def __bool__(self) -> bool:
        return bool(self._until)

    def add(self, topic: str, peer: PeerId, now: float, seconds: float) -> None:
        """Keep apart for so long from now; a longer time already set stays."""
        peers = self._until.setdefault(topic, {})
        held = peers.pop(peer, None)
        until = now + seconds
        peers[peer] = (now, max(until, held[1]) if held is not None else until)
        if len(peers) > self._limit:
            del peers[next(iter(peers))]

    def holds(self, topic: str, peer: PeerId, now: float) -> bool:
        """Whether a GRAFT from this peer would come too early."""
        held = self._until.get(topic, _NOBODY).get(peer)
        return held is not None and now < held[1]

    def since(self, topic: str, peer: PeerId) -> float:
        """When the time apart began, or began anew; KeyError if there is none."""
        return self._until[topic][peer][0]

    def forbids(self, topic: str, peer: PeerId, now: float) -> bool:
        """Whether we should not graft this peer: its time and the slack have not passed."""
        held = self._until.get(topic, _NOBODY).get(peer)
        return held is not None and now < held[1] + self._slack

    def clear(self, now: float) -> None:
        """Forget what is over, slack included."""
        for topic, peers in tuple(self._until.items()):
            for peer, (_, until) in tuple(peers.items()):
                if until + self._slack <= now:
                    del peers[peer]
            if not peers:
                del self._until[topic]


_NOBODY: dict[PeerId, tuple[float, float]] = {}
