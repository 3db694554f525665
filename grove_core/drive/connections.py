"""The table of connections: who is let in, which one to use, whom to let go. Pure: no clock, no loop.

`libp2p-wire.md` 7.3: gates stand before expensive work (2), two connections to one peer are legal
and the oldest direct one carries new streams (7), trimming goes from high to low water and spares
what is protected (8). A connection is protected while a *holder* (a machine, the application, the
list of fixed peers) wants its peer.

Invariants:
1. Every admitted inbound attempt is counted in `pending` until `add` or `gave_up`.
2. A holder is remembered only while its peer is connected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from ipaddress import ip_network

from grove_core.drive.dialing import Pace, place
from grove_core.errors import ConfigError, GroveError
from grove_core.identity import parse_peer
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Limits
from grove_core.transport import GATED, RATE_LIMITED, RESOURCE_LIMIT_EXCEEDED, Connection

GRACE = 20.0
"""Seconds in which a new connection is not trimmed: it had no time to become useful (go-libp2p)."""


class Open:
    """One open connection.

    wanted: when it was last seen to be held or to have streams. active: when a message last passed.
    """

    __slots__ = ("active", "connection", "is_relayed", "opened", "wanted")

    def __init__(self, connection: Connection, now: float) -> None:
        self.connection = connection
        self.opened = now
        self.wanted = now
        self.active = now
        self.is_relayed = connection.remote.is_circuit


class Denied:
    """`limits.denied`: peer ids, addresses and CIDR ranges never talked to."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Raises ConfigError naming every entry that is none of the three."""
        self.peers: set[PeerId] = set()
        self.networks = []
        self.addresses: list[str] = []
        problems = []
        for entry in entries:
            try:
                if entry.startswith("/"):
                    self.addresses.append(str(Multiaddr.parse(entry)))
                elif entry[:1] in "0123456789abcdefABCDEF:" and ("." in entry or ":" in entry):
                    self.networks.append(ip_network(entry, strict=False))
                else:
                    self.peers.add(parse_peer(entry))
            except (GroveError, ValueError) as error:
                problems.append(
                    f"limits.denied: {entry!r} is no peer id, multiaddr, IP or CIDR range: {error}"
                )
        if problems:
            raise ConfigError(problems)

    def peer(self, peer: PeerId) -> bool:
        return peer in self.peers

    def address(self, address: Multiaddr) -> bool:
        ip = address.ip
        if ip is not None and any(ip in network for network in self.networks):
            return True
        if self.addresses:
            text = str(address)
            return any(text == denied or text.startswith(denied + "/") for denied in self.addresses)
        return False


