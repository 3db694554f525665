"""Strangers who mean no good: each costs a bound we named, and the others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from random import Random
from typing import Any

import pytest
from grove_quic import wire
from grove_quic.config import Config
from grove_quic.driver.endpoint import Endpoint
from grove_quic.engine import Initial

from grove_core.transport import GATED, DialError
from tests.plugins.fakes import Collector
from tests.plugins.quic.test_quic import ECHO, Pair, collector, play


def stranger(pair: Pair) -> socket.socket:
    """A bare socket that sends to the listener."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind(("127.0.0.1", 0))
    port = pair.address.port
    assert port is not None
    made.connect(("127.0.0.1", port))
    return made


def endpoint(pair: Pair) -> Endpoint:
    return pair.listener._endpoints[0]


def first_flights(pair: Pair, count: int) -> list[bytes]:
    """First datagrams of honest handshakes that nobody will go on with."""
    engines = pair.dialler._engines
    flights = []
    for _ in range(count):
        engine = engines.dial(("127.0.0.1", 1), 0.0)
        flights.append(engine.poll_out(0.0)[0][0])
    return flights


async def is_served(pair: Pair) -> None:
    """An honest peer connects and is answered."""
    connection = await pair.dial()
    stream = await connection.open_stream([ECHO])
    stream.write(b"hello")
    assert await stream.read_exactly(5) == b"hello"
    connection.close()


async def answers(sock: socket.socket, count: int) -> list[bytes]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        return [await loop.sock_recv(sock, 2048) for _ in range(count)]


@pytest.mark.claim("quic.hostile-peers-cost-a-bound")
def test_garbage_leaves_nothing_behind() -> None:
    seed = 5
    print("seed", seed)

    async def scene(pair: Pair) -> None:
        rng = Random(seed)
        with stranger(pair) as sock:
            for number in range(600):
                data = rng.randbytes(rng.choice((1, 20, 64, 1200, 1400)))
                if number % 3 == 0:  # in the shape of an Initial
                    head = struct.pack(">BIB", 0xC0 | rng.getrandbits(2), 1, 8)
                    data = head + rng.randbytes(8) + b"\0\0\x44\xb0" + rng.randbytes(1300)
                sock.send(data)
                if number % 30 == 0:
                    await asyncio.sleep(0)
            await is_served(pair)
        await pair.there.until(lambda: len(pair.there.admitted) == len(pair.there.given_up) + 1)
        assert endpoint(pair).door.pending == 0
        assert len({id(c) for c in endpoint(pair)._routes.values()}) <= 1

    play(scene)


@pytest.mark.claim("quic.hostile-peers-cost-a-bound")
def test_mutated_packets_cost_no_connection_but_their_own() -> None:
    async def scene(pair: Pair) -> None:
        rng = Random(9)
        flights = first_flights(pair, 20)
        with stranger(pair) as sock:
            for _ in range(300):
                data = bytearray(rng.choice(flights))
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                sock.send(data)
                await asyncio.sleep(0)
            await is_served(pair)

    play(scene)


@pytest.mark.claim("quic.hostile-peers-cost-a-bound")
def test_a_handshake_flood_is_bounded_and_honest_peers_prove_their_address() -> None:
    config = Config(handshakes=8, retry_above=4, handshake_timeout=1.0)

    async def scene(pair: Pair) -> None:
        with stranger(pair) as sock:
            for flight in first_flights(pair, 100):
                sock.send(flight)
                await asyncio.sleep(0)
            await is_served(pair)
            door = endpoint(pair).door
            assert door.pending <= 4
            assert len(pair.there.admitted) <= 6
            # What the crowd got instead: a Retry each, shorter than what it sent.
            await answers(sock, 20)
        await pair.there.until(lambda: door.pending == 0)
        assert len(pair.there.admitted) == len(pair.there.given_up) + 1
        assert pair.there.live == []

    play(scene, config)


def test_more_pending_handshakes_than_the_bound_are_dropped() -> None:
    config = Config(handshakes=3, retry_above=1000, handshake_timeout=1.0)

    async def scene(pair: Pair) -> None:
        with stranger(pair) as sock:
            for flight in first_flights(pair, 30):
                sock.send(flight)
            await pair.there.until(lambda: len(pair.there.admitted) == 3)
            await pair.there.until(lambda: len(pair.there.given_up) == 3)
        assert len(pair.there.admitted) == 3
        await is_served(pair)

    play(scene, config)


