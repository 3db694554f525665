"""Nodes, links and time."""

from __future__ import annotations

import gc
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from math import inf
from operator import length_hint
from typing import Any

from grove_core import host
from grove_core.drive.timeline import Timeline
from grove_core.drive.virtual import acts, pages
from grove_core.drive.virtual.clock import skewed
from grove_core.drive.virtual.context import Handlers, VirtualContext
from grove_core.drive.virtual.delays import Delay, constant
from grove_core.drive.virtual.history import line
from grove_core.drive.virtual.link import End, Link
from grove_core.drive.virtual.node import VirtualNode
from grove_core.errors import GroveError, LocalProtocolError, RemoteProtocolError
from grove_core.identity import Identity, PublicKey
from grove_core.machine import Event, PeerId, Token
from grove_core.specs import Part

Carrier = Callable[[VirtualContext, VirtualNode, float, Any], float | None]
"""Bandwidth and loss, for those who model them: (sender, to, delay, message) -> the time of arrival,
not before those of the sender's earlier messages there; None if it never arrives."""

Cost = Callable[[VirtualContext, Any], float]
"""What a message costs its receiver's processor, in seconds; a node works off one after the other."""

Sink = Callable[[VirtualNode, Event], None]
"""Told of every event a machine emits, after the node's other machines."""


Witness = Callable[[float, Any, Any, Any, Any], None]
"""Sees every event before it takes place: (time, act, ctx, a, b), as the acts below take them."""


MANY_NODES = 1_000
"""From here on a world is spread over so many pages that large ones pay."""
MANY_EVENTS = 1 << 20
"""Events after which there is new memory to ask large pages for."""


class SimulationError(GroveError):
    """A machine raised inside a world. Says when, where and how to see it again."""


