"""Two nodes on real loopback sockets: what libp2p asks of QUIC (specs quic/README.md, tls/tls.md)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grove_quic
import pytest
from grove_libp2p.certificate import make_certificate
from grove_quic.config import Config
from grove_quic.driver import QuicTransport
from grove_quic.driver.connection import QuicConnection

from grove_core.errors import GroveError
from grove_core.identity import Identity
from grove_core.multiaddr import Multiaddr
from grove_core.transport import (
    SHUTDOWN,
    Connection,
    DialError,
    StreamClosed,
    StreamReset,
)
from tests.plugins.fakes import Collector, FakeUpcalls

LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/udp/0/quic-v1")
ECHO = "/echo/1.0.0"


class Pair:
    """Two nodes; `there` listens at `address` and echoes."""

    def __init__(self, config: Config, streams: int = 256) -> None:
        self.here, self.there = FakeUpcalls(1), FakeUpcalls(2)
        self.here.max_streams = self.there.max_streams = streams
        self.here.serve_echo()
        self.there.serve_echo()
        self.dialler = QuicTransport(config, self.here)
        self.listener = QuicTransport(config, self.there)
        self.address = LOOPBACK

    async def dial(self) -> QuicConnection:
        connection = await self.dialler.dial(self.address, self.there.identity.peer)
        assert isinstance(connection, QuicConnection)
        return connection


@asynccontextmanager
async def two_nodes(
    config: Config | None = None, listen: Multiaddr = LOOPBACK, *, streams: int = 256
) -> AsyncIterator[Pair]:
    async with asyncio.timeout(30):
        pair = Pair(config or Config(handshake_timeout=2.0), streams)
        (pair.address,) = await pair.listener.listen(listen)
        try:
            yield pair
        finally:
            await pair.dialler.close()
            await pair.listener.close()


async def collector(
    pair: Pair, protocol: str, *, grants: bool = True
) -> Callable[[], Awaitable[Collector]]:
    """Serve a protocol by collecting; the result waits for the next stream's collector."""
    arrived: asyncio.Queue[Collector] = asyncio.Queue()

    def collect(stream: Any) -> None:
        kept = Collector(stream, grants=grants)
        stream.attach(kept)
        arrived.put_nowait(kept)

    pair.there.handlers[protocol] = collect
    return arrived.get


def play(
    scene: Callable[[Pair], Awaitable[None]], config: Config | None = None, *, streams: int = 256
) -> None:
    async def main() -> None:
        async with two_nodes(config, streams=streams) as pair:
            await scene(pair)

    asyncio.run(main())


def test_naming_the_plugin_loads_no_engine() -> None:
    code = "import sys, grove_quic; print('aioquic' in sys.modules or 'cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.claim("quic.one-socket")
def test_one_port_dials_and_listens() -> None:
    async def scene(pair: Pair) -> None:
        (mine,) = await pair.dialler.listen(LOOPBACK)
        outward = await pair.dial()
        await pair.there.until(lambda: pair.there.live)
        assert pair.there.live[0].remote == mine, "the dial left from the listening port"
        inward = await pair.listener.dial(mine, pair.here.identity.peer)
        assert inward.remote == mine
        assert inward.local == pair.address
        for connection in (outward, inward):
            stream = await connection.open_stream([ECHO])
            stream.write(b"both ways")
            assert await stream.read_exactly(9) == b"both ways"

    play(scene)


def test_ip6_and_a_wildcard_socket_know_where_they_end() -> None:
    async def main() -> None:
        async with two_nodes(listen=Multiaddr.parse("/ip6/::/udp/0/quic-v1")) as pair:
            port = pair.address.port
            assert port is not None
            pair.address = Multiaddr.quic("::1", port)
            await pair.dial()
            await pair.there.until(lambda: pair.there.live)
            assert pair.there.live[0].local == Multiaddr.quic("::1", port)
            assert pair.there.live[0].remote.host == "::1"

    asyncio.run(main())


def test_a_port_that_is_taken_is_named() -> None:
    async def scene(pair: Pair) -> None:
        with pytest.raises(GroveError, match=f"cannot listen on {pair.address}"):
            await pair.dialler.listen(pair.address)

    play(scene)


def test_names_are_looked_up_in_the_family_they_ask_for() -> None:
    async def scene(pair: Pair) -> None:
        port = str(pair.address.port)
        named = Multiaddr(("dns4", "localhost"), ("udp", port), ("quic-v1", ""))
        assert (await pair.dialler.dial(named, None)).remote == pair.address
        with pytest.raises(DialError, match="nobody"):
            await pair.dialler.dial(
                Multiaddr(("dns4", "nobody.invalid"), ("udp", port), ("quic-v1", "")), None
            )

    play(scene)


