"""The TCP transport over loopback: between two of ours, and against remotes that misbehave."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from grove_libp2p import multistream
from grove_libp2p.noise import Credentials, Session
from grove_libp2p.upgrade import Upgrade
from grove_libp2p.yamux import PROTOCOL as YAMUX
from grove_libp2p.yamux import WINDOW, WentAway, Yamux
from grove_tcp import Config
from grove_tcp.connection import TcpConnection
from grove_tcp.driver import TcpTransport

from grove_core.errors import GroveError, LocalProtocolError
from grove_core.identity import Identity
from grove_core.multiaddr import Multiaddr
from grove_core.transport import (
    GATED,
    SHUTDOWN,
    DialError,
    ProtocolNotSupported,
    Stream,
    StreamClosed,
    StreamReset,
)
from tests.plugins.fakes import Collector, FakeUpcalls

ANY = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
ECHO = "/echo/1.0.0"
MIB = 1 << 20


class Node(FakeUpcalls):
    """A transport and the node it works for."""

    def __init__(self, seed: int, config: Config, streams: int = 256) -> None:
        super().__init__(seed)
        self.max_streams = streams
        self.transport = TcpTransport(config, self)
        self.serve_echo()

    async def listen(self, address: Multiaddr = ANY) -> Multiaddr:
        (self.address,) = await self.transport.listen(address)
        return self.address

    async def dial(self, other: Node) -> TcpConnection:
        return await self.transport.dial(other.address, other.identity.peer)


@asynccontextmanager
async def nodes(count: int = 2, *, streams: int = 256, **config: Any) -> AsyncIterator[list[Node]]:
    """Nodes that listen, closed in the end."""
    made = [Node(seed, Config(**config), streams) for seed in range(1, count + 1)]
    try:
        for node in made:
            await node.listen()
        yield made
    finally:
        for node in made:
            await node.transport.close()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


async def echoes(connection: TcpConnection, data: bytes = b"are you there?") -> bool:
    stream = await connection.open_stream([ECHO])
    stream.write(data)
    stream.close_write()
    return await stream.read_exactly(len(data)) == data and await stream.read() == b""


# --- connections -----------------------------------------------------------------------------------


def test_both_ends_know_each_other_by_key_and_address() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            dialled = await alice.dial(bob)
            await bob.until(lambda: bob.connections)
            (accepted,) = bob.connections
            assert alice.connections == [dialled]
            assert (dialled.peer, accepted.peer) == (bob.identity.peer, alice.identity.peer)
            assert (dialled.inbound, accepted.inbound) == (False, True)
            assert dialled.remote == accepted.local == bob.address
            assert dialled.local == accepted.remote
            assert dialled.transport == "tcp"
            assert await echoes(dialled)
            assert dialled.rtt > 0
            sock = dialled._socket.get_extra_info("socket")  # type: ignore[union-attr]
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(main)


def test_ipv6_works_and_listens_beside_ipv4() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            try:
                await bob.listen(Multiaddr.parse("/ip6/::1/tcp/0"))
            except GroveError:
                pytest.skip("this machine has no IPv6 loopback")
            assert (await alice.dial(bob)).remote == bob.address

    run(main)


def test_names_are_resolved() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            named = Multiaddr(("dns4", "localhost"), ("tcp", str(bob.address.port)))
            connection = await alice.transport.dial(named, None)
            assert connection.peer == bob.identity.peer

    run(main)


def test_rank_is_10_for_plain_tcp_only() -> None:
    async def main() -> None:
        async with nodes(1) as (alice,):
            assert alice.transport.rank(ANY) == 10
            assert alice.transport.rank(ANY.with_peer(alice.identity.peer)) == 10
            for other in ("/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/tcp/1/ws"):
                assert alice.transport.rank(Multiaddr.parse(other)) is None
            with pytest.raises(LocalProtocolError):
                await alice.transport.listen(Multiaddr.parse("/ip4/127.0.0.1/udp/0/quic-v1"))

    run(main)


def test_an_address_in_use_is_named() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            with pytest.raises(GroveError, match=f"{bob.address}: address already in use"):
                await alice.listen(bob.address)

    run(main)


@pytest.mark.claim("libp2p.wrong-peer-refused")
def test_the_wrong_peer_is_refused_and_both_are_named() -> None:
    async def main() -> None:
        async with nodes(3) as (alice, bob, carol):
            with pytest.raises(DialError, match=r"expected peer 12D3\w+, found 12D3"):
                await alice.transport.dial(bob.address, carol.identity.peer)
            with pytest.raises(DialError, match="expected peer"):
                await alice.transport.dial(bob.address.with_peer(carol.identity.peer), None)
            await bob.until(lambda: len(bob.given_up) == 2)
            assert alice.connections == bob.connections == []

    run(main)


def test_dial_errors_say_what_happened_and_where() -> None:
    async def main() -> None:
        async with nodes(2, connect_timeout=0.1) as (alice, _):
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                closed = Multiaddr.tcp("127.0.0.1", taken.getsockname()[1])
                with pytest.raises(DialError, match=f"{closed}: connection refused"):
                    await alice.transport.dial(closed, None)
                taken.listen()
                with pytest.raises(DialError, match=r"timed out after 0\.1 s while agreeing on Noise"):
                    await alice.transport.dial(closed, None)
            with pytest.raises(DialError, match="no TCP address"):
                await alice.transport.dial(Multiaddr.parse("/ip4/1.2.3.4/udp/1/quic-v1"), None)
        with pytest.raises(DialError, match="closed"):
            await alice.transport.dial(alice.address, None)

    run(main)


def test_a_node_does_not_connect_to_itself() -> None:
    async def main() -> None:
        async with nodes(1) as (alice,):
            with pytest.raises(DialError, match="this node itself"):
                await alice.transport.dial(alice.address, None)
            await alice.until(lambda: alice.given_up)

    run(main)


def test_something_else_behind_the_port_is_told_apart() -> None:
    async def main() -> None:
        async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 2000)
            writer.close()

        server = await asyncio.start_server(http, "127.0.0.1", 0)
        async with nodes(1) as (alice,):
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(DialError, match="tcp/"):
                await alice.transport.dial(Multiaddr.tcp("127.0.0.1", port), None)
        server.close()

    run(main)


@pytest.mark.claim("libp2p.gate-before-crypto")
def test_a_refused_connection_gets_not_one_byte() -> None:
    async def main() -> None:
        async with nodes(1) as (alice,):
            alice.gate = lambda remote: GATED
            reader, writer = await asyncio.open_connection("127.0.0.1", alice.address.port)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(X25519PrivateKey, "generate", None)
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()
            assert alice.admitted == alice.given_up == []

    run(main)


def test_every_admitted_attempt_is_opened_or_given_up() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            _, writer = await asyncio.open_connection("127.0.0.1", bob.address.port)
            await bob.until(lambda: bob.admitted)
            writer.close()
            await bob.until(lambda: bob.given_up)
            await alice.dial(bob)
            await bob.until(lambda: bob.connections)
            assert (len(bob.admitted), len(bob.given_up), len(bob.connections)) == (2, 1, 1)

    run(main)


def test_an_upgrade_that_takes_too_long_is_cut_off() -> None:
    async def main() -> None:
        async with nodes(1, upgrade_timeout=0.05) as (alice,):
            reader, writer = await asyncio.open_connection("127.0.0.1", alice.address.port)
            writer.write(multistream.HEADER)
            assert (await reader.read()).startswith(multistream.HEADER[:0])
            await alice.until(lambda: alice.given_up)
            writer.close()

    run(main)


def test_the_node_may_close_a_connection_at_once() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            alice.opened = lambda connection: (  # type: ignore[method-assign]
                FakeUpcalls.opened(alice, connection),
                connection.close(GATED, "not wanted"),
            )[0]
            with pytest.raises(DialError, match="not wanted"):
                await alice.dial(bob)
            await bob.until(lambda: bob.connections and not bob.live)
            assert "0x1007" in bob.reasons[bob.connections[0]]

    run(main)


def test_closing_tells_the_code_loses_the_streams_and_calls_closed_once() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            connection = await alice.dial(bob)
            stream = await connection.open_stream([ECHO])
            sink = Collector(stream)
            stream.attach(sink)
            connection.close(SHUTDOWN, "going home")
            connection.close()
            await connection.wait_closed()
            await bob.until(lambda: bob.connections and not bob.live)
            assert alice.reasons == {connection: "going home"}
            assert bob.reasons[bob.connections[0]] == "the remote left (code 0x1006)"
            assert isinstance(sink.ends[0], StreamClosed)
            with pytest.raises(StreamClosed, match="going home"):
                await connection.open_stream([ECHO])
            await connection.wait_closed()

    run(main)


def test_what_was_written_before_a_close_still_arrives() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            sinks: list[Collector] = []

            def collect(stream: Stream) -> None:
                sinks.append(Collector(stream))
                stream.attach(sinks[-1])

            bob.handlers["/collect"] = collect
            connection = await alice.dial(bob)
            stream = await connection.open_stream(["/collect"])
            stream.write(b"last words")
            connection.close()
            await bob.until(lambda: bob.connections and not bob.live)
            assert sinks[0].data == b"last words"

    run(main)


def test_a_silent_remote_is_given_up_after_a_ping() -> None:
    async def main() -> None:
        async with nodes(1, ping_interval=0.01, ping_timeout=0.05) as (alice,), Rogue.to(alice):
            await alice.until(lambda: alice.connections and not alice.live)
            assert "no answer to a ping" in alice.reasons[alice.connections[0]]

    run(main)


def test_pings_keep_a_quiet_connection_and_measure_it() -> None:
    async def main() -> None:
        async with nodes(1, ping_interval=0.01) as (alice,), Rogue.to(alice) as rogue:
            await rogue.answer_pings(3)
            (connection,) = alice.live
            assert connection.rtt > 0

    run(main)


# --- streams ---------------------------------------------------------------------------------------


def test_bulk_both_ways_at_once() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            connection = await alice.dial(bob)
            stream = await connection.open_stream([ECHO])
            data = bytes(range(256)) * 4096 * 8  # 8 MiB
            sink = Collector(stream)
            stream.attach(sink)
            for at in range(0, len(data), 100_000):
                stream.write(data[at : at + 100_000])
                await stream.drain()
            stream.close_write()
            await sink.until(lambda: sink.ends)
            assert sink.data == data
            assert sink.ends == [None]
            assert connection.stream_count == 0

    run(main)


def test_a_thousand_streams_wait_for_their_turn_beyond_256_unacknowledged() -> None:
    async def main() -> None:
        async with nodes(2, streams=2000) as (alice, bob):
            connection = await alice.dial(bob)
            results = await asyncio.gather(*(echoes(connection, b"%d" % i) for i in range(1000)))
            assert all(results)
            await bob.until(lambda: bob.connections)
            assert connection.stream_count == 0

    run(main)


def test_the_first_protocol_that_the_remote_speaks_is_taken() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            connection = await alice.dial(bob)
            stream = await connection.open_stream(["/newer/2.0.0", ECHO])
            assert stream.protocol == ECHO
            with pytest.raises(ProtocolNotSupported):
                await connection.open_stream(["/x", "/y"])
            lazy = await connection.open_stream(["/x"])
            with pytest.raises(ProtocolNotSupported, match="/x"):
                await lazy.read()

    run(main)


def test_handlers_are_live() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            connection = await alice.dial(bob)
            bob.handlers["/late"] = bob.handlers.pop(ECHO)
            assert (await connection.open_stream([ECHO, "/late"])).protocol == "/late"

    run(main)


def test_a_reset_arrives_with_its_code_and_costs_nobody_else() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            bob.handlers["/reset"] = lambda stream: stream.reset(0x1234)
            connection = await alice.dial(bob)
            stream = await connection.open_stream(["/reset"])
            with pytest.raises(StreamReset) as caught:
                await stream.read()
            assert caught.value.code == 0x1234
            assert await echoes(connection)

    run(main)


@pytest.mark.claim("libp2p.credit-by-the-reader")
def test_a_slow_reader_stops_the_writer_and_nobody_else() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            accepted = bob.keep("/slow")
            connection = await alice.dial(bob)
            stream = await connection.open_stream(["/slow"])
            total = 0
            with pytest.raises(TimeoutError):  # noqa: PT012 - written until nothing goes any more
                while True:
                    stream.write(b"x" * 65536)
                    total += 65536
                    async with asyncio.timeout(0.05):
                        await stream.drain()
            assert total <= WINDOW + 256 * 1024 + 65536 + 100
            assert await echoes(connection)
            read = 0
            while read < total:
                read += len(await accepted[0].read())
            await stream.drain()
            assert stream.buffered == 0

    run(main)


class Counting:
    """A socket's transport that counts the calls that send."""

    def __init__(self, real: asyncio.Transport) -> None:
        self.real, self.writes = real, 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.real.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.mark.claim("tcp.one-write-per-turn")
