"""Any transport of Grove as a rival: serves and dials by the contract of `grove_core.transport`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rounds import COUNT, announce, until_stdin_ends
from grove_core.errors import GroveError
from grove_core.multiaddr import Multiaddr
from grove_core.specs import TransportSpec
from grove_core.transport import Connection, Stream, Transport
from tests.plugins.fakes import Echo, FakeUpcalls

BLOCK = bytes(65536)
BENCH = "/grove-bench/{}/1.0.0"


class Drain:
    """Counts what comes after 8 bytes of length, and says one byte when it is all there."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.left, self.head = stream, 0, b""

    def data_received(self, data: bytes) -> None:
        self.stream.grant(len(data))
        if len(self.head) < COUNT.size:
            self.head += data
            if len(self.head) < COUNT.size:
                return
            self.left, data = COUNT.unpack_from(self.head)[0], self.head[COUNT.size :]
        self.left -= len(data)
        if self.left == 0:
            self.stream.write(b"!")

    def eof_received(self) -> None:
        self.stream.close_write()

    def stream_lost(self, error: GroveError | None) -> None: ...


async def fountain(stream: Stream) -> None:
    """Sends as many bytes as 8 bytes of length ask for, as long as somebody is there to take them."""
    with suppress(GroveError):
        (left,) = COUNT.unpack(await stream.read_exactly(COUNT.size))
        for _ in range(left // len(BLOCK)):
            stream.write(BLOCK)
            await stream.drain()
        stream.close_write()


async def serve(spec: TransportSpec, listen: str) -> None:
    """Be the server."""
    upcalls, tasks = FakeUpcalls(1), set()

    def start(stream: Stream) -> None:
        task = asyncio.ensure_future(fountain(stream))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    upcalls.handlers[BENCH.format("echo")] = lambda stream: stream.attach(Echo(stream))
    upcalls.handlers[BENCH.format("drain")] = lambda stream: stream.attach(Drain(stream))
    upcalls.handlers[BENCH.format("fountain")] = start
    upcalls.opened = upcalls.closed = lambda *_: None  # type: ignore[method-assign] # keeps none
    upcalls.admit = lambda remote: 0  # type: ignore[method-assign]
    transport: Transport = spec.build(spec.config(), upcalls)
    (address,) = await transport.listen(Multiaddr.parse(listen))
    announce(address.with_peer(upcalls.identity.peer))
    await until_stdin_ends()
    await transport.close()


class GroveFlow:
    """A stream of ours."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.receive = stream.read_exactly

    async def send(self, data: bytes) -> None:
        self.stream.write(data)
        if self.stream.buffered > 65536:
            await self.stream.drain()

    async def receive_some(self) -> bytes:
        return await self.stream.read(1 << 20)

    def close(self) -> None:
        self.stream.close_write()


class GroveLink:
    """A connection of ours."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def flow(self, kind: str) -> GroveFlow:
        return GroveFlow(await self.connection.open_stream([BENCH.format(kind)]))

    async def close(self) -> None:
        self.connection.close()
        await self.connection.wait_closed()


class GroveClient:
    """Our dialling side."""

    def __init__(self, spec: TransportSpec, address: str) -> None:
        upcalls = FakeUpcalls(2)
        upcalls.opened = upcalls.closed = lambda *_: None  # type: ignore[method-assign]
        self.transport: Transport = spec.build(spec.config(), upcalls)
        self.address = Multiaddr.parse(address)

    async def connect(self) -> GroveLink:
        return GroveLink(await self.transport.dial(self.address.without_peer(), self.address.peer))

    async def close(self) -> None:
        await self.transport.close()
