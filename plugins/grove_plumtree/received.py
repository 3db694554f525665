"""What a node has received: ids, so that nothing is delivered twice, and payloads, to answer GRAFT.

Both are kept in order of arrival and bounded three ways: ids by count and age, payloads by
count, bytes and age. Every payload's id is known; an id outlives its payload.
"""

from __future__ import annotations

from grove_plumtree.config import Config
from grove_plumtree.messages import Gossip


class Received:
    """Messages by id. `seen` maps an id to when it came, oldest first."""

    __slots__ = ("_config", "payload_bytes", "payloads", "seen")

    def __init__(self, config: Config) -> None:
        self._config = config
        self.seen: dict[bytes, float] = {}
        self.payloads: dict[bytes, Gossip] = {}
        """As they go on from here: their round is ours."""
        self.payload_bytes = 0

    def add(self, message_id: bytes, gossip: Gossip, now: float) -> None:
        """Remember a message that is not in `seen`. The oldest make room."""
        config = self._config
        self.seen[message_id] = now
        self.payloads[message_id] = gossip
        self.payload_bytes += len(gossip.publication.data)
        if len(self.seen) > config.seen_messages:
            self._forget_id()
        while len(self.payloads) > config.kept_messages or self.payload_bytes > config.kept_bytes:
            self._forget_payload()

    def since(self, time: float) -> list[tuple[bytes, Gossip]]:
        """Payloads that came at or after a time, newest first."""
        found = []
        for message_id, gossip in reversed(self.payloads.items()):
            if self.seen[message_id] < time:
                break
            found.append((message_id, gossip))
        return found

    def forget(self, now: float) -> float | None:
        """Drop what is too old. Returns when the next thing will be, or None if nothing is left."""
        config = self._config
        while self.payloads and self.seen[next(iter(self.payloads))] <= now - config.kept_for:
            self._forget_payload()
        while self.seen and next(iter(self.seen.values())) <= now - config.seen_for:
            self._forget_id()
        if self.payloads:
            return self.seen[next(iter(self.payloads))] + config.kept_for
        if self.seen:
            return next(iter(self.seen.values())) + config.seen_for
        return None

    def _forget_payload(self) -> None:
        gossip = self.payloads.pop(next(iter(self.payloads)))
        self.payload_bytes -= len(gossip.publication.data)

    def _forget_id(self) -> None:
        oldest = next(iter(self.seen))
        if oldest in self.payloads:  # the oldest payload too: both are in order of arrival
            self._forget_payload()
        del self.seen[oldest]
