"""What goes over the wires: who sends how much of what, and when it arrives.

`Meter` counts messages and bytes by type through a context that encodes what it sends with the
protocol's own codec; machines and driver do not know. `Wires` is the world's carrier: what is sent
leaves when its sender's processor has let go of it, each uplink sends one message after the other at
its rate, and what is lost is sent again, which on a reliable stream is a delay for this and every later
message.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from grove_core.drive.virtual import VirtualContext, VirtualNode, World
from grove_core.machine import PeerId, Token
from grove_lab.scenario import Network
from grove_lab.streams import stream
from grove_lab.work import Processors

MARK = b"\xd9grove-lab"
"""Begins every payload a workload publishes, before a number and its size (u24 each): messages that
carry payload are known by it, whatever the protocol."""


def numbers(data: bytes) -> tuple[int, ...]:
    """Numbers of the payloads that an encoded message carries, in order."""
    found = []
    at = data.find(MARK)
    while at >= 0:
        found.append(int.from_bytes(data[at + 10 : at + 13], "big"))
        at = data.find(MARK, at + max(int.from_bytes(data[at + 13 : at + 16], "big"), 16))
    return tuple(found)


class Ground(World):
    """The world under a stage."""

    meter: Meter | None = None
    processors: Processors | None = None

    def occupy(self, node: VirtualNode, seconds: float) -> float:
        """Work that a node's core does when it is free; returns when it is done."""
        if self.processors is None:
            return super().occupy(node, seconds)
        return self.processors.occupy(node.index, seconds)


class Meter:
    """Counts by type of message and by node.

    overhead: bytes added to each message. A message object that is sent to many is encoded once.
    """

    def __init__(self, nodes: int, overhead: int) -> None:
        self.overhead = overhead
        self.types: dict[type, list[int]] = {}
        """Message type -> [sent, bytes, copies of payloads, bytes of those]."""
        self.up = [0] * nodes
        self.down = [0] * nodes
        self._msg: Any = None
        self._size = 0
        self._copies = 0
        self._payload = 0

    def size(self, ctx: VirtualContext, msg: Any) -> int:
        """Bytes of a message on the wire: its frame and the overhead."""
        if msg is not self._msg:
            codec = ctx.slot.spec.codec
            data = b"" if codec is None else codec.encode(msg)
            length = len(data)
            # The frame's length comes before it, 7 bits to a byte.
            self._size = length + (1 if length < 128 else 2 if length < 16384 else 3) + self.overhead
            self._copies = self._payload = 0
            at = data.find(MARK)
            while at >= 0:
                size = int.from_bytes(data[at + 13 : at + 16], "big")
                self._copies += 1
                self._payload += size
                at = data.find(MARK, at + max(size, 16))
            self._msg = msg
        return self._size

    def count(self, ctx: VirtualContext, to: VirtualNode | None, msg: Any) -> None:
        size = self.size(ctx, msg)
        row = self.types.get(type(msg))
        if row is None:
            row = self.types[type(msg)] = [0, 0, 0, 0]
        row[0] += 1
        row[1] += size
        row[2] += self._copies
        row[3] += self._payload
        self.up[ctx.node.index] += size
        if to is not None:
            self.down[to.index] += size

    def clear(self) -> None:
        """Begin anew, at the end of settling."""
        self.types = {}
        self.up = [0] * len(self.up)
        self.down = [0] * len(self.down)

    @property
    def sent(self) -> int:
        return sum(row[0] for row in self.types.values())

    @property
    def bytes(self) -> int:
        return sum(row[1] for row in self.types.values())

    @property
    def copies(self) -> int:
        """Payloads sent, each copy counted."""
        return sum(row[2] for row in self.types.values())

    @property
    def payload_bytes(self) -> int:
        """Bytes of data in those, without what wraps it."""
        return sum(row[3] for row in self.types.values())

    def by_type(self) -> dict[str, tuple[int, int]]:
        """Message type's name -> (sent, bytes), most bytes first."""
        rows = sorted(self.types.items(), key=lambda item: (-item[1][1], item[0].__name__))
        return {
            f"{kind.__module__.partition('.')[0]}.{kind.__name__}": (row[0], row[1]) for kind, row in rows
        }

    def count_reply(self, node: VirtualNode, size: int) -> None:
        """A reply to a client, which is no node."""
        row = self.types.setdefault(Reply, [0, 0, 0, 0])
        row[0] += 1
        row[1] += size
        self.up[node.index] += size


