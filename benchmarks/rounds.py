"""Runs rivals against each other in interleaved rounds and prints what came out.

A rival is a name, a command that serves, and an async client with the methods of `Client`. Each
round takes the rivals in a shuffled order; each gets a fresh server process, so what one leaves
behind cannot help or hurt the next. Figures are medians over the rounds, with the smallest and the
largest beside them, and the ratio to the first rival named. A server speaks JSON, one object per
line: first ``{"address": …}``; it ends when its standard input does.

    await Rounds("TCP", [OURS, FLOOR]).run(rounds=5)
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import statistics
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

MB = 1_000_000
REQUEST = bytes(32)
"""A request, and its reply: 32 bytes."""

COUNT = struct.Struct(">Q")


class Flow(Protocol):
    """One stream of a rival, as the benchmark uses it."""

    async def send(self, data: bytes) -> None:
        """Write and wait until there is room for more."""
        ...

    async def receive(self, count: int) -> bytes: ...
    async def receive_some(self) -> bytes: ...
    def close(self) -> None: ...


class Link(Protocol):
    """One connection of a rival."""

    async def flow(self, kind: str) -> Flow:
        """Open a stream: "echo"; "drain" (counts until 8 bytes of length are there); "fountain"."""
        ...

    async def close(self) -> None: ...


class Client(Protocol):
    """A rival's dialling side.

    One that is a program of its own (js.py) takes measures itself: its methods of their names, given
    (server, scale), stand in for the functions below.
    """

    async def connect(self) -> Link: ...
    async def close(self) -> None: ...


@dataclass(frozen=True)
class Rival:
    """name: in the table. serve: argv of its server. client: address -> its dialling side."""

    name: str
    serve: Sequence[str]
    client: Callable[[str], Awaitable[Any]]  # a Client, or a program that takes its own measures


@dataclass
class Server:
    """A rival's server process."""

    address: str
    pid: int
    listening: float  # seconds from its birth to its first line

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def private(self) -> int:
        """Bytes of memory that are this process's alone."""
        with open(f"/proc/{self.pid}/smaps_rollup") as maps:
            return sum(int(line.split()[1]) for line in maps if line.startswith("Private_")) * 1024


@dataclass
class Table:
    """Figures by measure and rival."""

    title: str
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, measure: str, rival: str, value: float) -> None:
        self.figures.setdefault(measure, {}).setdefault(rival, []).append(value)

    def print(self, rivals: Sequence[str]) -> None:
        print(f"\n{self.title}: median (smallest to largest), ratio to {rivals[0]}")
        width, name = max(map(len, self.figures)), max(14, *map(len, rivals))
        for measure, by_rival in self.figures.items():
            base = statistics.median(by_rival[rivals[0]])
            for index, rival in enumerate(rival for rival in rivals if rival in by_rival):
                values = by_rival[rival]
                middle = statistics.median(values)
                print(
                    f"{measure if index == 0 else '':{width}}  {rival:{name}} {middle:12,.2f}"
                    f"  ({min(values):,.2f} to {max(values):,.2f})  x{middle / base if base else 0:.2f}"
                )


class Rounds:
    """The measures, and the loop around them."""

    def __init__(self, title: str, rivals: Sequence[Rival]) -> None:
        self.table = Table(title)
        self.rivals = list(rivals)

    async def run(self, rounds: int = 5, scale: float = 1.0, only: str = "") -> None:
        """scale: multiplies how much is done per measure; 1.0 takes about 10 s per rival and round."""
        for number in range(rounds):
            for rival in random.sample(self.rivals, len(self.rivals)):
                for measure in (set_up, bulk, request_response, memory):
                    if only and only not in measure.__name__:
                        continue
                    async with serving(rival) as server:
                        client = await rival.client(server.address)
                        gc.collect()
                        async with asyncio.timeout(300):
                            taken = await take(measure, client, server, scale)
                        for name, value in taken.items():
                            self.table.add(name, rival.name, value)
                        await client.close()
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
        self.table.print([rival.name for rival in self.rivals])


@asynccontextmanager
async def serving(rival: Rival) -> AsyncIterator[Server]:
    """A rival's server, ended in the end."""
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *rival.serve, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        first = json.loads(await process.stdout.readline())
        yield Server(first["address"], process.pid, time.perf_counter() - begin)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


Measure = Callable[[Client, Server, float], Awaitable[dict[str, float]]]


async def take(measure: Measure, client: Client, server: Server, scale: float) -> dict[str, float]:
    """One measure, by the client's own means if it has some."""
    own = getattr(client, measure.__name__, None)
    if own is not None:
        by_itself: dict[str, float] = await own(server, scale)
        return by_itself
    return await measure(client, server, scale)


