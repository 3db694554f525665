"""A QUIC connection as the node sees it: an engine, its streams, and the proof of who is there.

Implements `grove_core.transport.Connection`. The endpoint hands it datagrams and calls `turn` once
per turn of the event loop in which anything touched it: then events are taken from the engine,
what is due is sent, and the one timer is armed. Sources: libp2p/specs quic/README.md, tls/tls.md.

1. The node hears `opened` only after the peer's certificate was verified, and the peer compared with
   the one that was dialled; a peer that fails gets a TLS alert instead.
2. An inbound attempt that was admitted ends in exactly one of `opened` and `gave_up`.
3. `closed` comes once, after `opened`, when all streams have been told.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from grove_libp2p.certificate import verify_certificate
from grove_libp2p.stream import NEGOTIATION_TIMEOUT, MuxedStream

from grove_core.errors import GroveError, RemoteProtocolError
from grove_core.identity import peer_text
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.transport import DialError, Stream, StreamClosed
from grove_quic import engine as events
from grove_quic.engine import Address, Engine
from grove_quic.pacing import TICK

if TYPE_CHECKING:
    from grove_quic.driver.endpoint import Endpoint

# TLS alerts (RFC 8446 section 6).
BAD_CERTIFICATE: Final = 42
CERTIFICATE_REQUIRED: Final = 116

_PATIENCE: Final = 1.0
"""Seconds that a peer has to prove an ICMP message wrong. Guess: many round trips, few for a person."""


class QuicStream(MuxedStream):
    """A stream whose muxer is the QUIC engine."""

    __slots__ = ("_quic", "id")

    def __init__(self, connection: QuicConnection, stream_id: int) -> None:
        super().__init__(connection, connection.loop)
        self._quic = connection
        self.id = stream_id

    def _send(self, data: bytes | memoryview) -> None:
        quic = self._quic
        quic.engine.write(self.id, data if type(data) is bytes else bytes(data))
        quic.flowing[self.id] = self
        quic.touch()

    def _grant(self, count: int) -> None:
        self._quic.engine.grant(self.id, count)
        self._quic.touch()

    def _finish(self) -> None:
        self._quic.engine.write(self.id, b"", True)
        self._quic.touch()

    def _abort(self, code: int) -> None:
        self._quic.engine.reset(self.id, code)
        self._quic.engine.stop(self.id, code)
        self._quic.touch()

    def _over(self) -> None:
        quic = self._quic
        quic.streams.pop(self.id, None)
        quic.flowing.pop(self.id, None)
        quic.engine.release(self.id)
        quic.touch()


class QuicConnection:
    """See the module's text. Made by an `Endpoint`, dialled or accepted."""

    transport = "quic"

    __slots__ = (
        "__weakref__",
        "_armed_at",
        "_closed",
        "_deadline",
        "_doubt_until",
        "_error",
        "_expected",
        "_handle",
        "_heard_at",
        "_is_gone",
        "_keepalive",
        "_local",
        "_remote",
        "_remote_address",
        "_waiting",
        "endpoint",
        "engine",
        "flowing",
        "ids",
        "inbound",
        "is_open",
        "is_touched",
        "loop",
        "peer",
        "ready",
        "streams",
    )

    def __init__(
        self, endpoint: Endpoint, engine: Engine, *, inbound: bool, expected: PeerId | None, now: float
    ) -> None:
        self.endpoint = endpoint
        self.engine = engine
        self.loop = endpoint.loop
        self.inbound = inbound
        self.peer = PeerId(b"")
        self.is_open = False
        self.is_touched = False
        self.ids: list[bytes] = []  # connection ids that are routed here
        self.streams: dict[int, QuicStream] = {}
        self.flowing: dict[int, QuicStream] = {}  # streams with bytes not yet on their way
        self.ready: asyncio.Future[None] | None = None  # of a dial
        self._expected = expected
        self._error: GroveError | None = None  # why it is over
        self._closed: asyncio.Future[None] = self.loop.create_future()
        self._waiting: deque[asyncio.Future[int]] = deque()  # open_stream calls without credit
        self._handle: asyncio.TimerHandle | None = None
        self._armed_at = 0.0
        self._deadline = now + endpoint.config.handshake_timeout
        self._heard_at = now
        self._is_gone = False
        self._doubt_until = 0.0  # when a peer that is said to be gone counts as gone
        self._keepalive = 0.0  # s between pings, once open
        self._remote_address: Address | None = None
        self._remote: Multiaddr | None = None
        self._local: Multiaddr | None = None

    def __repr__(self) -> str:
        who = peer_text(self.peer) if self.peer else "a peer not proven yet"
        return f"<quic connection {'from' if self.inbound else 'to'} {who} at {self.remote}>"

    # --- the Connection protocol

    @property
    def local(self) -> Multiaddr:
        """Where this connection ends here; of a wildcard socket, the address the system would use."""
        if self._local is None:
            self._local = self.endpoint.local_towards(self.engine.remote)
        return self._local

    @property
    def remote(self) -> Multiaddr:
        address = self.engine.remote
        if self._remote is None or address != self._remote_address:
            self._remote_address = address
            self._remote = Multiaddr.quic(address[0], address[1])
        return self._remote

    @property
    def rtt(self) -> float:
        return self.engine.rtt

    @property
    def stream_count(self) -> int:
        return len(self.streams)

    async def open_stream(self, protocols: Sequence[str]) -> Stream:
        if self._error is not None:
            raise StreamClosed(str(self._error))
        self._on_streams_allowed()
        stream_id = None if self._waiting else self.engine.open_stream()
        if stream_id is None:
            stream_id = await self._wait_for_stream()
        stream = QuicStream(self, stream_id)
        self.streams[stream_id] = stream
        stream.propose(protocols)
        await stream.agreement()
        return stream

    async def _wait_for_stream(self) -> int:
        """The peer allows no more streams now: wait until one is over, first come, first served."""
        turn: asyncio.Future[int] = self.loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(NEGOTIATION_TIMEOUT):
                return await turn
        except TimeoutError:
            raise TimeoutError(
                f"{len(self.streams)} streams open to {peer_text(self.peer)}, which allows no more; "
                f"none ended within {NEGOTIATION_TIMEOUT:g} s"
            ) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.engine.reset(turn.result(), 0)  # it came too late
                self.engine.stop(turn.result(), 0)
                self.touch()
            raise

    def close(self, code: int = 0, reason: str = "") -> None:
        if self._error is None:
            self.engine.end(code, reason)
            self.touch()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    # --- what the endpoint calls

    def touch(self) -> None:
        """Something changed: `turn` is due before the loop waits again."""
        if not self.is_touched:
            self.endpoint.touched(self)

    def datagram(self, data: bytes, address: Address, now: float) -> None:
        self._heard_at = now
        self._doubt_until = 0.0
        self.engine.datagram_in(data, address, now)

    def turn(self, now: float) -> None:
        """Take what happened, send what is due, arm the timer."""
        if self._is_gone:
            return
        engine = self.engine
        for event in engine.events():
            _REACTIONS[type(event)](self, event)
        if engine.wants_to_send(now):
            datagrams = engine.poll_out(now)
            if datagrams:
                self.endpoint.send(datagrams)
            if self.flowing:
                self._report_sent()
            for event in engine.events():
                _REACTIONS[type(event)](self, event)
        self._arm(now)

    def abandon(self, reason: str) -> None:
        """Forget everything at once, without a word to the peer."""
        self._end(StreamClosed(reason))
        self._release()

    def unreachable(self, error: OSError) -> None:
        """The system refused a datagram; a dial need not wait for its timeout."""
        if not self.is_open and not self.inbound:
            self.abandon(f"{self.remote}: {error.strerror or error}")

    def doubted(self, number: int) -> None:
        """A host or router says that nobody is there (ICMP, errno number).

        A dial believes it. An open connection asks the peer, which has a second to answer: a forged
        message costs one ping, and a peer that was killed is noticed long before the idle timeout.
        """
        if self._error is not None or self._doubt_until:
            return
        if self.is_open:
            self._doubt_until = self.endpoint.clock() + max(_PATIENCE, 3 * self.engine.rtt)
            self.engine.ping()
            self.touch()
        elif not self.inbound:
            self.loop.call_soon(self.unreachable, OSError(number, os.strerror(number)))

    # --- reactions

    def _on_handshaken(self, event: events.Handshaken) -> None:
        if self._error is not None:
            return
        try:
            peer = verify_certificate(event.certificates, time.time()).peer
        except RemoteProtocolError as error:
            alert = BAD_CERTIFICATE if event.certificates else CERTIFICATE_REQUIRED
            self.engine.fail(alert, str(error))
            return
        if self._expected is not None and peer != self._expected:
            text = f"expected {peer_text(self._expected)}, found {peer_text(peer)}"
            self.engine.fail(BAD_CERTIFICATE, text)
            return
        self.peer = peer
        self.is_open = True
        self._keepalive = min(self.endpoint.config.keepalive, self.engine.idle_timeout / 2)
        self.endpoint.opened(self)
        if self.ready is not None and not self.ready.done():
            self.ready.set_result(None)

    def _on_stream_opened(self, event: events.StreamOpened) -> None:
        if self.is_open and self._error is None:
            stream = self.streams[event.stream] = QuicStream(self, event.stream)
            stream.accept(self.endpoint.upcalls.handlers)

    def _on_stream_data(self, event: events.StreamData) -> None:
        stream = self.streams.get(event.stream)
        if stream is None:
            self.engine.release(event.stream)
            return
        if event.data:
            stream.data_received(event.data)
        if event.end and event.stream in self.streams:
            stream.eof_received()

    def _on_stream_reset(self, event: events.StreamReset) -> None:
        self.engine.reset(event.stream, event.code)  # libp2p resets both directions or none
        stream = self.streams.get(event.stream)
        if stream is not None:
            stream.reset_received(event.code)

    def _on_stream_stopped(self, event: events.StreamStopped) -> None:
        stream = self.streams.get(event.stream)
        if stream is not None:
            stream.stop_received(event.code)
            self.flowing.pop(event.stream, None)

    def _on_streams_allowed(self, event: events.StreamsAllowed | None = None) -> None:
        while self._waiting:
            if self._waiting[0].done():  # it gave up
                self._waiting.popleft()
                continue
            stream_id = self.engine.open_stream()
            if stream_id is None:
                return
            self._waiting.popleft().set_result(stream_id)

    def _on_id_issued(self, event: events.IdIssued) -> None:
        self.endpoint.route(event.id, self)

    def _on_id_retired(self, event: events.IdRetired) -> None:
        self.endpoint.unroute(event.id, self)

    def _on_ended(self, event: events.Ended) -> None:
        kind = "" if event.application else "QUIC error "
        code = f"{kind}{event.code:#x}"
        self._end(StreamClosed(f"{event.reason} ({code})" if event.reason else f"closed ({code})"))

    # --- the end

    def _end(self, error: GroveError) -> None:
        if self._error is not None:
            return
        self._error = error
        for stream in list(self.streams.values()):
            stream.connection_lost(error)
        self.streams.clear()
        self.flowing.clear()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)
        self.endpoint.ended(self, str(error))
        if self.ready is not None and not self.ready.done():
            self.ready.set_exception(DialError(f"{self.remote}: {error}"))
        if not self._closed.done():
            self._closed.set_result(None)

    def _release(self) -> None:
        """Nothing of this connection stays behind."""
        self._is_gone = True
        for each in list(self.ids):
            self.endpoint.unroute(each, self)
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    # --- sending and time

    def _report_sent(self) -> None:
        engine = self.engine
        for stream_id, stream in list(self.flowing.items()):
            unsent = engine.unsent(stream_id)
            if not unsent:
                self.flowing.pop(stream_id, None)
            count = stream.buffered - unsent
            if count > 0:
                stream.sent(count)

    def _arm(self, now: float) -> None:
        """One timer, moved only when it would be late: an early one just looks again."""
        if self._handle is not None and self._armed_at <= now + TICK:
            return  # it will look again before anything else can be due
        if self.engine.finished:
            self._release()
            return
        due = self.engine.timer()
        if not self.is_open:
            mine = self._deadline
        else:
            mine = self._heard_at + self._keepalive if self._keepalive else 0.0
            if self._doubt_until:
                mine = min(mine, self._doubt_until) if mine else self._doubt_until
        if self._error is None and mine and (due is None or mine < due):
            due = mine
        if due is None:
            self._release()
            return
        if self._handle is not None:
            if self._armed_at <= due:
                return
            self._handle.cancel()
        self._armed_at = due
        self._handle = self.loop.call_later(max(due - now, TICK), self._timer_fired)

    def _timer_fired(self) -> None:
        self._handle = None
        now = self.endpoint.clock()
        if not self.is_open and self._error is None and now >= self._deadline:
            timeout = self.endpoint.config.handshake_timeout
            self.engine.end(0, "")
            self._end(StreamClosed(f"no handshake within {timeout:g} s"))
        elif self.is_open and self._error is None:
            if self._doubt_until and now >= self._doubt_until:
                self.engine.end(0, "")
                self._end(StreamClosed("nobody listens there any more"))
            elif self._keepalive and now >= self._heard_at + self._keepalive:
                self._heard_at = now  # one ping; if none answers, the engine's idle timer decides
                self.engine.ping()
        due = self.engine.timer()
        if due is not None and now >= due:
            self.engine.timer_fired(now)
        self.touch()


_REACTIONS: Final[dict[type[events.Event], Callable[[QuicConnection, Any], None]]] = {
    events.Handshaken: QuicConnection._on_handshaken,
    events.StreamOpened: QuicConnection._on_stream_opened,
    events.StreamData: QuicConnection._on_stream_data,
    events.StreamReset: QuicConnection._on_stream_reset,
    events.StreamStopped: QuicConnection._on_stream_stopped,
    events.StreamsAllowed: QuicConnection._on_streams_allowed,
    events.IdIssued: QuicConnection._on_id_issued,
    events.IdRetired: QuicConnection._on_id_retired,
    events.Ended: QuicConnection._on_ended,
}
