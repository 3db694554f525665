"""A Raft group in a virtual world, with a small replicated map on it, clients and faults."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import Any

import msgspec
from grove_raft import SPEC
from grove_raft.config import Config
from grove_raft.machine import Raft

from grove_core.drive.virtual import Clock, Delay, VirtualNode, World
from grove_core.events import (
    Committed,
    LeaderChanged,
    Proposed,
    ReadAsked,
    ReadReady,
    Rejected,
    Restored,
    SnapshotTaken,
)
from grove_core.machine import Context, Event, Machine, PeerId, handles
from grove_core.multibase import base58
from grove_core.specs import Part, ProtocolSpec
from grove_core.testing.agreement import Agreement
from grove_core.testing.linearizability import Operation, register


class Settings(msgspec.Struct, frozen=True):
    """Of the map. every: commands between two snapshots; 0: none."""

    every: int = 0


class Map(Machine[Any]):
    """Registers by name: what a state machine on any consensus looks like.

    A command is (key, *register input). Each id counts once.
    """

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.values: dict[str, Any] = {}
        self.seen: dict[bytes, Any] = {}
        self.reads: dict[bytes, str] = {}
        self.done: Callable[[bytes, Any], None] = lambda id, output: None
        self.failed: Callable[[bytes], None] = lambda id: None

    def ask(self, ctx: Context[Any], id: bytes, key: str, input: tuple[Any, ...]) -> None:
        if input == ("read",):
            self.reads[id] = key
            ctx.emit(ReadAsked(id))
        else:
            ctx.emit(Proposed(id, msgspec.msgpack.encode((key, *input))))

    @handles(Committed)
    def on_committed(self, ctx: Context[Any], event: Committed) -> None:
        if not event.command.startswith(FOR_US):
            return  # somebody else's
        if event.id not in self.seen:
            key, *input = msgspec.msgpack.decode(event.command)
            before = self.values.get(key)
            _, self.values[key] = register(before, tuple(input), None, False)
            self.seen[event.id] = before == input[1] if input[0] == "cas" else None
        self.done(event.id, self.seen[event.id])
        if self.config.every and event.index % self.config.every == 0:
            state = msgspec.msgpack.encode((self.values, list(self.seen.items())))
            ctx.emit(SnapshotTaken(event.index, state))

    @handles(Restored)
    def on_restored(self, ctx: Context[Any], event: Restored) -> None:
        self.values, seen = msgspec.msgpack.decode(event.state)
        self.seen = {bytes(id): output for id, output in seen}

    @handles(ReadReady)
    def on_read_ready(self, ctx: Context[Any], event: ReadReady) -> None:
        if event.id in self.reads:
            self.done(event.id, self.values.get(self.reads.pop(event.id)))

    @handles(Rejected)
    def on_rejected(self, ctx: Context[Any], event: Rejected) -> None:
        self.reads.pop(event.id, None)
        self.failed(event.id)


FOR_US = (b"\x93", b"\x94")
"""How the commands of a map begin: an array of three or four."""

MAP = ProtocolSpec(name="map", role="storage", config=Settings, build=Map)

QUICK = {"election_timeout": 0.15, "heartbeat": 0.03, "reconnect": 0.1, "wait_for_leader": 0.4}
"""Timers of a group in one building (the paper's), so that a run is short."""


class Group:
    """n voters and some strangers who may join later; config of Raft as keyword arguments.

    build: another class than Raft, for mutations. rates: of the nodes' clocks.
    """

    def __init__(
        self,
        nodes: int = 5,
        *,
        seed: int = 1,
        strangers: int = 0,
        delay: Delay | float = 0.005,
        disk: float = 0.001,
        snapshot_every: int = 0,
        build: type[Raft] = Raft,
        checked: bool = True,
        trace: bool = False,
        rates: tuple[float, ...] = (),
        start: float = 0.01,
        **config: Any,
    ) -> None:
        ids = World(seed=seed)
        peers = [ids.add(()).peer for _ in range(nodes)]
        self.world = World(seed=seed, delay=delay, disk=disk, trace=trace, dial_timeout=1.0)
        self.agreement = Agreement(self.world) if checked else None
        config = {**QUICK, **config}
        spec = msgspec.structs.replace(SPEC, build=build)
        storage = Part(MAP, Settings(snapshot_every))
        members = Part(spec, Config(voters=tuple(map(base58, peers)), **config))
        others = Part(spec, Config(**config))
        for index in range(nodes + strangers):
            node = self.world.add((members if index < nodes else others, storage), at=start * index)
            if rates:
                node.clock = Clock(rates[index % len(rates)])
        self.nodes = self.world.order
        self.events: list[tuple[float, int, Event]] = []
        self.world.sinks.append(
            lambda node, event: self.events.append((self.world.now, node.index, event))
        )

    def run(self, seconds: float) -> Group:
        if self.agreement is not None:
            self.agreement.run_for(seconds)
        else:
            self.world.run_for(seconds)
        return self

    def until(self, what: Callable[[], Any], within: float) -> Group:
        """Run until something holds; it must, within so many seconds."""
        end = self.world.now + within
        while not what():
            assert self.world.now < end, f"not within {within} s; seed {self.world.seed}"
            self.run(0.002)
        return self

    @property
    def alive(self) -> list[VirtualNode]:
        return [node for node in self.nodes if node.alive]

    def raft(self, node: VirtualNode) -> Raft:
        machine = node.machine("consensus")
        assert isinstance(machine, Raft)
        return machine

    def leader(self) -> VirtualNode | None:
        """The live leader of the latest term."""
        leading = [node for node in self.alive if self.raft(node).is_leader]
        return max(leading, key=lambda node: self.raft(node).log.term, default=None)

    def elect(self, within: float = 3.0) -> VirtualNode:
        self.until(self.leader, within)
        leader = self.leader()
        assert leader is not None
        return leader

    def settle(self, within: float = 3.0) -> VirtualNode:
        """A leader that everybody alive follows and that has committed in its term."""

        def is_settled() -> bool:
            leader = self.leader()
            return leader is not None and self.raft(leader).commits_in_its_term() and all(
                self.raft(node).leader() == leader.peer
                for node in self.alive
                if self.raft(node).log.group
            )  # fmt: skip

        self.until(is_settled, within)
        return self.elect()

    def call(self, node: VirtualNode, act: Callable[[Any, Any], Any]) -> Any:
        """Enter a node's Raft machine."""
        return node.consensus.call(act)

    def of(self, kind: type[Event], node: VirtualNode | None = None) -> list[Any]:
        """Events of a kind so far, of one node if given."""
        return [
            event
            for _, index, event in self.events
            if type(event) is kind and (node is None or index == node.index)
        ]

    def terms(self) -> int:
        """How many terms have had a leader."""
        return len({event.epoch for event in self.of(LeaderChanged) if event.leader is not None})

    def peer(self, index: int) -> PeerId:
        return self.nodes[index].peer


class Clients:
    """Random reads, writes and exchanges, written down as a history.

    loyal: the share that goes to a node which says it leads, as clients do; the rest goes anywhere.
    most: how many to ask in all.
    """

    def __init__(
        self,
        group: Group,
        rng: Random,
        rate: float,
        keys: int = 3,
        loyal: float = 0.0,
        most: float = inf,
    ) -> None:
        self.group = group
        self.rng = rng
        self.rate = rate
        self.keys = keys
        self.loyal = loyal
        self.most = most
        self.open: dict[bytes, tuple[str, tuple[Any, ...], float]] = {}
        self.history: list[Operation] = []
        self.count = 0
        self.is_stopped = False
        self._next()

    def _next(self) -> None:
        if not self.is_stopped and self.count < self.most:
            world = self.group.world
            world.at(world.now + self.rng.expovariate(self.rate), self._ask)

    def _ask(self) -> None:
        self._next()
        rng, world = self.rng, self.group.world
        node = self._where()
        if not node.alive or not self.group.raft(node).log.group:
            return
        self.count += 1
        id = b"client %09d" % self.count
        kind = rng.random()
        if kind < 0.4:
            input: tuple[Any, ...] = ("read",)
        elif kind < 0.8:
            input = ("write", self.count)
        else:
            input = ("cas", rng.randrange(max(1, self.count - 3), self.count + 1), self.count)
        key = f"k{rng.randrange(self.keys)}"
        self.open[id] = (key, input, world.now)
        handle = node.plugin("map")
        handle.machine.done = self._done
        handle.machine.failed = self._failed
        handle.call(lambda machine, ctx: machine.ask(ctx, id, key, input))

    def _where(self) -> VirtualNode:
        if self.loyal and self.rng.random() < self.loyal:
            leading = [node for node in self.group.alive if self.group.raft(node).is_leader]
            if leading:  # more than one may say so
                return self.rng.choice(leading)
        return self.rng.choice(self.group.nodes)

    def _done(self, id: bytes, output: Any) -> None:
        asked = self.open.pop(id, None)
        if asked is not None:
            key, input, call = asked
            self.history.append(Operation(key, input, output, call, self.group.world.now))

    def _failed(self, id: bytes) -> None:
        self.open.pop(id, None)  # definite: it never happened

    def finished(self) -> list[Operation]:
        """The history, with what was never answered left open; reads without an answer say nothing."""
        lost = [
            Operation(key, input, None, call, inf)
            for key, input, call in self.open.values()
            if input != ("read",)
        ]
        return self.history + lost