def test_what_many_streams_write_in_one_turn_leaves_in_one_call_of_the_socket() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            connection = await alice.dial(bob)
            assert await echoes(connection)  # the first pings are over
            streams = [await connection.open_stream([ECHO]) for _ in range(100)]
            assert connection._socket is not None
            connection._socket = counting = Counting(connection._socket)  # type: ignore[assignment]
            for stream in streams:  # proposals and first bytes together
                stream.write(b"hello")
            for stream in streams:
                assert await stream.read_exactly(5) == b"hello"
            assert counting.writes == 1
            for turn in range(2):
                for stream in streams:
                    stream.write(b"again")
                for stream in streams:
                    assert await stream.read_exactly(5) == b"again"
                assert counting.writes == 2 + turn

    run(main)


@pytest.mark.claim("tcp.one-write-per-turn")
def test_a_lone_request_leaves_at_once() -> None:
    async def main() -> None:
        async with nodes() as (alice, bob):
            connection = await alice.dial(bob)
            stream = await connection.open_stream([ECHO])
            for _ in range(3):
                stream.write(b"x")
                await stream.read_exactly(1)
            assert connection._socket is not None
            connection._socket = counting = Counting(connection._socket)  # type: ignore[assignment]
            stream.write(b"x")
            assert counting.writes == 1
            assert stream.buffered == 0
            stream.write(b"y")
            assert counting.writes == 1  # a second one waits for the end of the turn
            assert await stream.read_exactly(2) == b"xy"

    run(main)