class Connections:
    """All open connections of a node."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.denied = Denied(limits.denied)
        self.pending = 0  # admitted inbound attempts that are neither open nor given up
        self.refused: Counter[str] = Counter()  # by reason, for the node's counters
        self._attempts = Pace(limits.inbound_per_second, 2 * limits.inbound_per_second)
        self._open: dict[Connection, Open] = {}  # oldest first
        self._peers: dict[PeerId, list[Open]] = {}  # oldest first
        self._holders: dict[PeerId, dict[Hashable, None]] = {}
        self._per_source: Counter[str] = Counter()

    # Who is let in.

    def admit(self, remote: Multiaddr, now: float) -> int:
        """0 and count the attempt, or the code to refuse it with."""
        limits = self.limits
        source = place(remote).source
        if self.denied.address(remote):
            return self._refuse("denied", GATED)
        if len(self._open) + self.pending >= limits.connections:
            return self._refuse("connections", RESOURCE_LIMIT_EXCEEDED)
        if self.pending >= limits.inbound_pending:
            return self._refuse("pending", RESOURCE_LIMIT_EXCEEDED)
        if source and self._per_source[source] >= limits.per_ip:
            return self._refuse("per_ip", RESOURCE_LIMIT_EXCEEDED)
        if not self._attempts.take(now):
            return self._refuse("rate", RATE_LIMITED)
        self.pending += 1
        self._count(remote, 1)
        return 0

    def gave_up(self, remote: Multiaddr) -> None:
        """An admitted attempt came to nothing."""
        self.pending -= 1
        self._count(remote, -1)

    def add(self, connection: Connection, now: float) -> int:
        """Take an open connection into the table; else the code to close it with."""
        if connection.inbound:
            self.pending -= 1
        else:
            self._count(connection.remote, 1)
        if self.denied.peer(connection.peer) or self.denied.address(connection.remote):
            self._count(connection.remote, -1)
            return self._refuse("denied", GATED)
        entry = Open(connection, now)
        self._open[connection] = entry
        self._peers.setdefault(connection.peer, []).append(entry)
        return 0

    def remove(self, connection: Connection) -> bool:
        """Take a connection out; whether it was its peer's last."""
        entry = self._open.pop(connection, None)
        if entry is None:
            return False
        self._count(connection.remote, -1)
        mine = self._peers[connection.peer]
        mine.remove(entry)
        if mine:
            return False
        del self._peers[connection.peer]
        self._holders.pop(connection.peer, None)
        return True

    def _refuse(self, reason: str, code: int) -> int:
        self.refused[reason] += 1
        return code

    def _count(self, remote: Multiaddr, change: int) -> None:
        source = place(remote).source
        if source:
            self._per_source[source] += change
            if self._per_source[source] <= 0:
                del self._per_source[source]

    # Which one to use.

    def __len__(self) -> int:
        return len(self._open)

    def all(self) -> tuple[Connection, ...]:
        """Oldest first."""
        return tuple(self._open)

    def peers(self) -> tuple[PeerId, ...]:
        """Peers with at least one connection, in order of their first."""
        return tuple(self._peers)

    def of(self, peer: PeerId) -> tuple[Open, ...]:
        return tuple(self._peers.get(peer, ()))

    def get(self, connection: Connection) -> Open | None:
        return self._open.get(connection)

    def best(self, peer: PeerId) -> Connection | None:
        """The one new streams should use: direct before relayed, then the oldest."""
        mine = self._peers.get(peer)
        if not mine:
            return None
        if len(mine) == 1:
            return mine[0].connection
        return min(mine, key=lambda entry: entry.is_relayed).connection

    # Whom to keep, whom to let go.

    def hold(self, peer: PeerId, holder: Hashable) -> None:
        if peer in self._peers:
            self._holders.setdefault(peer, {})[holder] = None

    def release(self, peer: PeerId, holder: Hashable) -> None:
        holders = self._holders.get(peer)
        if holders is not None:
            holders.pop(holder, None)
            if not holders:
                del self._holders[peer]

    def is_held(self, peer: PeerId) -> bool:
        return peer in self._holders

    def is_holding(self, peer: PeerId, holder: Hashable) -> bool:
        return holder in self._holders.get(peer, ())

    def touch(self, peer: PeerId, now: float) -> None:
        """A message passed."""
        for entry in self._peers.get(peer, ()):
            entry.active = now

    def holders(self, peer: PeerId) -> tuple[Hashable, ...]:
        return tuple(self._holders.get(peer, ()))

    def idle(self, now: float) -> list[Connection]:
        """Connections that carry nothing and that nobody has wanted for `limits.idle` seconds.

        Of several connections to one peer all but the best count as wanted by nobody.
        """
        found = []
        for entry in self._open.values():
            connection = entry.connection
            is_best = self.best(connection.peer) is connection
            if connection.stream_count or (is_best and self.is_held(connection.peer)):
                entry.wanted = now
            elif now - entry.wanted >= self.limits.idle:
                found.append(connection)
        return found

    def surplus(self, now: float) -> list[Connection]:
        """Whom to close when there are more connections than `high_water`: down to `low_water`.

        Least recently active first; never the held, nor those younger than GRACE.
        """
        if len(self._open) <= self.limits.high_water:
            return []
        spare = [
            entry
            for entry in self._open.values()
            if not self.is_held(entry.connection.peer) and now - entry.opened >= GRACE
        ]
        spare.sort(key=lambda entry: entry.active)
        return [entry.connection for entry in spare[: len(self._open) - self.limits.low_water]]
