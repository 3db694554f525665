"""Villages that speak pubsub: some Grove nodes in this process, some js nodes in one child process.

`JsVillage` is js/village.mjs; `Village` is its counterpart here: nodes of the residential profile, with
pool and gossipsub instead of HyParView and Plumtree. A message is the text `tag:number|` and zeros up to
its size, so that both sides can say what they have heard.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from grove_gossipsub.machine import GossipSub

from grove_core.drive.live import Node
from grove_core.events import Delivered
from grove_core.identity import parse_peer, peer_text
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from tests.interop.js_peer import JsPeer

LISTEN = {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"}

SCORES: Mapping[str, Any] = {
    "topics": {"": {"time_weight": 0.001, "first_weight": 1.0, "invalid_weight": -10.0}},
    "behaviour_weight": -10.0,
    "behaviour_decay": 0.99,
}
"""P4 and P7 are counted and weigh much; nobody is punished for a mesh that has nothing to carry (P3)."""

SETTINGS: Mapping[str, Any] = {
    "roles.membership": "pool",
    "roles.broadcast": "gossipsub",
    "roles.service": ["libp2p"],
    "limits.inbound_per_second": 1000,
    "plugins.libp2p.push_delay": 0.05,  # s
    "plugins.libp2p.push_interval": 0.05,
    "plugins.gossipsub.scores": SCORES,
}

WATCHED = 100_000
"""Events kept for us; more than any test makes."""


class JsVillage(JsPeer):
    """A running js/village.mjs."""

    program: ClassVar[str] = "village.mjs"

    def peer_of(self, node: int) -> PeerId:
        return parse_peer(self.first["nodes"][node]["peer"])

    def addr_of(self, node: int) -> str:
        found: str = self.first["nodes"][node]["addrs"][0]
        return found

    @property
    def size(self) -> int:
        return len(self.first["nodes"])


class Villager:
    """A Grove node, and what it has heard."""

    def __init__(self, node: Node, changed: Callable[[], None]) -> None:
        self.node = node
        self.heard: dict[str, Counter[int]] = {}
        self._changed = changed

    @property
    def machine(self) -> GossipSub:
        found: GossipSub = self.node.broadcast.machine
        return found

    @property
    def peer(self) -> str:
        return peer_text(self.node.peer)

    def count(self, tag: str) -> int:
        """How many different messages of a tag it has heard."""
        return len(self.heard.get(tag, ()))

    async def listen(self) -> None:
        async with self.node.watch(Delivered, limit=WATCHED) as events:
            async for event in events:
                assert isinstance(event, Delivered)
                tag, _, number = event.data.partition(b"|")[0].decode().partition(":")
                self.heard.setdefault(tag, Counter())[int(number)] += 1
                self._changed()


class Village:
    """Grove nodes in this process."""

    def __init__(self) -> None:
        self.members: list[Villager] = []
        self._change = asyncio.Event()

    def __getitem__(self, index: int) -> Villager:
        return self.members[index]

    def changed(self) -> None:
        self._change.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a condition; looked at again at each message and some times a second."""
        while not holds():
            self._change.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._change.wait(), 0.05)

    def subscribe(self, topic: str) -> None:
        for member in self.members:
            member.node.broadcast.subscribe(topic)

    async def connect(self) -> None:
        """All to all, each pair once."""
        for index, one in enumerate(self.members):
            for other in self.members[:index]:
                await one.node.connect(other.node.addresses[0].with_peer(other.node.peer))

    async def settle(self, topic: str, *, subscribers: int = 0, mesh: int = 0) -> None:
        """Wait until each node knows so many subscribers and has so many peers in its mesh."""

        def settled(machine: GossipSub) -> bool:
            known = len(machine.topic_peers.get(topic, ()))
            return known >= subscribers and len(machine.mesh.get(topic, ())) >= mesh

        await self.until(lambda: all(settled(member.machine) for member in self.members))


@asynccontextmanager
async def village(count: int, transport: str, data: Path, **gossipsub: Any) -> AsyncIterator[Village]:
    """So many nodes that listen on a transport, with these settings of GossipSub."""
    made = Village()
    settings = {**SETTINGS, "node.listen": [LISTEN[transport]]}
    settings |= {f"plugins.gossipsub.{key}": value for key, value in gossipsub.items()}
    async with contextlib.AsyncExitStack() as stack:
        listeners = await stack.enter_async_context(listening())
        for index in range(count):
            node = Node.from_profile("residential", data=data / str(index), set=settings)
            await stack.enter_async_context(node)
            member = Villager(node, made.changed)
            made.members.append(member)
            listeners.append(asyncio.create_task(member.listen()))
        await asyncio.sleep(0)  # each listener has begun to watch
        yield made


@asynccontextmanager
async def listening() -> AsyncIterator[list[asyncio.Task[None]]]:
    """Tasks that end with the block; what one of them raised is raised."""
    tasks: list[asyncio.Task[None]] = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for error in done:
            if isinstance(error, Exception):
                raise error


def payload(tag: str, number: int, size: int) -> bytes:
    return f"{tag}:{number}|".encode().ljust(size, b"\0")


async def meet(grove: Village, js: JsVillage, *, grove_dials: bool) -> None:
    """Connect everybody with everybody."""
    await asyncio.gather(grove.connect(), js.do("connect", timeout=60.0))
    for member in grove.members:
        for index in range(js.size):
            if grove_dials:
                await member.node.connect(Multiaddr.parse(js.addr_of(index)))
            else:
                addr = str(member.node.addresses[0].with_peer(member.node.peer))
                await js.do("dial", node=index, addr=addr)
