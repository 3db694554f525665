"""Disks that forget, in virtual time: a member begins again as of an earlier moment, or with holes.

Never a majority at a time, counting who is down. The driver tells a member that it forgot (`LOST`), as
the real one does (`tests/core/test_records.py`); messages of earlier lives may still be on their way.
GROVE_FULL=1: 5,000 seeds instead of 40.
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random
from typing import Any

import pytest
from grove_raft.log import Log
from grove_raft.machine import Raft

from grove_core.drive.virtual import SimulationError, VirtualNode
from grove_core.machine import LOST
from grove_core.testing import linearizability
from grove_core.testing.agreement import Disagreement
from tests.plugins.raft.group import Clients, Group

SEEDS = 5000 if os.environ.get("GROVE_FULL") == "1" else 40


class Forgetful:
    """Members crash at random moments; many come back with records of an earlier one, or without some."""

    def __init__(self, group: Group, rng: Random, every: float) -> None:
        self.group, self.rng, self.every = group, rng, every
        self.past: dict[VirtualNode, list[dict[str, bytes]]] = {node: [{}] for node in group.nodes}
        self.met: Counter[str] = Counter()
        self.is_over = False
        self._soon(self._remember, 0.02)
        self._soon(self._strike, every)

    def _soon(self, act: Any, mean: float) -> None:
        world = self.group.world
        world.at(world.now + self.rng.expovariate(1 / mean), act)

    def _remember(self) -> None:
        if not self.is_over:
            self._soon(self._remember, 0.02)
            node = self.rng.choice(self.group.nodes)
            self.past[node].append(dict(node.disk.get("raft", {})))

    def _forgets(self, node: VirtualNode) -> bool:
        """Whether a member counts for nothing now."""
        return not node.alive or self.group.raft(node).log.is_damaged or LOST in node.disk.get("raft", {})

    def _strike(self) -> None:
        if self.is_over:
            return
        self._soon(self._strike, self.every)
        group, rng, world = self.group, self.rng, self.group.world
        leader = group.leader()
        node = leader if leader is not None and rng.random() < 0.4 else rng.choice(group.nodes)
        others = sum(self._forgets(other) for other in group.nodes if other is not node)
        kind = rng.random()
        if kind < 0.6 and node.alive and others < (len(group.nodes) - 1) // 2:
            world.crash(node)
            if rng.random() < 0.8:
                self._forget(node)
            world.restart(node, at=rng.choice((0.0, 0.02, 0.2)))
            self.met["forgot" if LOST in node.disk.get("raft", {}) else "crashed"] += 1
            return
        other = rng.choice(group.nodes)
        if other is node:
            return
        if kind < 0.8:  # what is under way between them comes late, after lives that ended meanwhile
            world.clog(node, other)
            world.at(world.now + rng.expovariate(3.0), lambda: world.unclog(node, other))
        else:
            division = world.divide([int(one is node) for one in group.nodes], one_way=rng.random() < 0.3)
            world.at(world.now + rng.expovariate(2.0), lambda: world.reunite(division))

    def _forget(self, node: VirtualNode) -> None:
        rng, disk = self.rng, node.disk.get("raft", {})
        kind = rng.random()
        if kind < 0.5:  # the last moments
            disk = rng.choice(self.past[node][-4:])
        elif kind < 0.7:
            disk = rng.choice(self.past[node])
        elif kind < 0.9:
            disk = {key: value for key, value in disk.items() if rng.random() < 0.8}
        else:
            disk = {}
        node.disk["raft"] = {**disk, LOST: rng.randbytes(8)}

    def end(self) -> None:
        self.is_over = True
        for one in self.group.nodes:
            for other in self.group.nodes:
                if one is not other:
                    self.group.world.unclog(one, other)


def run(seed: int, build: type[Raft] = Raft, seconds: float = 6.0, *, live: bool = True) -> Counter[str]:
    """One history. Raises Disagreement, SimulationError or AssertionError."""
    rng = Random(f"losses {seed}")
    group = Group(
        rng.choice((3, 3, 5)),
        seed=seed,
        build=build,
        snapshot_every=rng.choice((0, 10, 30)),
        trailing=rng.choice((0, 5)),
        delay=rng.choice((0.002, 0.01, 0.02)),
        disk=rng.choice((0.0005, 0.005)),
        append_entries=rng.choice((1, 4, 1024)),
        reads=rng.choice(("index", "lease")),
    )
    clients = Clients(group, rng, rate=40.0)
    group.run(0.5)
    storm = Forgetful(group, rng, every=rng.choice((0.1, 0.2, 0.4)))
    group.run(seconds)
    storm.end()
    clients.is_stopped = True
    if live:

        def is_whole() -> bool:
            leader = group.leader()
            return leader is not None and group.raft(leader).commits_in_its_term() and all(
                node.alive and not group.raft(node).log.is_damaged
                and group.raft(node).applied >= group.raft(leader).commit
                for node in group.nodes
            )  # fmt: skip

        group.until(is_whole, within=12.0)
    else:
        group.run(1.0)
    verdict = linearizability.check(clients.finished(), budget=50_000)
    assert verdict != "not linearizable", f"seed {seed}: the history is not linearizable"
    storm.met[verdict] += 1
    return storm.met


@pytest.mark.claim("raft.forgetful-disks")
def test_disks_that_forget_break_no_rule_and_the_group_mends_itself(record_property: Any) -> None:
    met: Counter[str] = Counter()
    for seed in range(1, SEEDS + 1):
        met += run(seed)
    record_property("measured", f"{SEEDS} seeds, {met['forgot']} losses, nothing broken")
    print(dict(met))
    assert met["forgot"] > SEEDS
    assert met["linearizable"] > SEEDS * 0.7


class _Unaware(Log):
    def is_remembered(self, ctx: Any) -> bool:
        ctx.save(LOST, None)
        return True


class IgnoresLosses(Raft):
    """What the driver says of the disk is not heard: as every Raft on a plain file does."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.log = _Unaware()


class HealsWithTheFirstCommit(Raft):
    """Once something of this term is committed here, all is well again: as this Raft once did."""

    def apply(self, ctx: Any) -> None:
        if self._is_awake and self.log.is_damaged and self.log.term_at(self.commit) == self.log.term:
            self.log.heal(ctx)
        super().apply(ctx)


MUTANTS = (IgnoresLosses, HealsWithTheFirstCommit)  # who counts them is caught in test_traps.py


@pytest.mark.claim("raft.forgetful-mutants")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_member_that_forgives_itself_is_caught(mutant: type[Raft]) -> None:
    for seed in range(1, 1001):
        try:
            run(seed, mutant, live=False)
        except (Disagreement, SimulationError, AssertionError) as error:
            print(f"seed {seed}: {str(error)[:200]}")
            return
    pytest.fail(f"{mutant.__name__}: 1,000 seeds found nothing")
