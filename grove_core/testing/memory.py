"""A transport without sockets: addresses `/memory/N`, real stream semantics, nothing but callbacks.

For tests and for many nodes in one process. Everything travels through `loop.call_soon`, so bytes,
ends, resets and losses arrive in order and never inside the call that caused them. Credit is real:
a sender may have at most `WINDOW` bytes under way that the reader has not consumed.

It encrypts nothing and believes every peer id: not for use between machines, and it cannot be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import msgspec

from grove_core.errors import GroveError
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.specs import TransportSpec
from grove_core.transport import (
    SHUTDOWN,
    Connection,
    DialError,
    ProtocolNotSupported,
    Sink,
    Stream,
    StreamClosed,
    StreamReset,
    Upcalls,
)

WINDOW = 256 * 1024
"""Bytes of credit per stream and direction, as yamux begins with."""

_STREAM_LIMIT = 0x1002  # libp2p's stream codes: resource limit exceeded


class MemoryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen: /memory/NUMBER; 0: any free one."""

    listen: tuple[str, ...] = ("/memory/0",)


class MemoryNetwork:
    """The addresses of one test, and who listens at them. One per event loop."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._listening: dict[int, MemoryTransport] = {}

    def spec(self) -> TransportSpec:
        """A transport plugin whose nodes meet in this network only."""
        return TransportSpec(
            name="memory",
            config=MemoryConfig,
            build=lambda config, upcalls: MemoryTransport(self, config, upcalls),
        )


class MemoryTransport:
    """See `grove_core.transport.Transport`."""

    def __init__(self, network: MemoryNetwork, config: MemoryConfig, upcalls: Upcalls) -> None:
        self.network = network
        self.config = config
        self.upcalls = upcalls
        self.connections: dict[MemoryConnection, None] = {}
        self._numbers: list[int] = []

    def rank(self, address: Multiaddr) -> int | None:
        return 10 if address.parts[0][0] == "memory" else None

    async def listen(self, address: Multiaddr) -> Sequence[Multiaddr]:
        number = int(address.value("memory") or 0) or next(self.network._numbers)
        if number in self.network._listening:
            raise OSError(f"/memory/{number} is in use")
        self.network._listening[number] = self
        self._numbers.append(number)
        return (Multiaddr(("memory", str(number))),)

    async def dial(self, address: Multiaddr, peer: PeerId | None) -> Connection:
        await asyncio.sleep(0)
        there = self.network._listening.get(int(address.value("memory") or 0))
        if there is None:
            raise DialError(f"{address}: nobody listens")
        here = Multiaddr(
            ("memory", str(self._numbers[0] if self._numbers else next(self.network._numbers)))
        )
        code = there.upcalls.admit(here)
        if code:
            raise DialError(f"{address}: refused (code {code:#x})")
        await asyncio.sleep(0)
        if peer is not None and there.upcalls.identity.peer != peer:
            there.upcalls.gave_up(here)
            raise DialError(f"{address}: another peer answers")
        ours = MemoryConnection(self, there.upcalls.identity.peer, here, address, inbound=False)
        theirs = MemoryConnection(there, self.upcalls.identity.peer, address, here, inbound=True)
        ours.other, theirs.other = theirs, ours
        for side in (ours, theirs):
            side.transport_object.connections[side] = None
        there.upcalls.opened(theirs)
        self.upcalls.opened(ours)
        return ours

    async def close(self) -> None:
        for number in self._numbers:
            self.network._listening.pop(number, None)
        self._numbers = []
        for connection in tuple(self.connections):
            connection.close(SHUTDOWN, "shutdown")
        await asyncio.sleep(0)

    def vanish(self) -> None:
        """Be gone as after `kill -9`: peers see their connections lost, we hear nothing of it."""
        for number in self._numbers:
            self.network._listening.pop(number, None)
        self._numbers = []
        for connection in tuple(self.connections):
            connection.is_silent = True
            connection.close(0, "lost")


class MemoryConnection:
    """One side of a connection. See `grove_core.transport.Connection`."""

    other: MemoryConnection

    def __init__(
        self,
        transport: MemoryTransport,
        peer: PeerId,
        local: Multiaddr,
        remote: Multiaddr,
        *,
        inbound: bool,
    ) -> None:
        self.transport_object = transport
        self.transport = "memory"
        self.peer = peer
        self.local = local
        self.remote = remote
        self.inbound = inbound
        self.rtt = 0.0
        self.code: int | None = None  # what it was closed with, by either side; for tests
        self.is_silent = False
        self.streams: dict[MemoryStream, None] = {}
        self._closed = asyncio.Event()

    @property
    def stream_count(self) -> int:
        return len(self.streams)

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    async def open_stream(self, protocols: Sequence[str]) -> Stream:
        if self.is_closed:
            raise StreamClosed("the connection is closed")
        stream = MemoryStream(self, protocols[0])
        far = MemoryStream(self.other, "")
        stream.far, far.far = far, stream
        self.streams[stream] = None
        agreed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stream.agreed = agreed
        stream.post(far.accept, tuple(protocols))
        if len(protocols) > 1:
            await agreed
        return stream

    def close(self, code: int = 0, reason: str = "") -> None:
        if self.is_closed:
            return
        self._over(code, reason or "closed by us")
        asyncio.get_running_loop().call_soon(self.other._over, code, reason or "closed by the remote")

    def _over(self, code: int, reason: str) -> None:
        if self.is_closed:
            return
        self.code = code
        self._closed.set()
        self.transport_object.connections.pop(self, None)
        if self.is_silent:
            return
        for stream in tuple(self.streams):
            stream.lose(StreamClosed(f"the connection is closed: {reason}"))
        self.transport_object.upcalls.closed(self, reason)

    async def wait_closed(self) -> None:
        await self._closed.wait()


class MemoryStream:
    """One end of a stream. See `grove_core.transport.Stream`."""

    far: MemoryStream

    def __init__(self, connection: MemoryConnection, protocol: str) -> None:
        self.connection = connection
        self.protocol = protocol
        self.agreed: asyncio.Future[None] | None = None
        self._credit = WINDOW  # bytes we may still send
        self._waiting = bytearray()  # written, no credit yet
        self._ending = False  # close_write was called
        self._wrote_end = False  # ... and has left
        self._read_end = False
        self._buffer = bytearray()  # arrived, not read
        self._sink: Sink | None = None
        self._lost: GroveError | None = None
        self._over = False
        self._changed = asyncio.Event()
        self._owed = 0
        self.is_stuck = False
        """Set by tests: credit is kept back, as by a reader that reads no more."""

    def post(self, call: Callable[..., Any], *values: Any) -> None:
        """Let something happen at the other end, in order."""
        asyncio.get_running_loop().call_soon(call, *values)

    # Reading.

    async def read(self, limit: int = 65536) -> bytes:
        assert self._sink is None, "read after attach"
        while not self._buffer:
            if self._lost is not None:
                raise self._lost
            if self._read_end:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._buffer[:limit])
        del self._buffer[:limit]
        self.grant(len(data))
        return data

    async def read_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = await self.read(count - len(data))
            if not more:
                raise StreamClosed(f"the remote ended after {len(data)} of {count} bytes")
            data += more
        return bytes(data)

    def attach(self, sink: Sink) -> None:
        self._sink = sink
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            sink.data_received(data)
        if self._read_end:
            sink.eof_received()
        if self._over:
            sink.stream_lost(self._lost)

    def grant(self, count: int) -> None:
        self._owed += count
        if not self._over and not self.is_stuck:
            owed, self._owed = self._owed, 0
            self.post(self.far._credited, owed)

    def _arrive(self, data: bytes) -> None:
        if self._over:
            return
        if self._sink is not None:
            self._sink.data_received(data)
        else:
            self._buffer += data
            self._changed.set()

    def _arrive_end(self) -> None:
        if self._over:
            return
        self._read_end = True
        self._changed.set()
        if self._sink is not None:
            self._sink.eof_received()
        self._maybe_finish()

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._lost is not None:
            raise self._lost
        if self._over or self._ending:
            raise StreamClosed("we have closed this stream for writing")
        if self._waiting or len(data) > self._credit:
            self._waiting += data
            self._push()
        else:
            self._credit -= len(data)
            self.post(self.far._arrive, bytes(data))

    def _push(self) -> None:
        count = min(self._credit, len(self._waiting))
        if count:
            data = bytes(self._waiting[:count])
            del self._waiting[:count]
            self._credit -= count
            self.post(self.far._arrive, data)
        if not self._waiting:
            self._changed.set()
            if self._ending and not self._wrote_end:
                self._wrote_end = True
                self.post(self.far._arrive_end)
                self._maybe_finish()

    def _credited(self, count: int) -> None:
        self._credit += count
        if self._waiting and not self._over:
            self._push()

    @property
    def buffered(self) -> int:
        return len(self._waiting)

    async def drain(self) -> None:
        while len(self._waiting) > WINDOW:
            if self._lost is not None:
                raise self._lost
            self._changed.clear()
            await self._changed.wait()

    def close_write(self) -> None:
        if not self._over and not self._ending:
            self._ending = True
            self._push()

    # Ending.

    def reset(self, code: int = 0) -> None:
        if self._over:
            return
        self.post(self.far.lose, StreamReset(code))
        self.lose(StreamClosed("we have reset this stream"))

    def lose(self, error: GroveError | None) -> None:
        """Nothing more comes or goes."""
        if self._over:
            return
        self._over = True
        self._lost = error
        self._waiting.clear()
        self.connection.streams.pop(self, None)
        self._changed.set()
        if self.agreed is not None and not self.agreed.done() and error is not None:
            self.agreed.set_exception(error)
            self.agreed.exception()  # looked at, also when nobody waits
        if self._sink is not None:
            self._sink.stream_lost(error)

    def _maybe_finish(self) -> None:
        if self._wrote_end and self._read_end:
            self._over = True
            self.connection.streams.pop(self, None)
            if self._sink is not None:
                self._sink.stream_lost(None)

    # Negotiation.

    def accept(self, protocols: tuple[str, ...]) -> None:
        """We are the far end of a stream that the remote opens."""
        connection = self.connection
        if connection.is_closed:
            return
        handlers = connection.transport_object.upcalls.handlers
        protocol = next((name for name in protocols if name in handlers), None)
        if protocol is None:
            self._over = True
            self.post(
                self.far.lose, ProtocolNotSupported(f"the remote speaks none of {', '.join(protocols)}")
            )
            return
        if sum(1 for stream in connection.streams if stream.agreed is None) >= (
            connection.transport_object.upcalls.max_streams
        ):
            self._over = True
            self.post(self.far.lose, StreamReset(_STREAM_LIMIT))
            return
        self.protocol = protocol
        connection.streams[self] = None
        self.post(self.far._agree, protocol)
        handlers[protocol](self)

    def _agree(self, protocol: str) -> None:
        self.protocol = protocol
        if self.agreed is not None and not self.agreed.done():
            self.agreed.set_result(None)
