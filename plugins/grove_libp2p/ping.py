"""Ping: 32 bytes there, the same 32 bytes back.

Source: libp2p/specs ping/ping.md. One stream carries any number of pings, one after the other; the
opener ends it. How many streams there may be is `service.py`'s to say.
"""

from __future__ import annotations

import asyncio
from typing import Final

from grove_core.errors import RemoteProtocolError
from grove_core.transport import Stream

PING: Final = "/ipfs/ping/1.0.0"
SIZE: Final = 32

MOST: Final = 32 * SIZE
"""Bytes answered in one turn of the loop."""


async def echo(stream: Stream, idle: float) -> int:
    """Answer pings until the opener ends the stream; how many there were.

    idle: seconds of silence after which TimeoutError is raised. Raises StreamReset or StreamClosed if
    the stream breaks, RemoteProtocolError if it ends inside a ping.
    """
    answered = 0
    waiting = b""
    while True:
        async with asyncio.timeout(idle):
            await stream.drain()  # credit: who does not read our echoes gets no more
            data = await stream.read(MOST)
        if not data:
            break
        waiting += data
        whole = len(waiting) // SIZE * SIZE
        if whole:
            stream.write(waiting[:whole])
            waiting = waiting[whole:]
            answered += whole // SIZE
        await asyncio.sleep(0)  # a read that need not wait gives nobody else a turn
    if waiting:
        raise RemoteProtocolError(f"ping of {len(waiting)} bytes; it has {SIZE}")
    stream.close_write()
    return answered


async def once(stream: Stream, payload: bytes, timeout: float) -> float:
    """Send one ping and wait for its echo: the round trip in seconds.

    payload: 32 bytes that the remote cannot guess. timeout: seconds, then TimeoutError. Raises
    RemoteProtocolError if other bytes come back.
    """
    assert len(payload) == SIZE
    clock = asyncio.get_running_loop().time
    started = clock()
    async with asyncio.timeout(timeout):
        stream.write(payload)
        answer = await stream.read_exactly(SIZE)
    taken = clock() - started
    if answer != payload:
        raise RemoteProtocolError("a ping was answered with other bytes than were sent")
    return taken
