"""js-libp2p as a rival: the same measures, taken inside its own program (tests/interop/js/bench.mjs).

    python benchmarks/tcp.py --rival "grove tcp" --rival "js tcp"

js gets what Grove gets: a server process, a dialling process, no identify. Its measures are its own
methods because a pipe between this program and it, crossed for each request, would be measured too.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rounds import MB, Rival, Server
from tests.interop.js_peer import FOLDER, JsPeer, Missing, installed

LISTEN = {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"}
PATIENCE = 280.0  # s for one measure

# V8 compiles what runs often: cold, js needs a third more processor time. It is measured warm.
WARM_SETUPS = 30
WARM_BYTES = 100 * MB
WARM_REQUESTS = 40_000


def rivals(transport: str) -> list[Rival]:
    """js over "tcp" or "quic"; none, with a word to stderr, where Node or js-libp2p is missing."""
    try:
        node = installed()
    except Missing as missing:
        print(f"without js-libp2p: {missing}", file=sys.stderr)
        return []
    options = json.dumps({"listen": [LISTEN[transport]], "bare": True})
    return [Rival(f"js {transport}", (str(node), str(FOLDER / "peer.mjs"), options), dialling)]


async def dialling(address: str) -> JsClient:
    """A js program that dials an address of the form …/p2p/ID."""
    return JsClient(address, await asyncio.to_thread(JsPeer, listen=[], bare=True))


class JsClient:
    """A dialling js program, and the measures of rounds.py as taken by it."""

    def __init__(self, address: str, js: JsPeer) -> None:
        self._address = address
        self._peer = address.rpartition("/p2p/")[2]
        self._js = js

    async def close(self) -> None:
        await asyncio.to_thread(self._js.close)

    async def set_up(self, server: Server, scale: float) -> dict[str, float]:
        count = max(int(100 * scale), 5)
        await self._js.do("setups", addr=self._address, times=WARM_SETUPS)
        cpu = await self._cpu(server)
        told = await self._js.do("setups", addr=self._address, times=count, timeout=PATIENCE)
        cpu = await self._cpu(server) - cpu
        return {
            "set-up ms": statistics.median(told["ms"]),
            "set-up p95 ms": sorted(told["ms"])[int(0.95 * count)],
            "set-up CPU ms, both sides": cpu / count * 1e3,
        }

    async def bulk(self, server: Server, scale: float) -> dict[str, float]:
        size = int(500 * MB * scale) // 65536 * 65536
        await self._js.do("dial", addr=self._address)
        results = {}
        for name, up in (("up", True), ("down", False)):
            await self._flow(WARM_BYTES, up)
            cpu = await self._cpu(server)
            took = await self._flow(size, up)
            cpu = await self._cpu(server) - cpu
            results[f"bulk {name} MB/s"] = size / MB / took
            results[f"bulk {name} CPU s/GB"] = cpu / (size / 1e9)
        return results

    async def request_response(self, server: Server, scale: float) -> dict[str, float]:
        await self._js.do("dial", addr=self._address)
        results = {}
        for streams in (1, 64):
            each = max(int((5_000 if streams == 1 else 600) * scale), 10)
            await self._ask(streams, WARM_REQUESTS // streams)
            cpu = await self._cpu(server)
            took = await self._ask(streams, each)
            cpu = await self._cpu(server) - cpu
            results[f"requests/s, {streams} stream{'s' * (streams > 1)}"] = streams * each / took
            results[f"request CPU us, {streams} stream{'s' * (streams > 1)}"] = (
                cpu / (streams * each) * 1e6
            )
        return results

    async def memory(self, server: Server, scale: float) -> dict[str, float]:
        count = max(int(200 * scale), 50)
        await self._js.do("hoard", addr=self._address, connections=20)
        before = server.private()
        await self._js.do("hoard", addr=self._address, connections=count, timeout=PATIENCE)
        after = server.private()
        return {
            "KB per idle connection": (after - before) / count / 1024,
            "private MB of the listener": before / MB,
            "listening after ms": server.listening * 1e3,
        }

    async def _flow(self, size: int, up: bool) -> float:
        told = await self._js.do("flow", peer=self._peer, bytes=size, up=up, timeout=PATIENCE)
        return float(told["ms"]) / 1e3

    async def _ask(self, streams: int, each: int) -> float:
        told = await self._js.do(
            "requests", peer=self._peer, streams=streams, each=each, timeout=PATIENCE
        )
        return float(told["ms"]) / 1e3

    async def _cpu(self, server: Server) -> float:
        return float((await self._js.do("usage"))["cpu"]) + server.cpu()
