"""A village in a virtual world: its groups, what each member handed over, and what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from grove_hierarchy import SPEC
from grove_hierarchy.config import Config
from grove_hierarchy.machine import Order, build

from grove_core.drive.virtual import VirtualContext, VirtualNode, World
from grove_core.events import (
    Committed,
    ReadReady,
    Rejected,
    Restored,
    SnapshotAsked,
    SnapshotTaken,
)
from grove_core.host import Envelope
from grove_core.identity import peer_text
from grove_core.machine import Event, Machine, PeerId, handles
from grove_core.specs import Part, ProtocolSpec
from grove_core.testing.parts import part

RAFT = {"election_timeout": 3.0, "heartbeat": 0.5, "reconnect": 0.5}
PBFT = {"request_timeout": 1.0, "reconnect": 0.5, "observe": 5.0}


class _CountingContext(VirtualContext):
    """Counts what is sent: by type, for a guest's by the guest's role and the type inside."""

    __slots__ = ()

    def send(self, peer: Any, msg: Any) -> None:
        if self.held_back is None:
            name = type(msg).__name__
            if isinstance(msg, Envelope):
                role = msg.guest.partition("/")[0]
                codec = self.slot.part.hosted[role].spec.codec
                assert codec is not None
                inside = codec.decode(msg.body)
                name = f"{role}:{type(inside).__name__}"
                if getattr(inside, "entries", None):
                    name += "+"
            self.world.sent[name] += 1  # type: ignore[attr-defined]
        super().send(peer, msg)


class CountingWorld(World):
    def __init__(self, **world: Any) -> None:
        super().__init__(**world)
        self.sent: Counter[str] = Counter()
        self.context = _CountingContext


class Tally(Machine[Any]):
    """A state machine: all commands, in order. Answers for states, and begins from them."""

    def __init__(self, config: Any) -> None:
        self.commands: list[bytes] = []
        self.restored = 0

    @handles(Committed)
    def on_committed(self, ctx: Any, event: Committed) -> None:
        self.commands.append(event.command)

    @handles(SnapshotAsked)
    def on_asked(self, ctx: Any, event: SnapshotAsked) -> None:
        ctx.emit(SnapshotTaken(event.index, msgspec.msgpack.encode(self.commands)))

    @handles(Restored)
    def on_restored(self, ctx: Any, event: Restored) -> None:
        self.restored += 1
        self.commands = msgspec.msgpack.decode(event.state) if event.state else []


class _NoConfig(msgspec.Struct, frozen=True):
    pass


TALLY = Part(ProtocolSpec(name="tally", role="storage", config=_NoConfig, build=Tally), _NoConfig())


class Hamlet:
    """m groups of g; nodes number k*g … k*g + g - 1 are group k unless the groups are formed.

    liars: what a node runs instead, made from (config, group, leaders). newcomers: further nodes that
    know the village and are not in it.
    """

    def __init__(
        self,
        m: int,
        g: int,
        variant: str,
        *,
        seed: int = 0,
        delay: Any = 0.01,
        liars: dict[int, Any] | None = None,
        config: dict[str, Any] | None = None,
        raft: dict[str, Any] | None = None,
        pbft: dict[str, Any] | None = None,
        newcomers: int = 0,
        beside: tuple[Part, ...] = (TALLY,),
        group: Part | None = None,
        leaders: Part | None = None,
        **world: Any,
    ) -> None:
        self.world = CountingWorld(seed=seed, delay=delay, **world)
        scout = World(seed=seed, keys=bool(world.get("keys")))
        ids = [peer_text(scout.add(()).peer) for _ in range(m * g)]
        cut = [ids[number * g : number * g + g] for number in range(m)]
        wanted = {"variant": variant, "groups": cut, "size": g, **(config or {})}
        settings = msgspec.convert(wanted, Config)
        hosted = {
            "group": group or part("pbft", **{**PBFT, **(pbft or {})}),
            "leaders": leaders or part("raft", **{**RAFT, **(raft or {})}),
        }
        self.liars = liars or {}
        self.total = m * g + newcomers
        for index in range(self.total):
            spec = msgspec.structs.replace(SPEC, build=self.liars.get(index, build))
            self.world.add((*beside, Part(spec, settings, hosted)), at=0.001 * index)
        self.committed: list[list[Committed]] = [[] for _ in range(self.total)]
        self.told: list[tuple[int, Event]] = []
        self.forks: list[str] = []
        """Positions at which two honest members have different commands."""
        self._agreed: dict[int, bytes] = {}
        self.acknowledged: dict[bytes, int] = {}
        """Commands that who proposed them saw committed."""
        self._acknowledged: dict[bytes, PeerId] = {}
        self.world.sinks.append(self._hear)

    def _hear(self, node: VirtualNode, event: Event) -> None:
        if node.index in self.liars:
            return
        if isinstance(event, Committed):
            said = event.id + event.proposer + event.command
            if self._agreed.setdefault(event.index, said) != said:
                self.forks.append(f"seed {self.world.seed}: position {event.index} at node {node.index}")
            if self._acknowledged.get(event.id) == node.peer:
                self.acknowledged[event.command] = event.index
            mine = self.committed[node.index]
            assert not mine or event.index > mine[-1].index, "an index goes back"
            mine.append(event)
        elif isinstance(event, ReadReady | Rejected):
            self.told.append((node.index, event))

    def node(self, index: int) -> VirtualNode:
        return self.world.order[index]

    def machine(self, index: int) -> Order:
        machine: Order = self.node(index).machine("hierarchy")
        return machine

    def run(self, seconds: float) -> Hamlet:
        self.world.run_for(seconds)
        return self

    def propose(self, index: int, command: bytes) -> bytes:
        id = self.node(index).consensus.propose(command)
        self._acknowledged[id] = self.node(index).peer
        return id

    def peers(self, *indices: int) -> tuple[PeerId, ...]:
        return tuple(self.node(index).peer for index in indices)

    def change(self, by: Iterable[int], join: Iterable[int] = (), leave: Iterable[int] = ()) -> None:
        """Have these members ask alike for others to come and go."""
        leaving = self.peers(*leave)
        for index in by:
            members = [peer for peer in self.machine(index).voters() if peer not in leaving]
            self.node(index).consensus.reconfigure((*members, *self.peers(*join)))

    def tally(self, index: int) -> list[bytes]:
        """What the node's state machine holds, states included."""
        tally: Tally = self.node(index).machine("tally")
        return tally.commands

    def commands(self, index: int) -> list[bytes]:
        return [event.command for event in self.committed[index]]

    def crash(self, index: int) -> None:
        self.world.crash(self.node(index))
        self.committed[index] = []

    def upper_leader(self) -> int:
        """The node that leads the upper protocol (trusting)."""
        found = [
            node.index
            for node in self.world.order
            if node.alive and self.machine(node.index).leader() == node.peer
        ]
        assert found, "nobody leads"
        return found[-1]

    def leading_group(self) -> int:
        """The group that leads the upper protocol (certified)."""
        found = [
            self.machine(node.index).group.number
            for node in self.world.order
            if node.alive and self.machine(node.index).leader() is not None
        ]
        assert found, "no group leads"
        return found[-1]
