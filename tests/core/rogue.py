"""A peer on the memory transport that obeys nobody: it opens what it likes and writes what it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from grove_core import Node
from grove_core.errors import GroveError
from grove_core.identity import Identity
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.testing.memory import MemoryConfig, MemoryNetwork, MemoryTransport
from grove_core.transport import Connection, Stream, StreamHandler


class Ear:
    """A stream's sink that keeps what it hears. eager: gives credit back."""

    def __init__(self, stream: Stream, eager: bool = True) -> None:
        self.stream = stream
        self.eager = eager
        self.chunks: list[bytes] = []
        self.at_end = False
        self.lost: list[GroveError | None] = []
        stream.attach(self)

    @property
    def heard(self) -> bytes:
        return b"".join(self.chunks)

    def data_received(self, data: bytes) -> None:
        self.chunks.append(data)
        if self.eager:
            self.stream.grant(len(data))

    def eof_received(self) -> None:
        self.at_end = True

    def stream_lost(self, error: GroveError | None) -> None:
        self.lost.append(error)


class Rogue:
    """Its own `Upcalls`. `ears` are the streams that others opened to it, by protocol."""

    def __init__(self, network: MemoryNetwork, number: int = 99) -> None:
        self.identity = Identity.from_seed(bytes(30) + number.to_bytes(2, "big"))
        self.ears: dict[str, list[Ear]] = {}
        self.eager = True
        self.connections: list[Connection] = []
        self.ends: list[str] = []
        self._handlers: dict[str, StreamHandler] = {}
        self.transport = MemoryTransport(network, MemoryConfig(), self)
        self.address = Multiaddr(("memory", str(number)))

    async def listen(self) -> Rogue:
        await self.transport.listen(self.address)
        return self

    @property
    def peer(self) -> PeerId:
        return self.identity.peer

    def serve(self, *protocols: str) -> None:
        for protocol in protocols:
            ears = self.ears.setdefault(protocol, [])
            self._handlers[protocol] = lambda stream, ears=ears: ears.append(Ear(stream, self.eager))

    async def meet(self, node: Node) -> Connection:
        """Dial a node and wait until it has announced us."""
        connection = await self.transport.dial(node.addresses[0], node.peer)
        await until(lambda: any(c.peer == self.peer for c in node.connections()))
        swarm: Any = node._swarm
        await until(lambda: swarm.is_up(self.peer) or connection not in self.connections)
        return connection

    # Upcalls.

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        return self._handlers

    max_streams = 256

    def admit(self, remote: Multiaddr) -> int:
        return 0

    def gave_up(self, remote: Multiaddr) -> None:
        pass

    def opened(self, connection: Connection) -> None:
        self.connections.append(connection)

    def closed(self, connection: Connection, reason: str) -> None:
        self.connections.remove(connection)
        self.ends.append(reason)


async def until(done: Callable[[], bool], seconds: float = 10.0) -> None:
    """Let the loop run until done() holds; AssertionError if it does not in time."""
    end = asyncio.get_running_loop().time() + seconds
    while not done():
        assert asyncio.get_running_loop().time() < end, f"still not true after {seconds} s"
        await asyncio.sleep(0.001)


async def turns(count: int = 200) -> None:
    """Let the loop turn: on the memory transport, whose every step is a turn, anything begun is over."""
    for _ in range(count):
        await asyncio.sleep(0)
