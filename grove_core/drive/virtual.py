"""The deterministic driver: nodes in virtual time over a heap of tuples.

    (time, seq, act, ctx, a, b)       act(time, ctx, a, b) moves one machine

One `World` holds any number of nodes, assembled from the same parts as real ones. Ties break by
`seq`, so a seed gives one history whatever the hash seed. The world models what a machine can
observe: delay, order on a link, connections that open, fall idle and break, questions and answers,
durable records and their barrier, crashes that lose what was not durable, links that are cut or
clogged, clocks that run fast. It has no bandwidth, no loss under a reliable stream and no work that
costs time of its own: who models those gives it a `carrier` and a `cost`, as the lab does.

Invariants:
1. Nothing here reads a clock, global randomness or an unordered collection.
2. A message never overtakes an earlier one of the same machine on the same link.
3. A context belongs to one life of a node: after a crash its pending acts find it dead.
"""

from __future__ import annotations

import gc
import hashlib
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from heapq import heappop
from itertools import count
from math import inf
from random import Random
from typing import Any, TypeVar

import msgspec

from grove_core import host
from grove_core.drive.timeline import Timeline
from grove_core.errors import GroveError, LocalProtocolError, RemoteProtocolError
from grove_core.identity import Identity, PublicKey
from grove_core.machine import CONNECT, Event, Machine, PeerId, Terms, Token
from grove_core.node import Assembly, Slot, rng_for
from grove_core.roles import HANDLES, Broadcast, Consensus, Discovery, Membership, Storage
from grove_core.specs import Part

H = TypeVar("H", Discovery, Membership, Broadcast, Storage, Consensus)

Delay = Callable[[int, int], float]
"""One-way delay in seconds between two nodes, by index. Pure; need not be symmetric."""

Carrier = Callable[["VirtualContext", "VirtualNode", float, Any], float | None]
"""Bandwidth and loss, for those who model them: (sender, to, delay, message) -> the time of arrival,
not before those of the sender's earlier messages there; None if it never arrives."""

Cost = Callable[["VirtualContext", Any], float]
"""What a message costs its receiver's processor, in seconds; a node works off one after the other."""

Sink = Callable[["VirtualNode", Event], None]
"""Told of every event a machine emits, after the node's other machines."""


Witness = Callable[[float, Any, Any, Any, Any], None]
"""Sees every event before it takes place: (time, act, ctx, a, b), as the acts below take them."""


class SimulationError(GroveError):
    """A machine raised inside a world. Says when, where and how to see it again."""


def constant(seconds: float) -> Delay:
    """The same delay between all nodes."""
    return lambda a, b: seconds


def uniform(low: float, high: float, seed: int = 0) -> Delay:
    """A delay per link, drawn once from [low, high] and the same in both directions."""
    mask = (1 << 64) - 1
    step = (high - low) / (1 << 32)

    def delay(a: int, b: int) -> float:
        if a > b:
            a, b = b, a
        # SplitMix64's finaliser over the pair: cheap, stateless, and equal for every protocol.
        x = (a * 0x9E3779B97F4A7C15 + b * 0xBF58476D1CE4E5B9 + seed * 0x94D049BB133111EB) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return low + step * ((x ^ (x >> 31)) >> 32)

    return delay


class Link:
    """An open connection between two lives of two nodes; it has an `End` at each.

    a dialled it. held: the contexts that want it. clogged: what waits while one side does not read.
    """

    __slots__ = ("clogged", "ends", "held", "is_open")

    def __init__(self, a: VirtualNode, b: VirtualNode) -> None:
        world = a.world
        self.held: list[VirtualContext] = []
        self.clogged: dict[VirtualNode, deque[tuple[VirtualContext, Any]]] | None = None
        self.is_open = True
        self.ends: tuple[End, ...] = (
            End(self, b, world.delay(a.index, b.index), world.counterparts(a, b), True),
            End(self, a, world.delay(b.index, a.index), world.counterparts(b, a), False),
        )

    def close(self) -> None:
        self.is_open = False
        self.ends = ()  # no cycle is left: the memory goes at once
        self.held = []


class End:
    """A link as one of its nodes sees it: who is at the other side, and how far away.

    counterparts: for each of our slots, the other node's context that speaks its protocol.
    outbound: whether this node dialled.
    """

    __slots__ = ("counterparts", "delay", "link", "other", "outbound")

    def __init__(
        self,
        link: Link,
        other: VirtualNode,
        delay: float,
        counterparts: tuple[VirtualContext | None, ...],
        outbound: bool,
    ) -> None:
        self.link = link
        self.outbound = outbound
        self.other = other
        self.delay = delay
        self.counterparts = counterparts


class _Exchange:
    """One question on its way to one answer."""

    __slots__ = ("asker", "key", "peer", "server", "token")

    def __init__(self, asker: VirtualContext, peer: PeerId, key: Hashable) -> None:
        self.asker = asker
        self.peer = peer
        self.key = key
        self.server: VirtualContext | None = None
        self.token = Token(0)