class Division:
    """Sides that do not reach each other: see `World.divide`."""

    __slots__ = ("one_way", "sides")

    def __init__(self, sides: Sequence[int], one_way: bool) -> None:
        self.sides = sides
        self.one_way = one_way

    def reaches(self, a: int, b: int) -> bool:
        one, other = self.sides[a], self.sides[b]
        return one == other or (self.one_way and one < other)


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
        self.push = self.timeline.push
        self.timers = count()
        self.nodes: dict[PeerId, VirtualNode] = {}
        self.order: list[VirtualNode] = []
        self.sinks: list[Sink] = []
        self.pending: deque[tuple[VirtualContext, Event]] = deque()
        """Emitted by who moves now, and not handed on yet: see `settle`."""
        self.carrier: Carrier | None = None
        self.cost: Cost | None = _verification(verify) if verify else None
        self.context: type[VirtualContext] = VirtualContext
        """What machines are given; a subclass can watch what they do."""
        self._skewed: type[VirtualContext] | None = None
        self.handlers: dict[type, Handlers] = {}
        """By class of machine, one object each: every message goes through it."""
        self.listeners: list[dict[type[Event], tuple[int, ...]]] = []
        self._shapes: dict[tuple[int, ...], int] = {}
        self._parts: list[tuple[Part, ...]] = []
        self._matches: dict[tuple[int, int], tuple[tuple[int, ...], tuple[bool, ...]]] = {}
        self.events = 0
        self._next_pages = MANY_EVENTS
        self.undeliverable = 0
        self.overflowed = 0
        self.refused = 0
        self.is_plain = False
        """Nothing is cut, nothing to compute or to charge: what arrives is handed over."""
        self._cuts: dict[tuple[int, int], None] = {}
        self._divisions: list[Division] = []
        self.mourned: dict[VirtualNode, None] = {}
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
        self.push((self.now + at, acts.start, None, node, None))
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

    def at(self, time: float, act: Callable[[], None]) -> None:
        """Do something from outside at a virtual time: publish, crash, cut."""
        self.push((time, acts.outside, None, act, None))

    # Running.

    def run(self, until: float = inf, events: int | None = None) -> float:
        """Move until nothing is due before `until` (or `events` have happened); returns the time.

        Machines with periodic timers never fall quiet, so give them an `until`.
        """
        act: Any = None
        ctx: Any = None
        done = 0
        self._simplify()
        witness, advance = self.witness, self.timeline.advance
        pending, settle = self.pending, self.settle
        limit, arrive = inf if events is None else events, acts.arrive
        # What lives is long-lived here, and cycles are rare: looking for them seldom (200 new objects a
        # node) gains a quarter of the time.
        thresholds = gc.get_threshold()
        gc.set_threshold(max(200_000, 200 * len(self.order)), 20, 100)
        try:
            while bucket := advance():
                entries = iter(bucket)  # the bucket may grow behind what is done
                gone = 0
                try:
                    if witness is None and self.timeline.ends < until and limit == inf:
                        for self.now, act, ctx, a, b in entries:  # none can be too late or too much
                            if act is arrive and ctx.alive and self.is_plain:
                                # What `arrive` comes to here, spelled out: four of five events.
                                ctx.handlers[type(b)](ctx.machine, ctx, a, b)
                            else:
                                act(ctx, a, b)
                            if pending:
                                settle()
                    else:
                        while gone < len(bucket) and bucket[gone][0] <= until and done + gone < limit:
                            self.now, act, ctx, a, b = next(entries)
                            gone += 1
                            if witness is not None:
                                witness(self.now, act, ctx, a, b)
                            act(ctx, a, b)
                            if pending:
                                settle()
                finally:
                    gone = len(bucket) - length_hint(entries)
                    del bucket[:gone]
                    done += gone
                if self.events + done >= self._next_pages:
                    self._next_pages += MANY_EVENTS
                    if len(self.order) >= MANY_NODES:
                        pages.collapse()
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
        self._trace.update(line(now, act, ctx, a, b))

    def settle(self) -> None:
        """Hand what was emitted to the siblings, then to the sinks, until nothing is left."""
        pending = self.pending
        while pending:
            source, event = pending.popleft()
            if not source.alive:
                continue
            kind = type(event)
            heard = source.listeners.get(kind)
            if heard is None:
                contexts = source.node.contexts
                heard = tuple(ctx.index for ctx in contexts if ctx.slot.hears(kind))
                source.listeners[kind] = heard
            for index in heard:
                if index != source.index:
                    ctx = source.node.contexts[index]
                    ctx.machine.on_event(ctx, event)
            for sink in self.sinks:
                sink(source.node, event)

    # Faults.

    def crash(self, node: VirtualNode, *, silent: float | None = None) -> None:
        """End a node without warning. What it had not made durable is lost.

        Peers see their connections reset after one delay; with `silent`, only after so many
        seconds (a pulled cable, noticed by keepalive); with `silent=inf`, only those who send there.
        """
        for ctx in node.contexts:
            ctx.alive = False
        node.contexts = ()
        node.dialling = {}
        for end in tuple(node.links.values()):
            after = end.delay if silent is None else silent
            if after < inf:
                self.push((self.now + after, acts.lost, None, end.other, (node.peer, end.link)))
            end.link.close()
        node.links = {}
        if silent == inf:
            self.mourned[node] = None

    def restart(self, node: VirtualNode, at: float = 0.0) -> None:
        """Begin a crashed node's next life after `at` seconds, with what its disk holds."""
        if node.alive:
            raise LocalProtocolError(f"node {node.index} is alive; crash it first")
        self.push((self.now + at, acts.start, None, node, None))

    def stop(self, node: VirtualNode) -> None:
        """End a node in order: `on_stop` is called and what it sends is still carried."""
        for ctx in node.contexts:
            ctx.machine.on_stop(ctx)
        self.settle()
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
        self.push((self.now + self.delay(b.index, a.index), acts.lost, None, a, (b.peer, end.link)))
        back = b.links.get(a.peer)
        if back is not None and back.link is end.link:  # else b crashed silently: it is another life
            del b.links[a.peer]
            self.push((self.now + end.delay, acts.lost, None, b, (a.peer, end.link)))
        end.link.close()

    def clog(self, a: VirtualNode, b: VirtualNode) -> None:
        """Let a's messages to b wait in its queue, as when b does not read, until `unclog`."""
        end = a.links.get(b.peer)
        if end is not None and end.clogged is None:
            end.clogged = deque()

    def unclog(self, a: VirtualNode, b: VirtualNode) -> None:
        """Let what waited flow, in order."""
        end = a.links.get(b.peer)
        if end is not None and end.clogged is not None:
            waiting, end.clogged = end.clogged, None
            for ctx, msg in waiting:
                if ctx.alive:
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
            self.push((self.now, acts.dialled, ctx, peer, "unreachable"))
        elif not (self.reaches(node, target) and self.reaches(target, node)):
            self.push((self.now + self.dial_timeout, acts.dialled, ctx, peer, "timeout"))
        else:
            self.push((self.now + self.setup(node, target), acts.dialled, ctx, peer, ""))

    def open(self, a: VirtualNode, b: VirtualNode) -> Link:
        """A connection between two live nodes, announced to the machines that can use it."""
        link = Link(a, b)
        a.links[b.peer], b.links[a.peer] = link.ends
        for node, other in ((a, b), (b, a)):
            uses = self.match(node, other)[1]
            for ctx in node.contexts:
                if uses[ctx.index]:
                    self.push((self.now, acts.up, ctx, other.peer, link))
        return link

    def shape(self, parts: tuple[Part, ...]) -> int:
        """A small number that is equal for nodes of the same parts."""
        key = tuple(map(id, parts))
        number = self._shapes.setdefault(key, len(self._shapes))
        if number == len(self._parts):
            self._parts.append(parts)  # also keeps them alive, so that their ids stay theirs
            self.listeners.append({})
        return number

    def skewed(self) -> type[VirtualContext]:
        """What the machines of a node with a clock of its own are given."""
        if self._skewed is None or self._skewed.__base__ is not self.context:
            self._skewed = skewed(self.context)
        return self._skewed

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
            self.push((after, acts.arrive, ctx, source.me, msg))

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
            self.push((after, acts.visited, source, target, msg))

    def hold(self, ctx: VirtualContext, end: End, announce: bool) -> None:
        """Answer a `connect` over an open link."""
        if not self.match(ctx.node, end.other)[1][ctx.index]:
            self.push((self.now, acts.refused, ctx, end.other.peer, None))
            return
        if not end.link.is_open:
            self.miss(ctx.node, end.other)
        if ctx not in end.link.held:
            end.link.held.append(ctx)
        if announce:
            self.push((self.now, acts.up, ctx, end.other.peer, end.link))

    def wait(self, ctx: VirtualContext, end: End, msg: Any) -> None:
        """Queue a message on a clogged link, within the spec's bound."""
        queue = end.clogged
        assert queue is not None
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
        if dead in self.mourned and end is not None and not end.link.is_open:
            self.push((self.now + end.delay, acts.lost, None, node, (dead.peer, end.link)))

    def occupy(self, node: VirtualNode, seconds: float) -> float:
        """Work that a node's processor does when it is free; returns when it is done."""
        done = self._busy[node] = max(self.now, self._busy.get(node, 0.0)) + seconds
        return done

    def next_token(self) -> Token:
        return Token(next(self._tokens))


def _verification(seconds: float) -> Cost:
    """So many seconds per proof."""
    return lambda ctx, msg: seconds * sum(1 for _ in host.proofs(ctx.slot.part, msg))


_IN_ORDER = tuple(range(64))
