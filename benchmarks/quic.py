"""Our QUIC transport beside the raw floor, aioquic with its own asyncio streams.

    python benchmarks/quic.py [--rounds 5] [--scale 0.04] [--only bulk]

Both ends run on this machine, the server in a process of its own; see rounds.py. The floor has one
certificate check less (no client certificate), no multistream-select, and datagrams of 1200 bytes.
"grove quic 1200" is ours held to the same datagrams; without that, ours finds out that loopback
carries 16,000. To add a rival, append to RIVALS.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from benchmarks import js, libp2p_rival
from benchmarks.rounds import COUNT, Rival, Rounds, announce, options, until_stdin_ends

BLOCK = bytes(65536)
ROOM = 1 << 20
"""Bytes the floor lets wait for one stream: aioquic itself has no backpressure."""


# --- ours ------------------------------------------------------------------------------------------


def spec(datagram: int) -> Any:
    """The plugin's spec; with a datagram size, its configuration is held to that."""
    from grove_quic import SPEC
    from grove_quic.config import Config

    if not datagram:
        return SPEC
    build = SPEC.build

    def small(_: object, upcalls: Any) -> Any:
        return build(Config(datagram=datagram, datagram_loopback=datagram), upcalls)

    return msgspec.structs.replace(SPEC, build=small)


def grove_client(datagram: int) -> Callable[[str], Awaitable[libp2p_rival.GroveClient]]:
    async def client(address: str) -> libp2p_rival.GroveClient:
        return libp2p_rival.GroveClient(spec(datagram), address)

    return client


def serve_grove(datagram: int) -> Callable[[], Awaitable[None]]:
    return lambda: libp2p_rival.serve(spec(datagram), "/ip4/127.0.0.1/udp/0/quic-v1")


# --- the floor -------------------------------------------------------------------------------------


class Floor(QuicConnectionProtocol):
    """aioquic's own protocol, with a signal after each flight so that a writer can wait for room."""

    def __init__(self, quic: QuicConnection, stream_handler: Any = None) -> None:
        super().__init__(quic, stream_handler)
        self.flown = asyncio.Event()

    def transmit(self) -> None:
        super().transmit()
        self.flown.set()

    async def room(self, stream_id: int) -> None:
        sender: Any = self._quic._streams[stream_id].sender
        while sender._buffer_stop - sender.highest_offset > ROOM:
            self.flown.clear()
            await self.flown.wait()


class FloorFlow:
    """One aioquic stream."""

    def __init__(self, floor: Floor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.floor, self.reader, self.writer = floor, reader, writer
        self.stream_id = writer.get_extra_info("stream_id")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.floor.room(self.stream_id)

    async def receive(self, count: int) -> bytes:
        return await self.reader.readexactly(count)

    async def receive_some(self) -> bytes:
        return await self.reader.read(65536)

    def close(self) -> None:
        self.writer.write_eof()


class FloorLink:
    """One aioquic connection on a socket of its own, as `aioquic.asyncio.connect` makes it."""

    def __init__(self, floor: Floor) -> None:
        self.floor = floor

    async def flow(self, kind: str) -> FloorFlow:
        stream_id = self.floor._quic.get_next_available_stream_id()
        self.floor._quic.send_stream_data(stream_id, kind[0].encode())
        flow = FloorFlow(self.floor, *self.floor._create_stream(stream_id))
        self.floor.transmit()
        return flow

    async def close(self) -> None:
        self.floor.close()
        transport = self.floor._transport
        asyncio.get_running_loop().call_soon(transport.close)


class FloorClient:
    def __init__(self, address: str) -> None:
        self.host, port = address.split()
        self.port = int(port)

    async def connect(self) -> FloorLink:
        configuration = QuicConfiguration(alpn_protocols=["bench"], verify_mode=ssl.CERT_NONE)
        quic = QuicConnection(configuration=configuration)
        loop = asyncio.get_running_loop()
        _, floor = await loop.create_datagram_endpoint(lambda: Floor(quic), local_addr=("127.0.0.1", 0))
        floor.connect((self.host, self.port))
        await floor.wait_connected()
        return FloorLink(floor)

    async def close(self) -> None: ...


async def floor_client(address: str) -> FloorClient:
    return FloorClient(address)


async def serve_floor() -> None:
    from aioquic.asyncio import serve
    from grove_libp2p.certificate import make_certificate

    from grove_core.identity import Identity

    certificate, key = make_certificate(Identity.from_seed(bytes(32)), time.time())
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=["bench"], certificate=certificate, private_key=key
    )
    tasks: dict[asyncio.Task[None], None] = {}

    def create(quic: QuicConnection, stream_handler: Any = None) -> Floor:
        floor = Floor(quic)

        def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(answer(FloorFlow(floor, reader, writer)))
            tasks[task] = None
            task.add_done_callback(lambda done: tasks.pop(done, None))

        floor._stream_handler = handle
        return floor

    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=create)
    announce("{} {}".format(*server._transport.get_extra_info("sockname")))
    await until_stdin_ends()


async def answer(flow: FloorFlow) -> None:
    """Echo, swallow or spout, as the first byte says."""
    kind = await flow.receive(1)
    if kind == b"e":
        while data := await flow.receive_some():
            flow.writer.write(data)
        return
    (left,) = COUNT.unpack(await flow.receive(COUNT.size))
    if kind == b"f":
        for _ in range(left // len(BLOCK)):
            await flow.send(BLOCK)
        return
    while left:
        left -= len(await flow.receive_some())
    await flow.send(b"!")


SERVERS = {"grove quic": serve_grove(0), "grove quic 1200": serve_grove(1200), "aioquic": serve_floor}
CLIENTS: dict[str, Any] = {
    "grove quic": grove_client(0),
    "grove quic 1200": grove_client(1200),
    "aioquic": floor_client,
}
RIVALS = [
    Rival(name, (sys.executable, "-W", "ignore", __file__, "--serve", name), client)
    for name, client in CLIENTS.items()
]


def main() -> None:
    parser = options(__doc__ or "")
    parser.set_defaults(scale=0.04)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(SERVERS[arguments.serve]())  # type: ignore[arg-type]
        return
    rivals = [
        rival
        for rival in [*RIVALS, *js.rivals("quic")]
        if not arguments.rival or rival.name in arguments.rival
    ]
    asyncio.run(Rounds("QUIC", rivals).run(arguments.rounds, arguments.scale, arguments.only))


if __name__ == "__main__":
    main()
