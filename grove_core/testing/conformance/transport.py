"""What every transport must do, on real sockets (or whatever it uses) on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from grove_core.errors import GroveError
from grove_core.identity import Identity
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.transport import (
    RESOURCE_LIMIT_EXCEEDED,
    Connection,
    DialError,
    ProtocolNotSupported,
    Stream,
    StreamClosed,
    StreamHandler,
    StreamReset,
    Transport,
)

ECHO = "/grove/conformance/echo/1.0.0"
SINK = "/grove/conformance/sink/1.0.0"
RESET = "/grove/conformance/reset/1.0.0"


class Door:
    """One side: an `Upcalls` that serves three small protocols and writes down what happens."""

    def __init__(self, number: int) -> None:
        self.identity = Identity.from_seed(bytes([number]) * 32)
        self.held_streams: list[Stream] = []
        self.handlers: dict[str, StreamHandler] = {
            ECHO: lambda stream: self._start(self._echo(stream)),
            SINK: self.held_streams.append,
            RESET: lambda stream: stream.reset(0x1003),
        }
        self.refuse_with = 0
        self.connections: list[Connection] = []
        self.lost: list[tuple[Connection, str]] = []
        self.admitted = 0
        self.given_up = 0
        self.max_streams = 128
        self._tasks: dict[asyncio.Task[None], None] = {}

    def admit(self, remote: Multiaddr) -> int:
        if not self.refuse_with:
            self.admitted += 1
        return self.refuse_with

    def gave_up(self, remote: Multiaddr) -> None:
        self.given_up += 1

    def opened(self, connection: Connection) -> None:
        self.connections.append(connection)

    def closed(self, connection: Connection, reason: str) -> None:
        self.lost.append((connection, reason))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    async def _echo(self, stream: Stream) -> None:
        try:
            while data := await stream.read():
                stream.write(data)
                await stream.drain()
            stream.close_write()
        except GroveError:
            pass  # the test that caused it looks at its own side


async def until(done: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for done() to hold, one loop turn at a time; TimeoutError after so many seconds."""
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.001)


