"""Ping, against libp2p/specs ping/ping.md: 32 bytes, echoed; one stream out, at most two in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from grove_libp2p.config import Config
from grove_libp2p.ping import PING, SIZE
from grove_libp2p.service import Libp2p

from grove_core.errors import RemoteProtocolError
from grove_core.transport import ProtocolNotSupported, StreamReset
from tests.plugins.libp2p.fakes import FakeConnection, FakeNode, FakeStream, connect

Test = Callable[[FakeNode, FakeNode, FakeConnection, Libp2p], Awaitable[None]]


def run(test: Test, config: Config | None = None) -> None:
    async def main() -> None:
        a, b = FakeNode(1), FakeNode(2)
        from_a, _ = connect(a, b)
        services = [Libp2p(config or Config(), node) for node in (a, b)]  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            for service in services:
                await service.start()
            await test(a, b, from_a, services[0])
            for service in services:
                await service.stop()
            assert not services[1]._serving

    asyncio.run(main())


@pytest.mark.claim("ping.echo")
def test_many_pings_on_one_stream() -> None:
    async def test(a: FakeNode, b: FakeNode, from_a: FakeConnection, service: Libp2p) -> None:
        times = [rtt async for rtt in service.ping(b.peer, count=100)]
        assert len(times) == 100
        assert all(rtt >= 0 for rtt in times)
        assert len(from_a.opened) == 1
        assert from_a.opened[0].write_closed

    run(test)


def test_one_ping_per_stream_many_times() -> None:
    async def test(a: FakeNode, b: FakeNode, from_a: FakeConnection, service: Libp2p) -> None:
        for _ in range(20):
            assert len([rtt async for rtt in service.ping(b.peer)]) == 1
            await asyncio.sleep(0)  # the far end sees our FIN
        assert len(from_a.opened) == 20

    run(test)


def test_echo_is_verbatim_however_the_bytes_are_cut() -> None:
    async def test(a: FakeNode, b: FakeNode, from_a: FakeConnection, service: Libp2p) -> None:
        stream = await from_a.open_stream([PING])
        payload = bytes(range(2 * SIZE))
        for at in range(0, len(payload), 7):
            stream.write(payload[at : at + 7])
            await asyncio.sleep(0)
        assert await stream.read_exactly(2 * SIZE) == payload
        stream.close_write()
        assert await stream.read() == b""

    run(test)


@pytest.mark.claim("ping.limits")
def test_two_streams_of_a_peer_are_served_and_a_third_is_reset() -> None:
    async def test(a: FakeNode, b: FakeNode, from_a: FakeConnection, service: Libp2p) -> None:
        first, second, third = [await from_a.open_stream([PING]) for _ in range(3)]
        with pytest.raises(StreamReset):
            await third.read()
        for stream in (first, second):
            stream.write(bytes(SIZE))
            assert await stream.read_exactly(SIZE) == bytes(SIZE)
        first.close_write()
        assert await first.read() == b""
        fourth = await from_a.open_stream([PING])  # the first one's place is free again
        fourth.write(bytes(SIZE))
        assert await fourth.read_exactly(SIZE) == bytes(SIZE)

    run(test)


@pytest.mark.claim("ping.limits")
def test_we_use_one_stream_per_peer_at_a_time() -> None:
    async def test(a: FakeNode, b: FakeNode, from_a: FakeConnection, service: Libp2p) -> None:
        open_now = 0

        def serve(stream: FakeStream) -> None:
            async def echo() -> None:
                nonlocal open_now
                open_now += 1
                assert open_now == 1
                while data := await stream.read(SIZE):
                    await asyncio.sleep(0)
                    open_now -= stream.eof
                    stream.write(data)
                open_now -= 1

            tasks.append(asyncio.ensure_future(echo()))

        tasks: list[asyncio.Future[None]] = []
        b.handlers[PING] = serve  # type: ignore[assignment]

        async def ping() -> int:
            return len([rtt async for rtt in service.ping(b.peer, count=3)])

        assert await asyncio.gather(*(ping() for _ in range(5))) == [3] * 5
        await asyncio.gather(*tasks)

    run(test)


def test_other_bytes_than_were_sent_are_an_error_and_end_the_stream() -> None:
    async def test(a: FakeNode, b: FakeNode, from_a: FakeConnection, service: Libp2p) -> None:
        b.handlers[PING] = lambda stream: stream.write(bytes(SIZE))
        with pytest.raises(RemoteProtocolError, match="other bytes"):
            await anext(service.ping(b.peer))
        assert from_a.opened[0].reset_code == 0

    run(test)


def test_silence_is_a_timeout_and_ends_the_stream() -> None:
    async def test(a: FakeNode, b: FakeNode, from_a: FakeConnection, service: Libp2p) -> None:
        b.handlers[PING] = lambda stream: None
        with pytest.raises(TimeoutError):
            await anext(service.ping(b.peer))
        assert from_a.opened[0].reset_code == 0

    run(test, Config(ping_timeout=0.01))


def test_stream_that_stays_silent_is_not_served_for_ever() -> None:
    async def test(a: FakeNode, b: FakeNode, from_a: FakeConnection, service: Libp2p) -> None:
        stream = await from_a.open_stream([PING])
        with pytest.raises(StreamReset):
            await stream.read()

    run(test, Config(ping_idle=0.01))


def test_end_inside_a_ping_is_reset() -> None:
    async def test(a: FakeNode, b: FakeNode, from_a: FakeConnection, service: Libp2p) -> None:
        stream = await from_a.open_stream([PING])
        stream.write(bytes(SIZE - 1))
        stream.close_write()
        with pytest.raises(StreamReset):
            await stream.read()

    run(test)


def test_peer_without_ping_is_told_apart() -> None:
    async def test(a: FakeNode, b: FakeNode, from_a: FakeConnection, service: Libp2p) -> None:
        handler = b.handlers.pop(PING)
        with pytest.raises(ProtocolNotSupported):
            await anext(service.ping(b.peer))
        b.handlers[PING] = handler

    run(test)
