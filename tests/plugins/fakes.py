"""A node's side of a transport, for tests and benchmarks: `FakeUpcalls` remembers what it was told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from grove_core.errors import GroveError
from grove_core.identity import Identity
from grove_core.multiaddr import Multiaddr
from grove_core.transport import Connection, Stream, StreamHandler


class FakeUpcalls:
    """Upcalls that admit everybody (or whomever `gate` says) and keep a diary."""

    def __init__(self, seed: int = 0, *, gate: Callable[[Multiaddr], int] | None = None) -> None:
        self.identity = Identity.from_seed(bytes([seed]) * 32)
        self.max_streams = 256
        self.handlers: dict[str, StreamHandler] = {}
        self.gate = gate
        self.admitted: list[Multiaddr] = []
        self.given_up: list[Multiaddr] = []
        self.connections: list[Connection] = []  # every one ever opened, oldest first
        self.reasons: dict[Connection, str] = {}  # of those that are closed, why
        self._changed: asyncio.Event = asyncio.Event()

    def admit(self, remote: Multiaddr) -> int:
        code = self.gate(remote) if self.gate is not None else 0
        if code == 0:
            self.admitted.append(remote)
        return code

    def gave_up(self, remote: Multiaddr) -> None:
        self.given_up.append(remote)
        self._changed.set()

    def opened(self, connection: Connection) -> None:
        self.connections.append(connection)
        self._changed.set()

    def closed(self, connection: Connection, reason: str) -> None:
        assert connection in self.connections, "closed without opened"
        assert connection not in self.reasons, "closed twice"
        self.reasons[connection] = reason
        self._changed.set()

    @property
    def live(self) -> list[Connection]:
        """Connections open now, oldest first."""
        return [connection for connection in self.connections if connection not in self.reasons]

    async def until(self, condition: Callable[[], object], bound: float = 10.0) -> None:
        """Wait until something this node was told makes a condition true."""
        async with asyncio.timeout(bound):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def keep(self, protocol: str) -> list[Stream]:
        """Serve a protocol by keeping its streams, which nobody reads; wait for them by `until`."""
        kept: list[Stream] = []

        def handler(stream: Stream) -> None:
            kept.append(stream)
            self._changed.set()

        self.handlers[protocol] = handler
        return kept

    def serve_echo(self, protocol: str = "/echo/1.0.0") -> None:
        """Serve a protocol that sends back what it gets, and finishes when the remote does."""
        self.handlers[protocol] = lambda stream: stream.attach(Echo(stream))


class Echo:
    """Sends back every byte as it comes."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def data_received(self, data: bytes) -> None:
        self.stream.write(data)
        self.stream.grant(len(data))

    def eof_received(self) -> None:
        self.stream.close_write()

    def stream_lost(self, error: GroveError | None) -> None:
        pass


class Collector:
    """A sink that keeps what it gets and grants credit at once, unless told to keep it back."""

    def __init__(self, stream: Stream, *, grants: bool = True) -> None:
        self.stream = stream
        self.grants = grants
        self.chunks: deque[bytes] = deque()
        self.size = 0
        self.eof = False
        self.ends: list[GroveError | None] = []
        self._changed = asyncio.Event()

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    def data_received(self, data: bytes) -> None:
        assert not self.ends, "data after stream_lost"
        self.chunks.append(data)
        self.size += len(data)
        if self.grants:
            self.stream.grant(len(data))
        self._changed.set()

    def eof_received(self) -> None:
        assert not self.eof
        self.eof = True
        self._changed.set()

    def stream_lost(self, error: GroveError | None) -> None:
        self.ends.append(error)
        self._changed.set()

    async def until(self, condition: Callable[[], object], bound: float = 10.0) -> None:
        """Wait until what came makes a condition true."""
        async with asyncio.timeout(bound):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
