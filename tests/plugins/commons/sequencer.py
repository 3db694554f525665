"""A consensus for tests: one agreed log outside of all nodes, and every misfortune on the way to it.

Proposals are delayed, dropped, refused or committed twice; leaders change; members hear commits late,
each at its own pace, and now and then are given a whole state instead. A member that is `apart`
reaches nobody, and is reached by nobody. What it cannot do is disagree: the log is one list.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

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
from grove_core.machine import Context, Machine, PeerId, handles
from grove_core.specs import Part, ProtocolSpec


class Agreed:
    """What all members of one world share: the log, who leads, who is apart, and how bad it is.

    drop, refuse, twice: chances per proposal. delay: seconds from proposal to commit, uniform.
    """

    def __init__(
        self,
        seed: int,
        *,
        drop: float = 0.0,
        refuse: float = 0.0,
        twice: float = 0.0,
        delay: tuple[float, float] = (0.01, 0.05),
        lag: float = 0.05,
    ) -> None:
        self.rng = Random(seed)
        self.log: list[Committed] = []
        self.index = 0
        self.leader: PeerId | None = None
        self.epoch = 0
        self.apart: set[PeerId] = set()
        self.snapshot: tuple[int, bytes] | None = None
        self.drop, self.refuse, self.twice = drop, refuse, twice
        self.delay, self.lag = delay, lag

    def append(self, id: bytes, proposer: PeerId, command: bytes) -> None:
        self.index += self.rng.choice([1, 1, 1, 2])
        self.log.append(Committed(self.index, id, proposer, command))

    def lead(self, peer: PeerId | None) -> None:
        self.leader, self.epoch = peer, self.epoch + 1

    def part(self) -> Part:
        spec = ProtocolSpec(
            name="sequencer",
            role="consensus",
            config=Nothing,
            build=lambda config: Sequencer(self),
            provides=frozenset({"consensus"}),
        )
        return Part(spec, Nothing())


class Nothing(msgspec.Struct, frozen=True):
    """Nothing to configure."""


class Sequencer(Machine[Any]):
    """One member's window on the agreed log."""

    def __init__(self, agreed: Agreed) -> None:
        self.agreed = agreed
        self.position = 0  # in the list of commits
        self.epoch = 0
        self.proposals: dict[bytes, bytes] = {}
        self.reads: dict[bytes, int] = {}

    def on_start(self, ctx: Context[Any]) -> None:
        if self.agreed.snapshot is not None and self.agreed.rng.random() < 0.5:
            self.restore(ctx)
        self.on_timer(ctx, "tick")

    def restore(self, ctx: Context[Any]) -> None:
        assert self.agreed.snapshot is not None
        index, state = self.agreed.snapshot
        later = [at for at, commit in enumerate(self.agreed.log) if commit.index > index]
        start = later[0] if later else len(self.agreed.log)
        if start > self.position:
            self.position = start
            ctx.emit(Restored(index, state))

    @handles(SnapshotTaken)
    def on_snapshot(self, ctx: Context[Any], event: SnapshotTaken) -> None:
        known = self.agreed.snapshot
        if known is not None and known[0] == event.index:
            assert known[1] == event.state, f"two members differ at index {event.index}"
        if known is None or known[0] < event.index:
            self.agreed.snapshot = (event.index, event.state)

    @handles(Proposed)
    def on_proposed(self, ctx: Context[Any], event: Proposed) -> None:
        chance = self.agreed.rng.random()
        if chance < self.agreed.drop:
            return
        if chance < self.agreed.drop + self.agreed.refuse:
            ctx.emit(Rejected(event.id, "no leader", self.agreed.leader))
            return
        known = self.proposals.setdefault(event.id, event.command)
        assert known == event.command, "a retry keeps its bytes"
        ctx.set_timer(("order", event.id, ctx.now), self.agreed.rng.uniform(*self.agreed.delay))

    @handles(ReadAsked)
    def on_read(self, ctx: Context[Any], event: ReadAsked) -> None:
        if self.agreed.rng.random() >= self.agreed.drop and ctx.me not in self.agreed.apart:
            self.reads[event.id] = len(self.agreed.log)

    def on_timer(self, ctx: Context[Any], key: Any) -> None:
        agreed = self.agreed
        if key == "tick":
            if ctx.me not in agreed.apart:
                self.catch_up(ctx)
            ctx.set_timer("tick", agreed.rng.uniform(0.2, 1.8) * agreed.lag)
            return
        _, id, _ = key
        if ctx.me in agreed.apart:
            return
        agreed.append(id, ctx.me, self.proposals[id])
        if agreed.rng.random() < agreed.twice:
            ctx.set_timer(("order", id, ctx.now), agreed.rng.uniform(0.0, 3.0))

    def catch_up(self, ctx: Context[Any]) -> None:
        agreed = self.agreed
        if self.epoch != agreed.epoch:
            self.epoch = agreed.epoch
            ctx.emit(LeaderChanged(agreed.leader, agreed.epoch))
        if agreed.snapshot is not None and agreed.rng.random() < 0.01:
            self.restore(ctx)
        for commit in agreed.log[self.position :]:
            ctx.emit(commit)
        self.position = len(agreed.log)
        for id in list(self.reads):
            del self.reads[id]
            ctx.emit(ReadReady(id, self.position))