# --- remotes that misbehave ------------------------------------------------------------------------


class Rogue:
    """A remote with a proper key that can send whatever it likes, and reads only when told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.session: Session
        self.yamux = Yamux(client=True)

    @classmethod
    @asynccontextmanager
    async def to(cls, node: Node, seed: int = 99, inline: bool = True) -> AsyncIterator[Rogue]:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.address.port, limit=1 << 16)
        rogue = cls(reader, writer)
        try:
            identity = Identity.from_seed(bytes([seed]) * 32)
            upgrade = Upgrade(
                initiator=True,
                credentials=Credentials(identity, X25519PrivateKey.generate()),
                ephemeral=X25519PrivateKey.generate(),
                muxers=[YAMUX],
                inline=inline,
            )
            writer.write(upgrade.start())
            while not upgrade.done:
                writer.write(upgrade.receive(await reader.read(65536)))
            assert upgrade.session is not None
            rogue.session = upgrade.session
            rogue.rest = upgrade.remainder
            yield rogue
        finally:
            writer.transport.abort()

    def send(self, plaintext: bytes) -> None:
        for at in range(0, len(plaintext), 60_000):
            self.writer.write(self.session.seal(plaintext[at : at + 60_000]))

    async def answer_pings(self, count: int) -> None:
        """Answer so many pings, as they come."""
        data = self.rest
        while True:
            plaintexts, used = self.session.open(data)
            data = data[used:]
            for plaintext in plaintexts:
                self.yamux.receive(plaintext)
            while pieces := self.yamux.take(65536):
                self.send(b"".join(pieces))
                count -= 1
            if count <= 0:
                return
            data += await self.reader.read(65536)

    async def hear(self) -> None:
        """Read until the other side closes; what it said is in `yamux.events`."""
        data = self.rest
        while True:
            plaintexts, used = self.session.open(data)
            for plaintext in plaintexts:
                self.yamux.receive(plaintext)
            try:
                more = await self.reader.read(65536)
            except ConnectionResetError:
                return
            if not more:
                return
            data = data[used:] + more


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, length) + body


def opening(stream: int, protocol: str = ECHO, data: bytes = b"") -> bytes:
    body = multistream.HEADER + multistream.message(protocol) + data
    return frame(0, 1, stream, len(body), body)


@asynccontextmanager
async def served(bound: int, **config: Any) -> AsyncIterator[Node]:
    """A node that must serve a good neighbour meanwhile, and grow by at most bound bytes."""
    async with nodes(2, **config) as (node, good):
        neighbour = await good.dial(node)
        assert await echoes(neighbour)
        gc.collect()
        tracemalloc.start()
        try:
            yield node
            assert await echoes(neighbour, b"x" * 300_000), "the good neighbour is not served"
            gc.collect()
            _now, peak = tracemalloc.get_traced_memory()
            assert peak <= bound, f"peak {peak:,} bytes; bound {bound:,}"
        finally:
            tracemalloc.stop()


def test_the_muxer_fallback_of_rust_works_over_the_socket() -> None:
    async def main() -> None:
        async with nodes(1) as (alice,), Rogue.to(alice, inline=False) as rogue:
            await alice.until(lambda: alice.live)
            rogue.send(opening(1, data=b"hi") + frame(1, 4, 1, 0) + frame(3, 0, 0, 0))
            await rogue.hear()
            assert "the remote left" in alice.reasons[alice.connections[0]]

    run(main)


@pytest.mark.claim("tcp.hostile-remotes-bounded")
def test_garbage_after_the_handshake_ends_that_connection_with_go_away() -> None:
    async def main() -> None:
        async with served(8 * MIB) as node:
            async with Rogue.to(node) as rogue:
                rogue.send(b"garbage" * 1000)
                await rogue.hear()
                assert WentAway(0, 1) in rogue.yamux.events
            async with Rogue.to(node) as rogue:
                rogue.writer.write(b"not even encrypted" * 5000)
                await node.until(lambda: len(node.reasons) == 2)
            reasons = list(node.reasons.values())
            assert "yamux version" in reasons[0]
            assert "does not decrypt" in reasons[1]

    run(main)


@pytest.mark.claim("tcp.hostile-remotes-bounded")
def test_a_remote_that_never_reads_cannot_make_us_keep_more_than_its_bounds() -> None:
    async def main() -> None:
        async with served(24 * MIB) as node:
            kept = node.keep("/fountain")
            async with Rogue.to(node) as rogue:
                await node.until(lambda: len(node.live) == 2)
                rogue.send(b"".join(opening(2 * i + 1, "/fountain") for i in range(20)))
                rogue.send(b"".join(frame(1, 0, 2 * i + 1, 1 << 30) for i in range(20)))
                await node.until(lambda: len(kept) == 20)
                for stream in kept:  # a polite writer: it drains
                    with pytest.raises(TimeoutError):  # noqa: PT012
                        async with asyncio.timeout(0.02):
                            while True:
                                stream.write(b"x" * 65536)
                                await stream.drain()
                assert sum(stream.buffered for stream in kept) <= 20 * (256 * 1024 + 65536)
                assert len(node.transport.live) == 2
            await node.until(lambda: len(node.live) == 1)

    run(main)


@pytest.mark.claim("tcp.hostile-remotes-bounded")
@pytest.mark.parametrize("reads", [True, False])
def test_streams_without_end_are_refused_or_cost_the_connection(reads: bool) -> None:
    async def main() -> None:
        async with served(8 * MIB) as node, Rogue.to(node) as rogue:
            hearing = asyncio.ensure_future(rogue.hear()) if reads else None
            stream = 1
            most = 0
            while len(node.reasons) == 0 and stream < 40_000:
                rogue.send(b"".join(opening(stream + 2 * i) for i in range(500)))
                stream += 1000
                try:
                    async with asyncio.timeout(0.5):
                        await rogue.writer.drain()
                except (TimeoutError, ConnectionError):
                    break
                most = max(most, *(c.stream_count for c in node.connections))
            assert most <= 256
            if hearing is not None:
                hearing.cancel()
                await asyncio.gather(hearing, return_exceptions=True)

    run(main)


@pytest.mark.claim("tcp.hostile-remotes-bounded")
def test_pings_without_end_from_a_remote_that_does_not_read_cost_its_connection() -> None:
    async def main() -> None:
        async with served(8 * MIB) as node, Rogue.to(node) as rogue:
            rogue.reader._transport.pause_reading()  # type: ignore[attr-defined]
            while not node.reasons:
                rogue.send(frame(2, 1, 0, 7) * 5000)
                try:
                    await rogue.writer.drain()
                except ConnectionError:
                    break
            await node.until(lambda: node.reasons)
            (reason,) = node.reasons.values()
            assert "without reading" in reason

    run(main)


@pytest.mark.claim("tcp.hostile-remotes-bounded")
def test_a_remote_that_overruns_its_credit_is_cut_off_and_what_is_unread_is_bounded() -> None:
    async def main() -> None:
        async with served(8 * MIB, streams=8) as node:
            kept = node.keep("/nobody-reads")
            async with Rogue.to(node) as rogue:
                ids = range(1, 17, 2)
                rogue.send(b"".join(opening(id, "/nobody-reads") for id in ids))
                await node.until(lambda: len(kept) == 8)
                used = len(multistream.HEADER) + len(multistream.message("/nobody-reads"))
                for id in ids:
                    rogue.send(frame(0, 0, id, WINDOW - used, b"x" * (WINDOW - used)))
                    await rogue.writer.drain()
                assert not node.reasons
                rogue.send(frame(0, 0, 1, 1, b"x"))
                await rogue.hear()
                await node.until(lambda: node.reasons)
                (reason,) = node.reasons.values()
                assert reason == "1 bytes on yamux stream 1; its credit is 0"

    run(main)


@pytest.mark.claim("tcp.hostile-remotes-bounded")
def test_a_flood_of_handshakes_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with served(8 * MIB, upgrade_timeout=1.0) as node:
            flood = [await asyncio.open_connection("127.0.0.1", node.address.port) for _ in range(200)]
            for index, (_, writer) in enumerate(flood):
                if index % 4 == 0:
                    writer.write(multistream.HEADER)
                elif index % 4 == 1:
                    writer.write(
                        multistream.HEADER + multistream.message("/noise") + b"\x3f\xff" + b"x" * 9000
                    )
                elif index % 4 == 2:
                    writer.write(b"\xff" * 100_000)
            await node.until(lambda: len(node.given_up) == 200)
            for _, writer in flood:
                writer.transport.abort()
            assert len(node.transport.live) == 1

    run(main)


def test_shutdown_does_not_wait_for_a_remote_that_does_not_read() -> None:
    async def main() -> None:
        async with nodes(1) as (alice,):
            kept = alice.keep("/fountain")
            async with Rogue.to(alice) as rogue:
                rogue.send(opening(1, "/fountain") + frame(1, 0, 1, 1 << 30))
                await alice.until(lambda: kept)
                kept[0].write(b"x" * 20_000_000)
                await asyncio.sleep(0)
                await alice.transport.close()
                assert alice.live == []
                with pytest.raises(StreamClosed):
                    kept[0].write(b"x")

    run(main)


def test_config_is_bounded() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"max_window": 1}, Config)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"windows": 1}, Config)
