"""What a machine is given in virtual time: its node's links, timers, records, and the way out."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Hashable
from random import Random
from typing import TYPE_CHECKING, Any

from grove_core.drive.virtual import acts
from grove_core.machine import Event, Machine, PeerId, Terms, Token
from grove_core.node import Slot, rng_for

if TYPE_CHECKING:
    from grove_core.drive.virtual.node import VirtualNode
    from grove_core.drive.virtual.world import World


class Exchange:
    """One question on its way to one answer."""

    __slots__ = ("asker", "key", "peer", "server", "token")

    def __init__(self, asker: VirtualContext, peer: PeerId, key: Hashable) -> None:
        self.asker = asker
        self.peer = peer
        self.key = key
        self.server: VirtualContext | None = None
        self.token = Token(0)


class Handlers(dict[type, Callable[..., None]]):
    """What each type of message is handed to at once; what is not in here, to `on_message`."""

    def __init__(self, kind: type[Machine[Any]]) -> None:
        # A machine that dispatches by itself is asked every time.
        super().__init__(kind.message_handlers if kind.on_message is Machine.on_message else {})

    def __missing__(self, kind: type) -> Callable[..., None]:
        return _by_itself


def _by_itself(machine: Machine[Any], ctx: VirtualContext, peer: PeerId, msg: Any) -> None:
    machine.on_message(ctx, peer, msg)


class Near:
    """What each message touches, side by side: 10,000 contexts fit no cache, and a class lays out its
    slots by name."""

    __slots__ = ("alive", "handlers", "held_back", "links", "machine", "world")


class VirtualContext(Near):
    """One machine's context during one life of its node."""

    __slots__ = (
        "_records",
        "_rng",
        "asked",
        "index",
        "listeners",
        "me",
        "node",
        "owed",
        "slot",
        "timers",
    )

    def __init__(self, world: World, node: VirtualNode, slot: Slot) -> None:
        self.world = world
        self.node = node
        self.slot = slot
        self.links = node.links
        self.listeners = world.listeners[node.shape]
        self.index = slot.index
        self.machine = slot.machine
        self.me = node.peer
        self.alive = True
        kind = type(self.machine)
        if kind not in world.handlers:
            world.handlers[kind] = Handlers(kind)
        self.handlers = world.handlers[kind]
        self._rng: Random | None = None
        records = node.disk.get(slot.name)
        # What is durable and what the machine has said are one where the disk takes no time.
        self._records: dict[str, bytes] | None = (
            records if world.disk == 0.0 else dict(records) if records else None
        )
        self.timers: dict[Hashable, int] = {}
        # The rest is made on first use: most machines ask nothing and save nothing.
        self.asked: dict[Hashable, Exchange] | None = None
        self.owed: dict[Token, Exchange] | None = None
        self.held_back: deque[tuple[Any, ...]] | None = None

    def __repr__(self) -> str:
        return f"<{self.slot.name} on node {self.node.index}>"

    @property
    def now(self) -> float:
        return self.world.now

    @property
    def rng(self) -> Random:
        if self._rng is None:  # a Random weighs 2.9 KB: made on first use
            # As on a real node, a later life draws anew: ids drawn by an earlier one do not come again.
            life = b"" if self.node.starts == 1 else b"life %d/" % self.node.starts
            self._rng = rng_for(self.world.run_seed + life, self.me, self.slot.name)
        return self._rng

    def record(self, peer: PeerId) -> bytes:
        return b""

    def terms(self, peer: PeerId) -> Terms:
        end = self.links.get(peer)
        if end is None:
            return Terms()
        other = end.counterparts[self.index]
        spoken = () if other is None else other.slot.spec.protocols
        mine = self.slot.spec.protocols
        agreed = next((wire for wire in mine if wire in spoken), "")
        return Terms(agreed, end.outbound, end.other.host)

    # What leaves the machine: waits behind `save`.

    def send(self, peer: PeerId, msg: Any) -> None:
        if self.held_back is not None:
            self.held_back.append((VirtualContext.send, peer, msg))
            return
        world = self.world
        try:
            end = self.links[peer]
        except KeyError:
            world.visit(self, peer, msg)
            return
        ctx = end.counterparts[self.index]
        if ctx is None:
            world.undeliverable += 1
        elif end.clogged is not None:
            world.wait(self, end, msg)
        elif world.carrier is None:
            # Timeline.push for most: every other event passes here.
            at = world.now + end.delay
            timeline = world.timeline
            bucket = timeline.buckets.get(int(at * timeline.scale))
            if bucket is not None:
                bucket.append((at, acts.arrive, ctx, self.me, msg))
            else:
                timeline.push((at, acts.arrive, ctx, self.me, msg))
        else:
            world.carry(self, end, ctx, msg)

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        if self.held_back is not None:
            self.held_back.append((VirtualContext.request, peer, msg, key, timeout))
            return
        exchange = Exchange(self, peer, key)
        if self.asked is None:
            self.asked = {}
        self.asked[key] = exchange
        world = self.world
        target = world.nodes.get(peer)
        if target is None:
            world.push((world.now, acts.fail, self, exchange, "unreachable"))
            return
        setup = 0.0 if peer in self.links else world.setup(self.node, target)
        after = world.arrival(self, target, setup + world.delay(self.node.index, target.index), msg)
        if after is not None:
            world.push((after, acts.ask, self, exchange, (target, msg)))
        world.push((world.now + timeout, acts.fail, self, exchange, "timeout"))

    def reply(self, token: Token, msg: Any) -> None:
        if self.held_back is not None:
            self.held_back.append((VirtualContext.reply, token, msg))
            return
        exchange = self.owed.pop(token, None) if self.owed else None
        if exchange is not None:
            asker, world = exchange.asker, self.world
            delay = world.delay(self.node.index, asker.node.index)
            after = world.arrival(self, asker.node, delay, msg)
            if after is not None:
                world.push((after, acts.answer, asker, exchange, (self, msg)))

    def connect(self, peer: PeerId) -> None:
        if self.held_back is not None:
            self.held_back.append((VirtualContext.connect, peer))
            return
        self.world.connect(self, peer)

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        if self.held_back is not None:
            self.held_back.append((VirtualContext.disconnect, peer, reason))
            return
        end = self.links.get(peer)
        if end is not None and self in end.link.held:
            end.link.held.remove(self)
            if not end.link.held:
                self.world.push((self.world.now + self.world.idle, acts.idle, self, end.link, None))

    def emit(self, event: Event) -> None:
        if self.held_back is not None:
            self.held_back.append((VirtualContext.emit, event))
            return
        world = self.world
        if world.sinks or self.listeners.get(type(event)) != ():  # else nobody would hear it
            world.pending.append((self, event))

    # What stays inside the node.

    def save(self, key: str, value: bytes | None) -> None:
        world = self.world
        if self._records is None:
            self._records = {}
            if world.disk == 0.0:
                self.node.disk[self.slot.name] = self._records
        if value is None:
            self._records.pop(key, None)
        else:
            self._records[key] = value
        if world.disk == 0.0:
            return
        if self.held_back is None:
            self.held_back = deque()
        self.held_back.append((None, key, value))
        world.push((world.now + world.disk, acts.durable, self, None, None))

    def load(self, key: str) -> bytes | None:
        return self._records.get(key) if self._records else None

    def saved(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted(key for key in self._records or () if key.startswith(prefix)))

    def sign(self, data: bytes) -> bytes:
        self.slot.check_domain(data)
        identity = self.node.identity
        if identity is None:  # charged, not computed
            return hashlib.blake2b(data, digest_size=64, key=hashlib.sha256(self.me).digest()).digest()
        return identity.sign(data)

    def set_timer(self, key: Hashable, delay: float) -> None:
        world = self.world
        self.timers[key] = number = next(world.timers)
        world.push((world.now + delay, acts.fire, self, key, number))

    def cancel_timer(self, key: Hashable) -> None:
        self.timers.pop(key, None)
