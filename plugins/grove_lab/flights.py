"""Who sent what to whom, and when it left and came: a stretch of a run, kept for a space-time diagram.

    flights = Flights(since=61.2, until=61.6)
    run(scenario, seed=7, parts=parts, watch=flights.watch)

Attached to a stage before it moves, it notes what leaves through the contexts of machines and what the
world is about to hand over; it moves nothing, so the history stays what it is. Where it is given an end,
the run is stopped there: nobody needs the rest.

`way(id)` follows one message from its author to whoever had it last: the longest wait, link by link.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from grove_core.drive.virtual import VirtualContext, VirtualNode, World
from grove_core.events import Delivered
from grove_core.machine import Event, PeerId
from grove_lab.stage import Stage
from grove_lab.traffic import numbers

MOST = 200_000
"""Flights that are kept; later ones are not."""

ARRIVALS = ("arrive", "deliver", "visited")


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """One message from one node to another. sent, came: virtual seconds; sent: when its machine sent it.

    payloads: numbers of the publications it carries (`traffic.numbers`).
    """

    sent: float
    came: float
    source: int
    target: int
    kind: str
    payloads: tuple[int, ...] = ()


class Way(msgspec.Struct, kw_only=True):
    """How a message came to its last receiver. nodes: from author to last, each with its time."""

    payload: int
    nodes: list[tuple[int, float]]


class Over(Exception):
    """All that was to be seen has been."""


class Flights:
    """The flights between `since` and `until`, in virtual seconds, in order of arrival."""

    def __init__(self, since: float, until: float | None = None) -> None:
        self.since = since
        self.until = until
        self._left: dict[tuple[int, int, PeerId], float] = {}
        self._come: list[tuple[float, float, int, int, VirtualContext, Any]] = []
        self._source: int | None = None
        self._had: dict[bytes, dict[int, tuple[int | None, float]]] = {}
        """Message -> who delivered it -> (from whom, when)."""
        self._numbers: dict[bytes, int] = {}

    def watch(self, stage: Stage) -> None:
        """Attach to a stage before it moves."""
        world = stage.world
        world.context = noting(world.context, self._leaves)
        before = world.witness

        def witness(now: float, act: Any, ctx: Any, a: Any, b: Any) -> None:
            if before is not None:
                before(now, act, ctx, a, b)
            self._source = None
            if now >= self.since:
                if self.until is not None and now > self.until:
                    raise Over
                if act.__name__ in ARRIVALS:
                    self._arrives(world, now, act.__name__, ctx, a, b)

        world.witness = witness
        world.sinks.append(self._hear)

    def _leaves(self, ctx: VirtualContext, peer: PeerId, msg: Any) -> None:
        if ctx.world.now >= self.since:
            self._left[id(msg), ctx.node.index, peer] = ctx.world.now

    def _arrives(self, world: World, now: float, kind: str, ctx: Any, a: Any, msg: Any) -> None:
        # A visit is told by its sender's context and the node it goes to, all else by its receiver's.
        source, target = (ctx.node, a) if kind == "visited" else (world.nodes[a], ctx.node)
        self._source = source.index
        sent = self._left.pop((id(msg), source.index, target.peer), None)
        if sent is not None and len(self._come) < MOST:
            self._come.append((sent, now, source.index, target.index, ctx, msg))

    def _hear(self, node: VirtualNode, event: Event) -> None:
        if type(event) is Delivered and node.world.now >= self.since:
            had = self._had.setdefault(event.id, {})
            had.setdefault(node.index, (self._source, node.world.now))
            carried = numbers(event.data)
            if carried:
                self._numbers[event.id] = carried[0]

    def among(self, nodes: Sequence[int]) -> list[Flight]:
        """Flights between these nodes."""
        shown = frozenset(nodes)
        return [
            Flight(
                sent=sent, came=came, source=source, target=target, kind=type(msg).__name__,
                payloads=_payloads(ctx, msg),
            )
            for sent, came, source, target, ctx, msg in self._come
            if source in shown and target in shown
        ]  # fmt: skip

    def way(self, message: bytes, sender: int) -> Way | None:
        """How a message came from its sender to who delivered it last; None if it was not seen."""
        had = self._had.get(message, {})
        others = [(when, node) for node, (_, when) in had.items() if node != sender]
        if not others:
            return None
        when, at = max(others)
        nodes = [(at, when)]
        while at != sender:
            source = had[at][0]
            if source is None or source not in had or any(source == node for node, _ in nodes):
                break
            at = source
            nodes.append((at, had[at][1]))
        return Way(payload=self._numbers.get(message, -1), nodes=nodes[::-1])


def noting(kind: type[VirtualContext], leaves: Any) -> type[VirtualContext]:
    """A kind of context that tells what is sent through it."""

    class Noting(kind):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def send(self, peer: PeerId, msg: Any) -> None:
            leaves(self, peer, msg)
            kind.send(self, peer, msg)

    return Noting


def _payloads(ctx: VirtualContext, msg: Any) -> tuple[int, ...]:
    codec = ctx.slot.spec.codec
    return () if codec is None else numbers(codec.encode(msg))
