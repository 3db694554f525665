"""One node of an experiment: a residential Grove node that does its part of the script.

Messages carry neither author nor signature and are named by their first 8 bytes. What is told is one JSON
object a line (gossipsub-interop/test-specs/implementation.md):

    PeerID             id, node_id
    Received Message   id (those 8 bytes as a number), from, topic; of each copy
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from grove_gossipsub.config import Config
from grove_gossipsub.events import ValidationRequested
from grove_gossipsub.machine import Ctx, GossipSub
from grove_gossipsub.messages import MAX_RPC, OVERHEAD, Rpc

from grove_core import Node
from grove_core.errors import GroveError
from grove_core.identity import Identity, peer_text
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.specs import Part
from grove_gossipsub_interop import script as scripts

PATIENCE: Final = 20.0
"""Seconds for which another node may be slower than we to listen."""

Where = Callable[[int], Awaitable[str]]
"""A node's number -> its address without its id, e.g. /ip4/11.0.0.2/tcp/9000."""


def identity_of(node: int) -> Identity:
    """The key of a node: its number, little-endian, is the seed."""
    return Identity.from_seed(node.to_bytes(32, "little"))


class Heard(GossipSub):
    """GossipSub that tells each copy of a message it is sent."""

    def __init__(self, config: Config, tell: Callable[..., None]) -> None:
        super().__init__(config)
        self._tell = tell

    def on_message(self, ctx: Ctx, peer: PeerId, msg: Rpc) -> None:
        for one in msg.publish:
            number = str(int.from_bytes(one.data[:8], "big"))
            self._tell("Received Message", **{"from": peer_text(peer), "topic": one.topic, "id": number})
        super().on_message(ctx, peer, msg)


class Player:
    """One node and its part of the script. where: of the others. listen: a multiaddr."""

    def __init__(
        self, script: scripts.Script, number: int, where: Where, listen: str, out: IO[str], data: Path
    ) -> None:
        self._steps = script.of(number)
        self._ends = script.ends
        self._where = where
        self._out = out
        self._delays: dict[str, float] = {}
        self._number = number
        self.listens = asyncio.Event()
        """Set once others can connect."""
        settings: dict[str, Any] = {
            "roles.membership": "pool",
            "roles.broadcast": "gossipsub",
            "roles.service": ["libp2p"],
            "node.listen": [listen],
            "limits.inbound_per_second": 1000,
            "plugins.gossipsub.signing": "none",
            "plugins.gossipsub.message_id": "head",
            "plugins.gossipsub.max_payload": MAX_RPC - OVERHEAD,
        }
        for _, step in self._steps:
            if isinstance(step, scripts.InitGossipSub):
                settings |= {f"plugins.gossipsub.{key}": value for key, value in step.settings.items()}
        made = Node.from_profile("residential", data=data, set=settings)
        parts = tuple(self._heard(part) for part in made.plan.parts)
        plan = msgspec.structs.replace(made.plan, parts=parts)
        self.node = Node(plan, identity=identity_of(number))

    def _heard(self, part: Part) -> Part:
        if part.spec.name != "gossipsub":
            return part
        spec = msgspec.structs.replace(part.spec, build=lambda config: Heard(config, self.tell))
        return Part(spec, part.config, part.hosted)

    def tell(self, msg: str, **fields: Any) -> None:
        """One line of the experiment's log."""
        now = datetime.now(UTC).isoformat()
        line = {"time": now, "level": "INFO", "msg": msg, "service": "gossipsub", **fields}
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    async def play(self) -> None:
        """From the start to the end of the script. Raises GroveError if a peer cannot be reached."""
        begun = asyncio.get_running_loop().time()
        async with self.node:
            self.listens.set()
            self.tell("PeerID", id=peer_text(self.node.peer), node_id=self._number)
            judge = asyncio.create_task(self._judge())
            try:
                for at, step in self._steps:
                    await _until(begun + at)
                    await self._do(step)
                await _until(begun + self._ends)
            finally:
                judge.cancel()

    async def _do(self, step: Any) -> None:
        broadcast = self.node.broadcast
        if isinstance(step, scripts.Connect):
            await asyncio.gather(*map(self._connect, step.connectTo))
        elif isinstance(step, scripts.SubscribeToTopic):
            broadcast.subscribe(step.topicID)
        elif isinstance(step, scripts.SetTopicValidationDelay):
            self._delays[step.topicID] = step.delaySeconds
            broadcast.call(lambda machine, ctx: machine.ask_application(ctx, step.topicID))
        elif isinstance(step, scripts.Publish):
            broadcast.publish(step.topicID, step.data)

    async def _connect(self, other: int) -> None:
        peer = identity_of(other).peer
        address = Multiaddr.parse(await self._where(other)).with_peer(peer)
        patience = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                await self.node.connect(address)
                return
            except GroveError:
                if asyncio.get_running_loop().time() > patience:
                    raise
                await asyncio.sleep(0.1)

    async def _judge(self) -> None:
        """Accept every message whose topic has a delay, after it."""
        loop = asyncio.get_running_loop()
        async with self.node.watch(ValidationRequested, limit=100_000) as events:
            async for event in events:
                assert isinstance(event, ValidationRequested)
                loop.call_later(self._delays.get(event.topic, 0.0), self._accept, event.id)

    def _accept(self, id: bytes) -> None:
        if self.node.uptime:
            self.node.broadcast.call(lambda machine, ctx: machine.validated(ctx, id, "accept"))


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))
