"""The deterministic driver: nodes in virtual time over a heap of tuples.

    (time, seq, act, ctx, a, b)       act(time, ctx, a, b) moves one machine

One `World` holds any number of nodes, assembled from the same parts as real ones. Ties break by
`seq`, so a seed gives one history whatever the hash seed. The world models what a machine can
observe: delay, order on a link, connections that open, fall idle and break, questions and answers,
durable records and their barrier, crashes that lose what was not durable, links that are cut or
clogged. It models no CPU, no bandwidth and no loss under a reliable stream; the lab adds those.

Invariants:
1. Nothing here reads a clock, global randomness or an unordered collection.
2. A message never overtakes an earlier one of the same machine on the same link.
3. A context belongs to one life of a node: after a crash its pending acts find it dead.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random
from typing import Any

import msgspec

from grove_core import host
from grove_core.errors import GroveError, LocalProtocolError, RemoteProtocolError
from grove_core.identity import Identity, PublicKey
from grove_core.machine import CONNECT, Event, Machine, PeerId, Token
from grove_core.node import Assembly, Slot, rng_for
from grove_core.roles import HANDLES
from grove_core.specs import Part

Delay = Callable[[int, int], float]
"""One-way delay in seconds between two nodes, by index. Pure; need not be symmetric."""

Sink = Callable[["VirtualNode", Event], None]
"""Told of every event a machine emits, after the node's other machines."""


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
    """An open connection between two nodes. `held` are the contexts that want it."""

    __slots__ = ("a", "b", "clogged", "held", "is_open")

    def __init__(self, a: VirtualNode, b: VirtualNode) -> None:
        self.a = a
        self.b = b
        self.held: dict[VirtualContext, None] = {}
        self.is_open = True
        self.clogged: dict[VirtualNode, deque[tuple[VirtualContext, Any]]] = {}


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
        "machine",
        "me",
        "node",
        "now",
        "slot",
        "speaks",
        "world",
    )

    def __init__(self, world: World, node: VirtualNode, slot: Slot) -> None:
        self.world = world
        self.node = node
        self.slot = slot
        self.machine = slot.machine
        self.me = node.peer
        self.now = world.now
        self.alive = True
        self.speaks = slot.spec.protocols + slot.spec.rpc
        self._rng: Random | None = None
        self._records: dict[str, bytes] = dict(node.disk.get(slot.name, ()))
        self._timers: dict[Hashable, int] = {}
        self._open: dict[Hashable, _Exchange] = {}
        self._waiting: dict[Token, _Exchange] = {}
        self._held: deque[tuple[Any, ...]] | None = None

    def __repr__(self) -> str:
        return f"<{self.slot.name} on node {self.node.index}>"

    @property
    def rng(self) -> Random:
        if self._rng is None:  # a Random weighs 2.9 KB: made on first use
            self._rng = rng_for(self.world.run_seed, self.me, self.slot.name)
        return self._rng

    def record(self, peer: PeerId) -> bytes:
        return b""

    # What leaves the machine: waits behind `save`.

    def send(self, peer: PeerId, msg: Any) -> None:
        if self._held is not None:
            self._held.append((VirtualContext.send, peer, msg))
            return
        world = self.world
        target = world.nodes.get(peer)
        if target is None:
            world.undeliverable += 1
            return
        link = self.node.links.get(peer)
        if link is None:
            # A temporary connection: set-up first, then the message; it is not announced.
            after = self.now + world.setup(self.node, target) + world.delay(self.node.index, target.index)
        elif link.clogged and self.node in link.clogged:
            world.wait(self, link, msg)
            return
        else:
            after = self.now + world.delay(self.node.index, target.index)
        heappush(world.heap, (after, next(world.seq), _arrive, self, target, msg))

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        if self._held is not None:
            self._held.append((VirtualContext.request, peer, msg, key, timeout))
            return
        exchange = _Exchange(self, peer, key)
        self._open[key] = exchange
        world = self.world
        target = world.nodes.get(peer)
        if target is None:
            world.push(self.now, _fail, self, exchange, "unreachable")
            return
        setup = 0.0 if peer in self.node.links else world.setup(self.node, target)
        after = self.now + setup + world.delay(self.node.index, target.index)
        world.push(after, _ask, self, exchange, (target, msg))
        world.push(self.now + timeout, _fail, self, exchange, "timeout")

    def reply(self, token: Token, msg: Any) -> None:
        if self._held is not None:
            self._held.append((VirtualContext.reply, token, msg))
            return
        exchange = self._waiting.pop(token, None)
        if exchange is not None:
            asker = exchange.asker
            after = self.now + self.world.delay(self.node.index, asker.node.index)
            self.world.push(after, _answer, asker, exchange, (self, msg))

    def connect(self, peer: PeerId) -> None:
        if self._held is not None:
            self._held.append((VirtualContext.connect, peer))
            return
        self.world.connect(self, peer)

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        if self._held is not None:
            self._held.append((VirtualContext.disconnect, peer, reason))
            return
        link = self.node.links.get(peer)
        if link is not None and link.held.pop(self, self) is None and not link.held:
            self.world.push(self.now + self.world.idle, _idle, self, link, None)

    def emit(self, event: Event) -> None:
        if self._held is not None:
            self._held.append((VirtualContext.emit, event))
            return
        self.node.pending.append((self, event))

    # What stays inside the node.

    def save(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._records.pop(key, None)
        else:
            self._records[key] = value
        world = self.world
        if world.disk == 0.0 and self._held is None:
            self.node.write(self.slot.name, key, value)
            return
        if self._held is None:
            self._held = deque()
        self._held.append((None, key, value))
        world.push(self.now + world.disk, _durable, self, None, None)

    def load(self, key: str) -> bytes | None:
        return self._records.get(key)

    def saved(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted(key for key in self._records if key.startswith(prefix)))

    def sign(self, data: bytes) -> bytes:
        if not data.startswith(self.slot.part.domains or (b"\0no domain\0",)):
            raise LocalProtocolError(
                f"{self.slot.name} signs outside its domains {self.slot.part.domains}: {data[:32]!r}"
            )
        identity = self.node.identity
        if identity is None:  # charged, not computed
            return hashlib.blake2b(data, digest_size=64, key=hashlib.sha256(self.me).digest()).digest()
        return identity.sign(data)

    def set_timer(self, key: Hashable, delay: float) -> None:
        seq = next(self.world.seq)
        self._timers[key] = seq
        heappush(self.world.heap, (self.now + delay, seq, _fire, self, key, seq))

    def cancel_timer(self, key: Hashable) -> None:
        self._timers.pop(key, None)


class VirtualNode:
    """One node of a world, over all its lives. `broadcast`, `membership` … are its role handles."""

    __slots__ = ("_handles", "contexts", "dialling", "disk", "identity", "index", "links", "listeners",
                 "parts", "peer", "pending", "speaks", "starts", "world")  # fmt: skip

    def __init__(self, world: World, index: int, parts: tuple[Part, ...], peer: PeerId) -> None:
        self.world = world
        self.index = index
        self.parts = parts
        self.peer = peer
        self.identity: Identity | None = None
        self.disk: dict[str, dict[str, bytes]] = {}
        self.links: dict[PeerId, Link] = {}
        self.dialling: dict[PeerId, dict[VirtualContext, None]] = {}
        self.pending: deque[tuple[VirtualContext, Event]] = deque()
        self.contexts: tuple[VirtualContext, ...] = ()
        self.speaks: dict[str, VirtualContext] = {}
        self.listeners: dict[type[Event], tuple[VirtualContext, ...]] = {}
        self.starts = 0
        self._handles: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<node {self.index}>"

    @property
    def alive(self) -> bool:
        return bool(self.contexts)

    def __getattr__(self, role: str) -> Any:
        if role in HANDLES:
            return self.plugin(role)
        raise AttributeError(role)

    def plugin(self, role_or_name: str) -> Any:
        """The handle of the first machine of a role, or of a plugin by name; else KeyError."""
        found = self._handles.get(role_or_name)
        if found is None:
            for ctx in self.contexts:
                if role_or_name in (ctx.slot.spec.role, ctx.slot.name):
                    break
            else:
                raise KeyError(f"node {self.index} has no {role_or_name!r} alive")
            found = HANDLES[ctx.slot.spec.role](ctx.machine, _Call(ctx))
            self._handles[role_or_name] = found
        return found

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
        self.contexts = tuple(VirtualContext(self.world, self, slot) for slot in assembly.slots)
        self.speaks = {wire: ctx for ctx in reversed(self.contexts) for wire in ctx.speaks}
        self.listeners = {}
        self._handles = {}
        self.starts += 1

    def settle(self, now: float) -> None:
        """Hand emitted events to siblings, then to the world's sinks, until none is left."""
        pending = self.pending
        while pending:
            source, event = pending.popleft()
            kind = type(event)
            heard = self.listeners.get(kind)
            if heard is None:
                heard = tuple(
                    ctx for ctx in self.contexts if kind in ctx.machine.event_handlers
                    or type(ctx.machine).on_event is not Machine.on_event
                )  # fmt: skip
                self.listeners[kind] = heard
            for ctx in heard:
                if ctx is not source:
                    ctx.now = now
                    ctx.machine.on_event(ctx, event)
            for sink in self.world.sinks:
                sink(self, event)


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
        self.verify = verify
        self.now = 0.0
        self.heap: list[tuple[float, int, Any, Any, Any, Any]] = []
        self.seq = count()
        self.nodes: dict[PeerId, VirtualNode] = {}
        self.order: list[VirtualNode] = []
        self.sinks: list[Sink] = []
        self.events = 0
        self.undeliverable = 0
        self.overflowed = 0
        self.refused = 0
        self._cuts: dict[tuple[int, int], None] = {}
        self._tokens = count(1)
        self._busy: dict[VirtualNode, float] = {}
        self._trace = hashlib.blake2b(digest_size=16) if trace else None

    # Building.

    def add(self, parts: Sequence[Part], at: float = 0.0) -> VirtualNode:
        """A new node that starts after `at` seconds. Start nodes at drawn offsets, never all at 0."""
        index = len(self.order)
        name = hashlib.sha256(self.run_seed + b"node/%d" % index).digest()
        identity = Identity.from_seed(name) if self.keys else None
        # The identity multihash of an Ed25519 key, whose bytes are drawn when no key is needed.
        peer = identity.peer if identity else PeerId(b"\x00\x24\x08\x01\x12\x20" + name)
        node = VirtualNode(self, index, tuple(parts), peer)
        node.identity = identity
        self.nodes[peer] = node
        self.order.append(node)
        self.push(self.now + at, _start, None, node, None)
        return node

    def push(self, at: float, act: Any, ctx: Any, a: Any, b: Any) -> None:
        heappush(self.heap, (at, next(self.seq), act, ctx, a, b))

    def at(self, time: float, act: Callable[[], None]) -> None:
        """Do something from outside at a virtual time: publish, crash, cut."""
        self.push(time, _outside, None, act, None)

    # Running.

    def run(self, until: float = inf, events: int | None = None) -> float:
        """Move until nothing is due before `until` (or `events` have happened); returns the time.

        Machines with periodic timers never fall quiet, so give them an `until`.
        """
        heap, trace = self.heap, self._trace
        left = -1 if events is None else events
        act: Any = None
        ctx: Any = None
        try:
            while heap and heap[0][0] <= until and left:
                left -= 1
                now, _, act, ctx, a, b = heappop(heap)
                self.now = now
                if trace is not None:
                    trace.update(_line(now, act, ctx, a, b))
                act(now, ctx, a, b)
                self.events += 1
        except Exception as error:
            raise SimulationError(
                f"seed {self.seed}, t = {self.now:.6f} s, event {self.events}, {ctx!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if until < inf and left:
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

    # Faults.

    def crash(self, node: VirtualNode, *, silent: float | None = None) -> None:
        """End a node without warning. What it had not made durable is lost.

        Peers see their connections reset after one delay; with `silent`, only after so many
        seconds (a pulled cable, noticed by keepalive).
        """
        for ctx in node.contexts:
            ctx.alive = False
        node.contexts = ()
        node.speaks = {}
        node.pending.clear()
        node.dialling = {}
        for peer, link in tuple(node.links.items()):
            after = self.delay(node.index, self.nodes[peer].index) if silent is None else silent
            link.is_open = False
            del node.links[peer]
            self.push(self.now + after, _lost, None, self.nodes[peer], (node.peer, link))

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

    def reset(self, a: VirtualNode, b: VirtualNode) -> None:
        """Break the connection between two nodes; both notice after one delay."""
        link = a.links.pop(b.peer, None)
        if link is not None:
            del b.links[a.peer]
            link.is_open = False
            self.push(self.now + self.delay(b.index, a.index), _lost, None, a, (b.peer, link))
            self.push(self.now + self.delay(a.index, b.index), _lost, None, b, (a.peer, link))

    def clog(self, a: VirtualNode, b: VirtualNode) -> None:
        """Let a's messages to b wait in its queue, as when b does not read, until `unclog`."""
        link = a.links.get(b.peer)
        if link is not None:
            link.clogged.setdefault(a, deque())

    def unclog(self, a: VirtualNode, b: VirtualNode) -> None:
        """Let what waited flow, in order."""
        link = a.links.get(b.peer)
        if link is not None:
            for ctx, msg in link.clogged.pop(a, ()):
                if ctx.alive:
                    self.push(self.now + self.delay(a.index, b.index), _arrive, ctx, b, msg)

    def reaches(self, a: VirtualNode, b: VirtualNode) -> bool:
        """Whether something sent from a would arrive at b now."""
        return not self._cuts or (a.index, b.index) not in self._cuts

    # Connections.

    def setup(self, a: VirtualNode, b: VirtualNode) -> float:
        """Seconds until a new connection from a to b carries its first message."""
        return self.setup_trips * (self.delay(a.index, b.index) + self.delay(b.index, a.index))

    def connect(self, ctx: VirtualContext, peer: PeerId) -> None:
        node = ctx.node
        link = node.links.get(peer)
        if link is not None:
            self.hold(ctx, self.nodes[peer], link, announce=True)
            return
        waiting = node.dialling.get(peer)
        if waiting is not None:
            waiting[ctx] = None
            return
        node.dialling[peer] = {ctx: None}
        target = self.nodes.get(peer)
        if target is None or target is node:
            self.push(ctx.now, _dialled, ctx, peer, "unreachable")
        elif not (self.reaches(node, target) and self.reaches(target, node)):
            self.push(ctx.now + self.dial_timeout, _dialled, ctx, peer, "timeout")
        else:
            self.push(ctx.now + self.setup(node, target), _dialled, ctx, peer, "")

    def open(self, a: VirtualNode, b: VirtualNode) -> Link:
        """A connection between two live nodes, announced to the machines that can use it."""
        link = Link(a, b)
        a.links[b.peer] = link
        b.links[a.peer] = link
        for node, other in ((a, b), (b, a)):
            for ctx in node.contexts:
                if not ctx.speaks or _shares(ctx, other):
                    self.push(self.now, _up, ctx, other.peer, link)
        return link

    def hold(self, ctx: VirtualContext, target: VirtualNode, link: Link, announce: bool) -> None:
        """Answer a `connect` over an open link."""
        if ctx.speaks and not _shares(ctx, target):
            self.push(self.now, _refused, ctx, target.peer, None)
            return
        link.held[ctx] = None
        if announce:
            self.push(self.now, _up, ctx, target.peer, link)

    def wait(self, ctx: VirtualContext, link: Link, msg: Any) -> None:
        """Queue a message on a clogged link, within the spec's bound."""
        queue = link.clogged[ctx.node]
        if sum(1 for other, _ in queue if other is ctx) < ctx.slot.spec.queue:
            queue.append((ctx, msg))
            return
        self.overflowed += 1
        if ctx.slot.spec.overflow == "disconnect":
            self.reset(ctx.node, link.b if link.a is ctx.node else link.a)

    def holds(self, ctx: VirtualContext, msg: Any) -> bool:
        """Whether a message may reach a machine: its proofs hold, or nobody computes them here."""
        if not self.keys:
            return True
        try:
            return all(
                (key := PublicKey.of(proof.signer)) is not None
                and key.verify(proof.data, proof.signature)
                for proof in host.proofs(ctx.slot.part, msg)
            )
        except RemoteProtocolError:
            return False

    def charge(self, ctx: VirtualContext, msg: Any, now: float) -> float:
        """When the receiver's processor is done with a message's proofs."""
        proofs = sum(1 for _ in host.proofs(ctx.slot.part, msg))
        if not proofs:
            return now
        done = max(now, self._busy.get(ctx.node, 0.0)) + proofs * self.verify
        self._busy[ctx.node] = done
        return done

    def next_token(self) -> Token:
        return Token(next(self._tokens))


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


def _arrive(now: float, source: VirtualContext, target: VirtualNode, msg: Any) -> None:
    """A message is at its target's door."""
    world = source.world
    ctx = _counterpart(source, target)
    if ctx is None or (world._cuts and not world.reaches(source.node, target)):
        world.undeliverable += 1
        return
    if world.keys or world.verify:
        if not world.holds(ctx, msg):
            world.refused += 1
            world.reset(target, source.node)
            return
        if world.verify:
            done = world.charge(ctx, msg, now)
            if done > now:
                world.push(done, _deliver, ctx, source.me, msg)
                return
    ctx.now = now
    ctx.machine.on_message(ctx, source.me, msg)
    node = ctx.node
    if node.pending:
        node.settle(now)


def _deliver(now: float, ctx: VirtualContext, peer: PeerId, msg: Any) -> None:
    """A message whose proofs took time to check."""
    if ctx.alive:
        ctx.now = now
        ctx.machine.on_message(ctx, peer, msg)
        ctx.node.settle(now)


def _counterpart(source: VirtualContext, target: VirtualNode) -> VirtualContext | None:
    for wire in source.speaks:
        ctx = target.speaks.get(wire)
        if ctx is not None:
            return ctx
    return None


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
    if world._cuts and not world.reaches(asker.node, target):
        return  # the asker's deadline answers
    back = now + world.delay(target.index, asker.node.index)
    if not target.alive:
        world.push(back, _fail, asker, exchange, "unreachable")
        return
    server = _counterpart(asker, target)
    if server is None:
        world.push(back, _fail, asker, exchange, "refused")
        return
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
    if not asker.alive or asker._open.get(exchange.key) is not exchange:
        return
    if world._cuts and not world.reaches(server.node, asker.node):
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
    if exchange.server is not None:
        exchange.server._waiting.pop(exchange.token, None)
    if asker.alive and asker._open.get(exchange.key) is exchange:
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
    link = node.links.get(peer)  # the other side may have dialled us meanwhile
    if link is None and (failure or target is None):
        for one in waiting:
            one.now = now
            one.machine.on_failure(one, CONNECT, peer, failure)
        node.settle(now)
        return
    is_new = link is None
    assert target is not None
    if link is None:
        link = world.open(node, target)
    for one in waiting:
        world.hold(one, target, link, announce=not is_new)


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
    if current is link:
        del node.links[peer]
    elif current is not None:
        return  # already replaced by a newer connection
    for ctx in node.contexts:
        if ctx.alive and (not ctx.speaks or _shares(ctx, node.world.nodes[peer])):
            ctx.now = now
            ctx.machine.on_peer_down(ctx, peer)
    if node.pending:
        node.settle(now)


def _shares(ctx: VirtualContext, other: VirtualNode) -> bool:
    return any(wire in part.spec.protocols + part.spec.rpc for wire in ctx.speaks for part in other.parts)


def _idle(now: float, _ctx: VirtualContext, link: Link, _: None) -> None:
    """A connection that nobody held is closed if still nobody holds it."""
    if link.is_open and not link.held:
        link.a.world.reset(link.a, link.b)


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


def parts_of(specs: Iterable[tuple[Any, Any]]) -> tuple[Part, ...]:
    """Parts from (spec, config) pairs; a None config means the defaults."""
    return tuple(Part(spec, spec.config() if config is None else config) for spec, config in specs)
