"""Who got what, and when: every publication of the workloads followed to its deadline.

A message is expected at the nodes that were there `measure.joined` seconds before it was published
and live through to its deadline; its author is not counted, nor are attackers, nor classes that a
workload does not ask about. What arrives after the deadline counts as lost, but its latency is kept.
What a newcomer is told of the time before it came is not counted.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

from grove_core.drive.virtual import VirtualNode
from grove_core.events import Delivered
from grove_lab import geography
from grove_lab.metrics import BOX, Message, Way, quantile
from grove_lab.streams import stream

if TYPE_CHECKING:
    from grove_lab.stage import Stage


class Followed:
    """One publication under way."""

    __slots__ = (
        "changes",
        "count",
        "counted",
        "got",
        "hops",
        "id",
        "last",
        "published",
        "sender",
        "size",
        "way",
        "workload",
    )

    def __init__(self, workload: str, published: float, sender: int, size: int, counted: bytes) -> None:
        self.workload = workload
        self.id = b""
        self.published = published
        self.sender = sender
        self.size = size
        self.counted = counted  # per node, 1 if it is a receiver
        self.got = bytearray(len(counted))
        self.count = 0  # nodes other than the sender that delivered it
        self.hops = 0
        self.last = 0.0
        self.changes = 0  # of the population, at publishing
        self.way: Way | None = None


class Samples:
    """At most so many figures; beyond, a uniform sample of all (Vitter's algorithm R)."""

    def __init__(self, limit: int, seed: int) -> None:
        self.limit = limit
        self.values = array("d")
        self.seen = 0
        self._rng = stream(seed, "samples")

    def add(self, value: float) -> None:
        self.seen += 1
        if self.seen <= self.limit:
            self.values.append(value)
        else:
            at = int(self._rng.random() * self.seen)
            if at < self.limit:
                self.values[at] = value


class Deliveries:
    """Hears Delivered; knows what was published."""

    def __init__(self, stage: Stage) -> None:
        measure = stage.scenario.measure
        self.stage = stage
        self.open: dict[bytes, Followed] = {}
        self.closed: list[Message] = []
        self.latencies = Samples(measure.samples, stage.seed)
        streams = [name for name, w in stage.scenario.workloads.items() if w.kind == "publish"]
        self.streams: dict[str, Samples] = {}
        """The same for each stream of publications, if there are several."""
        if len(streams) > 1:
            limit = measure.samples // len(streams)
            self.streams = {name: Samples(limit, stage.seed) for name in streams}
        self.regions: tuple[Samples, ...] = ()
        """The same for each region that nodes live in, where there are regions."""
        if stage.regions:
            names = geography.STOCK[stage.scenario.network.geography].names
            self.regions = tuple(Samples(measure.samples // len(names), stage.seed) for _ in names)
        self.everybody = self._counted(())
        self.counted = {
            name: self._counted(one.receivers) if one.receivers else self.everybody
            for name, one in stage.scenario.workloads.items()
        }
        self.hops: Counter[int] = Counter()
        self.delivered = 0  # to others than the author
        self.published = 0
        self.way: Way | None = None
        """Of the newest message that reached its deadline; in small worlds only."""

    def _counted(self, classes: tuple[str, ...]) -> bytes:
        """Per node, 1 if it counts as a receiver: no attacker, and of these classes if any are named."""
        stage = self.stage
        return bytes(
            not attacks and (not classes or stage.class_names[kind] in classes)
            for kind, attacks in zip(stage.kinds, stage.attacks, strict=True)
        )

    @property
    def samples(self) -> array[float]:
        return self.latencies.values

    def publish(self, workload: str, topic: str, node: VirtualNode, data: bytes) -> None:
        """Let a node publish, and follow the message."""
        stage = self.stage
        now = stage.world.now
        counted = self.counted[workload]
        one = Followed(workload, now - stage.begins, node.index, len(data), counted)
        one.changes = stage.changes
        if stage.follows:
            one.way = Way(root=node.index, published=one.published, parents={}, times={})
        one.id = node.broadcast.publish(topic, data)
        self.published += 1
        self.open[one.id] = one
        stage.world.at(now + stage.scenario.measure.deadline, lambda: self.close(one))

    def hear(self, node: VirtualNode, event: Delivered) -> None:
        one = self.open.get(event.id)
        if one is None or one.sender == node.index or one.got[node.index]:
            return
        if not one.counted[node.index]:
            return  # an attacker, or nobody whom this workload asks about
        if self.stage.since[node.index] > self.stage.begins + one.published:
            return  # it came later and was told of the past: no latency of the network's
        one.got[node.index] = 1
        one.count += 1
        one.hops = max(one.hops, event.hops)
        latency = one.last = self.stage.world.now - self.stage.begins - one.published
        self.delivered += 1
        self.hops[event.hops] += 1
        if one.way is not None and self.stage.sender is not None:
            one.way.parents[node.index] = self.stage.world.nodes[self.stage.sender].index
            one.way.times[node.index] = latency
        self.latencies.add(latency)
        if self.regions:
            self.regions[self.stage.regions[node.index]].add(latency)
        if self.streams:
            self.streams[one.workload].add(latency)

    def close(self, one: Followed) -> None:
        """The deadline of a message: who of those that were there has it?"""
        stage = self.stage
        del self.open[one.id]
        self.way = one.way or self.way
        is_asked_of_all = one.counted is self.everybody
        if one.changes == stage.changes and stage.is_calm and is_asked_of_all:
            expected, got = stage.living - 1, one.count
            missing: list[VirtualNode] = []
            if got < expected:
                missing = [
                    n
                    for n in stage.world.order
                    if n.alive and one.counted[n.index] and not one.got[n.index]
                ]
        else:
            latest = stage.begins + one.published - stage.scenario.measure.joined
            there = [
                n
                for n in stage.world.order
                if n.alive
                and one.counted[n.index]
                and stage.since[n.index] <= latest
                and n.index != one.sender
            ]
            missing = [n for n in there if not one.got[n.index]]
            expected, got = len(there), len(there) - len(missing)
        self.closed.append(
            Message(
                id=one.id.hex(),
                workload=one.workload,
                published=one.published,
                sender=one.sender,
                size=one.size,
                expected=expected,
                delivered=got,
                last=one.last,
                hops=one.hops,
            )
        )
        if expected and stage.delivery is not None:
            missing = [n for n in missing if n.index != one.sender]
            stage.delivery.missed(
                got / expected,
                f"message {one.id.hex()[:16]} of node {one.sender}, published at "
                f"t = {stage.begins + one.published:.3f} s, reached {got:,} of {expected:,} nodes; "
                f"at least {stage.scenario.invariants.delivery:.2%} were promised",
                *missing,
            )

    def messages(self) -> list[Message]:
        """All that reached their deadline, in order of publishing."""
        return self.closed

    def by_region(self) -> dict[str, list[float]]:
        """Seconds to delivery at each quantile of `BOX`, by the receiver's region."""
        found = {}
        for number, samples in enumerate(self.regions):
            ascending = sorted(samples.values)
            if ascending:
                name = geography.STOCK[self.stage.scenario.network.geography].names[number]
                found[name] = [quantile(ascending, q) for q in BOX]
        return found

    def hop_counts(self) -> dict[int, int]:
        return dict(sorted(self.hops.items()))