def own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def set_up(client: Client, server: Server, scale: float) -> dict[str, float]:
    """Dial, one stream, one byte there and back; one after the other."""
    count = max(int(100 * scale), 5)
    link = await client.connect()  # imports and caches
    await (await link.flow("echo")).send(b"x")
    await link.close()
    cpu, times = own_cpu() + server.cpu(), []
    for _ in range(count):
        begin = time.perf_counter()
        link = await client.connect()
        flow = await link.flow("echo")
        await flow.send(b"x")
        await flow.receive(1)
        times.append(time.perf_counter() - begin)
        flow.close()
        await link.close()
    cpu = own_cpu() + server.cpu() - cpu
    return {
        "set-up ms": statistics.median(times) * 1e3,
        "set-up p95 ms": sorted(times)[int(0.95 * count)] * 1e3,
        "set-up CPU ms, both sides": cpu / count * 1e3,
    }


async def bulk(client: Client, server: Server, scale: float) -> dict[str, float]:
    """One stream at full speed, up and then down."""
    size = int(500 * MB * scale) // 65536 * 65536
    link = await client.connect()
    results = {}
    for kind in ("drain", "fountain"):
        for warm in (True, False):
            flow = await link.flow(kind)
            amount = min(size, 100 * 65536) if warm else size
            cpu, begin = own_cpu() + server.cpu(), time.perf_counter()
            await flow.send(COUNT.pack(amount))
            if kind == "drain":
                block = bytes(65536)
                for _ in range(amount // len(block)):
                    await flow.send(block)
                await flow.receive(1)
            else:
                got = 0
                while got < amount:
                    got += len(await flow.receive_some())
            took = time.perf_counter() - begin
            flow.close()
        name = "up" if kind == "drain" else "down"
        results[f"bulk {name} MB/s"] = amount / MB / took
        results[f"bulk {name} CPU s/GB"] = (own_cpu() + server.cpu() - cpu) / (amount / 1e9)
    await link.close()
    return results


async def request_response(client: Client, server: Server, scale: float) -> dict[str, float]:
    """32 bytes there and back, in turn on each of 1 and of 64 streams of one connection."""
    results = {}
    for streams in (1, 64):
        link = await client.connect()
        flows = [await link.flow("echo") for _ in range(streams)]
        each = max(int((5_000 if streams == 1 else 600) * scale), 10)

        async def ask(flow: Flow, count: int) -> None:
            for _ in range(count):
                await flow.send(REQUEST)
                await flow.receive(len(REQUEST))

        await asyncio.gather(*(ask(flow, each // 5) for flow in flows))
        cpu, begin = own_cpu() + server.cpu(), time.perf_counter()
        await asyncio.gather(*(ask(flow, each) for flow in flows))
        took = time.perf_counter() - begin
        cpu = own_cpu() + server.cpu() - cpu
        results[f"requests/s, {streams} stream{'s' * (streams > 1)}"] = streams * each / took
        results[f"request CPU us, {streams} stream{'s' * (streams > 1)}"] = cpu / (streams * each) * 1e6
        await link.close()
    return results


async def memory(client: Client, server: Server, scale: float) -> dict[str, float]:
    """What an idle connection costs the listener."""
    count = max(int(200 * scale), 50)
    async with AsyncExitStack() as stack:

        async def connect() -> None:
            link = await client.connect()
            stack.push_async_callback(link.close)
            flow = await link.flow("echo")
            await flow.send(b"x")
            await flow.receive(1)
            flow.close()

        for _ in range(20):
            await connect()
        before = server.private()
        for _ in range(count):
            await connect()
        after = server.private()
    return {
        "KB per idle connection": (after - before) / count / 1024,
        "private MB of the listener": before / MB,
        "listening after ms": server.listening * 1e3,
    }


def options(text: str) -> argparse.ArgumentParser:
    """The command line that the benchmarks share."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="how much per measure (1.0)")
    parser.add_argument("--only", default="", help="one measure: set_up, bulk, request, memory")
    parser.add_argument("--rival", action="append", help="only these rivals")
    parser.add_argument("--serve", metavar="NAME", help="be the server of a rival (used by itself)")
    parser.add_argument("--uvloop", action="store_true", help="run our side on uvloop, if installed")
    return parser


async def until_stdin_ends() -> None:
    """How long a server lives."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()


def announce(address: object) -> None:
    """A server's first line."""
    print(json.dumps({"address": str(address)}), flush=True)
