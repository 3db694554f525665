"""Crashes, restarts, partitions one-way and both, resets, slow disks: nobody disagrees, nothing
committed is lost, and when the faults end everybody has everything (consensus reference 5.2)."""

from __future__ import annotations

import copy
import os
from random import Random
from typing import Any

import pytest
from grove_pbft.machine import Pbft

from grove_core.drive.virtual import uniform
from grove_core.errors import GroveError
from grove_core.events import Committed, Restored, SnapshotAsked, SnapshotTaken
from grove_core.machine import Machine, handles
from grove_core.specs import Part, ProtocolSpec
from grove_core.testing.agreement import Agreement
from grove_core.testing.conformance.protocol import weight
from tests.plugins.pbft.group import Group

SEEDS = range(int(os.environ.get("GROVE_SEEDS", "2000" if os.environ.get("GROVE_FULL") else "12")))
SMALL = {"checkpoint_every": 4, "snapshot_every": 16}


class Troubles:
    """Random faults on a group, at most f voters down at a time; everything ends well."""

    def __init__(self, seed: int, n: int = 4, observers: int = 1, **group: Any) -> None:
        self.rng = Random(seed)
        self.n, self.total = n, n + observers
        self.group = Group(
            n,
            observers=observers,
            seed=seed,
            disk=self.rng.choice((0.0, 0.002, 0.02)),
            delay=uniform(0.005, 0.08, seed),
            config=SMALL,
            **group,
        )
        self.agreement = Agreement(self.group.world)
        self.division: Any = None
        self.proposed = 0

    def run(self, seconds: float) -> Troubles:
        self.group.run(0.5)
        until = self.group.world.now + seconds
        while self.group.world.now < until:
            self.group.run(self.rng.expovariate(4.0))
            self._step()
        self._heal()
        return self

    def _step(self) -> None:
        rng, group = self.rng, self.group
        what = rng.random()
        alive = [index for index in range(self.total) if group.nodes[index].alive]
        dead = [index for index in range(self.total) if not group.nodes[index].alive]
        if what < 0.55:
            group.propose(rng.choice(alive), b"%d" % self.proposed)
            self.proposed += 1
        elif what < 0.65:
            down = sum(1 for index in dead if index < self.n)
            index = rng.choice(alive)
            if index >= self.n or down < (self.n - 1) // 3:
                group.crash(index, silent=rng.choice((None, 1.0)))
        elif what < 0.78:
            if dead:
                group.restart(rng.choice(dead))
                group.run(0.001)
        elif what < 0.88:
            if self.division is None:
                sides = [rng.randrange(2) for _ in range(self.total)]
                self.division = group.world.divide(sides, one_way=rng.random() < 0.4)
        elif self.division is not None:
            group.world.reunite(self.division)
            self.division = None

    def _heal(self) -> None:
        group = self.group
        if self.division is not None:
            group.world.reunite(self.division)
        for index in range(self.total):
            if not group.nodes[index].alive:
                group.restart(index)
        group.run(30.0)
        last = [group.propose(index, b"last") for index in range(self.total)]
        group.run(20.0)
        self.agreement.check_all()
        group.assert_agreement()
        where = f"seed {group.world.seed}"
        executed = {group.machine(index).executed for index in range(self.total)}
        assert len(executed) == 1, f"{where}: executed {executed}"
        for id in last:
            nodes = {node for _, node in group.committed_at.get(id, ())}
            assert len(nodes) == self.total, f"{where}: the last commands reached {sorted(nodes)}"


@pytest.mark.claim("pbft.agreement")
def test_whatever_breaks_nobody_disagrees_and_all_have_all_in_the_end() -> None:
    for seed in SEEDS:
        Troubles(seed).run(25.0)


@pytest.mark.claim("pbft.agreement")
def test_seven_voters_with_two_down_too() -> None:
    for seed in list(SEEDS)[::3]:
        Troubles(1000 + seed, n=7).run(25.0)


def test_everybody_crashing_at_once_loses_nothing_that_was_committed() -> None:
    for seed in range(5):
        group = Group(4, observers=1, seed=seed, disk=0.005, config=SMALL)
        group.run(0.5)
        rng = Random(seed)
        for number in range(60):
            group.propose(rng.randrange(5), b"%d" % number)
            group.run(0.03)
        known = {index: len(group.commands(index)) for index in range(5)}
        agreed = max(known.values())
        for index in range(5):
            group.crash(index)
        for index in range(5):
            group.restart(index, at=rng.random())
        group.run(10.0)
        group.propose(0, b"after")
        group.run(5.0)
        group.assert_agreement()
        for index in range(5):
            handed = group.restored.get(index, 0) + len(group.commands(index))
            assert handed >= agreed, f"seed {seed}: node {index} has {handed} of {agreed}"
            assert b"after" in group.commands(index), f"seed {seed}: node {index} stands still"


# A state machine above: states instead of history


class Ledger(Machine[Any]):
    """Keeps the sequence of commands, and hands it in when asked."""

    def __init__(self, config: Any) -> None:
        self.commands: list[bytes] = []

    @handles(Committed)
    def on_committed(self, ctx: Any, event: Committed) -> None:
        self.commands.append(event.command)

    @handles(SnapshotAsked)
    def on_asked(self, ctx: Any, event: SnapshotAsked) -> None:
        ctx.emit(SnapshotTaken(event.index, b",".join(self.commands)))

    @handles(Restored)
    def on_restored(self, ctx: Any, event: Restored) -> None:
        self.commands = event.state.split(b",") if event.state else []


