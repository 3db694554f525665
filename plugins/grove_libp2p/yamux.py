"""yamux: many streams over one ordered byte stream, each with its own credit.

Sources: the yamux specification (hashicorp/yamux spec.md as in libp2p/specs yamux/README.md), with
what go, js and rust do where it leaves room: libp2p-wire.md 2.5. A pure machine: `receive` takes
bytes and notes events, `take` gives the next bytes to send. It knows no clock; who grants credit
says what time it is.

A header is 12 bytes, big-endian: version u8 (0), type u8, flags u16, stream id u32, length u32.

1. Credit returns by `grant`, when the reader consumed, never on receipt. So the bytes of a stream
   that nobody reads are bounded by its window, and all of them by
   `max_inbound + opened streams` x 256 KiB + `growth`.
2. Nothing is sent beyond the credit of the remote; what waits for it is the writer's to bound.
3. At most 256 of our streams wait for the remote's ACK.
4. What we owe a remote that does not read is bounded: one frame of each kind per stream, and
   `MAX_OWED` answers that belong to no stream. Beyond, the remote is at fault.
5. A remote at fault gets GoAway 1 (protocol error), and `receive` raises RemoteProtocolError.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

import msgspec

from grove_core.errors import LocalProtocolError, RemoteProtocolError

PROTOCOL: Final = "/yamux/1.0.0"

WINDOW: Final = 256 * 1024
"""Credit of each direction when a stream opens: a constant of the specification."""

HEADER: Final = 12
"""Bytes of a frame header."""

MAX_UNACKNOWLEDGED: Final = 256
"""Streams we may have open before the remote acknowledged them (specification, "ACK backlog")."""

MAX_OWED: Final = 4096
"""Frames owed that belong to no stream: pongs, refusals, resets; about 230 KB. Guess: well below
what one Noise message can ask for (5459), well above what an honest remote does."""

MAX_FRAME: Final = 64 * 1024
"""Bytes of a stream in one frame we send: what go and js send."""

PIECE: Final = 65519
"""Longest piece that `take` gives: what fits one Noise message.

A frame of 64 KiB leaves as its header, 17 bytes, and one such piece, so that the sealing needs no
copy, and neither does the remote if it is one of ours.
"""

TURNOVER: Final = 0.02
"""A window that is consumed within 4 round trips, or within this many seconds, is too small.

Four round trips are go's rule. The floor stands for the turns of the two event loops, which a ping
on an idle connection does not see. Guess.
"""

NORMAL, PROTOCOL_ERROR, INTERNAL_ERROR = 0, 1, 2
"""Codes of GoAway. libp2p's own (0x1000 and more) are sent in the same place."""

REFUSED: Final = 0x1002
"""The stream's code "resource limit exceeded", in the length of a RST as go sends it."""

_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_MAX_CREDIT = 0xFFFFFFFF

_header = struct.Struct(">BBHII")
_pack, _unpack_from = _header.pack, _header.unpack_from


class Event(msgspec.Struct, frozen=True, gc=False):
    """What happened; `receive` notes these in order."""

    stream: int


class StreamOpened(Event, frozen=True, gc=False):
    """The remote opened a stream."""


class DataReceived(Event, frozen=True, gc=False):
    """Bytes of a stream, in order."""

    data: bytes


class StreamFinished(Event, frozen=True, gc=False):
    """The remote finished writing to a stream."""


class StreamWasReset(Event, frozen=True, gc=False):
    """The remote aborted a stream; this machine has forgotten it. code: 0 if it gave none."""

    code: int


class Pong(Event, frozen=True, gc=False):
    """The answer to our ping. stream is 0."""

    value: int


class WentAway(Event, frozen=True, gc=False):
    """The remote accepts no more streams. stream is 0; code: `NORMAL` and so on, or libp2p's."""

    code: int


class _Channel:
    """One stream, as far as yamux knows it."""

    __slots__ = (
        "acknowledged",
        "consumed",
        "credit",
        "fin",
        "fin_received",
        "fin_sent",
        "id",
        "owed_credit",
        "pending",
        "ready",
        "received_credit",
        "refreshed",
        "start",
        "window",
    )

    def __init__(self, stream: int, start: int) -> None:
        self.id = stream
        self.start = start  # SYN or ACK, until our first frame carried it
        self.acknowledged = start == _ACK  # by the remote, of a stream we opened
        self.credit = WINDOW  # what we may still send
        self.pending: deque[bytes | memoryview] | None = None  # given by the writer, not sent
        self.fin = False  # the writer finished
        self.fin_sent = False
        self.fin_received = False
        self.window = WINDOW  # what the remote may have under way or unread
        self.received_credit = WINDOW  # what the remote may still send
        self.consumed = 0  # read since credit was returned last
        self.owed_credit = 0  # returned, and not yet sent
        self.refreshed: float | None = None  # when credit was returned last
        self.ready = False  # in the queue of those that have something to send


