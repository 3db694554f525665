"""Questions and answers: `ctx.request` and `ctx.reply`, each on a stream of its own.

The asker opens a stream, writes one frame, ends its direction and reads one frame. The answerer
serves a stream for as long as the remote keeps it, one question after the other: go-libp2p reuses
streams for Kademlia.

Invariants:
1. Every question is answered exactly once, by `on_reply` or `on_failure`, unless its key was asked anew.
2. A peer has at most `spec.requests` streams open to one machine, each with at most one question.
3. A question that the machine does not answer is forgotten after ANSWER_TIME.
4. Peers take turns, and who does not read our answers is asked for no further question.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Hashable
from contextlib import suppress
from itertools import count
from typing import Any, Protocol

from grove_core import host
from grove_core.drive.links import (
    STREAM_LIMIT,
    STREAM_VIOLATION,
    WRITE_AHEAD,
    Links,
    common,
    header,
)
from grove_core.errors import GroveError, RemoteProtocolError
from grove_core.identity import short
from grove_core.machine import PeerId, Token
from grove_core.node import Slot
from grove_core.transport import ProtocolNotSupported, Stream, StreamReset

log = logging.getLogger("grove.exchange")

STREAMS = 32
"""Questions to one peer that are on the wire at once; further ones wait (`libp2p-wire.md` 7.2)."""

UNREAD = 256 * 1024
"""Bytes of questions that may wait of one peer, all its streams together, and one longest question."""

QUESTION_TIME = 10.0
"""Seconds a remote has for a question once it has opened a stream (as for stream negotiation)."""

ANSWER_TIME = 60.0
"""Seconds our machine has for an answer; by then every asker has given up."""


class Inputs(Protocol):
    """Where questions and answers go: the machine's inputs."""

    def on_request(self, peer: PeerId, msg: Any, token: Token) -> None: ...
    def on_reply(self, key: Hashable, peer: PeerId, msg: Any) -> None: ...
    def on_failure(self, key: Hashable, peer: PeerId, reason: str) -> None: ...


class _Refused(GroveError):
    """The remote ended the stream without an answer."""


class _Line:
    """Those who ask one peer: so many on the wire, the others behind them in order."""

    __slots__ = ("length", "room")

    def __init__(self) -> None:
        self.length = 0
        self.room = asyncio.Semaphore(STREAMS)


