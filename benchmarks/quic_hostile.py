"""What strangers cost a QUIC listener: its memory before and after each attack, and how others fare.

    python benchmarks/quic_hostile.py

The listener is a process of its own with the default configuration; the attacks come from this one.
"Others" is the median of 32-byte requests of an honest peer on a connection of its own, before the
attack and while it goes on.
"""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import libp2p_rival
from benchmarks.quic import RIVALS, spec
from benchmarks.rounds import MB, Server, serving
from grove_core.multiaddr import Multiaddr

QUIC = next(rival for rival in RIVALS if rival.name == "grove quic")
Attack = Callable[[str, tuple[str, int]], Awaitable[str]]


async def garbage(address: str, target: tuple[str, int]) -> str:
    """50,000 random datagrams, a third of them in the shape of a first packet."""
    rng = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(target)
        for number in range(50_000):
            data = rng.randbytes(64)
            if number % 3 == 0:
                data = b"\xc0\0\0\0\x01\x08" + rng.randbytes(8) + b"\0\0\x44\xb0" + rng.randbytes(1200)
            sock.send(data)
            if number % 50 == 0:
                await asyncio.sleep(0)
    return "50,000 datagrams"


async def handshakes(address: str, target: tuple[str, int]) -> str:
    """5,000 honest first flights that nobody goes on with, from 50 ports."""
    from grove_libp2p.certificate import make_certificate
    from grove_quic.config import Config
    from grove_quic.over_aioquic import AioquicEngines

    from grove_core.identity import Identity

    engines = AioquicEngines(
        Config(), *make_certificate(Identity.from_seed(bytes(32)), time.time()), streams=256
    )
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(50)]
    for number in range(5_000):
        flight = engines.dial(target, 0.0).poll_out(0.0)[0][0]
        sockets[number % 50].sendto(flight, target)
        await asyncio.sleep(0)
    for sock in sockets:
        sock.close()
    return "5,000 first flights"


async def deaf(address: str, target: tuple[str, int]) -> str:
    """200 connections that ask for 100 MB each and do not read."""
    client = libp2p_rival.GroveClient(spec(0), address)
    links = [await client.connect() for _ in range(200)]
    for link in links:
        flow = await link.flow("fountain")
        await flow.send((100_000_000).to_bytes(8, "big"))
    await asyncio.sleep(3)
    await client.close()
    return "200 connections, 100 MB asked of each"


async def streams(address: str, target: tuple[str, int]) -> str:
    """20 connections that open as many streams as they may, and keep them."""
    client = libp2p_rival.GroveClient(spec(0), address)
    links = [await client.connect() for _ in range(20)]
    opened = 0
    for link in links:
        for _ in range(256):
            flow = await link.flow("echo")
            await flow.send(b"x")
            opened += 1
    await asyncio.sleep(1)
    return f"{opened} streams held open"


async def honest(flow: libp2p_rival.GroveFlow, until: asyncio.Future[str] | None) -> list[float]:
    """Milliseconds of requests, 200 of them, or as many as fit into an attack."""
    times: list[float] = []
    while len(times) < 200 if until is None else not until.done():
        begin = time.perf_counter()
        await flow.send(bytes(32))
        await flow.receive(32)
        times.append((time.perf_counter() - begin) * 1e3)
    return times


async def suffer(attack: Attack) -> None:
    async with serving(QUIC) as server, asyncio.timeout(120):
        client = libp2p_rival.GroveClient(spec(0), server.address)
        flow = await (await client.connect()).flow("echo")
        before, calm = server.private(), statistics.median(await honest(flow, None))
        parsed = Multiaddr.parse(server.address)
        assert parsed.host is not None
        assert parsed.port is not None
        task = asyncio.ensure_future(attack(server.address, (parsed.host, parsed.port)))
        watching = asyncio.ensure_future(highest(server, task))
        during = await honest(flow, task)
        print(
            f"{attack.__name__:12} {task.result():40} {before / MB:6.1f} MB, at most "
            f"{(await watching) / MB:6.1f} MB, then {server.private() / MB:6.1f} MB; others "
            f"{calm:.2f} ms, meanwhile {statistics.median(during):.2f} ms, worst {max(during):.0f} ms"
        )
        await client.close()


async def highest(server: Server, task: asyncio.Future[str]) -> int:
    most = 0
    while not task.done():
        most = max(most, server.private())
        await asyncio.sleep(0.1)
    return most


async def main() -> None:
    for attack in (garbage, handshakes, deaf, streams):
        await suffer(attack)


if __name__ == "__main__":
    asyncio.run(main())
