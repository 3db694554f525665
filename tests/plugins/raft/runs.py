"""One random run of a Raft group under faults, named by its seed."""

from __future__ import annotations

from random import Random
from typing import Any

from grove_raft.machine import Raft

from grove_core.testing import linearizability
from tests.plugins.raft.group import Clients, Group, Storm


class Violation(AssertionError):
    """A run went wrong. Names the seed and how to run it again."""


def run(
    seed: int,
    build: type[Raft] = Raft,
    *,
    seconds: float = 5.0,
    amnesia: bool = False,
    changes: int = 4,
    every: float | None = None,
    nodes: int | None = None,
    live: bool = True,
    rate: float = 40.0,
    **config: Any,
) -> Group:
    """Run a group of 3 or 5 through a storm, with clients and changes of members; then let it heal.

    Raises Disagreement, Violation or SimulationError. live: also demand that it comes to life again.
    """
    rng = Random(f"raft storm {seed}")
    nodes = nodes or rng.choice((3, 3, 5))
    strangers = 2 if changes and rng.random() < 0.5 else 0
    drift = rng.choice((0.0, 0.0, 0.02))
    group = Group(
        nodes,
        seed=seed,
        strangers=strangers,
        snapshot_every=rng.choice((0, 10, 30)),
        build=build,
        rates=(1.0 - drift, 1.0 + drift, 1.0) if drift else (),
        **{
            "delay": rng.choice((0.001, 0.005, 0.02)),
            "disk": rng.choice((0.0005, 0.001, 0.01)),
            "trailing": rng.choice((0, 5)),
            "append_entries": rng.choice((1, 4, 1024)),
            "reads": rng.choice(("index", "index", "lease")),
            **config,
        },
    )
    clients = Clients(group, rng, rate)
    storm = Storm(group, rng, every=every or rng.choice((0.1, 0.25, 0.6)), amnesia=amnesia)
    if strangers:
        for _ in range(changes):
            group.world.at(rng.uniform(0.3, seconds), lambda: _change(group, rng))
    for _ in range(rng.choice((0, 2))):
        group.world.at(rng.uniform(0.3, seconds), lambda: _hand_over(group, rng))
    group.run(seconds)
    storm.end()
    clients.is_stopped = True
    group.run(0.5)
    if live:
        _comes_to_life(group)
    verdict = linearizability.check(clients.finished(), budget=50_000)
    if verdict == "not linearizable":
        raise Violation(f"seed {seed}: the history is not linearizable")
    group.verdict = verdict  # type: ignore[attr-defined]
    return group


def _change(group: Group, rng: Random) -> None:
    leader = group.leader()
    if leader is not None:
        peers = [node.peer for node in group.nodes]
        voters = tuple(rng.sample(peers, rng.choice((1, 3, min(5, len(peers))))))
        rest = [peer for peer in peers if peer not in voters]
        learners = tuple(rng.sample(rest, min(len(rest), rng.randrange(2))))
        group.call(leader, lambda machine, ctx: machine.reconfigure(ctx, voters, learners))


def _hand_over(group: Group, rng: Random) -> None:
    leader = group.leader()
    if leader is not None:
        others = [peer for peer in group.raft(leader).log.members.voters if peer != leader.peer]
        if others:
            target = rng.choice(others)
            group.call(leader, lambda machine, ctx: machine.transfer(ctx, target))


def _comes_to_life(group: Group) -> None:
    """After the storm: one leader, a fresh command committed at every member, no joint configuration."""
    world = group.world

    def members() -> list[Any]:
        leader = group.leader()
        if leader is None or group.raft(leader).log.members.is_joint:
            return []
        wanted = group.raft(leader).log.members.everybody()
        found = [node for node in group.nodes if node.peer in wanted]
        return found if all(node.alive for node in found) else []

    def is_alive() -> bool:
        leader = group.leader()
        everybody = members()
        if not everybody or leader is None or not group.raft(leader).commits_in_its_term():
            return False
        commit = group.raft(leader).commit
        return all(
            group.raft(node).leader() == leader.peer and group.raft(node).applied >= commit
            for node in everybody
        )

    end = world.now + 8.0
    while not is_alive():
        if world.now > end:
            states = [
                (node.index, raft.standing, raft.log.term, raft.commit, raft.log.last_index)
                for node in group.alive
                for raft in [group.raft(node)]
            ]
            raise Violation(f"seed {world.seed}: not alive 8 s after the storm: {states}")
        group.run(0.1)
    leader = group.leader()
    assert leader is not None
    before = group.raft(leader).commit
    leader.consensus.propose(b"\x94\xa5fresh\xa3cas\x01\x02")
    group.run(1.0)
    for node in members():
        if group.raft(node).applied <= before:
            raise Violation(f"seed {world.seed}: node {node.index} did not get a fresh command")
