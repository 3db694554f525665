"""The engine we ship: aioquic 1.7, with what libp2p and a long life among strangers ask beyond it.

aioquic brings packets, TLS, loss recovery and congestion control (RFC 9000, 9001, 9002). Here are
the differences, each where aioquic's own default would fail us:

1. The server asks for a client certificate (aioquic has the switch, for its tests only).
2. Credit follows consumption; aioquic extends it on receipt and doubles it up to 64 MiB a stream.
3. Only streams with something to say are looked at when a packet is built; aioquic walks all of
   them twice per packet. With that we also choose what is due, and tell whether anything is.
4. Pacing by the millisecond (`pacing.py`), and larger datagrams once a path carried one (`mtu.py`).
5. Bounds on what a peer can make us store: early CRYPTO data, and packets of ours it never
   acknowledges.

This leans on private names of aioquic. `tests/plugins/quic/test_canary.py` reads them out of this
file and looks for them in the version installed, so that an upgrade fails there and not in
somebody's village.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic import events as theirs
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
    stream_is_client_initiated,
)
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    pull_quic_transport_parameters,
)
from aioquic.quic.packet_builder import (
    QuicDeliveryState,
    QuicPacketBuilder,
    QuicPacketBuilderStop,
)
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from cryptography.hazmat.primitives.serialization import Encoding

from grove_quic.config import Config
from grove_quic.engine import (
    Address,
    Ended,
    Event,
    Handshaken,
    IdIssued,
    IdRetired,
    StreamData,
    StreamOpened,
    StreamReset,
    StreamsAllowed,
    StreamStopped,
)
from grove_quic.mtu import PathMtu
from grove_quic.pacing import Pacer
from grove_quic.wire import SMALLEST_INITIAL

UNI_STREAMS = 0
"""Unidirectional streams a peer may open: libp2p has no use for them (as in quinn)."""

SPARE_IDS = 4
"""Connection ids a peer may give us (aioquic 8, quic-go 4): each costs both sides in every handshake."""

MAX_EARLY_CRYPTO = 65_536
"""Bytes of TLS handshake held out of order; RFC 9000 section 7.5 asks for 4096 at least."""

MAX_UNACKNOWLEDGED = 4_096
"""Packets of ours remembered; beyond, those that only acknowledged are forgotten."""

REASON_MAX = 200
"""Bytes of a close's reason: it must fit the smallest packet."""

# Every group offered costs a key pair in each dial; all implementations speak these two.
_GROUPS = [tls.Group.X25519, tls.Group.SECP256R1]


class _Silence:
    """Takes the place of aioquic's logger: a stranger's bad packet is no line on our terminal."""

    def debug(self, *_: object) -> None: ...

    info = warning = error = debug


_Handler = Callable[[Any, QuicReceiveContext, int, Buffer], None]
_H = TypeVar("_H", bound=_Handler)


