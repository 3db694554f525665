"""The interop protocols on the Grove side: ECHO, BULK, HOLD and RESET, served and used.

They mean what js/peer.mjs says they mean. The pattern is the same on both sides: byte i is
BLOCK[i mod 65521], so that lost, doubled or swapped bytes change the hash.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from grove_core.errors import GroveError
from grove_core.transport import Stream, StreamReset

ECHO = "/grove/interop/echo/1.0.0"
BULK = "/grove/interop/bulk/1.0.0"
HOLD = "/grove/interop/hold/1.0.0"
RESET = "/grove/interop/reset/1.0.0"
PING = "/ipfs/ping/1.0.0"

RESET_CODE = 0x1004  # protocol violation, as a stream's code (libp2p-wire.md 2.8)

BLOCK = bytes((i * 2654435761 % 2**32) >> 24 for i in range(65521))

Pause = Callable[["Reader"], Awaitable[None]]
"""What a slow reader does while it stands still: it is given itself, and goes on when this returns."""


class Progress:
    """How far a sender is. most_buffered: the most bytes the stream ever held for the network."""

    def __init__(self) -> None:
        self.sent = 0
        self.most_buffered = 0


@cache
def pattern_hash(total: int) -> bytes:
    """sha256 of the first total bytes of the pattern."""
    digest = hashlib.sha256()
    for _ in range(total // len(BLOCK)):
        digest.update(BLOCK)
    digest.update(BLOCK[: total % len(BLOCK)])
    return digest.digest()


async def send_pattern(stream: Stream, total: int, progress: Progress) -> None:
    """Write the first total bytes of the pattern, never faster than the stream takes them."""
    while progress.sent < total:
        chunk = BLOCK[: total - progress.sent]
        stream.write(chunk)
        progress.sent += len(chunk)
        progress.most_buffered = max(progress.most_buffered, stream.buffered)
        await stream.drain()


class Reader:
    """A sink that hashes, and after each `every` bytes stands still: it takes no more and grants nothing.

    withheld: bytes that came while it stood still, which is what the remote could still get rid of.
    """

    def __init__(self, stream: Stream, every: int) -> None:
        self.received = 0
        self.withheld = 0
        self.digest = hashlib.sha256()
        self._stream = stream
        self._every = every
        self._next_stop = every
        self._still = False
        self._ended = False
        self._error: GroveError | None = None
        self._changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.digest.update(data)
        self.received += len(data)
        if self._still:
            self.withheld += len(data)
            return
        self._stream.grant(len(data))
        if self._every and self.received >= self._next_stop:
            self._next_stop += self._every
            self._still = True
            self._changed.set()

    def eof_received(self) -> None:
        self._ended = True
        self._changed.set()

    def stream_lost(self, error: GroveError | None) -> None:
        self._error = error
        self._ended = True
        self._changed.set()

    def go_on(self) -> None:
        """Grant what was withheld, and read on."""
        self._still = False
        held, self.withheld = self.withheld, 0
        self._stream.grant(held)

    async def stands_still(self) -> bool:
        """Wait until it stands still (true) or the stream has ended (false). Raises what ended it."""
        while not (self._still or self._ended):
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error
        return not self._ended


async def hash_rest(stream: Stream, pause: Pause | None = None, every: int = 0) -> tuple[int, bytes]:
    """Read to the end; the number of bytes and their sha256. Pauses after each `every` bytes."""
    reader = Reader(stream, every if pause else 0)
    stream.attach(reader)
    while await reader.stands_still():
        assert pause
        await pause(reader)
        reader.go_on()
    return reader.received, reader.digest.digest()


async def bulk(
    stream: Stream, *, up: int, down: int, progress: Progress, pause: Pause | None = None, every: int = 0
) -> tuple[bytes, int, bytes]:
    """One BULK exchange as its opener: what the server saw (hash), what came back (bytes, hash)."""
    stream.write(down.to_bytes(8, "big"))
    await send_pattern(stream, up, progress)
    stream.close_write()
    seen = await stream.read_exactly(32)
    return seen, *await hash_rest(stream, pause, every)


async def echo(stream: Stream, data: bytes) -> bytes:
    """One exchange over an ECHO or PING stream."""
    stream.write(data)
    return await stream.read_exactly(len(data))


class Services:
    """The four protocols as handlers, for `Upcalls.handlers` or `node.serve`.

    pause, every: how slowly BULK's server reads. resets: codes of resets that HOLD has seen, in order.
    """

    def __init__(self) -> None:
        self.progress = Progress()
        self.pause: Pause | None = None
        self.every = 0
        self.resets: asyncio.Queue[int] = asyncio.Queue()
        self.failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.handlers = {
            ECHO: self._serving(self._echo),
            PING: self._serving(self._echo),
            BULK: self._serving(self._bulk),
            HOLD: self._serving(self._hold),
            RESET: self._serving(self._reset),
        }

    async def close(self) -> None:
        """End what still runs."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _serving(self, serve: Callable[[Stream], Awaitable[None]]) -> Callable[[Stream], None]:
        async def guarded(stream: Stream) -> None:
            try:
                await serve(stream)
            except GroveError:
                pass  # the remote went away in the middle: the test at that end says whether it should
            except Exception as error:
                self.failures.append(error)

        def accept(stream: Stream) -> None:
            task = asyncio.get_running_loop().create_task(guarded(stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept

    async def _echo(self, stream: Stream) -> None:
        while data := await stream.read():
            stream.write(data)
            await stream.drain()
        stream.close_write()

    async def _bulk(self, stream: Stream) -> None:
        down = int.from_bytes(await stream.read_exactly(8), "big")
        _, seen = await hash_rest(stream, self.pause, self.every)
        stream.write(seen)
        await send_pattern(stream, down, self.progress)
        stream.close_write()

    async def _hold(self, stream: Stream) -> None:
        try:
            while await stream.read():
                pass
        except StreamReset as reset:
            self.resets.put_nowait(reset.code)

    async def _reset(self, stream: Stream) -> None:
        await stream.read(1)
        stream.reset(RESET_CODE)
