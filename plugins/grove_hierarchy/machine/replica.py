"""A whole group as one voter: the context in which its members run the upper protocol's machine.

Rule 2 of the contract says that the same state, input and random stream give the same effects. So if all
members of a group feed their copy of the machine the same inputs in the order that the group decided, the
copies stay equal, and a quorum of the group can sign what it sends: state machine replication, with the
upper protocol's machine as the state machine (Steward does the same with Paxos).

    identity     the group's
    time         agreed: it moves only when a timer fires, to the moment for which that was set
    random       one stream, seeded by the group's name
    records      in memory: the group's log, from which a restarted member replays, is the disk
    connections  always up: certified messages find their way by themselves, or are lost

Invariant: nothing here depends on which member runs it.
"""

from __future__ import annotations

from collections.abc import Hashable
from random import Random
from typing import Any, Final

from grove_core.errors import LocalProtocolError
from grove_core.machine import Context, Event, PeerId, Terms, Token

MAX_STEPS: Final = 10_000
"""Effects on itself that one input may have, in a row; a machine beyond would never rest."""


class Replica:
    """What is agreed of the group's one machine, besides the machine. Part of every member's state."""

    __slots__ = ("armed", "me", "now", "out", "records", "rng", "timers", "up")

    def __init__(self, me: PeerId) -> None:
        self.me: Final = me
        self.now = 0.0
        self.rng = Random(me)
        self.records: dict[str, bytes] = {}
        self.timers: dict[Hashable, tuple[int, float]] = {}
        """Key -> (armed as the so-manieth, when due)."""
        self.armed = 0
        self.out: list[tuple[PeerId, Any]] = []
        """Sent in this input."""
        self.up: list[PeerId] = []
        """Connects of this input, not yet answered."""

    def key_of(self, armed: int) -> Hashable | None:
        """The key of a timer that is still armed as the so-manieth."""
        for key, (number, _) in self.timers.items():
            if number == armed:
                return key
        return None


class GroupContext:
    """The Context that the upper protocol's host enters it with."""

    __slots__ = ("_real", "_replica")

    def __init__(self, replica: Replica, real: Context[Any]) -> None:
        self._replica = replica
        self._real = real

    @property
    def real(self) -> Context[Any]:
        """The member's own."""
        return self._real

    @property
    def me(self) -> PeerId:
        return self._replica.me

    @property
    def now(self) -> float:
        return self._replica.now

    @property
    def rng(self) -> Random:
        return self._replica.rng

    def record(self, peer: PeerId) -> bytes:
        return b""

    def terms(self, peer: PeerId) -> Terms:
        return Terms()

    def send(self, peer: PeerId, msg: Any) -> None:
        self._replica.out.append((peer, msg))

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        raise LocalProtocolError("between groups there are no requests; host a protocol that only sends")

    def reply(self, token: Token, msg: Any) -> None:
        raise LocalProtocolError("between groups there are no requests; host a protocol that only sends")

    def connect(self, peer: PeerId) -> None:
        self._replica.up.append(peer)

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        pass

    def save(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._replica.records.pop(key, None)
        else:
            self._replica.records[key] = value

    def load(self, key: str) -> bytes | None:
        return self._replica.records.get(key)

    def saved(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted(key for key in self._replica.records if key.startswith(prefix)))

    def sign(self, data: bytes) -> bytes:
        raise LocalProtocolError("a group has no key of its own; host a protocol that does not sign")

    def set_timer(self, key: Hashable, delay: float) -> None:
        self._replica.armed += 1
        self._replica.timers[key] = (self._replica.armed, self._replica.now + delay)

    def cancel_timer(self, key: Hashable) -> None:
        self._replica.timers.pop(key, None)

    def emit(self, event: Event) -> None:
        self._real.emit(event)