class Yamux:
    """One side of a connection.

    client: whether we dialled. max_inbound: streams of the remote at once; more are refused.
    max_window: bytes to which one stream's window may grow. growth: bytes by which all windows
    together may grow beyond 256 KiB each.
    """

    def __init__(
        self,
        *,
        client: bool,
        max_inbound: int = 256,
        max_window: int = 4 * 1024 * 1024,
        growth: int = 16 * 1024 * 1024,
    ) -> None:
        self._parity = 1 if client else 0
        self._next_id = 1 if client else 2
        self._max_inbound = max_inbound
        self._max_window = max_window
        self._growth = growth
        self._channels: dict[int, _Channel] = {}
        self._inbound = 0
        self._unacknowledged = 0
        self._ready: deque[_Channel] = deque()
        self._owed: deque[bytes] = deque()
        self._head = b""  # the beginning of a header
        self._body = 0  # bytes of the current Data frame that are still to come
        self._body_channel: _Channel | None = None  # None: they belong to nobody
        self._body_fin = False
        self._leaving = False
        self.round_trip = 0.0
        """Seconds; set by the driver when it has measured one. Windows grow by it."""
        self.events: list[Event] = []
        """What happened since somebody emptied this list."""
        self.sent: list[tuple[int, int]] = []
        """(stream, bytes given by `send` that `take` took), since somebody emptied this list."""
        self.ended: list[int] = []
        """Streams that are forgotten: finished both ways or reset; since somebody emptied this."""

    # --- what our side does ----------------------------------------------------------------------

    @property
    def can_open(self) -> bool:
        """Whether the remote acknowledged enough of our streams to open one more."""
        return self._unacknowledged < MAX_UNACKNOWLEDGED

    def open(self) -> int:
        """Open a stream; its id. The remote hears of it with the first bytes, or by the next `take`."""
        if not self.can_open:
            raise LocalProtocolError(f"{MAX_UNACKNOWLEDGED} streams wait for the remote's ACK already")
        if self._next_id > 0xFFFFFFFF:
            raise LocalProtocolError("this connection has used up its stream ids")
        channel = _Channel(self._next_id, _SYN)
        self._next_id += 2
        self._channels[channel.id] = channel
        self._unacknowledged += 1
        self._make_ready(channel)
        return channel.id

    def send(self, stream: int, data: bytes | memoryview) -> None:
        """Queue bytes of a stream. `sent` tells when they left."""
        channel = self._channels.get(stream)
        if channel is None:
            return
        if channel.fin:
            raise LocalProtocolError(f"write to stream {stream} after its end")
        if channel.pending is None:
            channel.pending = deque()
        channel.pending.append(data)
        if not channel.ready and channel.credit:
            self._make_ready(channel)

    def finish(self, stream: int) -> None:
        """End our direction of a stream, behind what was sent."""
        channel = self._channels.get(stream)
        if channel is not None and not channel.fin:
            channel.fin = True
            if not channel.pending:
                self._make_ready(channel)

    def reset(self, stream: int, code: int = 0) -> None:
        """Abort a stream and forget it."""
        channel = self._channels.get(stream)
        if channel is not None:
            announced = channel.start != _SYN
            self._forget(channel)
            if announced:
                self._owed.append(_pack(0, _WINDOW_UPDATE, _RST | channel.start, stream, code))

    def grant(self, stream: int, count: int, now: float) -> None:
        """Return credit for count bytes that were consumed. now: seconds on any steady clock.

        The remote hears of it once half the window is consumed. If that took less than four round
        trips, the window is what holds it back: it doubles, while the bounds allow.
        """
        channel = self._channels.get(stream)
        if channel is None or channel.fin_received:
            return
        channel.consumed += count
        if channel.consumed * 2 < channel.window:
            return
        more = channel.consumed
        quick = max(4 * self.round_trip, TURNOVER)
        if channel.refreshed is not None and now - channel.refreshed < quick:
            grown = max(min(channel.window, self._max_window - channel.window, self._growth), 0)
            channel.window += grown
            self._growth -= grown
            more += grown
        channel.refreshed = now
        channel.consumed = 0
        channel.received_credit += more
        channel.owed_credit += more
        self._make_ready(channel)

    def ping(self, value: int) -> None:
        """Ask the remote for a `Pong` with this value."""
        self._owed.append(_pack(0, _PING, _SYN, 0, value))

    def go_away(self, code: int = NORMAL) -> None:
        """Say that we accept no more streams. Once."""
        if not self._leaving:
            self._leaving = True
            self._owed.append(_pack(0, _GO_AWAY, 0, 0, code))

    @property
    def has_output(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._owed or self._ready)

    def take(self, limit: int) -> list[bytes | memoryview]:
        """The next pieces to send, in order; together at most limit (>= 64) bytes. Empty: nothing.

        Each is at most `PIECE` bytes. Streams take turns, by frames.
        """
        out: list[bytes | memoryview] = []
        room = limit
        owed = self._owed
        while owed and room >= HEADER:
            out.append(owed.popleft())
            room -= HEADER
        ready = self._ready
        while ready and room >= 3 * HEADER + 1:
            channel = ready.popleft()
            channel.ready = False
            room -= self._emit(channel, out, room)
        return out

    def _emit(self, channel: _Channel, out: list[bytes | memoryview], room: int) -> int:
        """Frames of one channel; how many bytes they are. room: at least 3 headers and a byte."""
        size = 0
        start = channel.start
        if channel.owed_credit:
            update = min(channel.owed_credit, _MAX_CREDIT)
            out.append(_pack(0, _WINDOW_UPDATE, start, channel.id, update))
            channel.owed_credit -= update
            size += HEADER
            start = 0
        pending = channel.pending
        if pending and channel.credit:
            most = min(channel.credit, room - size - HEADER, MAX_FRAME)
            at = len(out)
            out.append(b"")
            count = 0
            while pending:
                piece = pending[0]
                length = len(piece)
                if count + length <= most:
                    pending.popleft()
                    if length > PIECE:
                        view = memoryview(piece)
                        out.append(view[: length - PIECE])
                        piece = view[length - PIECE :]
                    out.append(piece)
                    count += length
                    continue
                if count < most:
                    view = memoryview(piece)
                    length = most - count
                    pending[0] = view[length:]
                    if length > PIECE:
                        out.append(view[: length - PIECE])
                        out.append(view[length - PIECE : length])
                    else:
                        out.append(view[:length])
                    count = most
                break
            out[at] = _pack(0, _DATA, start, channel.id, count)
            start = 0
            channel.credit -= count
            size += HEADER + count
            self.sent.append((channel.id, count))
        if channel.fin and not channel.fin_sent and not pending and room - size >= HEADER:
            # A frame of its own, as go sends it: go's reader may see a FIN before the frame's bytes.
            out.append(_pack(0, _WINDOW_UPDATE, start | _FIN, channel.id, 0))
            size += HEADER
            start = 0
            channel.fin_sent = True
            channel.start = 0
            if channel.fin_received:
                self._forget(channel)
            return size
        if start:
            out.append(_pack(0, _WINDOW_UPDATE, start, channel.id, 0))
            size += HEADER
        channel.start = 0
        if (pending and channel.credit) or (channel.fin and not channel.fin_sent and not pending):
            self._make_ready(channel)
        return size

    # --- what the remote does --------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes of the remote; see `events`. Raises RemoteProtocolError, after which only
        `take` makes sense: it gives the GoAway.
        """
        try:
            self._receive(data)
        except RemoteProtocolError:
            self.go_away(PROTOCOL_ERROR)
            raise

    def _receive(self, data: bytes) -> None:
        at, end = 0, len(data)
        if self._head:
            at = HEADER - len(self._head)
            self._head += data[:at]
            if len(self._head) < HEADER:
                return
            header, self._head = self._head, b""
            self._frame(*_unpack_from(header))
        while at < end:
            body = self._body
            if body:
                stop = at + body
                if stop > end:
                    stop = end
                self._body = body - (stop - at)
                channel = self._body_channel
                if channel is not None:
                    piece = data if stop - at == end else data[at:stop]
                    self.events.append(DataReceived(channel.id, piece))
                at = stop
                if not self._body:
                    self._end_of_body()
                continue
            if end - at < HEADER:
                self._head = data[at:]
                return
            self._frame(*_unpack_from(data, at))
            at += HEADER

    def _frame(self, version: int, kind: int, flags: int, stream: int, length: int) -> None:
        if version:
            raise RemoteProtocolError(f"yamux version {version}; only 0 is known")
        if kind <= _WINDOW_UPDATE:
            if stream == 0:
                raise RemoteProtocolError("yamux stream frame for stream 0, which is the session")
            channel = self._channels.get(stream)
            if flags:
                channel = self._flags(channel, kind, flags, stream, length)
            if kind == _DATA:
                self._data(channel, length)
                self._body_fin = bool(flags & _FIN)
                if not length:
                    self._end_of_body()
            elif not flags & _RST:
                if channel is not None and length:
                    self._credit(channel, length)
                if flags & _FIN and channel is not None:
                    self._finished(channel)
        elif kind == _PING:
            if flags & _SYN:
                self._owe(_pack(0, _PING, _ACK, 0, length))
            elif flags & _ACK:
                self.events.append(Pong(0, length))
        elif kind == _GO_AWAY:
            self.events.append(WentAway(0, length))
        else:
            raise RemoteProtocolError(f"yamux frame type {kind}; types are 0 to 3")

    def _flags(
        self, channel: _Channel | None, kind: int, flags: int, stream: int, length: int
    ) -> _Channel | None:
        """SYN, ACK and RST; the channel that the rest of the frame concerns. FIN comes last."""
        if flags & _SYN:
            if stream & 1 == self._parity:
                raise RemoteProtocolError(f"yamux stream {stream} opened by the wrong side")
            if channel is not None:
                raise RemoteProtocolError(f"yamux stream {stream} opened twice")
            if flags & _RST:
                return None
            if self._leaving or self._inbound >= self._max_inbound:
                self._owe(_pack(0, _WINDOW_UPDATE, _RST, stream, REFUSED))
                return None
            self._check_owed()  # our resets of its streams count too
            channel = _Channel(stream, _ACK)
            self._channels[stream] = channel
            self._inbound += 1
            self._make_ready(channel)
            self.events.append(StreamOpened(stream))
        if channel is None:
            return None
        if flags & _ACK and not channel.acknowledged:
            self._acknowledge(channel)
        if flags & _RST:
            self._forget(channel)
            # Only go's WindowUpdate gives a code here; a Data frame gives the length of its body.
            self.events.append(StreamWasReset(stream, length if kind == _WINDOW_UPDATE else 0))
            return None
        return channel

    def _data(self, channel: _Channel | None, length: int) -> None:
        self._body = length
        self._body_channel = channel
        if channel is None:
            return  # of a stream that was reset or refused: it is read over
        if not channel.acknowledged:
            self._acknowledge(channel)
        if length > channel.received_credit:
            raise RemoteProtocolError(
                f"{length} bytes on yamux stream {channel.id}; its credit is {channel.received_credit}"
            )
        if length and channel.fin_received:
            raise RemoteProtocolError(f"bytes on yamux stream {channel.id} after its end")
        channel.received_credit -= length

    def _end_of_body(self) -> None:
        channel, self._body_channel = self._body_channel, None
        if channel is not None and self._body_fin:
            self._finished(channel)
        self._body_fin = False

    def _credit(self, channel: _Channel, more: int) -> None:
        if channel.credit + more > _MAX_CREDIT:
            raise RemoteProtocolError(
                f"credit on yamux stream {channel.id} grew to {channel.credit + more}; limit 2**32 - 1"
            )
        channel.credit += more
        if channel.pending:
            self._make_ready(channel)

    def _finished(self, channel: _Channel) -> None:
        if channel.fin_received:
            return
        channel.fin_received = True
        channel.owed_credit = 0
        self.events.append(StreamFinished(channel.id))
        if channel.fin_sent:
            self._forget(channel)

    def _acknowledge(self, channel: _Channel) -> None:
        channel.acknowledged = True
        self._unacknowledged -= 1

    def _forget(self, channel: _Channel) -> None:
        del self._channels[channel.id]
        if channel.id & 1 == self._parity:
            if not channel.acknowledged:
                self._acknowledge(channel)
        else:
            self._inbound -= 1
        self._growth += channel.window - WINDOW
        if channel.ready:
            self._ready.remove(channel)
        if self._body_channel is channel:
            self._body_channel = None
        self.ended.append(channel.id)

    def _owe(self, frame: bytes) -> None:
        self._check_owed()
        self._owed.append(frame)

    def _check_owed(self) -> None:
        if len(self._owed) >= MAX_OWED:
            raise RemoteProtocolError(
                f"the remote has {MAX_OWED} answers waiting and asks for more without reading them"
            )

    def _make_ready(self, channel: _Channel) -> None:
        if not channel.ready:
            channel.ready = True
            self._ready.append(channel)