class VirtualContext:
    """One machine's context during one life of its node."""

    __slots__ = (
        "_held",
        "_open",
        "_records",
        "_rng",
        "_timers",
        "_waiting",
        "alive",
        "handlers",
        "index",
        "machine",
        "me",
        "node",
        "now",
        "slot",
        "world",
    )

    def __init__(self, world: World, node: VirtualNode, slot: Slot) -> None:
        self.world = world
        self.node = node
        self.slot = slot
        self.index = slot.index
        self.machine = slot.machine
        self.me = node.peer
        self.now = world.now
        self.alive = True
        # Dispatch by the class's table at once, unless a machine dispatches by itself.
        by_table = type(self.machine).on_message is Machine.on_message
        self.handlers = self.machine.message_handlers if by_table else _NO_HANDLERS
        self._rng: Random | None = None
        records = node.disk.get(slot.name)
        # What is durable and what the machine has said are one where the disk takes no time.
        self._records: dict[str, bytes] | None = (
            records if world.disk == 0.0 else dict(records) if records else None
        )
        self._timers: dict[Hashable, int] = {}
        # The rest is made on first use: most machines ask nothing and save nothing.
        self._open: dict[Hashable, _Exchange] | None = None
        self._waiting: dict[Token, _Exchange] | None = None
        self._held: deque[tuple[Any, ...]] | None = None

    def __repr__(self) -> str:
        return f"<{self.slot.name} on node {self.node.index}>"

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
        end = self.node.links.get(peer)
        if end is None:
            return Terms()
        other = end.counterparts[self.index]
        spoken = () if other is None else other.slot.spec.protocols
        mine = self.slot.spec.protocols
        agreed = next((wire for wire in mine if wire in spoken), "")
        return Terms(agreed, end.outbound, end.other.host)

    # What leaves the machine: waits behind `save`.

    def send(self, peer: PeerId, msg: Any) -> None:
        if self._held is not None:
            self._held.append((VirtualContext.send, peer, msg))
            return
        world = self.world
        end = self.node.links.get(peer)
        if end is None:
            world.visit(self, peer, msg)
            return
        ctx = end.counterparts[self.index]
        if ctx is None:
            world.undeliverable += 1
        elif end.link.clogged and self.node in end.link.clogged:
            world.wait(self, end, msg)
        elif world.carrier is None:
            # World.push and Timeline.push, spelled out: every other event passes here.
            at = world.now + end.delay
            timeline = world.timeline
            index = int(at * timeline.scale)
            if index > timeline.index:
                timeline.buckets[index].append((at, next(world.seq), _arrive, ctx, self.me, msg))
            else:
                world.due((at, next(world.seq), _arrive, ctx, self.me, msg))
        else:
            world.carry(self, end, ctx, msg)

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        if self._held is not None:
            self._held.append((VirtualContext.request, peer, msg, key, timeout))
            return
        exchange = _Exchange(self, peer, key)
        if self._open is None:
            self._open = {}
        self._open[key] = exchange
        world = self.world
        target = world.nodes.get(peer)
        if target is None:
            world.push(world.now, _fail, self, exchange, "unreachable")
            return
        setup = 0.0 if peer in self.node.links else world.setup(self.node, target)
        after = world.arrival(self, target, setup + world.delay(self.node.index, target.index), msg)
        if after is not None:
            world.push(after, _ask, self, exchange, (target, msg))
        world.push(world.now + timeout, _fail, self, exchange, "timeout")

    def reply(self, token: Token, msg: Any) -> None:
        if self._held is not None:
            self._held.append((VirtualContext.reply, token, msg))
            return
        exchange = self._waiting.pop(token, None) if self._waiting else None
        if exchange is not None:
            asker, world = exchange.asker, self.world
            delay = world.delay(self.node.index, asker.node.index)
            after = world.arrival(self, asker.node, delay, msg)
            if after is not None:
                world.push(after, _answer, asker, exchange, (self, msg))

    def connect(self, peer: PeerId) -> None:
        if self._held is not None:
            self._held.append((VirtualContext.connect, peer))
            return
        self.world.connect(self, peer)

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        if self._held is not None:
            self._held.append((VirtualContext.disconnect, peer, reason))
            return
        end = self.node.links.get(peer)
        if end is not None and self in end.link.held:
            end.link.held.remove(self)
            if not end.link.held:
                self.world.push(self.world.now + self.world.idle, _idle, self, end.link, None)

    def emit(self, event: Event) -> None:
        if self._held is not None:
            self._held.append((VirtualContext.emit, event))
            return
        self.node.pending.append((self, event))

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
        if self._held is None:
            self._held = deque()
        self._held.append((None, key, value))
        world.push(world.now + world.disk, _durable, self, None, None)

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
        seq = next(world.seq)
        self._timers[key] = seq
        world.due((world.now + delay, seq, _fire, self, key, seq))

    def cancel_timer(self, key: Hashable) -> None:
        self._timers.pop(key, None)


class Clock:
    """A wrong clock: it shows `rate` seconds per true second. Timers already set keep their time."""

    __slots__ = ("_since", "_then", "rate")

    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate
        self._since = self._then = 0.0

    def at(self, true: float) -> float:
        """What it shows at a true time, ascending."""
        return self._then + (true - self._since) * self.rate

    def run(self, rate: float, now: float) -> None:
        """Show `rate` seconds per true second from now on."""
        self._since, self._then, self.rate = now, self.at(now), rate


