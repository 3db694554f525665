"""What is known of one connected peer, and the promises peers have made.

A promise: who announced a message with IHAVE and was asked for it with IWANT has to send it within a
few seconds. One id of each IWANT, chosen at random, is held against its announcer, so that liars are
found at little cost (gossipsub v1.1, "Spam Protection Measures").
"""

from __future__ import annotations

from typing import Final

from grove_core.machine import PeerId

VERSIONS: Final = {
    "/meshsub/1.3.0": 13,
    "/meshsub/1.2.0": 12,
    "/meshsub/1.1.0": 11,
    "/meshsub/1.0.0": 10,
    "/floodsub/1.0.0": 0,
    "": 10,  # not known yet: nothing beyond the common part
}


class Neighbor:
    """A peer we have a connection with. Counters are since the last heartbeat."""

    __slots__ = (
        "asked",
        "has_spoken",
        "holds",
        "idontwant_ids",
        "idontwants",
        "ihaves",
        "is_up",
        "meshes",
        "outbound",
        "topics",
        "unwanted",
        "version",
    )

    def __init__(self, version: int, outbound: bool) -> None:
        self.version = version
        self.outbound = outbound
        self.is_up = False
        """The driver announced it; else it spoke before it was announced."""
        self.holds = 0
        """Connects of ours to it that are not answered yet, although it is up."""
        self.has_spoken = False
        self.topics: dict[str, None] = {}
        self.meshes = 0
        """Topics whose mesh it is in; the connection is held while there is one."""
        self.ihaves = 0
        self.asked = 0
        self.idontwants = 0
        self.idontwant_ids = 0
        self.unwanted: dict[bytes, int] | None = None
        """Ids it has, by the last tick at which that matters; oldest first."""

    @property
    def is_idle(self) -> bool:
        """Nothing to clear at a heartbeat."""
        return not (self.ihaves or self.asked or self.idontwants or self.unwanted)


class Promises:
    """Messages asked for with IWANT and not come yet, and until when, by id and peer."""

    __slots__ = ("_due", "_ids")

    def __init__(self) -> None:
        self._ids: dict[bytes, dict[PeerId, None]] = {}
        self._due: dict[tuple[bytes, PeerId], float] = {}  # in the order they were made

    def __bool__(self) -> bool:
        return bool(self._due)

    def add(self, message_id: bytes, peer: PeerId, due: float) -> None:
        """One id of an IWANT. An older promise for it stays."""
        if (message_id, peer) not in self._due:
            self._due[message_id, peer] = due
            self._ids.setdefault(message_id, {})[peer] = None

    def kept(self, message_id: bytes) -> None:
        """The message came, from whomever."""
        for peer in self._ids.pop(message_id, ()):
            del self._due[message_id, peer]

    def forget(self, peer: PeerId) -> None:
        """A peer is gone."""
        for message_id, other in tuple(self._due):
            if other == peer:
                self._remove(message_id, peer)

    def broken(self, now: float) -> dict[PeerId, int]:
        """How many promises of whom are overdue; they are forgotten."""
        found: dict[PeerId, int] = {}
        while self._due:
            (message_id, peer), due = next(iter(self._due.items()))
            if due > now:
                break
            self._remove(message_id, peer)
            found[peer] = found.get(peer, 0) + 1
        return found

    def _remove(self, message_id: bytes, peer: PeerId) -> None:
        del self._due[message_id, peer]
        peers = self._ids[message_id]
        del peers[peer]
        if not peers:
            del self._ids[message_id]
