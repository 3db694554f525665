"""The world of one run, set up: nodes and their classes, links, workloads, faults, checkers, notes.

`Stage` is what everything else in the lab holds on to. It moves the world a slice at a time and
keeps the books that checkers and metrics share: who lives since when, what has happened, who is
whose neighbour.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any
from zlib import crc32

import msgspec

from grove_core.drive.virtual import (
    Clock,
    Delay,
    SimulationError,
    VirtualNode,
    constant,
    uniform,
)
from grove_core.events import Committed, Delivered
from grove_core.machine import Event, PeerId
from grove_core.specs import Part
from grove_lab import geography
from grove_lab.checkers import Delivery, Violation, checkers
from grove_lab.choice import EVERYBODY
from grove_lab.clients import Clients
from grove_lab.conduct import Conduct, attacking
from grove_lab.deliveries import Deliveries
from grove_lab.faults import Trouble
from grove_lab.metrics import FAR, Point, by_stream, pieces, quantile, recovery, shape
from grove_lab.scenario import Class, Scenario
from grove_lab.standins import settled
from grove_lab.streams import number, stream
from grove_lab.traffic import (
    Ground,
    Meter,
    MeteredContext,
    PricedContext,
    PricedMeteredContext,
    Wires,
)
from grove_lab.work import Processors
from grove_lab.workload import Publishing

SMALL = 250
"""Nodes of the largest world whose links and ways are kept for drawings."""


PRINTED = 4_000_000
"""Events of a run whose prints are kept: two bytes each."""


class Log:
    """A running digest of everything that was emitted: when, by whom, what; and a print of each event.

    A print is half of a CRC-32, so that another history can be told apart event by event: an event that
    differs has another print but once in 65,536.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._pending = bytearray()
        self._prints = array("H")

    def note(self, time: float, node: int, event: Event) -> None:
        line = f"{time!r} {node} {type(event).__name__} ".encode() + msgspec.msgpack.encode(event)
        if len(self._prints) < PRINTED:
            self._prints.append(crc32(line) & 0xFFFF)
        pending = self._pending
        pending += line
        if len(pending) > 65_536:
            self._hash.update(pending)
            pending.clear()

    def prints(self) -> bytes:
        """Two bytes per event, the low one first, of the first `PRINTED` events."""
        prints = self._prints
        if sys.byteorder == "big":
            prints = prints[:]
            prints.byteswap()
        return prints.tobytes()

    def digest(self) -> str:
        """32 hex digits for all up to now."""
        self._hash.update(self._pending)
        self._pending.clear()
        return self._hash.hexdigest()


