"""Replicas whose disks forget, one at a time: silent until renewed, and nothing executed is lost.

GROVE_FULL=1: 300 seeds instead of 12.
"""

from __future__ import annotations

import os
from random import Random
from typing import Any

import pytest
from grove_pbft.machine import Pbft

from grove_core.machine import LOST
from tests.plugins.pbft.group import Group

SEEDS = 300 if os.environ.get("GROVE_FULL") == "1" else 12
CONFIG: dict[str, Any] = {
    "checkpoint_every": 8, "snapshot_every": 32, "request_timeout": 1.0, "observe": 0.5, "reconnect": 0.2,
}  # fmt: skip


def forget(group: Group, index: int, disk: dict[str, bytes]) -> None:
    group.crash(index)
    group.nodes[index].disk["pbft"] = {**disk, LOST: b"%d" % group.nodes[index].starts}
    group.restart(index, at=0.1)


def test_who_forgot_says_nothing_until_a_configuration_begins_after_its_loss() -> None:
    group = Group(4, seed=1, config=CONFIG).run(0.5)
    for number in range(20):
        group.propose(number % 4)
        group.run(0.1)
    victim = group.by_rank()[2]
    forget(group, victim, {})
    group.run(0.15)
    machine = group.machine(victim)
    assert machine.forgot
    assert not machine.is_voter(group.nodes[victim].contexts[0])
    number = machine.configuration.number
    group.run(15.0)
    assert not machine.forgot
    assert machine.configuration.number == number + 1
    names = {one.configuration.name for one in map(group.machine, range(4))}
    assert names == {machine.configuration.name}
    other = group.by_rank()[3]
    group.crash(other)  # now the group needs the one that came back
    before = len(group.committed[victim])
    group.propose(group.by_rank()[1])
    group.run(10.0)
    assert len(group.committed[victim]) == before + 1
    group.assert_agreement()


def run(seed: int, build: type[Pbft] | None = None) -> Group:
    rng = Random(f"pbft losses {seed}")
    liars = None if build is None else dict.fromkeys(range(4), build)
    group = Group(4, seed=seed, delay=rng.choice((0.005, 0.02)), disk=0.001, config=CONFIG, liars=liars)
    group.liars = {}  # all are held to the rules
    group.run(0.5)
    past: list[list[dict[str, bytes]]] = [[{}] for _ in range(4)]
    losses = 0
    for _ in range(120):
        for _ in range(rng.randrange(4)):
            index = rng.randrange(4)
            if group.nodes[index].alive:
                group.propose(index)
        group.run(rng.expovariate(10.0))
        index = rng.randrange(4)
        past[index].append(dict(group.nodes[index].disk.get("pbft", {})))
        all_there = all(node.alive for node in group.nodes) and not any(
            group.machine(other).forgot for other in range(4)
        )
        if all_there and rng.random() < 0.15:
            disk = rng.choice(past[index][-3:])
            if rng.random() < 0.4:
                disk = {key: value for key, value in disk.items() if rng.random() < 0.7}
            forget(group, index, disk)
            losses += 1
    for _ in range(60):
        group.run(1.0)
        if all(node.alive for node in group.nodes) and not any(group.machine(i).forgot for i in range(4)):
            break
    group.losses = losses  # type: ignore[attr-defined]
    return group


def test_who_forgot_twice_uses_no_number_of_its_earlier_lives() -> None:
    """Seed 25: it counted on from the older state in which it had asked to be renewed, and what it asked
    for next had the number of something executed: nobody listened."""
    group = run(25)
    group.propose(1, b"last")
    group.run(10.0)
    assert group.commands(1)[-1:] == [b"last"]


@pytest.mark.claim("pbft.forgetful-disks")
def test_disks_that_forget_lose_nothing_and_the_group_mends_itself(record_property: Any) -> None:
    losses = 0
    for seed in range(1, SEEDS + 1):
        group = run(seed)
        assert not any(group.machine(index).forgot for index in range(4)), f"seed {seed}"
        group.propose(seed % 4, b"last")
        group.run(10.0)
        for index in range(4):
            # Not always the last: somebody may still be asking again for what was asked before.
            assert b"last" in group.commands(index), f"seed {seed}: node {index}"
        group.assert_agreement()
        losses += group.losses  # type: ignore[attr-defined]
    assert losses > SEEDS
    record_property("measured", f"{SEEDS} seeds, {losses} losses, nothing broken")
    print(f"{losses} losses in {SEEDS} seeds")


class IgnoresLosses(Pbft):
    """What the driver says of the disk is not heard."""

    def has_forgotten(self, ctx: Any) -> bool:
        ctx.save(LOST, None)
        return False


@pytest.mark.claim("pbft.forgetful-disks")
def test_a_replica_that_ignores_its_losses_is_caught() -> None:
    """The control: it contradicts what it signed, or never comes back."""
    for seed in range(1, 101):
        group = run(seed, IgnoresLosses)
        group.propose(seed % 4, b"last")
        group.run(10.0)
        try:
            group.assert_agreement()
            assert all(group.commands(index)[-1:] == [b"last"] for index in range(4)), "one is stuck"
        except AssertionError as error:
            print(f"seed {seed}: {error}")
            return
    pytest.fail("100 seeds found nothing")