def _skewed(kind: type[VirtualContext]) -> type[VirtualContext]:
    """The context of a machine whose node has a `Clock` of its own."""
    if kind in _SKEWED:
        return _SKEWED[kind]

    def read(self: Any) -> float:
        shown: float = self.node.clock.at(self._true)
        return shown

    def write(self: Any, true: float) -> None:
        self._true = true

    def set_timer(self: Any, key: Hashable, delay: float) -> None:
        kind.set_timer(self, key, delay / self.node.clock.rate)

    body = {"__slots__": ("_true",), "now": property(read, write), "set_timer": set_timer}
    _SKEWED[kind] = type(f"Skewed{kind.__name__}", (kind,), body)
    return _SKEWED[kind]


class VirtualNode:
    """One node of a world, over all its lives. `broadcast`, `membership` … are its role handles."""

    __slots__ = ("clock", "contexts", "dialling", "disk", "host", "identity",
                 "index", "links", "listeners", "parts", "peer", "pending", "shape", "starts",
                 "world")  # fmt: skip

    def __init__(self, world: World, index: int, parts: tuple[Part, ...], peer: PeerId) -> None:
        self.world = world
        self.index = index
        self.parts = parts
        self.peer = peer
        self.identity: Identity | None = None
        self.clock: Clock | None = None  # of its own, if it is not right; set before it starts
        self.host = ""  # where it is as the network sees it; set by who models addresses
        self.disk: dict[str, dict[str, bytes]] = {}
        self.links: dict[PeerId, End] = {}
        self.dialling: dict[PeerId, dict[VirtualContext, None]] = {}
        self.pending: list[tuple[VirtualContext, Event]] = []  # an empty deque weighs 600 bytes more
        self.contexts: tuple[VirtualContext, ...] = ()
        self.shape = world.shape(parts)
        self.listeners = world.listeners[self.shape]
        self.starts = 0

    def __repr__(self) -> str:
        return f"<node {self.index}>"

    @property
    def alive(self) -> bool:
        return bool(self.contexts)

    @property
    def discovery(self) -> Discovery:
        return self._role(Discovery)

    @property
    def membership(self) -> Membership:
        return self._role(Membership)

    @property
    def broadcast(self) -> Broadcast:
        return self._role(Broadcast)

    @property
    def storage(self) -> Storage:
        return self._role(Storage)

    @property
    def consensus(self) -> Consensus:
        return self._role(Consensus)

    def _role(self, kind: type[H]) -> H:
        found = self.plugin(kind.__name__.lower())
        assert isinstance(found, kind)
        return found

    def plugin(self, role_or_name: str) -> Any:
        """The handle of the first machine of a role, or of a plugin by name; else KeyError."""
        for ctx in self.contexts:
            if role_or_name in (ctx.slot.spec.role, ctx.slot.name):
                return HANDLES[ctx.slot.spec.role](ctx.machine, _Call(ctx))
        raise KeyError(f"node {self.index} has no {role_or_name!r} alive")

    def machine(self, role_or_name: str) -> Any:
        """The machine itself, to look at."""
        return self.plugin(role_or_name).machine

    def write(self, plugin: str, key: str, value: bytes | None) -> None:
        table = self.disk.setdefault(plugin, {})
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value

    def wake(self) -> None:
        """Begin a life: fresh machines over whatever the disk holds."""
        assembly = Assembly(self.parts)
        kind = self.world.context if self.clock is None else _skewed(self.world.context)
        self.contexts = tuple(kind(self.world, self, slot) for slot in assembly.slots)
        self.starts += 1

    def settle(self, now: float) -> None:
        """Hand emitted events to siblings, then to the world's sinks, until none is left."""
        pending = self.pending
        while pending:
            source, event = pending.pop(0)
            kind = type(event)
            heard = self.listeners.get(kind)
            if heard is None:
                heard = tuple(ctx.index for ctx in self.contexts if ctx.slot.hears(kind))
                self.listeners[kind] = heard
            for index in heard:
                if index != source.index:
                    ctx = self.contexts[index]
                    ctx.now = now
                    ctx.machine.on_event(ctx, event)
            for sink in self.world.sinks:
                sink(self, event)


class Division:
    """Sides that do not reach each other: see `World.divide`."""

    __slots__ = ("one_way", "sides")

    def __init__(self, sides: Sequence[int], one_way: bool) -> None:
        self.sides = sides
        self.one_way = one_way

    def reaches(self, a: int, b: int) -> bool:
        one, other = self.sides[a], self.sides[b]
        return one == other or (self.one_way and one < other)


class _Call:
    """Enters one machine from outside: see `roles.Call`."""

    __slots__ = ("_ctx",)

    def __init__(self, ctx: VirtualContext) -> None:
        self._ctx = ctx

    def __call__(self, act: Callable[[Any, Any], Any]) -> Any:
        ctx = self._ctx
        if not ctx.alive:
            raise LocalProtocolError(f"{ctx!r} is dead; take the handle anew after a restart")
        ctx.now = ctx.world.now
        result = act(ctx.machine, ctx)
        ctx.node.settle(ctx.now)
        return result


