"""The wires between processes on this machine: a TCP proxy for each ordered pair, that can be cut.

What x says to y is held while the wire from x to y is cut, whichever of them dialled, and comes late
when it is mended, as TCP repeats what was lost. Who dials meanwhile finds somebody who does not
answer. No rights are needed, and nobody's process is touched. The proxies live in a thread.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress

Pair = tuple[int, int]


class Wires:
    """Between all of `ports`, where the processes listen; `through[x]` are the ports that x dials."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.cuts = 0
        self.carried = 0
        """Bytes, in all."""
        self._open: dict[Pair, asyncio.Event] = {}
        self._sockets: dict[Pair, socket.socket] = {}
        self._ends: dict[asyncio.StreamWriter, None] = {}
        self.through: list[list[int]] = []
        for x in range(len(ports)):
            row = []
            for y, port in enumerate(ports):
                if x != y:
                    self._sockets[x, y] = socket.create_server(("127.0.0.1", 0))
                row.append(port if x == y else self._sockets[x, y].getsockname()[1])
            self.through.append(row)
        self._loop = asyncio.new_event_loop()
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        self._began.wait(10)

    def cut(self, pairs: Iterable[Pair]) -> None:
        """From now on nothing of what x says reaches y, for each (x, y)."""
        for pair in pairs:
            self.cuts += 1
            self._loop.call_soon_threadsafe(self._open[pair].clear)

    def mend(self) -> None:
        """All wires are whole again."""
        for gate in self._open.values():
            self._loop.call_soon_threadsafe(gate.set)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        for one in self._sockets.values():
            one.close()

    def _live(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)

        servers: list[asyncio.Server] = []

        async def begin() -> None:
            for pair, listening in self._sockets.items():
                gate = self._open[pair] = asyncio.Event()
                gate.set()
                servers.append(await asyncio.start_server(self._accept(pair), sock=listening))
            self._began.set()

        async def end() -> None:
            for server in servers:
                server.close()
            await asyncio.sleep(0.05)  # who was let in last is known to `carry` by now
            carrying = asyncio.all_tasks() - {asyncio.current_task()}
            for task in carrying:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)
            for writer in self._ends:
                writer.transport.abort()
            await asyncio.sleep(0.05)  # the transports close their sockets

        loop.run_until_complete(begin())
        loop.run_forever()
        loop.run_until_complete(end())
        loop.close()

    def _accept(self, pair: Pair):  # type: ignore[no-untyped-def]
        x, y = pair

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._ends[writer] = None
            try:
                await self._open[x, y].wait()  # a SYN is lost like anything else
                there, back = await asyncio.open_connection("127.0.0.1", self.ports[y])
            except OSError:
                writer.close()
                del self._ends[writer]
                return
            self._ends[back] = None
            await asyncio.gather(
                self._pump(reader, back, self._open[x, y]), self._pump(there, writer, self._open[y, x])
            )
            del self._ends[writer], self._ends[back]

        return carry

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await gate.wait()
                self.carried += len(data)
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            await gate.wait()
            writer.close()