def test_a_client_first_datagram_below_1200_bytes_is_dropped() -> None:
    async def scene(pair: Pair) -> None:
        (flight,) = first_flights(pair, 1)
        with stranger(pair) as sock:
            sock.send(flight[:1199])
            await is_served(pair)
        assert len(pair.there.admitted) == 1

    play(scene)


def test_an_unknown_version_is_told_ours() -> None:
    async def scene(pair: Pair) -> None:
        (flight,) = first_flights(pair, 1)
        with stranger(pair) as sock:
            sock.send(flight[:1] + b"\x6b\x33\x43\xcf" + flight[5:])  # version 2, RFC 9369
            (answer,) = await answers(sock, 1)
        assert answer[1:5] == b"\0\0\0\0"
        assert answer[-4:] == b"\0\0\0\x01"
        assert pair.there.admitted == []

    play(scene)


def test_a_refused_peer_learns_it_at_once_and_costs_no_handshake() -> None:
    async def scene(pair: Pair) -> None:
        pair.there.gate = lambda remote: GATED
        with pytest.raises(DialError, match="QUIC error 0x2"):
            await pair.dial()
        assert endpoint(pair)._routes == {}

    play(scene)


def test_answers_to_refused_peers_are_rationed() -> None:
    async def scene(pair: Pair) -> None:
        pair.there.gate = lambda remote: GATED
        flights = first_flights(pair, 40)
        with stranger(pair) as sock:
            for flight in flights:
                sock.send(flight)
            await answers(sock, 5)
            for _ in range(50):
                await asyncio.sleep(0)
            late = 0
            with contextlib.suppress(BlockingIOError):
                while late < 40:
                    sock.recv(2048)
                    late += 1
            assert late <= 2

    play(scene, Config(refusals_per_second=5.0))


@pytest.mark.claim("quic.hostile-peers-cost-a-bound")
def test_a_peer_that_opens_streams_without_end_is_held_at_the_limit() -> None:
    async def scene(pair: Pair) -> None:
        pair.there.handlers["/hold"] = lambda stream: None
        connection = await pair.dial()
        for _ in range(32):
            (await connection.open_stream(["/hold"])).write(b"x")
        waiting = [asyncio.ensure_future(connection.open_stream(["/hold"])) for _ in range(10)]
        await pair.there.until(lambda: pair.there.live)
        await is_served(pair)
        assert pair.there.live[0].stream_count == 32
        assert not any(each.done() for each in waiting)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    play(scene, streams=32)


@pytest.mark.claim("quic.hostile-peers-cost-a-bound")
def test_a_peer_that_sends_to_readers_who_do_not_read_is_held_at_the_connection_window() -> None:
    config = Config(stream_window=1 << 17, connection_window=1 << 18)

    async def scene(pair: Pair) -> None:
        held: list[Collector] = []

        def hold(stream: Any) -> None:
            held.append(Collector(stream, grants=False))
            stream.attach(held[-1])

        pair.there.handlers["/hold"] = hold
        connection = await pair.dial()
        for _ in range(10):
            (await connection.open_stream(["/hold"])).write(bytes(1 << 18))
        for _ in range(20):
            stream = await pair.dial()
            stream.close()
        assert sum(each.size for each in held) <= 1 << 18

    play(scene, config)


def test_a_reader_that_never_reads_holds_up_only_itself() -> None:
    async def scene(pair: Pair) -> None:
        arriving = await collector(pair, "/hold", grants=False)
        connection = await pair.dial()
        stream = await connection.open_stream(["/hold"])
        stream.write(bytes(4 << 20))
        await arriving()
        draining = asyncio.ensure_future(stream.drain())
        await is_served(pair)
        assert not draining.done()
        stream.reset(0x1002)
        with pytest.raises(Exception, match="reset by us"):
            await draining

    play(scene)


def test_what_the_system_refuses_to_send_to_fails_the_dial_at_once() -> None:
    async def scene(pair: Pair) -> None:
        from grove_core.multiaddr import Multiaddr

        with pytest.raises(DialError, match=r"255\.255\.255\.255"):
            await pair.dialler.dial(Multiaddr.parse("/ip4/255.255.255.255/udp/9/quic-v1"), None)

    play(scene)


def test_first_flights_are_what_we_take_them_for() -> None:
    async def scene(pair: Pair) -> None:
        (flight,) = first_flights(pair, 1)
        assert isinstance(wire.initial(flight), Initial)

    play(scene)
