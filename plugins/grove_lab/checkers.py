"""What must hold while the world moves. Each checker stops the run at the event that breaks its rule.

A checker hears every event that a machine emits (`hear`), or looks at the nodes between two slices
(`look`), or both. It knows no protocol: delivery, commitment, neighbours and the size of tables mean
the same whoever plays the role. `Violated` is raised with the virtual time, the nodes and a sentence.

A world whose checkers never fire proves nothing unless planted bugs make them fire: those are tests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from grove_core.drive.virtual import VirtualNode
from grove_core.errors import GroveError
from grove_core.events import Committed, Delivered
from grove_core.machine import Event

if TYPE_CHECKING:
    from grove_lab.stage import Stage


class Violation(msgspec.Struct, frozen=True):
    """What did not hold, when, and who was there. time: virtual seconds since the world began."""

    invariant: str
    time: float
    nodes: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        who = ", ".join(map(str, self.nodes[:8])) + (" …" if len(self.nodes) > 8 else "")
        at = f" at node{'s' if len(self.nodes) > 1 else ''} {who}" if self.nodes else ""
        return f"{self.invariant} violated at t = {self.time:.6f} s{at}: {self.text}"


class Violated(GroveError):
    """An invariant does not hold."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


class Checker:
    """Base: a rule that is never broken."""

    name = ""
    hears: tuple[type[Event], ...] = ()
    """Types of events that `hear` wants."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def hear(self, node: VirtualNode, event: Any) -> None:
        """A machine emitted an event."""

    def look(self) -> None:
        """`invariants.every` seconds have passed."""

    def began(self, node: VirtualNode) -> None:
        """A node begins another life."""

    def fail(self, text: str, *nodes: VirtualNode) -> None:
        indices = tuple(node.index for node in nodes)
        raise Violated(Violation(self.name, self.stage.world.now, indices, text))


class ExactlyOnce(Checker):
    """No node delivers a message twice in one life."""

    name = "exactly-once"
    hears = (Delivered,)

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.seen: dict[bytes, bytearray] = {}

    def hear(self, node: VirtualNode, event: Delivered) -> None:
        got = self.seen.get(event.id)
        if got is None:
            got = self.seen[event.id] = bytearray(len(self.stage.world.order))
            if len(self.seen) * len(got) > (1 << 28):  # the oldest messages are no longer watched
                del self.seen[next(iter(self.seen))]
        if got[node.index]:
            self.fail(f"message {event.id.hex()[:16]} was delivered a second time", node)
        got[node.index] = 1

    def began(self, node: VirtualNode) -> None:
        for got in self.seen.values():
            got[node.index] = 0


class Symmetric(Checker):
    """A neighbour counts us among its own, or will within `symmetric_within` seconds."""

    name = "symmetric"

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.since: dict[tuple[int, int], float] = {}

    def look(self) -> None:
        world = self.stage.world
        views = {node.peer: node.membership.neighbors() for node in self.stage.members()}
        now: dict[tuple[int, int], float] = {}
        for peer, view in views.items():
            node = world.nodes[peer]
            for other in view:
                theirs = views.get(other)
                if theirs is None or peer not in theirs:
                    there = world.nodes[other]
                    if world.reaches(node, there) and world.reaches(there, node):
                        link = (node.index, there.index)
                        now[link] = self.since.get(link, world.now)
        self.since = now
        within = self.stage.scenario.invariants.symmetric_within
        for (a, b), since in now.items():
            if world.now - since > within:
                one, other_node = world.order[a], world.order[b]
                state = "does not" if other_node.alive else "is dead and cannot"
                self.fail(
                    f"node {a} has counted node {b} as its neighbour since t = {since:.3f} s; "
                    f"node {b} {state} count it as one",
                    one,
                    other_node,
                )


class Connected(Checker):
    """The living are in one piece, if nothing divides them and no fault was recent."""

    name = "connected"

    def look(self) -> None:
        stage = self.stage
        if stage.is_disturbed(stage.scenario.invariants.fault_grace):
            return
        pieces = stage.pieces()
        if len(pieces) > 1:
            lost = [stage.world.order[index] for index in pieces[-1]]
            sizes = ", ".join(str(len(piece)) for piece in pieces[:6])
            self.fail(f"the overlay is in {len(pieces)} pieces, of {sizes} nodes", *lost)


class Delivery(Checker):
    """Each message reaches its share of the nodes in time; asked by `Deliveries` at the deadline."""

    name = "delivery"

    def missed(self, ratio: float, text: str, *nodes: VirtualNode) -> None:
        stage = self.stage
        if ratio < stage.scenario.invariants.delivery and not stage.is_disturbed(
            stage.scenario.invariants.fault_grace
        ):
            self.fail(text, *nodes)


class Redundancy(Checker):
    """Once trees had time to form, few payloads come in vain; over windows of `WINDOW` messages."""

    name = "redundancy"
    WINDOW = 5

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.before: tuple[int, int, int] | None = None

    def look(self) -> None:
        stage, asked = self.stage, self.stage.scenario.invariants
        early = stage.world.now < stage.begins + asked.redundancy_after
        if early or stage.is_disturbed(asked.fault_grace) or stage.meter is None:
            self.before = None
            return
        now = (stage.deliveries.published, stage.deliveries.delivered, stage.meter.copies)
        if self.before is None:
            self.before = now
            return
        published, delivered, copies = (b - a for a, b in zip(self.before, now, strict=True))
        if published < self.WINDOW or not delivered:
            return
        self.before = now
        found = copies / delivered - 1
        if found > asked.redundancy:
            self.fail(
                f"the last {published} messages were sent {copies:,} times for {delivered:,} deliveries: "
                f"{found:.2f} in vain for each; at most {asked.redundancy:g} was promised"
            )


class Agreement(Checker):
    """At one index all commit one command, and each node commits the agreed ones without a hole."""

    name = "agreement"
    hears = (Committed,)

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.agreed: dict[int, tuple[bytes, bytes, int]] = {}
        """Index -> id, command, and the node that committed it first."""
        self.order: list[int] = []
        """Agreed indices, ascending by commitment."""
        self.position: dict[int, int] = {}
        """Node -> how many of `order` it has committed in this life."""

    def hear(self, node: VirtualNode, event: Committed) -> None:
        known = self.agreed.get(event.index)
        if known is None:
            if self.order and event.index < self.order[-1]:
                self.fail(
                    f"commits index {event.index}, which nobody did when {self.order[-1]} was committed",
                    node,
                )
            self.agreed[event.index] = (event.id, event.command, node.index)
            self.order.append(event.index)
        elif known[:2] != (event.id, event.command):
            self.fail(
                f"index {event.index}: node {node.index} commits {event.id.hex()[:16]}, "
                f"node {known[2]} committed {known[0].hex()[:16]}",
                node,
                self.stage.world.order[known[2]],
            )
        at = self.position.get(node.index)
        if at is None:  # the first of a life: what came before may lie in a snapshot or on the disk
            at = self.order.index(event.index)
        elif at >= len(self.order) or self.order[at] != event.index:
            expected = self.order[at] if at < len(self.order) else "nothing"
            self.fail(f"commits index {event.index}; the next in the agreed order is {expected}", node)
        self.position[node.index] = at + 1

    def began(self, node: VirtualNode) -> None:
        self.position.pop(node.index, None)


class Bounded(Checker):
    """No container of any machine holds more than `table_limit` entries."""

    name = "bounded"

    def look(self) -> None:
        limit = self.stage.scenario.invariants.table_limit
        for node in self.stage.world.order:
            for ctx in node.contexts:
                for name, size in sizes(ctx.machine):
                    if size > limit:
                        self.fail(f"{ctx.slot.name}.{name} holds {size:,} entries; limit {limit:,}", node)


def sizes(thing: Any, depth: int = 2) -> Iterator[tuple[str, int]]:
    """The containers of a machine, and of what it is made of, by name: (name, entries)."""
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    names += list(getattr(thing, "__dict__", ()))
    for name in dict.fromkeys(names):
        value = getattr(thing, name, None)
        if isinstance(value, dict | list | set | deque):
            yield name, len(value)
        elif depth and type(value).__module__.startswith(type(thing).__module__.partition(".")[0]):
            for inner, size in sizes(value, depth - 1):
                yield f"{name}.{inner}", size


def checkers(stage: Stage) -> list[Checker]:
    """Those that a scenario asks for."""
    asked = stage.scenario.invariants
    chosen: list[tuple[Any, type[Checker]]] = [
        (asked.exactly_once, ExactlyOnce),
        (asked.symmetric, Symmetric),
        (asked.connected, Connected),
        (asked.delivery, Delivery),
        (asked.redundancy, Redundancy),
        (asked.agreement, Agreement),
        (asked.table_limit, Bounded),
    ]
    return [kind(stage) for wanted, kind in chosen if wanted]