class _Done:
    """Sees an answered stream to its end: a reset would tell the remote that something went wrong."""

    __slots__ = ("_deadline", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._deadline = asyncio.get_running_loop().call_later(QUESTION_TIME, stream.reset)

    def data_received(self, data: bytes) -> None:
        self._stream.reset()  # one question, one answer

    def eof_received(self) -> None:
        pass

    def stream_lost(self, error: GroveError | None) -> None:
        self._deadline.cancel()


class Desk:
    """One machine's questions and answers."""

    _tokens = count(1)

    def __init__(self, slot: Slot, inputs: Inputs, links: Links, counters: Counter[str]) -> None:
        self.slot = slot
        self.spec = slot.spec
        self.inputs = inputs
        self.swarm = links.swarm
        self.checks = links.checks
        self.turns = links.turns
        self.counters = counters
        self.loop = asyncio.get_running_loop()
        self.is_open = True
        self._asked: dict[Hashable, asyncio.Task[None]] = {}
        self._lines: dict[PeerId, _Line] = {}
        self._served: dict[PeerId, dict[_Served, None]] = {}
        self._waiting: dict[Token, _Served] = {}
        self._unread: Counter[PeerId] = Counter()

    # Ours.

    def ask(self, peer: PeerId, frame: bytes, key: Hashable, timeout: float) -> None:
        """Ask; a question still open under this key is never answered."""
        older = self._asked.pop(key, None)
        if older is not None:
            older.cancel()
        self._asked[key] = self.loop.create_task(self._ask(peer, frame, key, timeout))

    async def _ask(self, peer: PeerId, frame: bytes, key: Hashable, timeout: float) -> None:
        msg, reason = None, ""
        try:
            async with asyncio.timeout(timeout):
                msg = await self._exchange(peer, frame)
        except TimeoutError:
            reason = "timeout"
        except (ProtocolNotSupported, StreamReset, _Refused):
            reason = "refused"
        except RemoteProtocolError as error:
            reason = "invalid"
            self.counters["refused.message"] += 1
            log.warning("%s answered what it may not: %s: %s", short(peer), self.slot.name, error)
        except (GroveError, OSError):
            reason = "unreachable"
        except Exception:  # a codec or a transport broke its word; the machine is answered all the same
            log.exception("asking %s for %s", short(peer), self.slot.name)
            reason = "invalid"
        if self._asked.get(key) is not asyncio.current_task():
            return  # asked anew
        del self._asked[key]
        if reason:
            self.counters[f"failed.request.{reason}"] += 1
            self.inputs.on_failure(key, peer, reason)
        else:
            self.inputs.on_reply(key, peer, msg)

    async def _exchange(self, peer: PeerId, frame: bytes) -> Any:
        connection = self.swarm.best(peer)
        if connection is None or self.swarm.speaks(peer) is None:
            connection = await asyncio.shield(self.swarm.reach(peer))
        proposed = common(self.spec.rpc, self.swarm.speaks(peer))
        if not proposed:
            raise ProtocolNotSupported(f"{short(peer)} does not speak {self.slot.name}")
        line = self._lines.setdefault(peer, _Line())
        line.length += 1
        try:
            async with line.room:
                return await self._on_stream(await connection.open_stream(proposed), frame)
        finally:
            line.length -= 1
            if not line.length:
                self._lines.pop(peer, None)

    async def _on_stream(self, stream: Stream, frame: bytes) -> Any:
        try:
            stream.write(frame)
            stream.close_write()
            self.counters[f"asked.{self.slot.name}"] += 1
            data = b""
            while True:
                more = await stream.read()
                if not more:
                    raise _Refused("the remote ended the stream without an answer")
                data += more
                body = self.body(data)
                if body is not None:
                    break
        except BaseException:
            stream.reset()
            raise
        stream.attach(_Done(stream))
        return self.read(body)

    # Theirs.

    def accept(self, stream: Stream) -> None:
        """The remote opened a stream to ask."""
        peer = stream.connection.peer
        served = self._served.setdefault(peer, {})
        if not self.is_open or len(served) >= self.spec.requests:
            self.counters["refused.requests"] += 1
            stream.reset(STREAM_LIMIT)
            if not served:
                del self._served[peer]
            return
        one = _Served(self, peer, stream)
        served[one] = None
        stream.attach(one)

    def take(self, one: _Served, msg: Any) -> None:
        """A question is complete: to the machine with it."""
        token = one.token = Token(next(Desk._tokens))
        self._waiting[token] = one
        self.counters[f"served.{self.slot.name}"] += 1
        self.inputs.on_request(one.peer, msg, token)

    def answer(self, token: Token, frame: bytes) -> None:
        """A stale token is ignored."""
        one = self._waiting.pop(token, None)
        if one is not None:
            one.answer(frame)

    def unread(self, peer: PeerId, change: int) -> bool:
        """Count bytes of a peer's questions that wait; whether they are within the bound."""
        waiting = self._unread[peer] + change
        if waiting:
            self._unread[peer] = waiting
        else:
            del self._unread[peer]
        codec = self.spec.codec
        return codec is None or waiting <= UNREAD + codec.max_size

    def forget(self, one: _Served) -> None:
        """A stream is over."""
        if one.token is not None:
            self._waiting.pop(one.token, None)
        served = self._served.get(one.peer)
        if served is not None and one in served:
            del served[one]
            if not served:
                del self._served[one.peer]

    def close(self) -> None:
        """The machine is gone."""
        self.is_open = False
        for task in self._asked.values():
            task.cancel()
        self._asked = {}
        for served in tuple(self._served.values()):
            for one in tuple(served):
                one.end()
                one.stream.reset()

    # Frames.

    def body(self, data: bytes) -> bytes | None:
        """The first frame's body, or None if it is not complete. Raises RemoteProtocolError."""
        codec = self.spec.codec
        assert codec is not None, f"{self.slot.name} has rpc but no codec"
        found = header(data, 0)
        if found is None:
            return None
        size, at = found
        if size > codec.max_size:
            raise RemoteProtocolError(f"frame of {size} bytes; limit {codec.max_size}")
        return data[at : at + size] if len(data) - at >= size else None

    def read(self, body: bytes) -> Any:
        """The authenticated message in a frame. Raises RemoteProtocolError."""
        codec = self.spec.codec
        assert codec is not None
        msg = codec.decode(body)
        if not all(map(self.checks.holds, host.proofs(self.slot.part, msg))):
            raise RemoteProtocolError(f"a {type(msg).__name__} whose signature does not hold")
        return msg


class _Served:
    """A remote's stream of questions, as its `Sink`."""

    __slots__ = (
        "_at_end", "_buffer", "_deadline", "_draining", "_is_waiting", "_owed", "desk", "is_over", "peer",
        "stream", "token",
    )  # fmt: skip

    def __init__(self, desk: Desk, peer: PeerId, stream: Stream) -> None:
        self.desk = desk
        self.peer = peer
        self.stream = stream
        self.token: Token | None = None  # of the question that waits for its answer
        self.is_over = False
        self._buffer = b""
        self._owed = 0  # bytes that came and for which no credit was given back yet
        self._at_end = False
        self._is_waiting = False  # for its turn
        self._draining: asyncio.Task[None] | None = None
        self._deadline = desk.loop.call_later(QUESTION_TIME, self._too_late)

    def data_received(self, data: bytes) -> None:
        self._owed += len(data)
        self._buffer += data
        if not self.desk.unread(self.peer, len(data)):
            self.desk.counters["refused.requests"] += 1
            self.end()
            self.stream.reset(STREAM_LIMIT)
            return
        self._next()

    def eof_received(self) -> None:
        self._at_end = True
        self._next()

    def stream_lost(self, error: GroveError | None) -> None:
        self.end()

    def answer(self, frame: bytes) -> None:
        """The machine has answered the question that waits."""
        self.token = None
        if self.is_over:
            return
        try:
            self.stream.write(frame)
        except GroveError:
            self.end()
            return
        self._wait(ANSWER_TIME)
        if self.stream.buffered > WRITE_AHEAD:
            self._draining = self.desk.loop.create_task(self._drain())
        else:
            self._queue_up()

    async def _drain(self) -> None:
        """The remote asks faster than it listens: its next question waits until it has listened."""
        with suppress(GroveError):
            await self.stream.drain()
        self._draining = None
        self._queue_up()

    def _queue_up(self) -> None:
        """The next question comes when it is this peer's turn, and never inside the machine's input."""
        if not self.is_over and not self._is_waiting:
            self._is_waiting = True
            self.desk.turns.add(self)

    def step(self) -> bool:
        """See `turns.Worker`."""
        self._is_waiting = False
        self._next()
        return False  # after its answer it queues up again

    def _next(self) -> None:
        """Take the next question, if it is here and its turn."""
        if self.is_over or self.token is not None or self._is_waiting or self._draining is not None:
            return
        desk = self.desk
        try:
            body = desk.body(self._buffer) if self._buffer else None
            if body is None:
                self._grant(0)
                if self._at_end:
                    self._wait(ANSWER_TIME)  # for the remote to take what we wrote
                    self.stream.close_write()
                return
            msg = desk.read(body)
        except RemoteProtocolError as error:
            self._violated(str(error))
            return
        except Exception:  # the codec broke its word to raise nothing else; the bytes are still theirs
            log.exception("the codec of %s failed", desk.slot.name)
            self._violated("its codec failed")
            return
        found = header(self._buffer, 0)
        assert found is not None
        taken = found[1] + len(body)
        self._buffer = self._buffer[taken:]
        desk.unread(self.peer, -taken)
        self._grant(len(self._buffer))
        self._wait(ANSWER_TIME)
        desk.take(self, msg)

    def _grant(self, kept: int) -> None:
        """Give credit for all that came but the last so many bytes, which wait for their turn."""
        if self._owed > kept:
            self.stream.grant(self._owed - kept)
            self._owed = kept

    def _wait(self, seconds: float) -> None:
        self._deadline.cancel()
        self._deadline = self.desk.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self.desk.counters["expired.requests"] += 1
        self.end()
        self.stream.reset()

    def _violated(self, reason: str) -> None:
        self.desk.counters["refused.message"] += 1
        log.warning("%s asked what it may not: %s: %s", short(self.peer), self.desk.slot.name, reason)
        self.end()
        self.stream.reset(STREAM_VIOLATION)

    def end(self) -> None:
        """The stream is over for us. Idempotent."""
        if not self.is_over:
            self.is_over = True
            self.desk.unread(self.peer, -len(self._buffer))
            self._buffer = b""
            self._deadline.cancel()
            self.desk.forget(self)
            self.token = None
