"""One stream of a connection: the class that TCP (yamux) and QUIC share.

It implements `grove_core.transport.Stream`: buffers what came until somebody reads, agrees on a
protocol by multistream-select, waits for room, and says once how it ended. How bytes travel is the
muxer's: a subclass supplies four operations (`_send`, `_grant`, `_finish`, `_abort`), and the muxer
calls back `data_received`, `eof_received`, `reset_received`, `stop_received`, `sent` and
`connection_lost`. Sources: libp2p/specs connections/README.md; libp2p-wire.md 2.1, 2.5, 2.8.

1. Credit returns to the remote only for bytes that a reader took, a sink granted, or the
   negotiation ate; so at most one window per stream is ever buffered here.
2. `buffered` counts every byte given to `_send` until the muxer reports it by `sent`.
3. A sink hears `stream_lost` exactly once, after which nothing; for what the node itself does
   (reset, close_write) it hears it in the next turn of the loop, never from inside the call.
4. `_over` is called exactly once, when neither direction will move again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from grove_core.errors import GroveError, LocalProtocolError, RemoteProtocolError
from grove_core.transport import (
    Connection,
    ProtocolNotSupported,
    Sink,
    StreamClosed,
    StreamHandler,
    StreamReset,
)
from grove_libp2p import multistream

NEGOTIATION_TIMEOUT: Final = 10.0
"""Seconds for agreeing on a protocol (go swarm, js, rust alike)."""

DRAINED: Final = 256 * 1024
"""`drain` returns once at most this many bytes wait."""

# Error codes of streams; those of connections are others (libp2p/specs error codes; go-libp2p).
STREAM_NEGOTIATION_FAILED: Final = 0x1001
STREAM_RESOURCE_LIMIT: Final = 0x1002
STREAM_PROTOCOL_VIOLATION: Final = 0x1004
STREAM_SHUTDOWN: Final = 0x1007


class MuxedStream:
    """A stream over four operations of a muxer. Created idle: call `propose` or `accept` first."""

    __slots__ = (
        "__weakref__",
        "_agreed",
        "_chunks",
        "_connection",
        "_drainers",
        "_eof",
        "_error",
        "_finished",
        "_handlers",
        "_is_over",
        "_loop",
        "_offset",
        "_reader",
        "_sink",
        "_size",
        "_talk",
        "_timer",
        "_write_error",
        "buffered",
        "protocol",
    )

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self.protocol = ""
        self.buffered = 0
        self._chunks: deque[bytes] = deque()  # received and not read; the first from _offset on
        self._offset = 0
        self._size = 0
        self._reader: asyncio.Future[None] | None = None
        self._drainers: list[asyncio.Future[None]] | None = None
        self._sink: Sink | None = None
        self._eof = False
        self._finished = False
        self._error: GroveError | None = None  # why nothing can be read any more
        self._write_error: GroveError | None = None  # why nothing can be written any more
        self._is_over = False
        self._talk: multistream.Initiator | multistream.Responder | None = None
        self._handlers: Mapping[str, StreamHandler] | None = None
        self._agreed: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "over" if self._is_over else "half-closed" if self._finished or self._eof else "open"
        return f"<stream {self.protocol or 'without protocol'} {state}>"

    # --- what the muxer supplies -----------------------------------------------------------------

    def _send(self, data: bytes | memoryview) -> None:
        """Send bytes in order as credit allows. data never changes afterwards. Report by `sent`."""
        raise NotImplementedError

    def _grant(self, count: int) -> None:
        """Return credit for count bytes to the remote."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Send our end of the stream behind what was sent. At most once."""
        raise NotImplementedError

    def _abort(self, code: int) -> None:
        """Forget what waits and reset both directions. At most once; nothing is called after it."""
        raise NotImplementedError

    def _over(self) -> None:
        """Both directions are done, in order or not. The muxer may forget the stream."""

    # --- negotiation -----------------------------------------------------------------------------

    def propose(self, protocols: Sequence[str]) -> None:
        """Begin an outbound stream. With one candidate it may be used at once (lazy)."""
        talk = multistream.Initiator(protocols)
        self._talk = talk
        if len(protocols) == 1:
            self.protocol = protocols[0]
        else:
            self._agreed = self._loop.create_future()
        self._timer = self._loop.call_later(NEGOTIATION_TIMEOUT, self._negotiation_timed_out)
        self._queue(talk.opening)

    async def agreement(self) -> None:
        """Wait until the remote agreed on one of several candidates; at once if there was only one.

        Raises ProtocolNotSupported, StreamClosed, StreamReset, or TimeoutError after 10 s.
        """
        if self._agreed is None:
            return
        try:
            await self._agreed
        except asyncio.CancelledError:
            self.reset()
            raise
        finally:
            self._agreed = None

    def accept(self, handlers: Mapping[str, StreamHandler]) -> None:
        """Begin an inbound stream: answer proposals, then call the handler of what was agreed on."""
        self._handlers = handlers
        self._talk = multistream.Responder(handlers.__contains__)
        self._timer = self._loop.call_later(NEGOTIATION_TIMEOUT, self._negotiation_timed_out)
        self._queue(multistream.HEADER)

    def _negotiate(self, data: bytes) -> bytes:
        """Give bytes to the negotiation; returns those behind its end."""
        talk = self._talk
        assert talk is not None
        try:
            answer = talk.receive(data)
        except RemoteProtocolError as error:
            self._fail_negotiation(
                ProtocolNotSupported(f"no agreement on {self._wanted()}: {error}"),
                STREAM_PROTOCOL_VIOLATION,
            )
            return b""
        if answer and self._write_error is None:
            self._queue(answer)
        if talk.agreed is None:
            if isinstance(talk, multistream.Initiator) and talk.refused:
                self._fail_negotiation(
                    ProtocolNotSupported(f"the remote does not speak {self._wanted()}"),
                    STREAM_NEGOTIATION_FAILED,
                )
            else:
                self._grant(len(data))
            return b""
        rest = talk.remainder
        self._grant(len(data) - len(rest))
        self._talk = None
        self._stop_timer()
        self.protocol = talk.agreed
        if self._agreed is not None and not self._agreed.done():
            self._agreed.set_result(None)
        if self._handlers is not None:
            handler = self._handlers.get(talk.agreed)
            self._handlers = None
            if handler is None:  # It was served a moment ago.
                self.reset(STREAM_NEGOTIATION_FAILED)
                return b""
            try:
                handler(self)
            except Exception as error:
                self._blame(f"handler of {talk.agreed}", error)
                return b""
            if self._is_over:
                return b""
        return rest

    def _wanted(self) -> str:
        return self.protocol or "any of the protocols proposed"

    def _negotiation_timed_out(self) -> None:
        self._timer = None
        text = f"no agreement on {self._wanted()} within {NEGOTIATION_TIMEOUT:g} s"
        if self._agreed is not None and not self._agreed.done():
            self._agreed.set_exception(TimeoutError(text))
        self._fail_negotiation(StreamClosed(text), STREAM_NEGOTIATION_FAILED)

    def _fail_negotiation(self, error: GroveError, code: int) -> None:
        self._abort(code)
        self._lose(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- what the muxer reports ------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes of the remote, in order; not more than the credit it has."""
        if self._talk is not None:
            data = self._negotiate(data)
            if not data:
                return
        sink = self._sink
        if sink is not None:
            try:
                sink.data_received(data)
            except Exception as error:
                self._blame("sink", error)
            return
        if self._error is not None:
            return
        self._chunks.append(data)
        self._size += len(data)
        if self._reader is not None:
            self._wake_reader()

    def eof_received(self) -> None:
        """The remote finished writing."""
        if self._eof or self._error is not None:
            return
        if self._talk is not None:
            text = f"the remote finished before agreeing on {self._wanted()}"
            self._fail_negotiation(StreamClosed(text), STREAM_NEGOTIATION_FAILED)
            return
        self._eof = True
        self._wake_reader()
        sink = self._sink
        if sink is not None:
            try:
                sink.eof_received()
            except Exception as error:
                self._blame("sink", error)
                return
        self._end_if_done()

    def reset_received(self, code: int) -> None:
        """The remote aborted; what was not read is gone, unless it had come to its end before.

        The muxer has forgotten the stream.
        """
        if not self._is_over:
            self._lose(StreamReset(code), keep=self._eof)

    def stop_received(self, code: int) -> None:
        """The remote reads no more (QUIC STOP_SENDING); its own direction goes on."""
        if self._is_over or (self._finished and not self.buffered):
            return
        self._write_error = StreamReset(code)
        self._finished = True
        self.buffered = 0
        self._wake_drainers()
        self._end_if_done()

    def sent(self, count: int) -> None:
        """count bytes given to `_send` are on their way."""
        self.buffered -= count
        if self._drainers is not None and self.buffered <= DRAINED:
            self._wake_drainers()
        if self._finished and not self.buffered:
            self._end_if_done()

    def connection_lost(self, error: GroveError) -> None:
        """The connection is gone. What was received in order can still be read."""
        if not self._is_over:
            self._lose(error, keep=True)

    # --- the Stream protocol ---------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        """The connection this stream belongs to."""
        return self._connection

    async def read(self, limit: int = 65536) -> bytes:
        """Between 1 and limit bytes, or b"" at the remote's end. Grants credit for what it returns."""
        if limit < 1:
            raise LocalProtocolError(f"read of {limit} bytes; a read asks for at least 1")
        while not self._chunks:
            if self._sink is not None:
                raise LocalProtocolError("a sink is attached to this stream; it gets the bytes")
            if self._eof:
                return b""
            if self._error is not None:
                raise self._error.with_traceback(None)
            await self._wait_for_bytes()
        chunk = self._chunks[0]
        offset = self._offset
        count = len(chunk) - offset
        if count <= limit:
            self._chunks.popleft()
            self._offset = 0
            if offset:
                chunk = chunk[offset:]
        else:
            count = limit
            chunk = chunk[offset : offset + limit]
            self._offset = offset + limit
        self._size -= count
        if not self._is_over:
            self._grant(count)
        return chunk

    async def read_exactly(self, count: int) -> bytes:
        """Exactly count bytes. Raises StreamClosed if the remote ends before.

        If the caller gives up waiting (cancellation), what came goes back and can be read again.
        """
        if count < 1:
            return b""
        piece = await self.read(count)
        if len(piece) == count:
            return piece
        pieces: list[bytes] = []
        missing = count
        try:
            while True:
                if not piece:
                    raise StreamClosed(
                        f"the remote finished {self.protocol} after {count - missing} of {count} bytes"
                    )
                pieces.append(piece)
                missing -= len(piece)
                if not missing:
                    return b"".join(pieces)
                piece = await self.read(missing)
        except asyncio.CancelledError:
            self._put_back(pieces)
            raise

    def attach(self, sink: Sink) -> None:
        """From now on push to sink (beginning with what is buffered); `read` may not be used."""
        if self._sink is not None:
            raise LocalProtocolError("this stream has a sink already")
        self._sink = sink
        try:
            while self._chunks:
                chunk = self._chunks.popleft()
                if self._offset:
                    chunk = chunk[self._offset :]
                    self._offset = 0
                self._size -= len(chunk)
                sink.data_received(chunk)
            if self._eof:
                sink.eof_received()
        except Exception as error:
            self._blame("sink", error)
            return
        if self._is_over:
            self._loop.call_soon(self._tell_lost)

    def grant(self, count: int) -> None:
        """Return credit for count bytes that a sink has consumed."""
        if not self._is_over:
            self._grant(count)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes; never blocks. Raises StreamClosed or StreamReset when nothing can leave."""
        if self._write_error is not None:
            raise self._write_error.with_traceback(None)
        if type(data) is not bytes:
            data = _unchanging(data)
        if data:
            self._queue(data)

    async def drain(self) -> None:
        """Wait until at most 256 KiB wait. Raises StreamClosed or StreamReset if they never will."""
        while self.buffered > DRAINED:
            if self._drainers is None:
                self._drainers = []
            drainer = self._loop.create_future()
            self._drainers.append(drainer)
            await drainer
        if self._error is not None:
            raise self._error.with_traceback(None)
        if isinstance(self._write_error, StreamReset):
            raise self._write_error.with_traceback(None)

    def close_write(self) -> None:
        """Finish our direction in order; reading goes on. Idempotent."""
        if self._finished or self._write_error is not None:
            return
        self._finished = True
        self._write_error = StreamClosed(f"our side of {self.protocol} is finished")
        self._finish()
        if self._eof and not self.buffered:
            self._loop.call_soon(self._end_if_done)

    def reset(self, code: int = 0) -> None:
        """Abort both directions at once. Idempotent."""
        if self._is_over:
            return
        self._abort(code)
        self._lose(StreamClosed(f"{self.protocol or 'the stream'} was reset by us"), later=True)

    # --- ends ------------------------------------------------------------------------------------

    def _queue(self, data: bytes | memoryview) -> None:
        self.buffered += len(data)
        self._send(data)

    def _end_if_done(self) -> None:
        """Both directions finished in order: over."""
        if self._eof and self._finished and not self.buffered and not self._is_over:
            self._is_over = True
            self._wake_drainers()
            self._over()
            self._tell_lost()

    def _lose(self, error: GroveError, *, keep: bool = False, later: bool = False) -> None:
        """Both directions broke. keep: what was received may still be read."""
        assert not self._is_over
        self._is_over = True
        self._error = self._write_error = error
        self._stop_timer()
        self._talk = None
        self._handlers = None
        self.buffered = 0
        if not keep:
            self._chunks.clear()
            self._offset = self._size = 0
            self._eof = False
        if self._agreed is not None and not self._agreed.done():
            self._agreed.set_exception(error)
        self._wake_reader()
        self._wake_drainers()
        self._over()
        if later:
            self._loop.call_soon(self._tell_lost)
        else:
            self._tell_lost()

    def _tell_lost(self) -> None:
        sink = self._sink
        if sink is None:
            return
        self._sink = _DEAF
        if sink is not _DEAF:
            try:
                sink.stream_lost(self._error)
            except Exception as error:
                self._blame("sink", error)

    def _blame(self, what: str, error: Exception) -> None:
        """Our own program failed at this stream: say so loudly, and cost nobody else anything."""
        self._loop.call_exception_handler({"message": f"{what} failed on {self!r}", "exception": error})
        self.reset(STREAM_RESOURCE_LIMIT)

    # --- waiting ---------------------------------------------------------------------------------

    async def _wait_for_bytes(self) -> None:
        if self._reader is not None:
            raise LocalProtocolError(f"two tasks read {self!r} at once")
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_drainers(self) -> None:
        drainers, self._drainers = self._drainers, None
        for drainer in drainers or ():
            if not drainer.done():
                drainer.set_result(None)

    def _put_back(self, pieces: list[bytes]) -> None:
        if self._offset:
            self._chunks[0] = self._chunks[0][self._offset :]
            self._offset = 0
        self._chunks.extendleft(reversed(pieces))
        self._size += sum(map(len, pieces))


class _Deaf:
    """The sink of a stream that has told its end."""

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> None: ...
    def stream_lost(self, error: GroveError | None) -> None: ...


_DEAF: Final = _Deaf()


def _unchanging(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    """A view on immutable bytes stays a view; what its owner may change is copied."""
    if isinstance(data, memoryview) and type(data.obj) is bytes and data.c_contiguous:
        return data.cast("B")
    return bytes(data)