class World:
    """Nodes, links and time.

    seed: any integer; all randomness of the machines comes from it and the nodes' ids.
    delay: one-way seconds between two nodes. disk: seconds until a record is durable.
    setup_trips: round trips before a new connection carries a message (QUIC: 1; TCP+Noise+yamux: 3).
    idle: seconds until a connection that nobody holds closes. dial_timeout: for hosts that do not answer.
    keys: real Ed25519 identities, signatures made and verified; else signing is stood for by a hash
    and every proof is taken to hold. verify: seconds of the receiver's time per proof.
    trace: keep a digest of everything that happens (`digest()`).
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        delay: Delay | float = 0.05,
        disk: float = 0.0,
        setup_trips: float = 1.0,
        idle: float = 60.0,
        dial_timeout: float = 15.0,
        keys: bool = False,
        verify: float = 0.0,
        trace: bool = False,
    ) -> None:
        self.seed = seed
        self.run_seed = hashlib.sha256(f"grove/world/{seed}".encode()).digest()
        self.delay: Delay = constant(delay) if isinstance(delay, int | float) else delay
        self.disk = disk
        self.setup_trips = setup_trips
        self.idle = idle
        self.dial_timeout = dial_timeout
        self.keys = keys
        self.now = 0.0
        self.timeline = Timeline()
        self.due = self.timeline.push
        self.seq = count()
        self.nodes: dict[PeerId, VirtualNode] = {}
        self.order: list[VirtualNode] = []
        self.sinks: list[Sink] = []
        self.carrier: Carrier | None = None
        self.cost: Cost | None = _verification(verify) if verify else None
        self.context: type[VirtualContext] = VirtualContext
        """What machines are given; a subclass can watch what they do."""
        self.listeners: list[dict[type[Event], tuple[int, ...]]] = []
        self._shapes: dict[tuple[int, ...], int] = {}
        self._parts: list[tuple[Part, ...]] = []
        self._matches: dict[tuple[int, int], tuple[tuple[int, ...], tuple[bool, ...]]] = {}
        self.events = 0
        self.undeliverable = 0
        self.overflowed = 0
        self.refused = 0
        self.is_plain = False
        """Nothing is cut, nothing to compute or to charge: what arrives is handed over."""
        self._cuts: dict[tuple[int, int], None] = {}
        self._divisions: list[Division] = []
        self._mourned: dict[VirtualNode, None] = {}
        self._tokens = count(1)
        self._busy: dict[VirtualNode, float] = {}
        self._trace = hashlib.blake2b(digest_size=16) if trace else None
        self.witness: Witness | None = self._note if trace else None

    # Building.

    def add(self, parts: Sequence[Part], at: float = 0.0) -> VirtualNode:
        """A new node that starts after `at` seconds. Start nodes at drawn offsets, never all at 0."""
        index = len(self.order)
        identity = self._identity(index)
        peer = identity.peer if identity else self.peer(index)
        node = VirtualNode(self, index, tuple(parts), peer)
        node.identity = identity
        self.nodes[peer] = node
        self.order.append(node)
        self.push(self.now + at, _start, None, node, None)
        return node

    def peer(self, index: int) -> PeerId:
        """The id of the node of that index, there already or not."""
        identity = self._identity(index)
        # The identity multihash of an Ed25519 key, whose bytes are drawn when no key is needed.
        return identity.peer if identity else PeerId(b"\x00\x24\x08\x01\x12\x20" + self._name(index))

    def _name(self, index: int) -> bytes:
        return hashlib.sha256(self.run_seed + b"node/%d" % index).digest()

    def _identity(self, index: int) -> Identity | None:
        return Identity.from_seed(self._name(index)) if self.keys else None

    def push(self, at: float, act: Any, ctx: Any, a: Any, b: Any) -> None:
        self.due((at, next(self.seq), act, ctx, a, b))

    def at(self, time: float, act: Callable[[], None]) -> None:
        """Do something from outside at a virtual time: publish, crash, cut."""
        self.push(time, _outside, None, act, None)

    # Running.

    def run(self, until: float = inf, events: int | None = None) -> float:
        """Move until nothing is due before `until` (or `events` have happened); returns the time.

        Machines with periodic timers never fall quiet, so give them an `until`.
        """
        act: Any = None
        ctx: Any = None
        done = 0
        self._simplify()
        witness, pop, advance = self.witness, heappop, self.timeline.advance
        limit = inf if events is None else events
        # What lives is long-lived here: collecting youngsters rarely gains a quarter of the time.
        thresholds = gc.get_threshold()
        gc.set_threshold(200_000, 20, 100)
        try:
            while bucket := advance():
                if witness is None and self.timeline.ends < until and limit == inf:
                    while bucket:  # nothing in it can be too late or too much
                        now, _, act, ctx, a, b = pop(bucket)
                        self.now = now
                        done += 1
                        act(now, ctx, a, b)
                    continue
                while bucket and bucket[0][0] <= until and done < limit:
                    now, _, act, ctx, a, b = pop(bucket)
                    self.now = now
                    done += 1
                    if witness is not None:
                        witness(now, act, ctx, a, b)
                    act(now, ctx, a, b)
                if bucket:
                    break
        except Exception as error:
            raise SimulationError(
                f"seed {self.seed}, t = {self.now:.6f} s, event {self.events + done}, {ctx!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        finally:
            gc.set_threshold(*thresholds)
            self.events += done
        if until < inf and done < limit:
            self.now = max(self.now, until)
        return self.now

    def run_for(self, seconds: float) -> float:
        """Move by so many seconds."""
        return self.run(self.now + seconds)

    def digest(self) -> str:
        """32 hex digits that name this history. LocalProtocolError unless `trace` was asked for."""
        if self._trace is None:
            raise LocalProtocolError("this world keeps no trace; make it with World(trace=True)")
        return self._trace.hexdigest()

    def _note(self, now: float, act: Any, ctx: Any, a: Any, b: Any) -> None:
        assert self._trace is not None
        self._trace.update(_line(now, act, ctx, a, b))

    # Faults.

    def crash(self, node: VirtualNode, *, silent: float | None = None) -> None:
        """End a node without warning. What it had not made durable is lost.

        Peers see their connections reset after one delay; with `silent`, only after so many
        seconds (a pulled cable, noticed by keepalive); with `silent=inf`, only those who send there.
        """
        for ctx in node.contexts:
            ctx.alive = False
        node.contexts = ()
        node.pending.clear()
        node.dialling = {}
        for end in tuple(node.links.values()):
            after = end.delay if silent is None else silent
            if after < inf:
                self.push(self.now + after, _lost, None, end.other, (node.peer, end.link))
            end.link.close()
        node.links = {}
        if silent == inf:
            self._mourned[node] = None

    def restart(self, node: VirtualNode, at: float = 0.0) -> None:
        """Begin a crashed node's next life after `at` seconds, with what its disk holds."""
        if node.alive:
            raise LocalProtocolError(f"node {node.index} is alive; crash it first")
        self.push(self.now + at, _start, None, node, None)

    def stop(self, node: VirtualNode) -> None:
        """End a node in order: `on_stop` is called and what it sends is still carried."""
        for ctx in node.contexts:
            ctx.now = self.now
            ctx.machine.on_stop(ctx)
        node.settle(self.now)
        self.crash(node)

    def cut(self, a: VirtualNode, b: VirtualNode, *, one_way: bool = False) -> None:
        """Lose everything from a to b (and back, unless one_way) until `mend`. Links stay open."""
        self.is_plain = False
        self._cuts[a.index, b.index] = None
        if not one_way:
            self._cuts[b.index, a.index] = None

    def mend(self, a: VirtualNode | None = None, b: VirtualNode | None = None) -> None:
        """Undo `cut` between two nodes, both ways; with no arguments, everywhere."""
        if a is None or b is None:
            self._cuts = {}
        else:
            self._cuts.pop((a.index, b.index), None)
            self._cuts.pop((b.index, a.index), None)
        self._simplify()

    def divide(self, sides: Sequence[int], *, one_way: bool = False) -> Division:
        """Let nodes of different sides not reach each other until `reunite`. Links stay open.

        sides: a number per node, by index. one_way: only what goes to a lower number is lost.
        """
        division = Division(sides, one_way)
        self._divisions.append(division)
        self.is_plain = False
        return division

    def reunite(self, division: Division) -> None:
        """Undo a `divide`."""
        self._divisions.remove(division)
        self._simplify()

    def _simplify(self) -> None:
        self.is_plain = not (self._cuts or self._divisions or self.keys or self.cost)

    def reset(self, a: VirtualNode, b: VirtualNode) -> None:
        """Break the connection between two nodes; both notice after one delay."""
        end = a.links.pop(b.peer, None)
        if end is None:
            return
        self.push(self.now + self.delay(b.index, a.index), _lost, None, a, (b.peer, end.link))
        back = b.links.get(a.peer)
        if back is not None and back.link is end.link:  # else b crashed silently: it is another life
            del b.links[a.peer]
            self.push(self.now + end.delay, _lost, None, b, (a.peer, end.link))
        end.link.close()

    def clog(self, a: VirtualNode, b: VirtualNode) -> None:
        """Let a's messages to b wait in its queue, as when b does not read, until `unclog`."""
        end = a.links.get(b.peer)
        if end is not None:
            if end.link.clogged is None:
                end.link.clogged = {}
            end.link.clogged.setdefault(a, deque())

    def unclog(self, a: VirtualNode, b: VirtualNode) -> None:
        """Let what waited flow, in order."""
        end = a.links.get(b.peer)
        if end is not None and end.link.clogged:
            for ctx, msg in end.link.clogged.pop(a, ()):
                if ctx.alive:
                    ctx.now = self.now
                    ctx.send(b.peer, msg)

    def reaches(self, a: VirtualNode, b: VirtualNode) -> bool:
        """Whether something sent from a would arrive at b now."""
        if self._cuts and (a.index, b.index) in self._cuts:
            return False
        return not self._divisions or all(one.reaches(a.index, b.index) for one in self._divisions)

    # Connections.

    def setup(self, a: VirtualNode, b: VirtualNode) -> float:
        """Seconds until a new connection from a to b carries its first message."""
        return self.setup_trips * (self.delay(a.index, b.index) + self.delay(b.index, a.index))

    def connect(self, ctx: VirtualContext, peer: PeerId) -> None:
        node = ctx.node
        end = node.links.get(peer)
        if end is not None:
            self.hold(ctx, end, announce=True)
            return
        waiting = node.dialling.get(peer)
        if waiting is not None:
            waiting[ctx] = None
            return
        node.dialling[peer] = {ctx: None}
        target = self.nodes.get(peer)
        if target is None or target is node:
            self.push(self.now, _dialled, ctx, peer, "unreachable")
        elif not (self.reaches(node, target) and self.reaches(target, node)):
            self.push(self.now + self.dial_timeout, _dialled, ctx, peer, "timeout")
        else:
            self.push(self.now + self.setup(node, target), _dialled, ctx, peer, "")

    def open(self, a: VirtualNode, b: VirtualNode) -> Link:
        """A connection between two live nodes, announced to the machines that can use it."""
        link = Link(a, b)
        a.links[b.peer], b.links[a.peer] = link.ends
        for node, other in ((a, b), (b, a)):
            uses = self.match(node, other)[1]
            for ctx in node.contexts:
                if uses[ctx.index]:
                    self.push(self.now, _up, ctx, other.peer, link)
        return link

    def shape(self, parts: tuple[Part, ...]) -> int:
        """A small number that is equal for nodes of the same parts."""
        key = tuple(map(id, parts))
        number = self._shapes.setdefault(key, len(self._shapes))
        if number == len(self._parts):
            self._parts.append(parts)  # also keeps them alive, so that their ids stay theirs
            self.listeners.append({})
        return number

    def match(self, a: VirtualNode, b: VirtualNode) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """For each slot of a: b's slot that speaks its protocol or -1, and whether b is of any use."""
        found = self._matches.get((a.shape, b.shape))
        if found is None:
            wires = [part.spec.protocols + part.spec.rpc for part in a.parts]
            speaks: dict[str, int] = {}
            for index, part in enumerate(b.parts):
                for wire in part.spec.protocols + part.spec.rpc:
                    speaks.setdefault(wire, index)
            slots = tuple(next((speaks[wire] for wire in mine if wire in speaks), -1) for mine in wires)
            found = (slots, tuple(not mine or slot >= 0 for mine, slot in zip(wires, slots, strict=True)))
            self._matches[a.shape, b.shape] = found
        return found

    def counterparts(self, a: VirtualNode, b: VirtualNode) -> tuple[VirtualContext | None, ...]:
        """b's live context for each slot of a."""
        contexts = b.contexts
        slots = self.match(a, b)[0]
        if slots == _IN_ORDER[: len(slots)] and len(slots) == len(contexts):
            return contexts  # of the same parts: one tuple serves all links
        return tuple(contexts[slot] if slot >= 0 and contexts else None for slot in slots)

    def carry(self, source: VirtualContext, end: End, ctx: VirtualContext, msg: Any) -> None:
        """Send over a link through the world's carrier."""
        after = self.arrival(source, end.other, end.delay, msg)
        if after is not None:
            self.push(after, _arrive, ctx, source.me, msg)

    def arrival(self, source: VirtualContext, to: VirtualNode, delay: float, msg: Any) -> float | None:
        """When a message that is sent now arrives; None, and counted, if it never does."""
        if self.carrier is None:
            return self.now + delay
        after = self.carrier(source, to, delay, msg)
        if after is None:
            self.undeliverable += 1
        return after

    def visit(self, source: VirtualContext, peer: PeerId, msg: Any) -> None:
        """Send without a link: a temporary connection is set up first. It is not announced."""
        target = self.nodes.get(peer)
        if target is None:
            self.undeliverable += 1
            return
        delay = self.setup(source.node, target) + self.delay(source.node.index, target.index)
        after = self.arrival(source, target, delay, msg)
        if after is not None:
            self.push(after, _visited, source, target, msg)

    def hold(self, ctx: VirtualContext, end: End, announce: bool) -> None:
        """Answer a `connect` over an open link."""
        if not self.match(ctx.node, end.other)[1][ctx.index]:
            self.push(self.now, _refused, ctx, end.other.peer, None)
            return
        if not end.link.is_open:
            self.miss(ctx.node, end.other)
        if ctx not in end.link.held:
            end.link.held.append(ctx)
        if announce:
            self.push(self.now, _up, ctx, end.other.peer, end.link)

    def wait(self, ctx: VirtualContext, end: End, msg: Any) -> None:
        """Queue a message on a clogged link, within the spec's bound."""
        assert end.link.clogged is not None
        queue = end.link.clogged[ctx.node]
        if sum(1 for other, _ in queue if other is ctx) < ctx.slot.spec.queue:
            queue.append((ctx, msg))
            return
        self.overflowed += 1
        if ctx.slot.spec.overflow == "disconnect":
            self.reset(ctx.node, end.other)

    def holds(self, ctx: VirtualContext, msg: Any) -> bool:
        """Whether a message may reach a machine: its proofs hold, or nobody computes them here."""
        return self.forged(ctx, msg) == ()

    def forged(self, ctx: VirtualContext, msg: Any) -> tuple[int, ...] | None:
        """Which proofs of a message do not hold; None if they cannot even be read."""
        if not self.keys:
            return ()
        try:
            return tuple(
                index
                for index, proof in enumerate(host.proofs(ctx.slot.part, msg))
                if (key := PublicKey.of(proof.signer, proof.key)) is None
                or not key.verify(proof.data, proof.signature)
            )
        except RemoteProtocolError:
            return None

    def miss(self, node: VirtualNode, dead: VirtualNode) -> None:
        """A node used a link to one whose end nobody told it of: now it learns."""
        end = node.links.get(dead.peer)
        if dead in self._mourned and end is not None and not end.link.is_open:
            self.push(self.now + end.delay, _lost, None, node, (dead.peer, end.link))

    def occupy(self, node: VirtualNode, seconds: float) -> float:
        """Work that a node's processor does when it is free; returns when it is done."""
        done = self._busy[node] = max(self.now, self._busy.get(node, 0.0)) + seconds
        return done

    def next_token(self) -> Token:
        return Token(next(self._tokens))


