"""Two nodes without sockets: streams that are pairs of buffers, and as much of a node as services see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from grove_core.errors import GroveError
from grove_core.identity import Identity
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Limits, Plan, Settings
from grove_core.record import sign_record, verify_record
from grove_core.service import Greeter, PeerEntry
from grove_core.transport import ProtocolNotSupported, StreamClosed, StreamHandler, StreamReset


class FakeStream:
    """One end of a stream. What is written arrives in the next turn of the loop."""

    def __init__(self, connection: FakeConnection, protocol: str) -> None:
        self.connection = connection
        self.protocol = protocol
        self.other: FakeStream = self
        self.received = bytearray()
        self.eof = False
        self.error: GroveError | None = None
        self.write_closed = False
        self.reset_code: int | None = None
        self.changed = asyncio.Event()

    @property
    def buffered(self) -> int:
        return 0

    async def read(self, limit: int = 65536) -> bytes:
        while True:
            if self.error is not None:
                raise self.error
            if self.received or self.eof:
                data = bytes(self.received[:limit])
                del self.received[:limit]
                return data
            self.changed.clear()
            await self.changed.wait()

    async def read_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = await self.read(count - len(data))
            if not more:
                raise StreamClosed("the remote ended the stream")
            data += more
        return data

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.error is not None:
            raise self.error
        if self.write_closed:
            raise StreamClosed("we ended the stream")
        self.other.received += data
        self.other.changed.set()

    async def drain(self) -> None:
        if self.error is not None:
            raise self.error

    def close_write(self) -> None:
        self.write_closed = True
        self.other.eof = True
        self.other.changed.set()

    def reset(self, code: int = 0) -> None:
        if self.reset_code is None:
            self.reset_code = code
            self.error = StreamClosed("we reset the stream")
            self.other.error = self.other.error or StreamReset(code)
            for end in (self, self.other):
                end.changed.set()


class FakeConnection:
    """One end of a connection between two fake nodes."""

    def __init__(self, node: FakeNode, peer: PeerId, remote: Multiaddr) -> None:
        self.node, self.peer, self.remote = node, peer, remote
        self.other: FakeConnection = self
        self.opened: list[FakeStream] = []

    async def open_stream(self, protocols: Sequence[str]) -> FakeStream:
        ours, theirs = FakeStream(self, protocols[0]), FakeStream(self.other, protocols[0])
        ours.other, theirs.other = theirs, ours
        handler = self.other.node.handlers.get(protocols[0])
        if handler is None:
            raise ProtocolNotSupported(protocols[0])
        self.opened.append(ours)
        handler(theirs)  # type: ignore[arg-type]
        return ours


class FakeBook:
    """An address book without bounds."""

    def __init__(self) -> None:
        self.entries: dict[PeerId, PeerEntry] = {}
        self.learnt = asyncio.Event()

    def get(self, peer: PeerId) -> PeerEntry:
        return self.entries.get(peer, PeerEntry(peer=peer))

    def learn(self, peer: PeerId, **news: Any) -> None:
        old = self.get(peer)
        self.entries[peer] = PeerEntry(
            peer=peer,
            addresses=tuple(dict.fromkeys((*news.get("addresses", ()), *old.addresses))),
            protocols=old.protocols if news.get("protocols") is None else tuple(news["protocols"]),
            agent=old.agent if news.get("agent") is None else news["agent"],
            record=old.record,
            sequence=old.sequence,
        )
        self.learnt.set()

    def learn_record(self, record: bytes) -> PeerId:
        told = verify_record(record)
        old = self.get(told.peer)
        self.entries[told.peer] = PeerEntry(
            peer=told.peer,
            addresses=told.addresses,
            protocols=old.protocols,
            agent=old.agent,
            record=record,
            sequence=told.sequence,
        )
        return told.peer


class FakeNode:
    """As much of a LiveNode as grove_libp2p.service uses."""

    def __init__(self, seed: int, addresses: Sequence[Multiaddr] = (), agent: str = "") -> None:
        self.identity = Identity.from_seed(bytes((seed,)) * 32)
        self.peer = self.identity.peer
        self.plan = Plan(profile="test", settings=Settings(agent=agent), limits=Limits())
        self.addresses = tuple(addresses)
        self.peers = FakeBook()
        self.handlers: dict[str, StreamHandler] = {}
        self.greeters: list[Greeter] = []
        self.changed: list[Callable[[], None]] = []
        self.links: list[FakeConnection] = []
        self.own_record: bytes | None = None

    def record(self) -> bytes:
        return (
            sign_record(self.identity, 1, self.addresses) if self.own_record is None else self.own_record
        )

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        assert protocol not in self.handlers
        self.handlers[protocol] = handler

    def unserve(self, protocol: str) -> None:
        del self.handlers[protocol]

    @property
    def protocols(self) -> tuple[str, ...]:
        return tuple(sorted(self.handlers))

    def greet(self, greeter: Greeter) -> None:
        self.greeters.append(greeter)

    def on_protocols_changed(self, callback: Callable[[], None]) -> None:
        self.changed.append(callback)

    def change(self) -> None:
        for callback in self.changed:
            callback()

    def connections(self) -> tuple[FakeConnection, ...]:
        return tuple(self.links)

    def connection(self, peer: PeerId) -> FakeConnection | None:
        return next((link for link in self.links if link.peer == peer), None)

    async def open_stream(self, peer: PeerId, protocols: Sequence[str]) -> FakeStream:
        link = self.connection(peer)
        assert link is not None
        return await link.open_stream(protocols)


def connect(
    a: FakeNode, b: FakeNode, at_a: str = "/ip4/127.0.0.1/tcp/1", at_b: str = "/ip4/127.0.0.1/tcp/2"
) -> tuple[FakeConnection, FakeConnection]:
    """A connection from each side; at_a and at_b: where each end is seen by the other. Greets nobody."""
    from_a = FakeConnection(a, b.peer, Multiaddr.parse(at_b))
    from_b = FakeConnection(b, a.peer, Multiaddr.parse(at_a))
    from_a.other, from_b.other = from_b, from_a
    a.links.append(from_a)
    b.links.append(from_b)
    return from_a, from_b


async def greet(connection: FakeConnection) -> None:
    """What the node does with a new connection."""
    await asyncio.gather(*(greeter(connection) for greeter in connection.node.greeters))  # type: ignore[arg-type]