class Reply:
    """What a client is answered with, if it is nobody's member."""


class PricedContext(VirtualContext):
    """A context whose signatures and messages cost its node's processor."""

    __slots__ = ()

    def send(self, peer: PeerId, msg: Any) -> None:
        self.world.processors.sends(self.node.index)  # type: ignore[attr-defined]
        VirtualContext.send(self, peer, msg)

    def sign(self, data: bytes) -> bytes:
        self.world.processors.signs(self.node.index)  # type: ignore[attr-defined]
        return VirtualContext.sign(self, data)


class MeteredContext(VirtualContext):
    """A context that has its messages counted on the way out."""

    __slots__ = ()

    def send(self, peer: PeerId, msg: Any) -> None:
        world = self.world
        world.meter.count(self, world.nodes.get(peer), msg)  # type: ignore[attr-defined]
        VirtualContext.send(self, peer, msg)

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        world = self.world
        world.meter.count(self, world.nodes.get(peer), msg)  # type: ignore[attr-defined]
        VirtualContext.request(self, peer, msg, key, timeout)

    def reply(self, token: Token, msg: Any) -> None:
        exchange = self.owed.get(token) if self.owed else None
        if exchange is not None:
            self.world.meter.count(self, exchange.asker.node, msg)  # type: ignore[attr-defined]
        VirtualContext.reply(self, token, msg)


class PricedMeteredContext(MeteredContext):
    """Both."""

    __slots__ = ()

    def send(self, peer: PeerId, msg: Any) -> None:
        self.world.processors.sends(self.node.index)  # type: ignore[attr-defined]
        MeteredContext.send(self, peer, msg)

    def sign(self, data: bytes) -> bytes:
        self.world.processors.signs(self.node.index)  # type: ignore[attr-defined]
        return VirtualContext.sign(self, data)


class Wires:
    """The carrier: FIFO uplinks, jitter, and losses made good by repetition.

    uplinks: bytes/s per node, 0 unlimited. processors: whose hands messages leave, if work is modelled.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        uplinks: list[float],
        meter: Meter,
        seed: int,
        processors: Processors | None = None,
    ) -> None:
        self.world = world
        self.network = network
        self.uplinks = uplinks
        self.meter = meter
        self.free = [0.0] * len(uplinks)
        """When each uplink has sent all it was given."""
        self.busy = [0.0] * len(uplinks)
        """Seconds each uplink was sending."""
        self.last: dict[tuple[VirtualContext, int], float] = {}
        """When the newest message of a machine to a node arrives."""
        self.rng = stream(seed, "wires")
        self.processors = processors
        self.is_ordered = not (network.jitter or network.loss)
        """Nothing can overtake: uplinks keep the order, and a link's delay is one."""

    def leaves(self, index: int, size: float) -> float:
        """When so many bytes that a node sends now have left it."""
        at = self.world.now if self.processors is None else self.processors.leaves(index)
        rate = self.uplinks[index]
        if rate:
            takes = size / rate
            at = self.free[index] = max(at, self.free[index]) + takes
            self.busy[index] += takes
        return at

    def __call__(self, ctx: VirtualContext, to: VirtualNode, delay: float, msg: Any) -> float:
        index = ctx.node.index
        leaves = self.leaves(index, self.meter.size(ctx, msg) if self.uplinks[index] else 0)
        if self.is_ordered:
            return leaves + delay
        network = self.network
        if network.jitter:
            delay *= self.rng.lognormvariate(0.0, network.jitter)
        wait = network.retransmit
        while network.loss and self.rng.random() < network.loss:
            delay += wait
            wait *= 2
        arrives = leaves + delay
        link = (ctx, to.index)
        before = self.last.get(link, 0.0)
        if arrives < before:
            arrives = before
        self.last[link] = arrives
        return arrives

    def clear(self) -> None:
        """Count anew, at the end of settling."""
        self.busy = [0.0] * len(self.busy)

    @classmethod
    def wanted(cls, network: Network, uplinks: list[float]) -> bool:
        """Whether anything here would differ from the bare delay."""
        return bool(network.jitter or network.loss or any(uplinks))
