"""One TCP connection: moves the byte machines of grove_libp2p over a socket.

From `connection_made` on it upgrades (upgrade.py), then carries streams (yamux.py over a Noise
session). Whatever is written in one turn of the loop leaves in one call of the socket, and whatever
the socket gives in one call is decrypted in place and parsed before anybody is woken.

1. Nothing expensive happens for an inbound connection before `Upcalls.admit` said 0.
2. An admitted attempt ends in `opened` or `gave_up`; an opened connection in one `closed`, after
   its streams were lost.
3. While the socket takes nothing (`pause_writing`), nothing is taken from yamux: what writers give
   waits there, where `Stream.drain` bounds it.
4. Before the upgrade is done at most one message of it is held (upgrade.py); after it, at most one
   Noise message that is not yet whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from grove_libp2p import yamux
from grove_libp2p.noise import Session
from grove_libp2p.stream import NEGOTIATION_TIMEOUT, MuxedStream
from grove_libp2p.upgrade import Upgrade

from grove_core.errors import RemoteProtocolError
from grove_core.identity import peer_text
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.transport import DialError, StreamClosed

if TYPE_CHECKING:
    from grove_tcp.driver import TcpTransport

GOODBYE: Final = 1.0
"""Seconds that what was written before a close may take to leave."""

WRITE_AT_ONCE: Final = 256 * 1024
"""Bytes gathered for one call of the socket."""


class TcpStream(MuxedStream):
    """A yamux stream."""

    __slots__ = ("id",)

    def __init__(self, connection: TcpConnection, loop: asyncio.AbstractEventLoop, id: int) -> None:
        super().__init__(connection, loop)
        self.id = id

    _connection: TcpConnection

    def _send(self, data: bytes | memoryview) -> None:
        connection = self._connection
        connection.yamux.send(self.id, data)
        connection.flush_written()

    def _grant(self, count: int) -> None:
        connection = self._connection
        connection.yamux.grant(self.id, count, self._loop.time())
        if connection.yamux.has_output:
            connection.flush_soon()

    def _finish(self) -> None:
        self._connection.yamux.finish(self.id)
        self._connection.flush_soon()

    def _abort(self, code: int) -> None:
        self._connection.yamux.reset(self.id, code)
        self._connection.flush_soon()


class TcpConnection(asyncio.BufferedProtocol):
    """A connection that is being upgraded, is up, or is over. Implements `transport.Connection`."""

    __slots__ = (
        "__weakref__",
        "_admitted",
        "_buffered",
        "_closed",
        "_closing",
        "_deadline",
        "_driver",
        "_eager",
        "_expected",
        "_flushing",
        "_frames",
        "_heard",
        "_keepalive",
        "_local",
        "_loop",
        "_opened",
        "_openers",
        "_paused",
        "_ping_value",
        "_pinged_at",
        "_ready",
        "_reason",
        "_remote_left",
        "_scheduled",
        "_session",
        "_socket",
        "_streams",
        "_upgrade",
        "inbound",
        "peer",
        "remote",
        "rtt",
        "yamux",
    )

    transport = "tcp"
    _session: Session
    yamux: yamux.Yamux

    def __init__(
        self,
        driver: TcpTransport,
        *,
        inbound: bool,
        remote: Multiaddr | None = None,
        expected: PeerId | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._driver = driver
        self._loop = loop
        self.inbound = inbound
        self.rtt = 0.0
        self.peer = PeerId(b"")
        self.remote = remote or _UNKNOWN
        self._expected = expected
        self._upgrade: Upgrade | None = None
        self._local: Multiaddr | None = None
        self._socket: asyncio.Transport | None = None
        self._ready: asyncio.Future[None] | None = None if inbound else loop.create_future()
        self._admitted = False
        self._opened = False
        self._closing = False
        self._closed: asyncio.Event | None = None
        self._reason = ""
        self._remote_left = False
        self._streams: dict[int, TcpStream] = {}
        self._openers: list[asyncio.Future[None]] | None = None
        self._buffered = b""
        self._paused = False
        self._scheduled = False
        self._flushing = False
        self._eager = False
        self._frames = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._keepalive: asyncio.TimerHandle | None = None
        self._heard = False
        self._pinged_at = 0.0
        self._ping_value = 0

    def __repr__(self) -> str:
        who = peer_text(self.peer) if self._opened else "nobody yet"
        return f"<tcp connection {'from' if self.inbound else 'to'} {self.remote}, {who}>"

    # --- the Connection protocol -----------------------------------------------------------------

    @property
    def local(self) -> Multiaddr:
        """Our end of the socket."""
        if self._local is None:
            assert self._socket is not None
            self._local = address_of(self._socket.get_extra_info("sockname"))
        return self._local

    @property
    def stream_count(self) -> int:
        """Streams open now, both directions."""
        return len(self._streams)

    async def open_stream(self, protocols: Sequence[str]) -> TcpStream:
        """Open a stream; see `transport.Connection.open_stream`.

        Waits while 256 of our streams are not acknowledged by the remote (yamux).
        """
        self._check_open()
        if not self.yamux.can_open:
            await self._wait_to_open()
        id = self.yamux.open()
        stream = self._streams[id] = TcpStream(self, self._loop, id)
        self._flushing = True  # The proposal waits for the first bytes, to leave together with them.
        try:
            stream.propose(protocols)
        finally:
            self._flushing = False
        self.flush_soon()
        if len(protocols) > 1:
            await stream.agreement()
        return stream

    def close(self, code: int = 0, reason: str = "") -> None:
        """Say goodbye with a libp2p error code and release everything; idempotent."""
        if self._closing:
            return
        self._reason = (
            self._reason or reason or (f"closed by us (code {code:#x})" if code else "closed by us")
        )
        if not self._opened:
            self._abort()
            return
        self.yamux.go_away(code)
        self._leave()

    async def wait_closed(self) -> None:
        """Return once `Upcalls.closed` was called."""
        if self._closed is None:
            self._closed = asyncio.Event()
            if self._socket is None:
                self._closed.set()
        await self._closed.wait()

    # --- the socket ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected: ask the node whether it wants it, then begin the upgrade."""
        self._socket = cast(asyncio.Transport, transport)
        self._driver.live[self] = None
        if self.inbound:
            peername = transport.get_extra_info("peername")
            if not peername:  # It left before we looked.
                self._abort()
                return
            self.remote = address_of(peername)
            if self._driver.closing or self._driver.upcalls.admit(self.remote):
                self._abort()
                return
            self._admitted = True
            self._deadline = self._loop.call_later(
                self._driver.config.upgrade_timeout, self._upgrade_timed_out
            )
        self._socket.set_write_buffer_limits(high=self._driver.config.write_buffer)
        self._upgrade = Upgrade(
            initiator=not self.inbound,
            credentials=self._driver.credentials,
            ephemeral=X25519PrivateKey.generate(),
            muxers=(yamux.PROTOCOL,),
            expected=self._expected,
        )
        self._write(self._upgrade.start())

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the socket puts what it has: the driver's one buffer, behind our unfinished message.

        Every loop fills a buffer and hands it over in one go, so all connections can share one.
        """
        left = self._buffered
        view = self._driver.view
        if left:
            view[: len(left)] = left
            return view[len(left) :]
        return view

    def buffer_updated(self, nbytes: int) -> None:
        """The socket gave bytes."""
        if self._closing:
            return
        view = self._driver.view
        try:
            if self._upgrade is not None:
                self._upgrade_with(bytes(view[:nbytes]))
            else:
                self._heard = True
                self._receive(view[: len(self._buffered) + nbytes])
        except RemoteProtocolError as error:
            self._blame_remote(error)
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": f"our own failure on {self!r}", "exception": error, "protocol": self}
            )
            self._reason = f"our own failure: {error!r}"
            self._abort()

    def eof_received(self) -> bool:
        """The remote closed its side of the socket; a connection has no use for half of one."""
        if not self._reason:
            where = f" while {self._upgrade.stage}" if self._upgrade is not None else ""
            self._reason = f"closed by the remote{where}"
        if self._opened:
            self._leave()
        return False

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._reason = self._reason or (f"lost: {exc}" if exc is not None else "closed by the remote")
        self._closing = True
        for timer in (self._deadline, self._keepalive):
            if timer is not None:
                timer.cancel()
        self._deadline = self._keepalive = None
        self._lose_streams()
        self._driver.live.pop(self, None)
        if self._opened:
            self._driver.upcalls.closed(self, self._reason)
        elif self._admitted:
            self._driver.upcalls.gave_up(self.remote)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(DialError(f"{self.remote}: {self._reason}"))
        self._socket = None
        self._upgrade = None
        self._buffered = b""
        if self._closed is not None:
            self._closed.set()

    # --- the upgrade -----------------------------------------------------------------------------

    async def until_ready(self) -> None:
        """For a dialled connection: wait until it is up. Raises DialError."""
        assert self._ready is not None
        await self._ready

    @property
    def stage(self) -> str:
        """What an upgrade is doing, for error texts."""
        return self._upgrade.stage if self._upgrade is not None else "connecting"

    def abandon(self, reason: str) -> None:
        """Drop a connection whose dialler no longer waits for it."""
        if self._ready is not None:
            self._ready.cancel()
        self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._abort()

    def _upgrade_with(self, data: bytes) -> None:
        upgrade = self._upgrade
        assert upgrade is not None
        assert self._socket is not None
        out = upgrade.receive(data)
        if out:
            self._write(out)
        if upgrade.done:
            self._establish(upgrade)

    def _establish(self, upgrade: Upgrade) -> None:
        assert upgrade.session is not None
        assert upgrade.remote is not None
        if upgrade.remote.peer == self._driver.upcalls.identity.peer:
            self._refuse("the remote is this node itself")
            return
        self.peer = upgrade.remote.peer
        self._session = upgrade.session
        self._upgrade = self._expected = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        config = self._driver.config
        self.yamux = yamux.Yamux(
            client=not self.inbound,
            max_inbound=self._driver.upcalls.max_streams,
            max_window=config.max_window,
            growth=config.growth,
        )
        self._opened = True
        self._ping()
        self._driver.upcalls.opened(self)
        if self._closing:  # The node did not want it.
            return
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        if upgrade.early:
            self._parse(upgrade.early)
        if upgrade.remainder and not self._closing:
            self._receive(memoryview(upgrade.remainder))

    def _upgrade_timed_out(self) -> None:
        self._refuse(f"no upgrade within {self._driver.config.upgrade_timeout:g} s, still {self.stage}")

    # --- bytes in --------------------------------------------------------------------------------

    def _receive(self, data: memoryview) -> None:
        """Decrypt whole messages, keep the rest, and answer in one go what they caused."""
        plaintexts, used = self._session.open(data)
        self._buffered = bytes(data[used:]) if used < len(data) else b""
        self._eager = self._frames <= 1  # data frames sent since the last receive
        self._frames = 0
        self._flushing = True  # Streams that write now are flushed below.
        try:
            for plaintext in plaintexts:
                self._parse(plaintext)
                if self._closing:
                    return
        finally:
            self._flushing = False
        if self.yamux.has_output:
            self._flush()
        if self._openers and self.yamux.can_open:
            self._wake_openers()

    def _parse(self, plaintext: bytes) -> None:
        """Give a plaintext to yamux and what happened to the streams."""
        machine = self.yamux
        fault: RemoteProtocolError | None = None
        try:
            machine.receive(plaintext)
        except RemoteProtocolError as error:
            fault = error
        streams = self._streams
        events, machine.events = machine.events, []
        for event in events:
            kind = type(event)
            if kind is yamux.DataReceived:
                stream = streams.get(event.stream)
                if stream is not None:
                    stream.data_received(event.data)  # type: ignore[attr-defined]
            elif kind is yamux.StreamOpened:
                stream = streams[event.stream] = TcpStream(self, self._loop, event.stream)
                stream.accept(self._driver.upcalls.handlers)
            elif kind is yamux.StreamFinished:
                stream = streams.get(event.stream)
                if stream is not None:
                    stream.eof_received()
            elif isinstance(event, yamux.StreamWasReset):
                stream = streams.get(event.stream)
                if stream is not None:
                    stream.reset_received(event.code)
            elif isinstance(event, yamux.Pong):
                self._ponged(event.value)
            elif isinstance(event, yamux.WentAway):
                self._remote_left = True
                self._reason = self._reason or f"the remote left (code {event.code:#x})"
                self._wake_openers()
                if event.code != yamux.NORMAL or not streams:
                    self._leave()
        if machine.ended:
            self._forget_ended()
        if fault is not None:
            raise fault

    def _forget_ended(self) -> None:
        ended, self.yamux.ended = self.yamux.ended, []
        for id in ended:
            self._streams.pop(id, None)
        if self._remote_left and not self._streams and not self._closing:
            self._leave()

    def _blame_remote(self, error: RemoteProtocolError) -> None:
        """The remote broke a protocol: the last thing it hears is yamux's GoAway, if it got so far."""
        self._reason = self._reason or str(error)
        if not self._opened:
            self._abort()
            return
        self.yamux.go_away(yamux.PROTOCOL_ERROR)
        self._leave()

    # --- bytes out -------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        assert self._socket is not None
        self._driver.sent_bytes += len(data)
        self._socket.write(data)

    def flush_soon(self) -> None:
        """Something waits in yamux: send it at the end of this turn of the loop."""
        if not (self._flushing or self._scheduled or self._closing):
            self._scheduled = True
            self._loop.call_soon(self._end_of_turn)

    def flush_written(self) -> None:
        """A stream wrote. One write after each receive leaves at once, a turn of the loop earlier,
        unless there were several last time: those are better sent together.
        """
        if self._eager and not (self._flushing or self._scheduled or self._paused or self._closing):
            self._eager = False
            self._flush()
        else:
            self.flush_soon()

    def _end_of_turn(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        """Send what yamux has, as far as the socket takes it, and tell the writers."""
        if self._socket is None or self._closing or not self._opened:
            return
        machine, seal = self.yamux, self._session.seal_all
        self._flushing = True
        try:
            while not self._paused and machine.has_output:
                # Not writelines: in Python 3.12.0 to 3.12.8 it forgets to pause us (CVE-2024-12254).
                self._write(b"".join(seal(machine.take(WRITE_AT_ONCE))))
                sent, machine.sent = machine.sent, []
                self._frames += len(sent)
                for id, count in sent:
                    stream = self._streams.get(id)
                    if stream is not None:
                        stream.sent(count)
        finally:
            self._flushing = False
        if machine.ended:
            self._forget_ended()

    # --- opening ---------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._opened or self._closing:
            raise StreamClosed(
                f"the connection to {self.remote} is closed: {self._reason or 'not open yet'}"
            )
        if self._remote_left:
            raise StreamClosed(f"{self.remote} accepts no more streams: {self._reason}")

    async def _wait_to_open(self) -> None:
        """Wait for acknowledgements; all who wait wake in order. Raises TimeoutError after 10 s."""
        async with asyncio.timeout(NEGOTIATION_TIMEOUT):
            while not self.yamux.can_open:
                if self._openers is None:
                    self._openers = []
                opener = self._loop.create_future()
                self._openers.append(opener)
                await opener
                self._check_open()

    def _wake_openers(self) -> None:
        openers, self._openers = self._openers, None
        for opener in openers or ():
            if not opener.done():
                opener.set_result(None)

    # --- keepalive -------------------------------------------------------------------------------

    def _ping(self) -> None:
        """Ask for a sign of life; the answer gives the round trip."""
        self._ping_value = (self._ping_value + 1) & 0xFFFFFFFF
        self._pinged_at = self._loop.time()
        self._heard = False
        self.yamux.ping(self._ping_value)
        self.flush_soon()
        self._keepalive = self._loop.call_later(self._driver.config.ping_timeout, self._silence)

    def _ponged(self, value: int) -> None:
        if value != self._ping_value or not self._pinged_at:
            return
        self.rtt = self.yamux.round_trip = self._loop.time() - self._pinged_at
        self._pinged_at = 0.0
        self._rest()

    def _rest(self) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
        self._keepalive = self._loop.call_later(self._driver.config.ping_interval, self._ping)

    def _silence(self) -> None:
        """No pong in time. A remote that sends other bytes is slow, not dead."""
        if self._heard:
            self._rest()
            return
        self._reason = (
            self._reason or f"no answer to a ping within {self._driver.config.ping_timeout:g} s"
        )
        self._abort()

    # --- ends ------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Send what may still be sent, then close; streams are lost in the next turn of the loop."""
        if self._closing:
            return
        if not self._paused:
            self._flush()
        self._closing = True
        self._loop.call_soon(self._lose_streams)
        if self._keepalive is not None:
            self._keepalive.cancel()
        self._keepalive = self._loop.call_later(GOODBYE, self._abort)
        if self._socket is not None:
            self._socket.close()

    def _abort(self) -> None:
        self._closing = True
        if self._socket is not None:
            self._socket.abort()

    def _lose_streams(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.connection_lost(StreamClosed(f"connection to {self.remote} is gone: {self._reason}"))
        self._wake_openers()


_UNKNOWN: Final = Multiaddr.tcp("0.0.0.0", 0)


def address_of(name: tuple[str, int] | tuple[str, int, int, int]) -> Multiaddr:
    """The multiaddr of a socket's name; an IPv4-mapped address is given as IPv4."""
    host = name[0]
    if len(name) == 4 and name[3] and "%" not in host and host.startswith("fe80"):
        host = f"{host}%{name[3]}"
    return Multiaddr.tcp(host, name[1])
