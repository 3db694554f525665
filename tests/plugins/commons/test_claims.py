"""Exclusive claims in a bad world (consensus reference 9, claim 28): pauses, crashes, partitions.

GROVE_FULL=1: 50 agents, 1,000 tasks, 25 seeds. All 200 run over Raft: `test_over_consensus.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from grove_commons.events import ClaimGranted, ClaimLost
from grove_commons.machine import Commons
from grove_commons.state import Session, State

from grove_core.drive.virtual import Clock, SimulationError, VirtualNode, World
from grove_core.machine import Event, PeerId
from grove_core.testing.linearizability import Operation, check
from grove_core.testing.parts import part
from tests.plugins.commons.clients import Clients
from tests.plugins.commons.sequencer import Agreed
from tests.plugins.commons.village import Village

FULL = os.environ.get("GROVE_FULL") == "1"
AGENTS, TASKS, SEEDS = (50, 1000, 25) if FULL else (10, 60, 12)
LEASE = 5.0


def village(seed: int, agents: int, tasks: int, agreed: Agreed, **more: float) -> Village:
    world = World(seed=seed, trace=not FULL)
    parts = [part("commons", snapshot_every=256, patience=8.0, witness_delay=2.0), agreed.part()]
    rng = Random(f"starts {seed}")
    nodes = [world.add(parts, at=rng.uniform(0, 0.5)) for _ in range(agents)]
    return Village(world, nodes, tasks, seed=seed, lease=LEASE, **more)


def trouble(town: Village, agreed: Agreed, rng: Random, until: float) -> None:
    """One misfortune after the other: leaders change, nodes are cut off, nodes crash and come back."""
    world = town.world

    def again() -> None:
        if world.now > until:
            agreed.apart.clear()
            return
        node = rng.choice(town.nodes)
        match rng.randrange(3):
            case 0:
                agreed.lead(rng.choice([None, rng.choice(town.nodes).peer]))
            case 1:
                agreed.apart.add(node.peer)
                world.at(world.now + rng.uniform(0.5, 3 * LEASE), lambda: agreed.apart.discard(node.peer))
            case _ if node.alive:
                world.crash(node)
                back = rng.uniform(0.1, 2 * LEASE)
                world.restart(node, at=back)
                world.at(world.now + back + 0.01, lambda: town.rebegin(node))
        world.at(world.now + rng.expovariate(1.5), again)

    world.at(1.0, again)


@pytest.mark.claim("commons.claims-in-trouble")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_old_token_is_accepted_and_every_task_finishes(seed: int) -> None:
    agreed = Agreed(seed, drop=0.1, refuse=0.1, twice=0.1, delay=(0.01, 0.6))
    town = village(seed, AGENTS, TASKS, agreed, pause=0.15)
    world = town.world
    world.at(0.6, lambda: agreed.lead(town.nodes[0].peer))
    town.begin()
    trouble(town, agreed, Random(f"trouble {seed}"), until=120.0 if FULL else 40.0)
    took = town.run_until_done(limit=3600.0)
    print(
        f"seed {seed}: {len(town.judge.done)} of {TASKS} done after {took:.0f} s, {town.started} "
        f"started, {len(town.judge.refused)} results refused, {town.judge.ended} claims ended, "
        f"{town.lost} lost"
    )
    town.verdict()
    assert town.judge.ended, "the world was not bad enough to mean anything"


def test_over_all_seeds_results_with_old_tokens_do_arrive_and_are_refused() -> None:
    refused = 0
    for seed in range(4):
        agreed = Agreed(seed)
        town = village(seed, 6, 20, agreed, pause=0.5)
        town.world.at(0.6, lambda agreed=agreed, town=town: agreed.lead(town.nodes[0].peer))  # type: ignore[misc]
        town.begin()
        town.run_until_done(600.0)
        town.verdict()
        refused += len(town.judge.refused)
    assert refused > 5, "nothing was put to the test"


def test_one_seed_is_one_history() -> None:
    def run() -> str:
        agreed = Agreed(5, drop=0.1, refuse=0.1, twice=0.1)
        town = village(5, 5, 20, agreed)
        town.begin()
        trouble(town, agreed, Random(5), until=20.0)
        town.run_until_done(600.0)
        return town.world.digest()

    assert run() == run()


def test_without_trouble_each_task_is_started_once() -> None:
    agreed = Agreed(1)
    town = village(1, 10, 60, agreed, pause=0.0)
    town.begin()
    town.run_until_done(600.0)
    town.verdict()
    assert town.started == 60
    assert not town.judge.refused


def test_a_task_whose_holder_died_is_taken_over_within_its_lease_and_the_witness_delay() -> None:
    agreed = Agreed(1)
    town = village(1, 5, 1, agreed, pause=0.0, work=1000.0)
    world = town.world
    world.at(0.6, lambda: agreed.lead(town.nodes[4].peer))
    town.begin()
    world.run(until=3.0)
    (task,) = town.judge.live
    holder, token = town.judge.live[task]
    world.crash(world.nodes[holder])
    before = world.now
    while town.judge.live.get(task) in (None, (holder, token)) and world.now < 60:
        world.run_for(0.1)
    assert town.judge.live[task][1] > token
    assert LEASE - 2 < world.now - before < LEASE + 2 * 2.0 + 2.0


def overlaps(seed: int) -> tuple[list[str], int]:
    """Grants while an earlier holder counted on the task; and how often a holder was told to stop."""
    rng = Random(f"clocks {seed}")
    agreed = Agreed(seed, drop=0.2, delay=(0.01, 0.3))
    town = village(seed, 6, 40, agreed, pause=0.0, work=3.0)
    for node in town.nodes:
        node.clock = Clock(rng.uniform(0.995, 1.005))
    found: list[str] = []
    lost = 0

    def watch(node: VirtualNode, event: Event) -> None:
        nonlocal lost
        lost += isinstance(event, ClaimLost)
        if not isinstance(event, ClaimGranted):
            return
        for other in town.nodes:
            if other.alive and other.clock is not None:
                kept = other.machine("commons").keeping.get(event.task)
                if kept is not None and kept.token < event.token:
                    left = kept.until - other.clock.at(town.world.now)
                    if left > 0:
                        found.append(f"{event.task}: {left:.3f} s left of {kept.token}")

    town.world.sinks.append(watch)
    town.world.at(0.6, lambda: agreed.lead(town.nodes[0].peer))
    town.begin()
    trouble(town, agreed, rng, until=60.0)
    town.run_until_done(600.0)
    town.verdict()
    return found, lost


@pytest.mark.claim("commons.stops-in-time")
@pytest.mark.parametrize("seed", range(6))
def test_a_holder_has_stopped_before_another_is_granted_its_task(seed: int) -> None:
    """Where clocks keep to `drift`: no result needs it, but it saves work done twice."""
    found, lost = overlaps(seed)
    assert lost, "nobody was cut off long enough to mean anything"
    assert not found, f"seed {seed}: {found}"


def test_a_holder_that_counts_too_long_is_seen_to_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Commons, "_until", lambda self, asked, ttl: asked + ttl / 1000 * 4)
    assert any(overlaps(seed)[0] for seed in range(6))


def careless_about_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever submits is taken for the holder."""
    submit = State._submit

    def careless(self: State, task: str, token: int, result: bytes, by: PeerId, news: Any) -> Any:
        held = self.claims.get(task)
        return submit(self, task, held.token, result, held.holder, news) if held else submit(
            self, task, token, result, by, news
        )  # fmt: skip

    monkeypatch.setattr(State, "_submit", careless)