def _verification(seconds: float) -> Cost:
    """So many seconds per proof."""
    return lambda ctx, msg: seconds * sum(1 for _ in host.proofs(ctx.slot.part, msg))


# Acts: what the heap's entries do. Each gets (now, ctx, a, b).


def _outside(now: float, ctx: None, act: Callable[[], None], _: None) -> None:
    act()


def _start(now: float, _ctx: None, node: VirtualNode, _: None) -> None:
    if node.alive:
        return
    node.wake()
    for ctx in node.contexts:
        ctx.now = now
        ctx.machine.on_start(ctx)
        node.settle(now)


def _arrive(now: float, ctx: VirtualContext, peer: PeerId, msg: Any) -> None:
    """A message is at its target's door."""
    world = ctx.world
    if not ctx.alive:
        world.undeliverable += 1
        if world._mourned:
            world.miss(world.nodes[peer], ctx.node)
        return
    if world.is_plain or _passes(now, world, ctx, peer, msg):
        ctx.now = now
        handler = ctx.handlers.get(type(msg))
        if handler is not None:
            handler(ctx.machine, ctx, peer, msg)
        else:
            ctx.machine.on_message(ctx, peer, msg)
        node = ctx.node
        if node.pending:
            node.settle(now)


def _passes(now: float, world: World, ctx: VirtualContext, peer: PeerId, msg: Any) -> bool:
    """Whether a message may be handed over now: no cut, its proofs hold, the processor is free."""
    source = world.nodes[peer]
    if not world.reaches(source, ctx.node):
        world.undeliverable += 1
        return False
    bad = world.forged(ctx, msg)
    if bad != ():
        world.refused += 1
        if bad is None or ctx.slot.spec.forged == "disconnect":
            world.reset(ctx.node, source)
        else:
            ctx.now = now
            ctx.machine.on_forged(ctx, peer, msg, bad)
            ctx.node.settle(now)
        return False
    if world.cost is not None:
        done = world.occupy(ctx.node, world.cost(ctx, msg))
        if done > now:
            world.push(done, _deliver, ctx, peer, msg)
            return False
    return True


