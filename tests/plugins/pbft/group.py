"""A PBFT group in a virtual world: voters, observers, what they committed, and whether they agree.

The ids of a world's nodes follow from its seed, so a group's first members can be named before they
exist.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from grove_pbft import SPEC
from grove_pbft.config import Config
from grove_pbft.machine import Pbft

from grove_core.drive.virtual import VirtualNode
from grove_core.events import Committed, Restored
from grove_core.identity import peer_text
from grove_core.machine import Event, PeerId
from grove_core.specs import Part
from tests.plugins.counting import CountingWorld

ORDERING = ("PrePrepare", "Prepare", "Commit", "Reply")
"""What a decision costs (claim 1); requests, checkpoints and the observers' feed are counted apart."""


class Group:
    """n voters, then observers, then nodes that are no members yet.

    liars: node index -> a subclass of Pbft that it runs instead.
    """

    def __init__(
        self,
        n: int,
        *,
        observers: int = 0,
        strangers: int = 0,
        seed: int = 0,
        delay: Any = 0.02,
        liars: dict[int, type[Pbft]] | None = None,
        config: dict[str, Any] | None = None,
        **world: Any,
    ) -> None:
        self.world = CountingWorld(seed=seed, delay=delay, **world)
        total = n + observers + strangers
        ids = [self.world.peer(index) for index in range(total)]
        settings = Config(
            voters=tuple(peer_text(peer) for peer in ids[:n]),
            learners=tuple(peer_text(peer) for peer in ids[n : n + observers]),
            **(config or {}),
        )
        self.liars = liars or {}
        part = Part(SPEC, settings)
        for index in range(total):
            kind = self.liars.get(index)
            own = part if kind is None else Part(_spec(kind), settings)
            self.world.add((own,), at=0.001 * index)
        self.world.sinks.append(self._write)
        self.committed: list[list[Committed]] = [[] for _ in range(total)]
        """By node: what its present life committed."""
        self.events: list[tuple[float, int, Event]] = []
        self.committed_at: dict[bytes, list[tuple[float, int]]] = {}
        self.agreed: dict[int, bytes] = {}
        """Index -> id of the command: what any honest node committed there first."""
        self.restored: dict[int, int] = {}

    @property
    def nodes(self) -> list[VirtualNode]:
        return self.world.order

    def machine(self, index: int) -> Pbft:
        machine: Pbft = self.nodes[index].machine("pbft")
        return machine

    def index_of(self, peer: PeerId) -> int:
        return self.world.nodes[peer].index

    def by_rank(self) -> list[int]:
        """Node indices of the voters in the order in which they lead views 0, 1, …"""
        return [self.index_of(peer) for peer in self.machine(self.honest()[0]).voters()]

    def honest(self) -> list[int]:
        return [node.index for node in self.nodes if node.alive and node.index not in self.liars]

    def propose(self, index: int, command: bytes = b"x") -> bytes:
        return self.nodes[index].consensus.propose(command)

    def run(self, seconds: float) -> Group:
        self.world.run_for(seconds)
        return self

    def crash(self, index: int, **how: Any) -> None:
        self.world.crash(self.nodes[index], **how)
        self.committed[index] = []
        self.restored.pop(index, None)

    def restart(self, index: int, at: float = 0.0) -> None:
        self.world.restart(self.nodes[index], at)

    def commands(self, index: int) -> list[bytes]:
        return [event.command for event in self.committed[index]]

    def seen(self, kind: type[Any], index: int | None = None) -> list[Any]:
        return [e for _, at, e in self.events if isinstance(e, kind) and index in (None, at)]

    def latency(self, id: bytes, index: int, asked: float) -> float:
        """Seconds from asking until the command was committed at a node."""
        return min(at for at, node in self.committed_at[id] if node == index) - asked

    def _write(self, node: VirtualNode, event: Event) -> None:
        if node.index in self.liars:
            return
        where = f"seed {self.world.seed}, t = {self.world.now:.3f}, node {node.index}"
        if isinstance(event, Committed):
            mine = self.committed[node.index]
            assert not mine or event.index > mine[-1].index, f"{where}: index goes back"
            agreed = self.agreed.setdefault(event.index, event.id)
            assert agreed == event.id, f"{where}: index {event.index} is another command elsewhere"
            expected = (mine[-1].index if mine else self.restored.get(node.index, 0)) + 1
            assert event.index >= expected, f"{where}: {event.index} after {expected - 1}"
            mine.append(event)
            self.committed_at.setdefault(event.id, []).append((self.world.now, node.index))
        else:
            if isinstance(event, Restored):
                self.restored[node.index] = event.index
                self.committed[node.index] = []
            self.events.append((self.world.now, node.index, event))

    def assert_agreement(self, among: Iterable[int] | None = None) -> None:
        """Executed prefixes are equal, commands once each, and histories hash alike where equally far."""
        histories: dict[int, bytes] = {}
        for index in self.honest() if among is None else among:
            ids = [event.id for event in self.committed[index]]
            assert len(set(ids)) == len(ids), f"seed {self.world.seed}: node {index} executed twice"
            machine = self.machine(index)
            history = histories.setdefault(machine.executed, machine.history)
            assert history == machine.history, f"seed {self.world.seed}: histories differ"
            assert not machine.is_diverged


def _spec(kind: type[Pbft]) -> Any:
    return msgspec.structs.replace(SPEC, build=kind)