def _stirring(handler: _H) -> _H:
    """A frame handler after which there may be something to send."""

    def handle(self: AioquicEngine, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self.stirred = True
        handler(self, context, frame_type, buf)

    return cast(_H, handle)


class AioquicEngine(QuicConnection):
    """One connection; implements `engine.Engine`. Own attributes carry no underscore."""

    def __init__(
        self,
        config: Config,
        configuration: QuicConfiguration,
        *,
        datagram: int,
        streams: int,
        original: bytes | None = None,
        retried: bytes | None = None,
    ) -> None:
        """streams: that the peer may have open.

        original, retried: a server's connection ids, as its client chose and as Retry changed it.
        """
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original,
            retry_source_connection_id=retried,
        )
        self._logger = self._loss._logger = _Silence()  # type: ignore[assignment]
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = streams
        self._local_max_streams_uni.value = self._local_max_streams_uni.sent = UNI_STREAMS
        self._local_active_connection_id_limit = SPARE_IDS
        self._loss._pacer = self.pacer = Pacer(self._max_datagram_size, config.burst)  # type: ignore[assignment]
        self.told = False  # Ended was given
        self.farewell: list[tuple[bytes, Address]] = []  # our close, as it was sent
        self.late = 0  # datagrams that came after it
        self.stirred = True  # something came in that may let something go out
        self.ready: dict[int, QuicStream] = {}  # streams with data, reset or stop to send, in turn
        self.raised: dict[int, QuicStream] = {}  # streams whose MAX_STREAM_DATA is due
        self.stream_window = config.stream_window
        self.connection_window = config.connection_window
        self.consumed = 0  # bytes granted back, all streams
        self.held: dict[int, list[int]] = {}  # stream: [bytes granted back, bytes given to the reader]
        self.mtu = PathMtu(datagram)
        self.path: QuicNetworkPath | None = None  # where the size of datagrams was found

    # --- engine.Engine: what is

    @property
    def id(self) -> bytes:
        return self._host_cids[0].cid

    @property
    def remote(self) -> Address:
        return cast(Address, self._network_paths[0].addr)

    @property
    def rtt(self) -> float:
        return self._loss._rtt_latest if self._loss._rtt_initialized else 0.0

    @property
    def idle_timeout(self) -> float:
        return self._idle_timeout()

    @property
    def deciphered(self) -> bool:
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def finished(self) -> bool:
        return self._state is QuicConnectionState.TERMINATED

    # --- engine.Engine: bytes and time

    def datagram_in(self, data: bytes, address: Address, now: float) -> None:
        if self.farewell:
            # RFC 9000 section 10.2.1: the close may have been lost; say it again, ever more rarely.
            self.late += 1
            self.stirred = self.stirred or self.late & (self.late - 1) == 0
            return
        try:
            self.receive_datagram(data, address, now)
        except (
            Exception
        ) as error:  # whatever a library makes of hostile bytes, it costs only their sender
            self._broken(error)

    def wants_to_send(self, now: float) -> bool:
        if self.stirred or self.ready or self.raised or not self._handshake_confirmed:
            return True
        if self._close_pending or self._ping_pending or self._probe_pending:
            return True
        ack_at = self._spaces[tls.Epoch.ONE_RTT].ack_at
        if ack_at is not None and ack_at <= now:
            return True
        return not self._network_paths[0].is_validated

    def poll_out(self, now: float) -> list[tuple[bytes, Address]]:
        if self.finished:
            return []
        if self.farewell:
            repeat, self.stirred = self.stirred and self.late > 0, False
            return self.farewell if repeat else []
        closing = self._close_pending
        if self._network_paths[0] is not self.path:
            if (
                self.path is not None
            ):  # the peer moved: what the old path carried says nothing of this one
                self._resize(SMALLEST_INITIAL)
                self.mtu.moved()
            self.path = self._network_paths[0]
        try:
            datagrams = self.datagrams_to_send(now)
            probe = self._probe_path(now)
        except Exception as error:
            self._broken(error)
            return []
        self.stirred = False
        if closing:
            self.farewell = datagrams
        sent = self._spaces[tls.Epoch.ONE_RTT].sent_packets if self._spaces else {}
        if len(sent) > MAX_UNACKNOWLEDGED:
            # A peer need not acknowledge acknowledgements; without this they would pile up for ever.
            for number in [number for number, packet in sent.items() if not packet.is_ack_eliciting]:
                del sent[number]
        return datagrams + probe

    def timer(self) -> float | None:
        return self.get_timer()

    def timer_fired(self, now: float) -> None:
        self.stirred = True
        try:
            self.handle_timer(now)
        except Exception as error:
            self._broken(error)
        if self._loss._pto_count >= 3 and self._max_datagram_size > SMALLEST_INITIAL:
            self._resize(SMALLEST_INITIAL)
            self.mtu.lost_all()

    def events(self) -> Sequence[Event]:
        waiting = self._events
        happened: list[Event] = []
        while waiting:
            event = waiting.popleft()
            if type(event) is theirs.StreamDataReceived:
                stream = event.stream_id
                if event.data:
                    self.held[stream][1] += len(event.data)
                if event.end_stream:
                    self.stirred = True
                happened.append(StreamData(stream, event.data, event.end_stream))
            else:
                self._translate(event, happened)
        if self._close_event is not None and not self.told:
            # aioquic tells only when the closing period is over; nobody else has reason to wait.
            self.told = True
            close = self._close_event
            happened.append(Ended(close.error_code, close.frame_type is None, close.reason_phrase))
        return happened

    def _translate(self, event: theirs.QuicEvent | Event, happened: list[Event]) -> None:
        if isinstance(event, Event):
            happened.append(event)
        elif isinstance(event, theirs.StreamReset):
            self._let_go(event.stream_id)
            happened.append(StreamReset(event.stream_id, event.error_code))
        elif isinstance(event, theirs.StopSendingReceived):
            happened.append(StreamStopped(event.stream_id, event.error_code))
        elif isinstance(event, theirs.HandshakeCompleted):
            certificate = self.tls._peer_certificate
            chain = [] if certificate is None else [certificate, *self.tls._peer_certificate_chain]
            # 48 KiB of buffers would stay for nothing: we send no TLS after the handshake (no tickets).
            self._crypto_buffers = {tls.Epoch.ONE_RTT: Buffer(capacity=1024)}
            happened.append(Handshaken(tuple(each.public_bytes(Encoding.DER) for each in chain)))
        elif isinstance(event, theirs.ConnectionIdIssued):
            happened.append(IdIssued(event.connection_id))
        elif isinstance(event, theirs.ConnectionIdRetired):
            happened.append(IdRetired(event.connection_id))

    def _tell(self, event: Event) -> None:
        """In order with aioquic's own events."""
        cast("deque[Any]", self._events).append(event)

    # --- engine.Engine: streams

    def open_stream(self) -> int | None:
        stream_id = self._local_next_stream_id_bidi
        if stream_id // 4 >= self._remote_max_streams_bidi or not self._handshake_complete:
            return None
        # Workaround: aioquic gives the same id again until the first write (libp2p-wire 4.2 C).
        self.send_stream_data(stream_id, b"")
        self.held[stream_id] = [0, 0]
        return stream_id

    def write(self, stream: int, data: bytes, end: bool = False) -> None:
        found = self._streams.get(stream)
        if found is None:
            return
        sender = found.sender
        if sender._buffer_fin is None and sender._reset_error_code is None:
            sender.write(data, end)
            self.ready[stream] = found

    def unsent(self, stream: int) -> int:
        found = self._streams.get(stream)
        if found is None or found.sender._reset_error_code is not None:
            return 0
        return found.sender._buffer_stop - found.sender.highest_offset

    def grant(self, stream: int, count: int) -> None:
        held = self.held.get(stream)
        if held is None:
            return
        held[0] += count
        assert held[0] <= held[1], (
            f"granted {held[0]} bytes of stream {stream}, of which it had {held[1]}"
        )
        self.consumed += count
        limit = self._local_max_data
        if 2 * (self.consumed + self.connection_window - limit.sent) >= self.connection_window:
            self.stirred = True
        found = self._streams.get(stream)
        if found is None:
            if held[0] == held[1]:
                del self.held[stream]
        elif not found.receiver.is_finished:
            credit = held[0] + self.stream_window
            if 2 * (credit - found.max_stream_data_local_sent) >= self.stream_window:
                found.max_stream_data_local = credit
                self.raised[stream] = found

    def release(self, stream: int) -> None:
        held = self.held.get(stream)
        if held is None:
            return
        self.consumed += held[1] - held[0]
        held[0] = held[1]
        self.stirred = True
        if stream not in self._streams:
            del self.held[stream]

    def reset(self, stream: int, code: int) -> None:
        found = self._streams.get(stream)
        if found is not None:
            found.sender.reset(code)
            self.ready[stream] = found

    def stop(self, stream: int, code: int) -> None:
        found = self._streams.get(stream)
        if found is not None and not found.receiver.is_finished:
            found.receiver.stop(code)
            self.ready[stream] = found

    def ping(self) -> None:
        self.send_ping(0)

    # --- engine.Engine: the end

    def end(self, code: int, reason: str) -> None:
        self._finish(code, None, reason)

    def fail(self, alert: int, reason: str) -> None:
        self._finish(QuicErrorCode.CRYPTO_ERROR + alert, QuicFrameType.CRYPTO, reason)

    def _broken(self, error: Exception) -> None:
        """aioquic raised what it should not have: give this connection up, and only this one."""
        self._finish(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.PADDING, type(error).__name__)

    def _finish(self, code: int, frame_type: int | None, reason: str) -> None:
        self.stirred = True
        self.close(code, frame_type, reason.encode()[:REASON_MAX].decode(errors="ignore"))

    # --- what aioquic calls, and we answer differently: the handshake

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._request_client_certificate = not self._is_client
        self.tls._supported_groups = list(_GROUPS)

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        largest = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size
        if largest is not None:
            self.mtu.limit(largest)

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        at = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(at)
        early = end - self._crypto_streams[context.epoch].receiver._buffer_start
        if early > MAX_EARLY_CRYPTO:
            raise QuicConnectionError(
                QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type,
                f"handshake data {early} bytes ahead; limit {MAX_EARLY_CRYPTO}",
            )
        self.stirred = True
        super()._handle_crypto_frame(context, frame_type, buf)

    # --- frames after which something may be sent; STREAM and PING are not among them

    _handle_connection_close_frame = _stirring(QuicConnection._handle_connection_close_frame)
    _handle_handshake_done_frame = _stirring(QuicConnection._handle_handshake_done_frame)
    _handle_max_data_frame = _stirring(QuicConnection._handle_max_data_frame)
    _handle_max_stream_data_frame = _stirring(QuicConnection._handle_max_stream_data_frame)
    _handle_new_connection_id_frame = _stirring(QuicConnection._handle_new_connection_id_frame)
    _handle_path_challenge_frame = _stirring(QuicConnection._handle_path_challenge_frame)
    _handle_path_response_frame = _stirring(QuicConnection._handle_path_response_frame)
    _handle_reset_stream_frame = _stirring(QuicConnection._handle_reset_stream_frame)
    _handle_retire_connection_id_frame = _stirring(QuicConnection._handle_retire_connection_id_frame)
    _handle_stop_sending_frame = _stirring(QuicConnection._handle_stop_sending_frame)

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self.stirred = True
        control = self._loss._cc
        flight, window = control.bytes_in_flight, control.congestion_window
        super()._handle_ack_frame(context, frame_type, buf)
        if 2 * flight < window < control.congestion_window:
            # RFC 9002 section 7.8: what was not used proves nothing, so it does not grow.
            control.congestion_window = window

    def _handle_max_streams_bidi_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        self.stirred = True
        super()._handle_max_streams_bidi_frame(context, frame_type, buf)
        self._tell(StreamsAllowed())

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        opened = self._stream_limit(stream_id)
        before = opened.used
        stream = super()._get_or_create_stream(frame_type, stream_id)
        for number in range(before, opened.used):
            self.held[4 * number + stream_id % 4] = [0, 0]
            self._tell(StreamOpened(4 * number + stream_id % 4))
        return stream

    def _let_go(self, stream_id: int) -> None:
        """A stream was reset: what was lost of it counts as consumed (RFC 9000 section 4.5)."""
        found = self._streams.get(stream_id)
        if found is not None:
            self.consumed += found.receiver.highest_offset - found.receiver._buffer_start
            self.stirred = True

    # --- building packets

    def _look_around(self) -> None:
        """Forget streams that are over; find those that may send again, whatever held them up."""
        staying = []
        for stream in self._streams_queue:
            if not stream.is_finished:
                staying.append(stream)
                if (
                    stream.sender.reset_pending
                    or stream.receiver.stop_pending
                    or not (stream.sender.buffer_is_empty or stream.is_blocked)
                ):
                    self.ready[cast(int, stream.stream_id)] = stream
                continue
            stream_id = cast(int, stream.stream_id)
            del self._streams[stream_id]
            self.ready.pop(stream_id, None)
            self.raised.pop(stream_id, None)
            held = self.held[stream_id]
            if held[0] == held[1]:
                del self.held[stream_id]
            if stream_is_client_initiated(stream_id) != self._is_client:
                # RFC 9000 section 4.6: one more may be opened for each that is over.
                self._stream_limit(stream_id).value += 1
        self._streams_queue = staying

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float
    ) -> None:
        """Fill packets with what is due; ends by an empty packet, by pacing, or by the builder's Stop."""
        if not self._handshake_complete:
            return  # neither 0-RTT nor data for a client that has shown no certificate
        crypto = self._cryptos[tls.Epoch.ONE_RTT]
        space = self._spaces[tls.Epoch.ONE_RTT]
        if self.stirred:
            self._look_around()
        while True:
            ack_due = space.ack_at is not None and space.ack_at <= now
            if not ack_due:
                self._pacing_at = self.pacer.next_send_time(now)
                if self._pacing_at is not None:
                    return
            builder.start_packet(QuicPacketType.ONE_RTT, crypto)
            is_full = False
            try:
                if ack_due:
                    self._write_ack_frame(builder, space, now)
                self._write_control(builder, network_path, space, now)
                self._write_streams(builder, space)
            except QuicPacketBuilderStop:
                if builder.packet_is_empty:
                    raise
                is_full = True
            if builder.packet_is_empty:
                return
            if cast(Any, builder._packet).in_flight:
                self.pacer.sent(self._max_datagram_size - builder.remaining_buffer_space)
            if not (is_full or self.ready or self.raised):
                return

    def _write_control(
        self, builder: QuicPacketBuilder, path: QuicNetworkPath, space: QuicPacketSpace, now: float
    ) -> None:
        """Everything but ACK and stream data."""
        if not (path.is_validated or path.local_challenge_sent):
            self._write_path_challenge_frame(builder, path)
            if path.validation_deadline is None:
                # RFC 9000 section 8.2.4: three times the larger of this path's and a new path's PTO.
                pto = max(self._loss.get_probe_timeout(), 2 * self._configuration.initial_rtt)
                path.validation_deadline = now + 3 * pto
        if self._handshake_done_pending:
            self._write_handshake_done_frame(builder)
            self._handshake_done_pending = False
        if self.stirred:
            while path.remote_challenges:
                self._write_path_response_frame(builder, path.remote_challenges[0])
                path.remote_challenges.popleft()
            for connection_id in self._host_cids:
                if not connection_id.was_sent:
                    self._write_new_connection_id_frame(builder, connection_id)
            while self._retire_connection_ids:
                self._write_retire_connection_id_frame(builder, self._retire_connection_ids[0])
                del self._retire_connection_ids[0]
            self._write_connection_limits(builder, space)
        while self.raised:
            stream_id, stream = next(iter(self.raised.items()))
            self._write_credit(builder, stream)
            del self.raised[stream_id]
        if self._ping_pending:
            self._write_ping_frame(builder, self._ping_pending)
            self._ping_pending.clear()
        if self._probe_pending:
            self._write_ping_frame(builder)
            self._probe_pending = False

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """MAX_DATA follows what was consumed, MAX_STREAMS what is over; both in good portions."""
        data = self._local_max_data
        credit = self.consumed + self.connection_window
        if 2 * (credit - data.sent) >= self.connection_window:
            data.value = credit
        streams = self._local_max_streams_bidi
        for limit, due in (
            (data, data.value != data.sent),
            (streams, streams.value - streams.sent > streams.sent - streams.used),
        ):
            if due:
                buf = builder.start_frame(
                    limit.frame_type,
                    CONNECTION_LIMIT_FRAME_CAPACITY,
                    self._on_connection_limit_delivery,
                    (limit,),
                )
                buf.push_uint_var(limit.value)
                limit.sent = limit.value

    def _write_credit(self, builder: QuicPacketBuilder, stream: QuicStream) -> None:
        if stream.receiver.is_finished:
            return
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            MAX_STREAM_DATA_FRAME_CAPACITY,
            self._on_max_stream_data_delivery,
            (stream,),
        )
        buf.push_uint_var(cast(int, stream.stream_id))
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: QuicStream) -> None:
        stream_id = cast(int, stream.stream_id)
        if delivery is not QuicDeliveryState.ACKED and stream_id in self._streams:
            self.raised[stream_id] = stream

    def _write_streams(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """Stream frames until the packet is full; who was served goes to the end of the queue."""
        ready = self.ready
        for stream_id in list(ready) if ready else ():
            stream = ready[stream_id]
            sender = stream.sender
            if stream.receiver.stop_pending:
                self._write_stop_sending_frame(builder, stream)
            if sender.reset_pending:
                self._write_reset_stream_frame(builder, stream)
            if sender.buffer_is_empty or stream.is_blocked:
                del ready[stream_id]
                continue
            credit = self._remote_max_data - self._remote_max_data_used
            limit = min(sender.highest_offset + credit, stream.max_stream_data_remote)
            self._remote_max_data_used += self._write_stream_frame(builder, space, stream, limit)
            del ready[stream_id]
            if not (len(sender._pending) or sender._pending_eof):
                sender.buffer_is_empty = True
            elif not len(sender._pending) or sender.next_offset < limit:
                ready[stream_id] = stream  # the packet is full
                return
            # else the peer's credit is spent: its MAX_DATA or MAX_STREAM_DATA stirs us again

    # --- larger datagrams: RFC 8899, with one probe where there is much to send

    def _probe_path(self, now: float) -> list[tuple[bytes, Address]]:
        if not self.ready or not self._handshake_confirmed or self._close_event is not None:
            return []
        size = self.mtu.probe(self._max_datagram_size)
        if size is None:
            return []
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            spin_bit=self._spin_bit,
            version=cast(int, self._version),
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[tls.Epoch.ONE_RTT])
        buf = builder.start_frame(QuicFrameType.PING, 1, self._on_probe_delivery, (size,))
        buf.push_bytes(bytes(builder.remaining_buffer_space))
        # Its loss says nothing about congestion (RFC 8899 section 3), so it is not counted as in flight.
        cast(Any, builder._packet).in_flight = False
        return self._flush_builder(
            builder=builder, network_path=self._network_paths[0], peer_cid=self._peer_cid.cid, now=now
        )

    def _on_probe_delivery(self, delivery: QuicDeliveryState, size: int) -> None:
        arrived = delivery is QuicDeliveryState.ACKED
        self.mtu.probed(size, arrived)
        if arrived:
            self._resize(size)

    def _resize(self, size: int) -> None:
        self._max_datagram_size = size
        control = cast(Any, self._loss._cc)
        control._max_datagram_size = size
        control.congestion_window = max(control.congestion_window, 10 * size)  # RFC 9002 section 7.2
        self.pacer.datagram_changed(size)
