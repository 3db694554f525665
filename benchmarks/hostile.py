"""What hostile peers cost a whole node, over TCP and over QUIC: its memory, and how others fare.

    python benchmarks/hostile.py [--seconds 5] [--only deaf]

The node is a process of its own, with the residential profile as it ships (but for where it listens);
the attacker is another one; and here is an honest node, a member of the same village, which pings the
first one all the time. Every attack goes on for some seconds, begins anew whatever is refused or cut
off, and leaves. Memory is what is private to the node's process: before, at most, and 3 s after.
The bounds it stays below follow from the configuration: docs/hardening.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rounds import MB, Rival, Server, announce, serving, until_stdin_ends
from grove_core import Node
from grove_core.errors import GroveError
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.ticket import Ticket
from grove_core.transport import Connection, Transport
from tests.plugins.fakes import FakeUpcalls

LISTEN = {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"}
PAUSE = 0.005  # s between two pings of the honest peer
AFTER = 3.0  # s until the memory of the end is read
BREAKS = (GroveError, OSError, TimeoutError)
"""What an attacker shrugs off."""

Attack = Callable[["Attacker"], Awaitable[None]]


class Attacker:
    """As many peers as it likes, all on the transport under attack."""

    def __init__(self, transport: str, target: Multiaddr, peer: PeerId, until: float) -> None:
        self.transport = transport
        self.target = target
        self.peer = peer
        self.until = until
        self.done = 0
        """Attempts made, whatever came of them."""
        self._seeds = itertools.cycle(range(3, 250))
        self._transports: dict[int, Transport] = {}

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    async def connect(self) -> Connection:
        """A proven connection of another peer than last time."""
        seed = next(self._seeds)
        if seed not in self._transports:
            upcalls: Any = FakeUpcalls(seed)
            upcalls.opened = upcalls.closed = lambda *_: None
            if self.transport == "tcp":
                from grove_tcp import SPEC
            else:
                from grove_quic import SPEC
            self._transports[seed] = SPEC.build(SPEC.config(), upcalls)
        return await self._transports[seed].dial(self.target, self.peer)

    async def crowd(self, size: int, each: Attack) -> None:
        """So many doing the same at once, each beginning anew until the time is over."""

        async def one() -> None:
            while self.goes_on:
                with suppress(*BREAKS):
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + self.left):
                        await each(self)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(one() for _ in range(size)))

    @property
    def left(self) -> float:
        return max(self.until - time.monotonic(), 0.0)


async def deaf(attacker: Attacker) -> None:
    """60 peers ask on every stream they get, for ping and identify, and never read an answer."""

    async def one(attacker: Attacker) -> None:
        connection = await attacker.connect()
        try:
            while attacker.goes_on:
                attacker.done += 1
                for protocol in ("/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"):
                    stream = await connection.open_stream([protocol])
                    with suppress(GroveError):
                        for _ in range(64):
                            stream.write(bytes(32 * 1024))
                            await asyncio.wait_for(stream.drain(), 0.05)
                            await asyncio.sleep(0)
        finally:
            connection.close()

    await attacker.crowd(60, one)


async def streams(attacker: Attacker) -> None:
    """20 peers open streams of every protocol they know as fast as they can, and keep them."""

    async def one(attacker: Attacker) -> None:
        connection = await attacker.connect()
        kept = []
        try:
            for protocol in itertools.cycle(("/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", "/no/such/1.0.0")):
                attacker.done += 1
                stream = await connection.open_stream([protocol])
                with suppress(GroveError):
                    stream.write(b"x")
                kept.append(stream)
                if len(kept) % 32 == 0:
                    await asyncio.sleep(0)
        finally:
            connection.close()

    await attacker.crowd(20, one)


NOISY = (
    "/grove/hyparview/1.0.0",
    "/grove/plumtree/1.0.0",
    "/ipfs/id/push/1.0.0",
    "/ipfs/ping/1.0.0",
    "",  # on no stream at all
)


async def garbage(attacker: Attacker) -> None:
    """40 peers prove who they are, then send noise: on streams of real protocols, and instead of them."""
    rng = random.Random(1)

    async def one(attacker: Attacker) -> None:
        connection: Any = await attacker.connect()
        try:
            while attacker.goes_on:  # until it is thrown out
                attacker.done += 1
                await noise(attacker, connection, rng)
                await asyncio.sleep(0.01)
        finally:
            connection.close()

    await attacker.crowd(40, one)


async def noise(attacker: Attacker, connection: Any, rng: random.Random) -> None:
    """Some kilobytes that mean nothing, somewhere."""
    kind = rng.choice(NOISY)
    if kind:
        stream = await connection.open_stream([kind])
        for _ in range(8):
            stream.write(rng.randbytes(rng.randrange(1, 4096)))
            await asyncio.sleep(0)
    elif attacker.transport == "tcp":
        line, data = connection._socket, rng.randbytes(8192)
        if rng.random() < 0.5:  # inside Noise: for yamux
            data = b"".join(connection._session.seal_all([data]))
        if line is not None:
            line.write(data)
    else:
        head = b"\x40" + connection.engine._peer_cid.cid
        for _ in range(50):
            data = head + rng.randbytes(rng.randrange(20, 1200))
            connection.endpoint.send([(data, connection.engine.remote)])


async def flood(attacker: Attacker) -> None:
    """Handshakes begun and left lying: 100 at once over TCP, first flights from 50 ports over QUIC."""
    assert attacker.target.host is not None
    assert attacker.target.port is not None
    place = (attacker.target.host, attacker.target.port)
    if attacker.transport == "tcp":

        async def one(attacker: Attacker) -> None:
            attacker.done += 1
            _, writer = await asyncio.open_connection(*place)
            try:
                writer.write(b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + bytes(32))
                await asyncio.sleep(0.5)
            finally:
                writer.close()

        await attacker.crowd(100, one)
        return
    from grove_libp2p.certificate import make_certificate
    from grove_quic.config import Config
    from grove_quic.engines import AioquicEngines

    from grove_core.identity import Identity

    made = make_certificate(Identity.from_seed(bytes(32)), time.time())
    engines = AioquicEngines(Config(), *made, streams=256)
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(50)]
    try:
        while attacker.goes_on:
            flight = engines.dial(place, 0.0).poll_out(0.0)[0][0]
            with suppress(OSError):
                sockets[attacker.done % 50].sendto(flight, place)
            attacker.done += 1
            await asyncio.sleep(0)
    finally:
        for each in sockets:
            each.close()


ATTACKS: dict[str, Attack] = {each.__name__: each for each in (deaf, streams, garbage, flood)}


async def serve(data: str) -> None:
    """Be the node under attack; what it has to say of its peers is not what is measured."""
    logging.disable(logging.CRITICAL)
    listen = list(LISTEN.values())
    async with Node.from_profile("residential", data=data, set={"node.listen": listen}) as node:
        announce(node.ticket())
        await until_stdin_ends()


async def attack(name: str, transport: str, ticket: str, seconds: float) -> None:
    """Be the attacker; says at the end how often it tried."""
    told = Ticket.decode(ticket)
    target = next(each for each in told.addresses if each.is_quic == (transport == "quic"))
    attacker = Attacker(transport, target, told.peer, time.monotonic() + seconds)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # it has no manners, so it has no worries either
    await ATTACKS[name](attacker)
    print(json.dumps({"done": attacker.done}), flush=True)


async def honest(me: Node, peer: PeerId, stop: asyncio.Event, lost: list[str]) -> list[float]:
    """Round trips in ms until told to stop; what broke goes to lost."""
    times: list[float] = []
    while not stop.is_set():
        try:
            async for trip in me.plugin("libp2p").ping(peer, count=1_000_000, interval=PAUSE):
                times.append(trip * 1e3)
                if stop.is_set():
                    break
        except BREAKS as error:
            lost.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(PAUSE)
    return times


async def watched(me: Node, peer: PeerId, server: Server, busy: Awaitable[Any]) -> tuple[Any, ...]:
    """Latencies, losses and most memory while something goes on."""
    stop, lost, most = asyncio.Event(), [], 0
    pinging = asyncio.ensure_future(honest(me, peer, stop, lost))
    task = asyncio.ensure_future(busy)
    while not task.done():
        most = max(most, server.private())
        await asyncio.wait([task], timeout=0.05)
    stop.set()
    async with asyncio.timeout(15):
        return await pinging, lost, most, task.result()


async def suffer(name: str, transport: str, seconds: float) -> str:
    """One attack over one transport: a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        node = Rival("node", (sys.executable, __file__, "--serve", f"{folder}/node"), _nobody)
        mine = {"node.listen": [LISTEN[transport]], "roles.transport": [transport]}
        async with (
            asyncio.timeout(60 + 2 * seconds),
            serving(node) as server,
            Node.from_profile("residential", data=f"{folder}/honest", set=mine) as me,
        ):
            peer = await me.join(server.address)
            await asyncio.sleep(1)
            calm, _, _, _ = await watched(me, peer, server, asyncio.sleep(2))
            before = server.private()
            command = [sys.executable, "-W", "ignore", __file__, "--attack", name, "--over", transport]
            command += ["--at", server.address, "--seconds", str(seconds)]
            child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            told, lost, most, (out, _) = await watched(me, peer, server, child.communicate())
            await asyncio.sleep(AFTER)
            after = server.private()
            served = await watched(me, peer, server, asyncio.sleep(0.2))
            assert served[0], "the honest peer is not served after the attack"
    done = json.loads(out)["done"]
    during = sorted(told) or [float("nan")]
    p99 = during[int(0.99 * (len(during) - 1))]
    return (
        f"| {name} | {transport} | {done:,} | {before / MB:.1f} | {most / MB:.1f} | {after / MB:.1f} "
        f"| {statistics.median(calm):.2f} | {statistics.median(during):.2f} "
        f"| {p99:.1f} | {during[-1]:.0f} | {len(told):,} | {len(lost)} |"
    )


async def _nobody(address: str) -> None:
    """A node is no rival: nobody takes its measures."""


COLUMNS = "attack, over, attempts, MB before, at most, after, calm ms, meanwhile, p99, worst, pings, lost"


async def main(seconds: float, only: str) -> None:
    columns = COLUMNS.split(", ")
    print("|", " | ".join(columns), "|\n" + "|---" * len(columns) + "|", flush=True)
    for name in ATTACKS:
        for transport in LISTEN:
            if only in (name, transport, ""):
                print(await suffer(name, transport, seconds), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack (5)")
    parser.add_argument("--only", default="", help="an attack, or a transport")
    parser.add_argument("--serve", metavar="FOLDER", help="be the node (used by itself)")
    parser.add_argument("--attack", choices=ATTACKS, help="be the attacker (used by itself)")
    parser.add_argument("--over", choices=LISTEN)
    parser.add_argument("--at", metavar="TICKET")
    given = parser.parse_known_args()[0]
    if given.serve:
        asyncio.run(serve(given.serve))
    elif given.attack:
        asyncio.run(attack(given.attack, given.over, given.at, given.seconds))
    else:
        asyncio.run(main(given.seconds, given.only))
