"""A village in a virtual world: its groups, what each member handed over, and what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from grove_hierarchy import SPEC
from grove_hierarchy.config import Config
from grove_hierarchy.machine import Order, build

from grove_core.drive.virtual import VirtualNode
from grove_core.events import (
    Committed,
    ReadReady,
    Rejected,
    Restored,
    SnapshotAsked,
    SnapshotTaken,
)
from grove_core.identity import peer_text
from grove_core.machine import Event, Machine, PeerId, handles
from grove_core.specs import Part, ProtocolSpec
from grove_core.testing.parts import part
from tests.plugins.counting import CountingWorld

RAFT = {"election_timeout": 3.0, "heartbeat": 0.5, "reconnect": 0.5}
PBFT = {"request_timeout": 1.0, "reconnect": 0.5, "observe": 5.0}


def calm(m: int, g: int, **config: Any) -> Hamlet:
    """Groups in which, beside agreement, next to nothing is said in a minute."""
    return Hamlet(
        m,
        g,
        "trusting",
        config={"observe": 600.0, "absence": 6000.0, **config},
        raft={"heartbeat": 20.0, "election_timeout": 40.0},
        pbft={"observe": 600.0},
    ).run(130)


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
        ids = [peer_text(self.world.peer(index)) for index in range(m * g)]
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

    def decision(self) -> Counter[str]:
        """What is sent for the first command, which the upper leader proposes, until all have it."""
        self.world.sent.clear()
        self.propose(self.upper_leader(), b"x")
        self.run(1)
        assert all(len(committed) == 1 for committed in self.committed)
        return self.world.sent

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