def careless_about_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim is granted though somebody holds the task."""
    claim = State._claim

    def careless(self: State, want: Any, by: PeerId, news: Any) -> Any:
        if want.task in self.claims:
            self._free(want.task, self.claims[want.task])
        return claim(self, want, by, news)

    monkeypatch.setattr(State, "_claim", careless)


@pytest.mark.parametrize("careless", [careless_about_tokens, careless_about_holders])
def test_a_planted_bug_is_caught(
    careless: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative controls: the judge, or the agents, notice within a few seeds."""
    careless(monkeypatch)
    caught = 0
    for seed in range(10):
        agreed = Agreed(seed, drop=0.1, twice=0.3)
        town = village(seed, 6, 30, agreed, pause=0.4)
        town.begin()
        trouble(town, agreed, Random(seed), until=40.0)
        try:
            town.run_until_done(300.0)
            town.verdict()
        except (SimulationError, AssertionError):
            caught += 1
            break
    assert caught


# The map over a consensus that commits twice what was proposed once.


def careless_about_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second commit of one id counts again."""

    def careless(self: State, proposer: PeerId, name: Any, oldest: int) -> Session:
        return self.sessions.setdefault(proposer, Session(name.life, 0, {}))

    monkeypatch.setattr(State, "_session", careless)


def history(seed: int) -> list[Operation]:
    agreed = Agreed(seed, drop=0.1, refuse=0.1, twice=0.3, delay=(0.01, 0.3))
    town = village(seed, 5, 0, agreed)
    clients = Clients(town.world, town.nodes, Random(seed), rate=4.0)
    clients.begin(at=1.0, until=15.0)
    trouble(town, agreed, Random(f"trouble {seed}"), until=15.0)
    town.world.run(until=40.0)
    return clients.finished()


@pytest.mark.claim("commons.linearizable")
@pytest.mark.parametrize("seed", range(500 if FULL else 6))
def test_the_map_is_linearizable_though_commits_come_twice(seed: int) -> None:
    assert check(history(seed)) == "linearizable", f"seed {seed}"


def test_counting_a_retry_twice_is_not_linearizable(monkeypatch: pytest.MonkeyPatch) -> None:
    careless_about_retries(monkeypatch)
    assert any(check(history(seed)) == "not linearizable" for seed in range(10))