def _deliver(now: float, ctx: VirtualContext, peer: PeerId, msg: Any) -> None:
    """A message that had to wait for its receiver's processor."""
    if not ctx.alive:
        ctx.world.undeliverable += 1
    else:
        ctx.now = now
        ctx.machine.on_message(ctx, peer, msg)
        ctx.node.settle(now)


def _visited(now: float, source: VirtualContext, target: VirtualNode, msg: Any) -> None:
    """A message that came over a temporary connection, if it could be opened."""
    world = source.world
    ctx = world.counterparts(source.node, target)[source.index]
    if ctx is None or (not world.is_plain and not world.reaches(target, source.node)):
        world.undeliverable += 1
    else:
        _arrive(now, ctx, source.me, msg)


def _fire(now: float, ctx: VirtualContext, key: Hashable, seq: int) -> None:
    if ctx.alive and ctx._timers.get(key) == seq:
        del ctx._timers[key]
        ctx.now = now
        ctx.machine.on_timer(ctx, key)
        node = ctx.node
        if node.pending:
            node.settle(now)


def _durable(now: float, ctx: VirtualContext, _a: None, _b: None) -> None:
    """The oldest record is durable: whatever waited for it, up to the next record, takes place."""
    held = ctx._held
    if not ctx.alive or held is None:
        return
    _, key, value = held.popleft()
    ctx.node.write(ctx.slot.name, key, value)
    ctx._held = None
    ctx.now = now
    while held and held[0][0] is not None:
        effect = held.popleft()
        effect[0](ctx, *effect[1:])
    if held:
        ctx._held = held
    ctx.node.settle(now)


