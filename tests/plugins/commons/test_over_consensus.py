"""The same commons over Raft and over PBFT, in virtual time, with nodes cut off, crashed and restarted.

GROVE_FULL=1: 50 agents, 1,000 tasks, 200 seeds over Raft (claim 28; 3 s each) and 50 over PBFT, 50
histories for the map.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import inf
from random import Random
from typing import Any

import pytest
from grove_commons.events import Read

from grove_core.drive.virtual import VirtualNode, World
from grove_core.identity import peer_text
from grove_core.specs import Part
from grove_core.testing.agreement import Agreement
from grove_core.testing.linearizability import check
from grove_core.testing.parts import part
from grove_core.testing.village import peer
from tests.plugins.commons.clients import Clients
from tests.plugins.commons.village import Village

FULL = os.environ.get("GROVE_FULL") == "1"
BLOCK = 25 if FULL else 3
BLOCKS = [("raft", block) for block in range(8 if FULL else 1)]
BLOCKS += [("pbft", block) for block in range(2 if FULL else 1)]
PER_NODE, TASKS = (10, 1000) if FULL else (2, 60)
LEASE = 5.0
COMMONS = {"snapshot_every": 64, "patience": 8.0, "witness_delay": 2.0}

KINDS = ["raft", "pbft"]
OTHERS = {"voters": [peer_text(peer(number)) for number in range(4)]}


def members(kind: str, world: World, count: int, voters: int, **commons: Any) -> list[VirtualNode]:
    """Nodes with the commons over a consensus; the first few decide."""
    ids = [peer_text(world.peer(index)) for index in range(count)]
    if kind == "raft":
        consensus = part("raft", voters=ids[:voters], election_timeout=0.3, heartbeat=0.05, reconnect=0.2)
    else:
        others: dict[str, Any] = {"learners": ids[voters:]}
        consensus = part("pbft", voters=ids[:voters], snapshot_every=64, **others)
        commons["witnesses"] = 2  # f + 1
    parts: tuple[Part, ...] = (part("commons", **{**COMMONS, **commons}), consensus)
    rng = Random(f"starts {world.seed}")
    return [world.add(parts, at=rng.uniform(0.0, 0.3)) for _ in range(count)]


class Trouble:
    """One node at a time is cut off, or crashes and comes back, for as long as `until`."""

    def __init__(self, world: World, nodes: list[VirtualNode], rng: Random, until: float) -> None:
        self.world, self.nodes, self.rng, self.until = world, nodes, rng, until
        self.again: Callable[[VirtualNode], None] = lambda node: None
        """Told when a node has begun another life."""
        world.at(3.0, self.strike)

    def strike(self) -> None:
        world, rng = self.world, self.rng
        if world.now > self.until:
            return
        node, lasts = rng.choice(self.nodes), rng.uniform(0.5, 2 * LEASE)
        if rng.random() < 0.5:
            sides = [int(other is node) for other in world.order]
            division = world.divide(sides, one_way=rng.random() < 0.3)
            world.at(world.now + lasts, lambda: world.reunite(division))
        else:
            world.crash(node)
            world.restart(node, at=lasts)
            world.at(world.now + lasts + 0.01, lambda: self.again(node))
        world.at(world.now + lasts + rng.uniform(0.2, 3.0), self.strike)


@pytest.mark.claim("commons.claims-over-consensus")
@pytest.mark.parametrize(("kind", "block"), BLOCKS)
def test_no_old_token_is_accepted_and_every_task_finishes(
    kind: str, block: int, record_property: Any
) -> None:
    towns = [town_in_trouble(kind, seed) for seed in range(block * BLOCK, (block + 1) * BLOCK)]
    refused = sum(len(town.judge.refused) for town in towns)
    record_property(
        "measured",
        f"{kind}, seeds {block * BLOCK} to {(block + 1) * BLOCK - 1}: {BLOCK} x {TASKS} tasks done, "
        f"{sum(town.judge.ended for town in towns)} claims ended, {refused} results refused, "
        "0 accepted with an old token",
    )


def town_in_trouble(kind: str, seed: int) -> Village:
    """One history, with its verdict."""
    world = World(seed=seed, delay=0.005, disk=0.001, dial_timeout=1.0)
    nodes = members(kind, world, 5, 5 if kind == "raft" else 4)  # with PBFT the fifth one listens
    agreement = Agreement(world)
    town = Village(world, nodes, TASKS, seed=seed, lease=LEASE, work=1.0, pause=0.15, per_node=PER_NODE)
    town.begin(at=2.0)
    trouble = Trouble(world, nodes, Random(f"trouble {seed}"), until=300.0 if FULL else 30.0)
    trouble.again = town.rebegin
    while len(town.judge.done) < TASKS and world.now < 1800.0:
        agreement.run_for(1.0)
    print(
        f"{kind}, seed {seed}: {len(town.judge.done)} of {TASKS} after {world.now:.0f} s, "
        f"{town.started} started, {len(town.judge.refused)} refused, {town.judge.ended} ended"
    )
    town.verdict()
    return town


@pytest.mark.claim("commons.linearizable")
@pytest.mark.parametrize("seed", range(50 if FULL else 4))
@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_linearizable_whatever_happens(kind: str, seed: int) -> None:
    world = World(seed=seed, delay=0.005, disk=0.001, dial_timeout=1.0)
    nodes = members(kind, world, 5, 5 if kind == "raft" else 4, patience=3.0)
    clients = Clients(world, nodes, Random(f"clients {seed}"), rate=10.0)
    clients.begin(at=2.0, until=40.0)
    Trouble(world, nodes, Random(f"trouble {seed}"), until=35.0)
    world.run(until=60.0)
    history = clients.finished()
    answered = sum(operation.answer < inf for operation in history)
    print(f"{kind}, seed {seed}: {clients.count} asks, {answered} answered")
    assert answered > clients.count / 2
    assert check(history) == "linearizable", f"seed {seed}"


@pytest.mark.parametrize("kind", KINDS)
def test_all_members_hold_the_same_bytes_after_trouble(kind: str) -> None:
    world = World(seed=9, delay=0.005, disk=0.001, dial_timeout=1.0)
    nodes = members(kind, world, 5, 5 if kind == "raft" else 4)
    clients = Clients(world, nodes, Random(9), rate=20.0)
    clients.begin(at=2.0, until=20.0)
    Trouble(world, nodes, Random(9), until=18.0)
    world.run(until=60.0)
    states = [node.machine("commons").state.snapshot() for node in nodes]
    assert all(node.alive for node in nodes)
    assert len(set(states)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_that_is_no_member_is_told_so_and_its_consensus_lives_on(kind: str) -> None:
    world = World(seed=3, delay=0.005)
    members(kind, world, 4, 4)
    stranger = world.add(
        (part("commons", patience=1.0), part(kind, **({"voters": []} if kind == "raft" else OTHERS)))
    )
    told: list[Any] = []
    world.sinks.append(
        lambda node, event: told.append(event) if isinstance(event, Read) and node is stranger else None
    )
    world.run(until=1.0)
    stranger.plugin("commons").call(lambda machine, ctx: machine.read(ctx))
    world.run(until=5.0)
    (read,) = told
    assert read.failed
