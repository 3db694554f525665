"""A LiveNode without a network: enough of one to stand behind the door, and to watch what it is told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from grove_core.errors import LocalProtocolError, RemoteProtocolError, Unreachable
from grove_core.events import Delivered
from grove_core.identity import Identity, peer_text, short
from grove_core.machine import Event, PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Limits, Plan, Settings
from grove_core.service import PeerEntry


def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


class FakeLibp2p:
    """The service that identifies and pings: each round trip takes less than the one before."""

    agent = "grove/fake"

    def __init__(self, node: FakeNode) -> None:
        self._node = node

    async def ping(self, peer: PeerId, count: int = 1, interval: float = 0.0) -> AsyncIterator[float]:
        await self._node.connect(peer)
        for number in range(count):
            yield 0.5 / (number + 1)


class FakeConnection:
    rtt = 0.0125
    stream_count = 3

    def __init__(self, peer: PeerId, remote: str, *, inbound: bool = False) -> None:
        self.peer, self.inbound, self.remote = peer, inbound, Multiaddr.parse(remote)
        self.transport = "tcp" if "/tcp/" in remote else "quic"


class FakeWatch:
    def __init__(self, node: FakeNode, kinds: tuple[type[Event], ...], limit: int) -> None:
        self.missed = 0
        self.kinds, self._node, self._limit = kinds, node, limit
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()

    def put(self, event: Event) -> None:
        if len(self._events) >= self._limit:
            self._events.popleft()
            self.missed += 1
        self._events.append(event)
        self._arrived.set()

    async def __aenter__(self) -> FakeWatch:
        self._node.watches.append(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._node.watches.remove(self)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            yield await self.next()

    async def next(self) -> Event:
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()


class FakeBroadcast:
    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self.subscribed: set[str] = set()
        self.published: list[tuple[str, bytes]] = []

    def publish(self, topic: str, data: bytes) -> bytes:
        if len(data) > 1000:
            raise LocalProtocolError(f"payload of {len(data)} bytes; limit 1000")
        self.published.append((topic, data))
        name = len(self.published).to_bytes(16, "big")
        if topic in self.subscribed:
            self._node.emit(Delivered(topic, name, self._node.peer, data))
        return name

    def subscribe(self, topic: str) -> None:
        self.subscribed.add(topic)

    def unsubscribe(self, topic: str) -> None:
        self.subscribed.discard(topic)

    def topics(self) -> tuple[str, ...]:
        return tuple(sorted(self.subscribed))

    def links(self) -> Mapping[str, tuple[PeerId, ...]]:
        peers = tuple(connection.peer for connection in self._node.connections())
        return {"eager": peers[:1], "lazy": peers[1:]}


class FakeMembership:
    def __init__(self, node: FakeNode) -> None:
        self._node = node

    def neighbors(self) -> tuple[PeerId, ...]:
        return tuple(connection.peer for connection in self._node.connections())

    def known(self) -> tuple[PeerId, ...]:
        return (identity(99).peer,)


class FakeBook:
    def get(self, peer: PeerId) -> PeerEntry:
        return PeerEntry(peer=peer, agent="fake/1")


class FakeNode:
    """Three connections: loopback, lan, relayed."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.identity = identity(1)
        self.peer = self.identity.peer
        self.plan = Plan(profile="residential", settings=Settings(data=str(data)), limits=Limits())
        self.addresses = (Multiaddr.parse("/ip4/127.0.0.1/tcp/4001"),)
        self.peers = FakeBook()
        self.protocols = ("/ipfs/id/1.0.0",)
        self.counters = {"sent.plumtree": 7}
        self.uptime = 12.5
        self.watches: list[FakeWatch] = []
        self.hold = asyncio.Event()
        relay = f"/ip4/203.0.113.9/tcp/4001/p2p/{peer_text(identity(8).peer)}/p2p-circuit"
        self.open: list[FakeConnection] = [
            FakeConnection(identity(2).peer, "/ip4/127.0.0.1/udp/4001/quic-v1"),
            FakeConnection(identity(3).peer, "/ip4/192.168.1.7/tcp/4001", inbound=True),
            FakeConnection(identity(4).peer, relay),
        ]
        self.libp2p = FakeLibp2p(self)
        self.broadcast = FakeBroadcast(self)
        self.membership = FakeMembership(self)

    def emit(self, event: Event) -> None:
        for watch in self.watches:
            if isinstance(event, watch.kinds):
                watch.put(event)

    def connections(self) -> tuple[FakeConnection, ...]:
        return tuple(self.open)

    def connection(self, peer: PeerId) -> FakeConnection | None:
        return next((connection for connection in self.open if connection.peer == peer), None)

    def watch(self, *kinds: type[Event], limit: int = 1024) -> FakeWatch:
        return FakeWatch(self, kinds, limit)

    async def connect(self, target: PeerId | Multiaddr) -> FakeConnection:
        peer = target.peer if isinstance(target, Multiaddr) else target
        if peer is None:  # a dial that hangs until the test lets it go
            await self.hold.wait()
            return self.open[0]
        found = self.connection(peer)
        if found is None:
            raise Unreachable(f"{short(peer)} at /ip4/192.0.2.1/tcp/1: refused")
        return found

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        self.open = [connection for connection in self.open if connection.peer != peer]

    def plugin(self, name: str) -> Any:
        return {"libp2p": self.libp2p}[name]

    async def join(self, ticket: str) -> PeerId:
        if ticket != "grove1-good":
            raise RemoteProtocolError("not a ticket: it does not begin with grove1")
        return self.open[0].peer

    def ticket(self) -> str:
        return "grove1-good"