def test_mapped_addresses_are_dialled_and_told_as_ip4() -> None:
    async def scene(pair: Pair) -> None:
        port = pair.address.port
        assert port is not None
        mapped = Multiaddr(("ip6", "::ffff:127.0.0.1"), ("udp", str(port)), ("quic-v1", ""))
        connection = await pair.dialler.dial(mapped, None)
        assert connection.remote == pair.address

    play(scene)


def test_rtt_is_known_after_the_handshake() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        assert 0 < connection.rtt < 1

    play(scene)


# --- certificates: tls.md


class Impostor:
    """Replaces the certificate of a transport by one of our choice."""

    def __init__(self, transport: QuicTransport, certificate: Any, key: Any) -> None:
        engines: Any = transport._engines
        for configuration in (engines._client, engines._server):
            configuration.certificate, configuration.private_key = certificate, key


def unsigned_certificate() -> tuple[Any, Any]:
    """Good X.509, but no libp2p extension."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    start = datetime.now(UTC) - timedelta(hours=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=2))
    return builder.sign(key, SHA256()), key


@pytest.mark.claim("quic.client-certificate")
@pytest.mark.parametrize(
    ("certificate", "code"),
    [
        (lambda: (None, None), 0x100 + 116),
        (unsigned_certificate, 0x100 + 42),
        (lambda: make_certificate(Identity.from_seed(b"\x07" * 32), time.time() + 864_000), 0x100 + 42),
    ],
    ids=["missing", "without the extension", "not yet valid"],
)
def test_a_dialler_without_a_good_certificate_is_refused_before_the_node_sees_it(
    certificate: Callable[[], tuple[Any, Any]], code: int
) -> None:
    async def scene(pair: Pair) -> None:
        Impostor(pair.dialler, *certificate())
        connection = await pair.dial()  # TLS is complete for a client one flight earlier
        await pair.here.until(lambda: pair.here.reasons)
        await connection.wait_closed()
        assert f"{code:#x}" in pair.here.reasons[connection]
        assert pair.there.connections == []
        assert len(pair.there.admitted) == len(pair.there.given_up) == 1

    play(scene)


@pytest.mark.claim("quic.client-certificate")
def test_a_listener_without_a_good_certificate_is_refused() -> None:
    async def scene(pair: Pair) -> None:
        Impostor(pair.listener, *unsigned_certificate())
        with pytest.raises(DialError, match="no libp2p peer"):
            await pair.dial()
        assert pair.here.connections == []
        await pair.there.until(lambda: pair.there.given_up)
        assert pair.there.connections == []

    play(scene)


def test_a_stolen_certificate_does_not_help_without_its_key() -> None:
    async def scene(pair: Pair) -> None:
        stolen, _ = make_certificate(pair.there.identity, time.time())
        _, own = make_certificate(pair.here.identity, time.time())
        Impostor(pair.dialler, stolen, own)
        await pair.dial()
        await pair.here.until(lambda: pair.here.reasons)
        assert "0x133" in next(iter(pair.here.reasons.values()))  # decrypt_error
        assert pair.there.connections == []

    play(scene)


def test_a_wrong_peer_is_named_and_the_listener_told() -> None:
    async def scene(pair: Pair) -> None:
        stranger = Identity.from_seed(b"\x09" * 32).peer
        with pytest.raises(DialError, match=r"expected 12D3KooW.*, found 12D3KooW"):
            await pair.dialler.dial(pair.address, stranger)
        await pair.there.until(lambda: pair.there.given_up or pair.there.reasons)

    play(scene)


def test_another_application_is_refused_by_alpn() -> None:
    async def scene(pair: Pair) -> None:
        engines: Any = pair.dialler._engines
        engines._client.alpn_protocols = ["h3"]
        with pytest.raises(DialError, match="0x178"):
            await pair.dial()

    play(scene)


def test_no_server_name_is_sent() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        engine: Any = connection.engine
        assert engine.configuration.server_name is None

    play(scene)


# --- streams


def test_a_thousand_streams_one_after_another() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        for number in range(1000):
            stream = await connection.open_stream([ECHO])
            stream.write(number.to_bytes(2, "big"))
            stream.close_write()
            assert await stream.read_exactly(2) == number.to_bytes(2, "big")
            assert await stream.read() == b""
        assert connection.stream_count == 0
        await pair.there.until(lambda: pair.there.live)
        assert pair.there.live[0].stream_count <= 1

    play(scene)


def test_two_hundred_streams_at_once() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()

        async def talk(number: int) -> None:
            stream = await connection.open_stream([ECHO])
            stream.write(bytes([number]) * 1000)
            stream.close_write()
            assert await stream.read_exactly(1000) == bytes([number]) * 1000

        await asyncio.gather(*map(talk, range(200)))

    play(scene)


def test_streams_beyond_the_peers_limit_wait_for_their_turn() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        held = [await connection.open_stream([ECHO]) for _ in range(8)]
        ninth = asyncio.ensure_future(connection.open_stream([ECHO]))
        held[0].write(b"x")
        await held[0].read_exactly(1)
        assert not ninth.done()
        held[1].reset()
        stream = await ninth
        stream.write(b"y")
        assert await stream.read_exactly(1) == b"y"

    play(scene, streams=8)


def test_waiting_for_a_stream_ends_with_the_connection() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        held = [await connection.open_stream([ECHO]) for _ in range(2)]
        third = asyncio.ensure_future(connection.open_stream([ECHO]))
        fourth = asyncio.ensure_future(connection.open_stream([ECHO]))
        held[0].write(b"x")
        await held[0].read_exactly(1)
        fourth.cancel()
        connection.close()
        with pytest.raises(StreamClosed):
            await third

    play(scene, streams=2)


def test_a_reset_carries_its_code_in_both_directions() -> None:
    async def scene(pair: Pair) -> None:
        arriving = await collector(pair, "/keep")
        pair.there.handlers["/reset"] = lambda stream: stream.reset(0x1003)
        connection = await pair.dial()
        stream = await connection.open_stream(["/keep"])
        stream.write(b"x")
        kept = await arriving()
        stream.reset(0x1005)
        await kept.until(lambda: kept.ends)
        error = kept.ends[0]
        assert isinstance(error, StreamReset)
        assert error.code == 0x1005

        stream = await connection.open_stream(["/reset"])
        with pytest.raises(StreamReset) as raised:
            await stream.read()
        assert raised.value.code == 0x1003

    play(scene)


def test_twenty_megabytes_arrive_whole() -> None:
    async def scene(pair: Pair) -> None:
        arriving = await collector(pair, "/collect")
        connection = await pair.dial()
        stream = await connection.open_stream(["/collect"])
        block = bytes(range(256)) * 256
        for _ in range(320):
            stream.write(block)
            await stream.drain()
        stream.close_write()
        got = await arriving()
        await got.until(lambda: got.eof)
        assert got.size == 20 << 20
        assert got.data == block * 320

    play(scene)


@pytest.mark.claim("quic.credit-follows-the-reader")
def test_a_slow_reader_stops_the_sender_at_the_window_and_lets_it_go_on() -> None:
    config = Config(stream_window=1 << 18, connection_window=1 << 20)

    async def scene(pair: Pair) -> None:
        arriving = await collector(pair, "/hold", grants=False)
        connection = await pair.dial()
        stream = await connection.open_stream(["/hold"])
        stream.write(bytes(3 << 20))
        got = await arriving()
        negotiated = len(b"\x13/multistream/1.0.0\n\x06/hold\n")
        await got.until(lambda: got.size >= (1 << 18) - negotiated)
        # Nothing more comes; other streams of the same connection go back and forth meanwhile.
        echo = await connection.open_stream([ECHO])
        for _ in range(20):
            echo.write(b"alive")
            await echo.read_exactly(5)
        assert got.size <= 1 << 18
        assert stream.buffered >= (3 << 20) - (1 << 18) - negotiated
        got.grants = True
        got.stream.grant(got.size)
        await got.until(lambda: got.size == 3 << 20)

    play(scene, config)


# --- ends


def test_closing_tells_the_code_and_ends_streams() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        stream = await connection.open_stream([ECHO])
        stream.write(b"x")
        await stream.read_exactly(1)
        await pair.there.until(lambda: pair.there.live)
        pair.there.live[0].close(SHUTDOWN, "good night")
        with pytest.raises(StreamClosed, match="good night"):
            await stream.read()
        await connection.wait_closed()
        assert pair.here.reasons[connection] == "good night (0x1006)"
        with pytest.raises(StreamClosed):
            await connection.open_stream([ECHO])

    play(scene)


def test_closing_a_transport_says_shutdown_after_what_was_written() -> None:
    async def scene(pair: Pair) -> None:
        arriving = await collector(pair, "/collect")
        connection = await pair.dial()
        (await connection.open_stream(["/collect"])).write(bytes(1_000_000))
        await pair.dialler.close()
        await pair.there.until(lambda: pair.there.reasons)
        assert list(pair.there.reasons.values()) == ["closed (0x1006)"]
        assert (await arriving()).size == 1_000_000

    play(scene)


def vanish(transport: QuicTransport) -> None:
    """No word to anyone, as after kill -9."""
    for endpoint in transport._endpoints:
        endpoint.close()


def test_a_peer_that_vanishes_is_noticed_by_the_idle_timeout() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        connection.endpoint._read_errors = lambda: None  # type: ignore[method-assign]
        vanish(pair.listener)
        await pair.here.until(lambda: pair.here.reasons)
        assert "Idle timeout" in pair.here.reasons[connection]

    play(scene, Config(idle_timeout=1.0, keepalive=0.3))


@pytest.mark.skipif(sys.platform != "linux", reason="the error queue is Linux's")
def test_a_killed_peer_on_a_living_host_is_noticed_at_the_next_packet() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        stream = await connection.open_stream([ECHO])
        stream.write(b"x")
        await stream.read_exactly(1)
        vanish(pair.listener)
        stream.write(b"are you there?")
        with pytest.raises(StreamClosed, match="nobody listens"):
            await stream.read()
        assert "nobody listens" in pair.here.reasons[connection]

    play(scene, Config(idle_timeout=100.0))


@pytest.mark.skipif(sys.platform != "linux", reason="the error queue is Linux's")
def test_a_forged_word_that_a_peer_is_gone_costs_one_ping() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        stream = await connection.open_stream([ECHO])
        connection.doubted(111)
        assert connection._doubt_until
        stream.write(b"x")
        await stream.read_exactly(1)
        assert not connection._doubt_until
        assert pair.here.live == [connection]

    play(scene)


@pytest.mark.skipif(sys.platform != "linux", reason="the error queue is Linux's")
def test_a_dial_to_a_port_where_nobody_listens_fails_at_once() -> None:
    async def scene(pair: Pair) -> None:
        vanish(pair.listener)
        with pytest.raises(DialError, match="refused"):
            await pair.dial()

    play(scene, Config(handshake_timeout=600.0))


def test_nothing_of_a_failed_dial_or_a_closed_connection_stays_behind() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        await pair.there.until(lambda: pair.there.live)
        connection.close()
        vanished = Multiaddr.parse("/ip4/127.0.0.1/udp/1/quic-v1")
        with pytest.raises(DialError):
            await pair.dialler.dial(vanished, None)
        endpoints = [*pair.dialler._endpoints, *pair.listener._endpoints]
        async with asyncio.timeout(5):  # three probe timeouts: the closing period of RFC 9000 10.2
            while any(endpoint._routes for endpoint in endpoints):
                await asyncio.sleep(0.01)
        assert connection._handle is None
        assert all(endpoint.connections == {} for endpoint in endpoints)
        assert pair.listener._door.pending == 0

    play(scene, Config(handshake_timeout=1.0))


def test_idle_connections_are_kept_alive() -> None:
    async def scene(pair: Pair) -> None:
        connection = await pair.dial()
        engine: Any = connection.engine
        before = engine._packet_number
        async with asyncio.timeout(5):
            while engine._packet_number < before + 4:
                await asyncio.sleep(0.05)
        assert pair.here.live == [connection]

    play(scene, Config(idle_timeout=1.0, keepalive=0.2))


def test_a_node_may_close_what_was_just_opened() -> None:
    async def scene(pair: Pair) -> None:
        opened = pair.there.opened

        def turn_away(connection: Connection) -> None:
            opened(connection)
            connection.close(0x1005, "full")

        pair.there.opened = turn_away  # type: ignore[method-assign]
        connection = await pair.dial()
        await connection.wait_closed()
        assert pair.here.reasons[connection] == "full (0x1005)"

    play(scene)


def test_the_spec_is_what_the_registry_expects() -> None:
    (spec,) = grove_quic.grove_transports()
    assert spec.name == "quic"
    transport = spec.build(spec.config(), FakeUpcalls(3))
    assert transport.rank(Multiaddr.parse("/ip4/192.0.2.1/udp/1/quic-v1")) == 0
    assert transport.rank(Multiaddr.parse("/ip4/192.0.2.1/tcp/1")) is None
