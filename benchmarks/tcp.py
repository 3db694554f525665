"""Our TCP transport beside the raw floor, asyncio's own TCP: set-up, bulk, requests, memory.

    python benchmarks/tcp.py [--rounds 5] [--scale 1.0] [--only bulk]

Both ends run on this machine, the server in a process of its own; see rounds.py. The floor speaks no
Noise and no yamux: a "stream" of it is a connection. To add a rival, append to RIVALS.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import js, libp2p_rival
from benchmarks.rounds import COUNT, Rival, Rounds, announce, options, until_stdin_ends

BLOCK = bytes(65536)


# --- ours ------------------------------------------------------------------------------------------


async def grove_client(address: str) -> libp2p_rival.GroveClient:
    from grove_tcp import SPEC

    return libp2p_rival.GroveClient(SPEC, address)


async def serve_grove() -> None:
    from grove_tcp import SPEC

    await libp2p_rival.serve(SPEC, "/ip4/127.0.0.1/tcp/0")


# --- the floor -------------------------------------------------------------------------------------


class FloorFlow(asyncio.Protocol):
    """One asyncio connection: a byte says what it is for."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.waiter: asyncio.Future[None] | None = None
        self.writable: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def pause_writing(self) -> None:
        self.writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self.writable is not None:
            self.writable.set_result(None)
            self.writable = None

    async def send(self, data: bytes) -> None:
        self.transport.write(data)
        if self.writable is not None:
            await self.writable

    async def receive_some(self) -> bytes:
        if not self.data:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        data, self.data = self.data, bytearray()
        return data

    async def receive(self, count: int) -> bytes:
        while len(self.data) < count:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        data = bytes(self.data[:count])
        del self.data[:count]
        return data

    def close(self) -> None:
        self.transport.close()


class FloorServer(FloorFlow):
    """The other end."""

    kind = 0
    left = -1

    def data_received(self, data: bytes) -> None:
        if not self.kind:
            self.kind, data = data[0], data[1:]
        if self.kind == ord("e"):
            if data:
                self.transport.write(data)
            return
        if self.left < 0:
            self.data += data
            if len(self.data) < COUNT.size:
                return
            self.left, data = COUNT.unpack_from(self.data)[0], bytes(self.data[COUNT.size :])
            if self.kind == ord("f"):
                self.task = asyncio.ensure_future(self.spout())
                return
        self.left -= len(data)
        if self.left == 0:
            self.transport.write(b"!")

    async def spout(self) -> None:
        for _ in range(self.left // len(BLOCK)):
            await self.send(BLOCK)


class FloorLink:
    """Opens its first connection at once, as dialling does."""

    def __init__(self, address: str, first: FloorFlow) -> None:
        self.address, self.first = address, first
        self.flows: list[FloorFlow] = [first]
        self.used = False

    async def flow(self, kind: str) -> FloorFlow:
        flow = self.first
        if self.used:
            flow = await dial_floor(self.address)
            self.flows.append(flow)
        self.used = True
        flow.transport.write(kind[0].encode())
        return flow

    async def close(self) -> None:
        for flow in self.flows:
            flow.transport.close()


async def dial_floor(address: str) -> FloorFlow:
    host, port = address.split()
    loop = asyncio.get_running_loop()
    _, flow = await loop.create_connection(FloorFlow, host, int(port))
    return flow


class FloorClient:
    def __init__(self, address: str) -> None:
        self.address = address

    async def connect(self) -> FloorLink:
        return FloorLink(self.address, await dial_floor(self.address))

    async def close(self) -> None: ...


async def floor_client(address: str) -> FloorClient:
    return FloorClient(address)


async def serve_floor() -> None:
    server = await asyncio.get_running_loop().create_server(FloorServer, "127.0.0.1", 0)
    announce("{} {}".format(*server.sockets[0].getsockname()))
    await until_stdin_ends()
    server.close()


SERVERS = {"grove tcp": serve_grove, "asyncio tcp": serve_floor}
RIVALS = [
    Rival("grove tcp", (sys.executable, __file__, "--serve", "grove tcp"), grove_client),
    Rival("asyncio tcp", (sys.executable, __file__, "--serve", "asyncio tcp"), floor_client),
]


def main() -> None:
    arguments = options(__doc__ or "").parse_args()
    if arguments.serve:
        asyncio.run(SERVERS[arguments.serve]())
        return
    rivals = [
        rival
        for rival in [*RIVALS, *js.rivals("tcp")]
        if not arguments.rival or rival.name in arguments.rival
    ]
    asyncio.run(Rounds("TCP", rivals).run(arguments.rounds, arguments.scale, arguments.only))


if __name__ == "__main__":
    main()