def _ask(now: float, asker: VirtualContext, exchange: _Exchange, what: tuple[VirtualNode, Any]) -> None:
    target, msg = what
    world = asker.world
    if not world.is_plain and not world.reaches(asker.node, target):
        return  # the asker's deadline answers
    back = now + world.delay(target.index, asker.node.index)
    if not target.alive:
        world.push(back, _fail, asker, exchange, "unreachable")
        return
    server = world.counterparts(asker.node, target)[asker.index]
    if server is None:
        world.push(back, _fail, asker, exchange, "refused")
        return
    if server._waiting is None:
        server._waiting = {}
    waiting = sum(1 for other in server._waiting.values() if other.asker.node is asker.node)
    if waiting >= server.slot.spec.requests or not world.holds(server, msg):
        world.refused += 1
        world.push(back, _fail, asker, exchange, "refused")
        return
    exchange.server = server
    exchange.token = world.next_token()
    server._waiting[exchange.token] = exchange
    server.now = now
    server.machine.on_request(server, asker.me, msg, exchange.token)
    target.settle(now)


def _answer(
    now: float, asker: VirtualContext, exchange: _Exchange, what: tuple[VirtualContext, Any]
) -> None:
    server, msg = what
    world = asker.world
    if not asker.alive or not asker._open or asker._open.get(exchange.key) is not exchange:
        return
    if not world.is_plain and not world.reaches(server.node, asker.node):
        return
    del asker._open[exchange.key]
    asker.now = now
    if world.holds(asker, msg):
        asker.machine.on_reply(asker, exchange.key, exchange.peer, msg)
    else:
        world.refused += 1
        asker.machine.on_failure(asker, exchange.key, exchange.peer, "invalid")
    asker.node.settle(now)