class Stage:
    """One run under way.

    parts: class name -> what its nodes run, in order ("" where the scenario has no classes).
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        parts: Mapping[str, tuple[Part, ...]],
        *,
        trace: bool = False,
    ) -> None:
        network = scenario.network
        self.scenario = scenario
        self.seed = seed
        self.begins = scenario.begins
        self.class_names = tuple(scenario.classes) or (EVERYBODY,)
        self.kinds = self._kinds()
        """Per node, the number of its class."""
        self.attacks = bytes(scenario.class_of(self.class_names[kind]).attacker for kind in self.kinds)
        """Per node, 1 if it is an attacker."""
        self.conduct = Conduct(seed)
        self.regions = self._regions()
        """Per node, the number of its region; empty without regions."""
        self.world = Ground(
            seed=seed,
            delay=self._delay(),
            disk=network.disk,
            setup_trips=network.setup_trips,
            idle=network.idle,
            dial_timeout=network.dial_timeout,
            trace=trace,
        )
        classes = [scenario.class_of(name) for name in self.class_names]
        self.slowness = [classes[kind].cpu for kind in self.kinds]
        uplinks = [network.uplink if one.uplink is None else one.uplink for one in classes]
        self.uplinks = [uplinks[kind] for kind in self.kinds]
        self.meter: Meter | None = None
        self.wires: Wires | None = None
        self.processors: Processors | None = None
        self._wire()
        self.since = [float("inf")] * scenario.nodes
        """Per node, when its present life began; infinity while it has none."""
        self.living = 0
        """Attackers are not counted, here and in `changes`."""
        self.changes = 0
        """How often a node has begun or ended."""
        self.is_calm = True
        """Nobody has ended yet."""
        self.divided = 0
        self.happened: list[tuple[float, str]] = []
        self._last_trouble = float("-inf")
        self.series: list[Point] = []
        self.degrees: dict[int, int] = {}
        self._settled = False
        self._numbers = self._events = self._undeliverable = self._overflowed = 0
        self.topics = tuple(
            dict.fromkeys(w.topic for w in scenario.workloads.values() if w.kind == "publish")
        ) or ("lab",)
        self._people(parts)
        self.log = Log()
        self.deliveries = Deliveries(self)
        self.clients = Clients(self)
        self.checkers = checkers(self)
        self.delivery = next((one for one in self.checkers if isinstance(one, Delivery)), None)
        self._hearers: dict[type[Event], tuple[Callable[[VirtualNode, Any], None], ...]] = {}
        self._looked = self.begins
        self.world.sinks.append(self._hear)
        self.sender: PeerId | None = None
        """Of the message that is being worked on; in small worlds only."""
        self.follows = scenario.nodes <= SMALL and any(
            one.kind == "publish" for one in scenario.workloads.values()
        )
        if self.follows:
            self._follow()
        self.world.at(self.begins, self._settle)
        self.troubles = [Trouble(self, name, fault) for name, fault in scenario.faults.items()]
        self.publishing = [Publishing(self, name, one) for name, one in scenario.workloads.items()]

    # Building.

    def _kinds(self) -> bytes:
        """Classes by share: exactly, not by chance, in an order drawn from "classes"."""
        scenario = self.scenario
        names = self.class_names
        shares = [scenario.class_of(name).share for name in names]
        total = sum(shares)
        ends = [round(scenario.nodes * part / total) for part in accumulate(shares)]
        kinds = bytearray()
        for kind, end in enumerate(ends):
            if len(names) <= scenario.nodes:  # nobody's class is empty
                end = min(max(end, len(kinds) + 1), scenario.nodes - len(names) + kind + 1)
            kinds += bytes([kind]) * (end - len(kinds))
        order = list(kinds)
        if len(names) > 1:
            stream(self.seed, "classes").shuffle(order)
        return bytes(order)

    def _regions(self) -> bytes:
        if self.scenario.network.latency != "regions":
            return b""
        where = geography.STOCK[self.scenario.network.geography]
        fixed = [self.scenario.class_of(self.class_names[kind]).region for kind in self.kinds]
        return geography.drawn(where, fixed, stream(self.seed, "regions"))

    def _delay(self) -> Delay:
        network = self.scenario.network
        if network.latency == "constant":
            return constant(network.delay)
        if network.latency == "uniform":
            return uniform(network.low, network.high, number(self.seed, "latency"))
        if network.latency == "clusters":
            near, far, cluster = network.near, network.delay, network.cluster
            return lambda a, b: near if a // cluster == b // cluster else far
        seconds = geography.STOCK[network.geography].seconds()
        regions = self.regions
        return lambda a, b: seconds[regions[a]][regions[b]]

    def _wire(self) -> None:
        """What lies under the nodes: processors, lines, and who counts."""
        scenario, world = self.scenario, self.world
        network, cpu = scenario.network, scenario.cpu
        if Processors.wanted(cpu):
            self.processors = world.processors = Processors(world, cpu, self.slowness)
            if cpu.message or cpu.verify:
                world.cost = self.processors.cost
        is_priced = bool(cpu.sign or cpu.send)
        carries = is_priced or Wires.wanted(network, self.uplinks)
        is_metered = scenario.measure.traffic
        if is_metered or carries:
            self.meter = world.meter = Meter(scenario.nodes, network.overhead)
        if is_metered:
            world.context = PricedMeteredContext if is_priced else MeteredContext
        elif is_priced:
            world.context = PricedContext
        if carries:
            assert self.meter is not None
            self.wires = Wires(world, network, self.uplinks, self.meter, self.seed, self.processors)
            world.carrier = self.wires

    def _people(self, parts: Mapping[str, tuple[Part, ...]]) -> None:
        scenario, world = self.scenario, self.world
        join = scenario.join
        ids = [world.peer(index) for index in range(min(scenario.nodes, 4096))]
        chosen = [
            settled(parts[name] if name in parts else parts[EVERYBODY], ids) for name in self.class_names
        ]
        classes = [scenario.class_of(name) for name in self.class_names]
        for kind, one in enumerate(classes):
            if one.attacker:
                chosen[kind] = attacking(chosen[kind], self.conduct)
        met = [self._met(one) for one in classes]
        rng = stream(self.seed, "topology")
        for index, kind in enumerate(self.kinds):
            own = classes[kind]
            at = index * join.spacing
            if join.pattern in ("dial", "full"):
                at = rng.random() * join.start + own.late
            node = world.add(chosen[kind], at=at)
            if own.clock != 1.0:
                node.clock = Clock(own.clock)
            if own.hosts:
                node.host = f"{self.class_names[kind]}-{index % own.hosts}"
            if join.pattern == "dial":
                peers = self._others(rng, index, own.dials or join.dials, met[kind])
            elif join.pattern == "full":
                peers = [other for other in range(scenario.nodes) if other != index]
            elif join.pattern == "random":
                peers = [int(rng.random() * index)] if index else []
            else:
                peers = [0] if index else []
            if join.pattern in ("dial", "full"):  # all are there when the first dials
                world.at(at, lambda node=node: self._arrived(node))  # type: ignore[misc]
                after = join.start + own.late
                world.at(after, lambda node=node, peers=peers: self._meet(node, peers))  # type: ignore[misc]
            else:
                world.at(at, lambda node=node, peers=peers: self._enter(node, peers))  # type: ignore[misc]

    def _met(self, one: Class) -> Sequence[int]:
        """Whom nodes of a class may dial."""
        names = self.class_names
        met = [i for i, kind in enumerate(self.kinds) if not one.meets or names[kind] in one.meets]
        return met or range(self.scenario.nodes)

    def _others(self, rng: Any, index: int, count: int, among: Sequence[int]) -> list[int]:
        """So many of them at random, or all if they are not more."""
        chosen: dict[int, None] = {}
        count = min(count, len(among) - (index in among))
        while len(chosen) < count:
            other = among[int(rng.random() * len(among))]
            if other != index:
                chosen[other] = None
        return list(chosen)

    def _follow(self) -> None:
        """Know whose message it is that makes something happen."""
        before = self.world.witness

        def witness(now: float, act: Any, ctx: Any, a: Any, b: Any) -> None:
            if before is not None:
                before(now, act, ctx, a, b)
            self.sender = PeerId(a) if isinstance(a, bytes) else None

        self.world.witness = witness

    # Lives.

    def _enter(self, node: VirtualNode, peers: list[int]) -> None:
        self._arrived(node)
        self._meet(node, peers)

    def _arrived(self, node: VirtualNode) -> None:
        """A node has started: it is counted, and wants the topics."""
        self.since[node.index] = self.world.now
        if not self.attacks[node.index]:
            self.living += 1
            self.changes += 1
        if self._has(node, "broadcast"):
            for topic in self.topics:
                node.broadcast.subscribe(topic)

    def _meet(self, node: VirtualNode, peers: list[int]) -> None:
        if node.alive and self._has(node, "membership"):
            for peer in peers:
                other = self.world.order[peer]
                if not other.alive:
                    living = [one for one in self.world.order if one.alive and one is not node]
                    if not living:
                        continue
                    other = living[peer % len(living)]
                node.membership.join(other.peer)

    def end(self, node: VirtualNode, *, silent: float | None = None, in_order: bool = False) -> None:
        """A node's life ends, by fault or in order."""
        if not node.alive:
            return
        if not self.attacks[node.index]:
            self.is_calm = False
            self.changes += 1
            self.living -= 1
        self.since[node.index] = float("inf")
        if in_order:
            self.world.stop(node)
        else:
            self.world.crash(node, silent=silent)

    def begin(self, node: VirtualNode) -> None:
        """A node's next life begins, with what its disk holds, through a living contact."""
        if node.alive:
            return
        self.world.restart(node)
        rng = stream(self.seed, "return", node.index, node.starts)
        contact = int(rng.random() * len(self.world.order))

        def enter() -> None:
            if node.alive:
                for checker in self.checkers:
                    checker.began(node)
                self._enter(node, [contact if contact != node.index else (contact + 1) % len(self.since)])

        self.world.at(self.world.now, enter)

    def _has(self, node: VirtualNode, role: str) -> bool:
        return any(part.spec.role == role for part in node.parts)

    # What everybody wants to know.

    def next_number(self) -> int:
        """Tells each payload of a run from all others."""
        self._numbers += 1
        return self._numbers

    def members(self) -> list[VirtualNode]:
        """The living that play membership."""
        return [node for node in self.world.order if node.alive and self._has(node, "membership")]

    def graph(self) -> dict[int, list[int]]:
        """Who counts whom as neighbour, the living only, by index."""
        nodes = self.world.nodes
        return {
            node.index: [nodes[p].index for p in node.membership.neighbors() if nodes[p].alive]
            for node in self.members()
        }

    def attacker_links(self) -> float | None:
        """Of the links that the broadcast of honest nodes uses, the share that leads to attackers."""
        nodes, theirs, links = self.world.nodes, 0, 0
        for node in self.world.order:
            if node.alive and not self.attacks[node.index] and self._has(node, "broadcast"):
                for peers in node.broadcast.links().values():
                    links += len(peers)
                    theirs += sum(self.attacks[nodes[peer].index] for peer in peers)
        return theirs / links if links else None

    def pieces(self) -> list[list[int]]:
        return pieces(self.graph())

    def overlay(self) -> tuple[list[int], list[tuple[int, int, str]]]:
        """The living, and each link between them once, with its use if broadcast tells one."""
        nodes = self.world.nodes
        use: dict[tuple[int, int], str] = {}
        for node in self.world.order:
            if not node.alive:
                continue
            links: dict[tuple[int, int], str] = {}
            if self._has(node, "membership"):
                for peer in node.membership.neighbors():
                    links[node.index, nodes[peer].index] = ""
            if self._has(node, "broadcast"):
                for word, peers in node.broadcast.links().items():
                    links |= {(node.index, nodes[peer].index): word for peer in peers if peer in nodes}
            for (a, b), word in links.items():
                if nodes[self.world.order[b].peer].alive:
                    pair = (min(a, b), max(a, b))
                    # Lazy at one end is enough to carry no payload that way; the kinder word is kept.
                    use[pair] = min(filter(None, (use.get(pair, ""), word)), default="")
        living = [node.index for node in self.world.order if node.alive]
        return living, [(a, b, word) for (a, b), word in sorted(use.items())]

    def happen(self, fault: str, what: str) -> None:
        """A fault acts now."""
        self._last_trouble = self.world.now
        self.happened.append((self.world.now - self.begins, f"{fault}: {what}"))

    def is_disturbed(self, grace: float) -> bool:
        """Whether something goes wrong now, or did within so many seconds."""
        return self.divided > 0 or self.world.now - self._last_trouble < grace

    # Moving.

    def advance(self) -> None:
        """Move by one slice, then look."""
        world, measure = self.world, self.scenario.measure
        before = self._books()
        if world.now < self.begins:
            until = min(self.begins, world.now + max(measure.series, self.begins / 100))
        else:
            until = min(self.scenario.ends, self.begins + measure.series * (len(self.series) + 1))
        world.run(until)
        if world.now < self.begins or not self._settled:
            return
        if until > self.begins:
            after = self._books()
            published, delivered, sent, size = (b - a for a, b in zip(before, after, strict=True))
            self.series.append(
                Point(
                    at=world.now - self.begins,
                    alive=self.living,
                    published=published,
                    delivered=delivered,
                    sent=sent,
                    bytes=size,
                )
            )
        if world.now - self._looked >= self.scenario.invariants.every:
            self._looked = world.now
            for checker in self.checkers:
                checker.look()

    def _books(self) -> tuple[int, int, int, int]:
        meter = self.meter
        sent, size = (meter.sent, meter.bytes) if meter and self._settled else (0, 0)
        return self.deliveries.published, self.deliveries.delivered, sent, size

    def _settle(self) -> None:
        self._settled = True
        self._events = self.world.events
        self._undeliverable = self.world.undeliverable
        self._overflowed = self.world.overflowed
        for books in (self.meter, self.wires, self.processors):
            if books is not None:
                books.clear()

    def _hear(self, node: VirtualNode, event: Event) -> None:
        self.log.note(self.world.now, node.index, event)
        kind = type(event)
        hearers = self._hearers.get(kind)
        if hearers is None:
            found: list[Callable[[VirtualNode, Any], None]] = []
            if kind is Delivered:
                found.append(self.deliveries.hear)
            if kind is Committed:
                found.append(self.clients.committed)
            found += [one.hear for one in self.checkers if kind in one.hears]
            hearers = self._hearers[kind] = tuple(found)
        for hear in hearers:
            hear(node, event)

    def finish(self) -> None:
        """The last look."""
        for checker in self.checkers:
            checker.look()

    def raised(self, error: SimulationError) -> Violation:
        """A machine that raised, as a violation of the invariant that none does."""
        return Violation("no machine raises", self.world.now, (), str(error))

    # What came out.

    def measured(self) -> dict[str, float]:
        """Every metric that can be said; see `metrics.UNITS`."""
        scenario, found = self.scenario, {}
        deliveries, meter = self.deliveries, self.meter
        seconds = max(self.world.now - self.begins, 1e-9)
        found["published"] = float(deliveries.published)
        messages = [one for one in deliveries.messages() if one.expected]
        if messages:
            found["delivery_ratio"] = sum(m.delivered for m in messages) / sum(
                m.expected for m in messages
            )
            lasts = sorted(one.last for one in messages if one.delivered)
            if lasts:
                found["latency_last_ms"] = 1e3 * quantile(lasts, 0.5)
                found["hops_last"] = sum(one.hops for one in messages) / len(messages)
        if deliveries.samples:
            ascending = sorted(deliveries.samples)
            for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
                found[f"latency_{name}_ms"] = 1e3 * quantile(ascending, q)
            if len(ascending) >= FAR:
                found["latency_p999_ms"] = 1e3 * quantile(ascending, 0.999)
            total = sum(deliveries.hops.values())
            found["hops_mean"] = sum(hop * count for hop, count in deliveries.hops.items()) / total
        found |= by_stream(messages, deliveries.streams)
        if any(self.attacks) and (theirs := self.attacker_links()) is not None:
            found["attacker_links"] = theirs
        found |= self.clients.measured(seconds)
        if meter is not None and scenario.measure.traffic and self._settled:
            node_seconds = seconds * scenario.nodes
            found["bytes_up_per_node_s"] = meter.bytes / node_seconds
            found["bytes_up_busiest_node_s"] = max(meter.up) / seconds
            found["bytes_down_per_node_s"] = sum(meter.down) / node_seconds
            if deliveries.delivered:
                found["duplicates_per_delivery"] = meter.copies / deliveries.delivered - 1
                found["messages_per_delivery"] = meter.sent / deliveries.delivered
            if meter.bytes:
                found["control_share"] = 1 - meter.payload_bytes / meter.bytes
        healed = recovery(messages, [at for at, _ in self.happened], scenario.measure.recovered)
        if healed is not None:
            found["recovery_s"] = healed
        if self.members():
            graph = self.graph()
            found |= shape(graph, scenario.measure.paths, stream(self.seed, "measure"))
            self.degrees = dict(sorted(Counter(map(len, graph.values())).items()))
        if self._settled:
            found["undeliverable"] = float(self.world.undeliverable - self._undeliverable)
            found["overflowed"] = float(self.world.overflowed - self._overflowed)
            found["events_per_node_s"] = (self.world.events - self._events) / (seconds * scenario.nodes)
        return found