def ledgers(group: Group) -> None:
    """Give every node of a group, before it starts, a ledger above its consensus."""
    spec = ProtocolSpec(name="ledger", role="storage", config=_Nothing, build=Ledger)
    for node in group.nodes:
        node.parts = (*node.parts, Part(spec, _Nothing()))
        node.shape = group.world.shape(node.parts)


class _Nothing:
    pass


def ledger(group: Group, index: int) -> list[bytes]:
    commands: list[bytes] = group.nodes[index].machine("ledger").commands
    return commands


def test_a_state_takes_the_place_of_history_and_brings_back_who_was_away_too_long() -> None:
    group = Group(4, observers=1, config={"checkpoint_every": 4, "snapshot_every": 8})
    ledgers(group)
    group.run(0.5)
    away = group.by_rank()[2]
    group.crash(away)
    for number in range(60):
        group.propose(4, b"%d" % number)
        group.run(0.1)
    assert group.machine(0 if away else 1).floor >= 48
    group.restart(away)
    group.run(5.0)
    wanted = [b"%d" % number for number in range(60)]
    assert all(ledger(group, index) == wanted for index in range(5))
    assert group.seen(Restored, away), "it was given a state, not the commands"
    # And a restart begins from the state, with what came after.
    group.crash(4)
    group.restart(4)
    group.run(2.0)
    assert ledger(group, 4) == wanted


def test_who_slept_through_changes_of_voters_follows_the_hand_overs() -> None:
    settings = {"checkpoint_every": 2, "snapshot_every": 4, "sponsors": "one"}
    group = Group(5, observers=3, seed=4, config=settings)
    ledgers(group)
    group.run(0.5)
    ids = [node.peer for node in group.nodes]
    order = group.by_rank()
    away = order[4]
    keep = [index for index in range(5) if index != away][:3]
    group.crash(away)
    # Voters are replaced until only three of those that the sleeper knew are left.
    for step in ([5], [5, 6], [5, 6, 7]):
        voters = tuple(ids[index] for index in (*keep, *step))
        rest = tuple(peer for peer in ids if peer not in voters)
        group.nodes[keep[0]].consensus.reconfigure(voters, rest)
        for number in range(12):
            group.propose(keep[1], b"%d/%d" % (step[-1], number))
            group.run(0.3)
    assert group.machine(keep[0]).configuration.number >= 3
    group.restart(away)
    group.run(10.0)
    assert ledger(group, away) == ledger(group, keep[0])
    assert group.machine(away).voters() == group.machine(keep[0]).voters()


def test_a_replica_without_its_disk_comes_back_as_a_follower_of_the_rest() -> None:
    """Amnesia: it may contradict what it once signed, so it is one of the f; the others do not mind."""
    group = Group(4, observers=1, config=SMALL)
    ledgers(group)
    group.run(0.5)
    for number in range(30):
        group.propose(4, b"%d" % number)
        group.run(0.05)
    lost = group.by_rank()[1]
    group.crash(lost)
    group.nodes[lost].disk.clear()
    group.restart(lost)
    group.run(5.0)
    group.propose(4, b"after")
    group.run(5.0)
    group.assert_agreement()
    assert ledger(group, lost) == [*(b"%d" % number for number in range(30)), b"after"]


# What is bounded


def test_state_and_records_do_not_grow_with_history() -> None:
    group = Group(4, observers=1, config={"checkpoint_every": 4, "snapshot_every": 8})
    ledgers(group)
    group.run(0.5)
    weights, records = [], []
    for lap in range(4):
        for number in range(100):
            group.propose(number % 5, b"%d/%d" % (lap, number))
            group.run(0.02)
        group.run(3.0)
        weights.append(max(weight(group.machine(index)) for index in range(5)))
        records.append(max(len(node.disk["pbft"]) for node in group.nodes))
    assert weights[-1] <= weights[0] * 1.3, weights
    assert records[-1] <= records[0] + 20, records


def test_without_a_state_machine_history_is_bounded_all_the_same() -> None:
    settings = {"checkpoint_every": 4, "snapshot_every": 8, "history": 16}
    group = Group(4, observers=1, config=settings)
    group.run(0.5)
    for number in range(120):
        group.propose(4, b"%d" % number)
        group.run(0.1)
    assert max(len(node.disk["pbft"]) for node in group.nodes) < 120
    group.crash(4)
    group.restart(4)
    group.run(3.0)
    assert group.machine(4).executed == group.machine(0).executed
    (restored,) = group.seen(Restored, 4)
    assert restored.state == b"", "what was not handed in is not kept"


def test_a_machine_can_be_copied_in_mid_life() -> None:
    group = Group(4, observers=1)
    group.run(0.5)
    group.propose(4)
    group.run(0.05)
    machine: Pbft = group.machine(0)
    assert weight(copy.deepcopy(machine)) == weight(machine)


def test_the_checker_sees_a_disagreement() -> None:
    """Negative control of the checker itself."""
    group = Group(4)
    agreement = Agreement(group.world)
    group.run(0.5)
    group.propose(0)
    group.run(1.0)
    wrong = Committed(1, bytes(16), group.nodes[0].peer, b"other")
    with pytest.raises(GroveError, match="state machine safety"):
        agreement._heard(group.nodes[1], wrong)