def _fail(now: float, asker: VirtualContext, exchange: _Exchange, reason: str) -> None:
    if exchange.server is not None and exchange.server._waiting:
        exchange.server._waiting.pop(exchange.token, None)
    if asker.alive and asker._open and asker._open.get(exchange.key) is exchange:
        del asker._open[exchange.key]
        asker.now = now
        asker.machine.on_failure(asker, exchange.key, exchange.peer, reason)
        asker.node.settle(now)


def _dialled(now: float, ctx: VirtualContext, peer: PeerId, failure: str) -> None:
    node = ctx.node
    world = node.world
    if not ctx.alive:
        return
    waiting = node.dialling.pop(peer, {})
    target = world.nodes.get(peer)
    if not failure and (target is None or not target.alive):
        failure = "unreachable"
    end = node.links.get(peer)  # the other side may have dialled us meanwhile
    if end is None and (failure or target is None):
        for one in waiting:
            one.now = now
            one.machine.on_failure(one, CONNECT, peer, failure)
        node.settle(now)
        return
    is_new = end is None
    if end is None:
        assert target is not None
        world.open(node, target)
        end = node.links[peer]
    for one in waiting:
        world.hold(one, end, announce=not is_new)


def _refused(now: float, ctx: VirtualContext, peer: PeerId, _: None) -> None:
    """The peer is up but does not speak this machine's protocol."""
    if ctx.alive:
        ctx.now = now
        ctx.machine.on_failure(ctx, CONNECT, peer, "refused")
        ctx.node.settle(now)


def _up(now: float, ctx: VirtualContext, peer: PeerId, link: Link) -> None:
    if ctx.alive and link.is_open:
        ctx.now = now
        ctx.machine.on_peer_up(ctx, peer)
        node = ctx.node
        if node.pending:
            node.settle(now)


def _lost(now: float, _ctx: None, node: VirtualNode, what: tuple[PeerId, Link]) -> None:
    """A node notices that a connection is gone."""
    peer, link = what
    current = node.links.get(peer)
    if current is not None:
        if current.link is not link:
            return  # already replaced by a newer connection
        del node.links[peer]
    uses = node.world.match(node, node.world.nodes[peer])[1]
    for ctx in node.contexts:
        if uses[ctx.index]:
            ctx.now = now
            ctx.machine.on_peer_down(ctx, peer)
    if node.pending:
        node.settle(now)


def _idle(now: float, ctx: VirtualContext, link: Link, _: None) -> None:
    """A connection that nobody held is closed if still nobody holds it."""
    if link.is_open and not link.held:
        ctx.world.reset(link.ends[1].other, link.ends[0].other)


def _line(now: float, act: Any, ctx: Any, a: Any, b: Any) -> bytes:
    """One event as bytes that do not depend on addresses or hash seeds."""
    return f"{now!r} {act.__name__} {_name(ctx)} {_name(a)} {_name(b)}\n".encode()


def _name(thing: Any) -> str:
    if isinstance(thing, msgspec.Struct):
        return (
            repr(msgspec.msgpack.encode(thing)) if type(thing).__struct_fields__ else type(thing).__name__
        )
    if isinstance(thing, VirtualContext | VirtualNode | str | bytes | int | float) or thing is None:
        return repr(thing)
    if isinstance(thing, tuple):
        return "(" + ",".join(_name(item) for item in thing) + ")"
    return type(thing).__name__


_IN_ORDER = tuple(range(64))

_NO_HANDLERS: dict[type, Callable[..., None]] = {}

_SKEWED: dict[type[VirtualContext], type[VirtualContext]] = {}
