"""Grove's commons over etcd's consensus, in virtual time, while everything happens to etcd.

The workloads are those that hold Raft and PBFT up (`tests/plugins/commons`), so this file runs from
Grove's own folder only.
"""

from __future__ import annotations

import os
from math import inf
from random import Random

import pytest
from grove_consensus_etcd.testing.town import Town, Trouble

from grove_core.drive.virtual import VirtualNode
from grove_core.events import Restored
from grove_core.testing import part
from grove_core.testing.linearizability import check

REASON = "needs the tests of Grove itself: run pytest in Grove's folder"
clients = pytest.importorskip("tests.plugins.commons.clients", reason=REASON)
village = pytest.importorskip("tests.plugins.commons.village", reason=REASON)

SEEDS = 100 if os.environ.get("GROVE_FULL") == "1" else 4


@pytest.mark.claim("etcd.linearizable")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_map_over_it_is_linearizable_and_equal_whatever_happens(seed: int) -> None:
    commons = part("commons", snapshot_every=64, patience=8.0, witness_delay=2.0)
    town = Town(4, seed, (commons,), trailing=16, snapshot_delay=1.0)
    asking = clients.Clients(town.world, town.nodes, Random(f"clients {seed}"), rate=5.0)
    asking.begin(at=2.0, until=40.0)
    Trouble(town, seed, until=35.0)
    town.agreement.run_for(70.0)
    history = asking.finished()
    answered = sum(operation.answer < inf for operation in history)
    trims = sum(1 for _, event in town.events if isinstance(event, Restored))
    print(f"seed {seed}: {asking.count} asks, {answered} answered, {trims} restored")
    assert answered > asking.count * 0.8
    assert check(history, budget=1_000_000) == "linearizable", f"seed {seed}"
    assert not any(town.machine(n).broken for n in range(4))
    states = {node.machine("commons").state.snapshot() for node in town.nodes}
    assert len(states) == 1, f"seed {seed}"
    log = [key for key in town.etcd.model.created if b"/log/" in key]
    assert all(town.etcd.model.created[key] == 1 for key in log), f"seed {seed}"


@pytest.mark.claim("etcd.claims")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_old_token_is_accepted_and_every_task_finishes(seed: int) -> None:
    commons = part("commons", snapshot_every=64, patience=8.0, witness_delay=2.0)
    town = Town(4, seed, (commons,), trailing=16, snapshot_delay=1.0, lease=2)
    agents = village.Village(
        town.world, town.nodes, 60, seed=seed, lease=5.0, work=1.0, pause=0.15, per_node=2
    )
    agents.begin(at=2.0)
    Trouble(town, seed, until=30.0)
    again = town.restart

    def restart(node: VirtualNode, after: float) -> None:
        again(node, after)
        town.world.at(town.world.now + after + 0.06, lambda: agents.rebegin(node))

    town.restart = restart  # type: ignore[method-assign]
    while len(agents.judge.done) < 60 and town.world.now < 600.0:
        town.run_for(1.0)
    print(f"seed {seed}: all done after {town.world.now:.0f} s, {agents.started} started")
    agents.verdict()