class TransportConformance:
    """Set `build` (Upcalls -> Transport) and `listen`, an address whose port is chosen by the system."""

    listen: str
    window: int = 16 * 1024 * 1024
    """Bytes a writer may get rid of while nobody reads: buffers and windows together, at most."""

    def build(self, upcalls: Any) -> Transport:
        raise NotImplementedError

    def run(
        self, scene: Callable[[Door, Transport, Door, Transport, Multiaddr], Awaitable[None]]
    ) -> None:
        """Two doors, the second listening; scene(dialler, transport, listener, transport, address)."""

        async def play() -> None:
            async with asyncio.timeout(60):
                here, there = Door(1), Door(2)
                dialler, listener = self.build(here), self.build(there)
                try:
                    (address, *_) = await listener.listen(Multiaddr.parse(self.listen))
                    await scene(here, dialler, there, listener, address)
                finally:
                    await dialler.close()
                    await listener.close()

        asyncio.run(play())

    def test_both_ends_know_each_other(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            assert dialler.rank(address) is not None
            connection = await dialler.dial(address, there.identity.peer)
            await until(lambda: bool(there.connections))
            assert connection.peer == there.identity.peer
            assert there.connections[0].peer == here.identity.peer
            assert not connection.inbound
            assert there.connections[0].inbound
            assert here.connections == [connection]

        self.run(scene)

    def test_whoever_answers_is_accepted_when_nobody_is_expected(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            assert (await dialler.dial(address, None)).peer == there.identity.peer

        self.run(scene)

    def test_a_wrong_peer_is_refused(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            stranger: PeerId = Identity.from_seed(b"\x09" * 32).peer
            with pytest.raises(DialError):
                await dialler.dial(address, stranger)
            assert here.connections == []

        self.run(scene)

    def test_nobody_there_is_an_error_with_the_address(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            await listener.close()
            with pytest.raises(DialError):
                await dialler.dial(address, there.identity.peer)

        self.run(scene)

    def test_a_refused_connection_is_not_opened(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            there.refuse_with = RESOURCE_LIMIT_EXCEEDED
            with pytest.raises(DialError):
                await dialler.dial(address, there.identity.peer)
            assert there.connections == []
            there.refuse_with = 0
            await dialler.dial(address, there.identity.peer)

        self.run(scene)

    def test_bytes_come_back_in_order_and_the_end_is_seen(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            connection = await dialler.dial(address, there.identity.peer)
            stream = await connection.open_stream([ECHO])
            payload = bytes(range(256)) * 4096  # 1 MiB

            async def write() -> None:
                for start in range(0, len(payload), 50_000):
                    stream.write(payload[start : start + 50_000])
                    await stream.drain()
                stream.close_write()

            writing = asyncio.get_running_loop().create_task(write())
            got = bytearray()
            while data := await stream.read():
                got += data
            await writing
            assert bytes(got) == payload
            assert stream.protocol == ECHO

        self.run(scene)

    def test_the_first_protocol_both_speak_is_chosen_and_none_is_an_error(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            connection = await dialler.dial(address, there.identity.peer)
            stream = await connection.open_stream(["/not/this/1.0.0", ECHO, SINK])
            assert stream.protocol == ECHO
            with pytest.raises(ProtocolNotSupported):
                await connection.open_stream(["/not/this/1.0.0", "/nor/that/1.0.0"])
            lazy = await connection.open_stream(["/not/this/1.0.0"])
            with pytest.raises((ProtocolNotSupported, StreamReset)):
                await lazy.read()

        self.run(scene)

    def test_a_reset_ends_a_stream_and_only_that_stream(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            connection = await dialler.dial(address, there.identity.peer)
            good = await connection.open_stream([ECHO])
            bad = await connection.open_stream([RESET])
            bad.write(b"x")
            with pytest.raises((StreamReset, StreamClosed)):
                await bad.read()
            good.write(b"still here")
            assert await good.read_exactly(10) == b"still here"

        self.run(scene)

    def test_a_reader_that_does_not_read_stops_the_writer(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            connection = await dialler.dial(address, there.identity.peer)
            stream = await connection.open_stream([SINK])
            written = 0
            chunk = bytes(65536)
            try:
                async with asyncio.timeout(2):
                    while written <= 2 * self.window:
                        stream.write(chunk)
                        written += len(chunk)
                        await stream.drain()
            except TimeoutError:
                pass
            assert written <= self.window, f"{written} bytes left although nobody reads"
            got = 0
            while got < written:  # once somebody reads, everything arrives
                got += len(await there.held_streams[0].read())
            assert got == written

        self.run(scene)

    def test_a_sink_gets_what_was_buffered_and_grants_credit_itself(self) -> None:
        class Bucket:
            def __init__(self, stream: Stream) -> None:
                self.stream, self.got, self.ended, self.lost = stream, bytearray(), False, False

            def data_received(self, data: bytes) -> None:
                self.got += data
                self.stream.grant(len(data))

            def eof_received(self) -> None:
                self.ended = True

            def stream_lost(self, error: GroveError | None) -> None:
                self.lost = True

        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            connection = await dialler.dial(address, there.identity.peer)
            stream = await connection.open_stream([SINK])
            stream.write(b"early")
            await until(lambda: bool(there.held_streams))
            await asyncio.sleep(0.01)
            bucket = Bucket(there.held_streams[0])
            there.held_streams[0].attach(bucket)
            payload = bytes(2 * 1024 * 1024)
            for start in range(0, len(payload), 65536):
                stream.write(payload[start : start + 65536])
                await stream.drain()
            stream.close_write()
            await until(lambda: bucket.ended)
            assert bytes(bucket.got) == b"early" + payload
            there.held_streams[0].close_write()
            await until(lambda: bucket.lost)

        self.run(scene)

    def test_many_streams_at_once(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            connection = await dialler.dial(address, there.identity.peer)

            async def one(number: int) -> None:
                stream = await connection.open_stream([ECHO])
                message = b"%08d" % number
                stream.write(message)
                assert await stream.read_exactly(8) == message
                stream.close_write()
                assert await stream.read() == b""

            for start in range(0, 300, 100):
                await asyncio.gather(*(one(number) for number in range(start, start + 100)))
            await until(lambda: connection.stream_count == 0)

        self.run(scene)

    def test_a_remote_has_no_more_streams_open_than_the_node_allows(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            connection = await dialler.dial(address, there.identity.peer)
            echo = await connection.open_stream([ECHO])
            held = [await connection.open_stream([SINK]) for _ in range(there.max_streams - 1)]
            for stream in held:
                stream.write(b"x")
            await until(lambda: len(there.held_streams) == len(held))

            async def one_more() -> None:  # it waits, or it is reset
                stream = await connection.open_stream([SINK])
                stream.write(b"x")

            beyond = asyncio.ensure_future(one_more())
            for _ in range(10):
                echo.write(b"still here")
                assert await echo.read_exactly(10) == b"still here"
            assert len(there.held_streams) == len(held)
            beyond.cancel()
            await asyncio.gather(beyond, return_exceptions=True)

        self.run(scene)

    def test_closing_is_seen_by_both_ends_and_by_the_streams(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            connection = await dialler.dial(address, there.identity.peer)
            stream = await connection.open_stream([ECHO])
            stream.write(b"x")
            assert await stream.read() == b"x"
            there.connections[0].close(0, "enough")
            with pytest.raises((StreamClosed, StreamReset)):
                await stream.read()
            await connection.wait_closed()
            await until(lambda: len(here.lost) == 1 and len(there.lost) == 1)
            with pytest.raises((StreamClosed, StreamReset)):
                await connection.open_stream([ECHO])

        self.run(scene)

    def test_every_admitted_attempt_is_accounted_for(self) -> None:
        async def scene(
            here: Door, dialler: Transport, there: Door, listener: Transport, address: Multiaddr
        ) -> None:
            await dialler.dial(address, there.identity.peer)
            with pytest.raises(DialError):
                await dialler.dial(address, Identity.from_seed(b"\x09" * 32).peer)
            await until(lambda: there.admitted == len(there.connections) + there.given_up)

        self.run(scene)
